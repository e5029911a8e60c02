"""Secrets that come late, are written in other forms, or stand in addresses are hidden like any other."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru import checkpoint, flow, log
from kitaru.errors import KitaruUserCodeError
from kitaru.masking import Masking, secret_values
from kitaru.model.execution import LogLine
from kitaru.run.executor import execute
from kitaru.run.logs import LogWriter
from tests.execution_lab import PROJECT, Lab, read_lines

LATE = "latevalue777"


@checkpoint
def late() -> None:
    print("before:", LATE)
    os.environ["LATE_TOKEN"] = LATE
    print("after:", os.environ["LATE_TOKEN"])
    log(seen=LATE)
    raise ValueError(f"refused {LATE}")


@flow
def learns() -> None:
    late()


def test_a_secret_that_is_set_during_the_run_is_hidden_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In logs, also in a line that was printed before and not yet written, in metadata, failure and traceback."""
    monkeypatch.delenv("LATE_TOKEN", raising=False)
    monkeypatch.setenv("LATE_TOKEN", "")  # so that it is taken away again
    lab = Lab(tmp_path)
    exec_id = lab.open(learns)
    with pytest.raises(KitaruUserCodeError):
        execute(learns, lab.recorded(exec_id), lab.host(mask=Masking(os.environ)))
    lines, _ = read_lines(lab.store, PROJECT, exec_id)
    assert [line.text for line in lines] == ["before: ***", "after: ***"]
    (call,) = lab.load(exec_id).checkpoints
    assert call.metadata == {"seen": "***"}
    assert call.failure is not None and call.failure.message == "refused ***"
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert stored and not any(LATE.encode() in body for body in stored)


def test_a_secret_that_was_there_for_a_moment_stays_one(tmp_path: Path) -> None:
    """A variable that is gone when its line is written is hidden there all the same."""
    environ: dict[str, str] = {}
    lab = Lab(tmp_path)
    writer = LogWriter(lab.store, PROJECT, "ex-000000000000000000", lambda: None, Masking(environ))
    environ["A_TOKEN"] = "short-lived-1"
    writer.add(LogLine("2026-11-22T00:00:00.000000Z", "stdout", "it is short-lived-1"))
    environ.clear()
    writer.flush()
    assert read_lines(lab.store, PROJECT, "ex-000000000000000000")[0][0].text == "it is ***"


def test_a_value_that_changes_is_hidden_with_what_it_was() -> None:
    """The second value of a variable is seen with the next text; the first stays hidden."""
    environ = {"A_TOKEN": "first-value"}
    mask = Masking(environ)
    assert mask("first-value second-value") == "*** second-value"
    environ["A_TOKEN"] = "second-value"
    assert mask("first-value second-value") == "*** ***"


@given(st.text(min_size=8, max_size=20), st.sampled_from(["", "'", '"', "'\""]))
def test_a_secret_is_hidden_as_programs_write_it(secret: str, beside: str) -> None:
    """As it is, in the ``repr`` of what holds it, whatever else that holds, and in JSON of both kinds."""
    mask = Masking({"A_SECRET": secret})
    for text in (secret, secret.upper(), quote(secret), quote_plus(secret), quote(secret, safe="").lower()):
        assert "***" in mask(text), text
    for text in (secret, repr(secret), repr({"t": secret + beside}), json.dumps([secret]), repr(beside + secret)):
        assert "***" in mask(text), text
    assert mask(json.dumps([beside, secret], ensure_ascii=False)).endswith('"***"]')


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("postgres://u:hunter2hunter2@h/db", {"hunter2hunter2"}),
        ("redis://:hunter2hunter2@h", {"hunter2hunter2"}),
        ("amqp://u:hunter%402hunter@h,amqp://u:other-pass@h2", {"hunter%402hunter", "hunter@2hunter", "other-pass"}),
        ("https://u:p@ss-word-1@h/x", {"p@ss-word-1"}),
        ("https://example.org/a:b/c@d", set()),
        ("postgres://postgres:postgres@localhost", set()),
        ("https://u:short@h", set()),
    ],
)
def test_passwords_in_addresses(value: str, expected: set[str]) -> None:
    """Whatever the variable's name; as it stands there and decoded; not one that is the user's name."""
    assert secret_values({"DATABASE_URL": value}) == expected


@pytest.mark.parametrize("name", ["PGPASSWORD", "MYSQL_PASSWD", "SSH_PASSPHRASE", "Db_Password"])
def test_names_that_tell(name: str) -> None:
    """Passwords go by several names."""
    assert secret_values({name: "0123456789"}) == {"0123456789"}


def test_looking_at_the_environment_again_costs_little() -> None:
    """Ten thousand lines are masked in well under a second, the environment looked at with each."""
    mask = Masking(os.environ)
    begun = time.process_time()
    for _ in range(10_000):
        mask("a line without any secret in it")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"A_KEY": "0123456789", "KEY": "abcdefgh", "MONKEY": "abcdefghi"}, {"0123456789", "abcdefgh"}),
        ({"A_TOKEN": "short"}, set()),
        ({"my_password": "long enough"}, {"long enough"}),
        ({"KITARU_SECRET_DB": '{"URL": "postgres://me"}'}, {'{"URL": "postgres://me"}', "postgres://me"}),
        ({"KITARU_SECRET_DB": "no json at all"}, {"no json at all"}),
        ({"KITARU_SECRET_VARIABLES": "DSN,OTHER", "DSN": "postgres://me"}, {"postgres://me"}),
        (
            {"SSH_KEY": "-----BEGIN\nAAAABBBBCCCC\nshort\n"},
            {"-----BEGIN\nAAAABBBBCCCC\nshort\n", "-----BEGIN", "AAAABBBBCCCC"},
        ),
    ],
)
def test_what_counts_as_secret(environ: dict[str, str], expected: set[str]) -> None:
    """Secrets and their members, what a runner named, what a name tells; nothing shorter than eight characters."""
    assert secret_values(environ) == expected


def test_the_longer_secret_is_hidden_first() -> None:
    """Where one secret begins with another, nothing of the longer is left."""
    mask = Masking({"A_KEY": "12345678", "B_KEY": "1234567890"})
    assert mask("x 1234567890 y 12345678 z") == "x *** y *** z"
    assert Masking({"HOME": "/root"})("/root") == "/root"
