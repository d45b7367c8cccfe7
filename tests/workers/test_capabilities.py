"""The queues that a worker consumes follow from its machine and its toolchains."""

from __future__ import annotations

import pytest

from enginefarm.contract.host import Fingerprint, Host
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Capability
from models.queue.names import convert_queue, converts_on_gpu
from workers.capabilities import queues

CPU = Platform(arch="x86_64", cpu_isa="x86-64-v3")
H100 = Platform(arch="x86_64", gpu="NVIDIA H100 80GB HBM3", sm="90", gpu_memory_gib=80)


@pytest.mark.parametrize(("platform", "calibrates"), [(CPU, False), (H100, True)])
def test_only_a_worker_with_a_gpu_takes_conversions_that_need_one(platform: Platform, calibrates: bool) -> None:
    fingerprint = Fingerprint(platform=platform, host=Host(name="box", cpu="Xeon", cores=2, memory_gib=2))
    names = queues([Capability(toolchain="aoti", version="2.13.0", stages=[Stage.CONVERT])], fingerprint, "branch")
    plain, on_gpu = (convert_queue("aoti", "2.13.0", on_gpu=needed) for needed in (False, True))
    assert plain in names
    assert (on_gpu in names) is calibrates
    assert [converts_on_gpu(queue) for queue in (plain, on_gpu)] == [False, True]
