from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import CallerError, FarmError, Forbidden, IntegrityError, NotFound
from enginefarm.contract.manifest import FileEntry
from enginefarm.transfer.progress import Activity, Progress
from enginefarm.transfer.pull import Transfer, pull
from enginefarm.wire.bodies import Engine
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.http_double import wait_until
from tests.enginefarm.pulling import BIG, FILES, files_in, pull_in_subprocess, staging_path
from tests.enginefarm.store_double import (
    Answer,
    Fault,
    StoreDouble,
    compressed,
    corrupt,
    cut,
    ignores_ranges,
    ignores_ranges_and_cuts,
    other_range,
    short,
    status,
    too_long,
)


@pytest.mark.parametrize(
    "faults",
    [
        [cut(300_000)],
        [cut(0), cut(1), cut(100_000), cut(600_000)],
        [short],
        [corrupt],
        [too_long],
        [cut(300_000), ignores_ranges],
        [cut(300_000), ignores_ranges_and_cuts],
        [cut(300_000), other_range],
        [cut(300_000), status(416)],
        [compressed],
        [status(500), status(503), status(429)],
        [status(403)],
        [cut(300_000), status(410), status(403), cut(10), status(403)],
        [cut(300_000), corrupt, corrupt],
    ],
    ids=lambda faults: f"{len(faults)}-{getattr(faults[-1], '__name__', '')}",
)
def test_a_pull_survives_passing_faults(
    client: Farm, double: FarmDouble, store: StoreDouble, destination: Path, faults: list[Fault]
) -> None:
    engine = double.publish({"rank0.engine": BIG})
    store.faults = list(faults)

    pull(client, engine, destination)

    assert files_in(destination) == {"rank0.engine": BIG}
    assert store.faults == []


@pytest.mark.parametrize("fault", [corrupt, too_long, other_range, status(416), compressed])
def test_bytes_that_stay_wrong_are_never_kept(
    client: Farm, double: FarmDouble, store: StoreDouble, destination: Path, fault: Fault
) -> None:
    engine = double.publish({"rank0.engine": BIG})
    store.always = fault

    with pytest.raises(IntegrityError, match=r"rank0\.engine"):
        pull(client, engine, destination)

    assert not destination.exists()


@pytest.mark.parametrize(("fault", "kind"), [(status(403), Forbidden), (status(404), NotFound)])
def test_a_link_that_stays_refused_is_an_error_without_its_signature(
    client: Farm, double: FarmDouble, store: StoreDouble, destination: Path, fault: Fault, kind: type[CallerError]
) -> None:
    engine = double.publish(FILES, direct=True)
    store.always = fault

    with pytest.raises(kind) as caught:
        pull(client, engine, destination)

    assert store.SIGNATURE not in str(caught.value)
    assert not destination.exists()


def test_expired_links_are_renewed_and_only_missing_bytes_fetched(
    client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
) -> None:
    engine = double.publish({"rank0.engine": BIG}, direct=True)

    def expires(answer: Answer, blob: bytes) -> Answer:
        store.valid += 1
        return cut(400_000)(answer, blob)  # type: ignore[return-value]  # `cut` always answers

    store.faults = [expires]
    pull(client, engine, destination)

    assert files_in(destination) == {"rank0.engine": BIG}
    assert [request.query["number"] for request in store.requests] == ["0", "0", "1"]
    assert store.requests[-1].headers["range"].startswith("bytes=")


def test_links_that_expired_during_an_outage_are_renewed_after_it(
    client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
) -> None:
    engine = double.publish({"rank0.engine": BIG}, direct=True)
    double.refusals = 3
    store.valid += 1

    pull(client, engine, destination)

    assert files_in(destination) == {"rank0.engine": BIG}
    assert double.refusals == 0


def test_a_refusal_names_the_store_that_refused(
    client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
) -> None:
    engine = double.publish(FILES, direct=True)
    store.always = status(404)
    with pytest.raises(NotFound, match=re.escape(f"{store.url} answered 404")):
        pull(client, engine, destination)


def test_an_engine_that_changed_under_its_key_is_refused(
    client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
) -> None:
    engine = double.publish(FILES)
    store.always = status(403)
    double.list_engine(engine.key, [FileEntry(path="a", digest=store.put(b"a"), size=1)])

    with pytest.raises(IntegrityError, match="changed"):
        pull(client, engine, destination)


def test_an_empty_file_of_another_digest_is_refused(client: Farm, double: FarmDouble, destination: Path) -> None:
    engine = double.list_engine("ab" * 32, [FileEntry(path="empty", digest="sha256:" + "0" * 64, size=0)])
    with pytest.raises(IntegrityError, match="empty"):
        pull(client, engine, destination)
    assert not destination.exists()


@pytest.mark.parametrize("allowed", [0, 2])
def test_a_limit_of_threads_costs_speed_only(
    client: Farm, double: FarmDouble, destination: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    start = threading.Thread.start
    left = allowed

    def limited_start(thread: threading.Thread) -> None:
        nonlocal left
        if thread.name.startswith("pull"):
            if not left:
                raise RuntimeError("can't start new thread")
            left -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited_start)
    pull(client, double.publish(FILES), destination, transfer=Transfer(connections=4, part_size=1 << 16))
    assert files_in(destination) == FILES


class TestResume:
    def interrupted(self, double: FarmDouble, store: StoreDouble, destination: Path) -> Engine:
        """A pull that gave up after a part of the big file."""
        engine = double.publish(FILES)
        store.faults, store.always = [cut(400_000)], status(500)
        with Farm(double.url, patience=0.2) as impatient, pytest.raises(FarmError):
            pull(impatient, engine, destination, transfer=Transfer(connections=1))
        store.always = None
        store.requests.clear()
        assert not destination.exists()
        assert 0 < len(files_in(staging_path(destination, engine))["rank0.engine"]) < len(BIG)
        return engine

    def test_only_what_is_missing_is_fetched(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = self.interrupted(double, store, destination)
        resumed_at = len(files_in(staging_path(destination, engine))["rank0.engine"])

        pull(client, engine, destination)

        assert files_in(destination) == FILES
        assert f"bytes={resumed_at}-" in [request.headers.get("range") for request in store.requests]
        assert [p.name for p in destination.parent.iterdir()] == ["tiny"]

    def test_bytes_that_were_damaged_between_two_pulls_are_fetched_again(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = self.interrupted(double, store, destination)
        partial = staging_path(destination, engine) / "rank0.engine"
        partial.write_bytes(b"rotten" + partial.read_bytes()[6:])

        pull(client, engine, destination)

        assert files_in(destination) == FILES

    def test_strangers_in_the_staging_directory_are_removed_and_links_not_followed(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path, tmp_path: Path
    ) -> None:
        engine = self.interrupted(double, store, destination)
        precious = tmp_path / "precious"
        precious.write_bytes(b"mine")
        partial_directory = staging_path(destination, engine)
        (partial_directory / "stranger").mkdir()
        (partial_directory / "stranger" / "file").touch()
        (partial_directory / "config.json").unlink(missing_ok=True)
        (partial_directory / "config.json").symlink_to(precious)
        (partial_directory / "rank0.engine").write_bytes(BIG + b"more")
        (partial_directory / "empty").unlink(missing_ok=True)
        (partial_directory / "empty").mkdir()

        pull(client, engine, destination)

        assert files_in(destination) == FILES
        assert sorted(p.name for p in destination.iterdir() if p.is_dir()) == ["tokenizer"]
        assert precious.read_bytes() == b"mine"

    def test_a_killed_pull_leaves_no_lock(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = double.publish(FILES)
        store.pace = 0.05
        child = pull_in_subprocess(double, engine, destination)
        wait_until(lambda: (staging_path(destination, engine) / "rank0.engine").exists())
        child.send_signal(signal.SIGKILL)
        child.wait()
        store.pace = 0

        assert not destination.exists()
        pull(client, engine, destination)
        assert files_in(destination) == FILES


def test_the_first_failure_ends_the_other_downloads(
    client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
) -> None:
    engine = double.publish({"a": BIG, **{f"small{n}": bytes([n]) * 9 for n in range(20)}})
    store.pace = 0.05

    def wrong_if_small(answer: Answer, blob: bytes) -> Answer:
        return corrupt(answer, blob) if len(blob) < 10 else answer

    store.always = wrong_if_small
    with pytest.raises(IntegrityError, match="small"):
        pull(client, engine, destination, transfer=Transfer(connections=2))

    assert len(store.requests) < 10
    assert len(files_in(staging_path(destination, engine))["a"]) < len(BIG)


class TestParts:
    """BIG in parts of 64 KiB: eleven of them, the last one short."""

    SMALL = Transfer(connections=4, part_size=1 << 16)

    @pytest.mark.parametrize(
        "faults",
        [
            [],
            [corrupt],
            [cut(0), cut(1), cut(10_000), cut(60_000)],
            [status(503), other_range, status(416), compressed],
            [ignores_ranges, ignores_ranges, short, too_long],
            [status(403), status(410), cut(10)],
        ],
        ids=lambda faults: str(len(faults)),
    )
    def test_parts_may_arrive_in_any_order(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path, faults: list[Fault]
    ) -> None:
        engine = double.publish(FILES)
        store.faults = list(faults)
        reports: list[Progress] = []

        pull(client, engine, destination, transfer=self.SMALL, progress=reports.append)

        assert files_in(destination) == FILES
        assert [p.name for p in destination.parent.iterdir()] == ["tiny"]
        assert reports[-1] == Progress(Activity.DONE, engine.size, engine.size)

    @pytest.mark.parametrize("fault", [corrupt, other_range, status(416)])
    def test_bytes_that_stay_wrong_are_never_kept(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path, fault: Fault
    ) -> None:
        engine = double.publish({"rank0.engine": BIG})
        store.always = fault
        with pytest.raises(IntegrityError, match=r"rank0\.engine"):
            pull(client, engine, destination, transfer=self.SMALL)
        assert not destination.exists()

    def interrupted(self, double: FarmDouble, store: StoreDouble, destination: Path) -> Engine:
        """A pull that gave up after five parts."""
        engine = double.publish({"rank0.engine": BIG})
        store.faults, store.always = [lambda answer, blob: answer] * 5, status(500)
        with Farm(double.url, patience=0.2) as impatient, pytest.raises(FarmError):
            pull(impatient, engine, destination, transfer=self.SMALL)
        store.always = None
        store.requests.clear()
        return engine

    def test_whole_parts_are_not_fetched_again(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = self.interrupted(double, store, destination)
        pull(client, engine, destination, transfer=self.SMALL)
        assert files_in(destination) == {"rank0.engine": BIG}
        assert len(store.requests) == 11 - 5

    def test_a_part_that_was_damaged_between_two_pulls_is_fetched_again(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = self.interrupted(double, store, destination)
        path = staging_path(destination, engine) / "rank0.engine"
        path.write_bytes(bytes(len(BIG)))
        pull(client, engine, destination, transfer=self.SMALL)
        assert files_in(destination) == {"rank0.engine": BIG}

    @pytest.mark.parametrize("spoil", ["missing", "torn", "other size", "nonsense"])
    def test_a_damaged_journal_costs_bytes_but_not_the_pull(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path, spoil: str
    ) -> None:
        engine = self.interrupted(double, store, destination)
        journal = staging_path(destination, engine).with_name(staging_path(destination, engine).name + ".journal")
        match spoil:
            case "missing":
                journal.unlink()
            case "torn":
                journal.write_bytes(journal.read_bytes()[:-3])
            case "nonsense":
                journal.write_bytes(journal.read_bytes() + b'["rank0.engine", 99]\n["no", 1]\n\xff\n[]\n')
        transfer = Transfer(part_size=1 << 17) if spoil == "other size" else self.SMALL
        pull(client, engine, destination, transfer=transfer)
        assert files_in(destination) == {"rank0.engine": BIG}

    def test_a_killed_pull_loses_no_whole_part(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = double.publish({"rank0.engine": BIG})
        store.pace = 0.02
        pid = os.fork()
        if pid == 0:  # the very code, in a process that can be killed
            with Farm(double.url) as own:
                pull(own, engine, destination, transfer=self.SMALL)
            os._exit(0)
        journal = staging_path(destination, engine).with_name(staging_path(destination, engine).name + ".journal")
        wait_until(lambda: journal.exists() and journal.read_bytes().count(b'["rank0.engine", ') > 4)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        recorded = len(set(re.findall(rb'"rank0.engine", \d+\]', journal.read_bytes())))
        assert recorded > 2
        store.requests.clear()
        store.pace = 0
        pull(client, engine, destination, transfer=self.SMALL)
        assert files_in(destination) == {"rank0.engine": BIG}
        assert len(store.requests) <= 11 - recorded


def test_a_pull_is_not_faster_than_its_limit(client: Farm, double: FarmDouble, destination: Path) -> None:
    engine = double.publish({"rank0.engine": BIG})
    started = time.monotonic()
    pull(client, engine, destination, transfer=Transfer(limit_rate=len(BIG) * 4))
    assert time.monotonic() - started > 0.2  # never faster; how much slower depends on the machine
    assert files_in(destination) == {"rank0.engine": BIG}
