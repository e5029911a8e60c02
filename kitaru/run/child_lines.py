"""What child processes print, put together to lines, and filed under the attempt that started them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kitaru.run.capture import OutputScope


class ChildLines:
    """Files lines for one run. Whoever is not known is taken for the one attempt that is under way, where there is one
    and no more; else for the flow body.
    """

    def __init__(self, body: OutputScope, ours: Callable[[object], OutputScope | None]) -> None:
        """``ours`` says which attempt, or flow body, of this run an owner is: None where it is of an earlier one."""
        self._body = body
        self._ours = ours
        self._attempts: list[OutputScope] = []
        self._begun: dict[tuple[object, str], str] = {}

    def begin(self, attempt: OutputScope) -> None:
        """An attempt is under way."""
        self._attempts.append(attempt)

    def end(self, attempt: OutputScope) -> None:
        """It is over. A line that it began is noted, and so is one of nobody known where it was alone."""
        self._flush(attempt)
        if self._attempts == [attempt]:
            self._flush(None)
        if attempt in self._attempts:
            self._attempts.remove(attempt)

    def take(self, stream: str, text: str, owner: object) -> None:
        """Note what is complete of this; the rest is kept for what follows."""
        key = owner, stream
        lines, rest = split(self._begun.pop(key, "") + text)
        scope = self._scope(owner)
        for line in lines:
            scope.note(stream, line)
        if rest:
            self._begun[key] = rest

    def close(self) -> None:
        """Note every line that was begun."""
        for owner, _ in list(self._begun):
            self._flush(owner)

    def _flush(self, owner: object) -> None:
        for key in [one for one in self._begun if one[0] is owner]:
            self._scope(owner).note(key[1], self._begun.pop(key).rstrip("\r"))

    def _scope(self, owner: object) -> OutputScope:
        if owner is not None:
            return self._ours(owner) or self._body
        return self._attempts[0] if len(self._attempts) == 1 else self._body


def split(text: str) -> tuple[list[str], str]:
    """The complete lines, and what is begun; of what a carriage return wrote over, as progress bars do, the last."""
    *lines, rest = text.split("\n")
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines], _last_written(rest)


def _last_written(rest: str) -> str:
    body = rest.rstrip("\r")
    return body.rpartition("\r")[2] + ("\r" if body != rest else "")
