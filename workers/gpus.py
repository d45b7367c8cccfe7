"""The locks of this worker's GPUs: see models.lifecycle.gpu_locks."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database
from models.lifecycle.gpu_locks import release_gpus
from models.lifecycle.leases import Claim
from workers.stage.program_view import uses_gpu

log = logging.getLogger(__name__)


def claim_uses_gpu(claim: Claim) -> bool:
    """True if the programs of the claimed stage will use a GPU of this machine."""
    try:
        return uses_gpu(claim.work.job)
    except Exception:  # noqa: BLE001  # work that cannot be read, or a toolchain's defect
        # The attempt meets the same error before it runs a program, and ends with it.
        return False


@dataclass
class HeldGpus:
    """The GPUs that are locked for one attempt. If the catalogue does not answer, the locks expire."""

    database: Database
    claim: Claim
    programs_may_live: bool = False  # then the GPUs are not free yet, and the locks expire in time
    released: bool = False

    def release(self) -> None:
        """Let other workers use the GPUs: the programs are dead."""
        if not self.claim.gpu_lock_seconds or self.released or self.programs_may_live:
            return
        try:
            with self.database.write() as session:
                release_gpus(session, self.claim)
        except DatabaseUnavailable as error:
            log.warning("the lock of the GPUs is left to expire: %s", error.detail)
        else:
            self.released = True
