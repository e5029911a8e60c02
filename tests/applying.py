"""Short words for what tests of plan and apply say often: routes in a manifest, routes in a store, a new version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kitaru.errors import (
    KitaruManifestError,
)
from tests.repository import MANIFEST, Repository

TWO = MANIFEST + "  greeter:\n    target: flows/work.py:greeter\n    inputs: {name: Ann}\n    routes: {default: head}\n"


def routed(routes: str, more: str = "") -> str:
    return MANIFEST.replace("    routes:\n      default: head\n", f"    routes: {routes}\n") + more


def routes_of(repository: Repository, flow: str = "agent") -> dict[str, tuple[int, ...]]:
    state = repository.client().session.releases.head().flow(flow)
    assert state is not None
    return {tag: route.versions for tag, route in state.routes.items()}


def generation(repository: Repository) -> int:
    return repository.client().session.releases.head().generation


def new_version(repository: Repository, word: str) -> None:
    text = (repository.folder / "flows/work.py").read_text()
    repository.write("flows/work.py", text + f"# {word}\n")
    repository.commit(word)


def problems(repository: Repository, **given: Any) -> list[str]:
    with pytest.raises(KitaruManifestError) as refused:
        repository.plan(**given)
    return [str(problem) for problem in refused.value.problems]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
