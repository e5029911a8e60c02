from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitaru import data_files
from kitaru.client.project import initialise
from kitaru.errors import KitaruBackendError, KitaruUsageError
from kitaru.manifest.reading import load
from kitaru.manifest.scaffold import SCHEMA_FILE, Parameter, ScaffoldResult, find_flows, project_name, scaffold
from kitaru.manifest.yaml import parse
from kitaru.model.address import FLOW_NAME, PROJECT_NAME
from kitaru.model.route import Pin

RESEARCH = """\
from kitaru import checkpoint, flow

@checkpoint
def collect_notes(topic: str) -> str: ...

@flow
def research_agent(topic: str, depth: int = 3, *, sources: list[str], **rest: str) -> str: ...
"""


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def init(root: Path, project: str | None = "research") -> ScaffoldResult:
    return scaffold(root, files=sorted(root.rglob("*")), project=project)


def targets(root: Path) -> dict[str, str]:
    return {name: flow.target for name, flow in load(root / "kitaru.yaml").manifest.flows.items()}


def test_init_writes_a_manifest_that_loads_with_every_flow(tmp_path: Path) -> None:
    """The written file says what was found, names the schema for editors, and has no problems."""
    put(tmp_path, {"flows/research.py": RESEARCH, "lib/tools.py": "import os\n", "README.md": "kitaru"})
    result = init(tmp_path)
    text = result.manifest.read_text(encoding="utf-8")
    manifest = load(result.manifest).manifest
    assert result.created
    assert (manifest.project, manifest.store) == ("research", "file://.kitaru/store")
    assert manifest.flows["research_agent"].target == "flows/research.py:research_agent"
    assert manifest.flows["research_agent"].routes == {"default": Pin(1)}
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert (tmp_path / SCHEMA_FILE).read_text(encoding="utf-8") == data_files.schema("kitaru")
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert max(map(len, text.splitlines())) <= 120
    jsonschema.validate(parse(text).data, json.loads(data_files.schema("kitaru")))
    assert set(result.written) == {result.manifest, tmp_path / SCHEMA_FILE, tmp_path / ".gitignore"}
    assert (result.problems, result.undeclared, result.paste) == ((), (), "")


def test_the_inputs_that_a_flow_needs_are_offered_as_comments(tmp_path: Path) -> None:
    """Parameters without default, with their annotations; taking the # away leaves YAML that says so."""
    put(tmp_path, {"flows/research.py": RESEARCH})
    result = init(tmp_path)
    assert result.flows[0].parameters == (Parameter("topic", "str"), Parameter("sources", "list[str]"))
    text = result.manifest.read_text(encoding="utf-8")
    assert "    #   topic:  # str\n    #   sources:  # list[str]\n" in text
    result.manifest.write_text(re.sub(r"^    # ( *(inputs|topic|sources):)", r"    \1", text, flags=re.M))
    assert load(result.manifest).manifest.flows["research_agent"].inputs == {"topic": None, "sources": None}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from kitaru import flow\n@flow\ndef a(): ...\n", ["a"]),
        ("from kitaru import flow\n@flow(retries=2)\nasync def a(): ...\n", ["a"]),
        ("from kitaru import flow as durable\n@durable\ndef a(): ...\n", ["a"]),
        ("import kitaru\n@kitaru.flow\ndef a(): ...\n@kitaru.flow()\ndef b(): ...\n", ["a", "b"]),
        ("import kitaru as k\n@k.flow(cache=False)\ndef a(): ...\n", ["a"]),
        ("import kitaru.flows\n@kitaru.flows.flow\ndef a(): ...\n", ["a"]),
        ("from kitaru.flows import flow\n@flow\ndef a(): ...\n", ["a"]),
        ("from kitaru import *\n@flow\ndef a(): ...\n", ["a"]),
        ("try:\n  from kitaru import flow\nexcept ImportError:\n  raise\nif True:\n  @flow\n  def a(): ...\n", ["a"]),
        ("from kitaru import flow\n@other\n@flow\ndef a(): ...\n@flow\ndef a(): ...\n", ["a"]),
        ("from prefect import flow  # not kitaru\n@flow\ndef a(): ...\n", []),
        ("import kitaru\n@flow\ndef a(): ...\n", []),
        ("from kitaru import checkpoint as flow\n@flow\ndef a(): ...\n", []),
        ("from .kitaru import flow\n@flow\ndef a(): ...\n", []),
        ("from kitaru import flow\nclass A:\n  @flow\n  def a(self): ...\ndef f():\n  @flow\n  def b(): ...\n", []),
        ("from kitaru import flow\n@[flow][0]\ndef a(): ...\n", []),
    ],
)
def test_flows_are_found_however_the_decorator_is_imported(tmp_path: Path, source: str, names: list[str]) -> None:
    """By what the name stands for, at module level only, and without running a line of it."""
    put(tmp_path, {"a.py": source + "raise SystemExit('imported')\n"})
    found, problems = find_flows(tmp_path, [tmp_path / "a.py"])
    assert [flow.function for flow in found] == names
    assert problems == []


def test_a_broken_file_costs_only_its_own_flows(tmp_path: Path) -> None:
    """It is named with line and column; what is no file of this project is passed over."""
    put(
        tmp_path,
        {
            "root/bad.py": "import kitaru\ndef (:\n",
            "root/good.py": RESEARCH,
            "root/test_flows.py": RESEARCH,
            "root/conftest.py": RESEARCH,
            "root/od:d.py": RESEARCH,
            "outside.py": RESEARCH,
        },
    )
    root = tmp_path / "root"
    (root / "nul.py").write_bytes(b"import kitaru\0")
    files = [*root.iterdir(), tmp_path / "outside.py", root / "gone.py", Path("../outside.py"), Path("good.py")]
    result = scaffold(root, files=files, project="x")
    assert [flow.target for flow in result.flows] == ["good.py:research_agent"]
    assert [problem.file for problem in result.problems] == ["bad.py", "gone.py", "nul.py", "'od:d.py'"]
    assert (result.problems[0].line, result.problems[0].column) == (2, 5)
    assert result.problems[0].message == "not valid Python: invalid syntax"
    assert list(targets(root)) == ["research_agent"]


def test_names_that_need_quotes_get_them(tmp_path: Path) -> None:
    """Flows called null or yes, files with spaces, a project that is a number: all read back as written."""
    source = "from kitaru import flow\n" + "".join(
        f"@flow\ndef {name}(): ...\n" for name in ("null", "true", "yes", "n", "_", "e1", "Aé")
    )
    put(tmp_path, {"my flows/ünï #1.py": source, "1e3/x.py": RESEARCH})
    result = init(tmp_path, "007")
    found = targets(tmp_path)
    assert set(found.values()) == {flow.target for flow in result.flows}
    assert {"null", "true", "yes", "n", "e1"} <= set(found)
    assert found["null"] == "my flows/ünï #1.py:null"
    assert load(result.manifest).manifest.project == "007"
    text = result.manifest.read_text(encoding="utf-8")
    assert '  "yes":' in text and '"007"' in text  # text to us, but a boolean and a number to other readers


def test_flows_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    """The first keeps its name; the others take in their file, then their folder, then a number."""
    names = ["a/one.py", "b/one.py", "b/two.py", "c/b/two.py", "b_two.py"]
    put(tmp_path, dict.fromkeys(names, RESEARCH))
    init(tmp_path)
    assert targets(tmp_path) == {
        "research_agent": "a/one.py:research_agent",
        "one_research_agent": "b/one.py:research_agent",
        "two_research_agent": "b/two.py:research_agent",
        "b_two_research_agent": "b_two.py:research_agent",
        "c_b_two_research_agent": "c/b/two.py:research_agent",
    }


def test_without_flows_the_manifest_shows_how_one_looks(tmp_path: Path) -> None:
    """It is valid as it stands, and so is the example when it takes the empty mapping's place."""
    result = init(tmp_path)
    text = result.manifest.read_text(encoding="utf-8")
    assert load(result.manifest).manifest.flows == {}
    example = "".join(
        line[4:] + "\n" for line in text[text.index("# No function") :].splitlines() if line[:4] == "#   "
    )
    result.manifest.write_text(text.replace("flows: {}\n", example), encoding="utf-8")
    assert targets(tmp_path) == {"research_agent": "flows/research.py:research_agent"}


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    """Byte for byte, and it says that all is declared."""
    put(tmp_path, {"flows/research.py": RESEARCH})
    init(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = init(tmp_path, None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert (again.created, again.written, again.undeclared, again.paste) == (False, (), (), "")
    assert again.project == "research"
    assert [flow.name for flow in again.flows] == ["research_agent"]


def test_a_second_run_offers_the_flows_that_are_not_declared(tmp_path: Path) -> None:
    """The lines to paste fit under flows: as they are, with names that the manifest does not use yet."""
    put(tmp_path, {"flows/research.py": RESEARCH})
    manifest = init(tmp_path).manifest
    put(tmp_path, {"flows/other.py": RESEARCH})
    again = init(tmp_path)
    assert [flow.target for flow in again.undeclared] == ["flows/other.py:research_agent"]
    assert len(again.flows) == 2
    manifest.write_text(manifest.read_text(encoding="utf-8") + again.paste, encoding="utf-8")
    assert targets(tmp_path) == {
        "research_agent": "flows/research.py:research_agent",
        "other_research_agent": "flows/other.py:research_agent",
    }
    assert init(tmp_path).undeclared == ()


@pytest.mark.parametrize(
    "target",
    ["flows.research:research_agent", "src.flows.research:research_agent", "./src/flows/research.py:research_agent"],
)
def test_a_flow_declared_in_another_spelling_is_declared(tmp_path: Path, target: str) -> None:
    """As a module, with or without the folder on the import path, in the manifest or in an overlay."""
    put(tmp_path, {"src/flows/research.py": RESEARCH})
    for text in (
        f"flows: {{x: {{target: '{target}'}}}}\n",
        f"targets: {{p: {{flows: {{x: {{target: '{target}'}}}}}}}}\n",
    ):
        (tmp_path / "kitaru.yaml").write_text("kitaru: 1\nproject: x\n" + text)
        assert init(tmp_path).undeclared == ()


def test_an_existing_manifest_is_never_overwritten(tmp_path: Path) -> None:
    """Not even a broken one, nor a link that leads nowhere; its problems are in the result."""
    put(tmp_path, {"kitaru.yaml": "kitaru: 1\nprojct: x\n", "a.py": RESEARCH})
    result = init(tmp_path)
    assert (tmp_path / "kitaru.yaml").read_text() == "kitaru: 1\nprojct: x\n"
    assert not result.created
    assert any("unknown key 'projct'" in problem.message for problem in result.problems)
    (tmp_path / "kitaru.yaml").unlink()
    (tmp_path / "kitaru.yaml").symlink_to("nowhere.yaml")
    assert not init(tmp_path).created
    assert (tmp_path / "kitaru.yaml").is_symlink() and not (tmp_path / "nowhere.yaml").exists()


ADDED = data_files.template("gitignore")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, ADDED),
        ("*.pyc", "*.pyc\n" + ADDED),
        ("*.pyc\r\nx", "*.pyc\r\nx\r\n" + ADDED.replace("\n", "\r\n")),
        ("/.kitaru\n", "/.kitaru\n" + ADDED.replace(".kitaru/\n", "")),
        (ADDED.removesuffix("\n"), ADDED.removesuffix("\n")),
        (".kitaru/cache\n", ".kitaru/cache\n" + ADDED),
    ],
)
def test_gitignore_gains_its_lines_once_and_keeps_the_rest(tmp_path: Path, before: str | None, after: str) -> None:
    """With the file's own line endings, and never on the end of the author's last line."""
    ignore = tmp_path / ".gitignore"
    if before is not None:
        ignore.write_bytes(before.encode())
    for _ in range(2):
        init(tmp_path)
        assert ignore.read_bytes().decode() == after


def test_files_of_tools_are_neither_offered_nor_committed(tmp_path: Path) -> None:
    """An environment under any name, bytecode and builds hold no flows of the project, and Git ignores them."""
    body = "from kitaru import flow\n@flow\ndef theirs(): ...\n"
    places = (
        ".venv/x.py",
        "myenv/lib/x.py",
        "__pycache__/x.py",
        "build/lib/x.py",
        "a/node_modules/x.py",
        "p.egg-info/x.py",
    )
    put(tmp_path, {"flows/a.py": RESEARCH, "myenv/pyvenv.cfg": "", **dict.fromkeys(places, body)})
    assert {flow.file for flow in init(tmp_path).flows} == {"flows/a.py"}
    assert {".venv/", "myenv/", "__pycache__/", "build/"} <= set((tmp_path / ".gitignore").read_text().splitlines())


def test_the_source_is_the_folders_of_the_flows_and_of_their_imports(tmp_path: Path) -> None:
    """A file beside them, a pipeline say, builds no new version."""
    flow = "import os, lib.tools\nfrom kitaru import flow\n@flow\ndef a(): ...\n"
    put(tmp_path, {"flows/a.py": flow, "lib/tools.py": "import helper\n", "helper.py": "", "docs/conf.py": ""})
    init(tmp_path)
    assert load(tmp_path / "kitaru.yaml").manifest.source.include == ("*.py", "flows/**", "lib/**")


def test_a_file_that_no_target_can_name_is_a_problem_of_its_own(tmp_path: Path) -> None:
    """An editor's ``~backup.py`` never makes a manifest that validate refuses."""
    put(tmp_path, {"flows/a.py": RESEARCH, "~backup.py": RESEARCH})
    result = init(tmp_path)
    assert {flow.file for flow in result.flows} == {"flows/a.py"}
    assert "begins with no '~'" in result.problems[0].message


def test_the_block_for_a_second_flow_is_printed_line_by_line(tmp_path: Path) -> None:
    """It can be pasted at the end of ``flows:`` as it stands."""
    put(tmp_path, {"a.py": RESEARCH})
    initialise(tmp_path, None)
    put(tmp_path, {"b.py": "from kitaru import flow\n@flow\ndef second(): ...\n"})
    _, lines = initialise(tmp_path, None)
    block = "\n".join(line for line in lines if line.startswith("  "))
    manifest = tmp_path / "kitaru.yaml"
    manifest.write_text(manifest.read_text() + block + "\n")
    assert "second" in load(manifest).manifest.flows


def test_a_block_for_a_manifest_without_flows_can_be_pasted(tmp_path: Path) -> None:
    """It stands for ``flows: {}``, key and all."""
    init(tmp_path)
    put(tmp_path, {"a.py": RESEARCH})
    paste = init(tmp_path).paste
    manifest = tmp_path / "kitaru.yaml"
    manifest.write_text(manifest.read_text().replace("flows: {}\n", paste))
    assert load(manifest).manifest.flows


def test_a_gitignore_of_any_encoding_is_appended_to(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 stay as they are."""
    (tmp_path / ".gitignore").write_bytes(b"caf\xe9\n")
    init(tmp_path)
    assert (tmp_path / ".gitignore").read_bytes() == b"caf\xe9\n" + ADDED.encode()


def test_a_stale_schema_is_replaced(tmp_path: Path) -> None:
    """After an upgrade, init brings the schema that editors read in step."""
    init(tmp_path)
    (tmp_path / SCHEMA_FILE).write_text("{}")
    assert init(tmp_path).written == (tmp_path / SCHEMA_FILE,)
    assert (tmp_path / SCHEMA_FILE).read_text(encoding="utf-8") == data_files.schema("kitaru")


def test_what_init_cannot_do_it_says(tmp_path: Path) -> None:
    """A bad project name, a folder that is none, a place that can't be written: errors with a next step."""
    with pytest.raises(KitaruUsageError, match="'My Project' can't name a project") as refused:
        init(tmp_path, "My Project")
    assert refused.value.hint == "kitaru init --project my-project"
    with pytest.raises(KitaruUsageError, match="expected a folder"):
        init(tmp_path / "none")
    (tmp_path / "kitaru.schema.json").mkdir()
    with pytest.raises(KitaruBackendError, match="can't be written"):
        init(tmp_path)
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(KitaruBackendError, match="can't be written"):
            init(closed)


@pytest.mark.parametrize(
    ("folder", "project"),
    [
        ("research", "research"),
        ("My Project", "my-project"),
        ("__x__", "x"),
        ("Café Ünïon", "cafe-union"),
        ("日本", "project"),
        ("...", "project"),
        ("a" * 80, "a" * 63),
    ],
)
def test_the_folder_names_the_project(folder: str, project: str) -> None:
    """As near as the rules for names allow."""
    assert project_name(folder) == project


@given(st.text(max_size=80))
def test_any_folder_name_gives_a_valid_project(text: str) -> None:
    """No folder stops init."""
    assert PROJECT_NAME.fullmatch(project_name(text))


IDENTIFIERS = st.text(max_size=12).filter(str.isidentifier) | st.from_regex(r"[a-zA-Z_]\w{0,8}", fullmatch=True)
FILES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=10).filter(
    lambda name: "/" not in name and name.strip(". ") != ""
)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(found=st.dictionaries(FILES, st.lists(IDENTIFIERS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_whatever_is_found_the_manifest_loads(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, list[str]]
) -> None:
    """Any names of files and functions: a valid manifest, each flow in it once, under a valid name."""
    root = tmp_path_factory.mktemp("any")
    for file, functions in found.items():
        body = "".join(f"@flow\ndef {name}(x: '{{'): ...\n" for name in functions)
        (root / f"{file}.py").write_text("from kitaru import flow\n" + body, encoding="utf-8")
    result = init(root)
    declared = targets(root)
    assert sorted(declared.values()) == sorted(flow.target for flow in result.flows)
    assert list(declared) == [flow.name for flow in result.flows]
    assert all(FLOW_NAME.fullmatch(name) for name in declared)
    assert init(root).undeclared == ()
