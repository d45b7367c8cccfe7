"""Damaged engines are detected and withdrawn; a recall withdraws the engines of a worker. On a directory store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from enginefarm.cli import main
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import Gone, IntegrityError, NotFound
from enginefarm.transfer.pull import pull
from models.catalogue.rows import ActionRow
from models.security import api_keys as access
from tests.api.published import FILES, MODEL, Published, published


@pytest.fixture
def published_farm(tmp_path: Path) -> Iterator[Published]:
    with published(tmp_path) as farm:
        yield farm


@pytest.fixture
def client(published_farm: Published) -> Iterator[Farm]:
    with Farm(published_farm.url, patience=1) as farm:
        yield farm


def damage(folder: Path, published_farm: Published, path: str, content: bytes | None) -> None:
    digest = next(entry.digest for entry in published_farm.manifest.files if entry.path == path).removeprefix("sha256:")
    blob = folder / "store" / "blobs" / "sha256" / digest[:2] / digest
    blob.unlink() if content is None else blob.write_bytes(content)


@pytest.mark.parametrize(
    "content", [b"x" * len(FILES["rank0.engine"]), b"short", None], ids=["wrong", "truncated", "missing"]
)
def test_a_pull_of_damaged_bytes_fails_and_withdraws_the_engine(
    published_farm: Published, client: Farm, tmp_path: Path, content: bytes | None
) -> None:
    damage(tmp_path, published_farm, "rank0.engine", content)
    with pytest.raises((IntegrityError, NotFound), match="the farm's own are damaged"):
        pull(client, client.engine(published_farm.key), tmp_path / "here", any_platform=True)
    assert not (tmp_path / "here").exists()
    with pytest.raises(Gone, match="its bytes in the store are damaged"):
        client.engine(published_farm.key)
    for path in (f"/v1/engines/{published_farm.key}/files/config.json", f"/v1/engines/{published_farm.key}/pin"):
        method = "PUT" if path.endswith("pin") else "GET"
        assert httpx.request(method, published_farm.url + path).status_code == 410
    assert list(client.engines()) == []
    assert httpx.get(f"{published_farm.url}/v2/_catalog").json() == {"repositories": []}


def test_a_damage_report_counts_only_if_the_store_confirms_it(published_farm: Published, client: Farm) -> None:
    assert client.report_damage(published_farm.key, ["rank0.engine"]).damaged == []
    assert client.engine(published_farm.key).key == published_farm.key
    with pytest.raises(NotFound, match="no file 'nothing'"):
        client.report_damage(published_farm.key, ["nothing"])


def test_repair_reads_every_file_and_lists_the_damaged_ones(published_farm: Published, tmp_path: Path) -> None:
    environment = {"ENGINEFARM_URL": published_farm.url}
    whole = CliRunner().invoke(main, ["repair"], env=environment)
    assert (whole.exit_code, "intact" in whole.stderr) == (0, True), whole.output
    damage(tmp_path, published_farm, "config.json", b"[]")
    inspection = CliRunner().invoke(main, ["repair", published_farm.key, "--rebuild"], env=environment)
    assert inspection.exit_code == 6, inspection.output
    assert "config.json, checkpoint/config.json damaged" in inspection.stderr
    with Farm(published_farm.url) as client:
        (build,) = [build for build in client.builds() if not build.state.ended]
        assert build.model == MODEL
        assert build.waiting_for is not None


def test_the_recall_command_withdraws_engines(published_farm: Published) -> None:
    environment = {"ENGINEFARM_URL": published_farm.url}
    assert CliRunner().invoke(main, ["recall"], env=environment).exit_code == 2
    assert CliRunner().invoke(main, ["recall", "--between", "now", "then"], env=environment).exit_code == 2
    none = CliRunner().invoke(main, ["recall", "--between", "2020-01-01", "2020-01-02"], env=environment)
    assert none.output == "no engine or checkpoint meets the conditions\n"
    done = CliRunner().invoke(main, ["recall", "--worker", "w1", "--reason", "bad memory"], env=environment)
    assert done.exit_code == 0, done.output
    assert f"engine {published_farm.key[:12]} is withdrawn" in done.output
    listed = CliRunner().invoke(main, ["workers"], env=environment)
    assert "w1 is quarantined: bad memory" in listed.stderr
    released = CliRunner().invoke(main, ["workers", "release", "w1"], env=environment)
    assert "live" in released.stdout
    drained = CliRunner().invoke(main, ["workers", "drain", "w1", "--json"], env=environment)
    assert '"state": "draining"' in drained.stdout
    pulled = CliRunner().invoke(main, ["pull", published_farm.key, "/nowhere"], env=environment)
    assert (pulled.exit_code, "bad memory" in pulled.stderr) == (4, True)


def test_a_recall_lists_an_engine_whose_work_it_cannot_read_as_not_rebuilt(published_farm: Published) -> None:
    with published_farm.database.write() as session:
        action = session.get_one(ActionRow, published_farm.key)
        action.work = {**action.work, "version": 1000}
    recalled = httpx.post(f"{published_farm.url}/v1/engines:recall", json={"worker": "w1", "rebuild": True})
    assert recalled.status_code == 200, recalled.text
    assert recalled.json()["engines"] == recalled.json()["not_rebuilt"] == [published_farm.key]
    assert recalled.json()["builds"] == []


def test_repair_and_recall_need_the_admin_scope(tmp_path: Path) -> None:
    with published(tmp_path, guarded=True) as published_farm:
        with published_farm.database.write() as session:
            key = access.create(session, "submitter", [access.Scope.SUBMIT])
        for path in (
            f"engines/{published_farm.key}:repair",
            "engines:recall",
            "workers/w1:drain",
            "workers/w1:release",
        ):
            answer = httpx.post(
                f"{published_farm.url}/v1/{path}", headers={"Authorization": f"Bearer {key}"}, json={"worker": "w1"}
            )
            assert answer.status_code == 403, path
