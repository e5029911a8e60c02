"""Checkpoints and a flow that several tests of the executor run, and a list of what ran."""

from __future__ import annotations

import asyncio
from typing import Any

from kitaru import checkpoint, flow

RAN: list[Any] = []
"""What ran since the test began, in order."""


@checkpoint
def add(a: int, b: int = 1) -> int:
    RAN.append((a, b))
    return a + b


@checkpoint
async def aadd(a: int, b: int = 1) -> int:
    RAN.append((a, b))
    await asyncio.sleep(0.001)
    return a + b


@checkpoint
def boom(text: str) -> None:
    RAN.append(text)
    raise ValueError(text)


@checkpoint(retries=2)
def flaky(good_at: int) -> int:
    RAN.append(good_at)
    if len(RAN) < good_at:
        raise OSError(f"attempt {len(RAN)}")
    return len(RAN)


@flow
def chain(n: int) -> int:
    value = 0
    for _ in range(n):
        value = add(value)
    return value
