"""A host fetches the inputs of its stages once; they are right, and come, whatever happened to the cache."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from enginefarm.contract.manifest import Manifest
from enginefarm.contract.model.reference import parse
from enginefarm.transfer.sharing import file_copy, verified_files
from models.loops import Loops
from tests.models.sources.models import fetched, read, tiny, write
from tests.workers.inputs.conftest import FILES, Node, work
from workers.inputs.cache_room import CacheRoom
from workers.reporting.failures import StartDamaged
from workers.scratch.workspace import Workspace, sizes

SIZE = sum(map(len, FILES.values()))


def cached_path(node: Node, checkpoint: Manifest, path: str = "rank0.safetensors") -> Path:
    digest = next(entry.digest for entry in checkpoint.files if entry.path == path).removeprefix("sha256:")
    return node.folder / "cache" / "sha256" / digest[:2] / digest


@pytest.mark.parametrize("may_link", [True, False], ids=["complete sandbox", "no complete sandbox"])
def test_six_builds_of_a_host_fetch_their_checkpoint_once(node: Node, checkpoint: Manifest, may_link: bool) -> None:
    counts = []
    for _ in range(6):
        fetched_bytes = node.build(node.inputs(may_link=may_link), checkpoint)
        counts.append((fetched_bytes.fetched, fetched_bytes.cached))
    assert counts == [(SIZE, 0)] + [(0, SIZE)] * 5
    assert str(fetched_bytes) == "fetched 0 B, 600.0 kB from this node's cache"


def restore_seal(path: Path, change: Callable[[], object]) -> None:
    time.sleep(0.02)  # the clock of ctime has coarse steps; only files that take longer to read are remembered
    before = path.stat()
    path.chmod(0o644)
    change()
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("may_link", [True, False], ids=["complete sandbox", "no complete sandbox"])
@pytest.mark.parametrize("same_process", [True, False], ids=["this worker", "another worker"])
def test_a_cached_file_that_was_changed_under_its_seal_is_fetched_again(
    node: Node, checkpoint: Manifest, may_link: bool, same_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_files, "_SMALLEST", 0)
    cache = node.cache
    first = node.inputs(may_link=may_link, cache=cache)
    node.build(first, checkpoint)
    path = cached_path(node, checkpoint)
    restore_seal(path, lambda: path.write_bytes(b"X" + path.read_bytes()[1:]))
    second = first if same_process else node.inputs(may_link=may_link)
    assert node.build(second, checkpoint).fetched == len(FILES["rank0.safetensors"])
    assert node.build(second, checkpoint).fetched == 0


def test_an_unchanged_file_is_not_read_again_by_the_process_that_read_it(
    node: Node, checkpoint: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_files, "_SMALLEST", 0)
    inputs = node.inputs()
    node.build(inputs, checkpoint)
    monkeypatch.setattr("enginefarm.contract.digest.of_file", lambda *_: pytest.fail("the file was read again"))
    node.build(inputs, checkpoint)


def test_a_program_that_writes_to_its_input_changes_no_cached_file(node: Node, checkpoint: Manifest) -> None:
    """Without a complete sandbox a program can do to its inputs what it likes."""
    inputs = node.inputs(may_link=False)
    node.build(inputs, checkpoint)
    workspace = node.workspace()
    node.build(inputs, checkpoint, workspace)
    source = workspace.directories.source / "rank0.safetensors"
    source.chmod(0o644)
    source.write_bytes(b"broken")
    assert cached_path(node, checkpoint).read_bytes() == FILES["rank0.safetensors"]
    workspace.remove()
    assert node.build(inputs, checkpoint).fetched == 0


def test_a_link_counts_for_the_disk_limit_as_a_copy_does(node: Node, checkpoint: Manifest) -> None:
    inputs = node.inputs()
    used: list[int] = []
    for _ in range(2):
        workspace = node.workspace()
        node.build(inputs, checkpoint, workspace)
        assert workspace.directories.source.joinpath("config.json").stat().st_nlink == len(used) + 2
        used.append(sum(sizes(workspace.folder)))
    assert used[0] == used[1] >= SIZE


def fill(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_bytes(b"")


@pytest.mark.parametrize(
    "spoil", [fill, lambda folder: shutil.rmtree(folder), lambda folder: folder.joinpath("sha256").rename(folder / "x")]
)
def test_a_cache_that_is_lost_costs_a_fetch(
    node: Node, checkpoint: Manifest, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache = node.cache
    inputs = node.inputs(cache=cache)
    node.build(inputs, checkpoint)
    spoil(cache.root)
    assert node.build(inputs, checkpoint).fetched == SIZE
    node.build(inputs, checkpoint)
    assert len([record for record in caplog.records if "cannot be used" in record.message]) <= 1


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_cache_that_takes_no_file_costs_a_fetch(
    node: Node, checkpoint: Manifest, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    if number != errno.EXDEV:
        monkeypatch.setattr("enginefarm.transfer.node_cache.clone_or_copy", refuse)
    inputs = node.inputs()
    node.build(inputs, checkpoint)
    again = node.build(inputs, checkpoint)
    # Scratch on another file system than the cache: the files are copied.
    assert again.fetched == (0 if number == errno.EXDEV else SIZE)
    assert len([record for record in caplog.records if "cannot be used" in record.message]) == (number != errno.EXDEV)


def test_without_a_cache_every_build_fetches(node: Node, checkpoint: Manifest) -> None:
    inputs = node.inputs()
    inputs.cache = None
    assert [node.build(inputs, checkpoint).fetched for _ in range(2)] == [SIZE, SIZE]
    assert not inputs.holds(checkpoint)


def test_the_bytes_of_a_checkpoint_that_the_store_has_damaged_are_not_kept(node: Node, checkpoint: Manifest) -> None:
    entry = checkpoint.files[1]
    node.store.delete(entry.digest)
    with pytest.raises(StartDamaged) as damaged:
        node.build(node.inputs(), checkpoint)
    assert damaged.value.digest == entry.digest
    assert entry.digest not in {cached.digest for cached in node.cache.entries()}


def test_prefetched_inputs_are_neither_fetched_nor_read_by_the_attempt(
    node: Node, checkpoint: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_files, "_SMALLEST", 0)
    inputs = node.inputs()
    assert not inputs.holds(checkpoint)
    node.folder.joinpath("scratch").mkdir()
    assert inputs.prefetch(work(), checkpoint, node.folder / "scratch", node.caller()).fetched == SIZE
    assert inputs.holds(checkpoint)
    assert list(node.folder.joinpath("scratch").iterdir()) == []
    monkeypatch.setattr("enginefarm.contract.digest.of_file", lambda *_: pytest.fail("the file was read again"))
    assert node.build(inputs, checkpoint).fetched == 0


@pytest.mark.parametrize("may_link", [True, False], ids=["complete sandbox", "no complete sandbox"])
def test_the_output_of_a_convert_is_the_input_of_a_build(node: Node, checkpoint: Manifest, may_link: bool) -> None:
    inputs = node.inputs(may_link=may_link)
    workspace = node.workspace()
    for path, content in FILES.items():
        (workspace.directories.output / path).write_bytes(content)
    inputs.keep_output(checkpoint, workspace.directories.output, lambda _: None)
    workspace.remove()
    assert node.build(inputs, checkpoint).fetched == 0


def test_a_model_and_auxiliary_inputs_come_through_the_cache(node: Node) -> None:
    folder = write(node.folder / "models" / "tiny", tiny())
    data_folder = write(node.folder / "models" / "texts", {"train.json": b'[{"text": "a"}]'})
    sources = node.sources
    model = sources.resolve_model(parse(f"file:{folder}"))
    texts = sources.auxiliary.resolve_files(parse(f"file:{data_folder}"))
    stage_work = work(model=model, inputs={"calibration": texts})
    inputs = node.inputs()
    counts = []
    for _ in range(2):
        workspace = Workspace.make(node.folder / "scratch")
        counts.append(inputs.fetch(stage_work, None, workspace, node.caller()))
        assert read(workspace.directories.source) == fetched(tiny())
        assert read(workspace.directories.inputs["calibration"]) == {"train.json": b'[{"text": "a"}]'}
        workspace.remove()
        # The second stage needs no source at all.
        shutil.rmtree(node.folder / "models", ignore_errors=True)
    assert counts[0].fetched > 1000
    assert counts[1].fetched == 0


def test_the_least_recently_used_inputs_make_room(
    node: Node, checkpoint: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = node.cache
    node.build(node.inputs(cache=cache), checkpoint)
    free = shutil.disk_usage(node.folder).free
    oldest = cache.entries()[-1]
    cache.make_room(free - (1 << 30))
    assert len(cache.entries()) == len(FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 1000, 0))
    cache.make_room(oldest.size)
    assert oldest.digest not in {cached.digest for cached in cache.entries()}
    assert len(cache.entries()) == len(FILES) - 1


def test_a_file_system_with_shared_blocks_is_asked_for_them(
    node: Node, checkpoint: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most test machines have none: the ioctl is played by a copy."""

    def clone(new: object, request: int, original: int) -> None:
        assert request == file_copy._FICLONE
        os.sendfile(new.fileno(), original, 0, os.fstat(original).st_size)  # type: ignore[attr-defined]

    monkeypatch.setattr("fcntl.ioctl", clone)
    inputs = node.inputs(may_link=False)
    node.build(inputs, checkpoint)
    assert node.build(inputs, checkpoint).fetched == 0
    path = cached_path(node, checkpoint)
    assert path.stat().st_nlink == 1
    restore_seal(path, lambda: path.write_bytes(b"X" + path.read_bytes()[1:]))
    assert node.build(inputs, checkpoint).fetched == len(FILES["rank0.safetensors"])


def test_an_output_that_changed_after_its_check_is_not_used(
    node: Node, checkpoint: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_files, "_SMALLEST", 0)
    inputs = node.inputs()
    workspace = node.workspace()
    for path, content in FILES.items():
        (workspace.directories.output / path).write_bytes(content[:-1] + b"!")
    inputs.keep_output(checkpoint, workspace.directories.output, lambda _: None)
    # Before the workspace goes: the removal of its links changes the files' inodes, and all are read again then.
    assert node.build(inputs, checkpoint).fetched == SIZE
    workspace.remove()


@pytest.mark.parametrize(("free", "left"), [(100, len(FILES)), (1, 0)])
def test_a_disk_that_fills_gets_the_room_of_cached_files_back(
    node: Node, checkpoint: Manifest, free: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = node.cache
    node.build(node.inputs(cache=cache), checkpoint)
    gib = 1 << 30
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000 * gib, 0, free * gib))
    CacheRoom(cache, Loops()).look()
    assert len(cache.entries()) == left
