"""Which GPUs, and which MIG devices, the programs of a worker see."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginefarm.node import detection
from enginefarm.node.detection import detect
from enginefarm.node.gpu_units import Card, visible_units

WHOLE = (Card("GPU-a1"), Card("GPU-b2"))
DIVIDED = (Card("GPU-a1", ("MIG-a1-1", "MIG-a1-2")), Card("GPU-b2", ("MIG-b2-1",)))


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
    ],
)
def test_what_cuda_shows_to_a_program(cards: tuple[Card, ...], variable: str | None, visible: tuple[str, ...]) -> None:
    assert visible_units(cards, variable) == visible


@pytest.mark.parametrize(
    ("uuid", "variable", "visible"),
    [("GPU-1", None, ("GPU-1",)), ("GPU-1", "1", ()), ("MIG-1", None, ("MIG-1",)), ("MIG-1", "0", ("MIG-1",))],
)
def test_a_worker_reports_the_gpus_that_its_programs_see(
    uuid: str, variable: str | None, visible: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    double = Path(__file__).parents[2] / "doubles" / "nvml"
    monkeypatch.syspath_prepend(double)
    monkeypatch.delitem(__import__("sys").modules, "pynvml")
    monkeypatch.setattr(detection, "pynvml", __import__("pynvml"))
    monkeypatch.setenv("NVML_DOUBLE", f"NVIDIA H100 80GB HBM3,80,9.0,{uuid}")
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert detect().host.gpu_uuids == visible
