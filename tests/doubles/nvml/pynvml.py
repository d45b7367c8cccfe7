"""Double of the NVML bindings with one GPU, for a worker on a machine without one. Its folder is put on PYTHONPATH.

`NVML_DOUBLE` is the one GPU that it has: name, memory in GiB (empty: it has none of its own), compute
capability, and after that its UUID if two workers are to see one GPU, as "NVIDIA L4,24,8.9,GPU-1". A UUID with MIG- is
that of its one MIG device. More UUIDs behind it are those of more GPUs of the same kind.
"""

# ruff: noqa: N802  # the functions have NVML's names

import os
from types import SimpleNamespace


def _gpu() -> list[str]:
    """Read at each call: tests change the variable after this module is imported."""
    return os.environ["NVML_DOUBLE"].split(",")


_MIG_DEVICE = 100


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    pass


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return max(1, len(_gpu()[3:]))


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetName(handle: int) -> str:
    return _gpu()[0]


def nvmlDeviceGetCudaComputeCapability(handle: int) -> tuple[int, ...]:
    return tuple(int(part) for part in _gpu()[2].split("."))


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    if not _gpu()[1]:
        raise NVMLError("Not Supported")
    return SimpleNamespace(total=int(_gpu()[1]) * 2**30)


def nvmlDeviceGetEccMode(handle: int) -> tuple[int, int]:
    return 1, 1


def nvmlDeviceGetUUID(handle: int) -> str:
    """Of a machine's own GPU unless NVML_DOUBLE names one."""
    given = _gpu()[3:]
    if not given:
        return f"GPU-{os.getpid()}"
    return given[0] if handle == _MIG_DEVICE else given[handle].replace("MIG-", "GPU-of-MIG-")


def nvmlDeviceGetMigMode(handle: int) -> tuple[int, int]:
    is_divided = any(uuid.startswith("MIG-") for uuid in _gpu()[3:])
    return int(is_divided), int(is_divided)


def nvmlDeviceGetMaxMigDeviceCount(handle: int) -> int:
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle: int, index: int) -> int:
    if index:
        raise NVMLError("not found")
    return _MIG_DEVICE


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    return 13000


def nvmlSystemGetDriverVersion() -> str:
    return "580.159.04"
