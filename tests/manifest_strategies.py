"""Any manifest that is valid, as data."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PRINTABLE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
TAGS = st.from_regex(r"[a-z][a-z0-9._-]{2,8}", fullmatch=True).filter(
    lambda tag: tag != "head" and not tag[1:].isdigit()
)
WISHES = (
    st.integers(1, 99)
    | st.just("head")
    | st.lists(st.integers(1, 9) | st.just("head"), min_size=1, max_size=3, unique=True)
)


def some(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


BASES = st.sampled_from(["python", "python:3.12-slim", "ghcr.io/acme/base_image:1.2", "localhost:5000/a/b"])
VARIABLES = st.from_regex(r"[A-Za-z_.-][A-Za-z0-9_.-]{0,8}", fullmatch=True)
IMAGES = BASES | some(
    {},
    {
        "base_image": BASES,
        "requirements": st.lists(st.sampled_from(["httpx", "a>=1", "b[c]; python_version>'3'", "d @ https://e.org/f"])),
        "environment": st.dictionaries(VARIABLES, TEXT.map(lambda text: text.replace("\0", "")), max_size=3),
        "secret_environment_from": st.lists(st.sampled_from(["openai-creds", "a", "team/key_2"])),
        "apt_packages": st.lists(st.sampled_from(["git", "libstdc++6", "python3.12:amd64", "vim=2:9.1-1ubuntu1"])),
        "dockerfile": st.sampled_from(["Dockerfile", "docker/base image.Dockerfile", "./a/../b"]),
        "platform": st.sampled_from(["linux/amd64", "linux/arm/v7", "windows(10.0.17763)/amd64", "amd64"]),
        "replicate_local_python_environment": st.booleans(),
    },
)
SOURCES = some({}, {"include": st.lists(st.sampled_from(["**", "a/*.py", "!b"])), "max_size_mb": st.integers(1, 900)})
FLOWS = some(
    {"target": st.sampled_from(["flows/a.py:a", "pkg.mod:b", "sp ace/é.py:c"])},
    {
        "inputs": st.dictionaries(TEXT, JSON, max_size=3),
        "stack": st.sampled_from(["local", "prod"]),
        "retries": st.integers(0, 9),
        "cache": st.booleans(),
        "timeout": st.integers(1, 99) | st.floats(0.1, 1e6),
        "image": IMAGES,
        "source": SOURCES,
        "routes": st.dictionaries(TAGS, WISHES, max_size=3),
    },
)
MANIFESTS = some(
    {
        "kitaru": st.just(1),
        "project": st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True),
        "stacks": st.just({"prod": {"type": "kubernetes", "namespace": "1e3"}}),
    },
    {
        "store": st.sampled_from(["file://.kitaru/store", "s3://bucket/prefix", "memory://x"]),
        "image": IMAGES,
        "source": SOURCES,
        "flows": st.dictionaries(NAMES, FLOWS, max_size=3),
        "targets": st.dictionaries(PRINTABLE, some({}, {"image": IMAGES, "source": SOURCES}), max_size=2),
        "protect": st.just({"default": {"branch": "on"}}),
    },
)
