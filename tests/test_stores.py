from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from kitaru.errors import KitaruStoreError, KitaruUsageError
from kitaru.store.open import open_store
from kitaru.store.port import Created
from tests.s3_servers import S3Server

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("url", ["file://a/store", "a/store", "./a/store", "file://./a/store"])
def test_relative_folder(tmp_path: Path, url: str) -> None:
    """A path, with file:// or without, is relative to ``base``; the address stays as it was written."""
    store = open_store(url, base=tmp_path)
    assert store.url == url
    assert store.durable_across_processes is True
    assert not (tmp_path / "a").exists()
    assert store.create("key", b"x") == Created()
    assert (tmp_path / "a" / "store" / "key").read_bytes() == b"x"


@pytest.mark.parametrize("scheme", ["file://", "", "FILE://"])
def test_absolute_folder(tmp_path: Path, scheme: str) -> None:
    """An absolute path is taken as it is."""
    open_store(f"{scheme}{tmp_path}/store", base=Path("/nowhere")).create("key", b"x")
    assert (tmp_path / "store" / "key").read_bytes() == b"x"


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the user's own folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("~/store", base=Path("/nowhere")).create("key", b"x")
    assert (tmp_path / "store" / "key").exists()


def test_memory(tmp_path: Path) -> None:
    """memory:// lives in this process, under its name."""
    url = f"memory://{uuid.uuid4().hex}"
    open_store(url, base=tmp_path).create("key", b"x")
    again = open_store(url, base=tmp_path)
    assert again.read("key") == b"x"
    assert again.durable_across_processes is False


def test_s3(moto_s3: S3Server, tmp_path: Path) -> None:
    """s3:// with options for s3fs."""
    url = moto_s3.new_prefix()
    store = open_store(url, base=tmp_path, options=moto_s3.options())
    assert store.create("key", b"x") == Created()
    assert store.url == url


def test_s3_from_the_environment(seaweedfs: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint, credentials and region are those of the AWS_* variables, AWS_REGION included."""
    url = seaweedfs.new_prefix()
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    store = open_store(url, base=tmp_path)
    assert store.create("key", b"x") == Created()
    client = store._filesystem()._s3  # type: ignore[attr-defined]
    assert client.meta.region_name == "eu-central-1"
    assert client.meta.endpoint_url == seaweedfs.endpoint
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs.endpoint)
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    store = open_store(url, base=tmp_path)
    assert store.read("key") == b"x"
    assert store._filesystem()._s3.meta.region_name == "eu-west-1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("gs://bucket", "Google"),
        ("gcs://bucket", "Google"),
        ("az://container", "Azure"),
        ("abfs://account/container", "Azure"),
        ("http://127.0.0.1:9000/bucket", "AWS_ENDPOINT_URL"),
        ("https://host/bucket", "AWS_ENDPOINT_URL"),
        ("s3a://bucket/prefix", "s3://bucket"),
        ("local://path", "file://"),
        ("ftp://host/path", "file://"),
        ("simplecache::s3://x", "file://"),
    ],
)
def test_other_protocols(tmp_path: Path, url: str, instead: str) -> None:
    """What Kitaru has no atomic create for is refused by name, with what to use instead."""
    with pytest.raises(KitaruUsageError) as caught:
        open_store(url, base=tmp_path)
    assert re.search(instead, caught.value.hint)
    assert caught.value.hint
    assert url.split(":")[0] in str(caught.value)


@pytest.mark.parametrize("url", ["s3://AKIA:hush@bucket/x", "https://me:hush@host/bucket", "gs://me:hush@bucket"])
def test_credentials_are_refused(tmp_path: Path, url: str) -> None:
    """Credentials in an address are refused, and not repeated."""
    with pytest.raises(KitaruUsageError, match="credentials") as caught:
        open_store(url, base=tmp_path)
    assert "hush" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("url", ["", "file://", "a\0b"])
def test_no_folder(tmp_path: Path, url: str) -> None:
    """An address without a path is refused."""
    with pytest.raises(KitaruUsageError):
        open_store(url, base=tmp_path)


def test_options_that_nobody_takes(tmp_path: Path) -> None:
    """Options for a store that has none are an error, not ignored."""
    with pytest.raises(KitaruUsageError, match="endpoint_url"):
        open_store("file://store", base=tmp_path, options={"endpoint_url": "x"})


WITHOUT_S3FS = """
import sys
from pathlib import Path
sys.modules["s3fs"] = None
from kitaru.store.open import open_store
from kitaru.errors import KitaruStoreError
try:
    open_store("s3://bucket/prefix", base=Path("."))
except KitaruStoreError as error:
    print(error, "|", error.hint)
"""


def test_s3_without_its_extra() -> None:
    """Where s3fs is not installed, the error names what to install."""
    ran = subprocess.run([sys.executable, "-c", WITHOUT_S3FS], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "'s3fs' is not installed" in ran.stdout
    assert "pip install 's3fs" in ran.stdout


def test_only_what_is_needed_is_imported() -> None:
    """A local store imports neither fsspec nor s3fs; an s3 one is opened without a request."""
    code = (
        "import sys; from pathlib import Path; from kitaru.store.open import open_store; "
        "open_store('file://x', base=Path('.')); print({'fsspec', 's3fs', 'asyncio'} & set(sys.modules) or 'light')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=dict(os.environ)
    )
    assert ran.stdout == "light\n"


def test_opening_does_not_touch_the_store(tmp_path: Path) -> None:
    """A store that can't be reached fails when it is used, not when it is named."""
    store = open_store("s3://bucket/x", base=tmp_path, options={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(KitaruStoreError):
        store.read("key")
