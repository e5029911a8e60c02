"""The client that runs a flow object, without an import of it."""

from __future__ import annotations

import time

TYPE_CHECKING = False  # as typing's, whose import takes longer than all of `import kitaru`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IMPORTED = time.time()
"""When this process began to import Kitaru: a newer file of the project may not be the imported one."""

_factory: list[Callable[[], Any]] = []


def provide(factory: Callable[[], Any]) -> None:
    """Say how a client is made. Done once, by the package itself."""
    _factory[:] = [factory]


def connect() -> Any:
    """A client for this process's settings, made anew."""
    return _factory[0]()
