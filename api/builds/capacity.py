"""Whether the live workers that listen for a stage are large enough for it, by the toolchain's own estimate.

An estimate is no proof: without `require_worker` it is a note, and the build is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from enginefarm.contract.errors import Problem
from enginefarm.contract.stage import Stage
from models.catalogue.rows import WorkerRow
from models.lifecycle.submission import NewAction
from toolchains.registry import all_toolchains
from toolchains.toolchain import Needs

_GIB = 1 << 30


def too_small(action: NewAction, fleet: Sequence[WorkerRow]) -> Problem | None:
    """What is lacking, worker by worker, if every worker that listens lacks something; None if none listens."""
    job = action.work.job
    needs = all_toolchains()[job.toolchain].needs(job)
    lacking = {worker.name: list(_lacks(needs, worker)) for worker in fleet if action.queue in worker.queues}
    if not lacking or not all(lacking.values()):
        return None
    return Problem(
        pointer="/platform" if action.stage is Stage.BUILD else "/model",
        code="too_small",
        detail=f"no live worker seems large enough to {action.stage} this: "
        + "; ".join(f"{name} has {', '.join(what)}" for name, what in lacking.items()),
        value=max(needs.host_memory, needs.gpu_memory, needs.gpu_memory_in_all, needs.scratch) // _GIB,
        expected=_words(needs),
        remedy="start a larger worker, ask for lower limits or more ranks, or a precision of fewer bits",
    )


def _lacks(needs: Needs, worker: WorkerRow) -> Iterator[str]:
    host, gpu = worker.host, worker.platform.get("gpu_memory_gib") or 0
    has = (
        ("memory", host["memory_gib"], needs.host_memory),
        ("scratch disk", host.get("scratch_gib"), needs.scratch),
        ("on a GPU", gpu, needs.gpu_memory),
        ("on all GPUs", gpu * host.get("gpus", 0), needs.gpu_memory_in_all),
    )
    for what, gib, needed in has:
        if gib is not None and gib * _GIB < needed:
            yield f"{gib} GiB {what} for about {_gib(needed)}"


def _words(needs: Needs) -> str:
    parts = {
        "memory": needs.host_memory,
        "scratch disk": needs.scratch,
        "on a GPU": needs.gpu_memory,
        "on all GPUs": needs.gpu_memory_in_all,
    }
    return "about " + ", ".join(f"{_gib(needed)} GiB {what}" for what, needed in parts.items() if needed)


def _gib(size: int) -> int:
    return -(-size // _GIB)
