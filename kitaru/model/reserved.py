"""Names that Kitaru keeps: those that no module at the top of a project has, and those of variables with secrets."""

from __future__ import annotations

import sys

_LIBRARIES = """
aiobotocore aiohappyeyeballs aiohttp aioitertools aiosignal annotated_doc annotated_types attr attrs boto3 botocore
dateutil frozenlist fsspec git gitdb idna jinja2 jmespath jsonschema jsonschema_specifications kitaru markdown_it
markupsafe mdurl multidict packaging pathspec platformdirs propcache pydantic pydantic_core pygments referencing rich
rpds s3fs s3transfer shellingham six smmap typer typing_extensions typing_inspection urllib3 wrapt yaml yarl
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
