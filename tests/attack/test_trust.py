"""Attacks on what a node pulls and what a farm signs: a lying mirror between them, and an administrator's API key.

Every engine here is signed by the farm that the node trusts, unless a test says otherwise: the attacks substitute one
good engine for another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from fastapi import Response

from enginefarm import pull
from enginefarm.bundle.archive import Bundle
from enginefarm.bundle.export import export
from enginefarm.bundle.import_bundle import import_bundle
from enginefarm.cli import main
from enginefarm.client.farm import Farm
from enginefarm.contract import digest
from enginefarm.contract.errors import IntegrityError, InvalidRequest
from enginefarm.transfer.seen_revocations import SeenRevocations
from enginefarm.trust.attestation import TrustedKeys, pem
from enginefarm.trust.signature_policy import SignaturePolicy
from enginefarm.wire.engine_manifest import manifest_of
from enginefarm.wire.revocations import RevocationList
from models.security.signing_key import create
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


# Recalled engines


@dataclass(frozen=True)
class Recalled:
    """A farm that recalled its engine, and what a mirror copied before: the record, the attestation and the list."""

    scene: Scene
    old: dict[str, Any]  # answers by path

    @property
    def key(self) -> str:
        return self.scene.key

    def replay(self, *paths: str) -> None:
        """Let the mirror answer these paths as the farm did before the recall."""
        self.scene.mirror.lie = lambda method, path, answer: self.old.get(path) if path in paths else None

    def replay_all(self) -> None:
        """Let the mirror serve the engine as before, with its files, whose bytes it kept."""

        def lie(method: str, path: str, answer: Any) -> Any:
            if path.startswith(f"/v1/engines/{self.key}/files/"):
                return Response(GOOD[path.rpartition("/")[2]], 200)
            return self.old.get(path)

        self.scene.mirror.lie = lie


@pytest.fixture
def recalled(valkey: Valkey, tmp_path: Path) -> Iterator[Recalled]:
    add_model(tmp_path / "models", "tiny")
    spec: dict[str, Any] = {
        "model": f"file:{tmp_path / 'models' / 'tiny'}",
        "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_input_len": 64, "max_output_len": 64},
        "platform": {"arch": "x86_64", "cpu_isa": "x86-64-v3"},
    }
    with site(tmp_path / "farm", BROKER_URL=valkey.url, MODEL_ROOTS=str(tmp_path / "models")) as farm:
        key = build_at(farm, spec, GOOD, tmp_path / "good").key
        engine = f"/v1/engines/{key}"
        old = {
            engine: farm.farm.engine(key).model_dump(mode="json"),
            f"{engine}/attestation": farm.farm.attestation(key),
            "/v1/revocations": farm.farm.revocations(),
        }
        with Mirror(farm.farm.url) as mirror:
            yield Recalled(Scene(farm, mirror, key, key, spec, spec), old)


def test_a_mirror_cannot_roll_back_to_a_recalled_engine(recalled: Recalled, tmp_path: Path) -> None:
    scene, insists = recalled.scene, {"ENGINEFARM_REVOCATIONS_MAX_AGE": "3600"}
    first = scene.pull(recalled.key, tmp_path / "node", **insists)
    assert first.exit_code == 0, first.output
    (tmp_path / "node" / "engine").rename(tmp_path / "loaded")
    scene.farm.farm.recall({"toolchain": "aoti", "reason": "bad memory"})

    # The mirror goes on serving the engine, with the farm's new list of recalled engines.
    recalled.replay(*(path for path in recalled.old if path != "/v1/revocations"))
    refused = scene.pull(recalled.key, tmp_path / "node", **insists)
    assert (refused.exit_code, "was recalled by its farm" in refused.stderr) == (6, True), refused.output
    assert "bad memory" in refused.stderr
    assert not (tmp_path / "node" / "engine").exists()  # although the node's cache still has its files

    # It sends the old list, too: a node that has seen the new one remembers, whether it insists or not.
    recalled.replay_all()
    for environment in (insists, {}, {"ENGINEFARM_TRUSTED_KEYS": ""}):
        refused = scene.pull(recalled.key, tmp_path / "node", **environment)
        assert refused.exit_code == 6, refused.output
        assert ("somebody sends an old list" if environment is insists else "was recalled") in refused.stderr
        assert not (tmp_path / "node" / "engine").exists()

    # And a new node takes the old list only for as long as it allows.
    time.sleep(1.2)
    refused = scene.pull(recalled.key, tmp_path / "new", ENGINEFARM_REVOCATIONS_MAX_AGE="1")
    assert (refused.exit_code, "s old, and this node allows 1 s" in refused.stderr) == (6, True), refused.output
    require_nothing_kept(tmp_path / "new")


@pytest.mark.parametrize("lie", ["none", "another farm's", "of an untrusted key", "of another type"])
def test_a_node_that_insists_refuses_without_the_list_of_the_engines_farm(
    recalled: Recalled, tmp_path: Path, lie: str
) -> None:
    scene = recalled.scene
    # A second farm that the node trusts, too.
    other = create(tmp_path / "other.pem")
    (tmp_path / "other.pub").write_text(pem(other.public))
    now = datetime.now(UTC)
    its_list = RevocationList(
        farm="urn:other", sequence=9, issued_at=now, expires_at=now + timedelta(hours=1), revoked=()
    )
    answers: dict[str, Any] = {
        "none": Response(status_code=404),
        "another farm's": other.sign_revocations(its_list),
        "of an untrusted key": create(tmp_path / "stranger.pem").sign_revocations(its_list),
        "of another type": scene.farm.farm.attestation(recalled.key),
    }
    scene.mirror.lie = lambda method, path, answer: answers[lie] if path == "/v1/revocations" else None
    keys = f"{scene.farm.public_key}:{tmp_path / 'other.pub'}"
    refused = scene.pull(
        recalled.key, tmp_path / "node", ENGINEFARM_REVOCATIONS_MAX_AGE="3600", ENGINEFARM_TRUSTED_KEYS=keys
    )
    assert refused.exit_code == (4 if lie == "none" else 6), refused.output
    require_nothing_kept(tmp_path / "node")
    if lie == "another farm's":
        assert "list of recalled engines is of 'urn:other'" in refused.stderr


def test_a_list_that_no_trusted_key_signs_cannot_be_insisted_on(recalled: Recalled, tmp_path: Path) -> None:
    refused = recalled.scene.pull(
        recalled.key, tmp_path / "node", ENGINEFARM_REVOCATIONS_MAX_AGE="3600", ENGINEFARM_TRUSTED_KEYS=""
    )
    assert (refused.exit_code, "ENGINEFARM_TRUSTED_KEYS" in refused.stderr) == (2, True), refused.output


# An administrator's API key is no signing key


def test_an_import_trusts_only_the_keys_of_the_farms_setting(scene: Scene, valkey: Valkey, tmp_path: Path) -> None:
    """The attacker has an API key of an administrator and a farm of its own, and names its own key in the request."""
    models = str(Path(scene.spec["model"].removeprefix("file:")).parent)
    with (
        site(tmp_path / "its", BROKER_URL=valkey.url, MODEL_ROOTS=models) as its,
        site(
            tmp_path / "victim", BROKER_URL=valkey.url, MODEL_ROOTS=models,
            IMPORT_TRUSTED_KEYS=str(scene.farm.public_key),
        ) as victim,
    ):  # fmt: skip
        wrong = build_at(its, scene.spec, OTHER, tmp_path / "wrong")
        bundle = export(its.farm, [its.farm.engine(wrong.key)], tmp_path / "bundle.tar")
        with Bundle(bundle) as opened:
            (forged,) = opened.records
            with pytest.raises(InvalidRequest, match="this farm imports what these keys signed"):
                list(import_bundle(victim.farm, opened, TrustedKeys.of_files([its.public_key])))
        both = [key.public_key for place in (its, scene.farm) for key in place.farm.signing_keys()]
        for keys in ([], both):
            with pytest.raises(InvalidRequest, match="no good signature by a trusted key"):
                victim.farm.import_engine(forged, keys)
        assert list(victim.farm.engines()) == []
        for path in ("", "/attestation", "/verification-summary"):
            assert httpx.get(f"{victim.farm.url}/v1/engines/{wrong.key}{path}").status_code == 404

        # What the trusted farm signed is imported. The victim signs that it verified it, not that it built it.
        good = export(scene.farm.farm, [scene.farm.farm.engine(scene.key)], tmp_path / "good.tar")
        with Bundle(good) as opened:
            list(import_bundle(victim.farm, opened, TrustedKeys.of_files([scene.farm.public_key])))
        own = TrustedKeys.of_files([victim.public_key])
        attestation, engine = victim.farm.attestation(scene.key), victim.farm.engine(scene.key)
        assert attestation == scene.farm.farm.attestation(scene.key)
        with pytest.raises(IntegrityError, match="no good signature"):
            own.verify(attestation, key=scene.key, manifest=manifest_of(engine))
        SignaturePolicy([victim.public_key], SeenRevocations(tmp_path / "seen")).require(victim.farm, engine)


def test_a_farm_without_the_setting_imports_nothing(scene: Scene, tmp_path: Path) -> None:
    with Bundle(export(scene.farm.farm, [scene.farm.farm.engine(scene.key)], tmp_path / "good.tar")) as opened:
        (own,) = opened.records
    with pytest.raises(InvalidRequest, match=r"names the public keys .* ENGINEFARM_IMPORT_TRUSTED_KEYS"):
        scene.farm.farm.import_engine(own, [key.public_key for key in scene.farm.farm.signing_keys()])


# The cache of a node


@pytest.mark.parametrize("how", ["written with its seal restored", "another file", "a symbolic link"])
def test_a_replaced_file_in_the_cache_does_not_reach_an_engine(scene: Scene, tmp_path: Path, how: str) -> None:
    assert scene.pull(scene.key, tmp_path).exit_code == 0
    name = digest.of_bytes(GOOD["rank0.engine"]).removeprefix("sha256:")
    cached = tmp_path / "cache" / "sha256" / name[:2] / name
    sealed_at, wrong = cached.stat().st_mtime_ns, b"x" * len(GOOD["rank0.engine"])
    if how == "written with its seal restored":  # through the engine's directory, which shares the file
        shared = tmp_path / "engine" / "rank0.engine"
        shared.chmod(0o644)
        shared.write_bytes(wrong)
        shared.chmod(0o444)
    else:
        cached.unlink()
        (tmp_path / "outside").write_bytes(wrong)
        (tmp_path / "outside").chmod(0o444)
        if how == "a symbolic link":
            cached.symlink_to(tmp_path / "outside")
        else:
            (tmp_path / "outside").rename(cached)
    os.utime(cached, ns=(sealed_at, sealed_at))
    again = scene.enginefarm("pull", scene.key, str(tmp_path / "again"), "--any-platform", place=tmp_path)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "rank0.engine").read_bytes() == GOOD["rank0.engine"]
    assert not (tmp_path / "again" / "rank0.engine").is_symlink()
