from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.model.pieces import Pieces
from kitaru.store import s3
from kitaru.store.open import check_store
from kitaru.store.port import Created, Store, Taken
from kitaru.store.s3 import S3Store
from tests.fault_proxy import FaultProxy
from tests.s3_servers import S3Server
from tests.store_contract import StoreContract

ROOT = Path(__file__).parent.parent


def open_bucket(server: S3Server) -> S3Store:
    return S3Store(server.new_prefix(), server.options())


class TestSeaweedFS(StoreContract):
    """SeaweedFS keeps racers for one key waiting for seconds, hence few races."""

    races = 2
    examples = 25
    largest = 40 * 2**20

    @pytest.fixture
    def store(self, seaweedfs: S3Server) -> S3Store:
        return open_bucket(seaweedfs)

    @pytest.fixture
    def reopened(self, store: Store, seaweedfs: S3Server) -> Callable[[], Store]:
        return lambda: S3Store(store.url, seaweedfs.options())


class TestMoto(StoreContract):
    races = 10
    examples = 25
    largest = 40 * 2**20
    file_and_folder_of_one_name = True

    @pytest.fixture
    def store(self, moto_s3: S3Server) -> S3Store:
        return open_bucket(moto_s3)

    @pytest.fixture
    def reopened(self, store: Store, moto_s3: S3Server) -> Callable[[], Store]:
        return lambda: S3Store(store.url, moto_s3.options())


@pytest.fixture(params=["seaweedfs", "moto_s3"])
def server(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue(request.param)
    return server


def test_a_large_object_is_never_held_twice(server: S3Server) -> None:
    """Read: once. Found to be there already: not even once, and not sent again. Others of its length: told apart."""
    store = open_bucket(server)
    body = os.urandom(1000) * 60_000
    assert store.create("large", body) == Created(found=False)
    tracemalloc.start()
    try:
        assert store.read("large") == body
        assert tracemalloc.get_traced_memory()[1] < 1.4 * len(body)
        tracemalloc.reset_peak()
        again = store.create("large", Pieces([body[:9], body[9:]]))
        assert isinstance(again, Created) and again.found
        assert tracemalloc.get_traced_memory()[1] < 1.4 * len(body)  # one copy is this test's own
    finally:
        tracemalloc.stop()
    other = body[:-1] + bytes([body[-1] ^ 1])
    assert store.create("large", other) == Taken(body)
    assert store.create("large", body[:-1]) == Taken(body)


def _sent(store: S3Store, work: Callable[[], object]) -> list[dict[str, str]]:
    """The headers of each PUT and POST of ``work``, with lower-case names."""
    store.read("nothing")
    seen: list[dict[str, str]] = []

    def note(request: Any, **_: Any) -> None:
        if request.method in ("PUT", "POST"):
            headers = request.headers.items()
            seen.append({name.lower(): v.decode() if isinstance(v, bytes) else str(v) for name, v in headers})

    store._filesystem()._s3.meta.events.register("before-send.s3", note)
    work()
    return seen


def test_every_body_has_a_checksum(server: S3Server) -> None:
    """Small ones and the parts of large ones: a bucket with Object Lock takes no others."""
    store = open_bucket(server)
    (small,) = _sent(store, lambda: store.create("small", b"a body"))
    assert small["content-md5"] == b64encode(hashlib.md5(b"a body").digest()).decode()
    body = os.urandom(1000) * 40_000
    parts = [one for one in _sent(store, lambda: store.create("large", body)) if "content-md5" in one]
    assert len(parts) == 3
    assert store.read("large") == body


def test_checksums_of_the_environment_take_the_place_of_ours(
    moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_REQUEST_CHECKSUM_CALCULATION counts as it does for every AWS tool."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    store = open_bucket(moto_s3)
    (sent,) = _sent(store, lambda: store.create("small", b"a body"))
    assert "content-md5" not in sent
    assert any(name.startswith(("x-amz-checksum-", "x-amz-trailer")) for name in sent)
    assert store.read("small") == b"a body"


def test_encryption_by_the_server_is_asked_for(moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """KITARU_S3_SSE names the algorithm and the key; a word that means nothing is refused."""
    monkeypatch.setenv("KITARU_S3_SSE", "aws:kms:alias/mine")
    store = open_bucket(moto_s3)
    (sent,) = _sent(store, lambda: store.create("small", b"a body"))
    assert sent["x-amz-server-side-encryption"] == "aws:kms"
    assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/mine"
    for wrong in ("kms", "aws:kms2"):
        monkeypatch.setenv("KITARU_S3_SSE", wrong)
        with pytest.raises(KitaruUsageError, match="aws:kms:KEY"):
            S3Store("s3://bucket")


def test_more_names_than_a_page(seaweedfs: S3Server) -> None:
    """1,100 keys come as one sorted list, and from ``after`` on."""
    store = open_bucket(seaweedfs)
    names = [f"{number:012d}.json" for number in range(1, 1101)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.overwrite(f"p/lock/{name}", b"x"), names))
    assert store.names("p/lock/") == names
    assert store.names("p/lock/", after=names[50]) == names[51:]
    assert store.names("p/lock/", after=names[1098]) == names[1099:]
    assert store.names("p/lock/", after=names[1099]) == []


def test_small_pages(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and folders that fill several pages are each named once, beside neighbours that begin alike."""
    store = open_bucket(server)
    names = sorted(f"{number:03d}{'/' if number % 3 == 0 else '.json'}" for number in range(25))
    for name in names:
        store.overwrite(f"p/lock/{name}leaf" if name.endswith("/") else f"p/lock/{name}", b"x")
    store.overwrite("p/lock.json", b"x")
    store.overwrite("p/lock-2/x", b"x")
    monkeypatch.setattr(s3, "PAGE_NAMES", 4)
    assert store.names("p/lock/") == names
    for after in ("", "000/", "004.json", "006", "006/", "0065", "024/", "zzz"):
        assert store.names("p/lock/", after=after) == [name for name in names if name.rstrip("/") > after], after


def test_store_at_the_root_of_a_bucket(server: S3Server) -> None:
    """A bucket without a prefix is a store as well, and sees a prefix of it as a folder."""
    whole = S3Store(f"s3://{server.new_bucket()}", server.options())
    part = S3Store(f"{whole.url}/team/", server.options())
    assert part.create("a/key", b"x") == Created()
    assert whole.read("team/a/key") == b"x"
    assert whole.names("") == ["team/"]
    assert part.names("") == ["a/"]
    assert part.names("", after="a/") == []


# --- requests, counted ---


@pytest.fixture
def proxy(moto_s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(moto_s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy, moto_s3: S3Server) -> S3Store:
    """A store whose requests all pass the proxy."""
    store = S3Store(moto_s3.new_prefix(), moto_s3.options(endpoint_url=proxy.endpoint))
    store.read("warm")
    proxy.requests.clear()
    return store


def test_one_request_each(store: S3Store, proxy: FaultProxy) -> None:
    """Every verb is one request, found or not; a lost create takes a second one to see who won."""

    def methods() -> list[str]:
        seen = [method for method, _ in proxy.requests]
        proxy.requests.clear()
        return seen

    store.create("a/key", b"x")
    assert methods() == ["PUT"]
    store.read("a/key")
    assert methods() == ["GET"]
    store.read("a/absent")
    assert methods() == ["GET"]
    store.overwrite("a/hint", b"x")
    assert methods() == ["PUT"]
    store.names("a/")
    assert methods() == ["GET"]
    store.names("a/", after="hint")
    assert methods() == ["GET"]
    store.remove("a/key")
    assert methods() == ["DELETE"]
    store.create("a/hint", b"y")
    assert methods() == ["PUT", "GET"]


def test_first_use_sends_nothing_else(proxy: FaultProxy, moto_s3: S3Server) -> None:
    """Opening a store sends nothing, and its first verb one request."""
    store = S3Store(moto_s3.new_prefix(), moto_s3.options(endpoint_url=proxy.endpoint))
    assert proxy.requests == []
    store.create("key", b"x")
    assert [method for method, _ in proxy.requests] == ["PUT"]


def test_after_is_left_to_the_server(store: S3Store, proxy: FaultProxy) -> None:
    """A listing from ``after`` on does not read what comes before it."""
    store.names("a/", after="000000000042.json")
    assert "%2Fprefix%2Fa%2F000000000042.json" in proxy.requests[0][1].partition("start-after=")[2]


# --- lost replies ---


@pytest.mark.parametrize("fault", ["cut-after", "500-after"])
def test_lost_reply_to_our_own_create(store: S3Store, proxy: FaultProxy, fault: str) -> None:
    """A create whose answer is lost is found to have landed, though a second try would say that the key is taken."""
    proxy.fail("PUT", fault)
    assert store.create("slot", b"ours") == Created()
    assert store.read("slot") == b"ours"


@pytest.mark.parametrize("fault", ["cut-after", "500-after"])
def test_lost_reply_to_a_create_that_lost(store: S3Store, proxy: FaultProxy, fault: str) -> None:
    """Where the lost answer was a no, the other's bytes come back."""
    store.create("slot", b"theirs")
    proxy.fail("PUT", fault)
    assert store.create("slot", b"ours") == Taken(b"theirs")
    assert store.read("slot") == b"theirs"


@pytest.mark.parametrize("fault", ["cut-after", "500-after", "cut-before", "500-before", "503-before", "409-before"])
def test_one_failure_of_each_kind(store: S3Store, proxy: FaultProxy, fault: str) -> None:
    """One lost or refused try, applied or not, leaves every verb's outcome as if it had not happened."""
    proxy.fail("PUT", fault)
    assert store.create("slot", b"ours") == Created()
    proxy.fail("PUT", fault)
    store.overwrite("hint", b"hint")
    proxy.fail("GET", fault)
    assert store.read("hint") == b"hint"
    proxy.fail("GET", fault)
    assert store.names("") == ["hint", "slot"]
    proxy.fail("DELETE", fault)
    store.remove("hint")
    assert store.names("") == ["slot"]


def test_reply_and_read_back_lost(store: S3Store, proxy: FaultProxy) -> None:
    """The look at who won may be lost as well."""
    faults = {"PUT": ["500-after", "cut-after"], "GET": ["cut-before", "half-body", "503-before"]}
    proxy.choose = lambda method, _path: faults[method].pop(0) if faults.get(method) else None
    assert store.create("slot", b"ours") == Created()


def test_half_an_answer_is_none(store: S3Store, proxy: FaultProxy) -> None:
    """A body that breaks off is read again, never given out."""
    body = bytes(range(256)) * 400
    store.create("slot", body)
    proxy.fail("GET", "half-body")
    assert store.read("slot") == body


@pytest.mark.parametrize("fault", ["409-before", "412-before", "500-before"])
def test_failure_that_goes_on(store: S3Store, proxy: FaultProxy, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that only ever refuses is given up on, with its own words, and nothing is stored."""
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.01)
    proxy.fail_always("PUT", fault)
    with pytest.raises(KitaruStoreError, match=f"answered {fault[:3]}.*made by the test") as caught:
        store.create("slot", b"ours")
    assert proxy.endpoint in str(caught.value)
    assert caught.value.hint
    assert len(proxy.requests) <= 30
    assert store.read("slot") is None


def test_conflicts_then_success(store: S3Store, proxy: FaultProxy) -> None:
    """409 is no verdict: the create goes on until there is one."""
    proxy.fail("PUT", "409-before", "409-before", "409-before")
    assert store.create("slot", b"ours") == Created()


def test_log_under_lost_replies(store: S3Store, proxy: FaultProxy) -> None:
    """With every fifth reply lost, racing writers of a log still append each entry exactly once."""
    guard, counted = threading.Lock(), 0

    def choose(method: str, path: str) -> str | None:
        nonlocal counted
        if method != "PUT":
            return None
        with guard:
            counted += 1
            return ("cut-after", "500-after")[counted % 2] if counted % 5 == 0 else None

    proxy.choose = choose
    entries, writers = 8, 4

    def append(writer: int) -> None:
        number = 1
        for entry in range(entries):
            while store.create(f"log/{number:012d}", f"{writer}:{entry}".encode()) != Created():
                number += 1

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(append, range(writers)))
    bodies = [store.read(f"log/{name}") for name in store.names("log/")]
    assert sorted(body.decode() for body in bodies if body) == [
        f"{writer}:{entry}" for writer in range(writers) for entry in range(entries)
    ]


def test_large_object_in_parts(store: S3Store, proxy: FaultProxy) -> None:
    """A body in parts is created once, too, and a lost completion is read back."""
    body = os.urandom(33 * 2**20)
    lost = ["500-after"]
    proxy.choose = lambda method, path: lost.pop() if method == "POST" and "uploadId" in path and lost else None
    assert store.create("large", body) == Created()
    assert lost == []
    assert store.create("large", body[::-1]) == Taken(body)


# --- servers that lie ---


def test_probe_finds_a_server_that_ignores_the_condition(store: S3Store, proxy: FaultProxy) -> None:
    """A server that overwrites whatever the condition says can't be a store, and is left clean."""
    proxy.fail_always("PUT", "drop-condition")
    with pytest.raises(KitaruStoreError, match="overwrites a key that exists") as caught:
        check_store(store)
    assert "If-None-Match" in caught.value.hint
    assert store.names("") == []


def test_probe_finds_a_server_that_ignores_it_sometimes(store: S3Store, proxy: FaultProxy) -> None:
    """A server that is right one by one, and wrong under load, is found by the races."""
    guard, counted = threading.Lock(), 0

    def choose(method: str, path: str) -> str | None:
        nonlocal counted
        with guard:
            counted += method == "PUT"
            return "drop-condition" if method == "PUT" and counted > 10 and counted % 3 == 0 else None

    proxy.choose = choose
    with pytest.raises(KitaruStoreError, match=r"racing writers|does not hold"):
        check_store(store)


# --- what goes wrong for people ---


def complaint(store: S3Store) -> KitaruStoreError:
    """The error that each verb gives: the same reason and hint for all."""
    errors = []
    for call in (
        lambda: store.read("key"),
        lambda: store.create("key", b"x"),
        lambda: store.names("p/"),
        lambda: store.overwrite("key", b"x"),
    ):
        with pytest.raises(KitaruStoreError) as caught:
            call()
        errors.append(caught.value)
    assert len({error.hint for error in errors}) == 1
    assert all(store.url in str(error) for error in errors)
    return errors[0]


def test_no_such_bucket(server: S3Server) -> None:
    """A bucket that is not there is named, with what to do."""
    error = complaint(S3Store("s3://kitaru-not-there/prefix", server.options()))
    assert "there is no such bucket" in str(error)
    assert "'kitaru-not-there'" in str(error)
    assert "create the bucket" in error.hint


def test_wrong_access_key(seaweedfs: S3Server) -> None:
    """An access key that the server does not know."""
    store = S3Store(f"s3://{seaweedfs.new_bucket()}", seaweedfs.options(key="NOBODY"))
    error = complaint(store)
    assert "does not know this access key" in str(error)
    assert "AWS_ACCESS_KEY_ID" in error.hint


def test_wrong_secret_key(seaweedfs: S3Server) -> None:
    """A secret key that is not the access key's; it is not shown."""
    store = S3Store(f"s3://{seaweedfs.new_bucket()}", seaweedfs.options(secret="wrong-secret"))
    error = complaint(store)
    assert "does not belong to the access key" in str(error)
    assert "wrong-secret" not in str(error) + error.hint


@pytest.mark.parametrize(
    ("answer", "reason", "hint"),
    [
        ("403-AccessDenied", "access denied", "s3:ListBucket"),
        ("400-AuthorizationHeaderMalformed", "another region", "AWS_REGION"),
        ("301-PermanentRedirect", "another region", "AWS_REGION"),
        ("400-ExpiredToken", "have expired", "aws sso login"),
        ("403-RequestTimeTooSkewed", "clock is wrong", "set the clock"),
        ("501-NotImplemented", "no conditional writes", "file://"),
        ("400-SomethingNew", "answered 400 SomethingNew", "log"),
    ],
)
def test_refusals(store: S3Store, proxy: FaultProxy, answer: str, reason: str, hint: str) -> None:
    """What a server refuses is told in plain words, at once, with what to do."""
    # With HEAD botocore asks where a bucket is.
    proxy.choose = lambda method, _path: None if method == "HEAD" else f"{answer}-before"
    error = complaint(store)
    assert reason in str(error)
    assert "made by the test" in str(error)
    assert hint in error.hint
    assert len(proxy.requests) <= 12


def test_missing_certificates(store: S3Store, moto_s3: S3Server, tmp_path: Path) -> None:
    """A file of authorities that is not there is no reason to try again."""
    verify = {"verify": str(tmp_path / "absent.pem")}
    unready = S3Store(store.url, moto_s3.options(client_kwargs=verify))
    assert "could not be made" in str(complaint(unready))


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No AWS settings at all, from variables, files or the machine."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def test_no_credentials(seaweedfs: S3Server, bare_environment: pytest.MonkeyPatch) -> None:
    """No credentials anywhere: says which variables to set."""
    error = complaint(S3Store("s3://kitaru-bucket", {"endpoint_url": seaweedfs.endpoint}))
    assert "there are no credentials" in str(error)
    assert "AWS_ACCESS_KEY_ID" in error.hint
    assert "AWS_PROFILE" in error.hint


def test_no_such_profile(seaweedfs: S3Server, bare_environment: pytest.MonkeyPatch) -> None:
    """A profile that is not there is named."""
    bare_environment.setenv("AWS_PROFILE", "production")
    error = complaint(S3Store("s3://kitaru-bucket", {"endpoint_url": seaweedfs.endpoint}))
    assert "production" in str(error)
    assert "AWS_PROFILE" in error.hint


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_nobody_answers(host: str) -> None:
    """A port where nobody listens, and a name that nobody has, fail within seconds and are named."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        endpoint = f"http://{host}:{held.getsockname()[1]}"
    store = S3Store("s3://kitaru-bucket", {"endpoint_url": endpoint, "key": "k", "secret": "s"})
    for call in (lambda: store.read("key"), lambda: store.create("key", b"x")):
        begun = time.monotonic()
        with pytest.raises(KitaruStoreError, match=f"no connection to {endpoint}") as caught:
            call()
        assert time.monotonic() - begun < 15
        assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_server_that_never_answers(
    store: S3Store, proxy: FaultProxy, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes a request and says nothing is given up on; what it did meanwhile is found."""
    impatient = S3Store(
        store.url, moto_s3.options(endpoint_url=proxy.endpoint, config_kwargs={"read_timeout": 1, "connect_timeout": 1})
    )
    proxy.fail("PUT", "silent")
    assert impatient.create("slot", b"ours") == Created()
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 1.5)
    proxy.choose = lambda _method, _path: "silent"
    begun = time.monotonic()
    with pytest.raises(KitaruStoreError, match="no usable answer"):
        impatient.read("slot")
    assert time.monotonic() - begun < 10


def test_old_botocore(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A botocore that would drop the condition without a word is refused before it writes."""
    shape = store._filesystem()._s3.meta.service_model.operation_model("PutObject").input_shape
    monkeypatch.delitem(shape.members, "IfNoneMatch")
    with pytest.raises(KitaruStoreError, match="conditional writes") as caught:
        store.create("slot", b"x")
    assert "pip install" in caught.value.hint
    monkeypatch.undo()
    assert store.read("slot") is None


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///prefix", "s3://b", "s3://bucket/a//b", "s3://bucket/../x", "s3://bucket/x?versionId=1"]
)
def test_bad_address(url: str) -> None:
    """An address that can't be one is refused at once."""
    with pytest.raises(KitaruUsageError):
        S3Store(url)


# --- processes, threads, loops, environment ---

FORKING = """
import os, sys
from kitaru.store.s3 import S3Store
from kitaru.store.port import Created
store = S3Store(sys.argv[1])
assert store.create("parent", b"x") == Created()
child = os.fork()
if child == 0:
    fine = store.create("child", b"y") == Created() and store.read("parent") == b"x"
    os._exit(0 if fine else 1)
assert os.waitpid(child, 0)[1] == 0
assert store.read("child") == b"y"
"""

IN_A_LOOP = """
import asyncio, sys
from kitaru.store.s3 import S3Store
from kitaru.store.port import Created
async def main():
    store = S3Store(sys.argv[1])
    assert store.create("inside", b"x") == Created()
    assert store.read("inside") == b"x"
asyncio.run(main())
"""


@pytest.mark.parametrize("code", [FORKING, IN_A_LOOP])
def test_in_a_process_of_its_own(server: S3Server, code: str, bare_environment: pytest.MonkeyPatch) -> None:
    """Settings come from AWS_* variables alone; a forked child and a running event loop can use a store; no noise."""
    ran = subprocess.run(
        [sys.executable, "-c", code, server.new_prefix()],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **server.environment()},
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
