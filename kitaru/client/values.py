"""Stored values for callers: as their own types, or as plain data if these are not at hand."""

from __future__ import annotations

from typing import Any

from kitaru.client.session import Session
from kitaru.errors import KitaruValueError
from kitaru.model.event import JSON_FORMATS, Value
from kitaru.values.stored import get, get_plain
from kitaru.values.typed_json import TypeGone

IMPORTABLE = (
    "to have it as its own type, make the module of that importable here (the flow's project installed, or its "
    "folder on PYTHONPATH), and the libraries that it uses"
)


def read_value(session: Session, value: Value, subject: str, *, exec_id: str = "EXEC") -> Any:
    """A stored value as its own type. ``KitaruValueError`` if this process can't import that, with the way to have
    it as plain data; ``exec_id`` is of the execution that holds it.
    """
    try:
        return get(session.store, session.project, value, subject=subject, checked=True)
    except KitaruValueError as error:
        if not isinstance(error.__cause__, (TypeGone, ImportError)):
            raise
        hint = f"Nothing is lost: {IMPORTABLE}."
        if value.format in JSON_FORMATS:
            asked = "as_plain=True, as in client.executions.result(id, as_plain=True)"
            hint += f" As plain data: {asked}, or kitaru executions get {exec_id}."
        raise KitaruValueError(error.message, hint=hint) from error.__cause__


def plain_value(session: Session, value: Value, subject: str) -> Any:
    """A stored value as plain data, of any type.

    A value without a JSON form (a frame, a pickle) is read as it is: ``KitaruValueError`` without its library.
    """
    if value.format in JSON_FORMATS:
        return get_plain(session.store, session.project, value, subject=subject, checked=True)
    return read_value(session, value, subject)
