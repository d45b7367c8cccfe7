"""Many engines and processes on one node: each file is fetched once, and never handed out with wrong bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginefarm import sdk
from enginefarm.client.farm import Farm
from enginefarm.contract.digest import of_bytes
from enginefarm.contract.errors import InvalidRequest
from enginefarm.contract.manifest import FileEntry
from enginefarm.transfer import node_cache
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.pull import Transfer, pull
from enginefarm.transfer.sharing import file_copy
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.pulling import BIG, FILES, files_in, staging_path
from tests.enginefarm.store_double import StoreDouble


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def transfer(cache: Cache) -> Transfer:
    return Transfer(part_size=1 << 16, cache=cache)


def test_a_second_engine_fetches_only_what_differs(
    client: Farm, double: FarmDouble, store: StoreDouble, tmp_path: Path, transfer: Transfer
) -> None:
    pull(client, double.publish(FILES), tmp_path / "one", transfer=transfer)
    files = FILES | {"more/rank1.engine": b"another"}
    store.requests.clear()
    pull(client, double.publish(files), tmp_path / "two", transfer=transfer)
    assert files_in(tmp_path / "two") == files
    assert len(store.requests) == 1
    shared = [(tmp_path / destination / "rank0.engine").stat().st_ino for destination in ("one", "two")]
    assert shared[0] == shared[1]


def test_two_files_with_the_same_bytes_are_fetched_once(
    client: Farm, double: FarmDouble, store: StoreDouble, tmp_path: Path, transfer: Transfer
) -> None:
    twins = {"a": b"same", "b": b"same"}
    pull(client, double.publish(twins), tmp_path / "one", transfer=transfer)
    assert files_in(tmp_path / "one") == twins
    assert len(store.requests) == 1


def test_eight_processes_transfer_the_bytes_once(double: FarmDouble, store: StoreDouble, tmp_path: Path) -> None:
    engine = double.publish(FILES)
    store.pace = 0.01
    environment = {**os.environ, "ENGINEFARM_URL": double.url, "ENGINEFARM_CACHE": str(tmp_path / "cache")}
    pulls = [
        subprocess.Popen(
            [sys.executable, "-m", "enginefarm.cli", "pull", engine.key, str(tmp_path / str(number))],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for number in range(8)
    ]  # fmt: skip
    assert [done.wait(timeout=120) for done in pulls] == [0] * 8
    for number in range(8):
        assert files_in(tmp_path / str(number)) == FILES
    assert len(store.requests) == len([content for content in FILES.values() if content])


@pytest.mark.parametrize("how", ["written", "shorter", "touched"])
def test_a_cached_file_that_was_written_to_is_not_handed_out(
    client: Farm, double: FarmDouble, tmp_path: Path, transfer: Transfer, how: str
) -> None:
    engine = double.publish(FILES)
    victim = pull(client, engine, tmp_path / "one", transfer=transfer) / "rank0.engine"
    victim.chmod(0o644)
    match how:
        case "written":
            with victim.open("r+b") as stream:
                stream.write(b"!")
        case "shorter":
            os.truncate(victim, 10)
        case "touched":
            victim.touch()
    pull(client, engine, tmp_path / "two", transfer=transfer)
    assert files_in(tmp_path / "two") == FILES


def test_a_later_pull_never_writes_to_shared_bytes(
    client: Farm, double: FarmDouble, tmp_path: Path, transfer: Transfer, cache: Cache
) -> None:
    """A killed pull left a file that an engine shares, and the cache has lost it since."""
    engine = double.publish(FILES)
    directory = pull(client, engine, tmp_path / "one", transfer=transfer)
    partial_directory = tmp_path / f".two.partial-{engine.manifest[7:19]}"
    partial_directory.mkdir()
    os.link(directory / "rank0.engine", partial_directory / "rank0.engine")
    cache.prune(0)
    pull(client, engine, tmp_path / "two", transfer=Transfer())
    assert files_in(tmp_path / "two") == FILES
    assert (directory / "rank0.engine").stat().st_nlink == 1


def test_an_interrupted_pull_with_shared_files_leaves_nothing_else_behind(
    client: Farm, double: FarmDouble, tmp_path: Path, transfer: Transfer
) -> None:
    engine = double.publish(FILES)
    pull(client, engine, tmp_path / "one", transfer=transfer)
    partial_directory = staging_path(tmp_path / "two", engine)
    partial_directory.mkdir()
    os.link(tmp_path / "one" / "rank0.engine", partial_directory / "rank0.engine")  # as it is in the cache

    pull(client, engine, tmp_path / "two", transfer=transfer)
    assert files_in(tmp_path / "two") == FILES


def test_a_read_only_partial_file_is_completed_by_any_user(
    client: Farm, double: FarmDouble, tmp_path: Path, transfer: Transfer, cache: Cache
) -> None:
    """A killed pull left a read-only file, and root would write to it all the same."""
    engine = double.publish(FILES)
    partial_directory = tmp_path / f".two.partial-{engine.manifest[7:19]}"
    partial_directory.mkdir()
    (partial_directory / "rank0.engine").write_bytes(BIG[:-1])
    (partial_directory / "rank0.engine").chmod(0o444)

    pull(client, engine, tmp_path / "two", transfer=Transfer())

    assert files_in(tmp_path / "two") == FILES
    assert (tmp_path / "two" / "rank0.engine").stat().st_mode & 0o200


def test_the_least_recently_used_file_is_pruned_first(cache: Cache, tmp_path: Path) -> None:
    def keep(content: bytes) -> FileEntry:
        source = tmp_path / "source"
        source.write_bytes(content)
        entry = FileEntry(path="a", digest=of_bytes(content), size=len(content))
        cache.keep(source, entry)
        source.unlink()
        return entry

    first, second, third = keep(b"1" * 10), keep(b"2" * 10), keep(b"3" * 10)
    assert cache.give(first, tmp_path / "used")
    assert [cached.digest for cached in cache.entries()] == [first.digest, third.digest, second.digest]
    assert [cached.digest for cached in cache.prune(20)] == [second.digest]
    assert not cache.give(second, tmp_path / "gone")
    assert (tmp_path / "used").read_bytes() == b"1" * 10


def test_verify_removes_a_file_that_the_disk_damaged(cache: Cache, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(BIG)
    entry = FileEntry(path="a", digest=of_bytes(BIG), size=len(BIG))
    cache.keep(source, entry)
    assert [right for _, right in cache.verify()] == [True]
    before = source.stat()
    source.chmod(0o644)
    with source.open("r+b") as stream:
        stream.write(b"!")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [right for _, right in cache.verify()] == [False]
    assert cache.entries() == []


def test_a_file_that_another_process_is_adding_is_not_listed_verified_or_pruned(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(BIG)
    entry = FileEntry(path="a", digest=of_bytes(BIG), size=len(BIG))
    link = file_copy.link

    def look_while_the_file_has_a_temporary_name(source: Path, target: Path) -> bool:
        is_linked = link(source, target)
        assert cache.entries() == []
        assert list(cache.verify()) == []
        assert cache.prune(0) == []
        return is_linked

    monkeypatch.setattr(node_cache, "link", look_while_the_file_has_a_temporary_name)
    cache.keep(source, entry)
    assert [cached.digest for cached in cache.entries()] == [entry.digest]


def test_prune_removes_a_temporary_file_whose_process_was_killed(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = cache.root / "sha256" / "ab" / ".0123456789abcdef"
    temporary.parent.mkdir(parents=True)
    temporary.write_bytes(b"half")
    cache.prune()
    assert temporary.exists()

    in_two_hours = time.time() + 7200
    monkeypatch.setattr("enginefarm.transfer.node_cache.time.time", lambda: in_two_hours)
    cache.prune()
    assert not temporary.exists()


class TestSdk:
    def test_an_engine_is_pulled_by_key_into_the_cache(self, double: FarmDouble) -> None:
        engine = double.publish(FILES)
        assert files_in(sdk.pull(engine.key, farm=Farm(double.url))) == FILES
        assert files_in(sdk.pull(engine.key[:10], farm=Farm(double.url))) == FILES

    def test_an_engine_is_pulled_to_a_given_directory(self, double: FarmDouble, tmp_path: Path) -> None:
        engine = double.publish(FILES)
        assert sdk.pull(engine.key, tmp_path / "here", farm=Farm(double.url)) == tmp_path / "here"

    def test_a_pull_without_key_and_spec_is_refused(self, double: FarmDouble) -> None:
        with pytest.raises(InvalidRequest, match="not both"):
            sdk.pull(farm=Farm(double.url))


def test_the_command_line_lists_prunes_and_verifies(double: FarmDouble, tmp_path: Path) -> None:
    engine = double.publish(FILES)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ENGINEFARM_URL": double.url, "ENGINEFARM_CACHE": str(tmp_path / "cache")}
        program = [sys.executable, "-m", "enginefarm.cli", *arguments]
        return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)

    assert run("pull", engine.key, str(tmp_path / "one"), "--limit-rate", "50MiB").returncode == 0
    assert of_bytes(BIG)[7:19] in run("cache", "ls").stdout
    assert run("cache", "verify").stdout == f"checked {len(set(FILES.values()))} files, 0 wrong\n"
    assert run("cache", "prune", "--all").stdout.startswith(f"removed {len(set(FILES.values()))} files")
    refused = run("pull", engine.key, str(tmp_path / "two"), "--limit-rate", "fast")
    assert (refused.returncode, "such as 50MiB" in refused.stderr) == (2, True)
