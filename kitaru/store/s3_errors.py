"""What an S3 request can come back with instead of an answer, and what to tell a person about it.

The exceptions of botocore, aiohttp and s3fs are told apart by their HTTP answer and by the names of their classes, so
that nothing heavy is imported here, and a server's dialect matters as little as can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from kitaru.errors import KitaruStoreError


class Verdict(Enum):
    """What a failed request means for the one who sent it."""

    ABSENT = "absent"
    """There is no such key."""
    EXISTS = "exists"
    """The condition of a create was not met: perhaps by our own bytes, whose acknowledgement was lost."""
    CONFLICT = "conflict"
    """Another conditional write to the key was under way: try again."""
    REFUSED = "refused"
    """Nothing was done, and trying again changes nothing."""
    UNREACHABLE = "unreachable"
    """No connection. Trying again costs up to the connect timeout, so not often."""
    UNKNOWN = "unknown"
    """Whether it was done can't be told from the answer, or from its absence."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request: HTTP ``status`` (0: no answer came), S3's error code or the exception's class, its words."""

    verdict: Verdict
    status: int
    code: str
    detail: str


_CODES = {
    "NoSuchKey": Verdict.ABSENT,
    "PreconditionFailed": Verdict.EXISTS,
    "ConditionalRequestConflict": Verdict.CONFLICT,
    "OperationAborted": Verdict.CONFLICT,
    "RequestTimeout": Verdict.UNKNOWN,
    "IncompleteBody": Verdict.UNKNOWN,
    "XAmzContentSHA256Mismatch": Verdict.UNKNOWN,
    "BadDigest": Verdict.UNKNOWN,
    "SlowDown": Verdict.UNKNOWN,
    "NoSuchUpload": Verdict.UNKNOWN,
    "NotImplemented": Verdict.REFUSED,
}
_STATUSES = {
    408: Verdict.UNKNOWN,
    409: Verdict.CONFLICT,
    412: Verdict.EXISTS,
    429: Verdict.UNKNOWN,
    501: Verdict.REFUSED,
}
_UNREACHABLE = {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"}
_UNKNOWN = {
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseParserError",
    "FSTimeoutError",
    "TimeoutError",
    "ClientError",
    "ClientPayloadError",
    "OSError",
}
_HOPELESS = {"SSLError", "FileNotFoundError", "PermissionError"}
"""A certificate that is not trusted, or not there."""

_NO_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws with AWS_PROFILE (an SSO profile "
    "also needs `aws sso login`)"
)
_NO_ACCESS = (
    "these credentials need s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket; check which "
    "ones are in use: AWS_ACCESS_KEY_ID, AWS_PROFILE"
)
_WRONG_KEY = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile that AWS_PROFILE names"
_WRONG_REGION = "set AWS_REGION to the region of the bucket"
_WRONG_BUCKET = "create the bucket, or check its name in the store's address"

_EXPLANATIONS: dict[str, tuple[str, str]] = {
    "NoSuchBucket": ("there is no such bucket", _WRONG_BUCKET),
    "InvalidBucketName": ("that is not a valid bucket name", _WRONG_BUCKET),
    "ParamValidationError": ("that is not a valid request", "check the bucket's name in the store's address"),
    "AccessDenied": ("access denied", _NO_ACCESS),
    "403": ("access denied", _NO_ACCESS),
    "InvalidAccessKeyId": ("the server does not know this access key", _WRONG_KEY),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", _WRONG_KEY),
    "ExpiredToken": ("the credentials have expired", "renew them, with `aws sso login` for one, and try again"),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set the clock, then try again"),
    "NoCredentialsError": ("there are no credentials", _NO_CREDENTIALS),
    "PartialCredentialsError": ("the credentials are incomplete", _NO_CREDENTIALS),
    "CredentialRetrievalError": ("the credentials could not be had", _NO_CREDENTIALS),
    "TokenRetrievalError": ("the credentials could not be had", _NO_CREDENTIALS),
    "UnauthorizedSSOTokenError": ("the SSO session has expired", "run `aws sso login`, then try again"),
    "SSOTokenLoadError": ("there is no SSO session", "run `aws sso login`, then try again"),
    "ProfileNotFound": ("that AWS profile does not exist", "check AWS_PROFILE against ~/.aws/config"),
    "PermanentRedirect": ("the bucket is in another region", _WRONG_REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _WRONG_REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", _WRONG_REGION),
    "RecursionError": (
        "the server redirects in a circle",
        "check AWS_ENDPOINT_URL, and AWS_REGION against the region of the bucket",
    ),
    "301": ("the bucket is in another region", _WRONG_REGION),
    "SSLError": ("no secure connection", "check the certificate; AWS_CA_BUNDLE names a file of authorities to trust"),
    "NotImplemented": (
        "the server has no conditional writes, which Kitaru needs",
        "use AWS S3 or a server with `If-None-Match: *` on PutObject, or a file:// store",
    ),
}


def classify(error: BaseException) -> Failure:
    """What ``error``, raised by a request through s3fs, means."""
    cause = error.__cause__
    response: Any = getattr(error, "response", None) or getattr(cause, "response", None)
    if isinstance(response, dict):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(response.get("Error", {}).get("Code", "")) or str(status)
        detail = str(response.get("Error", {}).get("Message", "")) or str(error)
        otherwise = Verdict.UNKNOWN if status >= 500 else Verdict.REFUSED
        return Failure(_CODES.get(code) or _STATUSES.get(status, otherwise), status, code, detail)
    names = _class_names(error)
    verdict = Verdict.REFUSED
    if names & _UNREACHABLE:
        verdict = Verdict.UNREACHABLE
    elif names & _UNKNOWN and not (names | _class_names(_wrapped(error))) & _HOPELESS:
        verdict = Verdict.UNKNOWN
    return Failure(verdict, 0, type(error).__name__, str(error) or type(error).__name__)


def _wrapped(error: BaseException) -> object:
    """The exception that one of botocore's carries, if any."""
    carried = getattr(error, "kwargs", None)
    return carried.get("error") if isinstance(carried, dict) else None


def _class_names(value: object) -> set[str]:
    return {kind.__name__ for kind in type(value).__mro__}


def explain(failure: Failure, *, verb: str, key: str, url: str, bucket: str, endpoint: str) -> KitaruStoreError:
    """The error for a person: what was tried, where, why it failed, and what to do."""
    detail = " ".join(failure.detail.split())[:300]
    if failure.verdict is Verdict.UNREACHABLE:
        reason = f"no connection to {endpoint or 'the server'}"
        hint = "check the network, and AWS_ENDPOINT_URL where the store is not Amazon's"
    elif failure.code in _EXPLANATIONS:
        reason, hint = _EXPLANATIONS[failure.code]
    elif failure.verdict is Verdict.REFUSED and failure.status == 0:
        reason, hint = "the request could not be made", "check the store's address and options"
    elif failure.status:
        reason = f"{endpoint or 'the server'} answered {failure.status} {failure.code}"
        hint = "try again later; look at the server's own log if it goes on"
    else:
        reason = f"no usable answer from {endpoint or 'the server'}"
        hint = "check the network and try again; what was already stored is safe"
    where = f"bucket {bucket!r}" + (f" at {endpoint}" if endpoint else "")
    message = f"can't {verb} {key or 'the root'!r} in the store {url} ({where}): {reason} ({failure.code}: {detail})"
    return KitaruStoreError(message, hint=hint)
