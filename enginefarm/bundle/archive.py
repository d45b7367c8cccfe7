"""A bundle: engines in one tar file, for sites that no network reaches.

`bundle.json` (format, keys), `engines/<key>.json` for each key, `blobs/sha256/<hex>` for each digest: in this order,
each part sorted, every blob once, and nothing else. The same engines give the same bytes, and any `tar` can list them.
What each member must be called and how long it must be follows from those before it, so a reader looks for nothing that
it does not expect, and parses one header of 512 bytes at a time.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enginefarm.contract.digest import CHUNK, Digest, verified
from enginefarm.contract.errors import IntegrityError, InvalidRequest
from enginefarm.contract.key import Key
from enginefarm.wire.engine_record import EngineRecord

FORMAT = "enginefarm.bundle/1"
_INDEX = "bundle.json"
_BLOCK = tarfile.BLOCKSIZE
_END = 2 * _BLOCK  # bytes of zeros; other programs write more
_LONGEST_DOCUMENT = 1 << 24  # bytes

ChunksOf = Callable[[Digest], Iterable[bytes]]


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True)

    format: str
    engines: list[Key] = Field(min_length=1)


def write_bundle(target: BinaryIO, records: Sequence[EngineRecord], chunks_of: ChunksOf) -> None:
    """
    Raises:
        IntegrityError: `chunks_of` brought other bytes than a record names.
    """
    records = sorted(records, key=lambda record: record.key)
    index = {"format": FORMAT, "engines": [record.key for record in records]}
    _write_document(target, _INDEX, index)
    for record in records:
        _write_document(target, _record_name(record.key), record.model_dump(mode="json"))
    for digest, size in _blobs(records).items():
        _write_member(target, _blob_name(digest), size, verified(chunks_of(digest), digest, size, what=digest))
    target.write(bytes(_END))


def _write_document(target: BinaryIO, name: str, document: dict[str, Any]) -> None:
    data = rfc8785.dumps(document)
    _write_member(target, name, len(data), [data])


def _write_member(target: BinaryIO, name: str, size: int, chunks: Iterable[bytes]) -> None:
    header = tarfile.TarInfo(name)  # of nobody, in 1970
    header.size = size
    target.write(header.tobuf(tarfile.GNU_FORMAT, "ascii", "strict"))
    target.writelines(chunks)
    target.write(bytes(_padded(size) - size))


class Bundle:
    """A bundle to be read. All of its structure was checked when it was opened, none of its blobs' bytes."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InvalidRequest: the file cannot be read, or is no bundle of this format.
            IntegrityError: it is a bundle that was cut or changed.
        """
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
        self._offsets: dict[Digest, int] = {}
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blob(self, digest: Digest) -> Iterator[bytes]:
        """Its bytes, checked: see `verified`."""
        size = self.sizes[digest]
        return verified(self._chunks(self._offsets[digest], size), digest, size, what=f"{self._path}, blob {digest}")

    def _read(self) -> None:
        self._size = os.fstat(self._file.fileno()).st_size
        index, offset = self._index()
        records = []
        for key in index.engines:
            data, offset = self._document(_record_name(key), offset)
            records.append(self._record(key, data))
        self.records = tuple(records)
        self.sizes = _blobs(records)
        for digest, size in self.sizes.items():
            self._offsets[digest] = start = self._member(_blob_name(digest), offset, size)[0]
            offset = start + _padded(size)
        self._require_end(offset)

    def _index(self) -> tuple[_Index, int]:
        try:
            data, offset = self._document(_INDEX, 0)
        except IntegrityError as error:
            raise InvalidRequest(
                f"{self._path} is no bundle: {error.detail}. `enginefarm export KEY -o FILE` makes one"
            ) from error
        try:
            index = _Index.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(f"{self._path}: {_INDEX} {_first(error)}") from error
        if index.format != FORMAT:
            raise InvalidRequest(
                f"{self._path}: format is {index.format[:100]!r}, this program reads {FORMAT!r}: "
                "use an enginefarm of the version that wrote it"
            )
        if index.engines != sorted(set(index.engines)):
            raise IntegrityError(f"{self._path}: {_INDEX} engines: expected every key once, sorted")
        return index, offset

    def _record(self, key: Key, data: bytes) -> EngineRecord:
        try:
            record = EngineRecord.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(f"{self._path}: {_record_name(key)} {_first(error)}") from error
        if record.key != key:
            raise IntegrityError(f"{self._path}: {_record_name(key)} key is {record.key}, expected that of its name")
        return record

    def _document(self, name: str, offset: int) -> tuple[bytes, int]:
        start, size = self._member(name, offset)
        if size > _LONGEST_DOCUMENT:
            raise IntegrityError(f"{self._path}: {name} has {size} bytes, expected at most {_LONGEST_DOCUMENT}")
        return b"".join(self._chunks(start, size)), start + _padded(size)

    def _member(self, name: str, offset: int, size: int | None = None) -> tuple[int, int]:
        """Where the bytes of the member at `offset` begin, and how many they are: it must be a file called `name`."""
        block = b"".join(self._chunks(offset, _BLOCK))
        try:
            found = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{self._path}: expected {name} at byte {offset}, found no header of a tar") from error
        if found.type != tarfile.REGTYPE or found.name != name or found.size < 0 or size not in {None, found.size}:
            wanted = name if size is None else f"{name} of {size} bytes"
            raise IntegrityError(
                f"{self._path}: expected {wanted} at byte {offset}, found {found.name[:100]!r} of {found.size} bytes "
                f"and type {found.type!r}: a bundle holds plain files in one order, and this one was changed"
            )
        start = offset + _BLOCK
        self._require_size(start + _padded(found.size))
        return start, found.size

    def _require_end(self, offset: int) -> None:
        self._require_size(offset + _END)
        if any(any(chunk) for chunk in self._chunks(offset, self._size - offset)):
            raise IntegrityError(f"{self._path}: something follows the last blob at byte {offset}, expected nothing")

    def _require_size(self, size: int) -> None:
        if self._size < size:
            raise IntegrityError(
                f"{self._path} has {self._size} bytes, expected {size} or more: copy it again, it was cut"
            )

    def _chunks(self, start: int, size: int) -> Iterator[bytes]:
        self._require_size(start + size)
        position, end = start, start + size
        while position < end:
            try:
                chunk = os.pread(self._file.fileno(), min(CHUNK, end - position), position)
            except OSError as error:
                raise InvalidRequest(f"{self._path} cannot be read at byte {position}: {error.strerror}") from error
            if not chunk:
                raise IntegrityError(f"{self._path} became shorter while it was read")
            yield chunk
            position += len(chunk)


def _blobs(records: Iterable[EngineRecord]) -> dict[Digest, int]:
    """Bytes of each blob of all engines, in the order of their digests."""
    sizes: dict[Digest, int] = {}
    for record in records:
        for digest, size in record.sizes.items():
            if sizes.setdefault(digest, size) != size:
                raise IntegrityError(f"engine {record.key[:12]}: {digest} has {size} bytes here and others elsewhere")
    return dict(sorted(sizes.items()))


def _record_name(key: Key) -> str:
    return f"engines/{key}.json"


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    field = ".".join(str(part) for part in found["loc"])
    return f"{field}: {str(found['input'])[:100]!r}: {found['msg']}"
