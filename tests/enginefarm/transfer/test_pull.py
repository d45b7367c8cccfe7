from __future__ import annotations

import threading
from pathlib import Path

import pytest

from enginefarm.client.farm import Farm
from enginefarm.contract import digest
from enginefarm.contract.errors import CallerError, Conflict, IntegrityError, PlatformMismatch
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.transfer.progress import Activity, Progress
from enginefarm.transfer.pull import pull
from tests.enginefarm.farm_double import H100, FarmDouble
from tests.enginefarm.pulling import BIG, FILES, held, pull_elsewhere
from tests.enginefarm.store_double import (
    StoreDouble,
)


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
        others = [pull_elsewhere(double, engine, place) for _ in range(2)]
        told: list[Progress] = []
        threads = [
            threading.Thread(target=pull, args=(farm, engine, place), kwargs={"progress": told.append})
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [other.wait(timeout=120) for other in others] == [0, 0]
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

    def test_no_room(self, farm: Farm, double: FarmDouble, store: StoreDouble, place: Path) -> None:
        engine = double.list_engine("ab" * 32, [FileEntry(path="a", digest=digest.of_bytes(b""), size=1 << 52)])

        with pytest.raises(CallerError, match=f"{1 << 52} bytes are still to be fetched"):
            pull(farm, engine, place)

        assert store.asked == []

    def test_an_engine_without_files(self, farm: Farm, double: FarmDouble, place: Path) -> None:
        engine = double.list_engine("ab" * 32, [])

        assert list(pull(farm, engine, place).iterdir()) == []
        assert engine.manifest == Manifest.of([]).digest
