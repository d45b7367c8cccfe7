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
_CONVERTS_ON_GPU = re.compile(rf"^{Stage.CONVERT}\..+\.(?:gpu|sm(?P<sm>[0-9]{{2,3}}[af]?))(?:\.over\d+)?$")

TASK = "enginefarm.run"  # the one task; its one argument is an action key


class Announcement(NamedTuple):
    """A message to send after the commit: this action can be claimed."""

    key: str
    queue: str


def convert_queue(toolchain: str, version: str, *, on_gpu: bool = False, sm: str | None = None) -> str:
    """The queue of all workers with the toolchain, of those with a GPU, or of those with a GPU of this SM."""
    queue = f"{Stage.CONVERT}.{toolchain}.{version}"
    if sm is not None:
        return f"{queue}.sm{sm}"
    if on_gpu:
        return f"{queue}.gpu"
    return queue


def converts_on_gpu(queue: str) -> bool:
    """True for a convert queue that only GPU workers consume."""
    return _CONVERTS_ON_GPU.match(queue) is not None


def uses_gpu(queue: str) -> bool:
    """True for a queue whose actions use the GPUs of a worker that has some."""
    return converts_on_gpu(queue) or queue.startswith(f"{Stage.BUILD}.")


def sm_of_convert(queue: str) -> str | None:
    """The SM that a worker of this convert queue has; None for any other queue."""
    match = _CONVERTS_ON_GPU.match(queue)
    return match["sm"] if match else None


def queue_without_sm(queue: str) -> str | None:
    """The queue for conversions of the same release that need no GPU; None if `queue` is not for one SM."""
    match = _CONVERTS_ON_GPU.match(queue)
    if match is None or match["sm"] is None:
        return None
    return queue[: match.start("sm") - len(".sm")]


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
