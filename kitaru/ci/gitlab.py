"""GitLab, as a job there sees it: its merge request, notes, issues, and the plans that earlier jobs kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote

from kitaru.ci.forge import NO_COMMIT, Forge, Text
from kitaru.ci.http import ApiError, WebApi

OF_REQUESTS = "merge_request_event"
APPLYING = ("push", "web", "api", "trigger")


class GitLab(Forge):
    """The project of a job. Raises ``KitaruUsageError`` if this is no job of GitLab."""

    name = "GitLab"
    request = "merge request !"
    number = "iid"
    run = "job"
    log = "the failed job's log"
    commit = "CI_COMMIT_SHA"
    missing = "GitLab sets it in its jobs; kitaru ci init writes one"
    update = "PUT"
    issue_text = "description"
    closed = ("state_event", "close")
    longest = 900_000  # A note may have 1,000,000.

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        hint = "make a project access token with the scope api, and keep it as a masked CI/CD variable"
        token = self._must("KITARU_GITLAB_TOKEN", hint)
        self._api = WebApi(self.name, self._must("CI_API_V4_URL"), {"Authorization": f"Bearer {token}"})
        self._at = f"projects/{quote(self._must('CI_PROJECT_ID'), safe='')}"

    def request_number(self) -> int | None:
        """The number of this job's merge request; None if it has none."""
        found = self._environ.get("CI_MERGE_REQUEST_IID", "")
        return int(found) if found.isdecimal() else None

    def _comments(self, number: int) -> tuple[str, str]:
        place = f"{self._at}/merge_requests/{number}/notes"
        return place, place

    def _open_issues(self) -> Iterable[Text]:
        query = {"state": "opened", "scope": "all", "author_username": self._login}
        return (self._text(one, "iid") for one in self._api.pages(f"{self._at}/issues", **query))

    def _text(self, one: Any, number: str) -> Text:
        own = (one.get("author") or {}).get("username") == self._login
        body = one.get("body") or one.get("description") or ""
        return Text(int(one.get(number, 0)), body, str(one.get("web_url", "")), own)

    def _last_applied(self) -> str:
        query = {"ref": self._must("CI_COMMIT_BRANCH"), "status": "success", "per_page": 50}
        done = (one["sha"] for one in self._api.get(f"{self._at}/pipelines", **query) if one["source"] in APPLYING)
        return next(done, None) or self._environ.get("CI_COMMIT_BEFORE_SHA", NO_COMMIT)

    def _between(self, base: str, head: str) -> list[str]:
        compared = self._api.get(f"{self._at}/repository/compare", **{"from": base, "to": head})
        return [one["id"] for one in compared["commits"]]

    def _requests(self, sha: str) -> str:
        return f"{self._at}/repository/commits/{sha}/merge_requests"

    def _is_merged_here(self, request: Any) -> bool:
        ours = request["source_project_id"] == request["target_project_id"]
        onto = request["target_branch"] == self._must("CI_COMMIT_BRANCH")
        return bool(ours and onto and request["state"] == "merged")

    def _plan_of(self, request: Any, artifact: str) -> bytes | None:
        """The plan of the newest pipeline, if that is for the last commit or its merge, and the job succeeded.

        ``artifact`` is job and file: ``kitaru-plan/.kitaru/ci/plan.json``.
        """
        listed = self._api.pages(f"{self._at}/merge_requests/{request['iid']}/pipelines")
        # A push may have a pipeline of its own, with no such job.
        pipelines = [one for one in listed if one.get("source", OF_REQUESTS) == OF_REQUESTS]
        if not pipelines:
            return None
        newest = max(pipelines, key=lambda one: int(one["id"]))
        if newest["sha"] != request["sha"] and not str(newest.get("ref", "")).endswith(("/merge", "/train")):
            return None
        jobs = self._api.pages(f"{self._at}/pipelines/{newest['id']}/jobs", **{"scope[]": "success"})
        mine = [int(job["id"]) for job in jobs if job["name"] == artifact.partition("/")[0]]
        return self._file_of(str(max(mine)), artifact) if mine else None

    def _is_apply_here(self, run: str) -> bool:
        job = self._api.get(f"{self._at}/jobs/{run}")
        return (job["ref"], job["name"]) == (self._must("CI_COMMIT_BRANCH"), self._must("CI_JOB_NAME"))

    def _file_of(self, run: str, artifact: str) -> bytes | None:
        try:
            return self._api.download(f"{self._at}/jobs/{run}/artifacts/{artifact.partition('/')[2]}")
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    @cached_property
    def _login(self) -> str:
        return str(self._api.get("user")["username"])
