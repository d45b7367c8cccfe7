"""The names of the queues, derived in one place, so that a sender and a worker cannot disagree."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import rfc8785

from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage

# GiB, powers of two from 4 GiB to 8 TiB: a class per doubling keeps the number of queues of a worker small.
_MEMORY_CLASSES = tuple(1 << power for power in range(2, 14))
_LARGER_MEMORY = re.compile(r"\.over\d+$")
_ON_GPU = ".gpu"

TASK = "enginefarm.run"  # the one task; its one argument is an action key


class Announcement(NamedTuple):
    """A message to send after the commit: this action can be claimed."""

    key: str
    queue: str


def convert_queue(toolchain: str, version: str, *, on_gpu: bool) -> str:
    """The queue of all workers with the toolchain, or of those with a GPU: a checkpoint depends on no platform."""
    queue = f"{Stage.CONVERT}.{toolchain}.{version}"
    if on_gpu:
        queue += _ON_GPU
    return queue


def converts_on_gpu(queue: str) -> bool:
    """True for a convert queue that only GPU workers consume."""
    return queue.startswith(f"{Stage.CONVERT}.") and queue.endswith(_ON_GPU)


def build_queue(toolchain: str, version: str, platform: Platform, bound: Mapping[str, Any]) -> str:
    """The queue of the workers that can build an engine bound to `bound` (see `Platform.bound`).

    Two drivers of one branch share a queue, because an engine is bound to the branch.
    """
    digest = hashlib.sha256(rfc8785.dumps(dict(bound))).hexdigest()[:12]
    return f"{Stage.BUILD}.{toolchain}.{version}.{platform.label()}.{digest}"


def larger_memory_queue(queue: str, memory_gib: float) -> str | None:
    """The queue of workers with more memory than a worker with `memory_gib`.

    None if `queue` is such a queue already, or no class is large enough.
    """
    if _LARGER_MEMORY.search(queue):
        return None
    for size in _MEMORY_CLASSES:
        if size >= memory_gib:
            return f"{queue}.over{size}"
    return None


def queues_by_memory(queue: str, memory_gib: float) -> list[str]:
    """The queues that a worker with `memory_gib` consumes for `queue`.

    They are `queue` itself, and those for actions that were killed for memory on smaller workers.
    """
    # Strictly less: an action in `.over64` was killed on a machine with up to 64 GiB.
    larger_queues = [f"{queue}.over{size}" for size in _MEMORY_CLASSES if size < memory_gib]
    return [queue, *larger_queues]
