"""The image that a deploy asks for: checked as the manifest's own is, before anything is built, moved or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kitaru import flow
from kitaru.client.arguments import asked_image
from kitaru.errors import KitaruError, KitaruManifestError, KitaruUsageError
from kitaru.model.snapshot import ImageSettings, Snapshot, image_flaws, settings_flaws
from tests.repository import FLOWS, MANIFEST, Done, Repository, kitaru

STACK = {"name": "local", "spec": {"type": "local"}}
AGENT = "flows/work.py:agent"

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"requirements": ["not a req!!"]}, "requirements[0]"),
    ({"requirements": ["httpx", "@@"]}, "requirements[1]"),
    ({"requirements": [""]}, "requirements[0]"),
    ({"requirements": ["../x"]}, "requirements[0]"),
    ({"base_image": "a b"}, "base_image"),
    ({"environment": {"A B": "x"}}, "environment.A B"),
    ({"environment": {"": "x"}}, "environment."),
    ({"environment": {"A=B": "x"}}, "environment.A=B"),
    ({"secret_environment_from": ["A B"]}, "secret_environment_from[0]"),
    ({"apt_packages": ["a b;rm"]}, "apt_packages[0]"),
    ({"dockerfile": "/etc/Dockerfile"}, "dockerfile"),
    ({"dockerfile": "../Dockerfile"}, "dockerfile"),
    ({"platform": "x y"}, "platform"),
]


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def untouched(repository: Repository) -> bool:
    """The manifest reads as it was committed, and no version was made."""
    same = (repository.folder / "kitaru.yaml").read_text("utf-8") == MANIFEST
    return same and repository.client().session.releases.head().generation == 0


@pytest.mark.parametrize(("image", "member"), WRONG, ids=[json.dumps(image) for image, _ in WRONG])
def test_an_image_with_a_wrong_member_is_refused_in_python(repository: Repository, image: Any, member: str) -> None:
    """As a mapping, as JSON and as settings; the member is named, and nothing has happened."""
    client = repository.client()
    for shape in (image, json.dumps(image), ImageSettings(**image)):
        with pytest.raises(KitaruUsageError) as caught:
            client.deployments.deploy(AGENT, image=shape)
        assert caught.value.message.startswith("image=: ")
        assert member in caught.value.message
        assert caught.value.hint
    assert untouched(repository)


def test_an_image_with_a_wrong_member_is_refused_on_the_command_line(repository: Repository) -> None:
    """By deploy and build, in JSON and in a file, with and without the manifest: its place and the member are named."""
    bad = json.dumps({"requirements": ["httpx", "not a req!!"], "platform": "x y"})
    repository.write("image.json", bad)
    words = ("requirements[1]: expected a requirement such as httpx>=0.27", "platform: expected")
    for verb in ("deploy", "build"):
        do(repository, verb, "agent", "--image", bad).refused("error: --image: ", *words)
        do(repository, verb, "agent", "--image", "@image.json", "--manifest-only").refused(
            "error: image.json: ", *words
        )
    do(repository, "deploy", AGENT, "--image", bad, "--no-manifest").refused("error: --image: ", *words)
    assert untouched(repository)
    do(repository, "validate").must()


def test_a_verb_never_writes_a_manifest_that_it_cannot_read(repository: Repository) -> None:
    """What no check of its own stands for is met before the commit point: the edited text is read first."""
    done = do(repository, "deploy", "agent", "--stack", "nowhere", "--manifest-only")
    done.refused("the edit would leave this: unknown stack 'nowhere'", "kitaru.yaml was left as it is")
    with pytest.raises(KitaruError):
        repository.client().deployments.deploy(AGENT, {"x": float("nan")})
    assert untouched(repository)


def test_a_run_and_a_decorator_are_asked_the_same(repository: Repository) -> None:
    """image= of .run() and of @flow: the member is named, by validate as well."""

    @flow
    def loud(text: str) -> str:
        return text.upper()

    with pytest.raises(KitaruUsageError, match=r"image=: requirements\[0\]: expected a requirement"):
        loud.run(text="x", image={"requirements": ["@@"]})
    repository.write("flows/work.py", FLOWS.replace("@flow\ndef agent", '@flow(image={"platform": "x y"})\ndef agent'))
    do(repository, "validate").refused("image= of flow agent is wrong: platform: expected a platform", "'x y'")
    do(repository, "deploy", "agent").refused("platform: expected a platform")
    assert untouched(repository)


@pytest.mark.parametrize("place", ["image: {dockerfile: docker/Base}\n", "    image: {dockerfile: docker/Base}\n"])
def test_a_dockerfile_is_looked_up_where_it_would_be_built(repository: Repository, place: str) -> None:
    """validate, plan and build say where the missing one is named; the manifest alone still loads."""
    text = MANIFEST + place if place.startswith("    ") else place + MANIFEST
    repository.manifest(text)
    repository.commit()
    line = text.splitlines().index(place.rstrip("\n")) + 1
    where = f"kitaru.yaml:{line}:{place.index('docker/') + 1}: there is no Dockerfile 'docker/Base' below the manifest"
    for verb in (("validate",), ("plan",), ("build", "agent"), ("apply", "--yes")):
        do(repository, *verb).refused(where)
    do(repository, "flow", "list").must()
    repository.write("docker/Base", "FROM python:3.12\n")
    repository.commit()
    do(repository, "validate").must()
    do(repository, "build", "agent", "--image", '{"dockerfile": "docker/None"}').refused("docker/None")
    assert repository.client().session.releases.head().generation == 0
    do(repository, "build", "agent").must()


def test_what_a_store_holds_is_read_whatever_its_image_says() -> None:
    """The rules are for what people write: a version of an earlier release stays readable."""
    image = {key: value for one, _ in WRONG for key, value in one.items()}
    content = {"format": 1, "flow": "f", "target": "f.py:f", "source": "0" * 64, "image": image, "stack": STACK}
    body = json.dumps(content).encode()
    kept = Snapshot.parse(body).image
    assert kept.data() == image
    assert {flaw.path[0] for flaw in settings_flaws(kept)} == set(image)


def test_good_settings_have_no_flaws() -> None:
    """Every member as people write it; what has the wrong type is for the model to refuse."""
    good = {
        "base_image": "ghcr.io/acme/base:1.2",
        "requirements": ["httpx", "kitaru[openai]>=1,<2", "a @ https://e.org/a.whl", "b; python_version > '3.10'"],
        "environment": {"LOG_LEVEL": "", "_x": "a=b c", "my.name-2": "ü"},
        "secret_environment_from": ["openai-creds", "team/key"],
        "apt_packages": ["git", "libstdc++6", "g++-12=12.2.0-14+deb12u1~x", "vim/stable", "libc6:i386"],
        "dockerfile": "docker/sub dir/../Dockerfile.prod",
        "platform": "linux/arm64/v8",
        "user": "1000:1000",
    }
    assert list(image_flaws(good)) == []
    assert asked_image(good) == ImageSettings(**good)
    assert asked_image(None) is None
    assert list(image_flaws({"requirements": 3, "environment": [1], "platform": None, "apt_packages": [5]})) == []
    with pytest.raises(KitaruUsageError, match=r"--image: .*requirements: Input should be a valid tuple"):
        asked_image({"requirements": 3}, "--image")


def test_an_error_of_the_manifest_is_a_usage_error(repository: Repository) -> None:
    """Scripts tell by the exit code: 2, as for any other wrong value."""
    assert issubclass(KitaruManifestError, KitaruUsageError)
    assert do(repository, "deploy", "agent", "--image", '{"platform": ""}').code == 2


def test_no_tag_is_another_tag_than_none(repository: Repository) -> None:
    """tag="" is refused, in Python and on the command line; it never means default."""
    with pytest.raises(KitaruUsageError, match="''"):
        repository.client().deployments.deploy(AGENT, tag="")
    do(repository, "deploy", AGENT, "--tag", "").refused("''")
    assert untouched(repository)
    repository.apply()
    with pytest.raises(KitaruUsageError, match="''"):
        repository.client().deployments.invoke("agent", {"topic": "a"}, tag="")
    do(repository, "invoke", "agent", "--tag", "").refused("''")


def test_comments_beside_an_image_stay(repository: Repository) -> None:
    """A build that changes one key and adds another leaves what stands behind them."""
    image = "    image:\n      base_image: python:3.11   # keep\n      apt_packages: [curl]  # kept2\n"
    repository.manifest(MANIFEST + image)
    asked = '{"base_image":"n","apt_packages":["git","vim"],"user":"u"}'
    do(repository, "build", "agent", "--image", asked).must()
    text = (repository.folder / "kitaru.yaml").read_text("utf-8")
    assert f'      base_image: "n"{" " * 15}# keep\n' in text
    assert "# keep\n      apt_packages: [git, vim]  # kept2\n      user: u\n" in text


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        (("deploy", AGENT), ("--input", '{"topic": "a", "topic": "b"}')),
        (("deploy", AGENT), ("--image", '{"user": "a", "user": "b"}')),
        (("build", AGENT), ("--image", "@twice.json")),
        (("invoke", "agent"), ("--input", '{"x": [{"y": 1, "y": 1}]}')),
        (("executions", "replay", "ex-000000000000000000", "--from", "a"), ("--args", '{"topic": 1, "topic": 2}')),
    ],
)
def test_a_key_that_is_given_twice_is_refused(repository: Repository, verb: tuple[str, ...], option: Any) -> None:
    """In the JSON of every option that takes some: of two values only one could count."""
    name = ("executions", "replay", "ex-000000000000000000", "--from", "a", "--override")
    do(repository, *name, 'checkpoint.a={"b": 1, "b": 2}').refused("the key 'b' is given twice", "keep one of the two")
    repository.write("twice.json", '{"user": "a", "user": "b"}')
    source = option[1][1:] if option[1].startswith("@") else option[0]
    do(repository, *verb, *option).refused(f"{source}: ", "the key '", "' is given twice")
    assert untouched(repository)


def test_a_key_that_is_given_twice_in_an_image_as_text_is_refused(repository: Repository) -> None:
    """Python takes JSON text for an image as well."""
    with pytest.raises(KitaruUsageError, match="the key 'user' is given twice"):
        repository.client().deployments.deploy(AGENT, image='{"user": "a", "user": "b"}')
    assert untouched(repository)
