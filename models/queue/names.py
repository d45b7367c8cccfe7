"""The queues' names, derived in one place, so that a sender and a worker cannot disagree."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import rfc8785

from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage

_CLASSES = tuple(1 << power for power in range(2, 14))  # GiB: 4 GiB to 8 TiB
_LARGER = re.compile(r"\.over\d+$")

_ON_GPU = ".gpu"

TASK = "enginefarm.run"  # the one task; its one argument is an action key


def convert_queue(toolchain: str, version: str, *, on_gpu: bool) -> str:
    """A checkpoint depends on no platform: any worker with the toolchain may make it, or any that has a GPU."""
    return f"{Stage.CONVERT}.{toolchain}.{version}" + (_ON_GPU if on_gpu else "")


def converts_on_gpu(queue: str) -> bool:
    """Whether it is such a queue of workers that have a GPU."""
    return queue.startswith(f"{Stage.CONVERT}.") and queue.endswith(_ON_GPU)


def build_queue(toolchain: str, version: str, platform: Platform, bound: Mapping[str, Any]) -> str:
    """`bound` is what the engine is bound to (`Platform.bound`): two drivers of one branch share a queue."""
    digest = hashlib.sha256(rfc8785.dumps(dict(bound))).hexdigest()[:12]
    return f"{Stage.BUILD}.{toolchain}.{version}.{platform.label()}.{digest}"


def larger_memory_queue(queue: str, memory_gib: float) -> str | None:
    """The queue of workers with more memory than one with `memory_gib`; None if `queue` is such a queue already."""
    if _LARGER.search(queue):
        return None
    return next((f"{queue}.over{size}" for size in _CLASSES if size >= memory_gib), None)


def queues_by_memory(queue: str, memory_gib: float) -> list[str]:
    """`queue`, and its queues for what was killed for memory on smaller workers than one with `memory_gib`."""
    return [queue, *(f"{queue}.over{size}" for size in _CLASSES if size < memory_gib)]


Announcement = tuple[str, str]  # (action key, queue): sent after the commit
