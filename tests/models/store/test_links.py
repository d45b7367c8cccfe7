"""Signed links to blobs of a folder store."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from enginefarm.contract.digest import of_bytes
from enginefarm.contract.errors import Forbidden, InvalidRequest, NotFound
from models.store import DirectoryStore, Links
from models.store.links import attachment
from tests.models.store.blobs import put_bytes

NAME = of_bytes(b"data")
ANOTHER_NAME = of_bytes(b"another blob")
SECRET = b"0123456789abcdef"
NOW = 1_800_000_000.0
HOUR = timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def links(clock: Clock) -> Links:
    return Links(SECRET, clock=clock)


def fields(link: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(link).query, strict_parsing=True).items()}


def check(links: Links, link: str, **changes: object) -> None:
    link_fields = {"digest": urlsplit(link).path.removeprefix("/v1/blobs/"), **fields(link), **changes}
    links.check(
        str(link_fields["digest"]),
        filename=str(link_fields["filename"]),
        expires=int(str(link_fields["expires"])),
        signature=str(link_fields["signature"]),
    )


@pytest.mark.parametrize("filename", ["rank0.engine", "modèle 1&x=y#%.bin", "expires=9"])
def test_a_link_is_valid_until_it_expires(links: Links, clock: Clock, filename: str) -> None:
    link = links.make(NAME, filename=filename, expires=HOUR)
    assert fields(link)["filename"] == filename

    check(links, link)
    clock.now = NOW + 3599
    check(links, link)
    clock.now = NOW + 3600
    with pytest.raises(Forbidden, match="expired"):
        check(links, link)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": ANOTHER_NAME},
        {"filename": "rank1.engine"},
        {"expires": int(NOW) + 3601},
        {"signature": "0" * 64},
        {"signature": ""},
        {"signature": "ünicode"},
    ],
    ids=str,
)
def test_a_changed_link_is_refused(links: Links, change: dict[str, object]) -> None:
    link = links.make(NAME, filename="rank0.engine", expires=HOUR)
    with pytest.raises(Forbidden, match="not made by this farm"):
        check(links, link, **change)


def test_a_field_cannot_end_in_the_next_one(links: Links) -> None:
    link = links.make(NAME, filename="2", expires=HOUR)
    with pytest.raises(Forbidden):
        check(links, link, filename="", expires=fields(link)["expires"] + "2")


def test_a_link_of_another_farm_is_refused(links: Links, clock: Clock) -> None:
    other_farm = Links(b"another secret, as long", clock=clock)
    with pytest.raises(Forbidden):
        check(links, other_farm.make(NAME, filename="a", expires=HOUR))


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="has 5 bytes: use 16"):
        Links(b"short")


def test_the_secret_is_in_no_link(links: Links) -> None:
    assert SECRET.decode() not in links.make(NAME, filename="a", expires=HOUR)


def test_the_store_serves_the_blob_of_its_link_until_it_is_deleted(tmp_path: Path, links: Links) -> None:
    store = DirectoryStore(tmp_path / "store", links)
    store.prepare()
    put_bytes(store, b"data")
    query = fields(store.link(NAME, filename="a.bin", expires=HOUR))
    expires = int(query["expires"])

    path = store.check_link(NAME, filename="a.bin", expires=expires, signature=query["signature"])

    assert path.read_bytes() == b"data"
    with pytest.raises(Forbidden):
        store.check_link(ANOTHER_NAME, filename="a.bin", expires=expires, signature=query["signature"])
    store.delete(NAME)
    with pytest.raises(NotFound):
        store.check_link(NAME, filename="a.bin", expires=expires, signature=query["signature"])


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("rank0.engine", 'attachment; filename="rank0.engine"'),
        ('say "hi".txt', "attachment; filename*=UTF-8''say%20%22hi%22.txt"),
        ("modèle", "attachment; filename*=UTF-8''mod%C3%A8le"),
    ],
)
def test_attachment_names_the_file(filename: str, header: str) -> None:
    assert attachment(filename) == header


@pytest.mark.parametrize("filename", ["", ".", "..", "/etc/passwd", "a\nb", "a\x00b", "é" * 128])
def test_attachment_refuses_paths_and_control_characters(filename: str) -> None:
    with pytest.raises(InvalidRequest, match="plain file name"):
        attachment(filename)
