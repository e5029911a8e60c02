"""What an execution asks of the process that it runs in: its output, and the secrets in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Mask(Protocol):
    """Takes secrets out of text. May be used by several threads at once."""

    def __call__(self, text: str, /) -> str:
        """The text without the secrets in it, those that came into this process's environment meanwhile, too."""
        ...

    def learn(self, environ: Mapping[str, str]) -> None:
        """Variables of another process, such as an isolated checkpoint's: the secrets among them are taken out, too."""
        ...


class ChildOutput(Protocol):
    """What comes through this process's standard output and error from child processes and C code.

    An *owner* is whoever starts a child process, anything that can be hashed: the child writes to pipes of its own.
    """

    def attach(self, sink: Callable[[str, str, object], None], whose: Callable[[], object | None]) -> None:
        """From now on ``sink`` is given stream (``stdout`` or ``stderr``), text and owner: from one thread at a time.

        The owner is what ``whose`` said where the child was started, and None where that, or who wrote, is not known.
        """
        ...

    def detach(self) -> None:
        """Nobody is told any more."""
        ...

    def drain(self, owner: object | None = None) -> None:
        """Take what nobody known and the owner's children wrote until now: when this returns, the sink has it."""
        ...

    def end(self, owner: object) -> None:
        """The same for an owner for whom nothing is started any more. Children that go on are heard all the same."""
        ...

    def lend(self, descriptors: Sequence[int]) -> dict[int, int]:
        """What to write to in place of 1 and 2 for the owner here, if there is one, and to close then."""
        ...

    def give_back(self) -> None:
        """The descriptors and streams as they were, for a process that goes on."""
        ...
