"""The operations of a client, one table: the command line, and later HTTP and MCP, are checked against it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kitaru.errors import (
    KitaruConflictError,
    KitaruError,
    KitaruExecutionError,
    KitaruInputError,
    KitaruIntegrityError,
    KitaruManifestError,
    KitaruSelectorError,
    KitaruSourceError,
    KitaruStackError,
    KitaruStateError,
    KitaruStoreError,
    KitaruTimeoutError,
    KitaruUsageError,
    KitaruWaitValidationError,
)

Errors = tuple[type[KitaruError], ...]

USAGE: Errors = (KitaruUsageError,)
MANIFEST: Errors = (KitaruManifestError, KitaruSourceError, KitaruUsageError)
ROUTE: Errors = (KitaruManifestError, KitaruSelectorError, KitaruStateError, KitaruUsageError)


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb of the client, and the command that is its face.

    ``method`` is its path in ``KitaruClient``; ``summary`` the first sentence of the command's help. ``arguments``: the
    method's parameters → their names on the command line: ``{"flow": "FLOW", "version": "--version"}``; an empty name
    is one that the command line does not offer. ``shown`` are options that concern the terminal alone. ``result`` is
    the type that the method returns, ``item`` the keys of the command's JSON.
    """

    method: str
    command: str
    summary: str
    arguments: dict[str, str]
    result: str
    errors: Errors = USAGE
    shown: tuple[str, ...] = ()
    item: tuple[str, ...] = ()
    listed: bool = False
    writes: bool = False
    exits: tuple[int, ...] = field(default=())

    @property
    def exit_codes(self) -> frozenset[int]:
        """The exit codes that the command can have, but for defects and interruptions: ``{0, 1, 2}``."""
        return frozenset({0, *self.exits, *(error.exit_code for error in self.errors)})


def names(text: str) -> dict[str, str]:
    """``"flow=FLOW version confirm="`` as a mapping: a bare ``version`` is ``--version``.

    Several options of one parameter are joined by ``+``: ``"limit=--limit+--all"``.
    """
    pairs = (pair.partition("=") for pair in text.split())
    return {name: option if equals else f"--{name.replace('_', '-')}" for name, equals, option in pairs}


def keys(text: str) -> tuple[str, ...]:
    """``"flow version"`` as a tuple."""
    return tuple(text.split())


MOVED = keys(
    "flow tag before after exclusive changed generation version held hold_ended converted skipped rolled_back manifest"
)
RELEASED = keys("flow target version generation tags moves dirty notes manifest")
DEPLOYED = keys(
    "flow version tags snapshot created_at by commit_sha commit_dirty weights target stack input_schema details"
)
STARTED = keys("exec_id flow version tag reused status")
PLACE = "manifest=--manifest-only+--no-manifest message"

# fmt: off
OPERATIONS = (
    Operation(
        "validate", "validate", "Check the manifest, its targets and their inputs.", {}, "Checked", MANIFEST,
        item=keys("project flows warnings"),
    ),
    Operation(
        "plan", "plan", "Show the changes that apply would make, and why.",
        names("flows=FLOW prune force allow_dirty ignoring="), "Plan", MANIFEST,
        shown=keys("--out --files --detailed-exitcode --drift"), exits=(1, 2),
    ),
    Operation(
        "apply", "apply", "Build new versions, then switch every route at once.",
        names("flows=FLOW|PLAN plan= saved= prune force allow_dirty message ignoring="), "Applied",
        (*MANIFEST, KitaruConflictError, KitaruIntegrityError, KitaruStateError), shown=keys("--yes --reviewed"),
        item=keys("generation changed by plan"), writes=True,
    ),
    Operation(
        "import_flows", "import", "Declare flows and routes that only the store has.", names("flows=FLOW dry_run"),
        "Imported", (*MANIFEST, KitaruSelectorError), item=keys("path written flows diff warnings notes"), writes=True,
    ),
    Operation(
        "deployments.release", "deploy", "Make a new version of a flow, and lead one tag to it.",
        names(f"target=TARGET inputs=--input tag exclusive image stack {PLACE} confirm=--yes"), "Released",
        (*MANIFEST, KitaruInputError, KitaruStateError), item=RELEASED, writes=True,
    ),
    Operation(
        "deployments.build", "build", "Make a new version of a flow that no tag leads to.",
        names(f"target=TARGET inputs=--input image stack {PLACE}"), "Deployment",
        (*MANIFEST, KitaruInputError, KitaruStateError), item=RELEASED, writes=True,
    ),
    Operation(
        "deployments.tag", "flow tag", "Lead a tag to a version.",
        names(f"flow=FLOW tag=TAG version exclusive {PLACE} confirm=--yes"), "Rerouted", ROUTE, item=MOVED, writes=True,
    ),
    Operation(
        "deployments.untag", "flow untag", "Take a tag off a version, or remove the route.",
        names(f"flow=FLOW tag=TAG version {PLACE}"), "Rerouted", ROUTE, item=MOVED, writes=True,
    ),
    Operation(
        "deployments.promote", "promote", "Lead a tag to the version that another tag leads to.",
        names(f"flow=FLOW source=FROM to {PLACE} confirm=--yes"), "Rerouted", ROUTE, item=MOVED, writes=True,
    ),
    Operation(
        "deployments.rollback", "rollback", "Lead a route back at once, and hold it there.",
        names(f"flow=FLOW tag=TAG to write {PLACE}"), "Rerouted", ROUTE, item=MOVED, writes=True,
    ),
    Operation(
        "deployments.delete", "flow deployments delete", "Delete a version that no exclusive tag leads to.",
        names("flow=FLOW version manifest=--no-manifest message confirm=--yes"), "Rerouted", ROUTE,
        item=keys("flow version labels_lost generation manifest"), writes=True,
    ),
    Operation(
        "deployments.flows", "flow list", "List the project's flows and their routes.", {}, "list[FlowSummary]",
        item=keys("flow latest routes exclusive managed weights"), listed=True,
    ),
    Operation(
        "deployments.list", "flow deployments list", "List the versions of a flow; * marks exclusive tags.",
        names("flow=FLOW"), "list[Deployment]", (KitaruSelectorError,), item=DEPLOYED[:-2], listed=True,
    ),
    Operation(
        "deployments.get", "flow deployments show", "Show one version: its source, image, inputs and tags.",
        names("flow=FLOW tag version"), "Deployment", (KitaruSelectorError, KitaruUsageError),
    ),
    Operation(
        "deployments.invoke", "invoke", "Run a released version, by flow name and route.",
        names("flow=FLOW inputs=--input tag version stack cache=--no-cache idempotency_key"), "FlowHandle",
        (KitaruConflictError, KitaruExecutionError, KitaruInputError, KitaruSelectorError, KitaruStackError,
         KitaruTimeoutError), shown=keys("--wait --follow --timeout"), item=STARTED, writes=True,
    ),
    Operation(
        "executions.run", "run", "Run a flow from source, here and now.",
        names("flow=TARGET inputs=--input stack retries cache=--no-cache image="), "FlowHandle",
        (KitaruExecutionError, KitaruInputError, KitaruSourceError, KitaruStackError), writes=True,
    ),
    Operation(
        "executions.list", "executions list", "List executions, newest first.",
        names("flow status tag version since until limit"), "list[Execution]", listed=True,
    ),
    Operation(
        "executions.get", "executions get", "Show one execution.", names("exec_id=EXEC_ID"), "Execution",
        shown=keys("--html --explain-cache"),
    ),
    Operation(
        "executions.logs", "executions logs", "Print the output and the log of an execution.",
        names("exec_id=EXEC_ID follow checkpoint limit"), "Iterator[LogLine]", (KitaruStateError, KitaruUsageError),
        shown=keys("--grouped --verbose"),
    ),
    Operation(
        "executions.retry", "executions retry", "Try a failed execution again; finished checkpoints are kept.",
        names("exec_id=EXEC_ID flow="), "FlowHandle", (KitaruExecutionError, KitaruSourceError, KitaruStateError),
        shown=keys("--wait --timeout"), writes=True,
    ),
    Operation(
        "executions.resume", "executions resume", "Go on with one that has no runner; finished checkpoints are kept.",
        names("exec_id=EXEC_ID flow="), "FlowHandle", (KitaruExecutionError, KitaruSourceError, KitaruStateError),
        shown=keys("--wait --timeout"), writes=True,
    ),
    Operation(
        "executions.input", "executions input", "Answer a wait.",
        names("exec_id=EXEC_ID wait value=--value+--abort+--interactive resume flow="), "FlowHandle",
        (KitaruConflictError, KitaruStateError, KitaruUsageError, KitaruWaitValidationError), writes=True,
    ),
    Operation(
        "executions.cancel", "executions cancel", "Cancel an execution.", names("exec_id=EXEC_ID"), "Execution",
        (KitaruStateError, KitaruUsageError), writes=True,
    ),
    Operation(
        "executions.replay", "executions replay", "Run one again from a checkpoint on, as a new execution.",
        names("exec_id=EXEC_ID from_=--from args overrides=--override version tag flow="), "FlowHandle",
        (KitaruExecutionError, KitaruInputError, KitaruSelectorError, KitaruWaitValidationError),
        shown=keys("--dry-run --wait --timeout"), writes=True,
    ),
    Operation(
        "history.list", "history", "Show the changes of the store: actor, time, commit.",
        names("flow=FLOW limit=--limit+--all"), "HistoryPage", (KitaruSelectorError,), listed=True, exits=(1,),
    ),
    Operation(
        "history.blame", "blame", "Show the commit of an execution, and the move that led to it.",
        names("exec_id=EXEC_ID"), "Blame",
    ),
    Operation(
        "history.diff", "diff", "Show how two versions of a flow differ.", names("flow=FLOW before=A after=B full"),
        "Difference", (KitaruIntegrityError, KitaruSelectorError),
    ),
    Operation(
        "history.verify", "store verify", "Check that the history was not changed.", names("deep expect"), "Verified",
        exits=(1,),
    ),
    Operation(
        "housekeeping.collect", "store gc", "Find garbage in the store, and remove it with --delete.",
        names("delete keep_versions older_than executions_older_than grace"), "Collected",
        shown=keys("--yes --local --unused-for"), writes=True,
    ),
    Operation(
        "housekeeping.copy", "store copy", "Copy the project to another store, and verify the copy.", names("to=TO"),
        "Copied", (KitaruStoreError,), shown=keys("FROM"), exits=(1,), writes=True,
    ),
)
# fmt: on
"""Every operation, in the order of the command line's help."""
