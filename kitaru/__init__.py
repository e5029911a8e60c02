"""Kitaru: durable Python flows, deployed declaratively from Git.

Names are loaded when they are first used: ``import kitaru`` costs next to nothing.
"""

from __future__ import annotations

import importlib

from kitaru._version import __version__
from kitaru.flows import binding

TYPE_CHECKING = False  # as typing's, whose import takes longer than all of this
if TYPE_CHECKING:
    from typing import Any

    from kitaru.client import KitaruClient, configure
    from kitaru.client.handle import FlowHandle
    from kitaru.errors import (
        KitaruBackendError,
        KitaruCancelledError,
        KitaruConflictError,
        KitaruContextError,
        KitaruDivergenceError,
        KitaruError,
        KitaruExecutionError,
        KitaruFeatureNotAvailableError,
        KitaruInputError,
        KitaruIntegrityError,
        KitaruLogRetrievalError,
        KitaruManifestError,
        KitaruRuntimeError,
        KitaruSelectorError,
        KitaruSourceError,
        KitaruStackError,
        KitaruStateError,
        KitaruStoreError,
        KitaruStoreFormatError,
        KitaruTimeoutError,
        KitaruUsageError,
        KitaruUserCodeError,
        KitaruValueError,
        KitaruWaitValidationError,
    )
    from kitaru.flows.checkpoint import Checkpoint, checkpoint
    from kitaru.flows.flow import Flow, flow
    from kitaru.flows.future import CheckpointFuture
    from kitaru.flows.options import Cache, Retry
    from kitaru.flows.scope import load, log, save
    from kitaru.flows.waiting import wait
    from kitaru.model.snapshot import ImageSettings

__all__ = [
    "Cache",
    "Checkpoint",
    "CheckpointFuture",
    "Flow",
    "FlowHandle",
    "ImageSettings",
    "KitaruBackendError",
    "KitaruCancelledError",
    "KitaruClient",
    "KitaruConflictError",
    "KitaruContextError",
    "KitaruDivergenceError",
    "KitaruError",
    "KitaruExecutionError",
    "KitaruFeatureNotAvailableError",
    "KitaruInputError",
    "KitaruIntegrityError",
    "KitaruLogRetrievalError",
    "KitaruManifestError",
    "KitaruRuntimeError",
    "KitaruSelectorError",
    "KitaruSourceError",
    "KitaruStackError",
    "KitaruStateError",
    "KitaruStoreError",
    "KitaruStoreFormatError",
    "KitaruTimeoutError",
    "KitaruUsageError",
    "KitaruUserCodeError",
    "KitaruValueError",
    "KitaruWaitValidationError",
    "Retry",
    "__version__",
    "checkpoint",
    "configure",
    "flow",
    "load",
    "log",
    "save",
    "wait",
]

_HOMES = {
    "Cache": "kitaru.flows.options",
    "Checkpoint": "kitaru.flows.checkpoint",
    "CheckpointFuture": "kitaru.flows.future",
    "Flow": "kitaru.flows.flow",
    "FlowHandle": "kitaru.client.handle",
    "ImageSettings": "kitaru.model.snapshot",
    "KitaruClient": "kitaru.client",
    "Retry": "kitaru.flows.options",
    "checkpoint": "kitaru.flows.checkpoint",
    "configure": "kitaru.client",
    "flow": "kitaru.flows.flow",
    "wait": "kitaru.flows.waiting",
    "load": "kitaru.flows.scope",
    "log": "kitaru.flows.scope",
    "save": "kitaru.flows.scope",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kitaru' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "kitaru.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _client() -> KitaruClient:
    from kitaru.client import KitaruClient

    return KitaruClient()


binding.provide(_client)
