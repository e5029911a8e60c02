"""What executions say to a plan: which of a flow's have not ended, and what the newest were started with."""

from __future__ import annotations

from kitaru.client.reading import plain_value
from kitaru.client.session import Session
from kitaru.core.consequences import InUse, Stored
from kitaru.errors import KitaruError


def used_by(session: Session, flow: str) -> list[InUse]:
    """The flow's executions that have not ended."""
    return [InUse(one.exec_id, one.version, one.status) for one in session.executions.open_ones(flow)]


def stored_inputs(session: Session, flow: str, limit: int) -> list[Stored]:
    """The inputs of the flow's newest executions; one whose inputs can't be read says nothing."""
    found = []
    for execution in session.executions.newest(flow=flow, limit=limit):
        try:
            inputs = plain_value(session, execution.inputs, f"the inputs of {execution.exec_id}")
        except KitaruError:
            continue
        if isinstance(inputs, dict):
            found.append(Stored(execution.exec_id, inputs))
    return found
