"""Formats that other packages add: found by entry point, used for what nothing built in takes, and read back later."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SHAPES = """
class Shape:
    def __init__(self, sides):
        self.sides = sides

def takes(value):
    return type(value) is Shape

def write(value):
    return b"shape:%d" % value.sides

def read(body):
    return Shape(int(body.partition(b":")[2]))
"""

RUN = """
import sys
from pathlib import Path
from tests.execution_lab import Lab
from kitaru import checkpoint, flow
import acme_shapes

@checkpoint
def make(n):
    return acme_shapes.Shape(n)

@checkpoint
def count(shape):
    return shape.sides

@flow
def main():
    shape = make(5)
    return [count(shape), count(acme_shapes.Shape(6)), count(acme_shapes.Shape(7))]

lab = Lab(Path(sys.argv[1]))
exec_id = lab.open(main)
print(lab.go_on(main, exec_id))
"""


def install(site: Path, name: str = "acme-shape", module: str = "acme_shapes", code: str = SHAPES) -> None:
    """A package as pip leaves it: a module, and a dist-info that names the entry point."""
    site.mkdir(exist_ok=True)
    (site / f"{module}.py").write_text(code)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kitaru.formats]\n{name} = {module}\n")


def python(code: str, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PYTHONPATH": f"{ROOT}:{site}", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        env=environ,
        cwd=site,
        timeout=120,
    )


READ = """
import sys
from pathlib import Path
from tests.execution_lab import Lab, PROJECT
from kitaru.values import stored

lab = Lab(Path(sys.argv[1]))
exec_id = lab.store.names(f"{PROJECT}/executions/")[0].rstrip("/")
call = lab.load(exec_id).checkpoints[0]
print(call.output.format, call.output.type)
print(stored.get(lab.store, PROJECT, call.output, subject="it").sides)
print(len({call.input_digest for call in lab.load(exec_id).checkpoints[1:]}))
"""


def test_a_package_s_format_writes_and_reads_its_values(tmp_path: Path) -> None:
    """A checkpoint returns such a value, another process reads it, and as arguments such values are told apart."""
    site = tmp_path / "site"
    install(site)
    ran = python(RUN, site, str(tmp_path / "store"))
    assert ran.stdout.strip() == "[5, 6, 7]", ran.stderr
    read = python(READ, site, str(tmp_path / "store"))
    assert read.stdout.split("\n")[:3] == ["acme-shape acme_shapes:Shape", "5", "3"], read.stderr


def test_without_the_package_the_error_names_the_format(tmp_path: Path) -> None:
    """What was stored in a format that is not installed says which one, and what to do."""
    site = tmp_path / "site"
    install(site)
    assert python(RUN, site, str(tmp_path / "store")).returncode == 0
    bare = tmp_path / "bare"
    bare.mkdir()
    read = python(READ, bare, str(tmp_path / "store"))
    assert "KitaruFeatureNotAvailableError: a value was stored in the format 'acme-shape'" in read.stderr


ENCODE = """
from kitaru.values.stored import encode
try:
    encode(object(), subject="it")
except Exception as error:
    print(type(error).__name__, error)
    print("hint:", error.hint)
"""


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("pickle", SHAPES, "'pickle' of package acme_shapes has a name that is taken"),
        ("acme-shape", "import nowhere", "can't be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        ("acme-shape", "raise ValueError('no licence')", "can't be loaded: ValueError: no licence"),
        ("acme-shape", "takes = write = None", "can't be loaded"),
        (
            "acme-shape",
            SHAPES.replace("type(value)", "value.kind"),
            "'acme-shape' failed when it was asked: AttributeEr",
        ),
        ("acme-shape", "raise SystemExit(3)", "can't be loaded: SystemExit: 3"),
        ("acme-shape", SHAPES.replace("type(value)", "exit(4) or value"), "'acme-shape' failed when it was asked: Sys"),
    ],
)
def test_a_bad_format_is_named(tmp_path: Path, name: str, code: str, says: str) -> None:
    """A package whose format can't be used is told by name, once, beside what is wrong with the value."""
    site = tmp_path / "site"
    install(site, name=name, code=code)
    done = python(ENCODE, site)
    assert done.stdout.startswith("KitaruValueError") and done.stdout.count(says) == 1, done.stdout + done.stderr
    assert "Use JSON-like values" in done.stdout.partition("hint: ")[2]


@pytest.mark.parametrize(
    "broken", ["import nowhere", "raise SystemExit(3)", SHAPES.replace("type(value)", "value.kind")]
)
def test_a_bad_format_is_nothing_to_those_of_others(tmp_path: Path, broken: str) -> None:
    """Values that another package's format takes are written, told apart and read, as if the bad one were not there."""
    site = tmp_path / "site"
    install(site)
    install(site, name="a-first", module="acme_broken", code=broken)
    ran = python(RUN, site, str(tmp_path / "store"))
    assert ran.stdout.strip() == "[5, 6, 7]", ran.stderr
    read = python(READ, site, str(tmp_path / "store"))
    assert read.stdout.split("\n")[:3] == ["acme-shape acme_shapes:Shape", "5", "3"], read.stderr


TAKES_ALL = "def takes(v): return True\ndef read(b): ...\ndef write(v): "


@pytest.mark.parametrize(
    ("write", "says"),
    [
        ("return 'text'", "its write() returned str, expected bytes"),
        ("return b''", "its write() returned no bytes"),
        ("return v.sides", "can't write it: AttributeError: 'object' object has no attribute 'sides'"),
        ("raise SystemExit(3)", "can't write it: SystemExit: 3"),
    ],
)
def test_a_format_that_writes_badly_is_named(tmp_path: Path, write: str, says: str) -> None:
    """The error names the format, its package and its module, and says what came instead of bytes."""
    site = tmp_path / "site"
    install(site, code=TAKES_ALL + write)
    said = python(ENCODE, site).stdout
    whole = (
        f"can't be stored: the format 'acme-shape' of package acme_shapes (acme_shapes){':' * ('its' in says)} {says}"
    )
    assert said.startswith("KitaruValueError it (object)") and whole in said, said
    assert "Mend that package" in said and "Use JSON-like" not in said


FAILING = """
import sys
from pathlib import Path
from tests.execution_lab import Lab
from kitaru import checkpoint, flow
from kitaru.errors import KitaruExecutionError
import acme_shapes

@checkpoint
def make():
    return acme_shapes.Shape(5)

@flow
def main():
    make()

lab = Lab(Path(sys.argv[1]))
exec_id = lab.open(main)
try:
    lab.go_on(main, exec_id)
except KitaruExecutionError:
    print(lab.load(exec_id).checkpoints[0].failure.traceback)
"""


def test_the_recorded_traceback_shows_where_a_format_failed(tmp_path: Path) -> None:
    """A ``write`` that raises leaves its own frames, and nothing of how Kitaru came to call it."""
    site = tmp_path / "site"
    install(site, code=SHAPES.replace('return b"shape:%d" % value.sides', "raise OSError('disk of the format')"))
    told = python(FAILING, site, str(tmp_path / "store")).stdout
    assert 'acme_shapes.py", line 10, in write' in told and "OSError: disk of the format" in told, told
    assert "direct cause" in told and "During handling" not in told and "core/formats" not in told
    assert "the format 'acme-shape' of package acme_shapes (acme_shapes) can't write it: OSError: disk of" in told


def test_a_format_that_can_t_read_is_named(tmp_path: Path) -> None:
    """The value is there, and its format fails on it: the error says which, and how."""
    site = tmp_path / "site"
    install(site)
    assert python(RUN, site, str(tmp_path / "store")).returncode == 0
    for broken, says in (("raise OSError('cut')", "OSError: cut"), ("raise SystemExit(1)", "SystemExit: 1")):
        (site / "acme_shapes.py").write_text(SHAPES.replace('return Shape(int(body.partition(b":")[2]))', broken))
        read = python(READ, site, str(tmp_path / "store"))
        said = "can't be read back: the format 'acme-shape' of package acme_shapes (acme_shapes) can't read it: "
        assert f"KitaruValueError: it was stored as acme_shapes:Shape and {said}{says}" in read.stderr
        assert 'acme_shapes.py", line 13, in read' in read.stderr


def test_ctrl_c_in_a_format_is_not_its_failure(tmp_path: Path) -> None:
    """What only happened to come while the package was loaded ends the run, and the package is used by the next."""
    site = tmp_path / "site"
    install(site, code="import os, signal\nif 'CUT' in os.environ: os.kill(os.getpid(), signal.SIGINT)\n" + SHAPES)
    code = """
    import os
    from kitaru.values.stored import encode
    from kitaru.values.formats import installed_format
    os.environ["CUT"] = "1"
    try:
        installed_format(object())
    except KeyboardInterrupt:
        print("stopped")
    del os.environ["CUT"]
    import acme_shapes
    print(encode(acme_shapes.Shape(3), subject="it").body)
    """
    assert python(code, site).stdout.split() == ["stopped", "b'shape:3'"]


def test_what_was_stored_in_a_format_that_broke_says_why_it_is_not_read(tmp_path: Path) -> None:
    """The format is installed, so that the error is not to install it: its own problem is told."""
    site = tmp_path / "site"
    install(site)
    assert python(RUN, site, str(tmp_path / "store")).returncode == 0
    (site / "acme_shapes.py").write_text("import nowhere")
    read = python(READ, site, str(tmp_path / "store"))
    assert "KitaruFeatureNotAvailableError: a value was stored in the format 'acme-shape': " in read.stderr
    assert "of package acme_shapes can't be loaded: ModuleNotFoundError: No module named 'nowhere'" in read.stderr


def test_a_name_that_two_packages_use_is_neither_s(tmp_path: Path) -> None:
    """Which of them wrote a value would depend on what else is installed: both are named."""
    site = tmp_path / "site"
    install(site)
    install(site, module="other_shapes")
    done = python(ENCODE, site)
    said = "'acme-shape' of package acme_shapes and of package other_shapes has a name that is taken"
    assert done.stdout.count(said) == 1, done.stdout + done.stderr


def test_values_that_need_no_such_format_look_for_none(tmp_path: Path) -> None:
    """JSON, models, dataclasses, bytes and text never load what finds packages."""
    site = tmp_path / "site"
    install(site, code="raise SystemExit('loaded')")
    code = """
    import sys
    from dataclasses import dataclass
    from kitaru.values.stored import encode
    from kitaru.values.digests import digest_arguments

    @dataclass
    class Point:
        x: int

    for value in ({"a": [1, None]}, (1, 2), Point(1), b"x", "x", {1, 2}):
        encode(value, subject="it")
        digest_arguments({"value": value})
    print("acme_shapes" in sys.modules, "importlib.metadata" in sys.modules)
    """
    assert python(code, site).stdout.strip() == "False False"


LARGE = """
import resource, sys, threading, time
from pathlib import Path
from tests.execution_lab import Lab
from kitaru import checkpoint, flow

SIZE = 1_000_000_000

@checkpoint
def big():
    return bytes(SIZE)

@checkpoint
def length(body):
    return len(body)

@flow
def main():
    body = big()
    return length(body)

lab = Lab(Path(sys.argv[1]))
exec_id = lab.open(main)
assert lab.go_on(main, exec_id) == SIZE
print(exec_id, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_gigabyte_is_stored_once_in_memory(tmp_path: Path) -> None:
    """A 1 GB output costs its own size and little more: under 1.3 GB resident, whether new or stored before."""
    for _ in range(2):  # the second time its object is there already
        done = python(LARGE, tmp_path, str(tmp_path / "store"))
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[1]) < 1240, done.stdout  # MiB


READ_LARGE = """
import resource, sys
from pathlib import Path
from tests.execution_lab import Lab, PROJECT
from kitaru.values import stored

lab = Lab(Path(sys.argv[1]))
exec_id = lab.store.names(f"{PROJECT}/executions/")[0].rstrip("/")
body = stored.get(lab.store, PROJECT, lab.load(exec_id).checkpoints[0].output, subject="it")
print(len(body), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_gigabyte_is_read_once_into_memory(tmp_path: Path) -> None:
    """Reading it back, verified, takes its size and little more."""
    assert python(LARGE, tmp_path, str(tmp_path / "store")).returncode == 0
    size, resident = python(READ_LARGE, tmp_path, str(tmp_path / "store")).stdout.split()
    assert int(size) == 1_000_000_000
    assert int(resident) < 1240


MANY_USES = """
import sys, resource
from kitaru import checkpoint, flow
from pathlib import Path
from tests.execution_lab import Lab

@checkpoint
def big(n: int) -> bytes:
    return b"x" * n

@checkpoint
def size(body: bytes) -> int:
    return len(body)

@checkpoint(runtime="isolated")
def apart(n: int) -> bytes:
    return b"x" * n

@checkpoint
def words(n: int) -> str:
    return "x" * n

@checkpoint
def letters(text: str) -> int:
    return len(text)

@flow
def passed(n: int) -> int:
    return size(big(n))

@flow
def result(n: int) -> bytes:
    return big(n)

@flow
def isolated(n: int) -> int:
    return len(apart(n))

@flow
def text(n: int) -> int:
    return letters(words(n))

if __name__ == "__main__":
    made = globals()[sys.argv[2]]
    lab = Lab(Path(sys.argv[1]))
    lab.go_on(made, lab.open(made, n=100_000_000))
    usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(usage * 1024 // 1_000_000)
"""


@pytest.mark.parametrize(
    ("name", "most"), [("passed", 130), ("result", 130), ("isolated", 130), ("text", 220)], ids=lambda one: str(one)
)
def test_a_large_value_is_held_once_however_it_is_used(tmp_path: Path, name: str, most: int) -> None:
    """Passed on, returned by the flow, or made by another process, 100 MB take 100 MB; a text twice its size."""
    script = tmp_path / "large.py"
    script.write_text(MANY_USES)
    idle = python(
        "import resource; from tests import execution_lab; from kitaru.run import isolated_child\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 1_000_000)",
        tmp_path,
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store"), name],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) - int(idle.stdout) < most, done.stdout


WRITES = """
import sys
from pathlib import Path
from tests.execution_lab import Lab
from kitaru import checkpoint, flow
import acme_shapes

written = []
plain = acme_shapes.write
from kitaru.values import formats
acme_shapes.write = lambda value: written.append(value) or plain(value)

@checkpoint
def make():
    return acme_shapes.Shape(5)

@checkpoint
def count(shape):
    return shape.sides

@flow
def main():
    return count(make())

lab = Lab(Path(sys.argv[1]))
lab.go_on(main, lab.open(main))
print(len(written))
"""


def test_write_is_called_once_to_store_and_once_to_pass_on(tmp_path: Path) -> None:
    """A value may have changed since it was stored, so it is written again for what it is passed to, and only once."""
    site = tmp_path / "site"
    install(site)
    ran = python(WRITES, site, str(tmp_path / "store"))
    assert ran.stdout.strip() == "2", ran.stderr
