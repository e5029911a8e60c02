"""What a run and the child process of an isolated checkpoint say to each other over their private socket."""

from __future__ import annotations

import pickle
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kitaru.core.codecs import decode, encode
from kitaru.core.typed_json import type_name
from kitaru.engine.failures import failure_of
from kitaru.errors import KitaruValueError
from kitaru.model.event import Value

MAIN_ALIAS = "__kitaru_main__"
"""The name under which the child runs a script, so that ``if __name__ == "__main__"`` does not."""

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A value on its way: in its stored form, or pickled where it has none."""

    value: dict[str, Any] | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint is found: module, its file, name in it; ``spec`` where it was started with ``python -m``."""

    module: str
    file: str | None
    name: str
    spec: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """The first word: what to call. ``path``: the parent's PYTHONPATH; ``sys_path``: where it imports from."""

    place: Place
    path: list[str]
    sys_path: list[str]
    argv: list[str]
    args: list[Parcel]
    kwargs: dict[str, Parcel]
    serializer: str | None


@dataclass(frozen=True, slots=True)
class Note:
    """The child asks for ``log``, ``save`` or ``load``; the answer is a ``Returned`` or a ``Failed``."""

    verb: str
    args: list[Parcel]


@dataclass(frozen=True, slots=True)
class Returned:
    """It went well."""

    result: Parcel


@dataclass(frozen=True, slots=True)
class Failed:
    """It raised: the exception itself where it can be pickled, and as text."""

    pickled: bytes | None
    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """What can be told of an exception."""
        failure = failure_of(error)
        body = None
        with suppress(Exception):
            body = pickle.dumps(error)
            pickle.loads(body)
        return cls(body if isinstance(error, Exception) else None, failure.type, failure.message, failure.traceback)


def pack(value: Any, subject: str, serializer: str | None = None) -> Parcel:
    """A value for the other side. ``KitaruValueError`` where it has neither a stored form nor a pickle."""
    try:
        encoded = encode(value, subject=subject, serializer=serializer, inline_limit=-1)
        return Parcel(encoded.value.to_json(), encoded.body)
    except KitaruValueError:
        with suppress(Exception):
            return Parcel(None, pickle.dumps(value))
        raise KitaruValueError(
            f"{subject} is a {type_name(type(value))}, which has no form that another process could read",
            hint='Pass what it is made from instead, or leave out runtime="isolated".',
        ) from None


def unpack(parcel: Parcel, home: str) -> Any:
    """The value again; ``home`` is the module of the checkpoint."""
    if parcel.value is None:
        return pickle.loads(parcel.body)
    return decode(Value.from_json(parcel.value), parcel.body, subject="a value of an isolated checkpoint", home=home)


def send(link: socket.socket, message: Any) -> None:
    """One message."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    link.sendall(_LENGTH.pack(len(body)))
    link.sendall(body)


def receive(link: socket.socket) -> Any:
    """The next message; None where the other side is gone."""
    head = _read(link, _LENGTH.size)
    body = _read(link, _LENGTH.unpack(head)[0]) if head is not None else None
    return pickle.loads(body) if body is not None else None


def _read(link: socket.socket, size: int) -> bytearray | None:
    body = bytearray(size)
    view, done = memoryview(body), 0
    while done < size:
        count = link.recv_into(view[done:])
        if not count:
            return None
        done += count
    return body
