"""Checkpoints that run in a process of their own: found there by this module's name."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kitaru
from kitaru import checkpoint, flow

HELD: list[int] = []


class OutOfStockError(Exception):
    def __init__(self, item: str, left: int) -> None:
        super().__init__(item, left)
        self.item = item
        self.left = left


class StubbornError(Exception):
    def __init__(self, item: str, *, handle: Any) -> None:
        super().__init__(item)
        self.handle = handle


@dataclass
class Parcel:
    weight: float


@checkpoint(runtime="isolated")
def where(parcel: Parcel, note: bytes = b"") -> dict[str, Any]:
    HELD.append(1)
    print("printed in the child")
    print("to stderr", file=sys.stderr)
    logging.getLogger("child").warning("logged in the child")
    subprocess.run(["echo", "by a grandchild"], check=True)
    return {"pid": os.getpid(), "parcel": parcel, "held": len(HELD), "note": note, "cwd": str(Path.cwd())}


@checkpoint(runtime="isolated")
async def where_async(n: int) -> tuple[int, int]:
    await asyncio.sleep(0)
    return n, os.getpid()


@checkpoint(runtime="isolated")
def raising(kind: str) -> None:
    if kind == "typed":
        raise OutOfStockError("tea", 3)
    if kind == "stubborn":
        raise StubbornError("tea", handle=lambda: None)
    if kind == "exit":
        sys.exit(3)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(kind)


@checkpoint(runtime="isolated", timeout=3)
def sleeping(marker: str, seconds: float) -> int:
    child = subprocess.Popen(["sleep", "300"])
    with open(marker, "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    time.sleep(seconds)
    return os.getpid()


@checkpoint(runtime="isolated")
def unending(marker: str) -> None:
    with open(marker, "w") as file:
        file.write(str(os.getpid()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(300)


@checkpoint(runtime="isolated", timeout=3, retries=1)
def defiant(marker: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(marker, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(300)


@checkpoint(runtime="isolated")
def noting(n: int) -> Any:
    kitaru.log(rows=n, nested={"a": 1})
    kitaru.log(nested={"b": 2})
    kitaru.save("table", [n, n])
    return n


@checkpoint(runtime="isolated")
def nesting() -> Any:
    return raising("x")


@checkpoint(runtime="isolated")
def opaque(thing: Any) -> int:
    return len(thing)


@flow
def unending_flow(marker: str) -> None:
    unending(marker)


@checkpoint(runtime="isolated")
def learning(where: str) -> str:
    os.environ["X_TOKEN"] = f"{where}-value-31415"
    print("python:", os.environ["X_TOKEN"])
    os.write(1, f"descriptor: {os.environ['X_TOKEN']}\n".encode())
    subprocess.run(["sh", "-c", 'echo "grandchild: $X_TOKEN"'], check=True)
    if where == "fork":
        child = os.fork()
        if not child:
            os.environ["Y_TOKEN"] = "of-the-forked-one"
            os._exit(0)
        os.waitpid(child, 0)
    if where == "fails":
        raise ValueError(f"refused {os.environ['X_TOKEN']}")
    return where
