from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kitaru.errors import KitaruManifestError
from kitaru.manifest import manifest_yaml
from kitaru.manifest.manifest_yaml import load
from tests.manifest_files import FULL, HEAD, put


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_manifest_read_before_is_the_same_in_the_same_order(folder: Path) -> None:
    """A remembered manifest equals a read one, its flows in the order of the file."""
    cache = folder / "cache"
    text = FULL.replace("  research_agent:", "  zebra: {target: z.py:z}\n  research_agent:")
    text += "  default: {}\n"
    path = put(folder, text)
    for target in (None, "production"):
        first, second = load(path, target=target, cache=cache), load(path, target=target, cache=cache)
        assert first == second
        assert first.manifest == load(path, target=target).manifest
        assert list(second.manifest.flows) == ["zebra", "research_agent"]
        assert second.problem("x", "flows", "zebra").line == first.problem("x", "flows", "zebra").line
    assert len(list(cache.iterdir())) == 2


def test_a_remembered_load_reads_no_yaml(folder: Path) -> None:
    """A second load in a new process imports neither ruamel nor packaging."""
    put(folder, FULL)
    script = (
        "import sys\nfrom pathlib import Path\nfrom kitaru.manifest.manifest_yaml import load\n"
        "print(len(load(Path('kitaru.yaml'), cache=Path('cache')).manifest.flows))\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'ruamel', 'packaging', 'jinja2'}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(manifest_yaml.__file__).resolve().parents[2])}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
        ).stdout
        for _ in range(2)
    ]
    assert outputs[0].splitlines() == ["1", "['packaging', 'ruamel']"]
    assert outputs[1].splitlines() == ["1", "[]"]


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00\xff", b"0" * 64 + b"\n{}", None])
def test_a_damaged_entry_is_read_again_and_mended(folder: Path, damage: bytes | None) -> None:
    """Cut short, overwritten or changed by a bit, an entry of the cache is never believed."""
    cache = folder / "cache"
    path = put(folder, FULL)
    expected = load(path, cache=cache).manifest
    (entry,) = cache.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(good.replace(b'"retries":1', b'"retries":2') if damage is None else damage)
    assert load(path, cache=cache).manifest == expected
    assert entry.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(folder: Path) -> None:
    """A file in the folder's place, or a folder in the entry's place, is passed over."""
    path = put(folder, FULL)
    (folder / "file").write_text("here")
    assert load(path, cache=folder / "file").manifest.project == "research"
    assert load(path, cache=folder / "file" / "below").manifest.project == "research"
    cache = folder / "cache"
    load(path, cache=cache)
    (entry,) = cache.iterdir()
    entry.unlink()
    entry.mkdir()
    assert load(path, cache=cache).manifest.project == "research"
    assert [each.name for each in cache.iterdir()] == [entry.name]


def test_a_wrong_manifest_is_never_remembered_and_the_cache_stays_small(folder: Path) -> None:
    """Only valid manifests are kept, and only so many."""
    cache = folder / "cache"
    with pytest.raises(KitaruManifestError):
        load(put(folder, "kitaru: 1\n"), cache=cache)
    assert not cache.exists()
    for number in range(manifest_yaml.CACHE_ENTRIES + 10):
        load(put(folder, HEAD + f"# {number}\n"), cache=cache)
    assert len(list(cache.iterdir())) == manifest_yaml.CACHE_ENTRIES
