"""Which GPUs, and which MIG devices, the programs of a worker see."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginefarm.contract.errors import PlatformMismatch
from enginefarm.contract.platform import Platform
from enginefarm.node import detection
from enginefarm.node.detection import detect
from enginefarm.node.gpu_units import Card, visible_units

WHOLE = (Card("GPU-a1"), Card("GPU-b2"))
DIVIDED = (Card("GPU-a1", ("MIG-a1-1", "MIG-a1-2")), Card("GPU-b2", ("MIG-b2-1",)))

OLD_DRIVER = (Card("GPU-a1", ("MIG-GPU-a1/1/0", "MIG-GPU-a1/2/0")),)


@pytest.mark.parametrize(
    ("cards", "variable", "visible"),
    [
        (WHOLE, None, ("GPU-a1", "GPU-b2")),
        (WHOLE, "1", ("GPU-b2",)),
        (WHOLE, "1,0,1", ("GPU-b2", "GPU-a1")),
        (WHOLE, " 0 , 1 ", ("GPU-a1", "GPU-b2")),
        (WHOLE, "GPU-b", ("GPU-b2",)),
        (WHOLE, "0,7,1", ("GPU-a1",)),
        (WHOLE, "-1", ()),
        (WHOLE, "", ()),
        (WHOLE, "NoDevFiles", ()),
        (WHOLE, "MIG-a1-1", ()),
        (DIVIDED, None, ("MIG-a1-1", "MIG-a1-2", "MIG-b2-1")),
        (DIVIDED, "MIG-a1-2", ("MIG-a1-2",)),
        (DIVIDED, "MIG-b2-1,MIG-a1-1", ("MIG-b2-1", "MIG-a1-1")),
        (DIVIDED, "1", ("MIG-b2-1",)),
        (DIVIDED, "GPU-a1", ("MIG-a1-1", "MIG-a1-2")),
        ((), None, ()),
        (DIVIDED, "MIG-GPU-a1/1/0", ("MIG-a1-1", "MIG-a1-2")),
        (OLD_DRIVER, "MIG-GPU-a1/2/0", ("MIG-GPU-a1/2/0",)),
        (OLD_DRIVER, "MIG-GPU-c3/1/0", ()),
    ],
)
def test_what_cuda_shows_to_a_program(cards: tuple[Card, ...], variable: str | None, visible: tuple[str, ...]) -> None:
    assert visible_units(cards, variable) == visible


def use_double(monkeypatch: pytest.MonkeyPatch, gpu: str) -> None:
    """Let NVML report this GPU."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "doubles" / "nvml")
    monkeypatch.delitem(__import__("sys").modules, "pynvml")
    monkeypatch.setattr(detection, "pynvml", __import__("pynvml"))
    monkeypatch.setenv("NVML_DOUBLE", gpu)


def test_a_gpu_without_memory_of_its_own_has_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch, "NVIDIA GB10,,12.1,GPU-1")
    found = detect()
    assert found.platform.gpu_memory_gib == found.host.memory_gib


@pytest.mark.parametrize(
    ("variable", "order", "gpus"),
    [
        ("GPU-b2", None, ["NVIDIA L4"]),
        ("1", "PCI_BUS_ID", ["NVIDIA L4"]),
        ("GPU-a1,GPU-b2", None, None),
        ("1", None, None),  # CUDA may count the faster card first
        (None, "PCI_BUS_ID", None),
        ("", None, []),
    ],
)
def test_of_unlike_gpus_those_that_are_named_for_certain_count(
    variable: str | None, order: str | None, gpus: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [Platform(arch="x86_64", gpu=name, sm=sm) for name, sm in (("NVIDIA T4", "75"), ("NVIDIA L4", "89"))]
    monkeypatch.setattr(detection, "_gpus", lambda: (kinds, list(WHOLE)))
    for name, value in (("CUDA_VISIBLE_DEVICES", variable), ("CUDA_DEVICE_ORDER", order)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if gpus is None:
        with pytest.raises(PlatformMismatch, match=r"unlike GPUs \(t4-sm75, l4-sm89\).*CUDA_VISIBLE_DEVICES"):
            detect()
        return
    found = detect()
    assert (found.host.gpus, found.platform.gpu) == (len(gpus), gpus[0] if gpus else None)
    assert found.host.gpu_uuids == ("GPU-b2",) * len(gpus)


@pytest.mark.parametrize(
    ("uuid", "variable", "visible"),
    [("GPU-1", None, ("GPU-1",)), ("GPU-1", "1", ()), ("MIG-1", None, ("MIG-1",)), ("MIG-1", "0", ("MIG-1",))],
)
def test_a_worker_reports_the_gpus_that_its_programs_see(
    uuid: str, variable: str | None, visible: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_double(monkeypatch, f"NVIDIA H100 80GB HBM3,80,9.0,{uuid}")
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert detect().host.gpu_uuids == visible
