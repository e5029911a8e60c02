"""Results of earlier executions: found, offered to later ones, and explained."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import types
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from kitaru.core.cache_key import MOST_NOTED, CacheNote, Recipe, explain_miss
from kitaru.errors import KitaruError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.flow import Flow
from kitaru.flows.options import Cache
from kitaru.model import address
from kitaru.model.event import ExecutionOptions, Opened, Value
from kitaru.model.execution import CheckpointCall, Execution
from kitaru.source.port import CodeBase
from kitaru.store import hints
from kitaru.store.port import Store
from kitaru.values.digests import Exact, Inexact, Summaries


@dataclass(frozen=True, slots=True)
class CacheReport:
    """One call: ``word`` is ``hit``, ``miss``, ``off``, ``opaque`` or ``unknown``; ``why`` is a sentence for people."""

    call_id: str
    name: str
    word: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"call_id": self.call_id, "name": self.name, "word": self.word, "why": self.why}


def explain(store: Store, project: str, execution: Execution) -> list[CacheReport]:
    """The cache's work for each call. A listing and up to two reads for each distinct checkpoint."""
    names = {call.name for call in execution.checkpoints}
    records = {name: _Records(store, project, name, execution.exec_id) for name in names}
    return [
        CacheReport(call.call_id, call.name, *_report(call, execution, records[call.name]))
        for call in execution.checkpoints
    ]


class _Records:
    """The notes of an execution, and of the newest one before it, about one checkpoint."""

    def __init__(self, store: Store, project: str, name: str, exec_id: str) -> None:
        ids = [key.removesuffix(".json") for key in store.names(address.cache_records(project, name))]
        self.earlier_id = max((other for other in ids if other < exec_id), default="")
        self.own = _read(store, address.cache_record(project, name, exec_id)) if exec_id in ids else None
        earlier = address.cache_record(project, name, self.earlier_id)
        self.earlier = _read(store, earlier) if self.earlier_id else None


def _report(call: CheckpointCall, execution: Execution, records: _Records) -> tuple[str, str]:
    if call.cached_from:
        return "hit", f"computed by {call.cached_from.replace('/', ', call ', 1)}"
    if call.given_by:
        when = f" when {execution.exec_id} was opened as a replay, at {execution.created_at}"
        return "off", f"given by {call.given_by}{when}"
    if call.original_call_id:
        return "off", "its result was copied by a replay"
    noted = _calls(records.own).get(call.call_id)
    if noted is None or records.own is None:
        if not _is_on(execution.options):
            return "off", "the cache is switched off for this execution"
        return "unknown", "nothing was noted for this call"
    earlier = records.earlier["recipe"] if records.earlier else None
    calls = list(_calls(records.earlier).values())
    return noted.word, explain_miss(records.own["recipe"], noted, earlier, calls, records.earlier_id)


def _is_on(options: ExecutionOptions) -> bool:
    return options.cache if options.cache_asked is None else options.cache_asked


def _read(store: Store, key: str) -> Mapping[str, Any] | None:
    """A record, ``{"recipe": {"source": …}, "calls": […]}``; None for a damaged one: it is a hint."""
    with suppress(ValueError, TypeError, KeyError):
        content = json.loads(store.read(key) or b"")
        if isinstance(content["recipe"], dict) and _calls(content) is not None:
            return content  # type: ignore[no-any-return]
    return None


def _calls(record: Mapping[str, Any] | None) -> dict[str, CacheNote]:
    return {item["call"]: CacheNote.from_json(item) for item in record["calls"]} if record else {}


LINGER_SECONDS = 1.0
"""How long hints wait for others before they are written, so that a short run is not slowed by them."""

WRITERS = 8
"""Threads that write the rest when a run ends."""


class _Recipe:
    """A distinct checkpoint of the run. ``why``: the reason that it takes no part, empty if it does."""

    def __init__(self, recipe: Recipe, why: str) -> None:
        self.recipe = recipe
        self.why = why
        self.digest = recipe.digest
        self.guard = threading.Lock()
        self.listed: frozenset[str] | None = None
        """The digests of inputs for which there was a result when that was first asked."""
        self.noted: list[CacheNote] = []

    def note(self, call: CacheNote) -> None:
        """Keep it for ``--explain-cache``."""
        if len(self.noted) < MOST_NOTED:
            self.noted.append(call)


@dataclass(frozen=True, slots=True)
class Ticket:
    """One call that takes part in the cache: the digests of its inputs together, and of each."""

    call: str
    recipe: _Recipe
    inputs: str
    parts: Mapping[str, str]

    @property
    def key(self) -> str:
        """As the call's event records it."""
        return address.digest(f"{self.recipe.digest}\n{self.inputs}".encode())

    @property
    def is_unknown(self) -> bool:
        """Whether ``RunCache.find`` would answer None without a request."""
        return self.recipe.listed is not None and self.inputs not in self.recipe.listed

    def note(self, word: Literal["hit", "miss"]) -> None:
        """The call is a ``hit``, or a ``miss``, which is computed."""
        self.recipe.note(CacheNote(self.call, word, self.parts))


@dataclass(frozen=True, slots=True)
class Hint:
    """The call that computed a result, such as ``ex-…/3``, and the result as it is stored."""

    source: str
    output: Value
    metadata: Mapping[str, Any]


class RunCache:
    """The cache as one run sees it. Every method may be called from any thread; none raises but for the user's code."""

    def __init__(self, store: Store, opened: Opened, code: Callable[[], CodeBase], *, home: str, resumed: bool) -> None:
        """``code``: called at most once, by the first call that takes part. ``home``: the flow's module.

        ``resumed``: an earlier process made notes for this execution.
        """
        self._store = store
        self._project = opened.project
        self._exec_id = opened.exec_id
        self._options = opened.options
        self._code = functools.cache(code)
        self._home = home
        self._resumed = resumed
        self._guard = threading.Lock()
        self._known: dict[int, _Recipe] = {}
        self._origins: dict[str, bool] = {}
        self._publisher = _Publisher(store)

    def ticket(
        self,
        checkpoint: Checkpoint[..., Any],
        call: str,
        arguments: Mapping[str, Any],
        summaries: Summaries,
        *,
        answered: bool = False,
    ) -> Ticket | None:
        """The key of a call with these bound arguments; None if the call takes no part.

        ``answered``: a person has answered a question of this execution.
        """
        off = self._switched_off(checkpoint, answered=answered)
        if off and not _is_on(self._options):
            return None
        with self._guard:
            recipe = self._known.get(id(checkpoint))
            if recipe is None:
                recipe = self._known[id(checkpoint)] = (
                    _Recipe(Recipe(checkpoint.name, {}), off) if off else self._recipe(checkpoint)
                )
        if off or recipe.why:
            recipe.note(CacheNote(call, "off" if off else "opaque", why=off or recipe.why))
            return None
        parts, opaque = dict[str, str](), []
        exact = Exact(summaries)
        for name, value in arguments.items():
            try:
                parts[name] = exact.digest(value)
            except Inexact as error:
                opaque.append(f"{name}: {error}")
        if opaque:
            recipe.note(CacheNote(call, "opaque", parts, "; ".join(opaque)))
            return None
        return Ticket(call, recipe, _hashed(parts), parts)

    def _switched_off(self, checkpoint: Checkpoint[..., Any], *, answered: bool) -> str:
        """The reason that a call takes no part. The call's word wins over the checkpoint's, that over the flow's."""
        asked, own = self._options.cache_asked, checkpoint.options.cache
        if asked is not None:
            return "" if asked else "the cache is switched off for this execution"
        if own is not None:
            return f"the cache is switched off by @checkpoint(cache=False) of {checkpoint.name}" if own is False else ""
        if not self._options.cache:
            return "the cache is switched off by the flow"
        return "a person has answered, and the checkpoint does not say cache=True" if answered else ""

    def find(self, ticket: Ticket) -> Hint | None:
        """The result of an earlier execution, if one is known."""
        recipe = ticket.recipe
        with recipe.guard:
            if recipe.listed is None:
                recipe.listed = self._list(recipe.digest)
        if ticket.inputs not in recipe.listed:
            return None
        with suppress(KitaruError, ValueError, TypeError, KeyError, RecursionError):
            body = self._store.read(address.cache_hint(self._project, recipe.digest, ticket.inputs))
            content = json.loads(body or b"")
            exec_id = str(content["exec_id"])
            # A result of this very execution is another call's, and calls keep their own.
            if exec_id != self._exec_id and self._exists(exec_id):
                output, metadata = Value.from_json(content["output"]), dict(content.get("metadata") or {})
                return Hint(f"{exec_id}/{content['call']}", output, metadata)
        return None

    def _exists(self, exec_id: str) -> bool:
        """Whether an execution exists: one that was collected took its artifacts with it. One read for each, once."""
        known = self._origins.get(exec_id)
        if known is None:
            known = self._store.read(address.journal_entry(self._project, exec_id, 1)) is not None
            self._origins[exec_id] = known
        return known

    def publish(self, ticket: Ticket, output: Value, metadata: Mapping[str, Any]) -> None:
        """Offer a result, and its metadata, to later executions. Its event must be durable."""
        content = {"exec_id": self._exec_id, "call": ticket.call, "output": output.to_json()}
        if metadata:
            content["metadata"] = dict(metadata)
        body = json.dumps(content, separators=(",", ":")).encode()  # in the result's own order of keys
        self._publisher.add(address.cache_hint(self._project, ticket.recipe.digest, ticket.inputs), body)

    def close(self) -> None:
        """Write the rest in the background; only the interpreter's end waits for it."""
        for known in list(self._known.values()):
            if known.noted:
                key = address.cache_record(self._project, known.recipe.name, self._exec_id)
                content = {"recipe": dict(known.recipe.parts), "calls": [noted.to_json() for noted in known.noted]}
                self._publisher.add(key, address.canonical_json(content), merges=self._resumed)
        self._publisher.close()

    def _recipe(self, checkpoint: Checkpoint[..., Any]) -> _Recipe:
        code = self._code()
        options = checkpoint.options
        parts, flaws = dict(code.parts), dict(code.flaws)
        parts["options"] = _hashed({"serializer": options.serializer})
        version = options.cache.version if isinstance(options.cache, Cache) else None
        if version is not None:
            parts["source"] = f"version {version}"
            flaws.pop("source", None)
        try:
            function = _Closures(self._home, code if version is None else None)
            parts["function"] = _hashed(function.described(checkpoint.func))
        except Inexact as error:
            flaws["function"] = str(error)
        except RecursionError:
            flaws["function"] = "its closure contains itself"
        return _Recipe(Recipe(checkpoint.name, parts), "; ".join(flaws.values()))

    def _list(self, recipe: str) -> frozenset[str]:
        try:
            return frozenset(self._store.names(address.cache_hints(self._project, recipe)))
        except KitaruError:
            return frozenset()


class _Closures(Exact):
    """Functions as JSON: name, place in the source, and defaults and closure by value."""

    def __init__(self, home: str, code: CodeBase | None) -> None:
        """``home``: the module that a script and a worker name differently. ``code`` None: a version stands in."""
        super().__init__(Summaries(home))
        self._code = code

    def described(self, value: Any) -> Any:
        """As ``Exact``, and functions, classes and modules, too."""
        if isinstance(value, (Checkpoint, Flow)):
            return self.described(value.func)
        if isinstance(value, types.FunctionType):
            return ["function", self._place(value), self._captured(value)]
        if isinstance(value, types.MethodType):
            return ["method", self.described(value.__func__), self.described(value.__self__)]
        if isinstance(value, functools.partial):
            return ["partial", *map(self.described, (value.func, list(value.args), dict(value.keywords)))]
        if isinstance(value, functools._lru_cache_wrapper):
            return self.described(value.__wrapped__)
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType | None):
            return ["builtin", value.__module__, value.__qualname__]
        if isinstance(value, type):
            if "<locals>" in value.__qualname__:
                raise Inexact(f"the class {value.__qualname__} is made in a function")
            return ["class", "" if value.__module__ == self.home else value.__module__, value.__qualname__]
        return super().described(value)

    def _captured(self, func: types.FunctionType) -> dict[str, Any]:
        captured = {}
        code = func.__code__
        try:
            given = func.__defaults__ or ()
            names = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
            for name, value in [*zip(names, given, strict=True), *(func.__kwdefaults__ or {}).items()]:
                captured[f"{name}="] = self.described(value)
            for name, cell in zip(code.co_freevars, func.__closure__ or (), strict=True):
                captured[name] = ["itself"] if cell.cell_contents is func else self.described(cell.cell_contents)
        except Inexact as error:
            raise Inexact(f"{name} of {func.__qualname__}: {error}") from None
        except ValueError:
            raise Inexact(f"{func.__qualname__} uses {name} before it is set") from None
        return captured

    def _place(self, func: types.FunctionType) -> list[Any]:
        """Its name, and the place in the source that tells it from others of that name."""
        code = func.__code__
        if self._code is None:
            return [func.__qualname__]
        if not self._code.covers(code.co_filename):
            raise Inexact(f"{func.__qualname__} comes from no file of the source ({code.co_filename})")
        where = f"{code.co_names}{code.co_code.hex()}{list(code.co_positions())}"
        module = "" if func.__module__ == self.home else func.__module__
        return [module, func.__qualname__, hashlib.sha256(where.encode()).hexdigest()]


def _hashed(content: Any) -> str:
    return address.digest(address.canonical_json(content))


class _Publisher:
    """Writes hints, some time after they came: on a thread that is no daemon, so that a short script leaves its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._queue: deque[tuple[str, bytes, bool]] = deque()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, key: str, body: bytes, *, merges: bool = False) -> None:
        self._queue.append((key, body, merges))
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="kitaru-cache", daemon=False)
                self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def _write(self) -> None:
        while not self._closed.wait(LINGER_SECONDS):
            self._drain()
        drains = [
            threading.Thread(target=self._drain, name="kitaru-cache", daemon=False)
            for _ in range(min(WRITERS - 1, len(self._queue) // 16))
        ]
        for thread in drains:
            thread.start()
        self._drain()

    def _drain(self) -> None:
        with suppress(IndexError):  # the queue is empty
            while True:
                key, body, merges = self._queue.popleft()
                with suppress(KitaruError, OSError):
                    hints.write(self._store, key, self._merged(key, body) if merges else body, durable=False)

    def _merged(self, key: str, body: bytes) -> bytes:
        """The notes of a resumed execution are kept with those of before it stopped."""
        with suppress(ValueError, TypeError, KeyError):
            before = self._store.read(key)
            if before is not None:
                now, earlier = json.loads(body), json.loads(before)
                calls = {call["call"]: call for call in (*earlier["calls"], *now["calls"])}
                return address.canonical_json({**now, "calls": list(calls.values())[:MOST_NOTED]})
        return body
