"""Move engines between farms in a bundle: an import serves the whole engine, or none of it is visible."""

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
from enginefarm.transfer.seen_revocations import SeenRevocations
from enginefarm.trust.attestation import Statement, TrustedKeys, pem
from enginefarm.trust.signature_policy import SignaturePolicy
from enginefarm.wire.bodies import BuildState, Disposition
from enginefarm.wire.engine_record import EngineRecord
from models.security.api_keys import Scope
from models.security.api_keys import create as create_api_key
from models.security.signing_key import SigningKey, create
from models.store import DirectoryStore
from models.store.protocol import blob_name
from tests.api.bundles import Site, build_at, site
from tests.farm.running_farm import eventually
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
def exporter(valkey: Valkey, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The farm that exports: it built two engines that share a file."""
    folder = tmp_path_factory.mktemp("there")
    with site(folder / "farm", BROKER_URL=valkey.url, MODEL_ROOTS=str(models)) as new_farm:
        for number, (spec, files) in enumerate(zip(specs(models), (FIRST, SECOND), strict=True)):
            build_at(new_farm, spec, files, folder / str(number))
        yield new_farm


@pytest.fixture(scope="module")
def bundle(exporter: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "bundle.tar"
    return export(exporter.farm, [exporter.farm.engine(engine.key) for engine in exporter.farm.engines()], path)


@pytest.fixture
def importer(exporter: Site, valkey: Valkey, models: Path, tmp_path: Path) -> Iterator[Site]:
    """The farm that imports what the exporter signed, on SQLite and a directory store."""
    settings: dict[str, Any] = {"MODEL_ROOTS": str(models), "IMPORT_TRUSTED_KEYS": str(exporter.public_key)}
    with site(tmp_path / "here", BROKER_URL=valkey.url, **settings) as new_farm:
        yield new_farm


@pytest.fixture
def s3_importer(
    exporter: Site, valkey: Valkey, models: Path, postgres_url: str, s3_server: Swift, tmp_path: Path
) -> Iterator[Site]:
    """The farm that imports what the exporter signed, on PostgreSQL and S3."""
    settings: dict[str, Any] = {
        "IMPORT_TRUSTED_KEYS": str(exporter.public_key),
        "DATABASE_URL": postgres_url, "STORE_URL": f"s3://moved-{secrets.token_hex(4)}/x",
        "S3_ENDPOINT": f"http://{s3_server.endpoint}", "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
    }  # fmt: skip
    with site(tmp_path / "here", BROKER_URL=valkey.url, MODEL_ROOTS=str(models), **settings) as new_farm:
        yield new_farm


def trusted(place: Site) -> TrustedKeys:
    return TrustedKeys.of_files([place.public_key])


def imported(importer: Site, exporter: Site, path: Path) -> list[str]:
    with Bundle(path) as opened:
        return [arrived.outcome for arrived in import_bundle(importer.farm, opened, trusted(exporter))]


def records(path: Path) -> dict[str, EngineRecord]:
    with Bundle(path) as opened:
        return {record.key: record for record in opened.records}


@pytest.mark.parametrize("place", ["importer", "s3_importer"])
def test_a_bundle_is_served_by_the_importing_farm_as_by_the_exporting_farm(
    exporter: Site, bundle: Path, models: Path, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    importer: Site = request.getfixturevalue(place)
    spec, other = specs(models)
    waits = importer.farm.submit(other)
    assert waits.disposition is Disposition.CREATED

    assert imported(importer, exporter, bundle) == ["imported", "imported"]

    assert importer.farm.build(waits.id).state is BuildState.SUCCEEDED
    asked = importer.farm.submit(spec)
    assert asked.disposition is Disposition.CACHED
    assert importer.farm.resolve(spec).engine.key == importer.farm.explain(spec).key == asked.key
    assert list(importer.farm.logs(waits.id)) == []  # it stays where it was written
    engine = importer.farm.engine(asked.key)
    for site_ in (exporter, importer):  # by the original signature, and by this farm's summary of its verification
        SignaturePolicy([site_.public_key], SeenRevocations(tmp_path / "seen")).require(importer.farm, engine)
    assert importer.farm.attestation(asked.key) == exporter.farm.attestation(asked.key)
    assert exporter.farm.verification_summary(asked.key) is None
    pulled = pull(importer.farm, engine, tmp_path / "pulled", any_platform=True)
    assert {path.name: path.read_bytes() for path in pulled.iterdir()} == FIRST
    assert not importer.farm.repair(asked.key).damaged
    importer.require_promises()

    before = [engine.model_dump() for engine in importer.farm.engines()]
    assert imported(importer, exporter, bundle) == ["there", "there"]
    assert [engine.model_dump() for engine in importer.farm.engines()] == before
    again = export(
        importer.farm, [importer.farm.engine(engine.key) for engine in importer.farm.engines()], tmp_path / "again.tar"
    )
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
from tests.farm.running_farm import eventually
from tests.models.store.blobs import put_bytes

def die(progress):
    if progress.done > 8 << 20:
        os.kill(os.getpid(), signal.SIGKILL)

url, bundle, key = sys.argv[1:]
with Farm(url) as farm, Bundle(Path(bundle)) as opened:
    list(import_bundle(farm, opened, TrustedKeys.of_files([Path(key)]), progress=die))
"""


@pytest.mark.parametrize("place", ["importer", "s3_importer"])
def test_an_import_that_was_killed_is_repeated(
    exporter: Site, bundle: Path, request: pytest.FixtureRequest, place: str
) -> None:
    importer: Site = request.getfixturevalue(place)
    argv = [sys.executable, "-c", DYING, importer.farm.url, str(bundle), str(exporter.public_key)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    for engine in exporter.farm.engines():
        if of_bytes(FIRST["rank0.engine"]) in records(bundle)[engine.key].sizes:
            with pytest.raises(NotFound):
                importer.farm.engine(engine.key)
    importer.require_promises()
    before = importer.blobs()
    assert set(imported(importer, exporter, bundle)) <= {"imported", "there"}
    assert before <= importer.blobs() == {digest for record in records(bundle).values() for digest in record.sizes}
    importer.require_promises()


def test_a_blob_upload_that_was_cut_is_repeated(exporter: Site, importer: Site, bundle: Path) -> None:
    passed = 0
    cuts: list[int] = []

    def cut(piece: bytes) -> bytes:
        nonlocal passed
        passed += len(piece)
        if passed > (len(cuts) + 1) * 4 * MIB and len(cuts) < 2:
            cuts.append(passed)
            raise ConnectionResetError
        return piece

    port = urlsplit(importer.farm.url).port
    assert port is not None
    with importer.database.write() as session:  # without a key, a farm answers under its own address only
        api_key = create_api_key(session, "carrier", [Scope.ADMIN])
    # It closes within a second; until then it refuses another port with a key, too.
    eventually(lambda: httpx.get(f"{importer.farm.url}/v1/engines").status_code == 401, seconds=10)
    with (
        Proxy(port, alter=cut) as proxy,
        Farm(f"http://127.0.0.1:{proxy.port}", api_key) as client,
        Bundle(bundle) as opened,
    ):
        arrived = list(import_bundle(client, opened, trusted(exporter)))
    assert ([result.outcome for result in arrived], len(cuts)) == (["imported", "imported"], 2)
    for digest, size in {d: s for record in records(bundle).values() for d, s in record.sizes.items()}.items():
        importer.store.verify(digest, size)


def test_a_blob_that_the_farm_has_is_not_sent_again(exporter: Site, importer: Site, bundle: Path) -> None:
    assert isinstance(importer.store, DirectoryStore)
    put_bytes(importer.store, FIRST["rank0.engine"])
    place = importer.folder / "store" / blob_name(of_bytes(FIRST["rank0.engine"]))
    written = place.stat().st_ino
    imported(importer, exporter, bundle)
    assert place.stat().st_ino == written


def test_a_farm_keeps_its_own_engine_over_an_imported_one(
    exporter: Site, importer: Site, bundle: Path, models: Path, tmp_path: Path
) -> None:
    own = build_at(importer, specs(models)[0], {"rank0.engine": b"built here"}, tmp_path / "own")
    manifest = importer.farm.engine(own.key).manifest
    assert sorted(imported(importer, exporter, bundle)) == ["imported", "kept"]
    assert importer.farm.engine(own.key).manifest == manifest
    assert of_bytes(FIRST["rank0.engine"]) not in importer.blobs()


def test_an_import_replaces_damaged_blobs(exporter: Site, importer: Site, bundle: Path) -> None:
    imported(importer, exporter, bundle)
    (importer.folder / "store" / blob_name(of_bytes(SHARED))).write_bytes(b"?" * len(SHARED))
    keys = [engine.key for engine in importer.farm.engines()]
    assert sorted(importer.farm.repair(keys[0]).taken_out.engines) == sorted(keys)
    with pytest.raises(Gone, match="damaged"):
        importer.farm.engine(keys[0])
    assert imported(importer, exporter, bundle) == ["imported", "imported"]
    assert not importer.farm.repair(keys[0]).damaged
    importer.require_promises()


def test_a_recall_by_signing_key_lists_engines_that_cannot_be_rebuilt(
    exporter: Site, importer: Site, bundle: Path
) -> None:
    imported(importer, exporter, bundle)
    (key, *_) = exporter.farm.signing_keys()
    withdrawn = importer.farm.recall({"worker": f"import-{key.id[:12]}", "reason": "stolen", "rebuild": True})
    assert sorted(withdrawn.not_rebuilt) == sorted(withdrawn.engines) == sorted(records(bundle))
    with pytest.raises(Conflict, match="was recalled \\(stolen\\)"):
        imported(importer, exporter, bundle)


def test_a_bundle_signed_by_an_untrusted_key_is_refused_and_nothing_is_sent(
    importer: Site, bundle: Path, tmp_path: Path
) -> None:
    stranger = TrustedKeys.of_pems([pem(create(tmp_path / "stranger.pem").public)])
    with Bundle(bundle) as opened, pytest.raises(IntegrityError, match="no good signature by a trusted key"):
        list(import_bundle(importer.farm, opened, stranger))
    assert importer.blobs() == set()
    record = next(iter(records(bundle).values()))
    with pytest.raises(InvalidRequest, match=r"trusted_keys names only .* this farm imports what these keys signed"):
        importer.farm.import_engine(record, stranger.pems)


def test_wrong_bytes_in_a_bundle_are_refused(exporter: Site, importer: Site, bundle: Path, tmp_path: Path) -> None:
    content = bytearray(bundle.read_bytes())
    position = content.index(FIRST["rank0.engine"][:MIB]) + 5 * MIB
    content[position] ^= 1
    (tmp_path / "changed.tar").write_bytes(content)
    with pytest.raises(IntegrityError, match="expected sha256"):
        imported(importer, exporter, tmp_path / "changed.tar")
    assert of_bytes(FIRST["rank0.engine"]) not in importer.blobs()
    importer.require_promises()


def forged(exporter: Site, record: EngineRecord, **changes: Any) -> EngineRecord:
    """`record` with another predicate, signed with the farm's own key."""
    with Farm(exporter.farm.url) as client:
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
    signed = SigningKey.of_file(exporter.folder / "signing.pem").sign(Statement.model_validate(statement))
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
    exporter: Site, importer: Site, bundle: Path, changes: dict[str, Any], says: str
) -> None:
    record = forged(exporter, next(iter(records(bundle).values())), **changes)
    with pytest.raises((InvalidRequest, IntegrityError), match=says):
        importer.farm.import_engine(record, trusted(exporter).pems)
    assert list(importer.farm.engines()) == []


def test_a_record_that_differs_from_its_signed_statement_is_refused(
    exporter: Site, importer: Site, bundle: Path
) -> None:
    one, other = records(bundle).values()
    changed: dict[str, dict[str, Any]] = {
        "checkpoint_document hashes to": {"checkpoint_document": {**one.checkpoint_document, "options": {"a": 1}}},
        "not those that its farm signed": {"manifest": other.manifest},
        "is about": {"key": other.key},
        "no good signature": {"attestation": {**one.attestation, "payload": other.attestation["payload"]}},
    }
    for says, update in changed.items():
        with pytest.raises(InvalidRequest, match=says):
            importer.farm.import_engine(one.model_copy(update=update), trusted(exporter).pems)
    with pytest.raises(Conflict, match=r"is not in the store any more; send its blobs again"):
        importer.farm.import_engine(one, trusted(exporter).pems)
    assert list(importer.farm.engines()) == []
    importer.require_promises()


@pytest.mark.parametrize("place", ["importer", "s3_importer"])
def test_a_blob_whose_bytes_have_another_digest_is_refused(request: pytest.FixtureRequest, place: str) -> None:
    importer: Site = request.getfixturevalue(place)
    for content in (b"small", bytes(9 * MIB)):
        digest = of_bytes(content)
        url = f"{importer.farm.url}/v1/blobs/{digest}"
        for wrong in (content[:-1], content + b"x", content[:-1] + b"?", b""):
            answer = httpx.put(url, content=wrong, timeout=60)
            assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
            assert digest in answer.json()["detail"]
        unsized = httpx.put(url, content=iter([content]), timeout=60)
        assert unsized.status_code == 400
        assert "content-length" in unsized.json()["detail"]
        assert importer.farm.missing_blobs({digest: len(content)}) == [digest]
        assert httpx.put(url, content=content, timeout=60).status_code == 204
        assert httpx.put(url, content=content[:-1] + b"?", timeout=60).status_code == 400  # nor is it written over
        assert httpx.put(url, content=content, timeout=60).status_code == 204
        assert importer.farm.missing_blobs({digest: len(content)}) == []
        importer.store.verify(digest, len(content))
    assert importer.blobs() == {of_bytes(b"small"), of_bytes(bytes(9 * MIB))}
    assert httpx.put(f"{importer.farm.url}/v1/blobs/sha256:x", content=b"").status_code in {400, 422}


class Interrupted(Exception):
    pass


def test_an_interrupted_export_leaves_no_bundle_and_can_be_resumed(
    exporter: Site, bundle: Path, tmp_path: Path
) -> None:
    engines = [exporter.farm.engine(engine.key) for engine in exporter.farm.engines()]

    def interrupt(progress: Progress) -> None:
        if progress.activity is Activity.WRITING and progress.done > MIB:
            raise Interrupted

    with pytest.raises(Interrupted):
        export(exporter.farm, engines, tmp_path / "bundle.tar", progress=interrupt)
    assert [path.name for path in tmp_path.glob("*bundle.tar")] == []
    fetched: list[int] = []
    export(
        exporter.farm, engines[::-1], tmp_path / "bundle.tar",
        progress=lambda progress: fetched.append(progress.done) if progress.activity is Activity.FETCHING else None,
    )  # fmt: skip
    assert fetched == []
    assert (tmp_path / "bundle.tar").read_bytes() == bundle.read_bytes()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    with pytest.raises(Conflict, match="exists: name another file"):
        export(exporter.farm, engines, tmp_path / "bundle.tar")


def test_a_farm_that_does_not_sign_exports_nothing(valkey: Valkey, models: Path, tmp_path: Path) -> None:
    settings = {"BROKER_URL": valkey.url, "MODEL_ROOTS": str(models)}
    with site(tmp_path / "unsigned", signs=False, **settings) as unsigned:
        new_farm = build_at(unsigned, specs(models)[0], {"a": b"a"}, tmp_path / "made")
        with pytest.raises(NotFound, match="does not sign"):
            export(unsigned.farm, [unsigned.farm.engine(new_farm.key)], tmp_path / "bundle.tar")


def test_the_export_and_import_commands_move_engines(exporter: Site, importer: Site, tmp_path: Path) -> None:
    keys = sorted(engine.key for engine in exporter.farm.engines())

    def run(place: Site, *argv: str) -> Any:
        return CliRunner().invoke(main, argv, env={"ENGINEFARM_URL": place.farm.url, "ENGINEFARM_API_KEY": ""})

    target = str(tmp_path / "bundle.tar")
    exported = run(exporter, "export", *keys, "-o", target, "--json")
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.stdout)["keys"] == keys
    nobody = run(importer, "import", target)
    assert (nobody.exit_code, "name the key that must have signed the engines: --trusted-key" in nobody.stderr) == (
        2,
        True,
    )
    stranger = run(importer, "import", target, "--trusted-key", str(importer.public_key))
    assert (stranger.exit_code, "no good signature" in stranger.stderr) == (6, True)
    result = run(importer, "import", target, "--trusted-key", str(exporter.public_key))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"engine {key[:12]} is imported" for key in keys]
    again = run(importer, "import", target, "--trusted-key", str(exporter.public_key), "--json")
    assert [item["outcome"] for item in json.loads(again.stdout)["items"]] == ["there", "there"]
