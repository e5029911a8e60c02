"""``Store`` on S3 and what speaks like it, through s3fs.

Every request is a single one, sent with botocore's own retries off: what to do after a failure depends on the verb,
and is decided here. A create that did not plainly succeed reads its slot back, for a 412 may mean that our own bytes
landed and only the reply was lost.
"""

from __future__ import annotations

import io
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import s3fs
from fsspec.asyn import sync

from kitaru.errors import KitaruError, KitaruStoreError, KitaruUsageError
from kitaru.model.pieces import CHUNK_BYTES, Body
from kitaru.ports import Created, Listed, Taken
from kitaru.store.s3_errors import Failure, Verdict, classify, explain
from kitaru.store.store_keys import check_body, check_key, check_prefix

T = TypeVar("T")

CONNECT_SECONDS = 5
READ_SECONDS = 30
"""Some servers hold a contended conditional write for six seconds."""

PATIENCE_SECONDS = 15.0
"""No attempt begins later than this after the first."""

UNREACHABLE_PATIENCE_SECONDS = 4.0
"""The same where no connection comes about: below the connect timeout, so that two of those are the most."""

PAUSES = (0.1, 0.4, 1.2)
"""Seconds before the second, third and fourth attempt at a request that changes nothing or may be repeated."""

CREATE_ATTEMPTS = 10
LONGEST_PAUSE = 2.0

PART_BYTES = 16 * 2**20
"""A body of two parts or more is uploaded in parts; the condition then holds for the completion."""

PARTS_AT_ONCE = 4

PAGE_NAMES = 1000
"""How many names a listing asks for at once: as many as S3 gives."""

LONGEST_BUCKET = 255
"""Characters. New buckets have up to 63; some of the oldest, and some of other servers, have more."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


class S3Store:
    """A bucket, or a prefix of one."""

    durable_across_processes = True

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        """``url`` is ``s3://bucket`` or ``s3://bucket/prefix``; ``options`` are s3fs's own.

        Nothing is sent yet. Credentials, profile, region and endpoint come from ``options``, else from where botocore
        looks: ``AWS_*`` variables, ``~/.aws``, the machine's role.
        """
        self._bucket, self._root = _parse(url)
        self.url = url
        self._options = _settings(options or {})
        self._filesystems: dict[int, Any] = {}

    def read(self, key: str) -> bytes | None:
        check_key(key)
        return self._insist("read", key, partial(self._get, key=key))

    def create(self, key: str, body: Body) -> Created | Taken:
        check_key(key)
        check_body(key, body)
        if len(body) >= 2 * PART_BYTES:
            # A look first: it costs little beside such a body, which is then not sent a second time.
            existing = self._insist("write", key, partial(self._compare, key=key, body=body))
            if existing is not None:
                return Created(found=True) if existing is body else Taken(bytes(existing))
        begun = time.monotonic()
        failure = None
        for attempt in range(CREATE_ATTEMPTS):
            outcome = self._attempt(partial(self._put, key=key, body=body, exclusive=True))
            if not isinstance(outcome, Failure):
                return Created()
            failure = outcome
            if failure.verdict is Verdict.REFUSED:
                break
            if failure.verdict is not Verdict.EXISTS:
                _pause(0.05 * 2**attempt)
            existing = self._insist("write", key, partial(self._compare, key=key, body=body))
            if existing is not None:
                return Created(found=True) if existing is body else Taken(bytes(existing))
            if time.monotonic() - begun > PATIENCE_SECONDS:
                break
        assert failure is not None
        raise self._error("write", key, failure)

    def overwrite(self, key: str, body: Body, *, durable: bool = True) -> None:  # noqa: ARG002
        check_key(key)
        check_body(key, body)
        self._insist("write", key, partial(self._put, key=key, body=body, exclusive=False))

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        """As the port says; SeaweedFS keeps folders that became empty, and they are named as well."""
        check_prefix(prefix)
        found: set[str] = set()
        start, token = self._path(prefix), ""
        while True:
            page = self._insist("list", prefix, partial(self._list, start=start, after=after, token=token))
            keys = [item["Key"] for item in page.get("Contents", [])]
            keys += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
            # Servers differ in whether StartAfter leaves out the folder that it names.
            found.update(key[len(start) :] for key in keys if key[len(start) :] > after)
            if after and not token and "seaweedfs" in _server(page):
                found.update(folder for folder in _hidden_folders(after) if self._any_below(prefix, folder))
            token = page.get("NextContinuationToken", "")
            if not page.get("IsTruncated") or not token:
                return sorted(found)

    def listed(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        start, cut, token = self._path(prefix), len(self._path("")), ""
        while True:
            request = partial(self._list, start=start, after="", token=token, delimiter="")
            page = self._insist("list", prefix, request)
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    yield Listed(item["Key"][cut:], item["Size"], item["LastModified"])
            token = page.get("NextContinuationToken", "")
            if not page.get("IsTruncated") or not token:
                return

    def remove(self, key: str) -> None:
        check_key(key)
        self._insist("remove", key, partial(self._delete, key=key))

    # --- one request each, on the loop's thread ---

    async def _opened(self, fs: Any, key: str) -> Any:
        """The answer whose body is to be read; None where there is no such key."""
        try:
            return await fs._call_s3("get_object", Bucket=self._bucket, Key=self._path(key))
        except OSError as error:
            if classify(error).verdict is Verdict.ABSENT:
                return None
            raise

    async def _get(self, fs: Any, key: str) -> bytes | None:
        answer = await self._opened(fs, key)
        if answer is None:
            return None
        # Its own buffer becomes the result: to read all at once would hold it twice.
        content = io.BytesIO()
        async with answer["Body"] as body:
            while chunk := await body.read(CHUNK_BYTES):
                content.write(chunk)
        if content.tell() != answer["ContentLength"]:
            raise ConnectionError(f"{content.tell()} of {answer['ContentLength']} bytes came")
        return content.getvalue()

    async def _compare(self, fs: Any, key: str, body: Body) -> Body | None:
        """``body`` itself where the key holds the same, else what it holds; a large one is compared as it comes."""
        if len(body) < 2 * PART_BYTES:
            found = await self._get(fs, key)
            return body if found == body else found
        answer = await self._opened(fs, key)
        if answer is None:
            return None
        done = 0
        async with answer["Body"] as there:
            while answer["ContentLength"] == len(body) and (chunk := await there.read(CHUNK_BYTES)):
                if body[done : done + len(chunk)] != chunk:
                    break
                done += len(chunk)
        return body if done == len(body) else await self._get(fs, key)

    async def _put(self, fs: Any, key: str, body: Body, *, exclusive: bool) -> None:
        if exclusive:
            _check_conditions(fs._s3)
        if len(body) >= 2 * PART_BYTES:
            path, mode = f"{self._bucket}/{self._path(key)}", "create" if exclusive else "overwrite"
            await fs._pipe_file(path, body, chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE, mode=mode)
            return
        condition = {"IfNoneMatch": "*"} if exclusive else {}
        await fs._call_s3("put_object", Bucket=self._bucket, Key=self._path(key), Body=bytes(body), **condition)

    async def _list(
        self, fs: Any, start: str, after: str, token: str, limit: int = 0, delimiter: str = "/"
    ) -> dict[str, Any]:
        where = {"ContinuationToken": token} if token else {"StartAfter": start + after} if after else {}
        where |= {"Delimiter": delimiter} if delimiter else {}
        page: dict[str, Any] = await fs._call_s3(
            "list_objects_v2", Bucket=self._bucket, Prefix=start, MaxKeys=limit or PAGE_NAMES, **where
        )
        return page

    async def _delete(self, fs: Any, key: str) -> None:
        await fs._call_s3("delete_object", Bucket=self._bucket, Key=self._path(key))

    # --- around them ---

    def _any_below(self, prefix: str, folder: str) -> bool:
        start = self._path(prefix + folder)
        page = self._insist("list", prefix, partial(self._list, start=start, after="", token="", limit=1))
        return bool(page.get("Contents") or page.get("CommonPrefixes"))

    def _insist(self, verb: str, key: str, request: Callable[[Any], Awaitable[T]]) -> T:
        """The answer to a request that may be sent again, after a few attempts at most."""
        begun = time.monotonic()
        pauses = iter(PAUSES)
        while True:
            outcome = self._attempt(request)
            if not isinstance(outcome, Failure):
                return outcome
            unreachable = outcome.verdict is Verdict.UNREACHABLE
            patience = UNREACHABLE_PATIENCE_SECONDS if unreachable else PATIENCE_SECONDS
            hopeless = outcome.verdict in (Verdict.REFUSED, Verdict.ABSENT)
            pause = next(pauses, None)
            if pause is None or hopeless or time.monotonic() - begun > patience:
                raise self._error(verb, key, outcome)
            _pause(pause)

    def _attempt(self, request: Callable[[Any], Awaitable[T]]) -> T | Failure:
        try:
            fs = self._filesystem()
            answer: T = sync(fs.loop, _connected, fs, request)
            return answer
        except KitaruError:
            raise
        except Exception as error:
            return classify(error)

    def _filesystem(self) -> Any:
        """This process's connection: a forked child can't use its parent's."""
        process = os.getpid()
        fs = self._filesystems.get(process)
        if fs is None:
            made = s3fs.S3FileSystem(**self._options)
            made.retries = 1
            fs = self._filesystems.setdefault(process, made)
        return fs

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if self._root else key

    def _error(self, verb: str, key: str, failure: Failure) -> KitaruStoreError:
        fs = self._filesystems.get(os.getpid())
        client = getattr(fs, "_s3", None)
        endpoint = client.meta.endpoint_url if client is not None else ""
        return explain(failure, verb=verb, key=key, url=self.url, bucket=self._bucket, endpoint=endpoint)


async def _connected(fs: Any, request: Callable[[Any], Awaitable[T]]) -> T:
    await fs.set_session()
    return await request(fs)


def _check_conditions(client: Any) -> None:
    """An old botocore drops conditions without a word, and writers would overwrite each other."""
    if "IfNoneMatch" not in client.meta.service_model.operation_model("PutObject").input_shape.members:
        raise KitaruStoreError(
            "the installed botocore can't send conditional writes, which Kitaru needs",
            hint="pip install --upgrade 'kitaru[s3]'",
        )


def _server(page: dict[str, Any]) -> str:
    return str(page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("server", "")).lower()


def _hidden_folders(after: str) -> list[str]:
    """The folders greater than ``after`` that SeaweedFS takes for smaller.

    It compares a folder without its ``/``: for it ``a`` comes before ``a-b``, whereas ``a/`` comes after.
    """
    cuts = [place for place, character in enumerate(after) if place and character < "/"]
    return [after[:cut] + "/" for cut in (*cuts, len(after)) if not after[:cut].endswith("/")]


def _parse(url: str) -> tuple[str, str]:
    """Bucket and prefix of an ``s3://`` address."""
    authority, _, prefix = url.removeprefix("s3://").partition("/")
    if "@" in authority:
        raise KitaruUsageError(
            "the store's address holds credentials",
            hint="write s3://bucket/prefix, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
        )
    prefix = prefix.rstrip("/")
    if url.startswith("s3://") and authority and not 3 <= len(authority) <= LONGEST_BUCKET:
        raise KitaruUsageError(
            f"{url!r} is not the address of an S3 store: a bucket's name has 3 to 63 characters, and {authority!r:.80} "
            f"has {len(authority)}",
            hint="write the bucket's whole name: s3://bucket/prefix",
        )
    if not url.startswith("s3://") or not _BUCKET.fullmatch(authority) or "?" in prefix or "#" in prefix:
        raise KitaruUsageError(
            f"{url!r} is not the address of an S3 store", hint="write s3://bucket or s3://bucket/prefix"
        )
    if prefix:
        check_key(prefix)
    return authority, prefix


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's options over ours, but for the caches: those would answer with what was."""
    config = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 32,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        # Kitaru verifies digests itself; older servers stumble over trailing checksums.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        **options.get("config_kwargs", {}),
    }
    return {**options, "config_kwargs": config, "skip_instance_cache": True, "use_listings_cache": False}


def _pause(seconds: float) -> None:
    """Wait about that long: racers that wait equally long collide again."""
    time.sleep(min(seconds, LONGEST_PAUSE) * random.uniform(0.5, 1.5))
