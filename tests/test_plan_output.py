"""A plan as it is shown: short enough for a comment, no name more than a name, and no value of the environment."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kitaru.cli import ci
from kitaru.cli.views.plan import plan_lines, plan_markdown
from kitaru.core.protection import protect_words
from kitaru.model.lockfile import Protect
from kitaru.model.plan import Build, Change, Consequence, FlowPlan, Plan, RouteMove
from kitaru.model.route import Assignment, Protection
from kitaru.model.snapshot import Commit, ImageSettings, LocalStack, NamedStack, Snapshot
from tests.repository import MANIFEST, Done, Repository, kitaru

COMMENT_LIMIT = 65_536


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def ruled(flows: int, *, busy: int = 0) -> Plan:
    """A plan in which a rule of the manifest comes to bind all these flows; ``busy`` of them change otherwise, too."""
    rule = Protection(branch="main")
    names = [f"flow_{number}" for number in range(flows)]
    edits = [Protect(kind="protect", flow=name, rules={"stable": rule}) for name in names]
    left = [("v2 is built and left unrouted: no route of the manifest leads to it",)] * busy + [()] * (flows - busy)
    moves = (RouteMove(tag="default", after=(Assignment(version=2, snapshot="2" * 64),)),)
    return Plan(
        project="research",
        store="file:///store",
        base=1,
        base_entry="1" * 64,
        manifest="1" * 64,
        commit=Commit(sha="1" * 40, branch="feature"),
        tree="1" * 40,
        flows=tuple(
            FlowPlan(
                flow=name,
                action="update",
                version=1,
                moves=moves if own else (),
                unmanaged=("canary at v1",) if name == "flow_1" else (),
                notes=(*own, *protect_words(edit)),
            )
            for name, edit, own in zip(names, edits, left, strict=True)
        ),
        guards=tuple(f"{name}: route stable moves only from branch main" for name in names),
        edits=tuple(edits),
    )


@pytest.mark.parametrize("render", [plan_lines, lambda plan: plan_markdown(plan).splitlines()], ids=["text", "md"])
def test_equal_changes_of_many_flows_are_shown_once(render: Callable[[Plan], list[str]]) -> None:
    """A thousand flows that come to be bound by one rule are one entry, and so is the reason that holds them all."""
    lines = render(ruled(1000))
    assert len(lines) < 30
    assert sum("stable is protected from now on: branch main, clean commit" in line for line in lines) == 2
    held = "flow_0, flow_1, flow_2 and 997 more: route stable moves only from branch main"
    assert sum(held.replace("_", r"\_") in line or held in line for line in lines) == 1
    alone = render(ruled(1))
    assert any("flow_0" in line for line in alone)
    assert sum("stable is protected from now on" in line for line in alone) == 1


def test_a_flow_with_changes_of_its_own_stays_alone() -> None:
    """Flows that change otherwise, too, are entries of their own; labels left alone are still shown."""
    lines = plan_lines(ruled(6, busy=2))
    titles = [line for line in lines if line.startswith("  ~ ")]
    assert len(titles) == 3 and titles[-1].startswith("  ~ 4 flows: flow_2, flow_3, flow_4 and 1 more")
    assert sum("left unrouted" in line for line in lines) == 2
    assert sum("unmanaged: canary at v1" in line for line in lines) == 1


HOSTILE = (
    "<script>alert(1)</script>",
    "@everyone",
    "| a | b |",
    "</details>",
    "```",
    "`x`",
    "a\nb",
    "<!-- -->",
    "[click](http://x)",
)


def large_plan(flows: int, files: int) -> Plan:
    """A plan of many flows with long and hostile words wherever a person or a file name can put them."""
    stack = NamedStack(name="local", spec=LocalStack(type="local"))
    planned = []
    for number in range(flows):
        bad = HOSTILE[number % len(HOSTILE)]
        name = f"flow_{number}_{'x' * 80}"
        snapshot = Snapshot(
            flow=name,
            target=f"{bad}.py:flow",
            source="1" * 64,
            stack=stack,
            image=ImageSettings(environment={"TOKEN": "canary-secret"}),
        )
        changes = (
            Change(subject="input_schema", text=f"{bad} removed", breaking=True),
            Change(subject="source", text="source: files", details=tuple(f"~ {bad}/{n}.py" for n in range(files))),
        )
        move = RouteMove(
            tag="default",
            before=(Assignment(version=1, snapshot="1" * 64),),
            after=(Assignment(version=2, snapshot="2" * 64),),
            reason="the manifest says so",
            moved_at="2026-11-21T23:13:18.000000Z",
            moved_by=bad,
        )
        planned.append(
            FlowPlan(
                flow=name,
                action="update",
                version=2,
                build=Build(version=2, snapshot_digest=snapshot.digest, snapshot=snapshot, previous=1, changes=changes),
                moves=(move,),
                consequences=(
                    Consequence(kind="breaking_inputs", text=f"breaks callers: {bad}", severe=True, reached=(2,)),
                    Consequence(kind="renamed", text=f"callers of {bad}", severe=True),
                ),
                unmanaged=(f"{bad} at v1",),
                notes=(bad,),
            )
        )
    return Plan(
        project="research",
        store="file:///store",
        base=1,
        base_entry="e" * 64,
        manifest="m" * 64,
        commit=Commit(sha="c" * 40, branch="feature/`x`|<b>", dirty=True),
        tree="t" * 40,
        flows=tuple(planned),
        unmanaged=HOSTILE,
        warnings=HOSTILE,
        guards=HOSTILE,
    )


@pytest.mark.parametrize(("flows", "files"), [(1, 1), (3, 2000), (500, 3), (500, 400), (3000, 0)])
def test_a_comment_fits(flows: int, files: int) -> None:
    """Under GitHub's limit at any number of flows and files, and it says when something had to go."""
    text = plan_markdown(large_plan(flows, files))
    assert len(text) < COMMENT_LIMIT
    assert text.startswith("<!-- kitaru plan")
    assert text.rstrip().endswith("</sub>")
    assert flows < 500 or re.search(r"\d+ flows? more", text)


def with_breaking(flows: int, breaking: Callable[[int], bool], length: int = 4) -> Plan:
    """A plan of so many updates; some of them break the callers of their routes."""
    plan = large_plan(flows, 3)
    told = []
    for number, flow in enumerate(plan.flows):
        kept = flow.consequences[:1] if breaking(number) else ()
        name = f"f{number:0{length - 1}}"
        told.append(flow.model_copy(update={"flow": name, "consequences": kept, "notes": (), "unmanaged": ()}))
    return plan.model_copy(update={"flows": tuple(told), "guards": (), "warnings": ()})


def test_every_flow_that_breaks_its_callers_is_named() -> None:
    """At 300 of them, each name is in the comment, however few have a line, a row or a section of their own."""
    plan = with_breaking(300, lambda _number: True)
    text = plan_markdown(plan)
    assert len(text) < COMMENT_LIMIT
    assert f"**300 flows break their callers**: {', '.join(f'`f{number:03}`' for number in range(300))}\n" in text
    few = plan_markdown(with_breaking(300, lambda number: number < 3))
    assert "flows break their callers**" not in few
    assert few.count("> :warning: **breaking**") == 3


def test_names_that_do_not_fit_are_counted() -> None:
    """Where the names alone are too much, the first ones are there, how many more, and where to see these."""
    text = plan_markdown(with_breaking(3000, lambda _number: True, length=40))
    assert len(text) < COMMENT_LIMIT
    (line,) = [line for line in text.splitlines() if "flows break their callers" in line]
    assert line.startswith(f"> :warning: **3000 flows break their callers**: `f{0:039}`, `f{1:039}`, ")
    shown = line.count("`f")
    assert shown > 300
    assert line.endswith(f" and {3000 - shown} more; `kitaru plan` shows all of it")


def test_the_gravest_come_first() -> None:
    """The one flow that breaks its callers, last in the manifest, has the first line, the first row, the first section.

    A removal comes after it, and before flows that only change.
    """
    plan = with_breaking(400, lambda number: number == 399)
    flows = [*plan.flows[:-2], plan.flows[-2].model_copy(update={"action": "retire", "build": None}), plan.flows[-1]]
    text = plan_markdown(plan.model_copy(update={"flows": tuple(flows)}))
    assert re.findall(r"^\| `(f\d+)`", text, re.MULTILINE)[:3] == ["f399", "f398", "f000"]
    assert re.findall(r"<summary><b>(f\d+|\d+ flows)</b>", text)[:3] == ["f399", "f398", "45 flows"]
    assert "> :warning: **breaking** `f399`" in text


ON_GITHUB = {
    "GITHUB_SERVER_URL": "https://github.example.org",
    "GITHUB_REPOSITORY": "acme/research",
    "GITHUB_RUN_ID": "4711",
}


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        (ON_GITHUB, "https://github.example.org/acme/research/actions/runs/4711"),
        ({"CI_JOB_URL": "https://gitlab.example.org/j/5"}, "https://gitlab.example.org/j/5"),
        (
            {"CI_JOB_URL": "https://gitlab.example.org/j/5", "CI_PIPELINE_URL": "https://gitlab.example.org/p/4"},
            "https://gitlab.example.org/p/4",
        ),
        ({**ON_GITHUB, "GITHUB_RUN_ID": ""}, ""),
        ({**ON_GITHUB, "GITHUB_SERVER_URL": "javascript:x"}, ""),
        ({"CI_JOB_URL": "https://x.org/) [click](http://y"}, ""),
        ({}, ""),
    ],
)
def test_what_was_cut_is_one_click_away(environ: dict[str, str], url: str) -> None:
    """The pointer to the full plan is a link to the run, where CI says which; it speaks of no file that may not be."""
    assert ci.run_url(environ) == url
    text = plan_markdown(large_plan(500, 3), ci.run_url(environ))
    assert (f" in the log of [this run]({url})._" in text) == bool(url)
    assert ("`kitaru plan` shows all of it" in text) == (not url)
    assert "--out" not in text


def test_the_link_is_in_what_people_read(
    repository: Repository, own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan of many flows printed in a job, and its summary, lead to the run of that job."""
    flows = "".join(
        f"  agent{number:03}_{'x' * 60}:\n    target: flows/work.py:agent\n    routes: {{default: head}}\n"
        for number in range(300)
    )
    repository.manifest(MANIFEST + flows)
    repository.commit()
    summary = own_world / "summary.md"
    for name, value in {**ON_GITHUB, "GITHUB_STEP_SUMMARY": str(summary)}.items():
        monkeypatch.setenv(name, value)
    done = do(repository, "plan", "-o", "markdown").must()
    assert "[this run](https://github.example.org/acme/research/actions/runs/4711)" in done.out
    assert summary.read_text().strip() == done.out.strip()


@pytest.mark.parametrize(("flows", "files"), [(len(HOSTILE), 3), (500, 3)])
def test_hostile_names_stay_names(flows: int, files: int) -> None:
    """No name opens a tag, a mention, a fence, a comment or a table cell; what folds away folds at its own place."""
    outside, inside = fenced(plan_markdown(large_plan(flows, files)))
    text = "\n".join(outside)
    assert "<script" not in text
    assert "@everyone" not in text
    assert text.count("<details>") == text.count("</details>") > 0
    assert text.count("<!--") == 1
    tables = [line for line in outside if line.startswith("| `flow_")]
    assert tables
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {6}
    assert not re.search(r"(?<!\\)\]\(", text)
    assert inside
    assert {line.strip()[:2] for line in inside} == {"! "}


def fenced(text: str) -> tuple[list[str], list[str]]:
    """The lines outside of code blocks, and those inside; a block that never ends is a failure."""
    lines: tuple[list[str], list[str]] = ([], [])
    within = False
    for line in text.splitlines():
        if line.strip() in ("```diff", "```"):
            assert (line.strip() == "```diff") != within
            within = not within
        else:
            lines[within].append(line)
    assert not within
    return lines


def test_no_output_of_a_plan_shows_the_environment() -> None:
    """Text and Markdown of a plan that holds a secret value show only that there is something."""
    plan = large_plan(3, 3)
    assert "canary-secret" not in plan_markdown(plan)
    assert "canary-secret" not in "\n".join(plan_lines(plan, all_files=True))


def test_no_json_of_a_plan_shows_the_environment(repository: Repository) -> None:
    """-o json goes to logs of CI: it has no value of an environment variable either."""
    image = "    image: {environment: {TOKEN: canary-secret}}\n    routes:"
    repository.manifest(MANIFEST.replace("    routes:", image))
    repository.commit()
    for form in ("text", "json", "markdown"):
        done = do(repository, "plan", "-o", form).must()
        assert "canary-secret" not in done.said
    done = do(repository, "apply", "--yes", "-o", "json").must()
    assert "canary-secret" not in done.said
    repository.manifest(MANIFEST.replace("    routes:", image.replace("canary-secret", "canary-other")))
    repository.commit()
    for form in ("text", "json", "markdown"):
        assert "canary-" not in do(repository, "plan", "-o", form).must().said


def test_markdown_of_a_real_plan(repository: Repository, own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-o markdown prints the comment alone, and CI's job summary gets the same."""
    summary = own_world / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = do(repository, "plan", "-o", "markdown").must()
    assert done.out.startswith("<!-- kitaru plan research -->\n### Kitaru plan: `research`")
    assert summary.read_text().strip() == done.out.strip()
    do(repository, "plan", "-o", "yaml").refused("is not one of 'text', 'json', 'markdown'")


def test_the_gravest_are_next_to_the_summary() -> None:
    """On a terminal the flow that breaks its callers is the last one shown, and the last line names it."""
    lines = plan_lines(with_breaking(300, lambda number: number == 250))
    assert [line.split()[1] for line in lines if line.startswith("  ~ f")][-1] == "f250"
    assert lines[-1].endswith(" 1 flow breaks its callers: f250.")
    many = plan_lines(with_breaking(300, lambda number: number % 2 == 0))[-1]
    assert many.endswith(" 150 flows break their callers: f000, f002, f004 and 147 more.")
    assert "callers" not in plan_lines(with_breaking(3, lambda _number: False))[-1]


def test_equal_warnings_of_many_flows_are_one_line() -> None:
    """A consequence that many flows share is one line, and the severe ones come first."""
    plan = ruled(300)
    shut = Consequence(kind="protected", text="stable moves only from branch main", severe=False, routes=("stable",))
    gone = Consequence(kind="renamed", text="callers meet another name", severe=True)
    flows = tuple(flow.model_copy(update={"consequences": (shut, gone)}) for flow in plan.flows)
    lines = plan_markdown(plan.model_copy(update={"flows": flows})).splitlines()
    remarks = [line for line in lines if line.startswith("> ")]
    assert remarks[0] == "> :warning: `flow_0`, `flow_1`, `flow_2` and 297 more: callers meet another name"
    assert remarks[1] == "> `flow_0`, `flow_1`, `flow_2` and 297 more: stable moves only from branch main"
