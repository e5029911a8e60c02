"""GitHub and GitLab as far as pipelines meet them: real HTTP on loopback, small pages, and faults on demand."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 2
"""Items to a page, whatever is asked for: what is on a later page must be found too."""

REPOSITORY = "acme/research"
TOKEN = "ghs_canarytokencanarytoken"
BOT = {"login": "github-actions[bot]", "type": "Bot", "username": "project_bot"}
PERSON = {"login": "mallory", "type": "User", "username": "mallory"}


@dataclass
class Request:
    """What came in: verb, path, query, body, and the headers by lower-case name."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class Answer:
    """What goes out. ``items`` come in pages, inside the member of that name if there is one."""

    status: int = 200
    data: Any = None
    raw: bytes | None = None
    items: list[Any] | None = None
    inside: str = ""
    headers: dict[str, str] = field(default_factory=dict)


Route = tuple[str, re.Pattern[str], Callable[..., Answer]]


class ForgeServer:
    """One server. ``requests`` are all that came; ``faults`` are what happens to the next requests of a verb."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: dict[str, list[str]] = {}
        self.routes: list[Route] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def on(self, method: str, pattern: str, answer: Callable[..., Answer]) -> None:
        self.routes.append((method, re.compile(pattern), answer))

    def count(self, method: str) -> int:
        return sum(1 for request in self.requests if request.method == method)

    def answer(self, request: Request) -> Answer:
        for method, pattern, found in self.routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                return found(request, *match.groups())
        return Answer(404, {"message": f"Not Found: {request.method} {request.path}"})

    def __enter__(self) -> ForgeServer:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(forge: ForgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            request = Request(
                self.command,
                unquote(parts.path),
                {name: values[-1] for name, values in parse_qs(parts.query).items()},
                json.loads(text) if text else None,
                {name.lower(): value for name, value in self.headers.items()},
            )
            forge.requests.append(request)
            faults = forge.faults.get(self.command, [])
            fault = faults.pop(0) if faults else ""
            if fault.isdecimal():
                self.reply(Answer(int(fault), {"message": "not now"}, headers={"Retry-After": "0"}))
                return
            answer = forge.answer(request)
            if fault == "lost":
                # Done, and nobody hears of it.
                self.connection.close()
                return
            self.reply(self.page(request, answer))

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any

        def page(self, request: Request, answer: Answer) -> Answer:
            if answer.items is None:
                return answer
            number = int(request.query.get("page", "1"))
            shown = answer.items[(number - 1) * PAGE : number * PAGE]
            if number * PAGE < len(answer.items):
                others = "&".join(f"{name}={value}" for name, value in request.query.items() if name != "page")
                following = f"{forge.url}{request.path}?{others}&page={number + 1}"
                answer.headers["Link"] = f'<{forge.url}/last>; rel="last", <{following}>; rel="next"'
            answer.data = {answer.inside: shown, "total_count": len(answer.items)} if answer.inside else shown
            return answer

        def reply(self, answer: Answer) -> None:
            body = answer.raw if answer.raw is not None else json.dumps(answer.data).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@dataclass
class GitHubState:
    """What GitHub remembers."""

    server: ForgeServer
    storage: ForgeServer
    comments: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    pulls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[int, list[tuple[dict[str, Any], bytes]]] = field(default_factory=dict)
    compared: dict[str, list[str]] = field(default_factory=dict)

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.server.url,
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_TOKEN": TOKEN,
            **more,
        }

    def add_comment(self, body: str, user: dict[str, str]) -> dict[str, Any]:
        made = {"id": len(self.server.requests) * 100 + len(self.comments), "body": body, "user": user, "html_url": "u"}
        self.comments.append(made)
        return made

    def add_pull(self, number: int, merged_as: str, head: str, **changes: Any) -> None:
        pull = {
            "number": number,
            "merged_at": "2026-01-01T00:00:00Z",
            "base": {"ref": "main"},
            "user": PERSON,
            "head": {"sha": head, "repo": {"full_name": REPOSITORY}},
        }
        self.pulls.setdefault(merged_as, []).append({**pull, **changes})

    def add_run(self, number: int, sha: str, plan: bytes | None = None, **changes: Any) -> None:
        run = {
            "id": number,
            "head_sha": sha,
            "head_branch": "main",
            "status": "completed",
            "conclusion": "success",
            "event": "pull_request",
            "path": ".github/workflows/kitaru-plan.yml",
            "repository": {"full_name": REPOSITORY},
            "head_repository": {"full_name": REPOSITORY},
        }
        self.runs.append({**run, **changes})
        if plan is not None:
            body = io.BytesIO()
            with zipfile.ZipFile(body, "w") as archive:
                archive.writestr("kitaru-plan.json", plan)
            kept = {"id": number * 10, "name": "kitaru-plan", "expired": False}
            self.artifacts.setdefault(number, []).append((kept, body.getvalue()))


@contextmanager
def github() -> Iterator[GitHubState]:
    """GitHub, with artifacts at another host, as they are."""
    with ForgeServer() as server, ForgeServer() as storage:
        state = GitHubState(server, storage)
        at = f"/repos/{REPOSITORY}"

        def create(request: Request, _number: str) -> Answer:
            return Answer(201, state.add_comment(request.body["body"], BOT))

        def change(request: Request, number: str) -> Answer:
            (found,) = [one for one in state.comments if one["id"] == int(number)]
            found |= request.body
            return Answer(200, found)

        def delete(request: Request, number: str) -> Answer:
            state.comments[:] = [one for one in state.comments if one["id"] != int(number)]
            return Answer(204, raw=b"")

        def open_issue(request: Request) -> Answer:
            made = {"number": 40 + len(state.issues), "user": BOT, "state": "open", "html_url": "i", **request.body}
            state.issues.append(made)
            return Answer(201, made)

        def change_issue(request: Request, number: str) -> Answer:
            (found,) = [one for one in state.issues if one["number"] == int(number)]
            found |= request.body
            return Answer(200, found)

        def runs(request: Request, workflow: str = "") -> Answer:
            wanted = {"head_branch": "branch", "conclusion": "status", "event": "event", "head_sha": "head_sha"}
            found = [
                run
                for run in sorted(state.runs, key=lambda one: -int(one["id"]))
                if run["path"].endswith(workflow)
                and all(run[key] == request.query.get(name, run[key]) for key, name in wanted.items())
            ]
            return Answer(items=found, inside="workflow_runs")

        def run(request: Request, number: str) -> Answer:
            found = [one for one in state.runs if one["id"] == int(number)]
            return Answer(200, found[0]) if found else Answer(404, {"message": "Not Found"})

        def compare(request: Request, base: str, head: str) -> Answer:
            if base not in state.compared:
                return Answer(404, {"message": "No common ancestor"})
            return Answer(items=[{"sha": sha} for sha in state.compared[base]], inside="commits")

        server.on("GET", f"{at}/issues/([0-9]+)/comments", lambda _request, _number: Answer(items=list(state.comments)))
        server.on("POST", f"{at}/issues/([0-9]+)/comments", create)
        server.on("PATCH", f"{at}/issues/comments/([0-9]+)", change)
        server.on("DELETE", f"{at}/issues/comments/([0-9]+)", delete)
        server.on(
            "GET",
            f"{at}/issues",
            lambda _request: Answer(items=[one for one in state.issues if one["state"] == "open"]),
        )
        server.on("POST", f"{at}/issues", open_issue)
        server.on("PATCH", f"{at}/issues/([0-9]+)", change_issue)
        server.on(
            "GET", f"{at}/commits/([0-9a-z]+)/pulls", lambda _request, sha: Answer(items=state.pulls.get(sha, []))
        )
        server.on("GET", f"{at}/actions/workflows/([a-z.-]+)/runs", runs)
        server.on("GET", f"{at}/actions/runs", runs)
        server.on("GET", f"{at}/actions/runs/([0-9]+)", run)
        server.on("GET", f"{at}/compare/([0-9a-z]+)\\.\\.\\.([0-9a-z]+)", compare)
        server.on(
            "GET",
            f"{at}/actions/runs/([0-9]+)/artifacts",
            lambda _request, number: Answer(
                items=[kept for kept, _ in state.artifacts.get(int(number), [])], inside="artifacts"
            ),
        )
        server.on(
            "GET",
            f"{at}/actions/artifacts/([0-9]+)/zip",
            lambda _request, number: Answer(302, raw=b"", headers={"Location": f"{storage.url}/blob/{number}"}),
        )
        bodies = state.artifacts
        storage.on(
            "GET",
            "/blob/([0-9]+)",
            lambda _request, number: Answer(
                raw=next(body for kept in bodies.values() for one, body in kept if one["id"] == int(number))
            ),
        )
        yield state


@dataclass
class GitLabState:
    """What GitLab remembers."""

    server: ForgeServer
    notes: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    merge_pipelines: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    jobs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    compared: dict[str, list[str]] = field(default_factory=dict)

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "CI_API_V4_URL": f"{self.server.url}/api/v4",
            "CI_PROJECT_ID": "7",
            "KITARU_GITLAB_TOKEN": TOKEN,
            **more,
        }


@contextmanager
def gitlab() -> Iterator[GitLabState]:
    """GitLab."""
    with ForgeServer() as server:
        state = GitLabState(server)
        at = "/api/v4/projects/7"

        def put(found: list[dict[str, Any]], key: str, number: str, body: dict[str, Any]) -> Answer:
            (one,) = [one for one in found if one[key] == int(number)]
            one |= body
            if body.get("state_event") == "close":
                one["state"] = "closed"
            return Answer(200, one)

        def add(found: list[dict[str, Any]], body: dict[str, Any]) -> Answer:
            number = 50 + len(found)
            found.append({"id": number, "iid": number, "author": BOT, "state": "opened", "web_url": "i", **body})
            return Answer(201, found[-1])

        def file_of(request: Request, job: str, path: str) -> Answer:
            body = state.files.get(f"{job}/{path}")
            return Answer(404, {"message": "404 Not Found"}) if body is None else Answer(raw=body)

        def job(request: Request, number: str) -> Answer:
            found = [one for jobs in state.jobs.values() for one in jobs if one["id"] == int(number)]
            return Answer(200, found[0]) if found else Answer(404, {"message": "404 Not Found"})

        server.on("GET", "/api/v4/user", lambda _request: Answer(200, BOT))
        notes = f"{at}/merge_requests/([0-9]+)/notes"
        server.on("GET", notes, lambda _request, _number: Answer(items=list(state.notes)))
        server.on("POST", notes, lambda request, _number: add(state.notes, request.body))
        server.on("PUT", f"{notes}/([0-9]+)", lambda request, _, number: put(state.notes, "id", number, request.body))
        server.on(
            "GET",
            f"{at}/issues",
            lambda _request: Answer(items=[one for one in state.issues if one["state"] == "opened"]),
        )
        server.on("POST", f"{at}/issues", lambda request: add(state.issues, request.body))
        server.on(
            "PUT", f"{at}/issues/([0-9]+)", lambda request, number: put(state.issues, "iid", number, request.body)
        )
        server.on("GET", f"{at}/pipelines", lambda _request: Answer(200, state.pipelines))
        server.on(
            "GET",
            f"{at}/repository/compare",
            lambda request: Answer(
                200, {"commits": [{"id": sha} for sha in state.compared.get(request.query["from"], [])]}
            ),
        )
        server.on(
            "GET",
            f"{at}/repository/commits/([0-9a-z]+)/merge_requests",
            lambda _request, sha: Answer(items=state.requests.get(sha, [])),
        )
        server.on(
            "GET",
            f"{at}/merge_requests/([0-9]+)/pipelines",
            lambda _request, number: Answer(items=state.merge_pipelines.get(int(number), [])),
        )
        server.on(
            "GET",
            f"{at}/pipelines/([0-9]+)/jobs",
            lambda _request, number: Answer(items=state.jobs.get(int(number), [])),
        )
        server.on("GET", f"{at}/jobs/([0-9]+)", job)
        server.on("GET", f"{at}/jobs/([0-9]+)/artifacts/(.+)", file_of)
        yield state
