"""The JSON Schemas of the files that Kitaru reads and writes, generated from the models.

``python -m kitaru.cli.schema --write schemas`` brings the files in step; a test holds them there.
"""

from __future__ import annotations

import argparse
import json
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


PUBLISHED: dict[str, tuple[Any, str]] = {
    "kitaru": (Manifest, "Kitaru manifest (kitaru.yaml)"),
    "lockfile": (Lockfile, "Kitaru lockfile (kitaru.lock)"),
    "generation": (Generation, "Kitaru generation: one entry of the lock log"),
    "versions": (VersionTable, "Kitaru version table of a flow"),
    "snapshot": (Snapshot, "Kitaru snapshot"),
    "plan": (Plan, "Kitaru plan"),
    "execution": (Execution, "Kitaru execution"),
}
"""Each schema by its name: the type that it describes, and its title."""

REFINED = {"kitaru": _refine_manifest, "execution": _refine_execution}
"""Refinements that the types can't express."""


def json_schema(name: str) -> Schema:
    """The JSON Schema (draft 2020-12) called ``name``. Raises ``KeyError`` for a name that ``PUBLISHED`` lacks."""
    model, title = PUBLISHED[name]
    schema = TypeAdapter(model).json_schema(schema_generator=_Untitled)
    if name in REFINED:
        REFINED[name](schema)
    _close(schema)
    schema.pop("title", None)
    return {"$schema": DIALECT, "$id": f"{HOME}:{name}", "title": title, **schema}


def render(name: str) -> str:
    """The schema as the text of its file: indented, with a final newline."""
    return json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n"


def _close(node: Any) -> None:
    """Refuse the names that a pattern of keys does not allow: pydantic states the pattern and lets all others pass."""
    if isinstance(node, dict) and "patternProperties" in node:
        node.setdefault("additionalProperties", False)
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _close(inner)


def main(arguments: list[str] | None = None) -> None:
    """``--write DIR`` writes every schema into that folder."""
    parser = argparse.ArgumentParser(prog="python -m kitaru.cli.schema", description="Kitaru's JSON Schemas")
    parser.add_argument("--write", metavar="DIR", type=Path, required=True, help="write every schema into this folder")
    folder: Path = parser.parse_args(arguments).write
    folder.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        path = folder / f"{name}.schema.json"
        path.write_text(render(name), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
