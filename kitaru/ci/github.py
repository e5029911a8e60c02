"""GitHub, as a job there sees it: its pull request, comments, issues, and the plans that earlier runs kept."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kitaru.ci.forge import NO_COMMIT, Forge, Text
from kitaru.ci.http import LARGEST_ANSWER, ApiError, WebApi
from kitaru.errors import KitaruBackendError, KitaruUsageError

BOT = "github-actions[bot]"
UNTRUSTED = "dependabot[bot]"
"""Its pull requests run without secrets, like those of forks."""

WORKFLOWS = ".github/workflows"
APPLYING = ("push", "workflow_dispatch")


class GitHub(Forge):
    """The repository of a job. Raises ``KitaruUsageError`` if this is no job of GitHub."""

    name = "GitHub"
    request = "pull request #"
    number = "number"
    run = "run"
    log = "the failed run's summary"
    commit = "GITHUB_SHA"
    missing = "in a job: env: of the step; kitaru ci init writes one"
    update = "PATCH"
    issue_text = "body"
    closed = ("state", "closed")
    longest = 65_000  # A comment or issue may have 65,536.

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
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

    def _comments(self, number: int) -> tuple[str, str]:
        return f"{self._at}/issues/{number}/comments", f"{self._at}/issues/comments"

    def _open_issues(self) -> Iterable[Text]:
        # Without search: its index lags behind, and a second issue would appear.
        creator = {"creator": self._login} if self._login else {}
        found = self._api.pages(f"{self._at}/issues", state="open", **creator)
        return (self._text(one, "number") for one in found if "pull_request" not in one)

    def _text(self, one: Any, number: str) -> Text:
        user = one.get("user") or {}
        own = user.get("login") == self._login if self._login is not None else user.get("type") == "Bot"
        return Text(int(one.get(number, 0)), one.get("body") or "", str(one.get("html_url", "")), own)

    def _last_applied(self) -> str:
        query = {"branch": self._must("GITHUB_REF_NAME"), "status": "success", "per_page": 50}
        found = self._api.get(f"{self._at}/actions/workflows/{self._workflow()}/runs", **query)["workflow_runs"]
        applied = (str(run["head_sha"]) for run in found if run["event"] in APPLYING and self._is_here(run))
        return next(applied, None) or self._event().get("before") or NO_COMMIT

    def _between(self, base: str, head: str) -> list[str]:
        return [one["sha"] for one in self._api.pages(f"{self._at}/compare/{base}...{head}", inside="commits")]

    def _requests(self, sha: str) -> str:
        return f"{self._at}/commits/{sha}/pulls"

    def _is_merged_here(self, request: Any) -> bool:
        ours = (request["head"].get("repo") or {}).get("full_name") == self._repository
        onto = request["base"]["ref"] == self._must("GITHUB_REF_NAME")
        shown = (request.get("user") or {}).get("login") != UNTRUSTED
        return bool(request.get("merged_at")) and ours and onto and shown

    def _is_here(self, run: Any) -> bool:
        """Whether the run was in this repository, on a commit of this repository."""
        places = [(run.get(name) or {}).get("full_name") for name in ("repository", "head_repository")]
        return places == [self._repository] * 2

    def _plan_of(self, request: Any, artifact: str) -> bytes | None:
        """The plan of the newest successful run of its workflow for exactly the last commit.

        ``artifact`` is kept by the workflow of the same name, or is ``FILE.yml/NAME``. Those of that name from other
        workflows do not count: no reviewer has seen them.
        """
        sha = request["head"]["sha"]
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
            if (body := self._file_of(run["id"], artifact)) is not None:
                return body
        return None

    def _is_apply_here(self, run: str) -> bool:
        found = self._api.get(f"{self._at}/actions/runs/{run}")
        return (
            self._is_here(found)
            and found["head_branch"] == self._must("GITHUB_REF_NAME")
            and found["event"] in APPLYING
            and _file(found["path"]) == self._workflow()
        )

    def _file_of(self, run: Any, artifact: str) -> bytes | None:
        name = artifact.rpartition("/")[2]
        found = self._api.pages(f"{self._at}/actions/runs/{run}/artifacts", inside="artifacts", name=name)
        kept = [one for one in found if one["name"] == name and not one["expired"]]
        if not kept:
            return None
        newest = max(kept, key=lambda one: int(one["id"]))
        return _only_file(self._api.download(f"{self._at}/actions/artifacts/{newest['id']}/zip"), name)

    @cached_property
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


def _file(path: str) -> str:
    return path.partition("@")[0].rpartition("/")[2]


def _only_file(archive: bytes, name: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            (entry,) = opened.infolist()
            if entry.file_size > LARGEST_ANSWER:
                raise KitaruBackendError(f"the artifact {name} is larger than {LARGEST_ANSWER >> 20} MB")
            return opened.read(entry)
    except (zipfile.BadZipFile, ValueError) as error:
        raise KitaruBackendError(f"the artifact {name} is not one plan") from error
