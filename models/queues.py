"""The queues' names, derived in one place, so that a sender and a worker cannot disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785

from enginefarm.platform import Platform
from enginefarm.wire import Stage

TASK = "enginefarm.run"  # the one task; its one argument is an action key


def convert_queue(toolchain: str, version: str) -> str:
    """A checkpoint depends on no platform: any worker with the toolchain may make it."""
    return f"{Stage.CONVERT}.{toolchain}.{version}"


def build_queue(toolchain: str, version: str, platform: Platform, bound: Mapping[str, Any]) -> str:
    """`bound` is what the engine is bound to (`Platform.bound`): two drivers of one branch share a queue."""
    digest = hashlib.sha256(rfc8785.dumps(dict(bound))).hexdigest()[:12]
    return f"{Stage.BUILD}.{toolchain}.{version}.{platform.label()}.{digest}"
