"""What a collector found, in words."""

from __future__ import annotations

from typing import Any

from kitaru.cli.views.words import Style, bare, columns, count

FLOWS_SHOWN = 20
EXECUTIONS_SHOWN = 5


def collected_lines(found: Any, command: str, style: Style = bare) -> list[str]:
    """Versions and executions that go, objects by kind, and what to type where nothing was removed yet."""
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
    if found.restored:
        lines.append(style(f"{count(found.restored, 'object')} came to be needed meanwhile, and stayed", "dim"))
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
    """Folders of this machine's caches that go."""
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
