"""Kitaru: durable Python flows, deployed declaratively from Git.

Names are loaded when they are first used: ``import kitaru`` costs next to nothing.
"""

from __future__ import annotations

import importlib

from kitaru._version import __version__ as __version__
from kitaru.flows import binding

TYPE_CHECKING = False  # as typing's, whose import takes longer than all of this
if TYPE_CHECKING:
    from typing import Any

    from kitaru.client import KitaruClient as KitaruClient
    from kitaru.client import configure as configure
    from kitaru.client.handle import FlowHandle as FlowHandle
    from kitaru.errors import KitaruBackendError as KitaruBackendError
    from kitaru.errors import KitaruCancelledError as KitaruCancelledError
    from kitaru.errors import KitaruConflictError as KitaruConflictError
    from kitaru.errors import KitaruContextError as KitaruContextError
    from kitaru.errors import KitaruDivergenceError as KitaruDivergenceError
    from kitaru.errors import KitaruError as KitaruError
    from kitaru.errors import KitaruExecutionError as KitaruExecutionError
    from kitaru.errors import KitaruFeatureNotAvailableError as KitaruFeatureNotAvailableError
    from kitaru.errors import KitaruInputError as KitaruInputError
    from kitaru.errors import KitaruIntegrityError as KitaruIntegrityError
    from kitaru.errors import KitaruLogRetrievalError as KitaruLogRetrievalError
    from kitaru.errors import KitaruManifestError as KitaruManifestError
    from kitaru.errors import KitaruRuntimeError as KitaruRuntimeError
    from kitaru.errors import KitaruSelectorError as KitaruSelectorError
    from kitaru.errors import KitaruSourceError as KitaruSourceError
    from kitaru.errors import KitaruStackError as KitaruStackError
    from kitaru.errors import KitaruStateError as KitaruStateError
    from kitaru.errors import KitaruStoreError as KitaruStoreError
    from kitaru.errors import KitaruStoreFormatError as KitaruStoreFormatError
    from kitaru.errors import KitaruTimeoutError as KitaruTimeoutError
    from kitaru.errors import KitaruUsageError as KitaruUsageError
    from kitaru.errors import KitaruUserCodeError as KitaruUserCodeError
    from kitaru.errors import KitaruValueError as KitaruValueError
    from kitaru.errors import KitaruWaitValidationError as KitaruWaitValidationError
    from kitaru.flows.checkpoint import Checkpoint as Checkpoint
    from kitaru.flows.checkpoint import checkpoint as checkpoint
    from kitaru.flows.flow import Flow as Flow
    from kitaru.flows.flow import flow as flow
    from kitaru.flows.future import CheckpointFuture as CheckpointFuture
    from kitaru.flows.options import Cache as Cache
    from kitaru.flows.options import Retry as Retry
    from kitaru.flows.scope import load as load
    from kitaru.flows.scope import log as log
    from kitaru.flows.scope import save as save
    from kitaru.flows.waiting import wait as wait
    from kitaru.model.snapshot import ImageSettings as ImageSettings

_HOMES = {
    "kitaru.client": "KitaruClient configure",
    "kitaru.client.handle": "FlowHandle",
    "kitaru.flows.checkpoint": "Checkpoint checkpoint",
    "kitaru.flows.flow": "Flow flow",
    "kitaru.flows.future": "CheckpointFuture",
    "kitaru.flows.scope": "load log save",
    "kitaru.flows.options": "Cache Retry",
    "kitaru.flows.waiting": "wait",
    "kitaru.model.snapshot": "ImageSettings",
    "kitaru.errors": """
        KitaruBackendError KitaruCancelledError KitaruConflictError KitaruContextError KitaruDivergenceError
        KitaruError KitaruExecutionError KitaruFeatureNotAvailableError KitaruInputError KitaruIntegrityError
        KitaruLogRetrievalError KitaruManifestError KitaruRuntimeError KitaruSelectorError KitaruSourceError
        KitaruStackError KitaruStateError KitaruStoreError KitaruStoreFormatError KitaruTimeoutError
        KitaruUsageError KitaruUserCodeError KitaruValueError KitaruWaitValidationError
    """,
}
"""Module → its names that are loaded when they are first used."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kitaru' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _client() -> KitaruClient:
    from kitaru.client import KitaruClient

    return KitaruClient()


binding.provide(_client)
