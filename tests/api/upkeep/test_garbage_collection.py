"""Garbage collection over HTTP and the command line, on a directory store."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select, update

from enginefarm.cli import main
from enginefarm.client.farm import Farm
from enginefarm.contract import digest
from enginefarm.contract.errors import Conflict, Gone
from models.catalogue.clock import now
from models.catalogue.rows import BlobRow, CheckpointRow, EngineRow, RemovalRow
from models.security import api_keys as access
from tests.api.published import FILES, Published, published

ALL = {"policies": [{"keep_last": 0}]}


@pytest.fixture
def published_farm(tmp_path: Path) -> Iterator[Published]:
    with published(tmp_path, GC_CHECKPOINT_DAYS="0", RETENTION='[{"model": "nothing", "keep_last": 0}]') as farm:
        yield farm


@pytest.fixture
def client(published_farm: Published) -> Iterator[Farm]:
    with Farm(published_farm.url, patience=1) as farm:
        yield farm


def enginefarm(published_farm: Published, *words: str) -> Result:
    return CliRunner().invoke(main, list(words), env={"ENGINEFARM_URL": published_farm.url})


def end_grace(published_farm: Published) -> None:
    yesterday = now(-90000)
    with published_farm.database.write() as session:
        for row in (EngineRow, CheckpointRow, BlobRow):
            session.execute(
                update(row).where(row.marked_for_removal_at.is_not(None)).values(marked_for_removal_at=yesterday)
            )


def blobs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "store" / "blobs").rglob("*") if path.is_file()}


def put(folder: Path, content: bytes) -> str:
    name = digest.of_bytes(content).removeprefix("sha256:")
    (folder / "store" / "blobs" / "sha256" / name[:2] / name).write_bytes(content)
    return name


def test_an_engine_is_marked_then_removed_and_its_bytes_are_deleted_last(
    published_farm: Published, client: Farm, tmp_path: Path
) -> None:
    before, orphan = blobs(tmp_path), put(tmp_path, b"of an attempt that was fenced")
    dry_run = client.clean_up(ALL | {"dry_run": True})
    assert [(candidate.kind, candidate.since, candidate.removed) for candidate in dry_run.going] == [
        ("engine", None, False), ("checkpoint", None, False),
    ]  # fmt: skip
    assert dry_run.frees == sum(map(len, FILES.values()))
    assert (dry_run.waiting.files, dry_run.deleted.files) == (1, 0)
    first = client.clean_up(ALL)
    assert [candidate.removed for candidate in first.going] == [False, False]
    assert (first.waiting.files, first.deleted.files) == (1, 0)
    assert client.engine(published_farm.key).key == published_farm.key
    end_grace(published_farm)
    assert [candidate.removed for candidate in client.clean_up(ALL | {"dry_run": True}).going] == [True, True]
    assert client.engine(published_farm.key).key == published_farm.key
    second = client.clean_up(ALL)
    assert [candidate.removed for candidate in second.going] == [True, True]
    assert (second.deleted.files, second.waiting.files) == (1, len(FILES))
    assert blobs(tmp_path) == before
    assert orphan not in blobs(tmp_path)
    with pytest.raises(Gone, match="removed: 0 of its model"):
        client.engine(published_farm.key)
    end_grace(published_farm)
    third = client.clean_up(ALL)
    assert (third.going, third.deleted.size, blobs(tmp_path)) == ([], dry_run.frees, set())
    with published_farm.database.read() as session:
        assert sorted(session.execute(select(RemovalRow.kind)).scalars()) == ["checkpoint", "engine"]


@pytest.mark.parametrize("path", ["/v1/engines/{key}/files/config.json", "/v2/org/tiny.llama/blobs/{config}"])
def test_garbage_collection_keeps_an_engine_that_has_a_valid_link(
    published_farm: Published, client: Farm, path: str
) -> None:
    config = next(entry.digest for entry in published_farm.manifest.files if entry.path == "config.json")
    name = httpx.get(f"{published_farm.url}/v2/_catalog").json()["repositories"][0]
    path = path.replace("org/tiny.llama", name).format(key=published_farm.key, config=config)
    client.clean_up(ALL)
    end_grace(published_farm)
    assert httpx.get(published_farm.url + path).status_code == 307
    assert client.clean_up(ALL).going == []
    assert client.engine(published_farm.key).key == published_farm.key


def test_a_deleted_engine_is_not_served_and_a_pinned_engine_cannot_be_deleted(
    published_farm: Published, client: Farm
) -> None:
    client.pin(published_farm.key)
    with pytest.raises(Conflict, match="is pinned"):
        client.delete(published_farm.key)
    assert enginefarm(published_farm, "pin", published_farm.key, "--remove").exit_code == 0
    result = enginefarm(published_farm, "delete", published_farm.key[:12])
    assert (result.exit_code, result.stdout) == (0, f"engine {published_farm.key[:12]} is no longer served\n")
    with pytest.raises(Gone, match="deleted"):
        client.engine(published_farm.key)
    end_grace(published_farm)
    assert [candidate.removed for candidate in client.clean_up().going] == [True, False]


def test_the_gc_command_prints_each_candidate_with_its_reason(published_farm: Published) -> None:
    dry_run = enginefarm(
        published_farm, "gc", "--dry-run", "--model", "hf:Org/*", "--keep-last", "0", "--keep-days", "0"
    )
    assert dry_run.exit_code == 0, dry_run.output
    assert "0 of its model and platform are newer, older than 0 days" in dry_run.stdout
    assert "1.1 MiB will be free once all of these are removed" in dry_run.stdout
    assert "not marked" in dry_run.stdout
    own = json.loads(enginefarm(published_farm, "gc", "--json").stdout)
    assert (own["going"], own["dry_run"], own["grace_seconds"]) == ([], False, 86400)
    assert enginefarm(published_farm, "gc", "--model", "hf:Org/*").exit_code == 2


@pytest.mark.parametrize("body", [{"policies": [{}]}, {"policies": [{"keep_last": -1}]}, {"keep_last": 1}])
def test_a_policy_that_keeps_nothing_by_mistake_is_refused(published_farm: Published, body: dict[str, Any]) -> None:
    assert httpx.post(f"{published_farm.url}/v1/gc", json=body).status_code in {400, 422}


def test_garbage_collection_and_deletion_need_the_admin_scope(tmp_path: Path) -> None:
    with published(tmp_path, guarded=True) as published_farm:
        with published_farm.database.write() as session:
            key = access.create(session, "submitter", [access.Scope.SUBMIT])
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.post(f"{published_farm.url}/v1/gc", headers=headers, json=ALL).status_code == 403
        assert httpx.delete(f"{published_farm.url}/v1/engines/{published_farm.key}", headers=headers).status_code == 403


def test_removals_are_listed_in_pages(published_farm: Published, client: Farm) -> None:
    assert list(client.removals()) == []
    client.clean_up(ALL)
    end_grace(published_farm)
    client.clean_up(ALL)
    first, second = client.removals()
    assert (first.kind, second.kind, second.key) == ("checkpoint", "engine", published_farm.key)
    pages = [httpx.get(f"{published_farm.url}/v1/removals?limit=1").json()]
    pages.append(httpx.get(f"{published_farm.url}/v1/removals?limit=1&cursor={pages[0]['next_cursor']}").json())
    assert [page["items"][0]["key"] for page in pages] == [first.key, second.key]
    assert pages[1]["next_cursor"] is None
    told = enginefarm(published_farm, "removed")
    assert told.exit_code == 0, told.output
    assert all(word in told.stdout for word in (published_farm.key[:12], "engine", "checkpoint", "0 of its model"))
    assert (
        json.loads(enginefarm(published_farm, "removed", "--limit", "1", "--json").stdout)["items"][0]["key"]
        == first.key
    )


def test_a_farm_with_gc_hours_runs_garbage_collection_by_itself(tmp_path: Path) -> None:
    with (
        published(tmp_path, RETENTION='[{"keep_last": 0}]', GC_HOURS="0.0002") as published_farm,
        Farm(published_farm.url, patience=1) as client,
    ):
        deadline = time.monotonic() + 60
        while (
            not (removed := [removal for removal in client.removals() if removal.key == published_farm.key])
            and time.monotonic() < deadline
        ):
            end_grace(published_farm)
            time.sleep(0.05)
        assert removed[0].by is None
        with pytest.raises(Gone, match="removed: 0 of its model"):
            client.engine(published_farm.key)
