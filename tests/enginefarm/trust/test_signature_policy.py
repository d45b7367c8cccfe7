"""A pull that insists on a signature moves no byte without a good one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enginefarm import pull
from enginefarm.cli import main
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import IntegrityError
from enginefarm.trust.attestation import pem
from models.security.signing_key import create
from tests.api.published import FILES, Published, published


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("farm", "other"):
        (folder / f"{name}.pub").write_text(pem(create(folder / f"{name}.pem").public))
    return folder


@pytest.fixture(scope="module")
def published_farm(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    with published(tmp_path_factory.mktemp("signed"), SIGNING_KEY=str(keys / "farm.pem")) as running:
        yield running


def pulled(published_farm: Published, place: Path, *words: str, **environment: str) -> Result:
    own = {"ENGINEFARM_URL": published_farm.url, "ENGINEFARM_CACHE": str(place / "cache")}
    return CliRunner().invoke(
        main, ["pull", published_farm.key, str(place / "engine"), "--any-platform", *words], env=own | environment
    )


def test_what_a_trusted_key_signed_is_fetched(published_farm: Published, keys: Path, tmp_path: Path) -> None:
    both = [f"--trusted-key={keys / name}" for name in ("other.pub", "farm.pub")]
    assert pulled(published_farm, tmp_path, *both).exit_code == 0
    assert (tmp_path / "engine" / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize("named", ["option", "environment"])
def test_an_engine_that_no_trusted_key_signed_is_refused(
    published_farm: Published, keys: Path, tmp_path: Path, named: str
) -> None:
    other = str(keys / "other.pub")
    refused = (
        pulled(published_farm, tmp_path, "--trusted-key", other)
        if named == "option"
        else pulled(published_farm, tmp_path, ENGINEFARM_TRUSTED_KEYS=f"{other}:{other}")
    )
    assert (refused.exit_code, "no good signature" in refused.stderr) == (6, True), refused.output
    assert list(tmp_path.iterdir()) == []


def test_a_farm_that_does_not_sign_is_refused(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "farm").mkdir()
    with published(tmp_path / "farm") as unsigned:
        refused = pulled(unsigned, tmp_path, "--trusted-key", str(keys / "farm.pub"))
    assert (refused.exit_code, "does not sign" in refused.stderr) == (4, True), refused.output
    assert not (tmp_path / "engine").exists()


def test_the_library_refuses_an_engine_that_no_trusted_key_signed(
    published_farm: Published, keys: Path, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError, match="no good signature"):
        pull(published_farm.key, tmp_path / "engine", farm=Farm(published_farm.url), trusted_keys=[keys / "other.pub"])
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("max_age", [None, "86400"])
def test_only_a_node_that_insists_on_recalls_needs_a_folder_for_them(
    published_farm: Published, keys: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, max_age: str | None
) -> None:
    options = [f"--trusted-key={keys / 'farm.pub'}"]
    if max_age:
        options.append(f"--max-age={max_age}")
    result = pulled(published_farm, tmp_path, *options, ENGINEFARM_CACHE="/proc/cache")
    assert result.exit_code == (2 if max_age else 0), result.output
    printed = result.stderr + caplog.text  # a warning goes to the log, which is pytest's here
    assert "lists of recalled engines" in printed
    assert "ENGINEFARM_CACHE" in printed
    assert (tmp_path / "engine").exists() is not bool(max_age)
