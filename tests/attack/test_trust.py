"""Attacks on what a node pulls and what a farm signs: a lying mirror between them, and an administrator's API key.

Every engine here is signed by the farm that the node trusts, unless a test says otherwise: the attacks substitute one
good engine for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from enginefarm import pull
from enginefarm.cli import main
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import IntegrityError
from tests.api.bundles import Site, build_at, site
from tests.api.conftest import add_model
from tests.attack.mirror import Mirror
from tests.servers.redis import Valkey

GOOD = {"config.json": b"{}", "rank0.engine": b"the right engine" * 1000}
OTHER = {"config.json": b"[]", "rank0.engine": b"another engine" * 1000}


@dataclass(frozen=True)
class Scene:
    """A farm that signs, with two engines of one model, and a mirror of it."""

    farm: Site
    mirror: Mirror
    key: str
    other: str
    spec: dict[str, Any]
    other_spec: dict[str, Any]

    def enginefarm(self, *words: str, place: Path, stdin: str | None = None, **environment: str) -> Result:
        """Run the command line of a node that uses the mirror and requires the farm's signature."""
        own = {
            "ENGINEFARM_URL": self.mirror.url,
            "ENGINEFARM_CACHE": str(place / "cache"),
            "ENGINEFARM_TRUSTED_KEYS": str(self.farm.public_key),
        }
        return CliRunner().invoke(main, list(words), input=stdin, env=own | environment)

    def pull(self, name: str, place: Path, **environment: str) -> Result:
        return self.enginefarm("pull", name, str(place / "engine"), "--any-platform", place=place, **environment)


@pytest.fixture(scope="module")
def running(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("trust")
    add_model(folder / "models", "tiny")
    spec: dict[str, Any] = {
        "model": f"file:{folder / 'models' / 'tiny'}",
        "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_input_len": 64, "max_output_len": 64},
        "platform": {"arch": "x86_64", "cpu_isa": "x86-64-v3"},
    }
    other_spec = spec | {"limits": {"max_input_len": 32, "max_output_len": 32}}
    with site(folder / "farm", BROKER_URL=valkey.url, MODEL_ROOTS=str(folder / "models")) as farm:
        key = build_at(farm, spec, GOOD, folder / "good").key
        other = build_at(farm, other_spec, OTHER, folder / "other").key
        with Mirror(farm.farm.url) as mirror:
            yield Scene(farm, mirror, key, other, spec, other_spec)


@pytest.fixture
def scene(running: Scene) -> Iterator[Scene]:
    yield running
    running.mirror.lie = lambda method, path, answer: None


def require_nothing_kept(place: Path) -> None:
    left = {path for path in place.rglob("*") if path.is_file()}
    assert {path for path in left if "revocations" not in path.parts} == set()


def record(scene: Scene, key: str) -> dict[str, Any]:
    return scene.farm.farm.engine(key).model_dump(mode="json")


def test_the_mirror_that_does_not_lie_serves_the_engine(scene: Scene, tmp_path: Path) -> None:
    """Without this, the refusals below would prove nothing."""
    result = scene.pull(scene.key, tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "engine" / "rank0.engine").read_bytes() == GOOD["rank0.engine"]


@pytest.mark.parametrize("asked", ["key", "prefix", "prefix named as a build"])
def test_another_signed_engine_is_refused(scene: Scene, tmp_path: Path, asked: str) -> None:
    def lie(method: str, path: str, answer: Any) -> Any:
        if path == f"/v1/engines/{scene.key}":
            return record(scene, scene.other)
        if path == f"/v1/engines/{scene.key}/attestation":
            return scene.farm.farm.attestation(scene.other)
        if asked == "prefix named as a build" and path.startswith("/v1/builds/"):
            build = next(build for build in scene.farm.farm.builds() if build.key == scene.other)
            return build.model_dump(mode="json") | {"id": path.rpartition("/")[2]}
        return None

    scene.mirror.lie = lie
    name = scene.key if asked == "key" else scene.key[:12]
    refused = scene.pull(name, tmp_path)
    assert refused.exit_code == 6, refused.output
    assert refused.stderr.startswith(f"error: asked for engine {scene.key[:12]}, got engine {scene.other[:12]}")
    assert refused.stderr.count("\n") == 1
    require_nothing_kept(tmp_path)


@pytest.mark.parametrize("renamed", [False, True])
def test_the_record_of_another_engine_under_the_right_key_is_refused(
    scene: Scene, tmp_path: Path, renamed: bool
) -> None:
    """Without signatures, too: the documents in the record must hash to the key."""
    right, wrong = record(scene, scene.key), record(scene, scene.other) | {"key": scene.key}
    if renamed:  # with the documents of the right engine around the limits and files of the other
        documents = ("document", "checkpoint_document")
        wrong |= {field: right[field] for field in documents}
    scene.mirror.lie = lambda method, path, answer: wrong if path == f"/v1/engines/{scene.key}" else None
    refused = scene.pull(scene.key, tmp_path, ENGINEFARM_TRUSTED_KEYS="")
    assert refused.exit_code == 6, refused.output
    assert ("spec.limits" if renamed else "document hashes to") in refused.stderr
    require_nothing_kept(tmp_path)


@pytest.mark.parametrize("field", ["spec", "provenance", "manifest"])
def test_a_record_that_states_something_else_than_what_was_signed_is_refused(
    scene: Scene, tmp_path: Path, field: str
) -> None:
    right, other = record(scene, scene.key), record(scene, scene.other)
    changed: dict[str, dict[str, Any]] = {
        "spec": {"model": "file:/models/other", "spec": right["spec"] | {"model": "file:/models/other"}},
        "provenance": {"provenance": right["provenance"] | {"facts": {"own_limits": []}}},
        "manifest": {"manifest": other["manifest"], "contents": other["contents"]},
    }
    lie = right | changed[field]
    scene.mirror.lie = lambda method, path, answer: lie if path == f"/v1/engines/{scene.key}" else None
    refused = scene.pull(scene.key, tmp_path)
    assert (refused.exit_code, "signed" in refused.stderr) == (6, True), refused.output
    require_nothing_kept(tmp_path)


def test_an_engine_that_does_not_meet_the_spec_is_refused_by_resolve_and_pull(scene: Scene, tmp_path: Path) -> None:
    """The mirror answers with a smaller engine of the farm, and claims that it fits exactly."""

    def lie(method: str, path: str, answer: Any) -> Any:
        if path == "/v1/engines:resolve":
            return {"engine": record(scene, scene.other), "exact": True, "differences": [], "unchecked": []}
        return None

    scene.mirror.lie = lie
    limits = [f"--{name.replace('_', '-')}={value}" for name, value in scene.spec["limits"].items()]
    words = ["resolve", "--model", scene.spec["model"], *limits, "--platform", "cpu_isa=x86-64-v3"]
    refused = scene.enginefarm(*words, place=tmp_path)
    assert refused.exit_code == 6, refused.output
    assert "asked for /limits/max_input_len 64, it has 32" in refused.stderr

    with pytest.raises(IntegrityError, match="it has 32"):
        pull(None, tmp_path / "engine", wanted=scene.spec, farm=Farm(scene.mirror.url), trusted_keys=[])
    require_nothing_kept(tmp_path)


def test_a_resolved_engine_that_pretends_to_be_larger_is_refused(scene: Scene, tmp_path: Path) -> None:
    lie = record(scene, scene.other)
    lie["spec"] = record(scene, scene.key)["spec"]
    scene.mirror.lie = lambda method, path, answer: (
        {"engine": lie, "exact": True} if path == "/v1/engines:resolve" else None
    )
    with pytest.raises(IntegrityError, match="its key was made with"):
        pull(None, tmp_path / "engine", wanted=scene.spec, farm=Farm(scene.mirror.url), trusted_keys=[])
    require_nothing_kept(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "file:/models/another"}, "asked for the model"),
        ({"toolchain": {"name": "aoti", "version": "2.12.0"}}, "/toolchain/version"),
        ({"precision": {"dtype": "float16"}}, "/precision/dtype"),
        ({"parallelism": {"tp": 2}}, "/parallelism/tp"),
        ({"platform": {"arch": "x86_64", "cpu_isa": "x86-64-v2"}}, "/platform/cpu_isa"),
    ],
)
def test_an_engine_that_differs_from_the_spec_in_any_field_is_refused(
    scene: Scene, change: dict[str, Any], says: str
) -> None:
    scene.mirror.lie = lambda method, path, answer: (
        {"engine": record(scene, scene.key), "exact": True} if path == "/v1/engines:resolve" else None
    )
    with Farm(scene.mirror.url) as client, pytest.raises(IntegrityError, match=says):
        client.resolve(scene.spec | change)


def test_a_resolved_engine_that_nobody_trusted_signed_is_refused(scene: Scene, valkey: Valkey, tmp_path: Path) -> None:
    """The mirror runs a farm of its own, and answers from it."""
    models = str(Path(scene.spec["model"].removeprefix("file:")).parent)
    with site(tmp_path / "its", BROKER_URL=valkey.url, MODEL_ROOTS=models) as its:
        build_at(its, scene.spec, OTHER, tmp_path / "wrong")
        own = {"ENGINEFARM_URL": its.farm.url, "ENGINEFARM_TRUSTED_KEYS": str(scene.farm.public_key)}
        limits = [f"--{name.replace('_', '-')}={value}" for name, value in scene.spec["limits"].items()]
        words = ["resolve", "--model", scene.spec["model"], *limits, "--platform", "cpu_isa=x86-64-v3"]
        refused = CliRunner().invoke(main, words, env=own)
        assert (refused.exit_code, "no good signature" in refused.stderr) == (6, True), refused.output
        with pytest.raises(IntegrityError, match="no good signature"):
            pull(
                None, tmp_path / "engine", wanted=scene.spec, farm=Farm(its.farm.url),
                trusted_keys=[scene.farm.public_key],
            )  # fmt: skip
    assert not (tmp_path / "engine").exists()
