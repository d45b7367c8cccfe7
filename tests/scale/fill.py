"""Fill a catalogue on PostgreSQL: copy rows that the farm itself wrote, by INSERT … SELECT with generate_series.

The template is one build that ended with an engine. Its copies have keys, models, requesters and times of their own and
equal documents otherwise. The actions of a few queues are queued, one a worker is running.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import Connection, text

from models.catalogue.rows import (
    ActionRow,
    AttemptRow,
    BlobRow,
    BuildRow,
    CheckpointRow,
    EngineRow,
    ManifestFileRow,
    ManifestRow,
    Row,
    WorkerRow,
)

COMMON_MODEL = "hf:bench/common"  # a twentieth of all engines
RARE_MODEL = "hf:bench/m1"
REQUESTER = "user1"  # of a fifth of all builds
RARE_REQUESTER = "rare"  # of the oldest builds
_ENGINES_A_CHECKPOINT = 8
QUEUE = "build.quick.1.0.bench"  # what the names of the queues begin with
_QUEUES = 50
_WORKERS = 200
_INPUTS = 41  # different ones of the queued actions, in each queue


@dataclass(frozen=True)
class Size:
    """How many rows the catalogue has: engines, builds that ended, and build actions that wait in queues."""

    engines: int
    builds: int
    queued: int


@dataclass(frozen=True)
class Template:
    """The build that is copied: the keys of its actions, its id, and the worker that ran it."""

    convert: str
    build: str
    build_id: str
    worker: str


def fill(connection: Connection, template: Template, size: Size) -> None:
    """Copy the template's rows until the catalogue has `size` more, and let PostgreSQL collect its statistics.

    The connection must be a superuser's and in AUTOCOMMIT.
    """
    # Without the checks of foreign keys, which take most of the time: the copies refer to each other by construction.
    connection.execute(text("SET session_replication_role = replica"))
    # An index is built in a fraction of the time that rows in random order need to enter it.
    indexes = connection.execute(
        text(
            "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index "
            "WHERE indrelid IN (SELECT relid FROM pg_stat_user_tables) AND NOT indisunique"
        )
    ).all()
    for index in indexes:
        connection.exec_driver_sql(f"DROP INDEX {index.name}")
    _Copies(connection, template, size).insert()
    for index in indexes:
        connection.exec_driver_sql(index.definition)
    connection.execute(text("SET session_replication_role = DEFAULT"))
    # As autovacuum does after some minutes: without it an index-only scan reads the table for each row.
    connection.execute(text("VACUUM ANALYZE"))


class _Copies:
    def __init__(self, connection: Connection, template: Template, size: Size) -> None:
        self._connection = connection
        self._template = template
        self._size = size

    def insert(self) -> None:
        self._workers()
        self._published()
        # The newest builds are in flight: their rows on the first page cost the most.
        self._past_builds()
        self._in_flight()

    def _workers(self) -> None:
        self._copy(
            WorkerRow, f"id = '{self._template.worker}'", _WORKERS,
            id=_key("worker", "i", length=32), name="'worker-' || i", state="'live'",
            queues=f"to_json(ARRAY['{QUEUE}' || i % {_QUEUES}])",
        )  # fmt: skip

    def _published(self) -> None:
        """Engines with their actions, attempts, manifests and blobs; a checkpoint for every few of them."""
        engines = self._size.engines
        checkpoints = engines // _ENGINES_A_CHECKPOINT + 1
        convert, build = self._template.convert, self._template.build
        # The newest last: row i is as many seconds older as rows follow it.
        age = f"clock_timestamp() - make_interval(secs => {engines} - i + 100)"
        queue = f"'{QUEUE}' || i % {_QUEUES}"
        worker = _key("worker", f"(i % {_WORKERS} + 1)", length=32)
        manifest = f"'sha256:' || {_key('manifest', 'i')}"
        self._copy(ActionRow, f"key = '{convert}'", checkpoints, key=_key("convert", "i"), queued_at=age)
        self._copy(AttemptRow, f"action_key = '{convert}'", checkpoints, action_key=_key("convert", "i"),
                   worker_id=worker, started_at=age, ended_at=f"{age} + interval '60 s'")  # fmt: skip
        self._copy(CheckpointRow, f"key = '{convert}'", checkpoints, key=_key("convert", "i"), created_at=age)
        self._copy(ActionRow, f"key = '{build}'", engines, key=_key("build", "i"), queue=queue, queued_at=age,
                   depends_on=_key("convert", f"(i / {_ENGINES_A_CHECKPOINT} + 1)"))  # fmt: skip
        self._copy(AttemptRow, f"action_key = '{build}'", engines, action_key=_key("build", "i"), worker_id=worker,
                   started_at=age, ended_at=f"{age} + interval '90 s'")  # fmt: skip
        files = f"manifest = (SELECT manifest FROM engines WHERE key = '{build}')"
        self._copy(BlobRow, f"digest = (SELECT min(blob) FROM manifest_files WHERE {files})", engines,
                   digest=f"'sha256:' || {_key('blob', 'i')}")  # fmt: skip
        self._copy(ManifestRow, f"digest = (SELECT manifest FROM engines WHERE key = '{build}')", engines,
                   digest=manifest)  # fmt: skip
        self._copy(ManifestFileRow, files, engines, manifest=manifest, blob=f"'sha256:' || {_key('blob', 'i')}")
        # Both times of a row are equal: now() does not move on within a statement.
        age = age.replace("clock_timestamp()", "now()")
        self._copy(EngineRow, f"key = '{build}'", engines, key=_key("build", "i"), manifest=manifest, model=_MODEL,
                   created_at=age, registered_at=age, repository=_REPOSITORY,
                   oci_manifest=f"'sha256:' || {_key('oci', 'i')}", oci_config=f"'sha256:' || {_key('config', 'i')}",
                   )  # fmt: skip

    def _in_flight(self) -> None:
        """Build actions with an open build each: queued, waiting for a checkpoint, and one that runs on each worker."""
        queued = self._size.queued
        waiting = queued // 10
        build = self._template.build
        age = f"clock_timestamp() - make_interval(secs => ({queued} - i) / 1000.0)"
        queue = f"'{QUEUE}' || i % {_QUEUES}"
        worker = _key("worker", "i", length=32)
        self._copy(ActionRow, f"key = '{build}'", queued, key=_key("queued", "i"), queue=queue, state="'queued'",
                   depends_on=_key("convert", "1"), attempt="0", tries="0", queued_at=age, progress="0",
                   inputs=_key("inputs", f"i / {_QUEUES} % {_INPUTS}"))  # fmt: skip
        self._copy(ActionRow, f"key = '{build}'", _WORKERS, key=_key("running", "i"), queue=queue, state="'running'",
                   depends_on=_key("convert", "1"), worker_id=worker, attempt="1", tries="1", progress="0.05",
                   lease_expires_at="clock_timestamp() + interval '1 day'")  # fmt: skip
        self._copy(AttemptRow, f"action_key = '{build}'", _WORKERS, action_key=_key("running", "i"), number="1",
                   worker_id=worker, outcome="'running'", started_at="clock_timestamp()", ended_at="NULL")  # fmt: skip
        # Behind all conversions of this queue, which are queued, too.
        unconverted = _key("unconverted", "i")
        self._copy(ActionRow, f"key = '{self._template.convert}'", waiting, key=unconverted, queue=queue,
                   state="'queued'", attempt="0", tries="0", queued_at=age, progress="0")  # fmt: skip
        self._copy(ActionRow, f"key = '{build}'", waiting, key=_key("waiting", "i"), queue=queue, state="'waiting'",
                   depends_on=unconverted, attempt="0", tries="0", queued_at=age, progress="0")  # fmt: skip
        for kind, count in (("running", _WORKERS), ("waiting", waiting), ("queued", queued)):
            self._copy(
                BuildRow, f"id = '{self._template.build_id}'", count, seq="nextval('builds_seq_seq')",
                id=_key(kind, "i", length=20), key=_key(kind, "i"), state="'open'", disposition="'created'",
                ended_at="NULL", model=_MODEL,
            )  # fmt: skip

    def _past_builds(self) -> None:
        """Builds that ended: most found their engine, some failed."""
        builds = self._size.builds
        age = f"clock_timestamp() - make_interval(secs => {builds} - i)"
        failure = """'{"cause": "program_failed", "fault": "toolchain", "detail": "d", "advice": "a"}'::json"""
        self._copy(
            BuildRow, f"id = '{self._template.build_id}'", builds, seq="nextval('builds_seq_seq')",
            id=_key("past", "i", length=20), key=_key("build", f"(i % {self._size.engines} + 1)"),
            state="CASE WHEN i % 10 = 0 THEN 'failed' ELSE 'succeeded' END",
            failure=f"CASE WHEN i % 10 = 0 THEN {failure} END",
            disposition="CASE WHEN i % 10 = 0 THEN 'created' ELSE 'cached' END",
            requested_by="CASE WHEN i <= 60 THEN 'rare' ELSE 'user' || i % 5 END", model=_MODEL,
            created_at=age, ended_at=age,
        )  # fmt: skip

    def _copy(self, row: type[Row], template: str, count: int, **expressions: str) -> None:
        """Insert `count` copies of the row that the condition `template` selects.

        `expressions` are SQL for the columns that differ; `i` counts from 1.
        """
        columns = [column.name for column in row.__table__.columns]
        values = [expressions.get(name, f"template.{name}") for name in columns]
        statement = (
            f"INSERT INTO {row.__tablename__} ({', '.join(columns)}) "
            f"SELECT {', '.join(values)} FROM (SELECT * FROM {row.__tablename__} WHERE {template}) template, "
            f"generate_series(1, {count}) i"
        )
        self._connection.exec_driver_sql(statement.replace("%", "%%"))


def held_inputs(count: int) -> list[str]:
    """Inputs of queued actions, for a worker that holds them: not those of the oldest action of a queue."""
    names = [f"inputs{number}" for number in range(1, count + 1)]
    return [_md5(name) + _md5(f"second {name}") for name in names]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _key(kind: str, number: str, *, length: int = 64) -> str:
    """SQL for a key as random as a SHA-256, the same for the same number."""
    return f"left(md5('{kind}' || {number}) || md5('second {kind}' || {number}), {length})"


# A twentieth of the rows has the common model, the others one of many with some twenty rows each.
_MODEL = (
    f"CASE WHEN i % 20 = 0 THEN '{COMMON_MODEL}@' || md5('common') || '00000000' "
    "ELSE 'hf:bench/m' || i / 20 || '@' || md5((i / 20)::text) || '00000000' END"
)
# As models.queries.oci.repository computes it.
_REPOSITORY = "template.toolchain || CASE WHEN i % 20 = 0 THEN '/bench/common' ELSE '/bench/m' || i / 20 END"
