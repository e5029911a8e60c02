"""Masking: how secrets stay out of what an execution records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Mask(Protocol):
    """Takes secrets out of text. May be used by several threads at once."""

    def __call__(self, text: str, /) -> str:
        """The text without the secrets in it, those that came into this process's environment meanwhile, too."""
        ...

    def learn(self, environ: Mapping[str, str]) -> None:
        """Variables of another process, such as an isolated checkpoint's: the secrets among them are taken out, too."""
        ...
