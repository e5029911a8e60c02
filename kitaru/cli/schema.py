"""The JSON Schemas of the files that Kitaru reads and writes, generated from the models.

``python -m kitaru.cli.schema --write schemas`` brings the files in step; a test holds them there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from kitaru.model.execution import Execution
from kitaru.model.lockfile import Generation, Lockfile, VersionTable
from kitaru.model.manifest import Manifest
from kitaru.model.plan import Plan
from kitaru.model.snapshot import Snapshot

DIALECT = "https://json-schema.org/draft/2020-12/schema"
HOME = "urn:kitaru:schema"

Schema = dict[str, Any]


class _Untitled(GenerateJsonSchema):
    """Without the titles that pydantic makes of field names: they say nothing that the key does not."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the signature is pydantic's
        return False


@dataclass(frozen=True, slots=True)
class Published:
    """One schema: the type that it describes, its title, and refinements that the type can't express."""

    type: Any
    title: str
    refine: Callable[[Schema], None] | None = None


def _refine_manifest(schema: Schema) -> None:
    """``default`` is no shared label; in an overlay every key may be left out, and an unknown key is wrong."""
    definitions = schema["$defs"]
    exclusive = {"not": {"type": "array"}, "description": "default is always exclusive: it leads to one version"}
    definitions["FlowSpec"]["properties"]["routes"]["properties"] = {"default": exclusive}
    partial = {**definitions["FlowSpec"], "description": "Changes of the overlay to a flow, or a whole flow"}
    partial.pop("required", None)
    definitions["FlowOverlay"] = partial
    stacks = [definitions[name] for name in ("LocalStack", "DockerStack", "KubernetesStack")]
    keys = {key: value for stack in stacks for key, value in stack["properties"].items() if key != "type"}
    types = [stack["properties"]["type"]["const"] for stack in stacks]
    definitions["StackOverlay"] = {
        "type": "object",
        "description": "Changes of the overlay to a stack, or a whole stack",
        "additionalProperties": False,
        "properties": {"type": {"enum": types}, **keys},
    }
    overlay = definitions["Overlay"]["properties"]
    for key, name in (("flows", "FlowOverlay"), ("stacks", "StackOverlay"), ("protect", "Protection")):
        of_key = next(option for option in overlay[key]["anyOf"] if option.get("type") == "object")
        of_key["additionalProperties"] = {"$ref": f"#/$defs/{name}"}


def _refine_execution(schema: Schema) -> None:
    """A stored value is written with its body under ``inline``, or without that key if the body is an object."""
    schema["$defs"]["Value"]["properties"].pop("stored")


PUBLISHED = {
    "kitaru": Published(Manifest, "Kitaru manifest (kitaru.yaml)", _refine_manifest),
    "lockfile": Published(Lockfile, "Kitaru lockfile (kitaru.lock)"),
    "generation": Published(Generation, "Kitaru generation: one entry of the lock log"),
    "versions": Published(VersionTable, "Kitaru version table of a flow"),
    "snapshot": Published(Snapshot, "Kitaru snapshot"),
    "plan": Published(Plan, "Kitaru plan"),
    "execution": Published(Execution, "Kitaru execution", _refine_execution),
}


def json_schema(name: str) -> Schema:
    """The JSON Schema (draft 2020-12) called ``name``. Raises ``KeyError`` for a name that ``PUBLISHED`` lacks."""
    published = PUBLISHED[name]
    schema = TypeAdapter(published.type).json_schema(schema_generator=_Untitled)
    if published.refine is not None:
        published.refine(schema)
    _close(schema)
    schema.pop("title", None)
    return {"$schema": DIALECT, "$id": f"{HOME}:{name}", "title": published.title, **schema}


def render(name: str) -> str:
    """The schema as the text of its file: indented, with a final newline."""
    return json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> list[Path]:
    """Write every schema into ``folder``; the paths of those files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in PUBLISHED:
        path = folder / f"{name}.schema.json"
        path.write_text(render(name), encoding="utf-8")
        paths.append(path)
    return paths


def _close(node: Any) -> None:
    """Refuse the names that a pattern of keys does not allow: pydantic states the pattern and lets all others pass."""
    if isinstance(node, dict):
        if "patternProperties" in node:
            node.setdefault("additionalProperties", False)
        for value in node.values():
            _close(value)
    elif isinstance(node, list):
        for item in node:
            _close(item)


def main(arguments: list[str] | None = None) -> int:
    """``[NAME ...]`` prints those schemas, ``--write DIR`` writes all of them."""
    parser = argparse.ArgumentParser(prog="python -m kitaru.cli.schema", description="Kitaru's JSON Schemas")
    parser.add_argument("name", nargs="*", choices=[*PUBLISHED, []], help=f"one of {', '.join(PUBLISHED)}")
    parser.add_argument("--write", metavar="DIR", type=Path, help="write every schema into this folder")
    given = parser.parse_args(arguments)
    if given.write is not None:
        for path in write(given.write):
            print(path)
    for name in given.name:
        sys.stdout.write(render(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
