"""One comment or issue that is kept up to date, found again by its first line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kitaru.ci.http import ApiError
from kitaru.ci.port import Placed
from kitaru.errors import KitaruUsageError


@dataclass(frozen=True, slots=True)
class Text:
    """A text on the forge. ``number`` names it there; ``own``: whether the owner of the token wrote it."""

    number: int
    body: str
    url: str
    own: bool


def marker(body: str) -> str:
    """The first line of ``body``: ``<!-- kitaru plan -->``. Raises ``KitaruUsageError`` if it is no HTML comment."""
    line = body.lstrip("\ufeff").splitlines()[0].strip() if body.strip() else ""
    if not (line.startswith("<!--") and line.endswith("-->")):
        raise KitaruUsageError(
            "expected a text whose first line is an HTML comment, by which it is found again",
            hint="kitaru plan -o markdown begins with one",
        )
    return line


def fitted(body: str, limit: int) -> str:
    """``body`` in at most ``limit`` characters, with a note if it was cut."""
    if len(body) <= limit:
        return body
    note = "\n\n_Cut: the rest is in the job's log._\n"
    return body[: limit - len(note)].rpartition("\n")[0] + note


def keep(
    body: str,
    *,
    find: Callable[[], Iterable[Text]],
    create: Callable[[str], Text],
    update: Callable[[Text, str], Text],
    remove: Callable[[Text], None] | None = None,
) -> Placed:
    """Keep exactly one own text with the first line of ``body``, with the text ``body``.

    After a lost answer to a creation, the text is searched before the second try, so that it does not appear twice.
    """
    line = marker(body)
    for last in (False, True):
        mine = [one for one in find() if one.own and one.body.strip().splitlines()[:1] == [line]]
        if mine:
            return _update(mine, body, update, remove)
        try:
            return Placed("created", create(body).url)
        except ApiError as error:
            if last or (error.status and error.status < 500):
                raise
    raise AssertionError("the last try returns or raises")


def _update(
    mine: list[Text], body: str, update: Callable[[Text, str], Text], remove: Callable[[Text], None] | None
) -> Placed:
    first, *others = mine
    for one in others if remove is not None else ():
        assert remove is not None
        remove(one)
    # A forge may change the line endings.
    if first.body.replace("\r\n", "\n").strip() == body.strip():
        return Placed("unchanged", first.url)
    return Placed("updated", update(first, body).url)
