"""What code a checkpoint reaches: what changes its digest, and what does not."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kitaru.flows.code_digest import code_parts, reached
from kitaru.flows.held_code import held_marks

Digest = Callable[..., dict[str, str]]


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Digest]:
    """Writes modules (by dotted name), imports ``main`` afresh, and digests its ``step``."""
    monkeypatch.syspath_prepend(tmp_path)
    written: set[str] = set()

    def forget() -> None:
        for name in written:
            sys.modules.pop(name, None)

    def make(main: str, **modules: str) -> dict[str, str]:
        forget()
        for name, text in {"digested": main, **modules}.items():
            dotted = name.replace("__", ".")
            written.add(dotted)
            file = tmp_path / f"{dotted.replace('.', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            if "." in dotted:
                written.add(dotted.partition(".")[0])
                (file.parent / "__init__.py").touch()
            file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        # A second write within the clock's grain would find the old bytecode.
        for cached in tmp_path.rglob("*.pyc"):
            cached.unlink()
        step = importlib.import_module("digested").step
        return code_parts(getattr(step, "func", step))

    yield make
    forget()


BASE = """
    import re
    from kitaru import checkpoint

    LIMIT = 3
    NAMES = ["a", "b"]
    PATTERN = re.compile("x+")

    class Cleaner:
        width = 4

        def __init__(self, extra):
            self.extra = extra

        def clean(self, text):
            return shorten(text) * self.extra

    CLEANER = Cleaner(2)

    def shorten(text):
        return text[:LIMIT]

    def unused(text):
        return text

    @checkpoint
    def step(text):
        \"\"\"Says what it does.\"\"\"
        return CLEANER.clean(PATTERN.sub("", text)) + NAMES[0]
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return text[:LIMIT]", "return text[:LIMIT]  # as many as fit"),
        ("def shorten(text):\n        return", "def shorten(text):\n\n        return"),
        ("Says what it does.", "Says it otherwise."),
        ("def unused(text):\n        return text", "def unused(text):\n        return 1"),
        ("@checkpoint", "@checkpoint(retries=3, timeout=9)"),
        ("return text[:LIMIT]", "return (text[:LIMIT])"),
    ],
)
def test_what_is_no_code_changes_nothing(digest: Digest, old: str, new: str) -> None:
    """Comments, layout, docstrings, functions that are not reached, Kitaru's own options."""
    before = digest(BASE)
    assert old in BASE
    assert digest(BASE.replace(old, new)) == before


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('sub("", text)', 'sub("-", text)', "step"),
        ("text[:LIMIT]", "text[1:LIMIT]", "shorten"),
        ("LIMIT = 3", "LIMIT = 4", "LIMIT"),
        ('NAMES = ["a", "b"]', 'NAMES = ["a", "c"]', "NAMES"),
        ('re.compile("x+")', 're.compile("x*")', "PATTERN"),
        ("* self.extra", "+ self.extra", "Cleaner"),
        ("width = 4", "width = 5", "Cleaner"),
        ("CLEANER = Cleaner(2)", "CLEANER = Cleaner(3)", "CLEANER"),
        ("def step(text)", 'def step(text="a")', "step"),
    ],
)
def test_a_change_is_found_and_named(digest: Digest, old: str, new: str, named: str) -> None:
    """In the function, in a helper behind a method, in a constant, in how a module's object was made."""
    before = digest(BASE)
    assert old in BASE
    after = digest(BASE.replace(old, new))
    assert named in {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


MODULES = {
    "lib__text": "from lib.deep import LEVEL\nfrom . import other\ndef clean(t):\n  return t * LEVEL + other.more()\n",
    "lib__deep": "LEVEL = 2\nUNUSED = 1\n",
    "lib__other": "def more():\n    return 'x'\n",
    "lib__late": "def late():\n    return 1\n",
}
IMPORTING = """
    import lib.text
    import functools
    from lib.text import clean as tidy

    def wrapping(func):
        @functools.wraps(func)
        def inner(*args):
            return func(*args)
        return inner

    STEPS = {"first": tidy}

    def first():
        from lib.late import late
        return late() + second()

    def second():
        return first()

    @wrapping
    def step(text):
        return lib.text.clean(STEPS["first"](text)) + first()
"""


@pytest.mark.parametrize(
    ("module", "old", "new", "named"),
    [
        ("lib__text", "t * LEVEL", "t + LEVEL", "lib.text.clean"),
        ("lib__deep", "LEVEL = 2", "LEVEL = 3", "lib.deep.LEVEL"),
        ("lib__other", "'x'", "'y'", "lib.other.more"),
        ("lib__late", "return 1", "return 2", "lib.late.late"),
    ],
)
def test_other_modules_of_the_project_are_followed(digest: Digest, module: str, old: str, new: str, named: str) -> None:
    """Attributes of modules, imported names, relative imports, imports inside functions; cycles end."""
    before = digest(IMPORTING, **MODULES)
    after = digest(IMPORTING, **{**MODULES, module: MODULES[module].replace(old, new)})
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {named}


def test_decorators_are_code(digest: Digest) -> None:
    """What a project's own decorator does around the function counts."""
    before = digest(IMPORTING, **MODULES)
    after = digest(IMPORTING.replace("return func(*args)", "return func(*args) + 1"), **MODULES)
    assert before != after
    assert digest(IMPORTING.replace("LEVEL = 2\nUNUSED = 1", "LEVEL = 2\nUNUSED = 5"), **MODULES) == before


def make(value: Any) -> Callable[[], Any]:
    def closing() -> Any:
        return value

    return closing


def test_closures_count_by_what_they_hold() -> None:
    """Two functions of one text differ where the values differ that they close over."""
    assert code_parts(make(1)) == code_parts(make(1))
    assert code_parts(make(1)) != code_parts(make(2))
    assert code_parts(make({"a": [1]})) != code_parts(make({"a": [2]}))
    assert code_parts(make(make(1))) != code_parts(make(make(2)))


def test_code_without_a_file_counts_by_its_instructions() -> None:
    """A function that was typed in is known by what it does."""

    def typed(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "typed_in"}
        exec(text, space)
        return code_parts(space["step"])

    same = typed("def step(a):\n  return a + 1")
    assert typed("def step(a):\n  return a + 1  # same") == same
    assert typed("def step(a):\n  return a + 2") != same
    assert typed("K = 1\ndef step(a):\n  return helper(a)\ndef helper(a):\n  return a") != typed(
        "K = 1\ndef step(a):\n  return helper(a)\ndef helper(a):\n  return -a"
    )


def test_a_text_that_was_edited_since_it_was_imported_is_not_believed(digest: Digest, tmp_path: Path) -> None:
    """What runs counts, not what stands in the file by now."""
    digest(BASE)
    step = sys.modules["digested"].step
    text = (tmp_path / "digested.py").read_text()
    (tmp_path / "digested.py").write_text(text.replace('sub("", text)', 'sub("other", text)'))
    edited = code_parts(step.func)
    (tmp_path / "digested.py").write_text(text.replace('sub("", text)', 'sub("more", text)'))
    assert code_parts(step.func)["step"] == edited["step"]


def test_the_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever the hash seed, the name of the module, and the folder."""
    found = set()
    for seed, folder, name in (("0", "a", "one"), ("1", "b", "two")):
        place = tmp_path / folder
        place.mkdir()
        (place / f"{name}.py").write_text(textwrap.dedent(BASE) + "\nKINDS = {'x', 'y', 'z'}\n")
        code = (
            f"import {name}\nfrom kitaru.flows.code_digest import code_parts\n"
            f"print(sorted(code_parts({name}.step.func).items()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=place,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{place}:{Path(__file__).parents[1]}"},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout.replace(name, "module"))
    assert len(found) == 1


REGISTERED = """
    import functools
    import extra
    from extra import get, Shelf
    from kitaru import checkpoint

    REG = {}
    SHELF = Shelf()

    def register(f):
        REG[f.__name__] = f
        return f

    @register
    def plug(x):
        return deeper(x) + 1

    def deeper(x):
        return x

    @functools.singledispatch
    def shown(x):
        return "any"

    @shown.register
    def shown_int(x: int):
        return "whole"

    class Plugin:
        known = {}
        def __init_subclass__(cls):
            Plugin.known[cls.__name__] = cls

    class Loud(Plugin):
        def go(self):
            return "loud"

    @SHELF.add
    def shelved(x):
        return "shelved"

    @checkpoint
    def step(x):
        WAY
"""
EXTRA = """
HELD = {}
def keep(f):
    HELD[f.__name__] = f
    return f
@keep
def kept(x):
    return "kept"
def get(name):
    return HELD[name]
def by_name(x):
    return inner(x)
def inner(x):
    return "inner"
class Shelf:
    def __init__(self):
        self.items = []
    def add(self, f):
        self.items.append(f)
        return f
"""


@pytest.mark.parametrize(
    ("way", "old", "new"),
    [
        ('return REG["plug"](x)', "deeper(x) + 1", "deeper(x) + 2"),
        ('return REG["plug"](x)', "return x\n", "return -x\n"),
        ('return get("kept")(x)', '"kept"\n', '"other"\n'),
        ('return getattr(extra, "by_" + x)(x)', '"inner"', '"other"'),
        ('return globals()["pl" + x](x)', "deeper(x) + 1", "deeper(x) + 2"),
        ('import importlib; return importlib.import_module("ext" + x).inner(x)', '"inner"', '"other"'),
        ('import importlib; return importlib.import_module("extra").inner(x)', '"inner"', '"other"'),
        ("return shown(x)", '"whole"', '"other"'),
        ("return shown(x)", '"any"', '"other"'),
        ('return Plugin.known["Loud"]().go()', '"loud"', '"other"'),
        ("return [one().go() for one in Plugin.__subclasses__()]", '"loud"', '"other"'),
        ("return SHELF.items[0](x)", '"shelved"', '"other"'),
    ],
)
def test_what_is_reached_through_a_registry_or_by_its_name_counts(digest: Digest, way: str, old: str, new: str) -> None:
    """Dicts filled by a decorator, here and in another module; getattr, globals, imports by name; dispatch; classes."""
    main = REGISTERED.replace("WAY", way)
    before = digest(main, extra=EXTRA)
    assert digest(main, extra=EXTRA) == before
    assert old in main + EXTRA
    assert digest(main.replace(old, new), extra=EXTRA.replace(old, new)) != before


def test_a_registry_that_is_not_reached_counts_for_nothing(digest: Digest) -> None:
    """A checkpoint beside it keeps its results when a registered function changes."""
    main = REGISTERED.replace("WAY", "return len(str(x))")
    assert digest(main.replace("deeper(x) + 1", "deeper(x) + 2"), extra=EXTRA) == digest(main, extra=EXTRA)


def test_what_a_registry_is_given_later_is_seen(digest: Digest) -> None:
    """Looked at again, it is known whether the containers hold other functions than before; values are none."""
    digest(REGISTERED.replace("WAY", 'return REG["plug"](x)'), extra=EXTRA)
    module = sys.modules["digested"]
    found = reached(module.step.func)
    assert found.stands()
    module.REG["note"] = 5
    assert found.stands()
    module.REG["plug"] = module.deeper
    assert not found.stands()
    assert reached(module.step.func).parts != found.parts


def test_a_large_container_costs_little_to_look_at(digest: Digest) -> None:
    """A million values are not gone through for each call."""
    digest("TABLE = list(map(str, range(1_000_000)))\nREG = {}\ndef step(x):\n    return TABLE[x]\n")
    table = sys.modules["digested"].TABLE
    began = time.perf_counter()
    for _ in range(20):
        held_marks(table)
    assert (time.perf_counter() - began) / 20 < 0.02
