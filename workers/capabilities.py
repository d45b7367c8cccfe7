"""Find the toolchain versions that can run on this worker, and the queues that it consumes because of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from enginefarm.contract.host import Fingerprint
from enginefarm.contract.platform import DriverBinding
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Capability
from models.queue.names import build_queue, convert_queue, queues_by_memory
from toolchains.registry import all_toolchains

log = logging.getLogger(__name__)


def capabilities() -> list[Capability]:
    """Every installed toolchain version with at least one stage that can run. Logs what the other stages miss."""
    usable = []
    for toolchain in all_toolchains().values():
        for installed in toolchain.installed():
            for reason in installed.missing:
                log.warning("%s %s: %s", toolchain.name, installed.version, reason)
            if installed.stages:
                usable.append(
                    Capability(toolchain=toolchain.name, version=installed.version, stages=list(installed.stages))
                )
    return usable


def queues(usable: Sequence[Capability], fingerprint: Fingerprint, binding: DriverBinding) -> list[str]:
    """The queues of a worker with these capabilities on this machine.

    Each name comes with the queues of actions that were killed for memory on smaller machines.
    """
    platform = fingerprint.platform
    names = []
    for capability in usable:
        toolchain = all_toolchains()[capability.toolchain]
        if Stage.CONVERT in capability.stages:
            # A conversion that needs no GPU runs on every machine, so a GPU worker consumes all three queues.
            names.append(convert_queue(capability.toolchain, capability.version))
            if platform.gpu:
                names.append(convert_queue(capability.toolchain, capability.version, on_gpu=True))
                names.append(convert_queue(capability.toolchain, capability.version, sm=platform.sm))
        if Stage.BUILD in capability.stages:
            bound = platform.bound(toolchain.binds_to, binding)
            names.append(build_queue(capability.toolchain, capability.version, platform, bound))
    return [queue for name in names for queue in queues_by_memory(name, fingerprint.host.memory_gib)]
