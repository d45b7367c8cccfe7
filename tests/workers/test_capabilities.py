"""The queues that a worker consumes follow from its machine and its toolchains."""

from __future__ import annotations

import pytest

from enginefarm.contract.host import Fingerprint, Host
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Capability
from models.queue.names import convert_queue, converts_on_gpu, queue_without_sm, sm_of_convert
from workers.capabilities import queues

CPU = Platform(arch="x86_64", cpu_isa="x86-64-v3")
H100 = Platform(arch="x86_64", gpu="NVIDIA H100 80GB HBM3", sm="90", gpu_memory_gib=80)


def queues_on(platform: Platform) -> list[str]:
    fingerprint = Fingerprint(platform=platform, host=Host(name="box", cpu="Xeon", cores=2, memory_gib=2))
    return queues([Capability(toolchain="trtllm", version="1.0.0", stages=[Stage.CONVERT])], fingerprint, "branch")


def test_conversions_for_one_sm_go_to_workers_with_a_gpu_of_that_sm() -> None:
    hopper = convert_queue("trtllm", "1.0.0", on_gpu=True, sm="90")
    assert hopper == "convert.trtllm.1.0.0.sm90"
    assert hopper in queues_on(H100)
    assert hopper not in queues_on(H100.model_copy(update={"sm": "80"}))
    assert not any(sm_of_convert(queue) for queue in queues_on(CPU))
    assert [sm_of_convert(queue) for queue in (hopper, f"{hopper}.over64", convert_queue("trtllm", "1.0.0"))] == [
        "90", "90", None,
    ]  # fmt: skip
    assert converts_on_gpu(f"{hopper}.over64")
    assert queue_without_sm(f"{hopper}.over64") == convert_queue("trtllm", "1.0.0")
    assert queue_without_sm(convert_queue("trtllm", "1.0.0", on_gpu=True)) is None


@pytest.mark.parametrize(("platform", "calibrates"), [(CPU, False), (H100, True)])
def test_only_a_worker_with_a_gpu_takes_conversions_that_need_one(platform: Platform, calibrates: bool) -> None:
    fingerprint = Fingerprint(platform=platform, host=Host(name="box", cpu="Xeon", cores=2, memory_gib=2))
    names = queues([Capability(toolchain="aoti", version="2.13.0", stages=[Stage.CONVERT])], fingerprint, "branch")
    plain, on_gpu = (convert_queue("aoti", "2.13.0", on_gpu=needed) for needed in (False, True))
    assert plain in names
    assert (on_gpu in names) is calibrates
    assert [converts_on_gpu(queue) for queue in (plain, on_gpu)] == [False, True]
