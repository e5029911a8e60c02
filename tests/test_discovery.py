"""Importing flows in a child process: what is found out, and whose fault it is when it fails."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from kitaru.errors import KitaruSourceError, Problem
from kitaru.model.snapshot import FlowFacts, ImageSettings, SourceFile, SourceTree
from kitaru.source.discovery import Job, facts_cache_get, facts_cache_put
from kitaru.source.discovery import describe as describe_jobs
from kitaru.source.import_check import imports, left_out_imports
from kitaru.source.port import Surroundings
from kitaru.source.selection import FILE

AROUND = Surroundings("ab" * 32)
FLOW = "from kitaru import flow\n@flow\ndef {name}(topic: str): return topic\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, body in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(body))
    return root


def describe(root: Path, targets: dict[str, str], **options: object) -> dict[str, FlowFacts | Problem]:
    return describe_jobs([Job(root, targets)] if targets else [], **options)  # type: ignore[arg-type]


def facts(root: Path, target: str, **options: object) -> FlowFacts:
    found = describe(root, {"it": target}, **options)["it"]
    assert isinstance(found, FlowFacts), found
    return found


def problem(root: Path, target: str, **options: object) -> Problem:
    found = describe(root, {"it": target}, **options)["it"]
    assert isinstance(found, Problem), found
    return found


# --- how a target is imported -----------------------------------------------------------------------------------------


def test_a_file_and_a_module_name_the_same_flow(tmp_path: Path) -> None:
    """``flows/a.py:f`` is ``flows.a:f``: same module name, with absolute, relative and sibling imports all working."""
    write(
        tmp_path,
        {
            "flows/a.py": """\
                from typing import Literal
                from kitaru import flow
                from lib.words import WORD
                from .near import NEAR
                import near
                assert __name__ == "flows.a", __name__
                @flow
                def f(x: Literal[len(WORD + NEAR)]): return x
            """,
            "flows/near.py": "NEAR = 'nn'\n",
            "lib/words.py": "WORD = 'www'\n",
        },
    )
    by_file = facts(tmp_path, "flows/a.py:f")
    assert by_file.input_schema["properties"] == {"x": {"const": 5, "type": "integer"}}
    write(tmp_path, {"flows/a.py": (tmp_path / "flows/a.py").read_text().replace("import near\n", "")})
    assert facts(tmp_path, "flows.a:f") == by_file


@pytest.mark.parametrize("name", ["my-flows/a.py", "flows/2024.py", "class/a.py", "flows/my flow.py"])
def test_a_path_that_is_no_module_name_still_works(tmp_path: Path, name: str) -> None:
    """A dash, a digit in front, a keyword, a space: imported by its file, with its neighbours importable."""
    folder = name.partition("/")[0]
    write(tmp_path, {name: "import near\n" + FLOW.format(name="f"), f"{folder}/near.py": ""})
    assert facts(tmp_path, f"{name}:f").input_schema["required"] == ["topic"]


def test_packages_with_an_init_work(tmp_path: Path) -> None:
    """A package's ``__init__`` may itself be a target."""
    write(tmp_path, {"pkg/__init__.py": FLOW.format(name="f"), "pkg/sub/__init__.py": "from .. import f\n"})
    assert facts(tmp_path, "pkg/__init__.py:f") == facts(tmp_path, "pkg.sub:f")


def test_neighbours_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    """``import near`` means each target's own neighbour, though one process imports both; shared code runs once."""
    write(
        tmp_path,
        {
            **{
                f"{folder}/flow.py": f"""\
                    import near
                    from typing import Literal
                    from lib import once
                    from kitaru import flow
                    @flow
                    def {folder}(x: Literal[near.WHO + str(len(once.SEEN))]): ...
                """
                for folder in ("a", "b")
            },
            "a/near.py": "WHO = 'a'\n",
            "b/near.py": "WHO = 'b'\n",
            "lib/once.py": "import sys\nSEEN = sys.__dict__.setdefault('_seen', [])\nSEEN.append(1)\n",
        },
    )
    found = describe(tmp_path, {"a": "a/flow.py:a", "b": "b/flow.py:b"})
    constants = [answer.input_schema["properties"]["x"]["const"] for answer in found.values()]  # type: ignore[union-attr]
    assert constants == ["a1", "b1"]


def test_the_trees_own_modules_do_not_break_the_start(tmp_path: Path) -> None:
    """A tree may hold a json.py or a pydantic.py; Kitaru starts all the same."""
    write(tmp_path, {"json.py": "1/0\n", "typing.py": "1/0\n", "flows/a.py": FLOW.format(name="f")})
    assert facts(tmp_path, "flows/a.py:f").input_schema["required"] == ["topic"]


def test_a_file_named_like_a_module_in_use_is_refused(tmp_path: Path) -> None:
    """``json.py`` can't be imported as ``json``: the error says whose name it is."""
    write(tmp_path, {"json.py": FLOW.format(name="f")})
    found = problem(tmp_path, "json.py:f")
    assert "that name belongs to" in found.message and found.hint.startswith("give json another name")


def test_discovery_says_so_and_leaves_the_tree_clean(tmp_path: Path) -> None:
    """Code may ask KITARU_DISCOVERY; importing writes nothing into the tree."""
    body = "import os\nassert os.environ['KITARU_DISCOVERY'] == '1'\n" + FLOW.format(name="f")
    facts(write(tmp_path, {"flows/a.py": body}), "flows/a.py:f")
    assert [path.name for path in tmp_path.rglob("*")] == ["flows", "a.py"]


# --- what goes wrong --------------------------------------------------------------------------------------------------

GOOD = FLOW.format(name="good")


def test_a_syntax_error_shows_its_line(tmp_path: Path) -> None:
    """File, line, column and the line itself are in the message, wherever it is shown."""
    write(tmp_path, {"flows/a.py": "x = 1\n\ndef f(:\n    return 1\n"})
    assert "\n    flows/a.py:3:7: def f(:" in problem(tmp_path, "flows/a.py:f").message


@pytest.mark.parametrize(
    ("target", "body", "message", "line"),
    [
        ("flows/x.py:f", None, "no file flows/x.py in the source; did you mean flows/a.py?", 0),
        ("flows.x:f", None, "there is no module flows.x", 0),
        ("../a.py:f", None, "no file ../a.py", 0),
        ("flows/a.py:goood", GOOD, "there is no goood in flows/a.py; did you mean good?", 0),
        ("flows/a.py:zzz", GOOD, "there is no zzz in flows/a.py; its flows are good", 0),
        ("flows/a.py:f", "def f(): ...\n", "f in flows/a.py is a plain function", 1),
        ("flows/a.py:f", "f = 3\n", "f in flows/a.py is no flow but an int", 0),
        (
            "flows/a.py:f",
            "from kitaru import checkpoint\n@checkpoint\ndef f(): ...\n",
            "f in flows/a.py is a checkpoint",
            0,
        ),
        ("flows/a.py:f", "x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero", 2),
        ("flows/a.py:f", "def f(:\n", "SyntaxError: invalid syntax", 1),
        ("flows/a.py:f", "import no_such_thing\n", "No module named 'no_such_thing'", 1),
        ("flows/a.py:f", "import sys\nsys.exit(3)\n", "it ends the process (sys.exit)", 2),
        ("flows/a.py:f", "x = input()\n", "EOFError", 1),
        ("flows/a.py:good", GOOD + "good.run(topic='x')\n", "started while its module was being imported", 4),
        ("flows/a.py:f", "from kitaru import flow\n@flow\ndef f(*names): ...\n", "takes *names", 2),
        ("flows/a.py:f", "from kitaru import flow\n@flow\ndef f(a, /): ...\n", "takes a by position only", 2),
        ("flows/a.py:f", "from kitaru import flow\n@flow(image={'nope': 1})\ndef f(): ...\n", "image= of flow f", 2),
        ("flows/a.py:f", "from kitaru import flow\n@flow(retries=-1)\ndef f(): ...\n", "a whole number from 0", 2),
    ],
)
def test_each_mistake_has_its_own_words(tmp_path: Path, target: str, body: str | None, message: str, line: int) -> None:
    """Every mistake in a target or its module is told in a sentence, with the place where there is one."""
    write(tmp_path, {"flows/a.py": body if body is not None else ""})
    found = problem(tmp_path, target)
    assert message in str(found)
    assert found.line == line
    assert "Traceback" not in found.message


def test_an_import_error_shows_the_users_frames_only(tmp_path: Path) -> None:
    """Of a traceback the frames in the tree are shown, the cause first; none of ours, none of importlib's."""
    write(
        tmp_path,
        {
            "flows/a.py": "from lib.b import x\n",
            "lib/b.py": "import json\n\ndef load():\n    return json.loads('{')\n\nx = load()\n",
        },
    )
    found = problem(tmp_path, "flows/a.py:f")
    lines = found.message.splitlines()
    assert lines[0].startswith("importing flows/a.py failed: json.decoder.JSONDecodeError: ")
    assert lines[1:] == [
        "    flows/a.py:1 in <module>: from lib.b import x",
        "    lib/b.py:6 in <module>: x = load()",
        "    lib/b.py:4 in load: return json.loads('{')",
    ]
    assert (found.file, found.line) == ("lib/b.py", 4)


def test_one_module_with_several_flows_needs_a_name(tmp_path: Path) -> None:
    """With no name the only flow of a module is meant; of several, one must be said."""
    write(tmp_path, {"one.py": FLOW.format(name="f"), "two.py": FLOW.format(name="f") + FLOW.format(name="g")})
    assert facts(tmp_path, "one.py").input_schema["required"] == ["topic"]
    found = problem(tmp_path, "two.py")
    assert found.message == "two.py holds several flows: f, g" and found.hint == "say which: two.py:f, two.py:g"


CRASHES = {
    "os._exit": ("import os\nos._exit(7)\n", "ended the process with exit code 7"),
    "killed": ("import os\nos.kill(os.getpid(), 9)\n", "killed the process: SIGKILL"),
    "segfault": ("import ctypes\nctypes.string_at(0)\n", "killed the process: SIGSEGV"),
    "hang": ("import time\ntime.sleep(600)\n", "did not finish within 2 seconds"),
    "hang with a child": (
        "import subprocess\nsubprocess.run(['sleep', '600'])\n",
        "did not finish within 2 seconds",
    ),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_is_told_of_its_own_target_alone(tmp_path: Path, name: str) -> None:
    """One import that takes its process down is that target's problem; those before and after it are described."""
    body, message = CRASHES[name]
    write(tmp_path, {"a.py": FLOW.format(name="a"), "bad.py": body, "c.py": FLOW.format(name="c")})
    told: list[str] = []
    started = time.monotonic()
    targets = {"a": "a.py:a", "bad": "bad.py:f", "c": "c.py:c", "bad2": "bad.py:f"}
    found = describe(tmp_path, targets, timeout=2, on_target=told.append)
    assert list(found) == list(targets) and sorted(told) == sorted(targets)
    assert isinstance(found["a"], FlowFacts) and isinstance(found["c"], FlowFacts)
    for key in ("bad", "bad2"):
        answer = found[key]
        assert isinstance(answer, Problem) and answer.file == "bad.py"
        assert message in answer.message
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("name", CRASHES)
def test_trees_are_looked_at_apart(tmp_path: Path, name: str) -> None:
    """Modules of one name are each tree's own, a crash is its own target's, and Kitaru is started once for the rest."""
    body, message = CRASHES[name]
    flow = (
        "import os, words\nfrom typing import Literal\nfrom kitaru import flow\n"
        "@flow\ndef f(x: Literal[words.WORD, os.getppid()]): return x\n"
    )
    trees = {}
    for word in ("one", "two", "three"):
        files = {"flows/f.py": flow, "flows/words.py": f"WORD = {word!r}\n", "flows/bad.py": body}
        trees[write(tmp_path / word, files)] = {word: "flows/f.py:f"}
    trees[tmp_path / "two"]["bad"] = "flows/bad.py:f"
    found = describe_jobs([Job(*each) for each in trees.items()], timeout=2)
    assert list(found) == ["one", "two", "bad", "three"]
    answer = found["bad"]
    assert isinstance(answer, Problem) and answer.file == "flows/bad.py" and message in answer.message
    starts = {}
    for word in ("one", "two", "three"):
        taught = found[word]
        assert isinstance(taught, FlowFacts), taught
        starts[word] = taught.input_schema["properties"]["x"]["enum"]
    assert [start[0] for start in starts.values()] == ["one", "two", "three"]
    assert starts["one"][1] == starts["two"][1]


def test_what_a_tree_leaves_running_holds_nothing_up(tmp_path: Path) -> None:
    """A process that an import started and left is no reason to wait, and is ended."""
    body = "import subprocess\nsubprocess.Popen(['sleep', '600'], close_fds=False)\n" + FLOW.format(name="f")
    trees = {write(tmp_path / word, {"f.py": body}): {word: "f.py:f"} for word in ("one", "two")}
    started = time.monotonic()
    assert all(
        isinstance(answer, FlowFacts) for answer in describe_jobs([Job(*each) for each in trees.items()]).values()
    )
    assert time.monotonic() - started < 60


def test_a_crash_that_another_import_prepared_is_not_blamed_on_the_innocent(tmp_path: Path) -> None:
    """A target is tried alone before it is blamed for the end of a process in which others were imported."""
    write(
        tmp_path,
        {
            "a.py": "import os, threading\nthreading.Timer(0.3, os._exit, [5]).start()\n" + FLOW.format(name="a"),
            "b.py": "import time\ntime.sleep(1)\n" + FLOW.format(name="b"),
        },
    )
    found = describe(tmp_path, {"a": "a.py:a", "b": "b.py:b"})
    assert all(isinstance(answer, FlowFacts) for answer in found.values()), found


def test_the_last_words_of_a_crash_are_shown(tmp_path: Path) -> None:
    """What the code printed before it ended the process is part of the problem."""
    write(tmp_path, {"bad.py": "import os\nprint('no licence found', flush=True)\nos._exit(1)\n"})
    assert "no licence found" in problem(tmp_path, "bad.py:f").message


def test_noise_is_never_taken_for_an_answer(tmp_path: Path) -> None:
    """Prints, writes to descriptors, threads left running, handlers for the exit: the answer is not disturbed."""
    noise = """\
        import atexit, os, sys, threading, time
        print('{"name": "it", "facts": {"retries": 9}}')
        sys.stderr.write("x" * 300_000)
        for number in range(0, 3):
            try:
                os.write(number, b'{"end": true}\\n' * 1000)
            except OSError:
                pass
        atexit.register(time.sleep, 600)
        threading.Thread(target=time.sleep, args=(600,)).start()
    """
    write(tmp_path, {"a.py": dedent(noise) + FLOW.format(name="f")})
    assert facts(tmp_path, "a.py:f", timeout=20).retries is None


def test_a_process_that_forks_while_imported_answers_once(tmp_path: Path) -> None:
    """The copy that a fork makes goes away in silence."""
    write(tmp_path, {"a.py": "import os\nos.fork()\n" + FLOW.format(name="f"), "b.py": FLOW.format(name="g")})
    told: list[str] = []
    describe(tmp_path, {"a": "a.py:f", "b": "b.py:g"}, on_target=told.append)
    assert told == ["a", "b"]


def test_a_python_that_cannot_run_kitaru_is_named(tmp_path: Path) -> None:
    """The wrong interpreter is an error of its own, not a problem of every flow."""
    write(tmp_path, {"a.py": FLOW.format(name="f")})
    with pytest.raises(KitaruSourceError, match="no-python can't be started"):
        describe(tmp_path, {"a": "a.py:f"}, python=str(tmp_path / "no-python"))
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    fake.chmod(0o755)
    with pytest.raises(KitaruSourceError, match=r"exit code 3\s+broken"):
        describe(tmp_path, {"a": "a.py:f"}, python=str(fake))


def test_what_only_the_working_tree_has_is_named(tmp_path: Path) -> None:
    """A module or file that was left out of the snapshot is told apart from one that nobody has."""
    work = write(tmp_path / "work", {"flows/a.py": "import lib.secret\n", "flows/b.py": "", "lib/secret.py": ""})
    root = write(tmp_path / "tree", {"flows/a.py": "import lib.secret\n"})
    found = problem(root, "flows/a.py:f", worktree=work)
    assert "lib is in the working tree, but not in the snapshot" in found.message
    found = problem(root, "flows/b.py:f", worktree=work)
    assert "flows/b.py is in the working tree, but not in the snapshot" in found.message
    assert "working tree" not in problem(root, "flows/c.py:f", worktree=work).message


def test_nothing_to_describe_starts_nothing(tmp_path: Path) -> None:
    """No targets, no child."""
    assert describe(tmp_path, {}, python="/no/such/python") == {}


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


def test_no_process_and_no_descriptor_is_left(tmp_path: Path) -> None:
    """Describing over and over leaks nothing."""
    write(tmp_path, {"a.py": FLOW.format(name="f")})
    facts(tmp_path, "a.py:f")
    before = open_descriptors()
    for _ in range(3):
        facts(tmp_path, "a.py:f")
    after = open_descriptors()
    assert after == before


# --- the cache --------------------------------------------------------------------------------------------------------


def test_facts_are_remembered_by_source_and_target(tmp_path: Path) -> None:
    """What was found out once is there again, for that source and that target only."""
    known = FlowFacts(retries=2, image=ImageSettings(base_image="x"), input_schema={"type": "object"}, summary="ü")
    assert facts_cache_get(tmp_path, AROUND, "a.py:f") is None
    facts_cache_put(tmp_path, AROUND, "a.py:f", known)
    assert facts_cache_get(tmp_path, AROUND, "a.py:f") == known
    assert facts_cache_get(tmp_path, Surroundings("cd" * 32), "a.py:f") is None
    assert facts_cache_get(tmp_path, AROUND, "b.py:f") is None


def test_damaged_facts_are_forgotten(tmp_path: Path) -> None:
    """A cache entry that was cut or changed is a miss."""
    facts_cache_put(tmp_path, AROUND, "a.py:f", FlowFacts(retries=2))
    entry = next(path for path in tmp_path.rglob("*") if path.is_file())
    body = entry.read_bytes()
    for damaged in (b"", body[:-3], body.replace(b"2}", b"3}"), b"\xff" * 100):
        entry.write_bytes(damaged)
        assert facts_cache_get(tmp_path, AROUND, "a.py:f") is None


# --- imported but left out --------------------------------------------------------------------------------------------


def check(work: Path, taken: list[str], *folders: str) -> list[str]:
    files = [(SourceFile(path=path, mode=FILE, size=0, sha256=""), (work / path).read_bytes()) for path in taken]
    tree = SourceTree(files=tuple(file for file, _ in files))
    found = left_out_imports(files, tree, work, explain=lambda path: f"because of {path}", folders=folders)
    return [str(warning) for warning in found]


def test_an_import_of_a_left_out_module_is_warned_of(tmp_path: Path) -> None:
    """Absolute, relative, inside functions, as a package's member: each is seen, once, with its line and the reason."""
    write(
        tmp_path,
        {
            "flows/a.py": """\
                import os, lib.prompts
                from lib import prompts, words
                def f():
                    from .near import NEAR
                    from flows import near
            """,
            "flows/near.py": "",
            "lib/prompts.py": "",
            "lib/words.py": "",
            "unused.py": "",
        },
    )
    assert check(tmp_path, ["flows/a.py", "lib/words.py"]) == [
        "flows/a.py:1:1: imports lib.prompts (lib/prompts.py), which is not in the snapshot: because of lib/prompts.py",
        "flows/a.py:4:1: imports flows.near (flows/near.py), which is not in the snapshot: because of flows/near.py",
    ]
    assert check(tmp_path, ["flows/a.py", "flows/near.py", "lib/words.py", "lib/prompts.py"]) == []


def test_a_neighbour_of_a_target_counts_when_its_folder_is_on_the_path(tmp_path: Path) -> None:
    """``import near`` finds ``flows/near.py`` only for a target in ``flows``."""
    write(tmp_path, {"flows/a.py": "import near\n", "flows/near.py": ""})
    assert check(tmp_path, ["flows/a.py"]) == []
    assert len(check(tmp_path, ["flows/a.py"], "flows")) == 1


def test_other_peoples_packages_are_not_the_working_tree(tmp_path: Path) -> None:
    """A virtual environment below the folder holds requirements, not left-out modules."""
    write(tmp_path, {"a.py": "import yaml, env.x\n", "env/pyvenv.cfg": "", "env/x.py": "", ".tox/yaml.py": ""})
    write(tmp_path, {"node_modules/yaml.py": "", "broken.py": "def (:\n", "yaml_not.py": ""})
    assert check(tmp_path, ["a.py", "broken.py"]) == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import a.b.c as d", {"a", "a.b", "a.b.c"}),
        ("from a.b import c, d", {"a", "a.b", "a.b.c", "a.b.d"}),
        ("from . import c", {"p", "p.q", "p.q.c"}),
        ("from ..r.s import c", {"p", "p.r", "p.r.s", "p.r.s.c"}),
        ("from ....x import c", set()),
        ("from a import *", {"a"}),
        ("try:\n    import a\nexcept ImportError:\n    a = None", {"a"}),
        ("not python at all", set()),
        ("\0", set()),
    ],
)
def test_which_names_code_may_import(code: str, names: set[str]) -> None:
    """Every form of import, as it stands in ``p/q/m.py``."""
    assert {name for name, _ in imports(code.encode(), "p/q/m.py")} == names
