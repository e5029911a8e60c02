"""What a caller holds of a running execution."""

from __future__ import annotations

from typing import Protocol, TypeVar

Result_co = TypeVar("Result_co", covariant=True)


class Handle(Protocol[Result_co]):
    """A running execution, as ``.run()`` and ``.invoke()`` return it. The client's ``FlowHandle`` is one."""

    @property
    def exec_id(self) -> str:
        """The execution's id."""
        ...

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``waiting``, ``completed``, ``failed`` or ``cancelled``, looked up at each
        access.
        """
        ...

    def wait(self, timeout: float | None = None) -> Result_co:
        """Block until it ends; the flow's result. ``KitaruExecutionError`` where it failed."""
        ...

    def cancel(self) -> None:
        """Cancel it; returns when that is recorded. ``KitaruStateError`` where it has ended before."""
        ...

    def get(self) -> Result_co:
        """The result of a finished execution. ``KitaruStateError`` while it runs."""
        ...
