from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from enginefarm import digest
from enginefarm.client import Farm
from enginefarm.errors import CallerError, Conflict, FarmError, Forbidden, IntegrityError, NotFound, PlatformMismatch
from enginefarm.fetch import Activity, Progress, manifest_of, pull
from enginefarm.manifest import FileEntry, Manifest
from enginefarm.wire import Engine
from tests.enginefarm.farm_double import H100, Answer, FarmDouble, Fault, StoreDouble, until

BIG = os.urandom(700_001)
FILES = {"config.json": b"{}", "empty": b"", "rank0.engine": BIG, "tokenizer/vocab.json": b"[1, 2]"}


def held(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if not p.is_dir()}


def staging(destination: Path, engine: Engine) -> Path:
    return destination.with_name(f".{destination.name}.partial-{engine.manifest[7:19]}")


def cut(after: int) -> Fault:
    """The right headers, and the connection breaks off."""
    return lambda answer, whole: (answer[0], answer[1], answer[2][:after])


def short(answer: Answer, whole: bytes) -> Answer:
    """A part, called the whole."""
    return 200, {"content-length": "1000"}, whole[:1000]


def corrupt(answer: Answer, whole: bytes) -> Answer:
    return answer[0], answer[1], b"X" + answer[2][1:]


def too_long(answer: Answer, whole: bytes) -> Answer:
    return 200, {}, whole + b"more"


def deaf_to_ranges(answer: Answer, whole: bytes) -> Answer:
    return 200, {"content-length": str(len(whole))}, whole


def deaf_and_cut(answer: Answer, whole: bytes) -> Answer:
    return 200, {"content-length": str(len(whole))}, whole[:200_000]


def other_range(answer: Answer, whole: bytes) -> Answer:
    return 206, {"content-range": f"bytes 7-{len(whole) - 1}/{len(whole)}"}, whole[7:]


def compressed(answer: Answer, whole: bytes) -> Answer:
    return 200, {"content-encoding": "gzip"}, gzip.compress(whole)


def status(code: int) -> Fault:
    return lambda answer, whole: (code, {}, b"<Error/>")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "engines" / "tiny"


@pytest.mark.parametrize("direct", [False, True], ids=["redirected", "presigned"])
def test_a_directory_with_every_byte_and_nothing_else(
    farm: Farm, double: FarmDouble, place: Path, direct: bool
) -> None:
    engine = double.publish(FILES, direct=direct)
    told: list[Progress] = []

    assert pull(farm, engine, place, progress=told.append) == place

    assert held(place) == FILES
    assert [p.name for p in place.parent.iterdir()] == ["tiny"]
    assert told[-1] == Progress(Activity.DONE, engine.size, engine.size)


@pytest.mark.parametrize(
    "faults",
    [
        [cut(300_000)],
        [cut(0), cut(1), cut(100_000), cut(600_000)],
        [short],
        [corrupt],
        [too_long],
        [cut(300_000), deaf_to_ranges],
        [cut(300_000), deaf_and_cut],
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
def test_what_goes_wrong_for_a_while(
    farm: Farm, double: FarmDouble, store: StoreDouble, place: Path, faults: list[Fault]
) -> None:
    engine = double.publish({"rank0.engine": BIG})
    store.faults = list(faults)

    pull(farm, engine, place)

    assert held(place) == {"rank0.engine": BIG}
    assert store.faults == []


@pytest.mark.parametrize("fault", [corrupt, too_long, other_range, status(416), compressed])
def test_bytes_that_stay_wrong_are_never_kept(
    farm: Farm, double: FarmDouble, store: StoreDouble, place: Path, fault: Fault
) -> None:
    engine = double.publish({"rank0.engine": BIG})
    store.always = fault

    with pytest.raises(IntegrityError, match=r"rank0\.engine"):
        pull(farm, engine, place)

    assert not place.exists()


@pytest.mark.parametrize(("fault", "kind"), [(status(403), Forbidden), (status(404), NotFound)])
def test_a_link_that_stays_refused_is_an_error_without_its_signature(
    farm: Farm, double: FarmDouble, store: StoreDouble, place: Path, fault: Fault, kind: type[CallerError]
) -> None:
    engine = double.publish(FILES, direct=True)
    store.always = fault

    with pytest.raises(kind) as caught:
        pull(farm, engine, place)

    assert store.SIGNATURE not in str(caught.value)
    assert not place.exists()


def test_links_that_expired_are_asked_for_anew_and_the_rest_fetched(
    farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
) -> None:
    engine = double.publish({"rank0.engine": BIG}, direct=True)

    def expires(answer: Answer, whole: bytes) -> Answer:
        store.valid += 1
        return cut(400_000)(answer, whole)  # type: ignore[return-value]  # `cut` always answers

    store.faults = [expires]
    pull(farm, engine, place)

    assert held(place) == {"rank0.engine": BIG}
    assert [asked.query["number"] for asked in store.asked] == ["0", "0", "1"]
    assert store.asked[-1].headers["range"].startswith("bytes=")


def test_an_engine_that_changed_under_its_key_is_refused(
    farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
) -> None:
    engine = double.publish(FILES)
    store.always = status(403)
    double.list_engine(engine.key, [FileEntry(path="a", digest=store.put(b"a"), size=1)])

    with pytest.raises(IntegrityError, match="changed"):
        pull(farm, engine, place)


class TestResume:
    def interrupted(self, double: FarmDouble, store: StoreDouble, place: Path) -> Engine:
        """A pull that gave up after a part of the big file."""
        engine = double.publish(FILES)
        store.faults, store.always = [cut(400_000)], status(500)
        with Farm(double.url, patience=0.2) as impatient, pytest.raises(FarmError):
            pull(impatient, engine, place, connections=1)
        store.always = None
        store.asked.clear()
        assert not place.exists()
        assert 0 < len(held(staging(place, engine))["rank0.engine"]) < len(BIG)
        return engine

    def test_only_what_is_missing_is_fetched(
        self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
    ) -> None:
        engine = self.interrupted(double, store, place)
        there = len(held(staging(place, engine))["rank0.engine"])

        pull(farm, engine, place)

        assert held(place) == FILES
        assert f"bytes={there}-" in [asked.headers.get("range") for asked in store.asked]
        assert [p.name for p in place.parent.iterdir()] == ["tiny"]

    def test_what_rotted_in_between_is_fetched_again(
        self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
    ) -> None:
        engine = self.interrupted(double, store, place)
        partial = staging(place, engine) / "rank0.engine"
        partial.write_bytes(b"rotten" + partial.read_bytes()[6:])

        pull(farm, engine, place)

        assert held(place) == FILES

    def test_what_does_not_belong_there_is_removed_and_links_are_not_followed(
        self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path, tmp_path: Path
    ) -> None:
        engine = self.interrupted(double, store, place)
        precious = tmp_path / "precious"
        precious.write_bytes(b"mine")
        there = staging(place, engine)
        (there / "stranger").mkdir()
        (there / "stranger" / "file").touch()
        (there / "config.json").unlink(missing_ok=True)
        (there / "config.json").symlink_to(precious)
        (there / "rank0.engine").write_bytes(BIG + b"more")
        (there / "empty").unlink(missing_ok=True)
        (there / "empty").mkdir()

        pull(farm, engine, place)

        assert held(place) == FILES
        assert sorted(p.name for p in place.iterdir() if p.is_dir()) == ["tokenizer"]
        assert precious.read_bytes() == b"mine"

    def test_a_pull_that_was_killed_leaves_no_lock(
        self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
    ) -> None:
        engine = double.publish(FILES)
        store.pace = 0.05
        child = _pull_elsewhere(double, engine, place)
        until(lambda: (staging(place, engine) / "rank0.engine").exists())
        child.send_signal(signal.SIGKILL)
        child.wait()
        store.pace = 0

        assert not place.exists()
        pull(farm, engine, place)
        assert held(place) == FILES


class TestDestination:
    def test_this_very_engine_is_checked_and_not_fetched_again(
        self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
    ) -> None:
        engine = double.publish(FILES)
        pull(farm, engine, place)
        store.asked.clear()

        assert pull(farm, engine, place) == place
        assert store.asked == []

    def test_this_engine_with_a_byte_changed_is_refused(self, farm: Farm, double: FarmDouble, place: Path) -> None:
        engine = double.publish(FILES)
        pull(farm, engine, place)
        (place / "rank0.engine").write_bytes(b"X" + BIG[1:])

        with pytest.raises(Conflict, match="tiny exists"):
            pull(farm, engine, place)

    @pytest.mark.parametrize("kind", ["file", "folder", "link"])
    def test_anything_else_is_refused_and_left_alone(
        self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path, kind: str
    ) -> None:
        engine = double.publish(FILES)
        place.parent.mkdir(parents=True)
        if kind == "file":
            place.write_bytes(b"mine")
        else:
            place.mkdir()
            (place / "notes").symlink_to("elsewhere") if kind == "link" else (place / "notes").touch()

        with pytest.raises(Conflict, match="tiny exists"):
            pull(farm, engine, place)

        assert place.exists()
        assert store.asked == []

    def test_many_at_once_fetch_once(self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path) -> None:
        engine = double.publish({"rank0.engine": BIG})
        store.pace = 0.02
        others = [_pull_elsewhere(double, engine, place) for _ in range(2)]
        told: list[Progress] = []
        threads = [
            threading.Thread(target=pull, args=(farm, engine, place), kwargs={"progress": told.append})
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [other.wait(timeout=30) for other in others] == [0, 0]
        assert held(place) == {"rank0.engine": BIG}
        assert len(store.asked) == 1
        assert Activity.WAITING in {progress.activity for progress in told}
        assert [p.name for p in place.parent.iterdir()] == ["tiny"]


class TestBeforeAByteMoves:
    def test_another_platform_is_refused_by_the_names_of_its_fields(
        self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
    ) -> None:
        engine = double.publish(FILES, platform=H100)

        with pytest.raises(
            PlatformMismatch, match=r"h100-80gb-hbm3-sm90.*gpu must be NVIDIA H100 80GB HBM3, here it is"
        ):
            pull(farm, engine, place)

        assert store.asked == []
        assert not place.parent.exists()
        assert held(pull(farm, engine, place, any_platform=True)) == FILES

    def test_a_manifest_that_is_not_what_its_digest_says(
        self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
    ) -> None:
        engine = double.publish(FILES).model_copy(update={"manifest": digest.of_bytes(b"another")})

        with pytest.raises(IntegrityError, match="manifest"):
            pull(farm, engine, place)

        assert store.asked == []
        assert not place.parent.exists()

    def test_a_file_that_is_listed_twice(self, double: FarmDouble) -> None:
        engine = double.publish(FILES)
        twice = engine.model_copy(update={"contents": [*engine.contents, engine.contents[0]]})

        with pytest.raises(IntegrityError, match="each path once"):
            manifest_of(twice)

    def test_a_path_that_leads_out(self, farm: Farm, double: FarmDouble) -> None:
        engine = double.publish(FILES)
        outside = engine.contents[0].model_copy(update={"path": "../outside"})
        double.state.engines[engine.key] = engine.model_copy(update={"contents": [outside]})

        with pytest.raises(FarmError, match="not a Engine"):
            farm.engine(engine.key)
        with pytest.raises(IntegrityError, match="plain relative path"):
            manifest_of(double.state.engines[engine.key])

    def test_a_size_that_no_file_has(self, double: FarmDouble) -> None:
        engine = double.publish(FILES)
        monstrous = engine.contents[0].model_copy(update={"size": 1 << 60})

        with pytest.raises(IntegrityError, match="make no manifest"):
            manifest_of(engine.model_copy(update={"contents": [monstrous]}))

    def test_no_room(self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path) -> None:
        engine = double.list_engine("ab" * 32, [FileEntry(path="a", digest=digest.of_bytes(b""), size=1 << 52)])

        with pytest.raises(CallerError, match=f"{1 << 52} bytes are still to be fetched"):
            pull(farm, engine, place)

        assert store.asked == []

    def test_an_engine_without_files(self, farm: Farm, double: FarmDouble, place: Path) -> None:
        engine = double.list_engine("ab" * 32, [])

        assert list(pull(farm, engine, place).iterdir()) == []
        assert engine.manifest == Manifest.of([]).digest


def test_the_first_failure_ends_the_other_downloads(
    farm: Farm, double: FarmDouble, store: StoreDouble, place: Path
) -> None:
    engine = double.publish({"a": BIG, **{f"small{n}": bytes([n]) * 9 for n in range(20)}})
    store.pace = 0.01

    def wrong_if_small(answer: Answer, whole: bytes) -> Answer:
        return corrupt(answer, whole) if len(whole) < 10 else answer

    store.always = wrong_if_small
    with pytest.raises(IntegrityError, match="small"):
        pull(farm, engine, place, connections=2)

    assert len(store.asked) < 10


def _pull_elsewhere(double: FarmDouble, engine: Engine, place: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "enginefarm.cli", "pull", engine.key, str(place)]
    return subprocess.Popen(
        program, env={**os.environ, "ENGINEFARM_URL": double.url}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
