"""A bundle is read as it was written, or refused: cut, changed, rearranged, or made by somebody with ideas."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginefarm.bundle.archive import FORMAT, Bundle, write_bundle
from enginefarm.contract.digest import of_bytes
from enginefarm.contract.errors import EnginefarmError, IntegrityError, InvalidRequest
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.wire.engine_record import EngineRecord

FILES = {"tokenizer.json": b"shared" * 200, "rank0.engine": bytes(range(256)) * 9, "empty": b""}
OTHER = {"tokenizer.json": FILES["tokenizer.json"], "rank0.engine": b"another" * 300}
BLOBS = {of_bytes(data): data for data in (*FILES.values(), *OTHER.values())}


def record(key: str, files: dict[str, bytes]) -> EngineRecord:
    entries = [FileEntry(path=path, digest=of_bytes(data), size=len(data)) for path, data in files.items()]
    return EngineRecord(
        key=key, manifest=Manifest.of(entries), checkpoint_document={"a": 1}, attestation={"payload": "é"}
    )


RECORDS = [record("b" * 64, OTHER), record("a" * 64, FILES)]


def written(records: list[EngineRecord]) -> bytes:
    stream = io.BytesIO()
    write_bundle(stream, records, lambda digest: [BLOBS[digest]])
    return stream.getvalue()


WHOLE = written(RECORDS)


def members(data: bytes = WHOLE) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]  # all are files


def packed(content: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for info, data in content:
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def read(path: Path, data: bytes) -> dict[str, bytes]:
    """Every blob of a bundle with these bytes."""
    path.write_bytes(data)
    with Bundle(path) as bundle:
        return {digest: b"".join(bundle.blob(digest)) for digest in bundle.sizes}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bundle.tar"


def test_a_bundle_is_read_as_it_was_written(path: Path) -> None:
    assert read(path, WHOLE) == BLOBS
    with Bundle(path) as bundle:
        assert bundle.records == (RECORDS[1], RECORDS[0])


def test_equal_engines_give_equal_bytes_with_each_blob_once() -> None:
    assert written(RECORDS[::-1]) == WHOLE
    names = [info.name for info, _ in members()]
    assert names[:3] == ["bundle.json", f"engines/{'a' * 64}.json", f"engines/{'b' * 64}.json"]
    assert names[3:] == sorted(f"blobs/{digest.replace(':', '/')}" for digest in BLOBS)
    assert {(info.mtime, info.uid, info.uname, info.mode) for info, _ in members()} == {(0, 0, "", 0o644)}


def test_a_bundle_packed_by_another_program_in_the_same_order_is_read(path: Path) -> None:
    assert read(path, packed(members())) == BLOBS


def test_wrong_bytes_are_not_written() -> None:
    with pytest.raises(IntegrityError, match="expected sha256"):
        write_bundle(io.BytesIO(), RECORDS, lambda digest: [BLOBS[digest][:-1] + b"?"] if BLOBS[digest] else [])


def test_a_file_of_more_than_8_gib_is_written_and_read(path: Path) -> None:
    """8 GiB and more. The file has a hole in place of the bytes."""
    size = (1 << 33) + 5
    entry = FileEntry(path="rank0.engine", digest="sha256:" + "1" * 64, size=size)
    large = EngineRecord(
        key="c" * 64, manifest=Manifest.of([entry]), checkpoint_document={}, attestation={}
    )  # fmt: skip

    class Sparse(io.FileIO):
        def write(self, data: Any) -> int:
            return self.seek(len(data), io.SEEK_CUR) if not any(data) else super().write(data)

    with Sparse(path, "wb") as stream, pytest.raises(IntegrityError, match="got 0 of"):
        write_bundle(stream, [large], lambda _: [])
    header = path.read_bytes()[-512:]
    assert tarfile.TarInfo.frombuf(header, "ascii", "strict").size == size
    with pytest.raises(IntegrityError, match=f"expected {len(path.read_bytes()) + size + 507} or more: copy it again"):
        Bundle(path)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 600, 1024, 2000, len(WHOLE) // 2, len(WHOLE) - 1024, len(WHOLE) - 1])
def test_a_truncated_bundle_is_refused_when_it_is_opened(path: Path, size: int) -> None:
    path.write_bytes(WHOLE[:size])
    with pytest.raises((IntegrityError, InvalidRequest), match="it was cut"):
        Bundle(path)


def renamed(index: int, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    content = members()
    info = content[index][0]
    info.name, info.type, info.linkname = name, kind, link
    return packed(content)


def without(index: int) -> bytes:
    content = members()
    del content[index]
    return packed(content)


def swapped() -> bytes:
    content = members()
    content[3], content[4] = content[4], content[3]
    return packed(content)


def added(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = 1
    return packed([*members(), (info, b"x")])


def indexed(**index: Any) -> bytes:
    (info, data), *rest = members()
    changed = json.dumps(json.loads(data) | index).encode()
    info.size = len(changed)
    return packed([(info, changed), *rest])


def extended() -> bytes:
    content = members()
    content[3][0].pax_headers = {"path": "../outside", "size": "99999999999"}
    return packed(content, tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: renamed(3, "../../etc/passwd"), r"found '\.\./\.\./etc/passwd'"),
        (lambda: renamed(3, "/etc/passwd"), "found '/etc/passwd'"),
        (lambda: renamed(3, "blobs/" + "x" * 200), "a bundle holds plain files in one order"),
        (lambda: renamed(3, members()[3][0].name, tarfile.SYMTYPE, "/etc/passwd"), "type b'2'"),
        (lambda: renamed(3, members()[3][0].name, tarfile.LNKTYPE, "bundle.json"), "type b'1'"),
        (lambda: renamed(3, members()[3][0].name, tarfile.GNUTYPE_SPARSE), "type b'S'"),
        (lambda: renamed(3, members()[3][0].name, tarfile.FIFOTYPE), "type b'6'"),
        (extended, "type b'x'"),
        (swapped, "expected blobs/sha256/"),
        (lambda: without(1), "expected engines/a"),
        (lambda: without(4), "expected blobs/sha256/"),
        (lambda: without(-1), "found no header of a tar"),
        (lambda: added("blobs/sha256/" + "0" * 64), "something follows the last blob"),
        (
            lambda: indexed(format="enginefarm.bundle/2"),
            f"format is 'enginefarm.bundle/2', this program reads '{FORMAT}'",
        ),
        (lambda: indexed(engines=[]), "engines"),
        (lambda: indexed(engines=["b" * 64, "a" * 64]), "every key once, sorted"),
        (lambda: indexed(engines=["a" * 64, "a" * 64]), "every key once, sorted"),
        (lambda: indexed(engines=["../../x"]), "engines.0: '../../x'"),
        (lambda: b"PK\3\4" + bytes(5000), "is no bundle: .* found no header of a tar"),
        (lambda: bytes(10240), "is no bundle"),
        (lambda: added("x")[:512], "is no bundle"),
    ],
)
def test_a_changed_bundle_is_refused_when_it_is_opened(path: Path, make: Callable[[], bytes], says: str) -> None:
    path.write_bytes(make())
    with pytest.raises((IntegrityError, InvalidRequest), match=says) as refused:
        Bundle(path)
    assert str(path) in refused.value.detail


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("key", "c" * 64, "key is cccc"),
        ("key", "C", "key: 'C'"),
        ("manifest", {"files": [{"path": "../x", "digest": "sha256:" + "0" * 64, "size": 1}]}, "not a plain relative"),
        ("attestation", 3, "attestation: '3'"),
        ("more", 3, "more"),
    ],
)
def test_a_malformed_record_is_refused(path: Path, field: str, value: object, says: str) -> None:
    content = members()
    info, data = content[1]
    changed = json.dumps(json.loads(data) | {field: value}).encode()
    info.size = len(changed)
    content[1] = (info, changed)
    path.write_bytes(packed(content))
    with pytest.raises(IntegrityError, match=says):
        Bundle(path)


def test_an_unreadable_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read: No such file"):
        Bundle(tmp_path / "none.tar")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Bundle(tmp_path)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(WHOLE) - 1), value=st.integers(1, 255))
def test_a_changed_byte_changes_no_blob(tmp_path_factory: pytest.TempPathFactory, position: int, value: int) -> None:
    data = bytearray(WHOLE)
    data[position] ^= value
    path = tmp_path_factory.getbasetemp() / "changed.tar"
    try:
        found = read(path, bytes(data))
    except EnginefarmError:
        return
    assert all(BLOBS.get(digest) == content for digest, content in found.items())
