"""``Store`` in a bucket of S3 or of an S3-compatible server, over s3fs, with its failures classified and explained.

Exceptions of botocore, aiohttp and s3fs are classified by their HTTP answer and the names of their classes, so that
servers may differ in details.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

import s3fs
from fsspec.asyn import sync

from kitaru.errors import KitaruError, KitaruStoreError, KitaruUsageError
from kitaru.model.pieces import CHUNK_BYTES, Body
from kitaru.store.port import Created, Listed, Taken, check_body, check_key, check_prefix


class Verdict(Enum):
    """The meaning of a failed request for its caller."""

    ABSENT = "there is no such key"
    EXISTS = "the key exists, perhaps with our own bytes after a lost reply"
    CONFLICT = "another conditional write to the key was under way"
    REFUSED = "nothing was done, and another attempt will fail, too"
    UNREACHABLE = "no connection; an attempt costs up to the connect timeout, so there are few"
    UNKNOWN = "the answer, or its absence, does not show whether it was done"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request: HTTP ``status`` (0: no answer), S3's error code or the exception's class, its message."""

    verdict: Verdict
    status: int
    code: str
    detail: str


_CODES = {
    Verdict.ABSENT: "NoSuchKey",
    Verdict.EXISTS: "PreconditionFailed 412",
    Verdict.CONFLICT: "ConditionalRequestConflict OperationAborted 409",
    Verdict.REFUSED: "NotImplemented 501 SSLError FileNotFoundError PermissionError",
    Verdict.UNREACHABLE: "EndpointConnectionError ConnectTimeoutError ProxyConnectionError",
    Verdict.UNKNOWN: "RequestTimeout IncompleteBody XAmzContentSHA256Mismatch BadDigest SlowDown NoSuchUpload 408 429 "
    "ConnectionError HTTPClientError IncompleteReadError ResponseParserError FSTimeoutError TimeoutError ClientError "
    "ClientPayloadError OSError",
}
_VERDICTS = {code: verdict for verdict, codes in _CODES.items() for code in codes.split()}
"""S3's error code, HTTP status, or class of an exception → verdict. A file that is missing holds certificates."""

_WRONG_BUCKET = "create the bucket, or check its name in the store's address"
_WRONG_KEY = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile that AWS_PROFILE names"
_LOG_IN = "run `aws sso login`, then try again"
_NO_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws with AWS_PROFILE (an SSO profile "
    "also needs `aws sso login`)"
)

_REASONS = {
    "NoSuchBucket": ("there is no such bucket", _WRONG_BUCKET),
    "InvalidBucketName": ("that is not a valid bucket name", _WRONG_BUCKET),
    "ParamValidationError": ("that is not a valid request", "check the bucket's name in the store's address"),
    "AccessDenied 403": (
        "access denied",
        "these credentials need s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket; check "
        "which ones are in use: AWS_ACCESS_KEY_ID, AWS_PROFILE",
    ),
    "InvalidAccessKeyId": ("the server does not know this access key", _WRONG_KEY),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", _WRONG_KEY),
    "ExpiredToken": ("the credentials have expired", "renew them, with `aws sso login` for one, and try again"),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set the clock, then try again"),
    "NoCredentialsError": ("there are no credentials", _NO_CREDENTIALS),
    "PartialCredentialsError": ("the credentials are incomplete", _NO_CREDENTIALS),
    "CredentialRetrievalError TokenRetrievalError": ("the credentials could not be had", _NO_CREDENTIALS),
    "UnauthorizedSSOTokenError": ("the SSO session has expired", _LOG_IN),
    "SSOTokenLoadError": ("there is no SSO session", _LOG_IN),
    "ProfileNotFound": ("that AWS profile does not exist", "check AWS_PROFILE against ~/.aws/config"),
    "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301": (
        "the bucket is in another region",
        "set AWS_REGION to the region of the bucket",
    ),
    "RecursionError": (
        "the server redirects in a circle",
        "check AWS_ENDPOINT_URL, and AWS_REGION against the region of the bucket",
    ),
    "SSLError": ("no secure connection", "check the certificate; AWS_CA_BUNDLE names a file of authorities to trust"),
    "NotImplemented": (
        "the server has no conditional writes, which Kitaru needs",
        "use AWS S3 or a server with `If-None-Match: *` on PutObject, or a file:// store",
    ),
}
_EXPLANATIONS = {code: words for codes, words in _REASONS.items() for code in codes.split()}
"""S3's error code, or class of an exception → reason and hint."""


def classify(error: BaseException) -> Failure:
    """The failure that ``error``, raised by a request through s3fs, stands for."""
    response: Any = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(response.get("Error", {}).get("Code", "")) or str(status)
        detail = str(response.get("Error", {}).get("Message", "")) or str(error)
        otherwise = Verdict.UNKNOWN if status >= 500 else Verdict.REFUSED
        return Failure(_VERDICTS.get(code) or _VERDICTS.get(str(status), otherwise), status, code, detail)
    carried = getattr(error, "kwargs", None)  # botocore's exceptions hold the one that they stand for
    inner = _by_class(carried.get("error")) if isinstance(carried, dict) else None
    verdict = _by_class(error) or Verdict.REFUSED
    if verdict is Verdict.UNKNOWN and inner is Verdict.REFUSED:
        verdict = inner
    return Failure(verdict, 0, type(error).__name__, str(error) or type(error).__name__)


def _by_class(error: object) -> Verdict | None:
    """The verdict of the nearest class that is known."""
    return next((_VERDICTS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _VERDICTS), None)


T = TypeVar("T")
Request = Callable[[Any], Awaitable[T]]

CONNECT_SECONDS = 5
READ_SECONDS = 30
"""Some servers hold a contended conditional write for six seconds."""

PATIENCE_SECONDS = 15.0
"""No attempt begins later than this after the first."""

UNREACHABLE_PATIENCE_SECONDS = 4.0
"""The same without a connection: below the connect timeout, so that there are at most two of those."""

PAUSES = (0.1, 0.4, 1.2)
"""Seconds before the second, third and fourth attempt at a request that changes nothing or may be repeated."""

CREATE_ATTEMPTS = 10
LONGEST_PAUSE = 2.0

PART_BYTES = 16 * 2**20
"""A body of two parts or more is uploaded in parts; the condition then holds for the completion."""

PARTS_AT_ONCE = 4

PAGE_NAMES = 1000
"""Names in one page of a listing: as many as S3 gives."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
"""New buckets have up to 63 characters; some of the oldest, and some of other servers, have more."""


class S3Store:
    """A bucket, or a prefix of one."""

    durable_across_processes = True

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        """``url`` is ``s3://bucket`` or ``s3://bucket/prefix``; ``options`` are s3fs's own.

        Sends nothing yet. Credentials, profile, region and endpoint come from ``options``, else as botocore finds
        them: ``AWS_*`` variables, ``~/.aws``, the machine's role.
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
        # Compare a large body first, so that it is not sent a second time.
        found = self._existing(key, body) if len(body) >= 2 * PART_BYTES else None
        begun, attempt = time.monotonic(), 0
        while found is None:
            outcome = self._attempt(partial(self._put, key=key, body=body, exclusive=True))
            if not isinstance(outcome, Failure):
                return Created()
            if outcome.verdict is Verdict.REFUSED:
                raise self._error("write", key, outcome)
            if outcome.verdict is not Verdict.EXISTS:
                _pause(0.05 * 2**attempt)
            attempt += 1
            found = self._existing(key, body)
            if found is None and (attempt == CREATE_ATTEMPTS or time.monotonic() - begun > PATIENCE_SECONDS):
                raise self._error("write", key, outcome)
        return found

    def overwrite(self, key: str, body: Body, *, durable: bool = True) -> None:  # noqa: ARG002
        check_key(key)
        check_body(key, body)
        self._insist("write", key, partial(self._put, key=key, body=body, exclusive=False))

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        check_prefix(prefix)
        start, found = self._path(prefix), set[str]()
        for page in self._pages(prefix, Delimiter="/", **({"StartAfter": start + after} if after else {})):
            keys = [item["Key"] for item in page.get("Contents", [])]
            keys += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
            found.update(key[len(start) :] for key in keys)
        # Servers differ in whether StartAfter leaves out the folder that it names.
        return sorted(name for name in found if name.rstrip("/") > after)

    def listed(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        cut = len(self._path(""))
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    yield Listed(item["Key"][cut:], item["Size"], item["LastModified"])

    def remove(self, key: str) -> None:
        check_key(key)
        self._insist("remove", key, partial(self._call, operation="delete_object", Key=self._path(key)))

    # --- one request each, on the loop's thread ---

    async def _call(self, fs: Any, operation: str, **parameters: Any) -> Any:
        return await fs._call_s3(operation, Bucket=self._bucket, **parameters)

    async def _opened(self, fs: Any, key: str) -> Any:
        """The answer with its body still unread; None if there is no such key."""
        try:
            return await self._call(fs, "get_object", Key=self._path(key))
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

    async def _compare(self, fs: Any, key: str, body: Body) -> Created | Taken | None:
        """The outcome of a create for which the key was there before; a large body is compared in pieces."""
        if len(body) >= 2 * PART_BYTES:
            answer = await self._opened(fs, key)
            if answer is None:
                return None
            done = 0
            async with answer["Body"] as there:
                while answer["ContentLength"] == len(body) and (chunk := await there.read(CHUNK_BYTES)):
                    if body[done : done + len(chunk)] != chunk:
                        break
                    done += len(chunk)
            if done == len(body):
                return Created(found=True)
        existing = await self._get(fs, key)
        return existing if existing is None else Created(found=True) if existing == body else Taken(existing)

    async def _put(self, fs: Any, key: str, body: Body, *, exclusive: bool) -> None:
        if exclusive:
            _check_conditions(fs._s3)
        if len(body) >= 2 * PART_BYTES:
            path, mode = f"{self._bucket}/{self._path(key)}", "create" if exclusive else "overwrite"
            await fs._pipe_file(path, body, chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE, mode=mode)
        else:
            condition = {"IfNoneMatch": "*"} if exclusive else {}
            await self._call(fs, "put_object", Key=self._path(key), Body=bytes(body), **condition)

    # --- around them ---

    def _existing(self, key: str, body: Body) -> Created | Taken | None:
        return self._insist("write", key, partial(self._compare, key=key, body=body))

    def _pages(self, prefix: str, **parameters: str) -> Iterator[dict[str, Any]]:
        """The pages of a listing."""
        request = partial(self._call, operation="list_objects_v2", Prefix=self._path(prefix), MaxKeys=PAGE_NAMES)
        while True:
            page = self._insist("list", prefix, partial(request, **parameters))
            yield page
            token = page.get("NextContinuationToken", "")
            if not page.get("IsTruncated") or not token:
                return
            parameters["ContinuationToken"] = token
            parameters.pop("StartAfter", None)

    def _insist(self, verb: str, key: str, request: Request[T]) -> T:
        """The answer to a request that may be repeated, after a few attempts at most."""
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

    def _attempt(self, request: Request[T]) -> T | Failure:
        try:
            fs = self._filesystem()
            answer: T = sync(fs.loop, _connected, fs, request)
            return answer
        except KitaruError:
            raise
        except Exception as error:
            return classify(error)

    def _filesystem(self) -> Any:
        """The connection of this process: a forked child can't use its parent's."""
        fs = self._filesystems.get(os.getpid())
        if fs is None:
            made = s3fs.S3FileSystem(**self._options)
            made.retries = 1
            fs = self._filesystems.setdefault(os.getpid(), made)
        return fs

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if self._root else key

    def _error(self, verb: str, key: str, failure: Failure) -> KitaruStoreError:
        """The error for the user: the attempt, its place, the reason, and a hint."""
        client = getattr(self._filesystems.get(os.getpid()), "_s3", None)
        endpoint = client.meta.endpoint_url if client is not None else ""
        server = endpoint or "the server"
        if failure.verdict is Verdict.UNREACHABLE:
            reason = f"no connection to {server}"
            hint = "check the network, and AWS_ENDPOINT_URL where the store is not Amazon's"
        elif failure.code in _EXPLANATIONS:
            reason, hint = _EXPLANATIONS[failure.code]
        elif failure.status:
            reason = f"{server} answered {failure.status} {failure.code}"
            hint = "try again later; look at the server's own log if it goes on"
        elif failure.verdict is Verdict.REFUSED:
            reason, hint = "the request could not be made", "check the store's address and options"
        else:
            reason = f"no usable answer from {server}"
            hint = "check the network and try again; what was already stored is safe"
        place = f"bucket {self._bucket!r}" + (f" at {endpoint}" if endpoint else "")
        detail = f"{failure.code}: {' '.join(failure.detail.split())[:300]}"
        message = f"can't {verb} {key or 'the root'!r} in the store {self.url} ({place}): {reason} ({detail})"
        return KitaruStoreError(message, hint=hint)


async def _connected(fs: Any, request: Request[T]) -> T:
    client = await fs.set_session()
    for operation in ("PutObject", "UploadPart"):
        # A second registration under one id changes nothing.
        client.meta.events.register(f"before-call.s3.{operation}", _add_checksum, unique_id=f"kitaru-{operation}")
    return await request(fs)


def _add_checksum(params: dict[str, Any], **_: Any) -> None:
    """Add an MD5, which every server knows: a bucket with Object Lock takes no body without a checksum."""
    body, headers = params.get("body"), params["headers"]
    content = body.getbuffer() if isinstance(body, io.BytesIO) else body
    if not isinstance(content, (bytes, memoryview)) or "request_algorithm" in params["context"].get("checksum", {}):
        return
    if not any(name.lower().startswith(("content-md5", "x-amz-checksum-")) for name in headers):
        headers["Content-MD5"] = b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _check_conditions(client: Any) -> None:
    """Raise ``KitaruStoreError`` for an old botocore: it drops conditions silently, and writers would collide."""
    if "IfNoneMatch" not in client.meta.service_model.operation_model("PutObject").input_shape.members:
        raise KitaruStoreError(
            "the installed botocore can't send conditional writes, which Kitaru needs",
            hint="pip install --upgrade s3fs",
        )


def _parse(url: str) -> tuple[str, str]:
    """Bucket and prefix: ``s3://bucket/team/a`` → ``("bucket", "team/a")``. Raises ``KitaruUsageError``."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/")
    if not url.startswith("s3://") or not _BUCKET.fullmatch(bucket) or "?" in prefix or "#" in prefix:
        raise KitaruUsageError(
            f"{url!r} is not the address of an S3 store",
            hint="write s3://bucket or s3://bucket/prefix, with the bucket's whole name of 3 to 63 characters",
        )
    if prefix:
        check_key(prefix)
    return bucket, prefix


def _encryption(word: str) -> dict[str, str]:
    """The headers of server-side encryption for ``AES256``, ``aws:kms`` or ``aws:kms:KEY``; none for an empty word."""
    known = re.fullmatch(r"(AES256|aws:kms)?(?:(?<=kms):(.*))?", word)
    if known is None:
        raise KitaruUsageError(
            f"KITARU_S3_SSE is {word!r}, expected AES256, aws:kms or aws:kms:KEY",
            hint="export KITARU_S3_SSE=aws:kms:alias/my-key",
        )
    headers = {"ServerSideEncryption": known[1], "SSEKMSKeyId": known[2]}
    return {name: value for name, value in headers.items() if value}


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's options over ours, without s3fs's caches: those would answer with an older state."""
    encryption = _encryption(os.environ.get("KITARU_S3_SSE", ""))
    region = os.environ.get("AWS_REGION")  # botocore reads AWS_DEFAULT_REGION alone
    config = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 32,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        # Kitaru verifies digests itself; older servers stumble over trailing checksums.
        "request_checksum_calculation": os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required").lower(),
        "response_checksum_validation": "when_required",
    }
    return {
        **options,
        "client_kwargs": {**({"region_name": region} if region else {}), **options.get("client_kwargs", {})},
        "s3_additional_kwargs": {**encryption, **options.get("s3_additional_kwargs", {})},
        "config_kwargs": {**config, **options.get("config_kwargs", {})},
        "skip_instance_cache": True,
        "use_listings_cache": False,
    }


def _pause(seconds: float) -> None:
    """Wait 0.5 to 1.5 times as long: racers that wait equally long collide again."""
    time.sleep(min(seconds, LONGEST_PAUSE) * random.uniform(0.5, 1.5))
