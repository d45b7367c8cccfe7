"""`python -m workers`: one worker. It runs one stage at a time; start one process per GPU set."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import threading
import warnings
from pathlib import Path

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from celery.worker.consumer import Consumer

from enginefarm.contract.errors import EnginefarmError
from enginefarm.node.detection import detect
from migrations.upgrade import versions
from models.catalogue.database import Database
from models.logging import start_logging
from models.opening import open_sources, open_store
from models.queue.broker import Announcer, celery_app
from models.queue.names import TASK
from models.settings import Settings
from workers.broker_watchdog import Pulse, Watch
from workers.capabilities import capabilities, queues
from workers.child import ProcessLimits
from workers.environment_hiding import hide
from workers.presence import Identity, Presence
from workers.runner import Runner
from workers.stage_run import Tools
from workers.workspace import clear

log = logging.getLogger("workers")

_LOOK_SECONDS = 0.1


def main() -> None:
    hide()
    start_logging()
    try:
        settings = Settings.from_environment()
        identity = _identity(settings)
        database = Database(settings.database_url.get_secret_value(), pool_size=4)
        _check_catalogue(database)
        _serve(settings, database, identity)
    except (ValueError, EnginefarmError) as error:
        sys.exit(f"enginefarm worker: {error}")


def _identity(settings: Settings) -> Identity:
    fingerprint = detect(prefer_gpu=settings.use_gpu)
    host = fingerprint.host.model_copy(update={"image": settings.image, "scratch_gib": _free_gib(settings.scratch)})
    found = capabilities()
    if not found:
        raise ValueError(
            "no toolchain can run here: install one (`pip install .[server,aoti]`), see docs/operations.md"
        )
    return Identity(
        id=secrets.token_hex(8),
        name=settings.worker_name or fingerprint.host.name,
        fingerprint=fingerprint.model_copy(update={"host": host}),
        capabilities=found,
        queues=queues(found, fingerprint, settings.driver_binding),
    )


def _free_gib(scratch: Path) -> int:
    """What a worker of another name left there may go; what others write, may come."""
    scratch.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(scratch).free >> 30


def _check_catalogue(database: Database) -> None:
    found, head = versions(database.engine)
    if found != head:
        raise ValueError(f"the catalogue is at version {found or 'none'}, this program needs {head}: migrate it first")


def _serve(settings: Settings, database: Database, identity: Identity) -> None:
    app = celery_app(settings.broker_url.get_secret_value())
    # One folder per worker name: what a killed predecessor of that name left is removed, nobody else's.
    scratch = settings.scratch / identity.name
    clear(scratch)
    leaving, pulse, announcer = threading.Event(), Pulse(), Announcer(app)
    runner = Runner(
        settings=settings,
        tools=Tools(
            database=database,
            store=open_store(settings, link_secret=secrets.token_bytes(32)),  # a worker signs no links
            sources=open_sources(settings, database),
            identity=identity,
            limits=_limits(settings),
            binding=settings.driver_binding,
        ),
        announcer=announcer,
        scratch=scratch,
        leaving=leaving,
        pulse=pulse,
    )
    app.task(name=TASK)(runner.run)
    presence = Presence(database, identity, every_seconds=settings.worker_seconds / 4)
    setup_logging.connect(lambda **_: None, weak=False)  # a receiver keeps Celery's hands off our logging
    worker_shutting_down.connect(lambda **_: leaving.set(), weak=False)
    worker_ready.connect(_look_often, weak=False)
    worker_ready.connect(lambda **_: log.info("listening on %s", ", ".join(identity.queues)), weak=False)
    watch = Watch(
        pulse,
        identity.queues,
        announcer.depth,
        lambda: _start_anew(presence),
        every_seconds=settings.worker_seconds / 4,
    )
    presence.start()
    watch.start()
    try:
        _consume(app, identity)
    finally:
        watch.stop()
        presence.stop()
        database.close()


def _limits(settings: Settings) -> ProcessLimits:
    return ProcessLimits(
        settings.stage_seconds,
        settings.silence_seconds,
        settings.kill_seconds,
        disk_bytes=settings.stage_disk_bytes,
        offline=settings.offline_stages,
    )


def _look_often(*, sender: Consumer, **_: object) -> None:
    """A worker without a prefetch asks Redis for nothing while it is busy, and Celery's loop does not hear that it is
    idle again: it finds out when it turns next, up to a second later. Make it turn."""
    sender.hub.call_repeatedly(_LOOK_SECONDS, lambda: None)


def _start_anew(presence: Presence) -> None:
    """The same program from its beginning, in the same process."""
    presence.stop()
    os.execve(sys.executable, sys.orig_argv, dict(os.environ))  # noqa: S606  # ourselves


def _consume(app: Celery, identity: Identity) -> None:
    """Until SIGTERM or SIGINT; then the running stage is handed back. Threads, because the work is in a child."""
    if os.geteuid() == 0:
        log.warning("running as root, and so do the toolchains: start the worker as a user of its own")
    # Celery would say so too, at length, and advise an option that this program does not have.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        hostname=f"{identity.name}@{identity.id}",
        queues=list(identity.queues),
        pool="threads",
        concurrency=1,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()


if __name__ == "__main__":
    main()
