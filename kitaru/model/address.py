"""Canonical bytes, digests, valid and reserved names, and every key of the store: spelled here and nowhere else."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from datetime import UTC, datetime
from typing import Any

MANIFEST = "kitaru.yaml"

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"

FLOW_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
TAG_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
EXEC_ID = re.compile(r"ex-[0-9a-hjkmnp-tv-z]{18}")
DIGEST = re.compile(r"[0-9a-f]{64}")

_LIBRARIES = """
aiobotocore aiohappyeyeballs aiohttp aioitertools aiosignal annotated_doc annotated_types attr attrs boto3 botocore
dateutil frozenlist fsspec git gitdb idna jinja2 jmespath jsonschema jsonschema_specifications kitaru markdown_it
markupsafe mdurl multidict packaging pathspec platformdirs propcache pydantic pydantic_core pygments referencing rich
rpds ruamel s3fs s3transfer shellingham six smmap typer typing_extensions typing_inspection urllib3 wrapt yaml yarl
zstandard
"""
LIBRARIES = frozenset(_LIBRARIES.split())
"""Top-level modules of Kitaru and of all that it may load beside a flow, installed here or not."""

RESERVED = LIBRARIES | sys.stdlib_module_names
"""Names that no module of a project can have."""

SECRET = "KITARU_SECRET_"
"""How variables begin that hold a secret: a JSON object of the variables that it stands for."""

NAMED = "KITARU_SECRET_VARIABLES"
"""Names, with commas between, of the variables that a runner took from secrets."""

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """``value`` as UTF-8 JSON with sorted keys, no spaces and one final newline: equal values, equal bytes.

    Raises ``ValueError`` for NaN and infinities, ``TypeError`` for a value that JSON lacks.
    """
    return _CANONICAL.encode(value).encode("utf-8", "surrogatepass") + b"\n"


def digest(body: bytes) -> str:
    """The SHA-256 of ``body``, 64 hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()


def short(sha: str) -> str:
    """The first twelve digits, for people."""
    return sha[:12]


def is_tag(text: str) -> bool:
    """Whether ``text`` can name a route: never something that reads like a version (``2``, ``v2``) or ``head``."""
    return bool(TAG_NAME.fullmatch(text)) and not re.fullmatch(r"v?\d+", text) and text != "head"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: ``2026-11-21T23:13:18.000000Z``; sorts as text."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_timestamp(text: str) -> datetime:
    """The inverse of ``timestamp``."""
    return datetime.fromisoformat(text)


def exec_id(moment: datetime, token: str) -> str:
    """``ex-`` + ten characters of time (milliseconds) + eight of chance; ids sort by the time they were made."""
    return f"{exec_floor(moment)}{token[:8]}"


def exec_floor(moment: datetime) -> str:
    """A text that sorts before the ids made at ``moment`` or later, and after all earlier ones."""
    number = int(moment.timestamp() * 1000)
    return "ex-" + "".join(CROCKFORD[number >> shift & 31] for shift in range(45, -1, -5))


def exec_moment(execution: str) -> datetime:
    """The time at which an execution got this id; 1970 for a text that is no id."""
    number = 0
    for digit in execution.removeprefix("ex-")[:10]:
        number = number * 32 + max(CROCKFORD.find(digit), 0)
    try:
        return datetime.fromtimestamp(number / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


# --- keys -------------------------------------------------------------------------------------------------------------


def lock_hint(project: str) -> str:
    return f"{project}/kitaru.lock"


def log_entry(folder: str, number: int) -> str:
    """An entry of a log: ``research/lock/000000000042.json``."""
    return f"{folder}{number:012d}.json"


def generation(project: str, number: int) -> str:
    return log_entry(generations(project), number)


def blob(project: str, sha: str) -> str:
    """An immutable object under the digest of its own bytes."""
    return f"{project}/objects/sha256/{sha[:2]}/{sha}"


def blobs(project: str) -> str:
    return f"{project}/objects/sha256/"


def source_archives(project: str) -> str:
    return f"{project}/objects/source/"


def generations(project: str) -> str:
    return f"{project}/lock/"


def collections(project: str) -> str:
    """Notes of collectors on the objects of executions that they removed."""
    return f"{project}/gc/"


def collection(project: str, token: str) -> str:
    return f"{project}/gc/{token}.json"


def collecting(project: str) -> str:
    """The folder of the marks of collectors that remove objects at this moment."""
    return f"{project}/gc/running/"


def source_archive(project: str, sha: str) -> str:
    """A source tree, under the digest of its canonical listing (not of the compressed bytes)."""
    return f"{project}/objects/source/{sha[:2]}/{sha}.tar.zst"


def executions(project: str) -> str:
    return f"{project}/executions/"


def execution(project: str, exec_id: str) -> str:
    """The folder of all that is kept of one execution."""
    return f"{project}/executions/{exec_id}/"


def journal_entry(project: str, execution: str, number: int) -> str:
    return log_entry(journal(project, execution), number)


def journal(project: str, execution: str) -> str:
    return f"{project}/executions/{execution}/journal/"


def wait_answer(project: str, execution: str, wait: str) -> str:
    """The answer to a wait, for the runner; created once, so the first answer counts."""
    return f"{project}/executions/{execution}/waits/{wait.replace('/', '~')}.json"


def wait_answers(project: str, execution: str) -> str:
    return f"{project}/executions/{execution}/waits/"


def summary(project: str, execution: str) -> str:
    return f"{project}/executions/{execution}/summary.json"


def log_chunk(project: str, execution: str, number: int) -> str:
    return f"{project}/executions/{execution}/logs/{number:012d}.jsonl"


def logs(project: str, execution: str) -> str:
    return f"{project}/executions/{execution}/logs/"


def open_hints(project: str) -> str:
    """The names of executions that have not ended; see ``run.index``."""
    return f"{project}/index/open/"


def ended_hints(project: str, status: str) -> str:
    return f"{project}/index/ended/by-status/{status}/"


def ended_flow_hints(project: str, flow: str) -> str:
    return f"{project}/index/ended/by-flow/{flow}/"


def renamed_hints(project: str) -> str:
    return f"{project}/index/renamed/"


def renamed_hint(project: str, flow: str, was: str) -> str:
    """A hint that ``flow`` was once called ``was``."""
    return f"{project}/index/renamed/{flow}~{was}"


def idempotency(project: str, flow: str, key: str) -> str:
    """The execution of a caller's key; the key is hashed, as it may hold any text."""
    name = digest(f"{flow}\n{key}".encode())
    return f"{project}/index/idempotency/{name}.json"


def cache_index(project: str) -> str:
    return f"{project}/index/cache/"


def cache_hints(project: str, recipe: str) -> str:
    """The results of a checkpoint, by the digest of their inputs; see ``run.cache``."""
    return f"{project}/index/cache/{recipe[:2]}/{recipe}/"


def cache_hint(project: str, recipe: str, inputs: str) -> str:
    return f"{project}/index/cache/{recipe[:2]}/{recipe}/{inputs}"


def cache_records(project: str, checkpoint: str) -> str:
    """Notes of executions on the cache and a checkpoint; its name is hashed, as it may hold any letters."""
    return f"{project}/index/cache/seen/{digest(checkpoint.encode())[:16]}/"


def cache_record(project: str, checkpoint: str, execution: str) -> str:
    return f"{cache_records(project, checkpoint)}{execution}.json"


def probe(token: str) -> str:
    """A key that only tests the store, outside every project."""
    return f".kitaru-probe/{token}"
