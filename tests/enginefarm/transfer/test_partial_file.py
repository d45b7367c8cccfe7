"""When a partial file is verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginefarm.contract.digest import of_bytes
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.manifest import FileEntry
from enginefarm.transfer.partial_file import Journal, PartialFile

PARTS = (b"one!", b"two!", b"3")


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[PartialFile]:
    content = b"".join(PARTS)
    entry = FileEntry(path="a", digest=of_bytes(content), size=len(content))
    with Journal(tmp_path / "journal", part_size=4) as journal:
        file = PartialFile(tmp_path / "a", entry, journal, 4, on_bytes=lambda count: None)
        yield file
        file.close()


def test_a_part_whose_response_goes_on_is_not_hashed(partial: PartialFile) -> None:
    """Else the file could be verified first, and then overwritten because the response turned out to be too long."""
    for number, part in enumerate(PARTS):
        partial.append(number, part)
    partial.finish_part(1)
    partial.finish_part(2)

    assert not partial.verify(lambda: False)
    partial.discard_part(0)
    partial.append(0, b"bad!")
    partial.finish_part(0)

    with pytest.raises(IntegrityError):
        partial.verify(lambda: False)


def test_parts_are_hashed_in_order_whatever_order_they_arrive_in(partial: PartialFile) -> None:
    for number in (2, 0, 1):
        assert not partial.verify(lambda: False)
        partial.append(number, PARTS[number])
        partial.finish_part(number)
    assert partial.verify(lambda: False)


def test_after_a_restart_every_part_is_missing(partial: PartialFile) -> None:
    for number in partial.part_numbers:
        partial.append(number, PARTS[number])
        partial.finish_part(number)
    partial.restart()
    assert not partial.verify(lambda: False)
    assert not any(partial.is_complete(number) for number in partial.part_numbers)
