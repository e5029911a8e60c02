"""Version numbers as callers of the SDK write them: three spellings, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.client.arguments import version_back, version_number
from kitaru.errors import KitaruUsageError
from tests.repository import Repository

WRONG = [True, False, 0, -1, 1.0, "", "v", "one", "1.0", "-1", "v-1", "²", b"1", [1], "9" * 5000]


@pytest.mark.parametrize("version", [3, "3", "v3", " v3 "])
def test_three_spellings(version: Any) -> None:
    """A number, the number as text, and as the lists print it."""
    assert version_number(version) == 3
    assert version_back(version) == 3


@pytest.mark.parametrize("version", WRONG)
def test_anything_else_is_refused(version: Any) -> None:
    """With what was expected; True is not 1, and half a version is none."""
    with pytest.raises(KitaruUsageError, match="is no version: expected a number from 1") as caught:
        version_number(version)
    assert caught.value.hint


@pytest.mark.parametrize("version", [-1, "-1"])
def test_a_rollback_takes_minus_one(version: Any) -> None:
    """The one number that is no version; nothing below it."""
    assert version_back(version) == -1
    for other in (True, 0, -2, "-2", None, 1.0):
        with pytest.raises(KitaruUsageError, match="expected a version, or -1"):
            version_back(other)


VERBS: dict[str, Callable[[KitaruClient, Any], Any]] = {
    "tag": lambda client, version: client.deployments.tag("agent", "stable", version=version),
    "untag": lambda client, version: client.deployments.untag("agent", "stable", version=version),
    "delete": lambda client, version: client.deployments.delete("agent", version=version),
    "get": lambda client, version: client.deployments.get("agent", version=version),
    "invoke": lambda client, version: client.deployments.invoke("agent", {"topic": "a"}, version=version),
    "rollback": lambda client, version: client.deployments.rollback("agent", to=version),
}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_refuses_what_is_no_version(repository: Repository, verb: str) -> None:
    """Before anything is read or written."""
    client = repository.client()
    for version in (True, "one", 1.5, 0):
        with pytest.raises(KitaruUsageError, match="expected a"):
            VERBS[verb](client, version)
    assert not repository.store_folder.exists()


def test_verbs_take_each_spelling(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow's own methods too; a tag that is no text is told so."""
    repository.apply()
    deployments = repository.client().deployments
    spelled: Any = "v1"
    assert deployments.tag("agent", "stable", version=spelled, manifest="leave").version == 1
    assert deployments.get("agent", version=spelled).version == 1
    assert not deployments.rollback("agent", to=spelled, manifest="leave").changed
    monkeypatch.chdir(repository.folder)
    monkeypatch.syspath_prepend(str(repository.folder))
    from flows.work import agent  # type: ignore[import-not-found]

    assert agent.deployment(version="1").version == 1
    assert agent.invoke(topic="a", version="v1").wait(60) == "HELLO A"
    for given in ({"version": True}, {"tag": 1}):
        with pytest.raises(KitaruUsageError, match=r"is no|expected"):
            agent.deployment(**given)
        with pytest.raises(KitaruUsageError, match=r"is no|expected"):
            agent.invoke(topic="a", **given)
