"""Plan and apply over real Git, a real store and real imports: quiet or with reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.applying import everything, routes_of
from tests.repository import FLOWS, MANIFEST, Repository, Watched

# --- a quiet plan ----------------------------------------------------------------------------------------------------


def test_a_first_apply_makes_version_1_and_default(repository: Repository) -> None:
    """On an empty store the flow gets v1 and its routes, in generation 1."""
    done = repository.apply()
    assert (done.changed, done.generation, done.by) == (True, 1, "Ann")
    assert routes_of(repository) == {"default": (1,)}


def test_a_plan_after_an_apply_is_empty(repository: Repository) -> None:
    """What was applied is not planned again, and applying it again writes nothing."""
    repository.apply()
    before = everything(repository.store_folder)
    plan = repository.plan()
    assert (plan.is_empty, plan.builds, plan.moves) == (True, (), ())
    again = repository.apply()
    assert (again.changed, again.generation) == (False, 1)
    assert everything(repository.store_folder) == before


def test_a_plan_is_empty_for_everybody(
    repository: Repository, own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another person, clone, folder, home, cache and configuration of Git, and a later commit of the same content."""
    repository.apply()
    theirs = repository.clone(own_world / "another place" / "ünïcode")
    home = own_world / "bob"
    home.mkdir()
    (home / "gitconfig").write_text("[core]\n\tautocrlf = input\n\tquotepath = true\n[user]\n\tname = Bob\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
    monkeypatch.setenv("KITARU_HOME", str(home / "kitaru"))
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    theirs.write("README.md", "not in the source")
    theirs.commit("docs")
    (theirs.folder / "flows/work.py").touch()
    assert theirs.client(store=f"file://{repository.store_folder}").plan().is_empty


def test_a_plan_writes_nothing(repository: Repository) -> None:
    """Planning on an empty store leaves it empty, and its folder unmade."""
    plan = repository.plan()
    assert not plan.is_empty
    assert not repository.store_folder.exists()


def test_a_quiet_plan_costs_three_reads(repository: Repository) -> None:
    """At one flow and at fifty a plan with nothing to do makes at most three reads, no write and no listing."""
    repository.apply()
    assert requests_of_plan(repository) == (3, 0, 0)
    names = [f"flow_{number}" for number in range(50)]
    code = "from kitaru import flow\n" + "".join(
        f"@flow\ndef {name}(x: int = 0) -> int:\n    return x\n" for name in names
    )
    repository.write("flows/many.py", code)
    flows = "".join(f"  {name}:\n    target: flows/many.py:{name}\n    routes: {{default: 1}}\n" for name in names)
    repository.manifest(MANIFEST + flows)
    repository.commit()
    repository.apply()
    assert requests_of_plan(repository) == (3, 0, 0)


def requests_of_plan(repository: Repository) -> tuple[int, int, int]:
    seen: list[Watched] = []
    client = repository.client(wrap=lambda store: seen.append(Watched(store)) or seen[0])
    assert client.plan().is_empty
    return seen[0].count("read"), seen[0].count("create", "overwrite", "remove"), seen[0].count("names")


# --- reasons ---------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_named(repository: Repository) -> None:
    """The plan says which files changed, came and went; flows of other sources are left alone."""
    other = "  greeter:\n    target: other.py:greeter\n    source: {include: [other.py]}\n    routes: {default: head}\n"
    repository.write("other.py", FLOWS)
    repository.write("flows/old.py", "x = 1\n")
    repository.manifest(MANIFEST + other)
    repository.commit()
    repository.apply()
    repository.change("flows/work.py", "hello", "good day")
    repository.write("flows/new.py", "y = 1\n")
    (repository.folder / "flows/old.py").unlink()
    repository.commit()
    plan = repository.plan()
    assert [flow for flow, _ in plan.builds] == ["agent"]
    ((_, build),) = plan.builds
    (change,) = build.changes
    assert change.text == "source: 1 file changed, 1 added, 1 removed"
    assert change.details == ("~ flows/work.py", "+ flows/new.py", "- flows/old.py")
    assert (build.version, build.previous) == (2, 1)


def test_only_changed_sources_are_moved(repository: Repository) -> None:
    """After a change in one source, apply uploads one archive: that of the flows that hold the file."""
    other = "  greeter:\n    target: other.py:greeter\n    source: {include: [other.py]}\n    routes: {default: head}\n"
    repository.write("other.py", FLOWS)
    repository.manifest(MANIFEST + other)
    repository.commit()
    repository.apply()
    repository.change("other.py", "hello", "good day")
    repository.commit()
    seen: list[Watched] = []
    repository.apply(wrap=lambda store: seen.append(Watched(store)) or seen[0])
    archives = [key for verb, key in seen[0].calls if verb == "create" and key.endswith(".tar.zst")]
    assert len(archives) == 1
    assert routes_of(repository) == {"default": (1,)}
    assert routes_of(repository, "greeter") == {"default": (2,)}


@pytest.mark.parametrize(
    ("signature", "text", "breaking"),
    [
        ("topic: str, depth: int = 1", "depth added, optional (integer)", False),
        ("topic: str, depth: int", "depth added, required (integer)", True),
        ("subject: str", "topic removed", True),
        ("topic: str | None", "topic: string → string | null", False),
    ],
)
def test_input_differences_are_labelled(repository: Repository, signature: str, text: str, breaking: bool) -> None:
    """From one committed signature to the next, each difference says whether it breaks callers."""
    repository.apply()
    repository.change("flows/work.py", "def agent(topic: str)", f"def agent({signature})")
    repository.commit()
    ((_, build),) = repository.plan().builds
    assert (text, breaking) in [(change.text, change.breaking) for change in build.changes]


def test_options_and_image_are_reasons_too(repository: Repository) -> None:
    """A manifest that says something else of a flow makes a new version with its reason, without any file changed."""
    repository.apply()
    repository.manifest(MANIFEST.replace("    routes:", "    retries: 2\n    image: python:3.12\n    routes:"))
    repository.commit()
    ((_, build),) = repository.plan().builds
    assert [change.text for change in build.changes] == [
        "image.base_image: unset → python:3.12",
        "options.retries: 0 → 2",
    ]


def test_no_plan_shows_a_value_of_the_environment(repository: Repository, tmp_path: Path) -> None:
    """Variables may be secrets: their values stand in no text, JSON or Markdown of a plan, before or after."""
    from kitaru.cli.views.plan import plan_lines, plan_markdown

    image = "    image: {{environment: {{TOKEN: {}}}}}\n    routes:"
    repository.manifest(MANIFEST.replace("    routes:", image.format("canary-one")))
    repository.commit()
    first = repository.plan()
    repository.apply()
    repository.manifest(MANIFEST.replace("    routes:", image.format("canary-two")))
    repository.commit()
    for plan in (first, repository.plan()):
        assert not plan.is_empty
        shown = "\n".join(plan_lines(plan, all_files=True)) + plan_markdown(plan)
        assert "canary-" not in shown
