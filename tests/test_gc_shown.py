"""What ``store gc`` says of executions: which go, what goes with them, and how many more there are."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from kitaru.cli.views.history import collected_lines
from kitaru.client import KitaruClient
from tests.repository import Repository, kitaru

TICK = timedelta(microseconds=1)


def gone(client: KitaruClient, *, delete: bool = False) -> list[str]:
    found = client.housekeeping.collect(delete=delete, executions_older_than=TICK, grace=timedelta(0))
    return collected_lines(found, "kitaru store gc --delete")


def test_executions_that_go_are_named(repository: Repository) -> None:
    """Their ids stand in the list, what goes with them beside it; done, the same is said of what was done."""
    repository.apply()
    client = repository.client()
    handles = [client.deployments.invoke("agent", {"topic": str(number)}) for number in range(2)]
    for handle in handles:
        handle.wait()
    lines = gone(client)
    assert lines[0] == "2 executions would be removed, with logs, results and idempotency keys"
    assert [line.strip() for line in lines[1:3]] == sorted(handle.exec_id for handle in handles)
    assert "Nothing was removed. To do it: kitaru store gc --delete" in lines
    done = gone(client, delete=True)
    assert done[0] == "2 executions removed, with logs, results and idempotency keys"
    assert client.executions.list() == []


def test_of_many_executions_the_first_are_named(repository: Repository) -> None:
    """A long list is cut, and says where the rest is."""
    repository.apply()
    client = repository.client()
    found = client.housekeeping.collect(grace=timedelta(0))
    many = replace(found, executions=tuple("abcdefg"), records=replace(found.records, count=28, bytes=1))
    lines = collected_lines(many, "kitaru store gc --delete")
    assert lines[1:7] == [*(f"  {one}" for one in "abcde"), "  and 2 more (-o json lists all)"]


@pytest.mark.parametrize("option", ["--older-than", "--executions-older-than"])
def test_an_age_of_nought_is_refused_by_its_option(repository: Repository, option: str) -> None:
    """Nobody means everything by 0d; the error names the option that was typed."""
    kitaru("store", "gc", option, "0d", cwd=repository.folder).refused(f"{option} 0d: expected an age", f"{option} 90d")
    kitaru("store", "gc", option, "", cwd=repository.folder).refused(f"{option} ")


def test_deletions_are_recorded_like_any_other_write(repository: Repository, own_world: Path) -> None:
    """The one whom Git names deletes versions, as the one whom Git names applies; without a repository, the login."""
    repository.apply()
    repository.change("flows/work.py", "hello", "good day")
    repository.commit()
    applied = repository.apply()
    kitaru("store", "gc", "--delete", "--yes", "--keep-versions", "1", "--grace", "0d", cwd=repository.folder).must()
    deletion, apply = repository.client().history.list(limit=2).generations
    assert (deletion.verb, deletion.by) == ("gc", apply.by)
    assert apply.by == applied.by == "Ann"
    kitaru("store", "gc", "--store", f"file://{repository.store_folder}", "--project", "research", cwd=own_world).must()


def test_the_units_of_ages_are_in_the_help() -> None:
    """Nobody has to guess whether m is a month."""
    text = " ".join(kitaru("store", "gc", "--help").must().out.replace("│", " ").split())
    assert text.count("m (minutes), h (hours), d (days) or w (weeks)") == 4
