"""A forge's JSON API over HTTP: pages, retries, and a token that goes to that host alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from kitaru._version import __version__
from kitaru.errors import KitaruBackendError, KitaruUsageError

TRIES = 4
LONGEST_PAUSE = 60.0
"""Seconds: a server that asks for a longer pause gets no further request."""

LARGEST_ANSWER = 64 * 2**20
"""Bytes."""

MOST_PAGES = 100

DECODED = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that no longer hold for a body that was read."""


class ApiError(KitaruBackendError):
    """The API refused or did not answer. ``status`` is 0 without an answer: a write may have landed then."""

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class WebApi:
    """One API. Errors have ``name``; each request has ``headers``.

    httpx drops ``Authorization`` from a redirect to another host, as downloads have.
    """

    def __init__(self, name: str, url: str, headers: Mapping[str, str]) -> None:
        if not url.startswith(("http://", "https://")):
            raise KitaruUsageError(f"{url!r} is no address of an API", hint="expected https://…")
        self.name, self._url = name, url.rstrip("/")
        everywhere = {"User-Agent": f"kitaru/{__version__}", **headers}
        self._client = httpx.Client(headers=everywhere, timeout=30.0, follow_redirects=True)

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at ``path``, such as ``repos/acme/research/pulls/7``. Raises ``ApiError``."""
        return self._data(self._ask("GET", f"{self._url}/{path}", params=query))

    def pages(self, path: str, *, inside: str = "", **query: Any) -> Iterator[Any]:
        """Every item of a list that comes in pages; ``inside`` is the member with the items, such as ``artifacts``."""
        response = self._ask("GET", f"{self._url}/{path}", params={"per_page": 100, **query})
        for _ in range(MOST_PAGES):
            data = self._data(response)
            yield from data[inside] if inside else data
            following = response.links.get("next", {}).get("url")
            if following is None or httpx.URL(following).host != response.url.host:
                return
            response = self._ask("GET", following)

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a write. A POST is tried once: one with a lost answer may have landed. Raises ``ApiError``."""
        response = self._ask(method, f"{self._url}/{path}", json=body, tries=1 if method == "POST" else TRIES)
        return self._data(response) if response.content.strip() else None

    def download(self, path: str) -> bytes:
        """The bytes at ``path``. Raises ``ApiError``."""
        return self._ask("GET", f"{self._url}/{path}").content

    def _ask(self, method: str, address: str, *, tries: int = TRIES, **request: Any) -> httpx.Response:
        for tried in range(1, tries + 1):
            try:
                response = self._once(method, address, **request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if tried == tries:
                    raise ApiError(f"{self.name} can't be reached at {_plain(address)}: {error}") from error
                time.sleep(float(tried))
                continue
            if response.is_success:
                return response
            wait = _patience(response, tried)
            if tried == tries or wait is None:
                raise self._refused(method, address, response)
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, address: str, **request: Any) -> httpx.Response:
        with self._client.stream(method, address, **request) as response:
            size = 0
            parts = []
            for part in response.iter_bytes():
                size += len(part)
                if size > LARGEST_ANSWER:
                    text = f"{self.name} sent more than {LARGEST_ANSWER >> 20} MB for {_plain(address)}"
                    raise ApiError(text, status=200)
                parts.append(part)
            headers = {key: value for key, value in response.headers.items() if key not in DECODED}
            status, request_sent = response.status_code, response.request
        return httpx.Response(status, headers=headers, content=b"".join(parts), request=request_sent)

    def _refused(self, method: str, address: str, response: httpx.Response) -> ApiError:
        try:
            data = response.json()
            words = data.get("message") or data.get("error")
        except (ValueError, AttributeError):
            words = None
        hint = "check the token of this job, and its permissions" if response.status_code in (401, 403) else ""
        text = f"{self.name} answered {response.status_code} to {method} {_plain(address)}: "
        return ApiError(text + str(words or response.reason_phrase)[:300], status=response.status_code, hint=hint)

    def _data(self, response: httpx.Response) -> Any:
        try:
            return json.loads(response.content)
        except ValueError as error:
            raise ApiError(f"{self.name} sent something that is not JSON", status=200) from error


def _plain(address: str) -> str:
    return address.partition("?")[0]


def _patience(response: httpx.Response, tried: int) -> float | None:
    """Seconds before the next try; None if another try is of no use."""
    asked, code = response.headers.get("Retry-After", ""), response.status_code
    if code != 429 and code < 500 and not (code == 403 and asked):
        return None
    wait = float(asked) if asked.isdigit() else float(tried)
    return wait if wait <= LONGEST_PAUSE else None
