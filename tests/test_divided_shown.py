"""Routes that versions divide, in the lists and in show; what plan says to do; what drift says to do."""

from __future__ import annotations

import json
import re
import shlex

from kitaru.cli.views.deployments import flow_rows
from tests.applying import new_version, routed
from tests.repository import FLOWS, Done, Repository, kitaru


def do(repository: Repository, *arguments: str) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def divide(repository: Repository) -> None:
    """Two versions: default is divided, canary exclusive at v2, mark on both."""
    repository.apply()
    repository.manifest(routed("{default: {1: 90, head: 10}, canary: head, mark: [1, head]}"))
    new_version(repository, "second")
    repository.apply()


def test_percents_stand_in_the_lists(repository: Repository) -> None:
    """A star still means that a version has the tag alone; a divided route says how much of it each has."""
    divide(repository)
    (_, line) = do(repository, "flow", "list").must().out.splitlines()
    assert line.split("  ")[-1].strip() == "canary* → v2; default → v1 90%, v2 10%; mark → v1, v2"
    lines = do(repository, "flow", "deployments", "list", "agent").must().out.splitlines()
    assert re.match(r"agent +1 +default 90%, mark  ", lines[1])
    assert re.match(r"agent +2 +canary\*, default 10%, mark  ", lines[2])
    (flow,) = do(repository, "flow", "list", "-o", "json").must().json["items"]
    assert flow["weights"] == {"default": {"1": 90, "2": 10}}
    listed = do(repository, "flow", "deployments", "list", "agent", "-o", "json").must().json["items"]
    assert [one["weights"] for one in listed] == [{"default": 90}, {"default": 10}]


def test_routes_go_on_below_their_flow(repository: Repository) -> None:
    """No line is wider than the terminal, and each route stands in one whole; elsewhere nothing is broken."""
    divide(repository)
    flows = repository.client().deployments.flows()
    for width in (80, 60, 40):
        lines = flow_rows(flows, "research", "file://store", width=width)
        assert max(map(len, lines)) <= width
        cells = " ".join(line[15:].strip() for line in lines[1:])
        assert cells == "canary* → v2; default → v1 90%, v2 10%; mark → v1, v2"
    assert len(flow_rows(flows, "research", "file://store")) == 2


def test_show_of_a_divided_route_shows_them_all(repository: Repository) -> None:
    """Each version in short with its share, and a command for one in full that works as it stands."""
    divide(repository)
    out = do(repository, "flow", "deployments", "show", "agent").must().out
    assert out.startswith("agent: default is divided")
    assert re.search(r"agent +1 +default 90%.*\nagent +2 .*default 10%", out)
    for line in out.splitlines()[-2:]:
        kitaru(*shlex.split(line.partition(": kitaru ")[2]), cwd=repository.folder).must()
    item = do(repository, "flow", "deployments", "show", "agent", "-o", "json").must().json["item"]
    assert (item["tag"], item["exclusive"], item["weights"]) == ("default", True, {"1": 90, "2": 10})
    assert [one["details"]["target"] for one in item["versions"]] == ["flows/work.py:agent"] * 2


def test_show_of_a_label_on_several(repository: Repository) -> None:
    """A label that several share is shown as such; a tag that nobody has is still an error."""
    divide(repository)
    out = do(repository, "flow", "deployments", "show", "agent", "--tag", "mark").must().out
    assert "mark is on several" in out
    do(repository, "flow", "deployments", "show", "agent", "--tag", "nope").refused("nope")
    do(repository, "flow", "deployments", "show", "nope").refused("no deployments")


def test_no_form_of_a_divided_route_shows_the_environment(repository: Repository) -> None:
    """What several versions hold in their environment stays where it is, as for one."""
    image = "image: {environment: {TOKEN: canary-secret}}"
    repository.manifest(routed("{default: head}", f"    {image}\n"))
    repository.commit()
    repository.apply()
    repository.manifest(routed("{default: {1: 50, head: 50}}", f"    {image}\n"))
    new_version(repository, "second")
    repository.apply()
    for form in ("text", "json"):
        assert "canary-secret" not in do(repository, "flow", "deployments", "show", "agent", "-o", form).must().said
    item = do(repository, "flow", "deployments", "show", "agent", "-o", "json").json["item"]
    assert item["versions"][0]["details"]["image"]["environment"] == {"TOKEN": "***"}


# --- what to do next --------------------------------------------------------------------------------------------------


def test_a_plan_that_may_not_be_applied_here_says_so(repository: Repository) -> None:
    """Where a protected route stands in the way, the last line does not send people to an apply that refuses."""
    repository.manifest(routed("{default: head}", "protect: {default: {branch: release}}\n"))
    repository.commit()
    last = do(repository, "plan").must().out.splitlines()[-1]
    assert last == "apply refuses this from here; from branch release: kitaru apply"
    repository.write("flows/work.py", FLOWS + "# dirty\n")
    last = do(repository, "plan", "--allow-dirty").must().out.splitlines()[-1]
    assert "from branch release and a clean commit: kitaru apply" in last
    repository.write("flows/work.py", FLOWS)
    # Nobody is asked about what is refused anyway.
    do(repository, "apply").refused("protected routes stand in the way", code=1)


def test_nothing_applied_yet_is_no_drift(repository: Repository) -> None:
    """A morning before the first apply is no failure; the sentence says where was looked, JSON has no items."""
    done = do(repository, "plan", "--drift").must()
    assert done.out.startswith("No drift: nothing was applied yet to project research in file://")
    assert "is this the place?" in done.err
    assert do(repository, "plan", "--drift", "-o", "json").must().json["count"] == 0
    assert "nothing was applied yet" in do(repository, "plan", "--drift", "-o", "markdown").must().out
    repository.apply()
    done = do(repository, "plan", "--drift").must()
    assert "is this the place?" not in done.said


def held(repository: Repository) -> list[str]:
    """A rollback holds default at v1 and the manifest wants v2: what drift says to do, as commands."""
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    do(repository, "rollback", "agent").must()
    (one,) = do(repository, "plan", "--drift", "-o", "json").must(2).json["items"]
    return [re.sub(r", then .*", "", way.partition(": ")[2]) for way in one["ways_out"]]


def test_a_held_route_can_be_kept_by_what_drift_says(repository: Repository) -> None:
    """The command writes the manifest's edit and says that it did; committed and applied, nothing has drifted."""
    keep, _ = held(repository)
    assert "kitaru.yaml says so too; commit it" in kitaru(*keep.split()[1:], cwd=repository.folder).must().out
    repository.commit()
    repository.apply()
    do(repository, "plan", "--drift").must()


def test_a_held_route_can_go_forward_by_what_drift_says(repository: Repository) -> None:
    """The other command ends the hold at what the manifest wants."""
    _, forward = held(repository)
    kitaru(*forward.split()[1:], cwd=repository.folder).must()
    repository.commit()
    do(repository, "plan", "--drift").must()


def test_the_issue_says_what_to_do(repository: Repository) -> None:
    """Every way out stands in the issue's text, with the options of the job that looked."""
    held(repository)
    text = do(repository, "plan", "--drift", "-o", "markdown", "-f", "kitaru.yaml").must(2).out
    assert "keep it there: kitaru rollback agent default --to 1 --write -f kitaru.yaml, then merge" in text
    assert "go forward: kitaru flow tag agent default --version 2 --exclusive -f kitaru.yaml" in text
    assert json.dumps(text).count("- `agent` `default`: ") == 2
