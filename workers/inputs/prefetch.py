"""Fetch the inputs of the next action into the node's cache while a stage computes.

The worker reserves the action softly: any idle worker may claim it. One action at a time, and only if its inputs fit
into the cache. The fetch ends within a moment when the action is gone, when the worker claims another one, and when it
leaves. A failure costs the head start: the attempt fetches what is missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from enginefarm.contract.errors import EnginefarmError
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.work import Work, read_work
from models.catalogue.database import Database
from models.fleet.worker_states import refuses_new_work
from models.lifecycle.leases import Claim
from models.lifecycle.publication import read_manifest
from models.loops import message_of
from models.queue.prefetches import NextAction, renew_reservation, reserve_next
from workers.inputs.node_inputs import Caller, NodeInputs
from workers.inputs.warm_records import WarmRecords
from workers.programs.standby import Standby
from workers.reporting.failures import StartDamaged

log = logging.getLogger(__name__)

_RESERVED_SECONDS = 30.0
_RENEW_SECONDS = 5.0  # between two looks whether the action is still queued
_FIRST_SECONDS = 1.0  # from the start of the programs to the first look
_CLOSE_SECONDS = 5.0


class _Ended(Exception):
    """The fetch has no purpose any more."""


class Prefetch:
    """Fetches ahead for one worker process, in one thread.

    Args:
        standby: has the scratch folder of this process.
        leaving: set when the worker was told to stop.
    """

    def __init__(
        self, database: Database, worker_id: str, inputs: NodeInputs, standby: Standby, leaving: threading.Event
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._inputs = inputs
        self._records = WarmRecords(inputs.cache)
        self._standby = standby
        self._leaving = leaving
        self._current = _FetchAhead("")
        self._lock = threading.Lock()

    @contextmanager
    def during(self, claim: Claim) -> Iterator[None]:
        """Fetch ahead from the queue of this claim while the block computes; a fetch may go on until the next claim."""
        ahead = _FetchAhead(claim.queue)
        if self._inputs.cache is not None:
            with self._lock, suppress(RuntimeError):  # `ulimit -u`, or a container's limit of processes
                self._current.ended.set()
                self._current = ahead
                thread = threading.Thread(target=self._work, args=(ahead,), name="prefetch", daemon=True)
                thread.start()
                ahead.thread = thread
        try:
            yield
        finally:
            ahead.computed.set()

    def claimed(self, key: str) -> None:
        """This worker has claimed an action: end the fetch for any other one."""
        with self._lock:
            ahead = self._current
            if ahead.key == key:
                ahead.is_claimed = True
            else:
                ahead.ended.set()

    def close(self) -> None:
        """End the fetch, and wait a moment until it has left the scratch folder."""
        with self._lock:
            ahead = self._current
            ahead.ended.set()
        if ahead.thread is not None:
            ahead.thread.join(_CLOSE_SECONDS)

    def _work(self, ahead: _FetchAhead) -> None:
        # A short stage ends before a fetch would help the next one.
        pause = _FIRST_SECONDS
        try:
            while not ahead.computed.wait(pause) and not self._is_over(ahead):
                action = self._reserve(ahead)
                if action is not None:
                    with suppress(_Ended):  # mostly another worker has claimed it: choose again
                        self._fetch(ahead, action)
                        self._keep_reserved(ahead)
                pause = _RENEW_SECONDS
        except (EnginefarmError, StartDamaged, OSError, RuntimeError) as error:
            # If the next attempt meets it, too, it says what is wrong.
            log.info("nothing more is fetched ahead during this stage: %s", message_of(error))

    def _reserve(self, ahead: _FetchAhead) -> NextAction | None:
        with self._database.write() as session:
            if refuses_new_work(session, self._worker_id):
                return None
            action = reserve_next(
                session, ahead.queue, self._worker_id, held=self._records.held(), seconds=_RESERVED_SECONDS
            )
        ahead.key = action.key if action is not None else ""
        ahead.renewed_at = time.monotonic()
        return action

    def _fetch(self, ahead: _FetchAhead, action: NextAction) -> None:
        work = read_work(action.stored_work)
        checkpoint = None
        if action.checkpoint is not None:
            with self._database.read() as session:
                checkpoint = read_manifest(session, action.checkpoint)
        entries = named_files(work, checkpoint)
        if not self._inputs.has_room_for(sum(entry.size for entry in entries)):
            return
        if self._inputs.digests_held(entries) == {entry.digest for entry in entries}:
            return
        caller = Caller(lambda: self._keep_going(ahead), log.info)
        fetched = self._inputs.prefetch(work, checkpoint, self._standby.root, caller)
        self._records.remember(action.inputs, entries)
        log.info("ahead of %s: %s", action.key[:12], fetched)

    def _keep_reserved(self, ahead: _FetchAhead) -> None:
        """Renew the soft lease until the action is gone or the stage has ended."""
        while not ahead.computed.wait(_RENEW_SECONDS):
            self._keep_going(ahead)

    def _keep_going(self, ahead: _FetchAhead) -> None:
        """
        Raises:
            _Ended: see the module.
        """
        if self._is_over(ahead):
            raise _Ended
        if ahead.is_claimed or time.monotonic() < ahead.renewed_at + _RENEW_SECONDS:
            return
        with ahead.renewing:
            if time.monotonic() < ahead.renewed_at + _RENEW_SECONDS:
                return  # another thread of the fetch has just asked
            ahead.renewed_at = time.monotonic()
            with self._database.write() as session:
                is_queued = renew_reservation(session, ahead.key, self._worker_id, seconds=_RESERVED_SECONDS)
        if not is_queued and not ahead.is_claimed:
            raise _Ended

    def _is_over(self, ahead: _FetchAhead) -> bool:
        return ahead.ended.is_set() or self._leaving.is_set()


class _FetchAhead:
    """One stage of the worker, and the action whose inputs are fetched during it. `key`: empty while there is none."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.key = ""
        self.is_claimed = False  # by this worker, which waits for the rest
        self.renewed_at = 0.0  # on the clock of time.monotonic
        self.computed = threading.Event()  # the stage's programs have ended: no other action is chosen
        self.ended = threading.Event()  # the fetch must end
        self.renewing = threading.Lock()
        self.thread: threading.Thread | None = None


def named_files(work: Work, checkpoint: Manifest | None) -> list[FileEntry]:
    """The files of the model or checkpoint whose digests are known before they are fetched."""
    if checkpoint is not None:
        return list(checkpoint.files)
    if work.model is None:
        return []
    return [
        FileEntry(path=file.path, digest=file.digest, size=file.size)
        for file in work.model.files
        if file.digest is not None
    ]
