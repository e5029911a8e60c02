"""The common part of GitHub and GitLab: texts that are kept up to date, and the plans that reviewers were shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kitaru.ci.http import ApiError, WebApi
from kitaru.ci.port import Placed
from kitaru.errors import KitaruStateError, KitaruUsageError

MOST_COMMITS = 50
"""The number of commits that are searched for plans, after failed applies."""

NO_COMMIT = "0" * 40


@dataclass(frozen=True, slots=True)
class Text:
    """A text on the forge. ``number`` names it there; ``own``: whether the owner of the token wrote it."""

    number: int
    body: str
    url: str
    own: bool

    def begins_with(self, line: str) -> bool:
        """Whether the token's owner wrote it, with that first line."""
        return self.own and self.body.strip().splitlines()[:1] == [line]


def marker(body: str) -> str:
    """The first line of ``body``: ``<!-- kitaru plan -->``. Raises ``KitaruUsageError`` if it is no HTML comment."""
    line = body.lstrip("\ufeff").splitlines()[0].strip() if body.strip() else ""
    if not (line.startswith("<!--") and line.endswith("-->")):
        raise KitaruUsageError(
            "expected a text whose first line is an HTML comment, by which it is found again",
            hint="kitaru plan -o markdown begins with one",
        )
    return line


class Forge(ABC):
    """The host of the repository and its pipelines, as one job sees it.

    Every method raises ``KitaruBackendError`` if the forge refuses or does not answer. A text is found again by its
    first line, an HTML comment, and only among those that the job's own token wrote.
    """

    name: str
    request: str
    """The words before the number of a request: ``pull request #``."""
    number: str
    """The field with that number."""
    run: str
    """``run`` or ``job``: that which plans and applies."""
    log: str
    """The place with the words of a failed one."""
    commit: str
    """The variable with the job's commit."""
    missing: str
    """The cure for a variable that is not set."""
    update: str
    """The method of a change."""
    issue_text: str
    """The field with an issue's text."""
    closed: tuple[str, str]
    """The field and value that close an issue."""
    longest: int
    """Characters of a text."""
    _api: WebApi
    _at: str
    """The address of the repository: ``repos/acme/research``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    @abstractmethod
    def request_number(self) -> int | None:
        """The number of the job's pull or merge request; None if it has none."""

    def comment(self, number: int, body: str) -> Placed:
        """Keep exactly one comment with the first line of ``body`` on that request, with the text ``body``."""
        listed, edited = self._comments(number)

        def find() -> Iterable[Text]:
            return (self._text(one, "id") for one in self._api.pages(listed))

        return self._keep(body, {}, "body", find, listed, edited)

    def issue(self, title: str, body: str) -> Placed:
        """Keep exactly one open issue with the first line of ``body``, with the text ``body``."""
        place = f"{self._at}/issues"
        return self._keep(body, {"title": title}, self.issue_text, self._open_issues, place, place)

    def close_issue(self, body: str) -> str | None:
        """Close our open issue with the first line of ``body``; its address, None if there is none."""
        for one in self._open_issues():
            if one.begins_with(marker(body)):
                self._api.send(self.update, f"{self._at}/issues/{one.number}", dict([self.closed]))
                return one.url
        return None

    def reviewed(self, artifact: str) -> Iterator[tuple[str, bytes]]:
        """The plans last shown on the requests that were merged since the last apply.

        Yields name and bytes: ``("pull request #7", b"…")``. Requests of forks do not count: their jobs have no token
        to show a plan.
        """
        seen = set()
        for sha in self._commits():
            for request in self._api.pages(self._requests(sha)):
                number = request[self.number]
                if number in seen or not self._is_merged_here(request):
                    continue
                seen.add(number)
                body = self._plan_of(request, artifact)
                if body is not None:
                    yield f"{self.request}{number}", body

    def approved(self, run: str, artifact: str) -> tuple[str, bytes]:
        """The plan of an earlier apply on this branch that was not carried out: ``("run 7", b"…")``.

        Raises ``KitaruStateError`` for any other run, or one without a plan.
        """
        noun, log = self.run, self.log
        if not run.isdecimal():
            raise KitaruUsageError(f"{run!r} is no {noun}: expected its number", hint=f"{log} says it")
        if not self._is_apply_here(run):
            raise KitaruStateError(
                f"{noun} {run} is no apply of this branch, so its plan can't be approved here",
                hint=f"{log} says what to do",
            )
        body = self._file_of(run, artifact)
        if body is None:
            raise KitaruStateError(f"{noun} {run} keeps no plan", hint=f"start a new {noun}, then approve that")
        return f"{noun} {run}", body

    def _keep(
        self,
        body: str,
        more: Mapping[str, str],
        field: str,
        find: Callable[[], Iterable[Text]],
        created_at: str,
        edited_at: str,
    ) -> Placed:
        """Keep one own text with the first line of ``body``, with the text ``body`` in ``field``; comments only once.

        After a lost answer to a creation, the text is searched before the second try, so that it does not appear twice.
        """
        line = marker(body)
        if len(body) > self.longest:
            note = "\n\n_Cut: the rest is in the job's log._\n"
            body = body[: self.longest - len(note)].rpartition("\n")[0] + note
        for last in (False, True):
            mine = sorted((one for one in find() if one.begins_with(line)), key=lambda one: one.number)
            if mine:
                for other in mine[1:] if not more else ():
                    self._api.send("DELETE", f"{edited_at}/{other.number}")
                # A forge may change the line endings.
                if mine[0].body.replace("\r\n", "\n").strip() == body.strip():
                    return Placed("unchanged", mine[0].url)
                changed = self._api.send(self.update, f"{edited_at}/{mine[0].number}", {field: body})
                return Placed("updated", self._text(changed, "id").url)
            try:
                made = self._api.send("POST", created_at, {**more, field: body})
                return Placed("created", self._text(made, "id").url)
            except ApiError as error:
                if last or (error.status and error.status < 500):
                    raise
        raise AssertionError("the last try returns or raises")

    def _commits(self) -> list[str]:
        """The commits since the last successful apply, newest first."""
        head = self._must(self.commit)
        base = self._last_applied()
        if base in (NO_COMMIT, head):
            return [head]
        try:
            found = self._between(base, head)
        except ApiError as error:
            if error.status != 404:  # rewritten history: the old commit is not there any more
                raise
            found = []
        return list(dict.fromkeys([head, *reversed(found)]))[:MOST_COMMITS]

    def _must(self, name: str, hint: str = "") -> str:
        if not self._environ.get(name):
            raise KitaruUsageError(f"{name} is not set", hint=hint or self.missing)
        return self._environ[name]

    @abstractmethod
    def _comments(self, number: int) -> tuple[str, str]:
        """The address of a request's comments, and the one below which a single comment is changed."""

    @abstractmethod
    def _open_issues(self) -> Iterable[Text]: ...

    @abstractmethod
    def _text(self, one: Any, number: str) -> Text:
        """The text in an answer, named by its field ``number``."""

    @abstractmethod
    def _last_applied(self) -> str:
        """The commit of the last successful apply, else the one before this push."""

    @abstractmethod
    def _between(self, base: str, head: str) -> list[str]:
        """The commits after ``base`` up to ``head``, oldest first."""

    @abstractmethod
    def _requests(self, sha: str) -> str:
        """The address of a commit's requests."""

    @abstractmethod
    def _is_merged_here(self, request: Any) -> bool: ...

    @abstractmethod
    def _plan_of(self, request: Any, artifact: str) -> bytes | None:
        """The plan that was last shown on a request; None if there is none that belongs to its last commit."""

    @abstractmethod
    def _is_apply_here(self, run: str) -> bool: ...

    @abstractmethod
    def _file_of(self, run: str, artifact: str) -> bytes | None:
        """The artifact that a run or job keeps."""
