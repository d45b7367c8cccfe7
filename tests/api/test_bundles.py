"""An engine moves from farm to farm in a bundle: it is served there as here, or nothing of it is seen."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from click.testing import CliRunner

from enginefarm.bundle.archive import Bundle
from enginefarm.bundle.export import export
from enginefarm.bundle.import_bundle import import_bundle
from enginefarm.cli import main
from enginefarm.client.farm import Farm
from enginefarm.contract.digest import of_bytes
from enginefarm.contract.errors import Conflict, Gone, IntegrityError, InvalidRequest, NotFound
from enginefarm.transfer.progress import Activity, Progress
from enginefarm.transfer.pull import pull
from enginefarm.trust.attestation import Statement, TrustedKeys, pem
from enginefarm.trust.signature_policy import require_signed
from enginefarm.wire.bodies import BuildState, Disposition
from enginefarm.wire.engine_record import EngineRecord
from models.security.signing_key import SigningKey, create
from models.store import DirectoryStore
from models.store.protocol import blob_name
from tests.api.bundles import Site, build_at, site
from tests.models.store.blobs import put_bytes
from tests.servers.proxy import Proxy
from tests.servers.redis import Valkey
from tests.servers.s3 import Swift

MIB = 1 << 20
SHARED = b"tokenizer" * 5000
FIRST = {"config.json": b"{}", "rank0.engine": bytes(range(256)) * (10 * MIB // 256) + b"!", "tokenizer.json": SHARED}
SECOND = {"config.json": b"[]", "rank0.engine": b"second" * 100_000, "tokenizer.json": SHARED}


def specs(models: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    spec: dict[str, Any] = {
        "model": f"file:{models / 'tiny'}",
        "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_input_len": 64, "max_output_len": 64},
        "platform": {"arch": "x86_64", "cpu_isa": "x86-64-v3"},
    }
    return spec, spec | {"limits": {"max_input_len": 128, "max_output_len": 64}}


@pytest.fixture(scope="module")
def there(valkey: Valkey, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The farm that builds: two engines that share a file."""
    folder = tmp_path_factory.mktemp("there")
    with site(folder / "farm", BROKER_URL=valkey.url, MODEL_ROOTS=str(models)) as made:
        for number, (spec, files) in enumerate(zip(specs(models), (FIRST, SECOND), strict=True)):
            build_at(made, spec, files, folder / str(number))
        yield made


@pytest.fixture(scope="module")
def bundle(there: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "bundle.tar"
    return export(there.farm, [there.farm.engine(found.key) for found in there.farm.engines()], path)


@pytest.fixture
def here(valkey: Valkey, models: Path, tmp_path: Path) -> Iterator[Site]:
    """The farm that no network reaches. SQLite and a folder."""
    with site(tmp_path / "here", BROKER_URL=valkey.url, MODEL_ROOTS=str(models)) as made:
        yield made


@pytest.fixture
def s3_here(valkey: Valkey, models: Path, postgres_url: str, s3_server: Swift, tmp_path: Path) -> Iterator[Site]:
    """The same on PostgreSQL and S3."""
    settings: dict[str, Any] = {
        "DATABASE_URL": postgres_url, "STORE_URL": f"s3://moved-{secrets.token_hex(4)}/x",
        "S3_ENDPOINT": f"http://{s3_server.endpoint}", "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
    }  # fmt: skip
    with site(tmp_path / "here", BROKER_URL=valkey.url, MODEL_ROOTS=str(models), **settings) as made:
        yield made


def trusted(place: Site) -> TrustedKeys:
    return TrustedKeys.of_files([place.public_key])


def imported(here: Site, there: Site, path: Path) -> list[str]:
    with Bundle(path) as opened:
        return [arrived.outcome for arrived in import_bundle(here.farm, opened, trusted(there))]


def records(path: Path) -> dict[str, EngineRecord]:
    with Bundle(path) as opened:
        return {record.key: record for record in opened.records}


@pytest.mark.parametrize("place", ["here", "s3_here"])
def test_a_bundle_is_served_by_the_importing_farm_as_by_the_exporting_farm(
    there: Site, bundle: Path, models: Path, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    here: Site = request.getfixturevalue(place)
    spec, other = specs(models)
    waits = here.farm.submit(other)
    assert waits.disposition is Disposition.CREATED

    assert imported(here, there, bundle) == ["imported", "imported"]

    assert here.farm.build(waits.id).state is BuildState.SUCCEEDED
    asked = here.farm.submit(spec)
    assert asked.disposition is Disposition.CACHED
    assert here.farm.resolve(spec).engine.key == here.farm.explain(spec).key == asked.key
    assert list(here.farm.logs(waits.id)) == []  # it stays where it was written
    engine = here.farm.engine(asked.key)
    for site_ in (there, here):  # the original signature, and this farm's own
        require_signed(here.farm, engine, [site_.public_key])
    original, now = there.farm.attestation(asked.key), here.farm.attestation(asked.key)
    assert now["payload"] == original["payload"]
    assert now["signatures"][:1] == original["signatures"]  # type: ignore[index]
    pulled = pull(here.farm, engine, tmp_path / "pulled", any_platform=True)
    assert {path.name: path.read_bytes() for path in pulled.iterdir()} == FIRST
    assert not here.farm.repair(asked.key).damaged
    here.require_promises()

    before = [engine.model_dump() for engine in here.farm.engines()]
    assert imported(here, there, bundle) == ["there", "there"]
    assert [engine.model_dump() for engine in here.farm.engines()] == before
    again = export(here.farm, [here.farm.engine(found.key) for found in here.farm.engines()], tmp_path / "again.tar")
    assert {key: record.manifest for key, record in records(again).items()} == {
        key: record.manifest for key, record in records(bundle).items()
    }


DYING = """
import os, signal, sys
from pathlib import Path
from enginefarm.bundle.archive import Bundle
from enginefarm.bundle.import_bundle import import_bundle
from enginefarm.client.farm import Farm
from enginefarm.trust.attestation import TrustedKeys
from tests.models.store.blobs import put_bytes

def die(progress):
    if progress.done > 8 << 20:
        os.kill(os.getpid(), signal.SIGKILL)

url, bundle, key = sys.argv[1:]
with Farm(url) as farm, Bundle(Path(bundle)) as opened:
    list(import_bundle(farm, opened, TrustedKeys.of_files([Path(key)]), progress=die))
"""


@pytest.mark.parametrize("place", ["here", "s3_here"])
def test_an_import_that_was_killed_is_repeated(
    there: Site, bundle: Path, request: pytest.FixtureRequest, place: str
) -> None:
    here: Site = request.getfixturevalue(place)
    argv = [sys.executable, "-c", DYING, here.farm.url, str(bundle), str(there.public_key)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    for found in there.farm.engines():
        if of_bytes(FIRST["rank0.engine"]) in records(bundle)[found.key].sizes:
            with pytest.raises(NotFound):
                here.farm.engine(found.key)
    here.require_promises()
    before = here.blobs()
    assert set(imported(here, there, bundle)) <= {"imported", "there"}
    assert before <= here.blobs() == {digest for record in records(bundle).values() for digest in record.sizes}
    here.require_promises()


def test_a_blob_upload_that_was_cut_is_repeated(there: Site, here: Site, bundle: Path) -> None:
    passed = 0
    cuts: list[int] = []

    def cut(piece: bytes) -> bytes:
        nonlocal passed
        passed += len(piece)
        if passed > (len(cuts) + 1) * 4 * MIB and len(cuts) < 2:
            cuts.append(passed)
            raise ConnectionResetError
        return piece

    port = urlsplit(here.farm.url).port
    assert port is not None
    with Proxy(port, alter=cut) as proxy, Farm(f"http://127.0.0.1:{proxy.port}") as client, Bundle(bundle) as opened:
        arrived = list(import_bundle(client, opened, trusted(there)))
    assert ([found.outcome for found in arrived], len(cuts)) == (["imported", "imported"], 2)
    for digest, size in {d: s for record in records(bundle).values() for d, s in record.sizes.items()}.items():
        here.store.verify(digest, size)


def test_a_blob_that_the_farm_has_is_not_sent_again(there: Site, here: Site, bundle: Path) -> None:
    assert isinstance(here.store, DirectoryStore)
    put_bytes(here.store, FIRST["rank0.engine"])
    place = here.folder / "store" / blob_name(of_bytes(FIRST["rank0.engine"]))
    written = place.stat().st_ino
    imported(here, there, bundle)
    assert place.stat().st_ino == written


def test_a_farm_keeps_its_own_engine_over_an_imported_one(
    there: Site, here: Site, bundle: Path, models: Path, tmp_path: Path
) -> None:
    own = build_at(here, specs(models)[0], {"rank0.engine": b"built here"}, tmp_path / "own")
    manifest = here.farm.engine(own.key).manifest
    assert sorted(imported(here, there, bundle)) == ["imported", "kept"]
    assert here.farm.engine(own.key).manifest == manifest
    assert of_bytes(FIRST["rank0.engine"]) not in here.blobs()


def test_an_import_replaces_damaged_blobs(there: Site, here: Site, bundle: Path) -> None:
    imported(here, there, bundle)
    (here.folder / "store" / blob_name(of_bytes(SHARED))).write_bytes(b"?" * len(SHARED))
    keys = [found.key for found in here.farm.engines()]
    assert sorted(here.farm.repair(keys[0]).taken_out.engines) == sorted(keys)
    with pytest.raises(Gone, match="damaged"):
        here.farm.engine(keys[0])
    assert imported(here, there, bundle) == ["imported", "imported"]
    assert not here.farm.repair(keys[0]).damaged
    here.require_promises()


def test_a_recall_by_signing_key_lists_engines_that_cannot_be_rebuilt(there: Site, here: Site, bundle: Path) -> None:
    imported(here, there, bundle)
    (key, *_) = there.farm.signing_keys()
    taken = here.farm.recall({"worker": f"import-{key.id[:12]}", "reason": "stolen", "rebuild": True})
    assert sorted(taken.not_rebuilt) == sorted(taken.engines) == sorted(records(bundle))
    with pytest.raises(Conflict, match="was recalled \\(stolen\\)"):
        imported(here, there, bundle)


def test_a_bundle_signed_by_an_untrusted_key_is_refused_and_nothing_is_sent(
    here: Site, bundle: Path, tmp_path: Path
) -> None:
    stranger = TrustedKeys.of_pems([pem(create(tmp_path / "stranger.pem").public)])
    with Bundle(bundle) as opened, pytest.raises(IntegrityError, match="no good signature by a trusted key"):
        list(import_bundle(here.farm, opened, stranger))
    assert here.blobs() == set()
    record = next(iter(records(bundle).values()))
    with pytest.raises(InvalidRequest, match="no good signature by a trusted key"):
        here.farm.import_engine(record, stranger.pems)


def test_wrong_bytes_in_a_bundle_are_refused(there: Site, here: Site, bundle: Path, tmp_path: Path) -> None:
    data = bytearray(bundle.read_bytes())
    position = data.index(FIRST["rank0.engine"][:MIB]) + 5 * MIB
    data[position] ^= 1
    (tmp_path / "changed.tar").write_bytes(data)
    with pytest.raises(IntegrityError, match="expected sha256"):
        imported(here, there, tmp_path / "changed.tar")
    assert of_bytes(FIRST["rank0.engine"]) not in here.blobs()
    here.require_promises()


def forged(there: Site, record: EngineRecord, **changes: Any) -> EngineRecord:
    """`record` with another predicate, signed with the farm's own key."""
    with Farm(there.farm.url) as client:
        statement = json.loads(b64decode(str(client.attestation(record.key)["payload"])))
    definition = statement["predicate"]["buildDefinition"]
    for field, value in changes.items():
        match field:
            case "document":
                definition["internalParameters"]["document"] |= value
            case "platform":
                definition["internalParameters"]["platform"] = value
            case "build_type":
                definition["buildType"] = value
            case "predicate":
                statement["predicate"] = value
    signed = SigningKey.of_file(there.folder / "signing.pem").sign(Statement.model_validate(statement))
    return record.model_copy(update={"attestation": signed})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"document": {"limits": {}}}, "the signed build document hashes to"),
        (
            {"document": {"document": "enginefarm.build/2"}},
            r"document is 'enginefarm.build/2'.*another version: upgrade",
        ),
        ({"build_type": "urn:other"}, "buildType is 'urn:other'"),
        ({"platform": {"arch": 3}}, "platform"),
        ({"predicate": {}}, "buildDefinition"),
    ],
)
def test_a_record_with_a_malformed_statement_is_refused(
    there: Site, here: Site, bundle: Path, changes: dict[str, Any], says: str
) -> None:
    record = forged(there, next(iter(records(bundle).values())), **changes)
    with pytest.raises((InvalidRequest, IntegrityError), match=says):
        here.farm.import_engine(record, trusted(there).pems)
    assert list(here.farm.engines()) == []


def test_a_record_that_differs_from_its_signed_statement_is_refused(there: Site, here: Site, bundle: Path) -> None:
    one, other = records(bundle).values()
    changed: dict[str, dict[str, Any]] = {
        "checkpoint_document hashes to": {"checkpoint_document": {**one.checkpoint_document, "options": {"a": 1}}},
        "not those that its farm signed": {"manifest": other.manifest},
        "is about": {"key": other.key},
        "no good signature": {"attestation": {**one.attestation, "payload": other.attestation["payload"]}},
    }
    for says, update in changed.items():
        with pytest.raises(InvalidRequest, match=says):
            here.farm.import_engine(one.model_copy(update=update), trusted(there).pems)
    with pytest.raises(Conflict, match=r"is not in the store any more; send its blobs again"):
        here.farm.import_engine(one, trusted(there).pems)
    assert list(here.farm.engines()) == []
    here.require_promises()


@pytest.mark.parametrize("place", ["here", "s3_here"])
def test_a_blob_whose_bytes_have_another_digest_is_refused(request: pytest.FixtureRequest, place: str) -> None:
    here: Site = request.getfixturevalue(place)
    for data in (b"small", bytes(9 * MIB)):
        digest = of_bytes(data)
        url = f"{here.farm.url}/v1/blobs/{digest}"
        for wrong in (data[:-1], data + b"x", data[:-1] + b"?", b""):
            answer = httpx.put(url, content=wrong, timeout=60)
            assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
            assert digest in answer.json()["detail"]
        unsized = httpx.put(url, content=iter([data]), timeout=60)
        assert unsized.status_code == 400
        assert "content-length" in unsized.json()["detail"]
        assert here.farm.missing_blobs({digest: len(data)}) == [digest]
        assert httpx.put(url, content=data, timeout=60).status_code == 204
        assert httpx.put(url, content=data[:-1] + b"?", timeout=60).status_code == 400  # nor is it written over
        assert httpx.put(url, content=data, timeout=60).status_code == 204
        assert here.farm.missing_blobs({digest: len(data)}) == []
        here.store.verify(digest, len(data))
    assert here.blobs() == {of_bytes(b"small"), of_bytes(bytes(9 * MIB))}
    assert httpx.put(f"{here.farm.url}/v1/blobs/sha256:x", content=b"").status_code in {400, 422}


class Interrupted(Exception):
    pass


def test_an_interrupted_export_leaves_no_bundle_and_can_be_resumed(there: Site, bundle: Path, tmp_path: Path) -> None:
    engines = [there.farm.engine(found.key) for found in there.farm.engines()]

    def interrupt(progress: Progress) -> None:
        if progress.activity is Activity.WRITING and progress.done > MIB:
            raise Interrupted

    with pytest.raises(Interrupted):
        export(there.farm, engines, tmp_path / "bundle.tar", progress=interrupt)
    assert [path.name for path in tmp_path.glob("*bundle.tar")] == []
    fetched: list[int] = []
    export(
        there.farm, engines[::-1], tmp_path / "bundle.tar",
        progress=lambda progress: fetched.append(progress.done) if progress.activity is Activity.FETCHING else None,
    )  # fmt: skip
    assert fetched == []
    assert (tmp_path / "bundle.tar").read_bytes() == bundle.read_bytes()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    with pytest.raises(Conflict, match="exists: name another file"):
        export(there.farm, engines, tmp_path / "bundle.tar")


def test_a_farm_that_does_not_sign_exports_nothing(valkey: Valkey, models: Path, tmp_path: Path) -> None:
    settings = {"BROKER_URL": valkey.url, "MODEL_ROOTS": str(models)}
    with site(tmp_path / "unsigned", signs=False, **settings) as unsigned:
        made = build_at(unsigned, specs(models)[0], {"a": b"a"}, tmp_path / "made")
        with pytest.raises(NotFound, match="does not sign"):
            export(unsigned.farm, [unsigned.farm.engine(made.key)], tmp_path / "bundle.tar")


def test_the_export_and_import_commands_move_engines(there: Site, here: Site, tmp_path: Path) -> None:
    keys = sorted(found.key for found in there.farm.engines())

    def run(place: Site, *argv: str) -> Any:
        return CliRunner().invoke(main, argv, env={"ENGINEFARM_URL": place.farm.url, "ENGINEFARM_API_KEY": ""})

    target = str(tmp_path / "bundle.tar")
    exported = run(there, "export", *keys, "-o", target, "--json")
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.stdout)["keys"] == keys
    nobody = run(here, "import", target)
    assert (nobody.exit_code, "name the key that must have signed the engines: --trusted-key" in nobody.stderr) == (
        2,
        True,
    )
    stranger = run(here, "import", target, "--trusted-key", str(here.public_key))
    assert (stranger.exit_code, "no good signature" in stranger.stderr) == (6, True)
    done = run(here, "import", target, "--trusted-key", str(there.public_key))
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [f"engine {key[:12]} is imported" for key in keys]
    again = run(here, "import", target, "--trusted-key", str(there.public_key), "--json")
    assert [item["outcome"] for item in json.loads(again.stdout)["items"]] == ["there", "there"]
