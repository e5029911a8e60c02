"""Views of diffs, collections, caches, history, blame and verification for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kitaru.cli.views.words import ago, columns, count, drawn, edit_line, few, size_text, style
from kitaru.model.address import short
from kitaru.model.jsonable import shown_line

MOST_LINES = 2000
"""Lines of source of all files together, without ``--full``."""

VERDICTS = {
    "same": "",
    "compatible": "inputs: compatible: every call of {old} is one of {new}",
    "breaking": "inputs: breaking: some calls of {old} are refused by {new}",
}


def diff_lines(found: Any, *, full: bool = False, visible: bool = False) -> list[str]:
    """The difference of two versions: inputs, other settings, then the source.

    ``visible``: control characters in the source are escaped, so that they do not drive the terminal.
    """
    old, new = f"v{found.before.version}", f"v{found.after.version}"
    lines = [style(f"{found.flow} {old} → {new}", "bold"), *_sides(found), ""]
    if found.same:
        both = f"{old} is" if old == new else f"{old} and {new} are"
        return [*lines, f"No differences: {both} the same snapshot."]
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
            left = count(len(found.files) - place, "more file")
            return [*lines, "", style(f"{left} not shown: --full shows all", "dim")]
        lines += ["", style(spelled(_headline(file)), "bold"), *(edit_line(spelled(line)) for line in file.lines)]
        if file.hidden:
            lines.append(style(f"{count(file.hidden, 'more line')} not shown: --full shows all", "dim"))
        shown += len(file.lines)
    return lines


def _sides(found: Any) -> list[str]:
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


def _spelled(text: str) -> str:
    """``text`` with control characters as ``^[`` and tabs as they are: source must not drive the terminal."""
    if text.isprintable():
        return text
    return "".join(one if one == "\t" or one.isprintable() else _escape(ord(one)) for one in text)


def _escape(code: int) -> str:
    return f"^{chr(code ^ 64)}" if code < 128 else f"\\u{code:04x}"


FLOWS_SHOWN = 20
EXECUTIONS_SHOWN = 5


def collected_lines(found: Any, command: str) -> list[str]:
    """Removed versions, executions and objects by kind; ``command`` removes them if nothing was removed yet."""
    if found.nothing:
        return [f"Nothing to remove: {_amount(found.kept)} are needed or new.", *_later(found)]
    lines = [*_versions(found), ""] if found.versions else []
    lines += [*_executions(found), ""] if found.executions else []
    amounts = [(one.kind, one) for one in found.objects]
    if found.records.count:
        amounts.append((f"records of {count(len(found.executions), 'execution')}", found.records))
    if amounts:
        rows = [(kind, str(one.count), size_text(one.bytes)) for kind, one in amounts]
        keys, size = sum(one.count for _, one in amounts), sum(one.bytes for _, one in amounts)
        head = ("removed" if found.deleted else "would be removed", "keys", "size")
        lines += columns([*rows, ("together", str(keys), size_text(size))], head)
    lines += _later(found)
    return lines if found.deleted else [*lines, "", f"Nothing was removed. To do it: {command}"]


def _versions(found: Any) -> list[str]:
    flows: dict[str, list[int]] = {}
    for one in found.versions:
        flows.setdefault(one.flow, []).append(one.version)
    verb = "deleted" if found.deleted else "would be deleted"
    lines = [f"  {flow}  {ranges(versions)}" for flow, versions in flows.items()]
    head = style(f"{count(len(found.versions), 'version')} {verb}", "bold")
    return [head, *few(lines, FLOWS_SHOWN, "  and those of {} more flows (-o json lists all)")]


def _executions(found: Any) -> list[str]:
    verb = "removed" if found.deleted else "would be removed"
    head = style(f"{count(len(found.executions), 'execution')} {verb}", "bold")
    lines = [f"  {exec_id}" for exec_id in sorted(found.executions)]
    more = few(lines, EXECUTIONS_SHOWN, "  and {} more (-o json lists all)")
    return [f"{head}, with logs, results and idempotency keys", *more]


def _later(found: Any) -> list[str]:
    if not found.later.count:
        return []
    more = f"{_amount(found.later)} more"
    return [style(f"{more} can go once nothing has needed them for the grace period: run it again then", "dim")]


def _amount(amount: Any) -> str:
    return f"{count(amount.count, 'object')} ({size_text(amount.bytes)})"


def pruned_lines(found: Any, command: str) -> list[str]:
    """Removed folders of this machine's caches; ``command`` removes them if nothing was removed yet."""
    if not found.folders:
        return [f"Nothing to remove below {found.cache}."]
    rows = [
        (one.path.removeprefix(f"{found.cache}/"), f"{one.days} days ago", size_text(one.bytes))
        for one in found.folders
    ]
    lines = columns(rows, ("removed" if found.deleted else "would be removed", "last used", "size"))
    lines.append(f"together {size_text(sum(one.bytes for one in found.folders))}, below {found.cache}")
    return lines if found.deleted else [*lines, "", f"Nothing was removed. To do it: {command}"]


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
CHANGED_FLOWS_SHOWN = 12
"""Flows of one generation that are listed one by one."""


def history_lines(page: Any, flow: str | None, project: str, *, width: int = WIDTH) -> list[str]:
    """Generations, newest first, each with its edits in words, in lines of ``width`` columns."""
    if page.head == 0:
        return [f"Nothing has happened in project {project} yet. Next: kitaru plan"]
    if not page.generations:
        return [_nothing(page, flow)]
    lines = [line for one in page.generations for line in (*_generation(one, width), "")]
    return [*lines, style(_older(page, flow), "dim")] if page.more else lines[:-1]


def chain_note(page: Any) -> str | None:
    """One line if the generations do not fit together; None if they do."""
    parts = [
        f"{count(len(numbers), 'generation')} {fault}, the oldest is {numbers[-1]}"
        for numbers, fault in ((page.missing, "missing from the log"), (page.unreadable, "unreadable"))
        if numbers
    ]
    parts += [page.problem] if page.problem else []
    if page.unchained and not parts:
        number = page.unchained[-1]
        more = f" (and {len(page.unchained) - 1} more)" if len(page.unchained) > 1 else ""
        parts = [f"generation {number}{more} does not fit the log: generation {number + 1} names another parent"]
    return f"warning: {'; '.join(parts)}. Look: kitaru store verify" if parts else None


def _nothing(page: Any, flow: str | None) -> str:
    subject = f"Nothing of {flow}" if flow is not None else "Nothing"
    if page.more:
        return f"{subject} in generations {page.reached} to {page.head}. Look at all: --all"
    left = "what is left of " if page.missing or page.unreadable else ""
    return f"{subject} in {left}generations 1 to {page.head}."


def _older(happened: Any, flow: str | None) -> str:
    if flow is None:
        return f"{count(happened.reached - 1, 'older generation')}: --limit N, or --all"
    return f"generations before {happened.reached} were not looked at: --limit N, or --all"


def _generation(one: Any, width: int) -> list[str]:
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
        reason = (edit.get("hold") or {}).get("reason")
        flows.setdefault(edit["flow"], []).append(f"{edit['text']} ({reason})" if reason else str(edit["text"]))
    shown = dict(list(flows.items())[:CHANGED_FLOWS_SHOWN])
    for name, words in shown.items():
        lines += _wrapped(f"{name}  {'; '.join(words)}", "    ", "      ", width)
    if left := len(flows) - len(shown):
        lines.append(style(f"    and {count(left, 'more flow')} (-o json shows all)", "dim"))
    if one.others:
        lines.append(style(f"    and {count(one.others, 'edit')} of other flows", "dim"))
    return lines


def _wrapped(text: str, first: str, rest: str, width: int) -> list[str]:
    return textwrap.wrap(
        text.replace("\n", " "),
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


def blame_lines(found: Any, *, width: int = WIDTH) -> list[str]:
    """The commit of an execution, its builder, and the route that chose it, in lines of ``width`` columns."""
    run = found.execution
    version = f"v{run.version}" if run.version is not None else "from source"
    renamed = f", now called {found.now}" if found.now != run.flow_name else ""
    release = found.release
    deleted = release is not None and release.deleted
    rows: dict[str, Sequence[str]] = {
        "runs": [f"{run.flow_name} {version}{renamed}"],
        "commit": _commit(found),
        "built": [f"{ago(release.at)} by {release.by}"] if release is not None else [],
        "deleted": [f"{ago(release.deleted_at)} by {release.deleted_by}"] if deleted else [],
        "chosen": _chosen(found),
        "started": [ago(run.created_at) + (f" by {run.actor}" if run.actor else "")],
        "replays": [run.original_exec_id] if run.original_exec_id is not None else [],
        "target": [run.target],
        "snapshot": [short(run.snapshot)] if run.snapshot is not None else [],
    }
    lines = [style(run.exec_id, "bold") + f"  {run.status}"]
    for name, texts in rows.items():
        for place, text in enumerate(texts):
            lines += _wrapped(text, f"  {'' if place else name:<8}  ", " " * 14, width)
    more = [f"{'     ' if place else 'more:'} {one}" for place, one in enumerate(found.commands)]
    return [*lines, "", *more] if more else lines


def _commit(found: Any) -> list[str]:
    if found.commit is None:
        return ["none was recorded: it ran from source that nobody released"]
    lines = [commit_words(found.commit)]
    if found.words is not None:
        lines.append(f"{found.words['subject']}")
        lines.append(f"{found.words['author']}, {found.words['date'][:10]}")
    return lines


def _chosen(found: Any) -> list[str]:
    run = found.execution
    if run.origin == "run":
        return ["by nobody's route: it was run from source"]
    if run.tag is None:
        return ["by its version number"]
    lines = [f"by route {run.tag}"]
    if run.draw is not None:
        lines[0] += f", {drawn(run.draw)}"
    route = found.route
    if found.route_problem:
        return [*lines, f"who moved it there can't be told: {found.route_problem} (kitaru store verify)"]
    if route is None:
        return [*lines, "the log does not tell any more who moved it there"]
    lines.append("{text}  by {by}, {ago} ({verb}, generation {generation})".format(**route, ago=ago(route["at"])))
    if route["message"]:
        lines.append('"{message}"'.format(**route))
    return lines


def copied_lines(copied: Any) -> list[str]:
    """Say how much was copied, and what the check of the copy found."""
    return [f"copied {count(copied.keys, 'key')} ({size_text(copied.size)})", *verified_lines(copied.verified)]


def verified_lines(found: Any) -> list[str]:
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
        deep = (count(found.objects, "object"), count(found.executions, "execution")) if found.deep else ()
        lines.append(f"{style('sound', 'good')}: {', '.join([count(found.generations, 'generation'), *deep])}")
    else:
        first = f"; the first bad generation is {found.first_bad}" if found.first_bad else ""
        lines += ["", style(f"not sound: {count(len(found.problems), 'problem')}{first}", "bad")]
    return [*lines, f"head:  {found.head}"] if found.head else lines
