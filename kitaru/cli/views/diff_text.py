"""How two versions differ, for a person: what callers meet first, then what it is made of, then the source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kitaru.cli.views.history_text import commit_words
from kitaru.cli.views.words import Style, ago, bare, count
from kitaru.model.one_line import shown_line

MOST_LINES = 2000
"""Lines of source shown of all files together, unless all are wanted."""

VERDICTS = {
    "same": "",
    "compatible": "inputs: compatible: every call of {old} is one of {new}",
    "breaking": "inputs: breaking: some calls of {old} are refused by {new}",
}


def diff_lines(found: Any, style: Style = bare, *, full: bool = False, visible: bool = False) -> list[str]:
    """The difference, line by line. ``visible``: control characters in the source are shown, and not obeyed."""
    old, new = f"v{found.before.version}", f"v{found.after.version}"
    lines = [style(f"{found.flow} {old} → {new}", "bold"), *_sides(found, style), ""]
    if found.same:
        return [*lines, f"No differences: {_both(old, new)} the same snapshot."]
    verdict = VERDICTS[found.inputs].format(old=old, new=new)
    if verdict:
        lines.append(style(verdict, "bad" if found.inputs == "breaking" else "good"))
    for change in found.changes:
        mark = "  " if change.subject == "input_schema" else ""
        text = shown_line(f"{mark}{change.text}")
        lines.append(style(f"{text} (breaking)", "bad") if change.breaking else text)
    spelled: Callable[[str], str] = _spelled if visible else str
    shown = 0
    for place, file in enumerate(found.files):
        if not full and shown >= MOST_LINES:
            left = len(found.files) - place
            lines += ["", style(f"{count(left, 'more file')} not shown: --full shows all", "dim")]
            break
        lines += ["", style(spelled(_headline(file)), "bold")]
        lines += [_coloured(spelled(line), style) for line in file.lines]
        if file.hidden:
            lines.append(style(f"{count(file.hidden, 'more line')} not shown: --full shows all", "dim"))
        shown += len(file.lines)
    return lines


def _both(old: str, new: str) -> str:
    return f"{old} is" if old == new else f"{old} and {new} are"


def _sides(found: Any, style: Style) -> list[str]:
    lines = []
    for side in (found.before, found.after):
        tag = f" ({side.tag})" if side.tag else ""
        made = ""
        if side.release is not None:
            commit = f"  {commit_words(side.release.commit)}" if side.release.commit is not None else ""
            made = f"  {ago(side.release.at)} by {side.release.by}{commit}"
        lines.append(style(shown_line(f"  v{side.version}{tag}{made}"), "dim"))
    return lines


def _headline(file: Any) -> str:
    text = f"{file.status} {file.was} → {file.path}" if file.was else f"{file.status} {file.path}"
    if file.modes:
        text += f", mode {file.modes[0]} → {file.modes[1]}"
    if file.note:
        return f"{text}: {file.note}"
    return f"{text}  +{file.added} -{file.removed}" if file.lines else text


def _coloured(line: str, style: Style) -> str:
    if line.startswith(("--- ", "+++ ")):
        return style(line, "dim")
    kind = {"+": "add", "-": "remove", "@": "change"}.get(line[:1])
    return style(line, kind) if kind else line


def _spelled(text: str) -> str:
    """``text`` with control characters as ``^[``, tabs as they are: source must not drive the terminal."""
    if text.isprintable():
        return text
    return "".join(
        one
        if one == "\t" or one.isprintable()
        else f"^{chr(ord(one) ^ 64)}"
        if ord(one) < 128
        else f"\\u{ord(one):04x}"
        for one in text
    )
