"""Both guides, typed word for word: every command of a producer and a consumer, and every table as it stands there.

The commands go through a real shell in a repository of its own. What needs a server (login, curl, MCP) is not in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import kitaru
from kitaru import KitaruClient
from tests.repository import CHECKOUT, Done, Repository, git, new_git, until
from tests.test_requirements import install

RESEARCH = """\
from kitaru import checkpoint, flow

@checkpoint
def collect_notes(topic: str) -> str:
    return f"notes on {topic}"

@checkpoint
def write_summary(notes: str) -> str:
    return f"summary of {notes}"

@flow
def research_agent(topic: str) -> str:
    notes = collect_notes(topic)
    return write_summary(notes)
"""

FIRST = """\
kitaru deploy flows/research.py:research_agent \\
  --input '{"topic": "durable execution"}' \\
  --image '{"requirements":["kitaru[openai]"],"secret_environment_from":["openai-creds"]}'
"""

BUILD = """\
kitaru build flows/research.py:research_agent \\
  --input '{"topic": "durable execution"}'
"""

CANARY = """\
kitaru deploy flows/research.py:research_agent \\
  --tag canary \\
  --exclusive \\
  --input '{"topic": "durable execution"}'
"""

INVOKE = """\
kitaru invoke research_agent \\
  --input '{"topic": "serverless routing"}'
"""

INVOKE_CANARY = """\
kitaru invoke research_agent \\
  --tag canary \\
  --input '{"topic": "tag routing"}'
"""

INVOKE_STABLE = """\
kitaru invoke research_agent \\
  --tag stable \\
  --input '{"topic": "consumer request"}'
"""

INVOKE_FROM_PYTHON = """
from kitaru import KitaruClient

handle = KitaruClient().deployments.invoke(
    flow="research_agent",
    inputs={"topic": "serverless routing"},
)
print(handle.exec_id)
"""

INVOKE_IMPORTED = """
from flows.research import research_agent

handle = research_agent.invoke(topic="serverless routing")
"""


@dataclass(frozen=True)
class Shell:
    """A person's shell in a folder, in which ``kitaru`` is a command."""

    folder: Path
    environ: dict[str, str]

    def type(self, text: str) -> Done:
        return self._run(["bash", "-e", "-o", "pipefail", "-c", text])

    def python(self, text: str) -> Done:
        return self._run([sys.executable, "-c", text])

    def _run(self, command: list[str]) -> Done:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=120, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def table(self) -> list[tuple[str, str, str]]:
        """Flow, version and tags, as the guide's tables have them."""
        lines = self.type("kitaru flow deployments list research_agent").must().out.splitlines()
        assert lines[0].split()[:3] == ["FLOW", "VERSION", "TAGS"]
        at = [lines[0].index(word) for word in ("VERSION", "TAGS", "CREATED")]
        return [(line[: at[0]].strip(), line[at[0] : at[1]].strip(), line[at[1] : at[2]].strip()) for line in lines[1:]]

    def result(self, started: Done) -> tuple[str, int | None, str]:
        """Topic, version and result of an execution that a command started."""
        client = KitaruClient(manifest=self.folder / "kitaru.yaml")
        exec_id = started.must().out.split()[0]
        execution = until(lambda: (found := client.executions.get(exec_id)).ended and found)
        inputs = client.executions.value(execution.inputs, "inputs")
        return inputs["topic"], execution.version, client.executions.value(execution.output, "result")


@pytest.fixture
def producer(own_world: Path) -> Shell:
    """A fresh repository with the guide's flow; the library that the guide's image asks for is there, and unused."""
    site = own_world / "site"
    site.mkdir()
    install(site, "openai", "1.60.0")
    command = own_world / "bin" / "kitaru"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m kitaru "$@"\n')
    command.chmod(0o755)
    new_git(own_world / "team")
    Repository(own_world / "team").write("flows/research.py", RESEARCH)
    Repository(own_world / "team").commit()
    environ = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{CHECKOUT}:{site}",
        "KITARU_SECRET_OPENAI_CREDS": '{"OPENAI_API_KEY": "sk-not-a-real-one"}',
    }
    return Shell(own_world / "team", environ)


def quiet(shell: Shell) -> None:
    """The manifest agrees with the store, before it is committed and after."""
    assert shell.type("kitaru plan --allow-dirty --detailed-exitcode").code == 0
    git(shell.folder, "add", "-A")
    git(shell.folder, "commit", "-q", "--allow-empty", "-m", "kitaru.yaml")
    assert shell.type("kitaru plan --detailed-exitcode").code == 0


def test_deploy_and_invoke_flows(producer: Shell) -> None:
    """The guide on deployments from its first step to its last, with its tables."""
    # Step 1: deploy the first version.
    producer.type("kitaru init").must()
    producer.type(FIRST).must()
    assert producer.table() == [("research_agent", "1", "default*")]
    shown = producer.type("kitaru flow deployments show research_agent").must().out
    assert "research_agent v1" in shown and "openai-creds" in shown
    quiet(producer)

    # Step 2: invoke the default route.
    expected = ("serverless routing", 1, "summary of notes on serverless routing")
    assert producer.result(producer.type(INVOKE)) == expected
    assert producer.result(producer.python(INVOKE_FROM_PYTHON)) == expected
    imported = producer.python(f"{INVOKE_IMPORTED}\nprint(handle.exec_id)")
    assert producer.result(imported) == expected

    # Step 3: deploy a canary version, add a label, and test it.
    source = producer.folder / "flows" / "research.py"
    source.write_text(RESEARCH.replace("summary of", "fine summary of"))
    producer.type(CANARY).must()
    assert producer.table() == [("research_agent", "1", "default*"), ("research_agent", "2", "canary*")]
    quiet(producer)
    producer.type("kitaru flow tag research_agent benchmark --version 2").must()
    assert producer.table()[1] == ("research_agent", "2", "benchmark, canary*")
    assert producer.result(producer.type(INVOKE_CANARY)) == (
        "tag routing",
        2,
        "fine summary of notes on tag routing",
    )
    assert producer.result(producer.type(INVOKE))[1] == 1

    # Step 4: promote a version, both ways.
    producer.type("kitaru flow tag research_agent default --version 2 --exclusive").must()
    assert producer.table() == [("research_agent", "1", "-"), ("research_agent", "2", "benchmark, canary*, default*")]
    assert producer.result(producer.type(INVOKE))[1] == 2
    producer.type("kitaru flow tag research_agent stable --version 2 --exclusive").must()
    assert producer.result(producer.type(INVOKE_STABLE))[:2] == ("consumer request", 2)
    quiet(producer)

    # When selectors matter: a pin, a label on two, and a version that can go.
    text = """kitaru invoke research_agent --tag stable --input '{"topic": "..."}'"""
    assert producer.result(producer.type(text))[1] == 2
    text = """kitaru invoke research_agent --version 2 --input '{"topic": "..."}'"""
    assert producer.result(producer.type(text))[1] == 2
    producer.type("kitaru flow tag research_agent benchmark --version 1").must()
    producer.type("kitaru flow tag research_agent benchmark --version 2").must()
    ambiguous = producer.type("""kitaru invoke research_agent --tag benchmark --input '{"topic": "..."}'""")
    ambiguous.refused("tag benchmark of research_agent is ambiguous: it is a shared label on v1, v2")
    producer.type(
        "kitaru flow tag research_agent default --version 2 --exclusive\n"
        "kitaru flow deployments delete research_agent --version 1 --yes"
    ).must()
    assert producer.table() == [("research_agent", "2", "benchmark, canary*, default*, stable*")]
    quiet(producer)


def test_build_a_version_without_routing_it(producer: Shell) -> None:
    """The guide's other way: build, look, then attach a route; a holder of an exclusive tag can't be deleted."""
    producer.type("kitaru init").must()
    producer.type(FIRST).must()
    producer.type(BUILD).must()
    assert producer.table() == [("research_agent", "1", "default*"), ("research_agent", "2", "-")]
    quiet(producer)
    producer.type("kitaru flow tag research_agent canary --version 2 --exclusive").must()
    assert producer.table()[1] == ("research_agent", "2", "canary*")
    quiet(producer)
    done = producer.type("kitaru flow deployments delete research_agent --version 1 --yes")
    done.refused("holds the exclusive tag default", code=1)
    assert "kitaru flow tag research_agent default --version 2 --exclusive" in done.err
    producer.type("kitaru flow untag research_agent default").refused("default is reserved: it can't be removed")


def test_invoking_what_is_not_there(producer: Shell) -> None:
    """No deployments at all, and deployments of which none is the default: each is said."""
    producer.type("kitaru init").must()
    text = """kitaru invoke research_agent --input '{"topic": "..."}'"""
    producer.type(text).refused("research_agent has no deployments yet")
    producer.type(BUILD).must()
    done = producer.type(text).refused("not routed as default")
    assert "--version 1" in done.err


FLOWS_GUIDE = """
import kitaru
from kitaru import KitaruClient, flow

from agents import bad_agent, my_agent

# Running a flow
handle = my_agent.run(url="https://example.com")
print(handle.exec_id)   # unique execution identifier
# ... do other work ...
result = handle.wait()   # block until finished
assert result == "page of https://example.com"
result = my_agent.run(url="https://example.com").wait()
handle = my_agent.run(url="https://example.com", stack="production")
assert handle.wait() == result

# Deploying and invoking flows
# Producer side: create a reusable deployment version.
first = my_agent.deploy(url="https://example.com")

# Consumer side: start a new execution from the deployed default route.
handle = my_agent.invoke(url="https://example.com")
assert handle.wait() == result
assert (first.version, dict(first.tags)) == (1, {"default": True})

# To pin a specific version, or to route through a named tag
second = my_agent.deploy(url="https://example.com", tag="stable", exclusive=True)
assert (second.version, dict(second.tags)) == (2, {"stable": True})
assert my_agent.invoke(url="https://example.com", version=2).wait() == result
assert my_agent.invoke(url="https://example.com", tag="stable").wait() == result
handle = KitaruClient().deployments.invoke(
    flow="my_agent",
    inputs={"url": "https://example.com"},
)
assert handle.wait() == result

# How errors surface
try:
    result = bad_agent.run(url="bad-input").wait()
except kitaru.KitaruExecutionError as exc:
    print(exc.exec_id, exc.status, exc.failure_origin)
    assert (exc.status, exc.failure_origin) == ("failed", "user_code")

# Runtime options and rules to know
handle = my_agent.run(url="https://example.com", retries=3, cache=True)
handle.wait()
for wrong in (lambda: my_agent("x"), lambda: flow(retries=-1)(lambda url: url)):
    try:
        wrong()
    except kitaru.KitaruUsageError:
        continue
    raise AssertionError("not refused")
"""

AGENTS = """\
from kitaru import checkpoint, flow

@checkpoint
def fetch_data(url: str) -> str:
    return f"page of {url}"

@flow
def my_agent(url: str) -> str:
    return fetch_data(url)

@flow(retries=0, cache=False)
def bad_agent(url: str) -> str:
    raise ValueError(url)
"""


def test_the_guide_on_flows(producer: Shell) -> None:
    """Run, deploy, invoke, and how errors surface, from Python, in a repository with a stack of its own name."""
    Repository(producer.folder).write("agents.py", AGENTS)
    Repository(producer.folder).commit()
    producer.type("kitaru init").must()
    with (producer.folder / "kitaru.yaml").open("a") as manifest:
        manifest.write("stacks:\n  production: {type: local}\n")
    producer.python(FLOWS_GUIDE).must()
    # init declared the other flows too; those were never deployed.
    producer.type("kitaru plan my_agent --allow-dirty --detailed-exitcode").must()


def test_the_checklist(producer: Shell) -> None:
    """The guide's practical checklist, as one person would go through it."""
    producer.type("kitaru init").must()
    producer.type(FIRST).must()
    producer.type(
        """
        kitaru deploy flows/research.py:research_agent --tag canary --exclusive
        kitaru invoke research_agent --tag canary --input '{"topic": "x"}' --wait
        kitaru flow tag research_agent stable --version 2 --exclusive
        kitaru promote research_agent stable --to default
        kitaru rollback research_agent
        """
    ).must()
    assert producer.table() == [("research_agent", "1", "default*"), ("research_agent", "2", "canary*, stable*")]


def test_what_the_guides_import() -> None:
    """Every name that the guides take from the package is there."""
    for name in ("checkpoint", "flow", "KitaruClient", "ImageSettings", "KitaruExecutionError", "KitaruUsageError"):
        assert hasattr(kitaru, name)
        assert name in kitaru.__all__
