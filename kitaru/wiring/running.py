"""Stacks, processes and workers of executions."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kitaru.errors import KitaruError, KitaruStackError, KitaruUsageError
from kitaru.flows import binding
from kitaru.settings import (
    MANIFEST,
    Asked,
    Settings,
)

if TYPE_CHECKING:
    from kitaru.model.snapshot import NamedStack
    from kitaru.ports import Reporter
    from kitaru.run.output import Descriptors
    from kitaru.source.port import CodeBase
    from kitaru.stacks.port import Handle, Runner
from kitaru.wiring.settling import load_manifest


def runner_of(settings: Settings, stack: NamedStack, reporter: Reporter) -> Runner:
    """The runner of a stack. Raises ``KitaruStackError`` for a type that this release can't run."""
    spec = stack.spec
    if spec.type != "local":
        raise KitaruStackError(
            f"stack {stack.name} is of type {spec.type}, which this release can't run executions on",
            hint="--stack local runs it on this machine",
        )
    from kitaru.stacks.local import LocalRunner

    return LocalRunner(
        environment=spec.environment,
        cache=settings.cache,
        environ=settings.environ,
        report=reporter,
        extras=("s3",) if settings.store.startswith("s3:") else (),
    )


def seen_from_here(settings: Settings) -> Runner:
    """The runner that knows the workers of this machine, for a reader of executions."""
    from kitaru.stacks.local import LocalRunner

    return LocalRunner(cache=settings.cache, environ=settings.environ)


def stack_named(settings: Settings, name: str) -> NamedStack:
    """The stack ``name`` of the nearest manifest, or ``local``. Raises ``KitaruStackError`` with the known names."""
    from kitaru.model.snapshot import LocalStack, NamedStack

    declared = {}
    if settings.manifest is not None:
        asked = Asked(manifest=settings.manifest, target=settings.target)
        declared = load_manifest(asked, settings.cwd).manifest.stacks
    stacks = {"local": LocalStack(type="local"), **declared}
    if name not in stacks:
        raise KitaruStackError(
            f"there is no stack {name}; there are: {', '.join(stacks)}", hint=f"declare it under stacks: in {MANIFEST}"
        )
    return NamedStack(name=name, spec=stacks[name])


def must_run_here(settings: Settings, name: str) -> None:
    """Raise ``KitaruStackError`` for a stack that can't run source in this process."""
    stack = stack_named(settings, name)
    if stack.spec.type != "local":
        raise KitaruStackError(
            f"stack {name} is of type {stack.spec.type}, which this release can't run executions on",
            hint='stack="local" runs it in this process',
        )


def check_image(image: Any) -> None:
    """Raise ``KitaruUsageError`` for invalid image settings. A run from source does not apply them."""
    from kitaru.model.snapshot import parse_image, settings_flaws

    try:
        settings = parse_image(image)
    except (ValueError, TypeError) as error:
        raise KitaruUsageError(f"image= is neither a base image nor ImageSettings: {error}") from error
    for flaw in settings_flaws(settings):
        raise KitaruUsageError(f"image=: {flaw.member}: {flaw.expected}, found {flaw.value[:80]!r}", hint=flaw.hint)


def runner_for_snapshot(settings: Settings, snapshot: bytes, reporter: Reporter) -> Runner:
    """The runner of a snapshot's stack."""
    from kitaru.model.snapshot import Snapshot

    return runner_of(settings, Snapshot.parse(snapshot).stack, reporter)


def this_process() -> Handle:
    """This process, as a worker."""
    from kitaru.stacks.process import process_handle

    return process_handle(os.getpid())


def this_host() -> str:
    """The name of this machine in records: see ``stacks.process.this_host``."""
    from kitaru.stacks.process import this_host

    return this_host()


def leave_process(error: BaseException) -> NoReturn:
    """Print ``error``, and end this process of one execution with its children and exit code 1."""
    from kitaru.stacks.process import leave_with_children

    reason = f"error: {error.message}" if isinstance(error, KitaruError) else f"stopped: {error}"
    hint = f"\nhint: {error.hint}" if isinstance(error, KitaruError) and error.hint else ""
    print(f"{reason}{hint}", file=sys.stderr, flush=True)
    leave_with_children(1)


def prune_caches(settings: Settings, unused_for: timedelta, *, delete: bool) -> Any:
    """Find the folders of this machine's caches that were not used for so long, and ``delete`` them."""
    from kitaru.local_cache import prune

    return prune(settings.cache, unused_for, delete=delete)


def captured_descriptors() -> AbstractContextManager[Descriptors | None]:
    """This process's standard output and error, captured for the block; None if its streams do not use them."""
    from kitaru.run.output import captured_descriptors

    return captured_descriptors()


def working_code(root: Path, store_url: str) -> CodeBase:
    """The code of a run from the working tree at ``root``, without a store inside it."""
    from kitaru.source.worktree import codebase

    ignoring = [Path(store_url.removeprefix("file://"))] if store_url.startswith("file://") else []
    return codebase(root, since=binding.IMPORTED, ignoring=ignoring)
