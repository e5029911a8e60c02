"""GitLab, as a job there sees it: its merge request, notes, issues, and the plans that earlier jobs kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kitaru.ci.forge import Text, fitted, keep, marker
from kitaru.ci.http import ApiError, WebApi, segment
from kitaru.ci.port import Placed
from kitaru.errors import KitaruStateError, KitaruUsageError

LONGEST_BODY = 900_000
"""Characters; a note may have 1,000,000."""

MOST_COMMITS = 50
NO_COMMIT = "0" * 40
OF_REQUESTS = "merge_request_event"
APPLYING = ("push", "web", "api", "trigger")


class GitLab:
    """The project of a job. Raises ``KitaruUsageError`` if this is no job of GitLab."""

    name = "GitLab"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        token = self._must("KITARU_GITLAB_TOKEN")
        self._api = WebApi(self.name, self._must("CI_API_V4_URL"), {"Authorization": f"Bearer {token}"})
        self._at = f"projects/{segment(self._must('CI_PROJECT_ID'))}"

    def request_number(self) -> int | None:
        """The number of this job's merge request; None if it has none."""
        found = self._environ.get("CI_MERGE_REQUEST_IID", "")
        return int(found) if found.isdecimal() else None

    def comment(self, number: int, body: str) -> Placed:
        """Keep one note on that merge request up to date."""
        place, me = f"{self._at}/merge_requests/{number}/notes", self._login()
        return keep(
            fitted(body, LONGEST_BODY),
            find=lambda: (_note(one, me) for one in self._api.pages(place, sort="asc") if not one.get("system")),
            create=lambda text: _note(self._api.send("POST", place, {"body": text}), me),
            update=lambda old, text: _note(self._api.send("PUT", f"{place}/{old.number}", {"body": text}), me),
            remove=lambda old: self._api.send("DELETE", f"{place}/{old.number}"),
        )

    def issue(self, title: str, body: str) -> Placed:
        """Keep one open issue up to date."""
        place, me = f"{self._at}/issues", self._login()
        return keep(
            fitted(body, LONGEST_BODY),
            find=lambda: self._open_issues(me),
            create=lambda text: _issue(self._api.send("POST", place, {"title": title, "description": text}), me),
            update=lambda old, text: _issue(self._api.send("PUT", f"{place}/{old.number}", {"description": text}), me),
        )

    def close_issue(self, body: str) -> str | None:
        """Close our open issue with the first line of ``body``; its address, None if there is none."""
        for one in self._open_issues(self._login()):
            if one.own and one.body.strip().splitlines()[:1] == [marker(body)]:
                self._api.send("PUT", f"{self._at}/issues/{one.number}", {"state_event": "close"})
                return one.url
        return None

    def reviewed(self, artifact: str) -> Iterator[tuple[str, bytes]]:
        """The plans last shown on the merge requests that were merged since the last apply.

        Yields name and bytes: ``("merge request !7", b"…")``. Merge requests of forks do not count: their pipelines
        have no token to show a plan. ``artifact`` is job and file: ``kitaru-plan/.kitaru/ci/plan.json``.
        """
        branch, seen = self._must("CI_COMMIT_BRANCH"), set()
        for sha in self._commits(branch):
            for request in self._api.pages(f"{self._at}/repository/commits/{sha}/merge_requests"):
                number = request["iid"]
                ours = request["source_project_id"] == request["target_project_id"]
                onto = request["state"] == "merged" and request["target_branch"] == branch
                if number in seen or not (ours and onto):
                    continue
                seen.add(number)
                body = self._plan_of(number, request["sha"], artifact)
                if body is not None:
                    yield f"merge request !{number}", body

    def approved(self, run: str, artifact: str) -> tuple[str, bytes]:
        """The plan of an earlier run of this job on this branch that was not carried out: ``("job 7", b"…")``.

        Raises ``KitaruStateError`` for any other job, or one without a plan.
        """
        if not run.isdecimal():
            raise KitaruUsageError(f"{run!r} is no job: expected its number", hint="the failed job's log says it")
        job = self._api.get(f"{self._at}/jobs/{run}")
        if job["ref"] != self._must("CI_COMMIT_BRANCH") or job["name"] != self._must("CI_JOB_NAME"):
            raise KitaruStateError(
                f"job {run} is no apply of this branch, so its plan can't be approved here",
                hint="the failed job's log says what to do",
            )
        body = self._file_of(int(run), artifact)
        if body is None:
            raise KitaruStateError(f"job {run} keeps no plan", hint="run the job again, then approve that")
        return f"job {run}", body

    def _commits(self, branch: str) -> list[str]:
        """The commits since the last successful apply, newest first."""
        head = self._must("CI_COMMIT_SHA")
        query = {"ref": branch, "status": "success", "per_page": 50}
        done = [one for one in self._api.get(f"{self._at}/pipelines", **query) if one["source"] in APPLYING]
        base = done[0]["sha"] if done else self._environ.get("CI_COMMIT_BEFORE_SHA", NO_COMMIT)
        if base in (NO_COMMIT, head):
            return [head]
        try:
            compared = self._api.get(f"{self._at}/repository/compare", **{"from": base, "to": head})
        except ApiError as error:
            if error.status != 404:  # rewritten history: the old commit is not there any more
                raise
            compared = {"commits": []}
        found = [one["id"] for one in compared["commits"]]
        return list(dict.fromkeys([head, *reversed(found)]))[:MOST_COMMITS]

    def _plan_of(self, number: int, sha: str, artifact: str) -> bytes | None:
        """The plan of the newest pipeline, if that is for the last commit or its merge, and the job succeeded."""
        listed = self._api.pages(f"{self._at}/merge_requests/{number}/pipelines")
        # A push may have a pipeline of its own, with no such job.
        pipelines = [one for one in listed if one.get("source", OF_REQUESTS) == OF_REQUESTS]
        if not pipelines:
            return None
        newest = max(pipelines, key=lambda one: int(one["id"]))
        if newest["sha"] != sha and not str(newest.get("ref", "")).endswith(("/merge", "/train")):
            return None
        jobs = list(self._api.pages(f"{self._at}/pipelines/{newest['id']}/jobs", **{"scope[]": "success"}))
        wanted = artifact.partition("/")[0]
        mine = [int(job["id"]) for job in jobs if job["name"] == wanted]
        return self._file_of(max(mine), artifact) if mine else None

    def _file_of(self, job: int, artifact: str) -> bytes | None:
        path = artifact.partition("/")[2]
        try:
            return self._api.download(f"{self._at}/jobs/{job}/artifacts/{path}")
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def _open_issues(self, me: str) -> Iterable[Text]:
        query = {"state": "opened", "scope": "all", "author_username": me}
        return (_issue(one, me) for one in self._api.pages(f"{self._at}/issues", **query))

    def _login(self) -> str:
        return str(self._api.get("user")["username"])

    def _must(self, name: str) -> str:
        if not self._environ.get(name):
            hint = (
                "make a project access token with the scope api, and keep it as a masked CI/CD variable"
                if name == "KITARU_GITLAB_TOKEN"
                else "GitLab sets it in its jobs; kitaru ci init writes one"
            )
            raise KitaruUsageError(f"{name} is not set", hint=hint)
        return self._environ[name]


def _note(one: Any, me: str) -> Text:
    return Text(int(one["id"]), one.get("body") or "", "", (one.get("author") or {}).get("username") == me)


def _issue(one: Any, me: str) -> Text:
    own = (one.get("author") or {}).get("username") == me
    return Text(int(one["iid"]), one.get("description") or "", str(one.get("web_url", "")), own)
