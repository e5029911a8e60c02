"""GitHub, as a job there sees it: its pull request, comments, issues, and the plans that earlier runs kept."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kitaru.ci.forge import Text, fitted, keep, marker
from kitaru.ci.http import LARGEST_ANSWER, ApiError, WebApi
from kitaru.ci.port import Placed
from kitaru.errors import KitaruBackendError, KitaruStateError, KitaruUsageError

LONGEST_BODY = 65_000
"""Characters; a comment or issue may have 65,536."""

MOST_COMMITS = 50
"""The number of commits that are searched for plans, after failed applies."""

NO_COMMIT = "0" * 40
BOT = "github-actions[bot]"
UNTRUSTED = "dependabot[bot]"
"""Its pull requests run without secrets, like those of forks."""

WORKFLOWS = ".github/workflows"
APPLYING = ("push", "workflow_dispatch")


class GitHub:
    """The repository of a job. Raises ``KitaruUsageError`` if this is no job of GitHub."""

    name = "GitHub"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._repository = self._must("GITHUB_REPOSITORY")
        token = environ.get("GITHUB_TOKEN") or environ.get("GH_TOKEN") or self._must("GITHUB_TOKEN")
        self._api = WebApi(
            self.name,
            environ.get("GITHUB_API_URL") or "https://api.github.com",
            {
                "Authorization": f"Bearer {token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        self._at = f"repos/{self._repository}"

    def request_number(self) -> int | None:
        """The number of this job's pull request; None if it has none."""
        found = self._event().get("pull_request", {}).get("number")
        return int(found) if found is not None else None

    def comment(self, number: int, body: str) -> Placed:
        """Keep one comment on that pull request up to date."""
        place = f"{self._at}/issues/{number}/comments"
        me = self._login()
        return keep(
            fitted(body, LONGEST_BODY),
            find=lambda: (_text(one, me) for one in self._api.pages(place)),
            create=lambda text: _text(self._api.send("POST", place, {"body": text}), me),
            update=lambda old, text: _text(
                self._api.send("PATCH", f"{self._at}/issues/comments/{old.number}", {"body": text}), me
            ),
            remove=lambda old: self._api.send("DELETE", f"{self._at}/issues/comments/{old.number}"),
        )

    def issue(self, title: str, body: str) -> Placed:
        """Keep one open issue up to date."""
        me = self._login()
        return keep(
            fitted(body, LONGEST_BODY),
            find=lambda: self._open_issues(me),
            create=lambda text: _text(
                self._api.send("POST", f"{self._at}/issues", {"title": title, "body": text}), me, "number"
            ),
            update=lambda old, text: _text(
                self._api.send("PATCH", f"{self._at}/issues/{old.number}", {"body": text}), me, "number"
            ),
        )

    def close_issue(self, body: str) -> str | None:
        """Close our open issue with the first line of ``body``; its address, None if there is none."""
        for one in self._open_issues(self._login()):
            if one.own and one.body.strip().splitlines()[:1] == [marker(body)]:
                self._api.send("PATCH", f"{self._at}/issues/{one.number}", {"state": "closed"})
                return one.url
        return None

    def reviewed(self, artifact: str) -> Iterator[tuple[str, bytes]]:
        """The plans last shown on the pull requests that were merged since the last apply.

        Yields name and bytes: ``("pull request #7", b"…")``. Pull requests of forks and of Dependabot do not count:
        their runs have no token to show a plan. ``artifact`` is kept by the workflow of the same name, or is
        ``FILE.yml/NAME``.
        """
        seen = set()
        for sha in self._commits():
            for request in self._api.pages(f"{self._at}/commits/{sha}/pulls"):
                if request["number"] in seen or not self._is_merged_here(request):
                    continue
                seen.add(request["number"])
                body = self._plan_of(request["head"]["sha"], artifact)
                if body is not None:
                    yield f"pull request #{request['number']}", body

    def approved(self, run: str, artifact: str) -> tuple[str, bytes]:
        """The plan of an earlier run of this workflow on this branch that was not carried out: ``("run 7", b"…")``.

        Raises ``KitaruStateError`` for any other run, or one without a plan.
        """
        if not run.isdecimal():
            raise KitaruUsageError(f"{run!r} is no run: expected its number", hint="the failed run's summary says it")
        found = self._api.get(f"{self._at}/actions/runs/{run}")
        if not (
            self._is_here(found)
            and found["head_branch"] == self._must("GITHUB_REF_NAME")
            and found["event"] in APPLYING
            and _file(found["path"]) == self._workflow()
        ):
            raise KitaruStateError(
                f"run {run} is no apply of this branch, so its plan can't be approved here",
                hint="the failed run's summary says what to type",
            )
        body = self._artifact(run, artifact)
        if body is None:
            raise KitaruStateError(f"run {run} keeps no plan", hint="run the workflow again, then approve that")
        return f"run {run}", body

    def _commits(self) -> list[str]:
        """The commits since the last successful apply, newest first."""
        head = self._must("GITHUB_SHA")
        base = self._last_applied() or self._event().get("before") or NO_COMMIT
        if base in (NO_COMMIT, head):
            return [head]
        try:
            found = [one["sha"] for one in self._api.pages(f"{self._at}/compare/{base}...{head}", inside="commits")]
        except ApiError as error:
            if error.status != 404:  # rewritten history: the old commit is not there any more
                raise
            found = []
        return list(dict.fromkeys([head, *reversed(found)]))[:MOST_COMMITS]

    def _last_applied(self) -> str | None:
        query = {"branch": self._must("GITHUB_REF_NAME"), "status": "success", "per_page": 50}
        found = self._api.get(f"{self._at}/actions/workflows/{self._workflow()}/runs", **query)["workflow_runs"]
        return next((str(run["head_sha"]) for run in found if run["event"] in APPLYING and self._is_here(run)), None)

    def _is_merged_here(self, request: Any) -> bool:
        ours = (request["head"].get("repo") or {}).get("full_name") == self._repository
        onto = request["base"]["ref"] == self._must("GITHUB_REF_NAME")
        shown = (request.get("user") or {}).get("login") != UNTRUSTED
        return bool(request.get("merged_at")) and ours and onto and shown

    def _is_here(self, run: Any) -> bool:
        """Whether the run was in this repository, on a commit of this repository."""
        places = [(run.get(name) or {}).get("full_name") for name in ("repository", "head_repository")]
        return places == [self._repository] * 2

    def _plan_of(self, sha: str, artifact: str) -> bytes | None:
        """The plan of the newest successful run of its workflow for exactly that commit.

        Artifacts of that name from other workflows do not count: no reviewer has seen them.
        """
        query = {"event": "pull_request", "head_sha": sha, "status": "success"}
        file = artifact.rpartition("/")[0] or f"{artifact}.yml"
        runs = [
            run
            for run in self._api.pages(f"{self._at}/actions/runs", inside="workflow_runs", **query)
            if run["path"].partition("@")[0] == f"{WORKFLOWS}/{file}"
            and (run["event"], run["head_sha"], run["conclusion"]) == ("pull_request", sha, "success")
            and self._is_here(run)
        ]
        for run in sorted(runs, key=lambda one: int(one["id"]), reverse=True):
            if (body := self._artifact(run["id"], artifact)) is not None:
                return body
        return None

    def _artifact(self, run: Any, artifact: str) -> bytes | None:
        name = artifact.rpartition("/")[2]
        found = self._api.pages(f"{self._at}/actions/runs/{run}/artifacts", inside="artifacts", name=name)
        kept = [one for one in found if one["name"] == name and not one["expired"]]
        if not kept:
            return None
        newest = max(kept, key=lambda one: int(one["id"]))
        return _only_file(self._api.download(f"{self._at}/actions/artifacts/{newest['id']}/zip"), name)

    def _open_issues(self, me: str | None) -> Iterable[Text]:
        # Without search: its index lags behind, and a second issue would appear.
        found = self._api.pages(f"{self._at}/issues", state="open", **({"creator": me} if me else {}))
        return (_text(one, me, "number") for one in found if "pull_request" not in one)

    def _login(self) -> str | None:
        """The login of this token; None for the token of an app, which can't read it."""
        if self._environ.get("GITHUB_ACTIONS") == "true" and not self._environ.get("GH_TOKEN"):
            return BOT
        try:
            return str(self._api.get("user")["login"])
        except ApiError as error:
            if error.status not in (401, 403):
                raise
            return None

    def _workflow(self) -> str:
        """The file of this job's workflow: ``kitaru-apply.yml``."""
        return _file(self._must("GITHUB_WORKFLOW_REF"))

    def _event(self) -> dict[str, Any]:
        path = self._environ.get("GITHUB_EVENT_PATH")
        if not path:
            return {}
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise KitaruUsageError(f"the event at {path} can't be read: {error}", hint="--number N") from error
        return found if isinstance(found, dict) else {}

    def _must(self, name: str) -> str:
        if not self._environ.get(name):
            raise KitaruUsageError(f"{name} is not set", hint="in a job: env: of the step; kitaru ci init writes one")
        return self._environ[name]


def _file(path: str) -> str:
    return path.partition("@")[0].rpartition("/")[2]


def _text(one: Any, me: str | None, number: str = "id") -> Text:
    user = one.get("user") or {}
    own = user.get("login") == me if me is not None else user.get("type") == "Bot"
    return Text(int(one[number]), one.get("body") or "", str(one.get("html_url", "")), own)


def _only_file(archive: bytes, name: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            (entry,) = opened.infolist()
            if entry.file_size > LARGEST_ANSWER:
                raise KitaruBackendError(f"the artifact {name} is larger than {LARGEST_ANSWER >> 20} MB")
            return opened.read(entry)
    except (zipfile.BadZipFile, ValueError) as error:
        raise KitaruBackendError(f"the artifact {name} is not one plan") from error
