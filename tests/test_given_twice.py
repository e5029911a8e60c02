"""Options that are given twice: the last one counts, as in every tool, so that a wrapper may give defaults."""

from __future__ import annotations

import json
from pathlib import Path

from tests.repository import Repository, kitaru


def test_the_last_option_counts(repository: Repository, own_world: Path) -> None:
    """Of a route, of a store, of the output, and of an override for one name."""
    repository.apply()
    words = ("--tag", "nope", "--tag", "default", "--store", f"file://{own_world}/elsewhere")
    own = ("--store", f"file://{repository.store_folder}")
    done = kitaru("invoke", "agent", "--input", '{"topic": "tea"}', "--wait", *words, *own, cwd=repository.folder)
    assert done.must().out.strip() == "HELLO TEA"
    exec_id = kitaru("executions", "list", "-o", "json", cwd=repository.folder).json["items"][0]["exec_id"]
    both = ("--override", "checkpoint.collect=1", "--override", 'checkpoint.collect="a"')
    given = ("executions", "replay", exec_id, "--from", "write", "--dry-run", *both, "-o", "text", "-o", "json")
    plan = json.loads(kitaru(*given, cwd=repository.folder).must().out)["item"]
    assert [call["action"] for call in plan["calls"]] == ["override", "rerun"]
