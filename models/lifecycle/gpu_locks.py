"""Lock the GPUs of a worker for an attempt: two workers that see one GPU never run programs on it at the same time.

A lock belongs to an attempt and is renewed with its lease. It ends when the worker's programs are dead: the worker
deletes it then. While the attempt runs, nobody can take the lock, even if it has expired. After the attempt's end,
others wait until it expires, because the programs of a cancelled action may need some seconds to die. See ADR 0022.
Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import delete
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import GpuLockRow
from models.catalogue.upsert import insert_new
from models.fleet.gpu_use import IS_OVER, GpuUse, describe, gpus_in_use
from models.lifecycle.leases import Claim
from models.queue.names import Announcement


class GpuInUseError(Exception):
    """Another worker runs a stage on one of the GPUs. `waiting` announces the action that waits."""

    def __init__(self, use: GpuUse, waiting: Announcement) -> None:
        super().__init__(describe(use))
        self.waiting = waiting


def lock_gpus(session: Session, claim: Claim, gpus: Sequence[str], *, seconds: float) -> Claim:
    """Lock all of these GPUs (UUIDs) in the transaction that claims.

    Returns the claim with `gpu_lock_seconds`: from then on each renewal of the lease renews the locks too.

    Args:
        seconds: until a lock expires that is not renewed. More than the lease: the programs need time to end.

    Raises:
        GpuInUseError: another attempt has one of them. Roll back: the claim must not become visible.
    """
    session.flush()  # a lock refers to the row of the attempt
    # One by one in the order of their names: two workers with overlapping sets cannot wait for each other.
    for gpu in sorted(gpus):
        delete_expired = delete(GpuLockRow).where(GpuLockRow.gpu == gpu, IS_OVER)
        session.execute(delete_expired, execution_options={"synchronize_session": False})
        lock = {
            "gpu": gpu,
            "worker_id": claim.worker_id,
            "action_key": claim.key,
            "attempt": claim.attempt,
            "expires_at": now(seconds),
        }
        if not insert_new(session, GpuLockRow, lock):
            # Not found: it was released since the insert. The next message tries again.
            use = gpus_in_use(session).get(gpu, GpuUse(gpu, "another worker"))
            raise GpuInUseError(use, Announcement(claim.key, claim.queue))
    return replace(claim, gpu_lock_seconds=seconds)


def release_gpus(session: Session, claim: Claim) -> None:
    """Delete the locks of an attempt whose programs are dead."""
    delete_own = delete(GpuLockRow).where(GpuLockRow.action_key == claim.key, GpuLockRow.attempt == claim.attempt)
    session.execute(delete_own, execution_options={"synchronize_session": False})
