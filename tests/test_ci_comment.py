"""One comment on a pull request, and one issue, are kept up to date: ours, never another's, never two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kitaru.ci.http import TRIES
from kitaru.client import ci
from kitaru.errors import KitaruBackendError, KitaruUsageError
from tests.ci_servers import BOT, PERSON, TOKEN, GitHubState, GitLabState, github, gitlab
from tests.repository import Repository, kitaru

MARK = "<!-- kitaru plan research -->"
BODY = f"{MARK}\nfirst"


@pytest.fixture
def hub() -> Iterator[GitHubState]:
    with github() as state:
        yield state


@pytest.fixture
def lab() -> Iterator[GitLabState]:
    with gitlab() as state:
        yield state


def bodies(hub: GitHubState) -> list[str]:
    return [one["body"] for one in hub.comments]


def test_a_comment_is_created_then_updated_then_left_alone(hub: GitHubState) -> None:
    """The first plan makes a comment, the next changes it, and the same plan again writes nothing."""
    assert ci.comment(BODY, 5, hub.environ()).action == "created"
    assert ci.comment(f"{MARK}\nsecond", 5, hub.environ()).action == "updated"
    writes = hub.server.count("PATCH") + hub.server.count("POST")
    assert ci.comment(f"{MARK}\nsecond", 5, hub.environ()).action == "unchanged"
    assert hub.server.count("PATCH") + hub.server.count("POST") == writes
    assert bodies(hub) == [f"{MARK}\nsecond"]


def test_our_comment_is_found_on_a_later_page(hub: GitHubState) -> None:
    """However many comments stand before ours, no second one is made."""
    for number in range(7):
        hub.add_comment(f"remark {number}", PERSON)
    hub.add_comment(BODY, BOT)
    hub.add_comment("after", PERSON)
    assert ci.comment(f"{MARK}\nsecond", 5, hub.environ()).action == "updated"
    assert bodies(hub)[7] == f"{MARK}\nsecond"
    assert len(hub.comments) == 9


def test_somebody_elses_comment_is_never_touched(hub: GitHubState) -> None:
    """A comment with our first line that a person wrote is not ours: it stays as it is, and ours is made."""
    hub.add_comment(f"{MARK}\nlooks good, merge it", PERSON)
    assert ci.comment(BODY, 5, hub.environ()).action == "created"
    assert bodies(hub) == [f"{MARK}\nlooks good, merge it", BODY]


def test_another_projects_comment_is_another_comment(hub: GitHubState) -> None:
    """Two manifests in one repository have a comment each."""
    ci.comment(BODY, 5, hub.environ())
    ci.comment("<!-- kitaru plan other -->\nfirst", 5, hub.environ())
    assert len(hub.comments) == 2


def test_doubles_of_ours_are_removed(hub: GitHubState) -> None:
    """Where two of ours are there, one is left, and it says the newest."""
    hub.add_comment(BODY, BOT)
    hub.add_comment(f"{MARK}\nother", BOT)
    ci.comment(f"{MARK}\nnew", 5, hub.environ())
    assert bodies(hub) == [f"{MARK}\nnew"]


def test_a_lost_reply_makes_no_second_comment(hub: GitHubState) -> None:
    """The comment landed and its answer was lost: it is found, and not made again."""
    hub.server.faults["POST"] = ["lost"]
    assert ci.comment(BODY, 5, hub.environ()).action == "unchanged"
    assert bodies(hub) == [BODY]


def test_a_server_in_trouble_is_asked_again(hub: GitHubState) -> None:
    """An answer of 502 or 429 to a read is tried again, to the last try; then it is an error in words."""
    hub.server.faults["GET"] = ["502", "429"]
    assert ci.comment(BODY, 5, hub.environ()).action == "created"
    hub.server.faults["GET"] = ["502"] * TRIES
    with pytest.raises(KitaruBackendError, match=r"GitHub answered 502 to GET .*/comments: not now"):
        ci.comment(BODY, 5, hub.environ())


def test_a_refusal_names_the_permission_and_not_the_token(hub: GitHubState) -> None:
    """403 is said with what to check; the token is in no message."""
    hub.server.faults["POST"] = ["403"]
    hub.server.faults["GET"] = []
    with pytest.raises(KitaruBackendError) as refused:
        ci.comment(BODY, 5, hub.environ())
    assert "answered 403" in refused.value.message
    assert "permissions" in refused.value.hint
    assert TOKEN not in str(refused.value)
    assert hub.comments == []


def test_a_long_text_is_cut_to_what_a_comment_takes(hub: GitHubState) -> None:
    """GitHub takes 65,536 characters; what is cut is said, and the first line stays."""
    ci.comment(f"{MARK}\n" + "line\n" * 40_000, 5, hub.environ())
    (body,) = bodies(hub)
    assert len(body) <= 65_536
    assert body.startswith(MARK)
    assert "Cut" in body[-60:]


def test_a_text_without_a_marker_is_refused(hub: GitHubState) -> None:
    """A text that could never be found again is not posted."""
    for text in ("", "hello", "\n\nhello <!-- x -->"):
        with pytest.raises(KitaruUsageError, match="first line is an HTML comment"):
            ci.comment(text, 5, hub.environ())
    assert hub.comments == []


def test_the_pull_request_is_the_jobs_own(
    hub: GitHubState, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command takes the number from the event, renders a saved plan, and says what became of the comment."""
    event = repository.folder.parent / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 5}}))
    plan = repository.folder.parent / "plan.json"
    kitaru("plan", "--out", plan, cwd=repository.folder).must()
    for name, value in hub.environ(GITHUB_EVENT_PATH=str(event)).items():
        monkeypatch.setenv(name, value)
    assert "comment created" in kitaru("ci", "comment", plan, cwd=repository.folder).must().out
    assert bodies(hub)[0].startswith(MARK)
    assert "agent" in bodies(hub)[0]
    event.write_text("{}")
    kitaru("ci", "comment", plan, cwd=repository.folder).refused("for no pull request", "--number N")


def test_outside_a_job_it_is_said(own_world: Path) -> None:
    """Without the variables of a job the command says which are missing."""
    text = own_world / "plan.md"
    text.write_text(BODY)
    kitaru("ci", "comment", text, cwd=own_world).refused("GITHUB_REPOSITORY", "CI_API_V4_URL")


def test_one_issue_is_opened_updated_and_closed(hub: GitHubState) -> None:
    """Drift opens an issue, more drift changes it, no drift closes it; the next drift opens another."""
    assert ci.issue("drift", BODY, hub.environ()).action == "created"
    assert ci.issue("drift", f"{MARK}\nmore", hub.environ()).action == "updated"
    assert ci.close_issue(BODY, hub.environ()) is not None
    assert ci.close_issue(BODY, hub.environ()) is None
    assert ci.issue("drift", BODY, hub.environ()).action == "created"
    assert [(one["state"], one["body"]) for one in hub.issues] == [("closed", f"{MARK}\nmore"), ("open", BODY)]


def test_the_same_on_gitlab(lab: GitLabState) -> None:
    """A note of ours is created, updated and left alone beside those of others; an issue is opened and closed."""
    lab.notes += [
        {"id": 1, "body": BODY, "author": PERSON, "system": False},
        {"id": 2, "body": "x", "author": BOT, "system": True},
        {"id": 3, "body": "y", "author": PERSON, "system": False},
    ]
    environ = lab.environ(CI_MERGE_REQUEST_IID="5")
    assert ci.comment(BODY, environ=environ).action == "created"
    assert ci.comment(f"{MARK}\nsecond", environ=environ).action == "updated"
    assert ci.comment(f"{MARK}\nsecond", environ=environ).action == "unchanged"
    assert [one["body"] for one in lab.notes] == [BODY, "x", "y", f"{MARK}\nsecond"]
    assert ci.issue("drift", BODY, environ).action == "created"
    assert lab.issues[0]["description"] == BODY
    assert ci.close_issue(BODY, environ) == "i"
    assert lab.issues[0]["state"] == "closed"
    with pytest.raises(KitaruUsageError, match="KITARU_GITLAB_TOKEN"):
        ci.comment(BODY, 5, {**environ, "KITARU_GITLAB_TOKEN": ""})
