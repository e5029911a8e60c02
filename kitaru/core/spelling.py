"""Which name somebody probably meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'stable'?``, or nothing where no option is like it."""
    import difflib  # Here, as every plan imports this module and almost none has a mistake to tell of.

    close = difflib.get_close_matches(word, list(options), 1, 0.6 if len(word) > 3 else 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
