"""The edits of a generation as a person reads them, and as a script does. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kitaru.core.protection import protect_words
from kitaru.model.lockfile import AddVersion, Drop, Edit, Manage, Move, Protect, Rename, Retire, Untag
from kitaru.model.route import Assignment, Protection, describe_holders


def edit_words(edit: Edit) -> str:
    """What the edit did to its flow, without the flow's name: ``v3 built``, ``stable: v1 → v2``, ``canary removed``."""
    match edit:
        case AddVersion(version=version):
            return f"v{version} built"
        case Move():
            return _move_words(edit)
        case Untag(tag=tag, expects=before):
            return f"{tag} removed (was {describe_holders(before)})"
        case Manage():
            return "declared by the manifest"
        case Retire():
            return "removed with its routes; its versions stay"
        case Rename(was=was):
            return f"renamed from {was}"
        case Drop(version=version):
            return f"v{version} deleted"
        case Protect():
            return "; ".join(protect_words(edit))


def _move_words(edit: Move) -> str:
    after = describe_holders(edit.holders)
    if edit.expects == edit.holders:
        text = f"{edit.tag} stays at {after}"
    elif edit.expects is None:
        text = f"{edit.tag} → {after}"
    else:
        text = f"{edit.tag}: {describe_holders(edit.expects)} → {after}"
    if edit.converts:
        text += f", now {'an exclusive route' if edit.exclusive else 'a shared label'}"
    elif not edit.exclusive:
        text += " (label)"
    if edit.ends_hold:
        text += ", the hold ends"
    return f"{text}, on hold" if edit.hold is not None else text


def edit_data(edit: Edit) -> dict[str, Any]:
    """The edit as JSON data: ``kind``, ``flow``, ``text``, and what its kind has.

    ``version`` (mint, drop); ``tag``, ``before`` and ``after`` as lists of ``{"version", "weight"}`` (move, untag; null
    where there was, or is, no such route), ``exclusive`` and ``hold`` (move); ``converts``, true where a shared label
    becomes an exclusive route or the other way round; ``was`` (rename);
    ``rules`` and ``was`` by tag, ``{"branch", "clean"}`` each (protect).
    """
    data: dict[str, Any] = {"kind": edit.kind, "flow": edit.flow, "text": edit_words(edit)}
    match edit:
        case AddVersion(version=version) | Drop(version=version):
            data["version"] = version
        case Move():
            data |= {"tag": edit.tag, "before": holders_data(edit.expects), "after": holders_data(edit.holders)}
            data["exclusive"] = edit.exclusive
            if edit.hold is not None:
                data["hold"] = {"left": holders_data(edit.hold.left), "reason": edit.hold.reason}
            if edit.converts:
                data["converts"] = True
        case Untag(tag=tag, expects=before):
            data |= {"tag": tag, "before": holders_data(before), "after": None}
        case Rename(was=was):
            data["was"] = was
        case Protect(rules=rules, expects=expects):
            data |= {"rules": _rules_data(rules), "was": _rules_data(expects)}
        case _:
            pass
    return data


def holders_data(holders: Sequence[Assignment] | None) -> list[dict[str, int]] | None:
    """``[{"version": 2, "weight": 100}]``; None where there is no route."""
    return None if holders is None else [{"version": one.version, "weight": one.weight} for one in holders]


def _rules_data(rules: Mapping[str, Protection]) -> dict[str, Any]:
    return {tag: {"branch": rule.branch, "clean": rule.clean} for tag, rule in sorted(rules.items())}
