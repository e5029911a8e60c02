"""The base of declared and stored nouns: frozen, checked by pydantic, with one canonical form."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict

from kitaru.model.address import canonical_json, digest

FORMAT: Final = 1
"""The newest format of nouns that this release writes and reads."""


class Noun(BaseModel):
    """A frozen value; a key that it does not know is an error."""

    # Deferred: a command uses few of the nouns, and making the validator of one takes longer than importing it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=False, ser_json_inf_nan="constants", defer_build=True
    )

    def data(self) -> dict[str, Any]:
        """The noun as JSON data. A default is left out, so that a key of a later release changes no old digest."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def canonical(self) -> bytes:
        """Canonical bytes, the same on every machine: these are stored and hashed."""
        return canonical_json(self.data())

    @property
    def digest(self) -> str:
        """The SHA-256 of the canonical bytes."""
        return digest(self.canonical())

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The inverse of ``canonical``. Raises pydantic's ``ValidationError``."""
        return cls.model_validate_json(body)


class StoredNoun(Noun):
    """A noun that is stored by itself: its format is always spelled out."""

    format: Literal[1] = FORMAT

    def data(self) -> dict[str, Any]:
        """As every noun, with the format."""
        return {"format": self.format, **super().data()}
