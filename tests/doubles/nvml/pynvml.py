"""Double of the NVML bindings with one GPU, for a worker on a machine without one. Its folder is put on PYTHONPATH.

`NVML_DOUBLE` is the one GPU that it has: name, memory in GiB, compute capability, as "NVIDIA L4,24,8.9".
"""

# ruff: noqa: N802  # the functions have NVML's names

import os
from types import SimpleNamespace


def _gpu() -> list[str]:
    """Read at each call: tests change the variable after this module is imported."""
    return os.environ["NVML_DOUBLE"].split(",")


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    pass


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return 1


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetName(handle: int) -> str:
    return _gpu()[0]


def nvmlDeviceGetCudaComputeCapability(handle: int) -> tuple[int, ...]:
    return tuple(int(part) for part in _gpu()[2].split("."))


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=int(_gpu()[1]) * 2**30)


def nvmlDeviceGetEccMode(handle: int) -> tuple[int, int]:
    return 1, 1


def nvmlDeviceGetMigMode(handle: int) -> tuple[int, int]:
    return 0, 0


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    return 13000


def nvmlSystemGetDriverVersion() -> str:
    return "580.159.04"
