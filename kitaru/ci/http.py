"""A JSON API over HTTP, as the forges have them: pages, retries, and a token that goes to that host alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from kitaru._version import __version__
from kitaru.errors import KitaruBackendError, KitaruUsageError

TRIES = 4
LONGEST_PAUSE = 60.0
"""Seconds: a server that asks for more patience than this gets an error."""

LARGEST_ANSWER = 64 * 2**20
"""Bytes."""

MOST_PAGES = 100


class ApiError(KitaruBackendError):
    """The API said no, or said nothing. ``status`` is 0 where no answer came, so that a write may have landed."""

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class _NoTokenElsewhere(HTTPRedirectHandler):
    """Follows redirects without what authorises: downloads are redirected to storage that has links of its own."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """The request to follow with; the token stays with the host that it is for."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            for name in ("Authorization", "Private-token"):
                following.remove_header(name)
        return following


@dataclass(frozen=True)
class WebApi:
    """One API. ``name`` is how errors call it; ``headers`` carry the token; ``pause`` waits that many seconds."""

    name: str
    url: str
    headers: Mapping[str, str]
    timeout: float = 30.0
    pause: Callable[[float], None] = time.sleep
    _opener: OpenerDirector = field(default_factory=lambda: build_opener(_NoTokenElsewhere()))

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise KitaruUsageError(f"{self.url!r} is no address of an API", hint="expected https://…")

    def get(self, path: str, **query: Any) -> Any:
        """What is at ``path``, from JSON. Raises ``ApiError``."""
        return _parsed(self.name, self._ask("GET", self._address(path, query))[0])

    def pages(self, path: str, *, inside: str = "", **query: Any) -> Iterator[Any]:
        """Every item of a list that comes in pages; ``inside`` names the member that holds the items, if one does."""
        address: str | None = self._address(path, {"per_page": 100, **query})
        for _ in range(MOST_PAGES):
            if address is None:
                return
            body, headers = self._ask("GET", address)
            found = _parsed(self.name, body)
            yield from found[inside] if inside else found
            address = self._following(address, headers.get("Link", ""))

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Write. Tried once where it is a POST: one whose answer was lost may have landed. Raises ``ApiError``."""
        text = None if body is None else json.dumps(body).encode()
        answer, _ = self._ask(method, self._address(path, {}), text, tries=1 if method == "POST" else TRIES)
        return _parsed(self.name, answer) if answer.strip() else None

    def download(self, path: str) -> bytes:
        """The bytes at ``path``. Raises ``ApiError``."""
        return self._ask("GET", self._address(path, {}))[0]

    def _address(self, path: str, query: Mapping[str, Any]) -> str:
        asked = f"?{urlencode(query)}" if query else ""
        return f"{self.url.rstrip('/')}/{path}{asked}"

    def _following(self, address: str, links: str) -> str | None:
        for link in links.split(","):
            target, _, about = link.partition(";")
            if 'rel="next"' in about:
                following = urljoin(address, target.strip().strip("<>"))
                return following if urlsplit(following)[:2] == urlsplit(address)[:2] else None
        return None

    def _ask(
        self, method: str, address: str, body: bytes | None = None, *, tries: int = TRIES
    ) -> tuple[bytes, Message]:
        for left in reversed(range(tries)):
            try:
                return self._once(method, address, body)
            except HTTPError as error:
                wait = _patience(error, tries - left)
                if not left or wait is None:
                    raise self._refused(method, address, error) from error
            except (URLError, HTTPException, OSError) as error:
                if not left:
                    reason = getattr(error, "reason", None) or error
                    raise ApiError(f"{self.name} can't be reached at {_plain(address)}: {reason}") from error
                wait = float(tries - left)
            self.pause(wait)
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, address: str, body: bytes | None) -> tuple[bytes, Message]:
        headers = {"User-Agent": f"kitaru/{__version__}", **self.headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = Request(address, data=body, headers=headers, method=method)
        with self._opener.open(request, timeout=self.timeout) as answer:
            found = answer.read(LARGEST_ANSWER + 1)
            if len(found) > LARGEST_ANSWER:
                raise ApiError(
                    f"{self.name} sent more than {LARGEST_ANSWER >> 20} MB for {_plain(address)}", status=200
                )
            return found, answer.headers

    def _refused(self, method: str, address: str, error: HTTPError) -> ApiError:
        try:
            said = json.loads(error.read(100_000))
            words = said.get("message") or said.get("error") or error.reason
        except (ValueError, AttributeError, OSError, HTTPException):
            words = error.reason
        hint = "check the token of this job, and its permissions" if error.code in (401, 403) else ""
        text = f"{self.name} answered {error.code} to {method} {_plain(address)}: {str(words)[:300]}"
        return ApiError(text, status=error.code, hint=hint)


def segment(text: str) -> str:
    """``text`` as one segment of a path."""
    return quote(text, safe="")


def _plain(address: str) -> str:
    return address.partition("?")[0]


def _parsed(name: str, body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise ApiError(f"{name} sent something that is not JSON", status=200) from error


def _patience(error: HTTPError, tried: int) -> float | None:
    """For how many seconds to wait before the next try; None where another try is no use."""
    asked = error.headers.get("Retry-After", "")
    if error.code == 429 or error.code >= 500 or (error.code == 403 and asked):
        wait = float(asked) if asked.isdigit() else float(tried)
        return wait if wait <= LONGEST_PAUSE else None
    return None
