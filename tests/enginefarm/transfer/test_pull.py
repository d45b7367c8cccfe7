from __future__ import annotations

import os
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
from tests.enginefarm.pulling import BIG, FILES, files_in, pull_in_subprocess
from tests.enginefarm.store_double import (
    StoreDouble,
)


@pytest.mark.parametrize("direct", [False, True], ids=["redirected", "presigned"])
def test_a_pulled_directory_has_every_byte_and_nothing_else(
    client: Farm, double: FarmDouble, destination: Path, direct: bool
) -> None:
    engine = double.publish(FILES, direct=direct)
    reports: list[Progress] = []

    assert pull(client, engine, destination, progress=reports.append) == destination

    assert files_in(destination) == FILES
    assert [p.name for p in destination.parent.iterdir()] == ["tiny"]
    assert reports[-1] == Progress(Activity.DONE, engine.size, engine.size)


class TestDestination:
    def test_an_existing_engine_is_checked_and_not_fetched_again(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = double.publish(FILES)
        pull(client, engine, destination)
        store.requests.clear()

        assert pull(client, engine, destination) == destination
        assert store.requests == []

    def test_an_existing_engine_with_a_changed_byte_is_refused(
        self, client: Farm, double: FarmDouble, destination: Path
    ) -> None:
        engine = double.publish(FILES)
        pull(client, engine, destination)
        (destination / "rank0.engine").write_bytes(b"X" + BIG[1:])

        with pytest.raises(Conflict, match="tiny exists"):
            pull(client, engine, destination)

    def test_the_root_folder_is_refused_without_a_walk_through_it(
        self, client: Farm, double: FarmDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Path] = []
        lstat = Path.lstat

        def recorded(path: Path) -> os.stat_result:
            seen.append(path)
            return lstat(path)

        monkeypatch.setattr(Path, "lstat", recorded)
        engine = double.publish(FILES)
        with pytest.raises((Conflict, PermissionError), match=r"^/ exists|Permission denied"):
            pull(client, engine, Path("/"))
        assert sum(path.is_file() for path in seen) <= 1

    @pytest.mark.parametrize("kind", ["file", "folder", "link"])
    def test_another_destination_is_refused_and_left_alone(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path, kind: str
    ) -> None:
        engine = double.publish(FILES)
        destination.parent.mkdir(parents=True)
        if kind == "file":
            destination.write_bytes(b"mine")
        else:
            destination.mkdir()
            (destination / "notes").symlink_to("elsewhere") if kind == "link" else (destination / "notes").touch()

        with pytest.raises(Conflict, match="tiny exists"):
            pull(client, engine, destination)

        assert destination.exists()
        assert store.requests == []

    def test_many_pulls_at_once_fetch_the_bytes_once(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = double.publish({"rank0.engine": BIG})
        store.pace = 0.02
        processes = [pull_in_subprocess(double, engine, destination) for _ in range(2)]
        reports: list[Progress] = []
        threads = [
            threading.Thread(target=pull, args=(client, engine, destination), kwargs={"progress": reports.append})
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [process.wait(timeout=120) for process in processes] == [0, 0]
        assert files_in(destination) == {"rank0.engine": BIG}
        assert len(store.requests) == 1
        assert Activity.WAITING in {progress.activity for progress in reports}
        assert [p.name for p in destination.parent.iterdir()] == ["tiny"]


class TestBeforeAByteMoves:
    def test_another_platform_is_refused_by_the_names_of_its_fields(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = double.publish(FILES, platform=H100)

        with pytest.raises(
            PlatformMismatch, match=r"h100-80gb-hbm3-sm90.*gpu must be NVIDIA H100 80GB HBM3, here it is"
        ):
            pull(client, engine, destination)

        assert store.requests == []
        assert not destination.parent.exists()
        assert files_in(pull(client, engine, destination, any_platform=True)) == FILES

    def test_a_manifest_with_another_digest_is_refused(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = double.publish(FILES).model_copy(update={"manifest": digest.of_bytes(b"another")})

        with pytest.raises(IntegrityError, match="manifest"):
            pull(client, engine, destination)

        assert store.requests == []
        assert not destination.parent.exists()

    def test_a_full_disk_is_noticed_before_a_byte_is_fetched(
        self, client: Farm, double: FarmDouble, store: StoreDouble, destination: Path
    ) -> None:
        engine = double.list_engine("ab" * 32, [FileEntry(path="a", digest=digest.of_bytes(b""), size=1 << 52)])

        with pytest.raises(CallerError, match=f"{1 << 52} bytes are still to be fetched"):
            pull(client, engine, destination)

        assert store.requests == []

    def test_an_engine_without_files_is_an_empty_directory(
        self, client: Farm, double: FarmDouble, destination: Path
    ) -> None:
        engine = double.list_engine("ab" * 32, [])

        assert list(pull(client, engine, destination).iterdir()) == []
        assert engine.manifest == Manifest.of([]).digest
