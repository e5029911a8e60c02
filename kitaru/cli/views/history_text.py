"""What happened, and who led an execution where it ran, for a person at a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from kitaru.cli.views.words import Style, ago, bare, count
from kitaru.model.address import short

WIDTH = 80
"""Columns of a line where nobody knows how many there are."""
MISSING = ("is missing from the log", "are missing from the log")
UNREADABLE = ("can't be read", "can't be read")
"""What there is to say of one generation, and of several."""
FLOWS_SHOWN = 12
"""Flows of one generation that are told one by one."""


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
    """(newest, oldest) of each run of numbers, which come newest first."""
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
    """One line where what was read does not fit together; None where it does."""
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
    for name, words in list(flows.items())[:FLOWS_SHOWN]:
        lines += _wrapped(f"{name}  {'; '.join(words)}", "    ", "      ", width)
    if len(flows) > FLOWS_SHOWN:
        lines.append(style(f"    and {count(len(flows) - FLOWS_SHOWN, 'more flow')} (-o json shows all)", "dim"))
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
    """``1a2b3c4d5e6f on main, with uncommitted changes``; commits come as nouns or as JSON data."""
    found = commit if isinstance(commit, Mapping) else commit.model_dump()
    branch = f" on {found['branch']}" if found["branch"] else ""
    return f"{short(found['sha'])}{branch}{', with uncommitted changes' if found['dirty'] else ''}"


def blame_lines(found: Any, style: Style = bare, *, width: int = WIDTH) -> list[str]:
    """Which commit ran, who built it, and by which route it was chosen, in lines of ``width`` columns."""
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
    """Every problem with its key; or that there is none, with the digest to note."""
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
