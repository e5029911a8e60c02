"""The messages between a run and the child process of an isolated checkpoint, over their private socket."""

from __future__ import annotations

import io
import pickle
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kitaru.errors import KitaruValueError
from kitaru.model.event import Value
from kitaru.run.failures import failure_of
from kitaru.values.codec import decode, encode
from kitaru.values.typed_json import type_name

MAIN_ALIAS = "__kitaru_main__"
"""The name under which the child runs a script, so that ``if __name__ == "__main__"`` does not."""

LEARN = "learn"
"""The verb of a note that tells of a variable that the child sets: it may be a secret, and is kept out of the logs."""

LARGE = 1 << 20
"""Bytes from which a value's bytes travel beside their message, not within it: held once."""

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A value on its way: in its stored form, or pickled if it has none."""

    value: dict[str, Any] | None
    body: bytes

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A large body is not copied: ``send`` writes it."""
        large = len(self.body) > LARGE and protocol >= 5
        return Parcel, (self.value, pickle.PickleBuffer(self.body) if large else self.body)


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a checkpoint: module, its file, name in it; ``spec`` if it was started with ``python -m``."""

    module: str
    file: str | None
    name: str
    spec: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """The first message: the call. ``path``: the parent's PYTHONPATH; ``sys_path``: its import path."""

    place: Place
    path: list[str]
    sys_path: list[str]
    project: list[str]
    """The root of the source, and the folders in it to import from; empty outside of one."""
    argv: list[str]
    args: list[Parcel]
    kwargs: dict[str, Parcel]
    serializer: str | None


@dataclass(frozen=True, slots=True)
class Note:
    """The child asks for ``log``, ``save``, ``load`` or ``LEARN``; the answer is a ``Returned`` or a ``Failed``."""

    verb: str
    args: list[Parcel]


@dataclass(frozen=True, slots=True)
class Returned:
    """It went well."""

    result: Parcel


@dataclass(frozen=True, slots=True)
class Failed:
    """It raised: the exception itself if it can be pickled, and as text."""

    pickled: bytes | None
    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """The message for an exception."""
        failure = failure_of(error)
        body = None
        with suppress(Exception):
            body = pickle.dumps(error)
            pickle.loads(body)
        kept = body if isinstance(error, (Exception, SystemExit, GeneratorExit)) else None
        return cls(kept, failure.type, failure.message, failure.traceback)


def pack(value: Any, subject: str, serializer: str | None = None) -> Parcel:
    """A value for the other side. ``KitaruValueError`` if it has neither a stored form nor a pickle."""
    try:
        encoded = encode(value, subject=subject, serializer=serializer, inline_limit=-1)
        return Parcel(encoded.value.to_json(), bytes(encoded.body))
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
    """One message: how many parts it has, how long each is, and the parts. The first is the message, without
    the large bodies of the others.
    """
    beside: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=beside.append)
    parts = [memoryview(body), *(one.raw() for one in beside)]
    link.sendall(b"".join(_LENGTH.pack(number) for number in (len(parts), *(len(part) for part in parts))))
    for part in parts:
        link.sendall(part)


def receive(link: socket.socket) -> Any:
    """The next message; None if the other side is gone."""
    with link.makefile("rb", buffering=0) as raw:
        # A buffer of one byte: it reads to the end of what was asked for, into the result itself, and never beyond.
        reader = io.BufferedReader(raw, 1)
        head = _read(reader, _LENGTH.size)
        lengths = _read(reader, _LENGTH.size * _LENGTH.unpack(head)[0]) if head is not None else None
        parts = []
        for (length,) in _LENGTH.iter_unpack(lengths or b""):
            part = _read(reader, length)
            if part is None:
                return None
            parts.append(part)
        return pickle.loads(parts[0], buffers=parts[1:]) if parts else None


def _read(reader: io.BufferedReader[socket.SocketIO], size: int) -> bytes | None:
    body = reader.read(size)
    return body if len(body) == size else None
