"""Drawing a version from a weighted route. Pure: the same key draws the same version, on every machine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from kitaru.model.route import Holder


def draw(flow: str, tag: str, holders: Sequence[Holder], key: str) -> Holder:
    """The holder that ``key`` draws: over many keys, each is drawn in proportion to its weight.

    Weighted rendezvous hashing: where weights change, or a version joins or leaves, only the keys that must move do;
    a version whose share grows keeps every key that it had.
    """
    return max(holders, key=lambda holder: (_score(flow, tag, holder, key), holder.version))


def _score(flow: str, tag: str, holder: Holder, key: str) -> float:
    digest = hashlib.sha256(f"{flow}\n{tag}\n{holder.version}\n{key}".encode("utf-8", "surrogatepass")).digest()
    # A number strictly between 0 and 1, of 53 bits: all that a float holds exactly.
    chance = (int.from_bytes(digest[:8], "big") >> 11) + 0.5
    return -holder.weight / math.log(chance / 2**53)
