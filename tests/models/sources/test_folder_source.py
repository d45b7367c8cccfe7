"""`file:` models below configured roots."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.reference import FileReference
from models.sources import FileSource, FileStamp, MemoryDigestCache, ResolvedModel
from tests.models.sources.models import COUNTING, OTHER_WEIGHTS, WEIGHTS, fetched, read, tiny, write


class CountingDigests(MemoryDigestCache):
    """Counts the bytes that were hashed."""

    def __init__(self) -> None:
        super().__init__()
        self.hashed = 0

    def put(self, stamp: FileStamp, digest: Digest) -> None:
        self.hashed += stamp.size
        super().put(stamp, digest)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def folder(root: Path) -> Path:
    return write(root / "tiny", tiny())


@pytest.fixture
def digests() -> CountingDigests:
    return CountingDigests()


@pytest.fixture
def source(root: Path, digests: CountingDigests) -> FileSource:
    return FileSource([root], digests)


def reference(folder: Path) -> FileReference:
    return FileReference(str(folder))


def refusal_code(source: FileSource, folder: Path) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        source.resolve_model(reference(folder))
    (problem,) = caught.value.problems
    assert problem.pointer == "/model"
    assert problem.value == f"file:{folder}"
    assert problem.expected
    assert problem.remedy
    return problem.code


def bytes_read() -> int:
    """Bytes that this process read so far, from anything."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def test_a_model_is_identified_by_its_content(source: FileSource, folder: Path) -> None:
    resolved = source.resolve_model(reference(folder))
    assert resolved.reference == f"file:{folder}"
    assert resolved.identity.keys() == {"source", "digest"}
    assert resolved.identity["source"] == "files"
    assert tuple(file.path for file in resolved.files) == COUNTING
    assert resolved.facts.num_attention_heads == 4
    as_json = resolved.model_dump_json()
    assert ResolvedModel.model_validate_json(as_json).model_dump_json() == as_json


def test_two_copies_are_one_model(source: FileSource, root: Path, folder: Path) -> None:
    copy = write(root / "elsewhere" / "copy", fetched(tiny()))
    assert source.resolve_model(reference(copy)).identity == source.resolve_model(reference(folder)).identity
    assert source.resolve_model(reference(copy)).reference == f"file:{copy}"


@pytest.mark.parametrize("name", COUNTING)
def test_every_selected_file_is_in_the_identity(source: FileSource, folder: Path, name: str) -> None:
    before = source.resolve_model(reference(folder)).identity
    changed = (folder / name).read_bytes() + b" "
    if name == "model.safetensors":
        changed = OTHER_WEIGHTS
    (folder / name).write_bytes(changed)
    assert source.resolve_model(reference(folder)).identity != before


def test_files_that_are_not_used_are_not_in_the_identity(source: FileSource, folder: Path) -> None:
    before = source.resolve_model(reference(folder)).identity
    (folder / "README.md").write_text("changed")
    (folder / "pytorch_model.bin").unlink()
    after = source.resolve_model(reference(folder))
    assert after.identity == before
    assert not after.facts.has_pickle


def test_an_unchanged_folder_is_not_read_again(source: FileSource, digests: CountingDigests, folder: Path) -> None:
    first = source.resolve_model(reference(folder))
    assert digests.hashed == sum(file.size for file in first.files)
    digests.hashed = 0
    bytes_before = bytes_read()
    assert source.resolve_model(reference(folder)) == first
    assert digests.hashed == 0
    assert bytes_read() - bytes_before < len(WEIGHTS)


def test_another_process_with_the_same_digests_hashes_nothing(
    source: FileSource, root: Path, digests: CountingDigests, folder: Path
) -> None:
    first = source.resolve_model(reference(folder))
    digests.hashed = 0
    assert FileSource([root], digests).resolve_model(reference(folder)) == first
    assert digests.hashed == 0


def test_only_the_changed_file_is_hashed_again(source: FileSource, digests: CountingDigests, folder: Path) -> None:
    source.resolve_model(reference(folder))
    digests.hashed = 0
    (folder / "tokenizer.json").write_bytes(b'{"version": "2.0"}')
    source.resolve_model(reference(folder))
    assert digests.hashed == len(b'{"version": "2.0"}')


def test_same_size_and_another_mtime_is_another_model(source: FileSource, folder: Path) -> None:
    weights = folder / "model.safetensors"
    before = source.resolve_model(reference(folder))
    status = weights.stat()
    weights.write_bytes(OTHER_WEIGHTS)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert weights.stat().st_size == status.st_size
    assert source.resolve_model(reference(folder)).identity != before.identity


def test_fetch_copies_the_selected_files_only(source: FileSource, folder: Path, tmp_path: Path) -> None:
    source.fetch(source.resolve_model(reference(folder)), tmp_path / "out")
    assert read(tmp_path / "out") == fetched(tiny())
    assert not (tmp_path / "out" / "model.safetensors").samefile(folder / "model.safetensors")


def _stop(_: int) -> None:
    raise KeyboardInterrupt


def test_a_fetch_ends_when_its_watcher_says_so(source: FileSource, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        source.fetch(source.resolve_model(reference(folder)), tmp_path / "out", _stop)
    assert len(list((tmp_path / "out").iterdir())) == 1


def _rewrite(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(OTHER_WEIGHTS)


def _rewrite_unseen(folder: Path) -> None:
    status = (folder / "model.safetensors").stat()
    _rewrite(folder)
    os.utime(folder / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))


def _grow(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(WEIGHTS + b"more")


def _shrink(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])


def _remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _remove_all(folder: Path) -> None:
    folder.rename(folder.with_name("gone"))


@pytest.mark.parametrize("change", [_rewrite, _rewrite_unseen, _grow, _shrink, _remove, _remove_all])
def test_a_change_between_submit_and_convert_is_refused(
    source: FileSource, folder: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    resolved = source.resolve_model(reference(folder))
    change(folder)
    with pytest.raises(ModelUnavailable, match="changed between submit and convert") as caught:
        source.fetch(resolved, tmp_path / "out")
    assert caught.value.problems[0].code == "model_changed"


def test_a_refusal_outside_the_roots_does_not_tell_what_exists(source: FileSource, root: Path, tmp_path: Path) -> None:
    existing = write(tmp_path / "outside" / "tiny", tiny())
    details = []
    for path in (existing, tmp_path / "outside" / "nothing", Path("/etc"), root.with_name("root-2")):
        with pytest.raises(ModelUnavailable) as caught:
            source.resolve_model(reference(path))
        details.append(caught.value.detail.replace(str(path), "…"))
        assert caught.value.problems[0].expected == f"a path below {root}"
    assert len(set(details)) == 1


def test_a_path_with_dots_stays_inside_the_roots(source: FileSource, root: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside", tiny())
    assert refusal_code(source, root / ".." / "outside") == "model_outside_roots"


def test_a_farm_without_roots_reads_nothing(folder: Path, digests: CountingDigests) -> None:
    assert refusal_code(FileSource([], digests), folder) == "model_outside_roots"


def test_a_folder_link_out_of_the_roots_is_refused(source: FileSource, root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(write(tmp_path / "outside", tiny()))
    assert refusal_code(source, root / "link") == "model_outside_roots"


def test_a_file_link_out_of_the_roots_is_refused(source: FileSource, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "secret")
    assert refusal_code(source, folder) == "model_link_outside"


def test_a_link_planted_after_submit_is_refused(source: FileSource, folder: Path, tmp_path: Path) -> None:
    resolved = source.resolve_model(reference(folder))
    (tmp_path / "same").write_bytes(WEIGHTS)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "same")
    with pytest.raises(ModelUnavailable, match="leads out"):
        source.fetch(resolved, tmp_path / "out")


def test_links_inside_the_roots_are_followed(source: FileSource, root: Path, folder: Path, tmp_path: Path) -> None:
    snapshot = root / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    for name in COUNTING:
        (snapshot / name).symlink_to(folder / name)
    (root / "latest").symlink_to(snapshot)
    resolved = source.resolve_model(reference(root / "latest"))
    assert resolved.identity == source.resolve_model(reference(folder)).identity
    source.fetch(resolved, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()
    assert read(tmp_path / "out") == fetched(tiny())


def test_special_files_are_refused_without_waiting(source: FileSource, folder: Path, tmp_path: Path) -> None:
    resolved = source.resolve_model(reference(folder))
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert refusal_code(source, folder) == "model_file_invalid"
    with pytest.raises(ModelUnavailable, match="not a regular file"):
        source.fetch(resolved, tmp_path / "out")


def test_a_link_to_nothing_is_refused(source: FileSource, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "nothing")
    assert refusal_code(source, folder) == "model_file_invalid"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_folder_in_place_of_a_file_is_refused(source: FileSource, folder: Path, name: str) -> None:
    if name.endswith(".index.json"):
        (folder / "model.safetensors").unlink()  # beside it, the index does not matter
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        assert refusal_code(source, folder) == "model_file_invalid"
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def test_a_folder_named_like_an_index_does_not_matter_beside_the_single_file(source: FileSource, folder: Path) -> None:
    (folder / "model.safetensors.index.json").mkdir()
    assert source.resolve_model(reference(folder)).facts.has_safetensors


@pytest.mark.parametrize("linked", ["", "model.safetensors"])
def test_a_link_to_a_path_that_is_not_utf_8_is_refused(source: FileSource, root: Path, linked: str) -> None:
    latin_1 = root / os.fsdecode(b"caf\xe9")
    write(latin_1, tiny())
    link = root / "model"
    if linked:
        write(link, tiny())
        (link / linked).unlink()
    (link / linked).symlink_to(latin_1 / linked)
    assert refusal_code(source, link) == "model_path_encoding"


def test_a_missing_folder_and_a_file_in_its_place_are_refused(source: FileSource, root: Path, folder: Path) -> None:
    assert refusal_code(source, root / "nothing") == "model_not_found"
    assert refusal_code(source, folder / "config.json") == "model_not_found"


def test_an_empty_folder_is_refused(source: FileSource, root: Path) -> None:
    (root / "empty").mkdir()
    assert refusal_code(source, root / "empty") == "model_empty"


def test_a_model_with_only_pickles_is_refused(source: FileSource, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal_code(source, folder) == "model_only_pickle"


@pytest.mark.parametrize("config", [b"not json", b"{}", b" " * (5 << 20)])
def test_a_bad_config_is_refused(source: FileSource, folder: Path, config: bytes) -> None:
    (folder / "config.json").write_bytes(config)
    assert refusal_code(source, folder) == "model_config_invalid"


def test_nothing_is_overwritten_or_followed_at_the_destination(
    source: FileSource, folder: Path, tmp_path: Path
) -> None:
    resolved = source.resolve_model(reference(folder))
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").symlink_to(victim)
    with pytest.raises(FileExistsError):
        source.fetch(resolved, tmp_path / "out")
    assert victim.read_text() == "mine"
