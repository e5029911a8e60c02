"""Where Python starts processes: each is given the output of whoever starts it, instead of this process's own.

Descriptors are one process's, so what a child writes to those that it inherits does not tell who started it. While a
``Lender`` is put on, ``subprocess``, and asyncio, which starts its processes by way of it, ``os.system``, forks, and
``multiprocessing`` with whichever start method hand on descriptors that it lends for that one child. What the caller
says of its own accord, a file or a pipe, is left alone. C code starts unseen what it starts.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar, Protocol

OUTPUT = (1, 2)
"""Standard output and error."""

PLACES = {1: 4, 2: 5}
"""Descriptor → its place among the arguments of ``Popen``."""

NAMES = {1: "stdout", 2: "stderr"}
LENT = "_kitaru_output"
"""The attribute of a ``multiprocessing`` process that takes its output with it while it is started."""


class Lender(Protocol):
    """Who has descriptors for children that are started here."""

    def lend(self, descriptors: Iterable[int]) -> dict[int, int]:
        """For each of 1 and 2 that is wanted: what the child is to have in its place, which the caller closes.

        One that the child is to inherit as it is, is left out.
        """
        ...

    def become(self, lent: Mapping[int, int]) -> None:
        """In a process that was forked: take what was lent to it, and let go of what is its parent's."""
        ...


class _Now:
    """What is put on in this process."""

    lender: Lender | None = None
    finder: Any = None
    wrapped: ClassVar[list[tuple[Any, str, Any, Any]]] = []
    """Class or module and name of a function, as it was, and the one in its place."""


class _Forking(threading.local):
    """What was lent to the process that this thread forks."""

    lent: Mapping[int, int] = {}


_forking = _Forking()


def put_on(lender: Lender) -> None:
    """From now on ``lender`` is asked whenever a process is started."""
    take_off()
    _Now.lender = lender
    _Now.finder = _OnImport()
    sys.meta_path.insert(0, _Now.finder)
    for name, wrap in WRAPS.items():
        module = sys.modules.get(name)
        if module is not None:
            wrap(module)


def take_off() -> None:
    """Processes are started as before."""
    _Now.lender = None
    with suppress(ValueError):
        sys.meta_path.remove(_Now.finder)
    while _Now.wrapped:
        owner, name, before, ours = _Now.wrapped.pop()
        if getattr(owner, name) is ours:  # somebody else may have replaced it since; theirs stays
            setattr(owner, name, before)


class _OnImport:
    """Sees to modules that the program loads later: to load them all the same would make every start slower."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """What the other finders find, arranged so that our part follows once the module is there."""
        wrap = WRAPS.get(name)
        if wrap is None:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                _follow(spec, wrap)
                return spec
        return None


def _follow(spec: ModuleSpec, wrap: Callable[[ModuleType], None]) -> None:
    loader: Any = spec.loader
    if not hasattr(loader, "exec_module"):
        return
    execute = loader.exec_module

    def execute_and_wrap(module: ModuleType) -> None:
        loader.__dict__.pop("exec_module", None)
        execute(module)
        if _Now.lender is not None:
            wrap(module)

    with suppress(AttributeError):  # a loader that takes no attributes
        loader.exec_module = execute_and_wrap


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    if owner is None or any(known[:2] == (owner, name) for known in _Now.wrapped):
        return  # another thread is importing it just now
    before = getattr(owner, name)
    ours = functools.wraps(before)(make(before))
    setattr(owner, name, ours)
    _Now.wrapped.append((owner, name, before, ours))


def _close(lent: Mapping[int, int]) -> None:
    for descriptor in lent.values():
        os.close(descriptor)


# --- subprocess, asyncio ----------------------------------------------------------------------------------------------


def _wrap_subprocess(module: ModuleType) -> None:
    _replace(getattr(module, "Popen", None), "__init__", _starting)


def _starting(start: Callable[..., None]) -> Callable[..., None]:
    def start_with_output(process: Any, *args: Any, **kwargs: Any) -> None:
        wanted = {own: leads for own in OUTPUT if (leads := _leads_to(own, args, kwargs))}
        lender = _Now.lender
        lent = lender.lend(set(wanted.values())) if lender is not None and wanted else {}
        if not lent:
            return start(process, *args, **kwargs)
        given = list(args)
        for own, leads in wanted.items():
            if leads not in lent:
                continue
            if len(given) > PLACES[own]:
                given[PLACES[own]] = lent[leads]
            else:
                kwargs[NAMES[own]] = lent[leads]
        try:
            start(process, *given, **kwargs)
        finally:
            _close(lent)

    return start_with_output


def _leads_to(own: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """Which of this process's own descriptors the child is to have there: 1, 2; None where it is something else."""
    said = args[PLACES[own]] if len(args) > PLACES[own] else kwargs.get(NAMES[own])
    if said is None:
        return own
    if not isinstance(said, int):
        try:
            said = said.fileno()
        except Exception:  # whatever it is: Popen has its own words for it
            return None
    return said if said in OUTPUT else None


# --- os.system --------------------------------------------------------------------------------------------------------


def _wrap_os(module: ModuleType) -> None:
    _replace(module, "system", _commanding)


def _commanding(system: Callable[[Any], int]) -> Callable[[Any], int]:
    def system_with_output(command: Any) -> int:
        lender = _Now.lender
        lent = lender.lend(OUTPUT) if lender is not None else {}
        if not lent:
            return system(command)
        sys.audit("os.system", command)
        try:
            redirected = [(os.POSIX_SPAWN_DUP2, instead, own) for own, instead in lent.items()]
            process = os.posix_spawn("/bin/sh", ("sh", "-c", command), os.environ, file_actions=redirected)
        finally:
            _close(lent)
        try:
            return os.waitpid(process, 0)[1]
        except ChildProcessError:  # somebody else has waited for it: the C function says no more than this either
            return -1

    return system_with_output


# --- fork -------------------------------------------------------------------------------------------------------------


def _before_fork() -> None:
    lender = _Now.lender
    _forking.lent = lender.lend(OUTPUT) if lender is not None else {}


def _after_in_parent() -> None:
    lent, _forking.lent = _forking.lent, {}
    _close(lent)


def _after_in_child() -> None:
    lent, _forking.lent = _forking.lent, {}
    lender, _Now.lender = _Now.lender, None
    if lender is not None:
        lender.become(lent)
    _close(lent)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


# --- multiprocessing that does not fork -------------------------------------------------------------------------------


def _wrap_multiprocessing(module: ModuleType) -> None:
    _replace(getattr(module, "BaseProcess", None), "start", _launching)


def _launching(start: Callable[..., Any]) -> Callable[..., Any]:
    def start_with_output(process: Any, *args: Any, **kwargs: Any) -> Any:
        lender = _Now.lender
        if lender is None:
            return start(process, *args, **kwargs)
        parcel, rest = _Parcel(lender), dict(process.__dict__)
        process.__dict__.clear()
        process.__dict__.update({LENT: parcel, **rest})  # unpacked first: modules print when they are imported there
        try:
            return start(process, *args, **kwargs)
        finally:
            process.__dict__.pop(LENT, None)
            parcel.close()

    return start_with_output


class _Parcel:
    """Goes with a process to a new interpreter, and redirects its output when it is unpacked there.

    A process that is forked takes it along unpacked: it has its output by then.
    """

    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self._lent: dict[int, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing.context import get_spawning_popen  # slow to load; it is there when this is called
        from multiprocessing.reduction import DupFd

        if get_spawning_popen() is None:
            return list, ()
        self._lent = self._lent or self._lender.lend(OUTPUT)
        acts = []
        for own, lent in self._lent.items():
            # The standard library alone: another interpreter may not have Kitaru.
            arrived = _Once(operator.methodcaller("detach"), DupFd(lent))
            acts += [_Once(os.dup2, arrived, own), _Once(os.close, arrived)]
        return list, (acts,)

    def close(self) -> None:
        """What was lent is handed over, or nobody wanted it."""
        lent, self._lent = self._lent, {}
        _close(lent)


class _Once:
    """A call that is made when this is unpacked."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


WRAPS: dict[str, Callable[[ModuleType], None]] = {
    "os": _wrap_os,
    "subprocess": _wrap_subprocess,
    "multiprocessing.process": _wrap_multiprocessing,
}
"""Module → our part in it."""
