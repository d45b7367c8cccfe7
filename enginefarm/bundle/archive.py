"""The bundle format: engines in one tar file, for farms that no network connects.

Members, in this order, each group sorted, every blob once, and nothing else:

    bundle.json                 format version and the keys of the engines
    engines/<key>.json          an `EngineRecord` for each engine
    blobs/sha256/<64 hex>       the bytes of each file

Equal engines give equal bytes, and any `tar` can list them. Each member's name and size follow from the members before
it. The reader therefore never looks for a member: it parses one header of 512 bytes at a position that it computes, and
refuses anything that it does not expect. No path of a bundle ever reaches the file system.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import Self

from enginefarm.contract.digest import CHUNK, Digest, verified
from enginefarm.contract.document_version import require_version
from enginefarm.contract.errors import IntegrityError, InvalidRequest
from enginefarm.contract.key import Key
from enginefarm.wire.engine_record import EngineRecord

FORMAT = "enginefarm.bundle/1"
_INDEX = "bundle.json"
_BLOCK = tarfile.BLOCKSIZE  # 512 bytes; a tar pads every member to whole blocks
_END = 2 * _BLOCK  # bytes of zeros that end a tar; GNU tar writes more, to fill its own record size
_MAX_DOCUMENT_SIZE = 1 << 24  # bytes; documents are read into memory, so a forged size must not ask for gigabytes

ChunksOf = Callable[[Digest], Iterable[bytes]]


class _Index(BaseModel):
    """The content of bundle.json."""

    model_config = ConfigDict(frozen=True)

    format: str
    engines: list[Key] = Field(min_length=1)


def write_bundle(target: BinaryIO, records: Sequence[EngineRecord], chunks_of: ChunksOf) -> None:
    """Write a bundle of `records` to `target`; `chunks_of(digest)` gives the bytes of one blob, in pieces.

    Raises:
        IntegrityError: `chunks_of` gave other bytes than a record names, or two records disagree about a blob's size.
    """
    records = sorted(records, key=lambda record: record.key)
    index = {"format": FORMAT, "engines": [record.key for record in records]}
    # Documents before blobs: a reader knows every blob's name and size before it meets the first one.
    _write_document(target, _INDEX, index)
    for record in records:
        _write_document(target, _record_name(record.key), record.model_dump(mode="json"))
    for digest, size in _blob_sizes(records).items():
        _write_member(target, _blob_name(digest), size, verified(chunks_of(digest), digest, size, what=digest))
    target.write(bytes(_END))


def _write_document(target: BinaryIO, name: str, document: dict[str, Any]) -> None:
    # Canonical JSON: two programs that export the same engines must write the same bytes.
    content = rfc8785.dumps(document)
    _write_member(target, name, len(content), [content])


def _write_member(target: BinaryIO, name: str, size: int, chunks: Iterable[bytes]) -> None:
    # TarInfo's defaults are what equal bytes need: no owner, and a modification time of 0.
    header = tarfile.TarInfo(name)
    header.size = size
    target.write(header.tobuf(tarfile.GNU_FORMAT, "ascii", "strict"))
    target.writelines(chunks)
    target.write(bytes(_padded(size) - size))


class Bundle:
    """A bundle opened for reading. Use it as a context manager.

    Opening it checks its whole structure and parses every record, but reads no blob.

    Attributes:
        records: the engines, sorted by key.
        sizes: bytes of each blob, by digest, sorted.
    """

    def __init__(self, path: Path) -> None:
        """Open the bundle at `path`.

        Raises:
            InvalidRequest: the file cannot be read, is no bundle, or is one of another format version.
            IntegrityError: it is a bundle that was cut short or changed.
        """
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
        try:
            self._file_size = os.fstat(self._file.fileno()).st_size
            # The order of the members: each position follows from the members before it.
            self.records, offset = self._read_records()
            self.sizes = _blob_sizes(self.records)
            self._offsets = self._locate_blobs(offset)
        except BaseException:
            self._file.close()  # __exit__ does not run for an object whose __init__ raises
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blob(self, digest: Digest) -> Iterator[bytes]:
        """Yield the bytes of a blob in chunks; the digest is checked after the last one: see `digest.verified`.

        Raises:
            IntegrityError: the bytes are not what `digest` says.
            InvalidRequest: the disk fails to read them.
        """
        size = self.sizes[digest]
        return verified(self._chunks(self._offsets[digest], size), digest, size, what=f"{self._path}, blob {digest}")

    def _read_records(self) -> tuple[tuple[EngineRecord, ...], int]:
        """Return the records that the index lists, and the offset of the first blob."""
        try:
            content, offset = self._read_document(_INDEX, 0)
        except IntegrityError as error:
            # Nothing was recognized yet, so this is more likely another kind of file than a damaged bundle.
            raise InvalidRequest(
                f"{self._path} is no bundle: {error.detail}. `enginefarm export KEY -o FILE` makes one"
            ) from error
        try:
            index = _Index.model_validate_json(content)
        except ValidationError as error:
            raise IntegrityError(f"{self._path}: {_INDEX} {_first_mistake(error)}") from error
        require_version(str(self._path), f"{_INDEX} format", index.format, FORMAT)
        # Equal engines give equal bytes only if their order is fixed.
        if index.engines != sorted(set(index.engines)):
            raise IntegrityError(f"{self._path}: {_INDEX} engines: expected every key once, sorted")

        records = []
        for key in index.engines:
            name = _record_name(key)
            content, offset = self._read_document(name, offset)
            try:
                record = EngineRecord.model_validate_json(content)
            except ValidationError as error:
                raise IntegrityError(f"{self._path}: {name} {_first_mistake(error)}") from error
            # An import publishes by the key in the record, whatever its member is called.
            if record.key != key:
                raise IntegrityError(f"{self._path}: {name} key is {record.key}, expected that of its name")
            records.append(record)
        return tuple(records), offset

    def _locate_blobs(self, offset: int) -> dict[Digest, int]:
        """Return the offset of each blob's first byte; the first blob's header is at `offset`."""
        offsets: dict[Digest, int] = {}
        for digest, size in self.sizes.items():
            offsets[digest], _ = self._read_header(_blob_name(digest), offset, size)
            offset = offsets[digest] + _padded(size)
        self._require_size(offset + _END)
        # Bytes after the last member would reach whoever unpacks the file with another program, unseen by this check.
        for chunk in self._chunks(offset, self._file_size - offset):
            if any(chunk):
                raise IntegrityError(
                    f"{self._path}: something follows the last blob at byte {offset}, expected nothing"
                )
        return offsets

    def _read_document(self, name: str, offset: int) -> tuple[bytes, int]:
        """Return the content of the document at `offset`, and the offset of the member after it."""
        start, size = self._read_header(name, offset)
        if size > _MAX_DOCUMENT_SIZE:
            raise IntegrityError(f"{self._path}: {name} has {size} bytes, expected at most {_MAX_DOCUMENT_SIZE}")
        return b"".join(self._chunks(start, size)), start + _padded(size)

    def _read_header(self, name: str, offset: int, size: int | None = None) -> tuple[int, int]:
        """Return (offset of the first byte, size) of the member whose header is at `offset`.

        It must be a plain file called `name`, with `size` bytes if the size is known.
        """
        block = b"".join(self._chunks(offset, _BLOCK))
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{self._path}: expected {name} at byte {offset}, found no header of a tar") from error
        # A header can state a negative size: it would move the reader backwards.
        is_expected = header.type == tarfile.REGTYPE and header.name == name and header.size >= 0
        if not is_expected or size not in {None, header.size}:
            member = name
            if size is not None:
                member += f" of {size} bytes"
            raise IntegrityError(
                f"{self._path}: expected {member} at byte {offset}, found {header.name[:100]!r} of {header.size} bytes "
                f"and type {header.type!r}: a bundle holds plain files in one order, and this one was changed"
            )
        start = offset + _BLOCK
        self._require_size(start + _padded(header.size))
        return start, header.size

    def _require_size(self, size: int) -> None:
        if self._file_size < size:
            raise IntegrityError(
                f"{self._path} has {self._file_size} bytes, expected {size} or more: copy it again, it was cut"
            )

    def _chunks(self, start: int, size: int) -> Iterator[bytes]:
        self._require_size(start + size)
        position = start
        end = start + size
        while position < end:
            try:
                # pread() leaves the file's position alone, so that several blobs can be read at the same time.
                chunk = os.pread(self._file.fileno(), min(CHUNK, end - position), position)
            except OSError as error:
                raise InvalidRequest(f"{self._path} cannot be read at byte {position}: {error.strerror}") from error
            if not chunk:
                raise IntegrityError(f"{self._path} became shorter while it was read")
            yield chunk
            position += len(chunk)


def _blob_sizes(records: Iterable[EngineRecord]) -> dict[Digest, int]:
    """Return the bytes of each blob of all engines, sorted by digest."""
    sizes: dict[Digest, int] = {}
    for record in records:
        for digest, size in record.sizes.items():
            # One digest has one size. Without this check, one of the two records would decide how far the reader goes.
            if sizes.setdefault(digest, size) != size:
                raise IntegrityError(
                    f"engine {record.key[:12]}: blob {digest} has {size} bytes, but {sizes[digest]} in another engine"
                )
    return dict(sorted(sizes.items()))


def _record_name(key: Key) -> str:
    return f"engines/{key}.json"


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _padded(size: int) -> int:
    """Return `size` rounded up to whole blocks."""
    return -(-size // _BLOCK) * _BLOCK


def _first_mistake(error: ValidationError) -> str:
    mistake = error.errors()[0]
    field = ".".join(str(step) for step in mistake["loc"])
    return f"{field}: {str(mistake['input'])[:100]!r}: {mistake['msg']}"
