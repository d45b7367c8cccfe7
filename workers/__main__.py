"""`python -m workers`: one worker, which runs one stage at a time, or with ENGINEFARM_SLOTS=per-gpu one on each GPU."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from celery import Celery, Task
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_ready
from celery.worker.consumer import Consumer

from enginefarm.node.detection import detect
from migrations.upgrade import require_current
from models.catalogue.database import Database
from models.logging import start_logging
from models.loops import Loops, end_later
from models.opening import open_cache, open_sources, open_store, warn_of_missing_roots
from models.queue.broker import Announcer, celery_app
from models.queue.broker_url import parse_broker_url
from models.queue.celery_variables import drop_celery_variables
from models.queue.names import TASK
from models.settings import Settings
from models.start import failures_reported
from models.stop_signals import handle_stop_signals
from models.store import DirectoryStore
from toolchains.registry import all_toolchains
from workers.broker_watchdog import BrokerWatchdog, MessageActivity
from workers.capabilities import capabilities, queues
from workers.consumer import LastingConsumer
from workers.inputs.cache_room import CacheRoom
from workers.inputs.input_files import InputFiles
from workers.inputs.node_inputs import NodeInputs
from workers.presence import Identity, Presence
from workers.programs.child import ProcessLimits
from workers.programs.environment_hiding import hide
from workers.programs.output_check import OutputCheckers
from workers.programs.standby import Standby
from workers.reporting.heartbeat import FROZEN_SHARE
from workers.runner import Runner
from workers.sandbox.choice import choose
from workers.sandbox.isolation import Isolation
from workers.sandbox.mount_view import StageView
from workers.scratch.scratch_lock import scratch_lock
from workers.scratch.workspace import clear
from workers.slot_identities import identities_per_gpu, only_gpu_of
from workers.slots import Slots
from workers.stage.program_view import folders_of
from workers.stage.tools import Tools
from workers.stoppable import StoppableWorker, stop_before_work
from workers.waking_pool import WakingPool

log = logging.getLogger("workers")

_LOOP_SECONDS = 0.1
_GOODBYE_SECONDS = 30.0  # for the end of a worker after its stage: the database may not answer


def main() -> None:
    """Start a worker and run it until SIGTERM, SIGINT or SIGHUP.

    Exit status: 0 after such a signal, 70 if a loop of the worker ended by itself. A start that fails ends with a line
    for each reason and a code of `models.exit_codes`. A signal that comes before the worker registers ends the process
    as it ends any program.
    """
    handle_stop_signals(signal.SIG_DFL)
    # First: from here on no program of this user can read the secrets, and no thread runs yet.
    hide()
    drop_celery_variables()  # which `hide` has brought back
    start_logging()
    with failures_reported("enginefarm worker"):
        settings = Settings.from_environment()
        parse_broker_url(settings.broker_url.get_secret_value())  # before the checks that take seconds
        isolation = choose(settings)
        identity = identify(settings, isolation)
        # One is enough nearly always. With the second a heartbeat does not wait for a statement of the stage.
        database = Database(settings.database_url.get_secret_value(), pool_size=2, kept=1)
        # An older program on a newer catalogue, or the reverse, would fail in the middle of an attempt.
        require_current(database)
        require_folder_store(settings)
        warn_of_missing_roots(settings)
        # One folder per worker name: the start removes only the files of a killed predecessor of the same name.
        scratch = settings.scratch / identity.name
        with scratch_lock(scratch):
            clear(scratch)
            status = serve(settings, database, identity, isolation, scratch)
    sys.exit(status)


def identify(settings: Settings, isolation: Isolation) -> Identity:
    """Detect the machine and the toolchains that can run on it.

    Raises:
        ValueError: no toolchain can run, or the scratch folder cannot be used.
        PlatformMismatch: see `detect`.
    """
    fingerprint = detect(prefer_gpu=settings.use_gpu)
    # An estimate at the start: other programs may fill the disk or free it later.
    try:
        settings.scratch.mkdir(parents=True, exist_ok=True)
        # Only a write shows that the file system is full or mounted read-only.
        tempfile.TemporaryFile(dir=settings.scratch).close()
        scratch_gib = shutil.disk_usage(settings.scratch).free >> 30
    except OSError as error:
        raise ValueError(
            f"ENGINEFARM_SCRATCH={settings.scratch}: {error.strerror}: set a folder on a disk with room, in which this "
            "user may write"
        ) from error
    host = fingerprint.host.model_copy(
        update={"image": settings.image, "scratch_gib": scratch_gib, "isolation": isolation.in_force}
    )
    usable = capabilities()
    if not usable:
        raise ValueError(
            "no toolchain can run here: install one (`pip install .[server,aoti]`), see docs/operations.md"
        )
    return Identity(
        # New at each start: a lease of the killed predecessor must not look like one of this process.
        id=secrets.token_hex(8),
        name=settings.worker_name or fingerprint.host.name,
        fingerprint=fingerprint.model_copy(update={"host": host}),
        capabilities=usable,
        queues=queues(usable, fingerprint, settings.driver_binding),
    )


def require_folder_store(settings: Settings) -> None:
    """Write into the store if it is a folder: a worker that cannot would find it out after an hour of compiling.

    A store on a server may be away for a while; its clients try again.

    Raises:
        StoreUnavailable: the folder does not exist here, or this user may not write into it.
        ValueError: see `open_store`.
    """
    store = open_store(settings, link_secret=secrets.token_bytes(32))
    if isinstance(store, DirectoryStore):
        store.ping()


def serve(settings: Settings, database: Database, identity: Identity, isolation: Isolation, scratch: Path) -> int:
    """Connect the worker's parts, and run actions until the process is told to stop; returns its exit status."""
    app = celery_app(settings.broker_url.get_secret_value())
    announcer = Announcer(app)
    require_usable(announcer)
    leaving = threading.Event()
    loops = Loops()
    environment = dict(os.environ)  # for a restart
    identities = [identity]
    if settings.slots == "per-gpu":
        identities = identities_per_gpu(identity)
        # Toolchains count the GPUs of this process, and each of its slots has one.
        os.environ |= only_gpu_of(identities[0])
    activity = MessageActivity(len(identities))
    tools = stage_tools(settings, database, identities, isolation, scratch, loops)
    runners = [Runner(settings, own, announcer, leaving, loops, activity) for own in tools]
    slots = Slots(runners, activity)
    receive_messages(app, slots)
    presence = Presence(database, identities, loops, every_seconds=settings.worker_seconds / 4)
    # Celery configures logging itself unless this signal has a receiver.
    setup_logging.connect(lambda **_: None, weak=False)
    worker_ready.connect(keep_loop_turning, weak=False)
    worker_ready.connect(lambda **_: log.info("listening on %s", ", ".join(identity.queues)), weak=False)
    watchdog = BrokerWatchdog(
        activity,
        identity.queues,
        announcer.depth,
        lambda: restart(presence, tools, leaving, activity, environment),
        loops,
        every_seconds=settings.worker_seconds / 4,
    )
    cache_room = CacheRoom(tools[0].inputs.cache, loops)
    # From here on a signal must also remove the worker from the fleet.
    stop_before_work()
    try:
        # Registered before it consumes, so that its first claim finds the worker's row.
        presence.start()
        watchdog.start()
        for own in tools:
            own.standby.start()
        tools[0].checker.start()
        cache_room.start()
        status = consume(app, identity, leaving, slots=len(tools))
    finally:
        # The attempts that are finishing are published within their grace, or handed back.
        leaving.set()
        slots.close()
        end_later(_GOODBYE_SECONDS, loops.exit_status)
        # First the watchdog: it must not restart a worker that is shutting down.
        watchdog.stop()
        presence.stop()
        cache_room.stop()
        for each in runners:
            each.prefetch.close()
        for own in tools:
            own.standby.close()
        tools[0].checker.close()
        database.close()
    return loops.exit_status or status


def receive_messages(app: Celery, slots: Slots) -> None:
    """Add the one task: `slots` gets the action key of each message, and the queue that it came from."""

    def receive(task: Task, announced: str) -> None:
        slots.receive(announced, task.request.delivery_info["routing_key"])

    app.task(name=TASK, bind=True)(receive)


def stage_tools(
    settings: Settings,
    database: Database,
    identities: Sequence[Identity],
    isolation: Isolation,
    scratch: Path,
    loops: Loops,
) -> list[Tools]:
    """The store, sources and limits of the stages in each slot, as the settings give them."""
    limits = ProcessLimits(
        settings.stage_seconds,
        settings.silence_seconds,
        settings.kill_seconds,
        disk_bytes=settings.stage_disk_bytes,
        processes=settings.stage_processes,
        memory_bytes=settings.stage_memory_bytes,
        renewal_seconds=settings.lease_seconds * FROZEN_SHARE,
    )
    # A guess for the first stage; each stage is the guess for the next.
    toolchain = all_toolchains()[identities[0].capabilities[0].toolchain]
    view = StageView(folders_of(toolchain), gpu=identities[0].fingerprint.platform.gpu is not None)
    # A worker signs no links, so its secret may be a random one.
    store = open_store(settings, link_secret=secrets.token_bytes(32))
    sources = open_sources(settings, database)
    inputs = NodeInputs(InputFiles(store, sources), open_cache(settings), may_link=isolation.complete)
    checkers = OutputCheckers()
    return [
        Tools(
            database=database,
            store=store,
            sources=sources,
            identity=identity,
            limits=limits,
            binding=settings.driver_binding,
            isolation=isolation,
            standby=Standby(scratch, isolation, limits, view, loops),
            inputs=inputs,
            program_environment=only_gpu_of(identity) if settings.slots == "per-gpu" else {},
            checker=checkers,
        )
        for identity in identities
    ]


def keep_loop_turning(*, sender: Consumer, **_: object) -> None:
    """Wake Celery's event loop every 0.1 s, so that it notices within that time that the worker is told to stop."""
    sender.hub.call_repeatedly(_LOOP_SECONDS, lambda: None)


def restart(
    presence: Presence,
    tools: Sequence[Tools],
    leaving: threading.Event,
    activity: MessageActivity,
    environment: Mapping[str, str],
) -> None:
    """Replace this process by a new one of the same program, with the same process id.

    Raises:
        SystemExit: the program cannot be started. It ends the thread of the caller, and with it this process.
    """
    # A message may arrive meanwhile: its action is not claimed any more, or it is handed back.
    leaving.set()
    while not activity.at_rest:
        time.sleep(_LOOP_SECONDS)
    # The new process has a new worker id: without this, the old one would be listed until it is overdue.
    presence.stop()
    for own in tools:
        own.standby.close()
    try:
        os.execve(sys.executable, sys.orig_argv, dict(environment))  # noqa: S606  # ourselves
    except OSError as error:
        raise SystemExit(f"this worker cannot restart itself: {error.strerror}: {sys.executable}") from error


def require_usable(announcer: Announcer) -> None:
    """Ask the broker once. An outage is waited for, as later on; a wrong setting ends the start.

    Raises:
        ValueError: only a change of settings makes the broker usable.
    """
    fault = announcer.fault()
    if fault is None:
        return
    if fault.lasting:
        raise ValueError(fault.text)
    log.warning("%s; the worker waits for it", fault.text)


def consume(app: Celery, identity: Identity, leaving: threading.Event, *, slots: int) -> int:
    """Receive messages until the process is told to stop; the running stage is handed back then.

    Returns the exit status: 0, or 1 if Celery ended by an error of its own.
    """
    if os.geteuid() == 0:
        log.warning("running as root, and so do the toolchains: start the worker as a user of its own")
    # Celery warns of root too, at length, and advises an option that this program does not have.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = StoppableWorker(
        leaving,
        app=app,
        hostname=f"{identity.name}@{identity.id}",
        queues=list(identity.queues),
        # A thread is enough, because a stage runs in a child process; a forked pool would copy open connections.
        consumer_cls=LastingConsumer,
        pool=WakingPool,
        concurrency=slots,  # a full process asks the broker for nothing
        quiet=True,
        # The catalogue knows which workers live: gossip, mingle and Celery's heartbeat only cost messages.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    main()
