"""Attestations are verified with the farm's public key, and with no other key."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import rfc8785

from api.app import create_app
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import IntegrityError, InvalidRequest
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.trust.attestation import PREDICATE_TYPE, STATEMENT_TYPE, TrustedKeys, pem
from models.security.signing_key import SigningKey, create
from models.start import SettingsError
from tests.api.published import Published, published, served, settings_in


@pytest.fixture(scope="module")
def published_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("signed")
    create(folder / "signing.pem")
    with published(folder, SIGNING_KEY=str(folder / "signing.pem")) as farm:
        yield farm


@pytest.fixture
def trusted(published_farm: Published, tmp_path: Path) -> TrustedKeys:
    with Farm(published_farm.url) as client:
        (key,) = client.signing_keys()
    (tmp_path / "farm.pem").write_text(key.public_key)
    return TrustedKeys.of_files([tmp_path / "farm.pem"])


@pytest.fixture
def envelope(published_farm: Published) -> dict[str, Any]:
    with Farm(published_farm.url) as client:
        return dict(client.attestation(published_farm.key))


def test_an_attestation_is_slsa_provenance(
    published_farm: Published, trusted: TrustedKeys, envelope: dict[str, Any]
) -> None:
    trusted.verify(envelope, key=published_farm.key, manifest=published_farm.manifest)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert (statement["_type"], statement["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    assert statement["subject"] == [
        {"name": published_farm.key, "digest": {"sha256": published_farm.manifest.digest.removeprefix("sha256:")}}
    ]
    definition, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert [dependency["name"] for dependency in definition["resolvedDependencies"]] == ["model", "checkpoint"]
    assert run["metadata"]["invocationId"] == f"{published_farm.key}/1"
    assert run["byproducts"][0]["annotations"]["worker"] == "w1"


def test_an_attestation_is_the_same_bytes_at_every_request(published_farm: Published, envelope: dict[str, Any]) -> None:
    assert httpx.get(f"{published_farm.url}/v1/engines/{published_farm.key}/attestation").json() == envelope


def test_another_key_is_not_trusted(published_farm: Published, envelope: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(pem(create(tmp_path / "other").public))
    other = TrustedKeys.of_files([tmp_path / "other.pem"])
    with pytest.raises(IntegrityError, match="no good signature by a trusted key"):
        other.verify(envelope, key=published_farm.key, manifest=published_farm.manifest)


def test_a_changed_statement_is_refused(
    published_farm: Published, trusted: TrustedKeys, envelope: dict[str, Any]
) -> None:
    payload = base64.b64decode(envelope["payload"]).replace(b"aoti", b"evil")
    with pytest.raises(IntegrityError, match="no good signature"):
        trusted.verify(
            envelope | {"payload": base64.b64encode(payload).decode()},
            key=published_farm.key,
            manifest=published_farm.manifest,
        )


@pytest.mark.parametrize("broken", [{}, {"payload": 3}, {"payload": "e30=", "payloadType": "x", "signatures": []}])
def test_a_malformed_envelope_is_refused(
    published_farm: Published, trusted: TrustedKeys, broken: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError, match="no good signature"):
        trusted.verify(broken, key=published_farm.key, manifest=published_farm.manifest)


def test_a_signed_statement_about_another_subject_is_refused(
    published_farm: Published, trusted: TrustedKeys, envelope: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError, match="is about"):
        trusted.verify(envelope, key="f" * 64, manifest=published_farm.manifest)
    files = [FileEntry(path="rank0.engine", digest="sha256:" + "0" * 64, size=1)]
    with pytest.raises(IntegrityError, match="not those that its farm signed"):
        trusted.verify(envelope, key=published_farm.key, manifest=Manifest.of(files))


def test_a_new_key_signs_everything_and_the_old_one_stays_listed(
    published_farm: Published, envelope: dict[str, Any], tmp_path: Path
) -> None:
    """The catalogue is signed anew at once; what the old key signed is verified by nodes that trust both."""
    with Farm(published_farm.url) as client:
        (old,) = client.signing_keys()
    (tmp_path / "old.pub").write_text(old.public_key)
    new = create(tmp_path / "new.pem")
    database_url = published_farm.database.engine.url.render_as_string(hide_password=False)
    settings = {"SIGNING_KEY": str(tmp_path / "new.pem"), "OLD_SIGNING_KEYS": str(tmp_path / "old.pub")}
    with served(settings_in(tmp_path, DATABASE_URL=database_url, **settings)) as url, Farm(url) as client:
        listed = client.signing_keys()
        rotated = dict(client.attestation(published_farm.key))
    assert [(key.public_key, key.current) for key in listed] == [(pem(new.public), True), (old.public_key, False)]
    assert rotated["payload"] == envelope["payload"]
    both = TrustedKeys.of_pems([key.public_key for key in listed])
    for signed in (envelope, rotated):
        both.verify(signed, key=published_farm.key, manifest=published_farm.manifest)
    with pytest.raises(IntegrityError, match="no good signature"):
        TrustedKeys.of_pems([old.public_key]).verify(rotated, key=published_farm.key, manifest=published_farm.manifest)


@pytest.mark.parametrize("setting", ["SIGNING_KEY", "OLD_SIGNING_KEYS", "IMPORT_TRUSTED_KEYS"])
def test_a_farm_does_not_start_with_a_key_file_that_holds_none(tmp_path: Path, setting: str) -> None:
    (tmp_path / "secret").write_text("hunter2")
    settings = settings_in(tmp_path, **{setting: str(tmp_path / "secret")})
    with pytest.raises(SettingsError, match=rf"^ENGINEFARM_{setting}: .*secret is not a") as refused:
        create_app(settings)
    assert "hunter2" not in str(refused.value)


def test_an_attestation_names_the_farm_and_is_answered_in_its_canonical_form(
    published_farm: Published, envelope: dict[str, Any]
) -> None:
    statement = json.loads(base64.b64decode(envelope["payload"]))
    with Farm(published_farm.url) as client:
        lists = json.loads(base64.b64decode(str(client.revocations()["payload"])))
    assert statement["predicate"]["runDetails"]["builder"]["id"] == lists["farm"]
    assert lists["farm"].startswith("urn:uuid:")
    assert lists["revoked"] == []
    answered = httpx.get(f"{published_farm.url}/v1/engines/{published_farm.key}/attestation").content
    assert answered == rfc8785.dumps(envelope)
    missing = httpx.get(f"{published_farm.url}/v1/engines/{published_farm.key}/verification-summary")
    assert (missing.status_code, "built engine" in missing.json()["detail"]) == (404, True)


def test_a_farm_without_a_key_says_so(tmp_path: Path) -> None:
    with published(tmp_path) as unsigned, Farm(unsigned.url) as client:
        assert client.signing_keys() == []
        for path in (f"engines/{unsigned.key}/attestation", "revocations"):
            assert httpx.get(f"{unsigned.url}/v1/{path}").status_code == 404


def test_the_private_key_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    create(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        create(tmp_path / "key.pem")
    assert SigningKey.of_file(tmp_path / "key.pem")


def test_a_malformed_signing_key_is_refused_without_quoting_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    with pytest.raises(ValueError, match="not an Ed25519 private key") as refused:
        SigningKey.of_file(tmp_path / "secret")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InvalidRequest, match="not a public key"):
        TrustedKeys.of_files([tmp_path / "secret"])
    with pytest.raises(InvalidRequest, match="cannot be read"):
        TrustedKeys.of_files([tmp_path / "none"])
