"""Which engines a node can run, as far as it says what it is."""

from __future__ import annotations

from typing import Any

import pytest

from enginefarm.contract.platform import Platform, PlatformSelector, differences, selector_differences

H100 = {
    "os": "linux", "arch": "x86_64", "gpu": "NVIDIA H100 80GB HBM3", "sm": "90", "gpu_memory_gib": 80, "mig": None,
    "ecc": True, "cuda": "13.0", "driver": "580", "tensorrt": None,
}  # fmt: skip
CPU = {"os": "linux", "arch": "x86_64", "cpu_isa": "x86-64-v3"}
NODE = {"gpu": "NVIDIA H100 80GB HBM3", "sm": "90", "gpu_memory_gib": 80, "ecc": True, "cuda": "13.0"}


@pytest.mark.parametrize(
    ("bound", "here", "unlike", "unchecked"),
    [
        (H100, NODE | {"driver": "580.159.04"}, [], []),
        (H100, NODE | {"driver": "570.1"}, ["driver"], []),
        (H100, NODE, [], ["driver"]),
        (H100, {"gpu": "NVIDIA H100 80GB HBM3"}, [], ["cuda", "driver", "ecc", "gpu_memory_gib", "sm"]),
        (H100, {}, [], ["arch", "cuda", "driver", "ecc", "gpu", "gpu_memory_gib", "os", "sm"]),
        (H100, NODE | {"driver": "580.1", "mig": "1g.10gb"}, ["mig"], []),
        (H100 | {"mig": "1g.10gb"}, NODE | {"driver": "580.1"}, ["mig"], []),
        (H100, NODE | {"driver": "580.1", "arch": "aarch64"}, ["arch"], []),
        (CPU, {"cpu_isa": "x86-64-v4"}, [], []),
        (CPU, {"cpu_isa": "x86-64-v2"}, ["cpu_isa"], []),
        (CPU, {"cpu_isa": "aarch64"}, ["arch", "cpu_isa"], []),
        (CPU, {"gpu": "NVIDIA H100 80GB HBM3"}, ["cpu_isa"], []),
        (
            H100,
            {"cpu_isa": "x86-64-v4"},
            ["cuda", "driver", "ecc", "gpu", "gpu_memory_gib", "sm"],
            [],
        ),
    ],
)
def test_fields_that_differ_and_fields_that_are_left_open(
    bound: dict[str, Any], here: dict[str, Any], unlike: list[str], unchecked: list[str]
) -> None:
    found, left_open = selector_differences(bound, PlatformSelector(**here), "branch")
    assert (sorted(found), left_open) == (unlike, unchecked)


def test_an_exact_binding_compares_the_whole_driver_version() -> None:
    here = PlatformSelector(**NODE, driver="580.159.05")
    assert selector_differences(H100 | {"driver": "580.159.04"}, here, "exact")[0] == {
        "driver": ("580.159.04", "580.159.05")
    }


def test_a_complete_machine_is_compared_as_check_compares_it() -> None:
    built = Platform(**(H100 | {"driver": "580.159.04"}))
    for changes in ({}, {"driver": "570.1"}, {"cuda": "12.4"}, {"mig": "1g.10gb"}, {"ecc": False}):
        node = Platform(**(built.model_dump() | changes))
        found, _ = selector_differences(H100, PlatformSelector(**node.model_dump()), "branch")
        assert found == differences(built, node, frozenset(H100), "branch")


def test_a_toolchain_without_gpus_needs_the_instruction_set() -> None:
    assert PlatformSelector().missing(frozenset({"os", "arch", "cpu_isa"})) == ("cpu_isa",)
    assert PlatformSelector(cpu_isa="x86-64-v3").missing(frozenset({"os", "arch", "cpu_isa"})) == ()
