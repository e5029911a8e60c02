"""Manifests that several tests start from, and short ways to load them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru.errors import KitaruManifestError, Problem
from kitaru.manifest.port import ManifestFile
from kitaru.manifest.reading import load

FULL = """\
# yaml-language-server: $schema=kitaru.schema.json
kitaru: 1                              # manifest format
project: research
store: file://.kitaru/store
image:
  base_image: python:3.11-slim
  requirements: ["httpx>=0.27", "kitaru[openai]", "tool @ git+https://example.org/tool"]
source:
  include: ["flows/**", "lib/**"]
  exclude: ["**/*.ipynb"]
stacks:
  local: {type: local}
  prod: {type: kubernetes, namespace: agents}
flows:
  research_agent:
    target: flows/research.py:research_agent
    inputs: {topic: durable execution}
    stack: prod
    retries: 1
    image: {secret_environment_from: [openai-creds]}
    routes:
      default: 1
      stable: 1
      canary: head
      benchmark: [1, 2]
targets:
  production: {store: s3://acme-kitaru/prod}
protect:
  stable: {branch: main, clean: true}
"""

HEAD = "kitaru: 1\nproject: research\n"

FLOW = HEAD + "flows:\n  agent:\n    target: flows/research.py:agent\n"

LAYERED = HEAD + (
    "store: file://.kitaru/store\n"
    "image: python:3.11\n"
    "stacks: {prod: {type: kubernetes, namespace: agents}}\n"
    "source: {include: [a, b]}\n"
    "flows:\n"
    "  agent:\n"
    "    target: a.py:agent\n"
    "    inputs: {topic: x, depth: 1}\n"
    "    routes: {default: 1, canary: [1, 2]}\n"
    "targets:\n"
    "  production:\n"
    "    store: s3://acme/prod\n"
    "    image: {requirements: [httpx]}\n"
    "    stacks: {prod: {namespace: live}}\n"
    "    source: {include: [c]}\n"
    "    flows:\n"
    "      agent: {stack: prod, inputs: {depth: 9}, routes: {canary: head}}\n"
    "      extra: {target: b.py:extra}\n"
    "  here: {stacks: {prod: {type: local}}}\n"
)


def put(folder: Path, text: str | bytes) -> Path:
    path = folder / "kitaru.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def loaded(folder: Path, text: str | bytes, target: str | None = None) -> ManifestFile:
    return load(put(folder, text), target=target)


def problems(folder: Path, text: str | bytes, target: str | None = None) -> list[Problem]:
    with pytest.raises(KitaruManifestError) as refused:
        loaded(folder, text, target)
    return list(refused.value.problems)


def only(folder: Path, text: str | bytes, target: str | None = None) -> Problem:
    (problem,) = problems(folder, text, target)
    return problem


def at(text: str, needle: str) -> tuple[int, int]:
    """Line and column of ``needle``, which stands once in ``text``; both from 1."""
    assert text.count(needle) == 1, needle
    before = text[: text.index(needle)]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
