"""Whether the live workers that listen for a stage are large enough for it, by the toolchain's own estimate.

The estimate may be wrong, so a submit only notes it and the build is tried; `require_worker` turns it into a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence

from enginefarm.contract.errors import Problem
from enginefarm.contract.stage import Stage
from models.catalogue.rows import WorkerRow
from models.lifecycle.submission import NewAction
from toolchains.registry import all_toolchains
from toolchains.toolchain import Needs

_GIB = 1 << 30


def too_small(action: NewAction, fleet: Sequence[WorkerRow]) -> Problem | None:
    """A problem that lists what each worker lacks, if every worker that listens for the action lacks something.

    None if a worker is large enough, and also if none listens: `api.submits.availability` reports that.
    """
    job = action.work.job
    needs = all_toolchains()[job.toolchain].needs(job)
    shortages = {}
    for worker in fleet:
        if action.queue in worker.queues:
            shortages[worker.name] = _shortages(needs, worker)
    if not shortages or not all(shortages.values()):
        return None
    workers = "; ".join(f"{name} has {', '.join(lacks)}" for name, lacks in shortages.items())

    pointer = "/model"
    if action.stage is Stage.BUILD:
        pointer = "/platform"
    # Only what the action needs: a build on a CPU, for example, needs no GPU memory.
    expected = []
    for resource, size in _sizes(needs).items():
        if size:
            expected.append(f"{_gib(size)} GiB {resource}")
    return Problem(
        pointer=pointer,
        code="too_small",
        detail=f"no live worker seems large enough to {action.stage} this: {workers}",
        value=max(_sizes(needs).values()) // _GIB,
        expected="about " + ", ".join(expected),
        remedy="start a larger worker, ask for lower limits or more ranks, or a precision of fewer bits",
    )


def _sizes(needs: Needs) -> dict[str, int]:
    """What the toolchain needs, in bytes, by the words in which a person is told."""
    return {
        "memory": needs.host_memory,
        "scratch disk": needs.scratch,
        "on a GPU": needs.gpu_memory,
        "on all GPUs": needs.gpu_memory_in_all,
    }


def _shortages(needs: Needs, worker: WorkerRow) -> list[str]:
    """What the worker has too little of, in words; empty if it is large enough."""
    gpu_memory = worker.platform.get("gpu_memory_gib") or 0
    capacity = {
        "memory": worker.host["memory_gib"],
        # Workers of older releases do not report their disk: it counts as large enough.
        "scratch disk": worker.host.get("scratch_gib"),
        "on a GPU": gpu_memory,
        "on all GPUs": gpu_memory * worker.host.get("gpus", 0),
    }
    shortages = []
    for resource, size in _sizes(needs).items():
        gib = capacity[resource]
        if gib is not None and gib * _GIB < size:
            shortages.append(f"{gib} GiB {resource} for about {_gib(size)}")
    return shortages


def _gib(size: int) -> int:
    return -(-size // _GIB)  # rounded up: a machine of the size that is shown must suffice
