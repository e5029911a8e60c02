"""Views of diffs, collections, caches, history, blame and verification for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kitaru.cli.views.words import Style, ago, bare, columns, count
from kitaru.model.address import short
from kitaru.model.jsonable import shown_line

MOST_LINES = 2000
"""Lines of source of all files together, without ``--full``."""

VERDICTS = {
    "same": "",
    "compatible": "inputs: compatible: every call of {old} is one of {new}",
    "breaking": "inputs: breaking: some calls of {old} are refused by {new}",
}


def diff_lines(found: Any, style: Style = bare, *, full: bool = False, visible: bool = False) -> list[str]:
    """The difference of two versions: inputs, other settings, then the source.

    ``visible``: control characters in the source are escaped, so that they do not drive the terminal.
    """
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
    """``text`` with control characters as ``^[`` and tabs as they are: source must not drive the terminal."""
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


FLOWS_SHOWN = 20
EXECUTIONS_SHOWN = 5


def collected_lines(found: Any, command: str, style: Style = bare) -> list[str]:
    """Removed versions, executions and objects by kind; ``command`` removes them if nothing was removed yet."""
    if found.nothing:
        lines = [
            f"Nothing to remove: {count(found.kept.count, 'object')} ({size(found.kept.bytes)}) are needed or new."
        ]
        return [*lines, *_later(found, style)]
    lines = []
    if found.versions:
        lines += [*_versions(found, style), ""]
    if found.executions:
        lines += [*_executions(found, style), ""]
    rows = [(one.kind, str(one.count), size(one.bytes)) for one in found.objects]
    if found.records.count:
        executions = count(len(found.executions), "execution")
        rows.append((f"records of {executions}", str(found.records.count), size(found.records.bytes)))
    if rows:
        everything = sum(one.bytes for one in found.objects) + found.records.bytes
        number = sum(one.count for one in found.objects) + found.records.count
        rows.append(("together", str(number), size(everything)))
        lines += columns(rows, ("removed" if found.deleted else "would be removed", "keys", "size"), style)
    lines += _later(found, style)
    return lines if found.deleted else [*lines, "", f"Nothing was removed. To do it: {command}"]


def _versions(found: Any, style: Style) -> list[str]:
    flows: dict[str, list[int]] = {}
    for one in found.versions:
        flows.setdefault(one.flow, []).append(one.version)
    verb = "deleted" if found.deleted else "would be deleted"
    lines = [style(f"{count(len(found.versions), 'version')} {verb}", "bold")]
    lines += [f"  {flow}  {ranges(versions)}" for flow, versions in list(flows.items())[:FLOWS_SHOWN]]
    if len(flows) > FLOWS_SHOWN:
        lines.append(style(f"  and those of {count(len(flows) - FLOWS_SHOWN, 'more flow')} (-o json lists all)", "dim"))
    return lines


def _executions(found: Any, style: Style) -> list[str]:
    number, verb = len(found.executions), "removed" if found.deleted else "would be removed"
    lines = [style(f"{count(number, 'execution')} {verb}", "bold") + ", with logs, results and idempotency keys"]
    lines += [f"  {exec_id}" for exec_id in sorted(found.executions)[:EXECUTIONS_SHOWN]]
    if number > EXECUTIONS_SHOWN:
        lines.append(style(f"  and {number - EXECUTIONS_SHOWN} more (-o json lists all)", "dim"))
    return lines


def _later(found: Any, style: Style) -> list[str]:
    if not found.later.count:
        return []
    what = f"{count(found.later.count, 'object')} ({size(found.later.bytes)})"
    return [style(f"{what} more can go once nothing has needed them for the grace period: run it again then", "dim")]


def pruned_lines(found: Any, command: str, style: Style = bare) -> list[str]:
    """Removed folders of this machine's caches; ``command`` removes them if nothing was removed yet."""
    if not found.folders:
        return [f"Nothing to remove below {found.cache}."]
    rows = [
        (one.path.removeprefix(f"{found.cache}/"), f"{one.days} days ago", size(one.bytes)) for one in found.folders
    ]
    lines = columns(rows, ("removed" if found.deleted else "would be removed", "last used", "size"), style)
    lines.append(f"together {size(sum(one.bytes for one in found.folders))}, below {found.cache}")
    return lines if found.deleted else [*lines, "", f"Nothing was removed. To do it: {command}"]


def size(number: int) -> str:
    """``812 B``, ``3.4 kB``, ``1.2 GB``."""
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError


def ranges(numbers: list[int]) -> str:
    """``v1-v3, v7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(f"v{end}" for end in part) for part in parts)


WIDTH = 80
"""Columns of a line if the terminal's width is not known."""
MISSING = ("is missing from the log", "are missing from the log")
UNREADABLE = ("can't be read", "can't be read")
"""The words for one generation, and for several."""
HISTORY_TEXT_FLOWS_SHOWN = 12
"""Flows of one generation that are listed one by one."""


def history_lines(
    happened: Any, flow: str | None, project: str, style: Style = bare, *, width: int = WIDTH
) -> list[str]:
    """Generations, newest first, each with its edits in words, in lines of ``width`` columns."""
    if not happened.generations:
        if happened.head == 0:
            return [f"Nothing has happened in project {project} yet. Next: kitaru plan"]
        lines = [style(hole, "warn") for _, hole in _holes(happened)]
        return lines if flow is None and lines and not happened.more else [*lines, _nothing(happened, flow)]
    lines = []
    holes = _holes(happened)
    for one in happened.generations:
        while holes and holes[0][0] > one.generation:
            lines += [style(holes.pop(0)[1], "warn"), ""]
        lines += [*_generation(one, style, width), ""]
    for _, hole in holes:
        lines += [style(hole, "warn"), ""]
    if happened.more:
        lines.append(style(_older(happened, flow), "dim"))
    return lines if happened.more else lines[:-1]


def _holes(happened: Any) -> list[tuple[int, str]]:
    """The oldest of each run of generations that are missing or can't be read, and a line on it; newest first."""
    runs = [(*run, MISSING) for run in _runs(happened.missing)]
    runs += [(*run, UNREADABLE) for run in _runs(happened.unreadable)]
    return [(oldest, _hole(newest, oldest, what)) for newest, oldest, what in sorted(runs, reverse=True)]


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Newest and oldest of each run of numbers, newest first: ``[7, 6, 3]`` → ``[(7, 6), (3, 3)]``."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _hole(newest: int, oldest: int, what: tuple[str, str]) -> str:
    one, several = what
    which = (
        f"{oldest} to {newest}  these generations {several}" if newest > oldest else f"{newest}  this generation {one}"
    )
    return f"{which}: kitaru store verify"


def chain_note(happened: Any) -> str | None:
    """One line if the generations do not fit together; None if they do."""
    parts = []
    for numbers, what in ((happened.missing, "missing from the log"), (happened.unreadable, "unreadable")):
        if numbers:
            parts.append(f"{count(len(numbers), 'generation')} {what}, the oldest is {numbers[-1]}")
    if happened.problem:
        parts.append(happened.problem)
    if parts:
        return f"warning: {'; '.join(parts)}. Look: kitaru store verify"
    if not happened.unchained:
        return None
    number = happened.unchained[-1]
    more = f" (and {len(happened.unchained) - 1} more)" if len(happened.unchained) > 1 else ""
    return (
        f"warning: generation {number}{more} does not fit the log: generation {number + 1} names another parent. "
        "Look: kitaru store verify"
    )


def _nothing(happened: Any, flow: str | None) -> str:
    whose = f"of {flow} " if flow is not None else ""
    if happened.more:
        return f"Nothing {whose}in generations {happened.reached} to {happened.head}. Look at all: --all"
    if happened.missing or happened.unreadable:
        return f"Nothing {whose}in what is left of generations 1 to {happened.head}."
    return f"Nothing {whose}in generations 1 to {happened.head}."


def _older(happened: Any, flow: str | None) -> str:
    if flow is None:
        return f"{count(happened.reached - 1, 'older generation')}: --limit N, or --all"
    return f"generations before {happened.reached} were not looked at: --limit N, or --all"


def _generation(one: Any, style: Style, width: int) -> list[str]:
    head = f"{one.generation}  {ago(one.at)}  {one.by}  {one.verb}"
    commit = f"  {commit_words(one.commit)}" if one.commit is not None else ""
    if len(head) + len(commit) > width:
        lines = [style(head, "bold"), style(f"    {commit.strip()}", "dim")]
    else:
        lines = [style(head, "bold") + style(commit, "dim")]
    if one.message:
        lines += [style(line, "dim") for line in _wrapped(f'"{one.message}"', "    ", "     ", width)]
    flows: dict[str, list[str]] = {}
    for edit in one.edits:
        flows.setdefault(edit["flow"], []).extend(_edit(edit))
    for name, words in list(flows.items())[:HISTORY_TEXT_FLOWS_SHOWN]:
        lines += _wrapped(f"{name}  {'; '.join(words)}", "    ", "      ", width)
    if len(flows) > HISTORY_TEXT_FLOWS_SHOWN:
        lines.append(
            style(f"    and {count(len(flows) - HISTORY_TEXT_FLOWS_SHOWN, 'more flow')} (-o json shows all)", "dim")
        )
    if one.others:
        lines.append(style(f"    and {count(one.others, 'edit')} of other flows", "dim"))
    return lines


def _edit(edit: Mapping[str, Any]) -> list[str]:
    hold = edit.get("hold")
    return [f"{edit['text']} ({hold['reason']})" if hold and hold["reason"] else str(edit["text"])]


def _wrapped(text: str, first: str, rest: str, width: int) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split("\n")),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def commit_words(commit: Any) -> str:
    """``1a2b3c4d5e6f on main, with uncommitted changes``; ``commit`` is a ``Commit`` or JSON data."""
    found = commit if isinstance(commit, Mapping) else commit.model_dump()
    branch = f" on {found['branch']}" if found["branch"] else ""
    return f"{short(found['sha'])}{branch}{', with uncommitted changes' if found['dirty'] else ''}"


def blame_lines(found: Any, style: Style = bare, *, width: int = WIDTH) -> list[str]:
    """The commit of an execution, its builder, and the route that chose it, in lines of ``width`` columns."""
    version = f"{found.flow} v{found.version}" if found.version is not None else f"{found.flow} from source"
    renamed = f", now called {found.now}" if found.now != found.flow else ""
    rows: list[tuple[str, Sequence[str]]] = [("commit", _commit(found))]
    if found.release is not None:
        rows.append(("built", [f"{ago(found.release.at)} by {found.release.by}"]))
        if found.release.deleted:
            rows.append(("deleted", [f"{ago(found.release.deleted_at)} by {found.release.deleted_by}"]))
    rows.append(("chosen", _chosen(found)))
    started = f" by {found.actor}" if found.actor else ""
    rows.append(("started", [f"{ago(found.created_at)}{started}"]))
    if found.original is not None:
        rows.append(("replays", [found.original]))
    rows.append(("target", [found.target]))
    if found.snapshot is not None:
        rows.append(("snapshot", [short(found.snapshot)]))
    lines = [style(found.exec_id, "bold") + f"  {found.status}", f"  runs      {version}{renamed}"]
    for name, words in rows:
        for place, text in enumerate(words):
            lines += _wrapped(text, f"  {name if place == 0 else '':<8}  ", " " * 14, width)
    if found.commands:
        lines += ["", *(f"{'more:' if place == 0 else '     '} {one}" for place, one in enumerate(found.commands))]
    return lines


def _commit(found: Any) -> list[str]:
    if found.commit is None:
        return ["none was recorded: it ran from source that nobody released"]
    lines = [commit_words(found.commit)]
    if found.words is not None:
        lines.append(f"{found.words['subject']}")
        lines.append(f"{found.words['author']}, {found.words['date'][:10]}")
    return lines


def _chosen(found: Any) -> list[str]:
    if found.origin == "run":
        return ["by nobody's route: it was run from source"]
    if found.tag is None:
        return ["by its version number"]
    lines = [f"by route {found.tag}"]
    if found.draw is not None:
        weights = ", ".join(f"v{version} {weight} %" for version, weight in found.draw["weights"].items())
        lines[0] += f", drawn from {weights} by {found.draw['by']}"
    route = found.route
    if found.route_problem:
        return [*lines, f"who moved it there can't be told: {found.route_problem} (kitaru store verify)"]
    if route is None:
        return [*lines, "the log does not tell any more who moved it there"]
    lines.append(f"{route.text}  by {route.by}, {ago(route.at)} ({route.verb}, generation {route.generation})")
    if route.message:
        lines.append(f'"{route.message}"')
    return lines


def verified_lines(found: Any, style: Style = bare) -> list[str]:
    """Every problem with its key, or ``sound``; and the digest of the head."""
    lines = []
    for fault in found.problems:
        where = f"generation {fault.generation}: " if fault.generation else ""
        lines.append(style(f"problem: {where}{fault.message}", "bad"))
        lines.append(style(f"  {fault.key}", "dim"))
    lines += [style(f"note: {text}", "dim") for text in found.notes]
    if found.sound and not found.generations and not found.executions:
        # The note says that there is nothing; sound would say too much.
        return lines
    if found.sound:
        parts = [count(found.generations, "generation")]
        if found.deep:
            parts += [count(found.objects, "object"), count(found.executions, "execution")]
        lines.append(f"{style('sound', 'good')}: {', '.join(parts)}")
    else:
        first = f"; the first bad generation is {found.first_bad}" if found.first_bad else ""
        lines += ["", style(f"not sound: {count(len(found.problems), 'problem')}{first}", "bad")]
    if found.head:
        lines.append(f"head:  {found.head}")
    return lines
