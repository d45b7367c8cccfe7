"""Ask this machine what it is: NVML where there is an NVIDIA driver, the kernel where there is not.

Toolchain versions come from package metadata. Nothing heavy is imported: asking must cost milliseconds
and must work where CUDA is broken.
"""

from __future__ import annotations

import json
import platform as host
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import get_args

import psutil
import pynvml

from enginefarm.contract.errors import PlatformMismatch
from enginefarm.contract.host import Fingerprint, Host
from enginefarm.contract.platform import Arch, CpuIsa, Platform

# The x86-64 psABI levels, by the flags that Linux prints. A level counts only with all levels below it.
_LEVELS: tuple[tuple[CpuIsa, frozenset[str]], ...] = (
    ("x86-64-v2", frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"})),
    ("x86-64-v3", frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})),
    ("x86-64-v4", frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
)
_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt_cu13", "tensorrt_cu12")
_TENSORRT_FOLDERS = (
    "usr/lib/*-linux-gnu/libnvinfer.so.*",
    "usr/local/tensorrt/lib/libnvinfer.so.*",
    "usr/local/tensorrt/targets/*/lib/libnvinfer.so.*",
)
_CUDA_TOOLKIT = Path("/usr/local/cuda/version.json")


def detect(*, prefer_gpu: bool = True) -> Fingerprint:
    """This machine. The first GPU speaks for it; a machine with unlike GPUs is refused."""
    gpus = _gpus() if prefer_gpu else []
    if len({gpu.model_dump_json() for gpu in gpus}) > 1:
        raise PlatformMismatch(
            "this machine has unlike GPUs ("
            + ", ".join(gpu.label() for gpu in gpus)
            + "): give each worker a container with GPUs of one kind"
        )
    machine = gpus[0] if gpus else Platform(arch=arch(), cpu_isa=cpu_isa())
    return Fingerprint(platform=machine, host=_host(len(gpus)))


def arch() -> Arch:
    machine = host.machine().lower()
    for known in get_args(Arch):
        if machine in {known, {"x86_64": "amd64", "aarch64": "arm64"}[known]}:
            return known  # type: ignore[no-any-return]  # get_args() forgets that these are the literals
    raise PlatformMismatch(
        f"the processor architecture {machine!r} is not one the farm knows: expected x86_64 or aarch64"
    )


def cpu_isa() -> CpuIsa:
    """The highest instruction set level that this processor has in full."""
    if arch() == "aarch64":
        return "aarch64"
    flags = frozenset(_cpuinfo("flags").split())
    isa: CpuIsa = "x86-64"
    for level, needed in _LEVELS:
        if not needed <= flags:
            break
        isa = level
    return isa


def package_version(*names: str) -> str | None:
    """The version of the first of `names` that is installed, from metadata alone."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def tensorrt_version() -> str | None:
    """From the Python package's metadata, else from the name of the library, as in `libnvinfer.so.10.13.3`."""
    found = package_version(*_TENSORRT_PACKAGES) or _library_version()
    return ".".join(found.split("+")[0].split(".")[:4]) if found else None


def _library_version(root: Path = Path("/")) -> str | None:
    found = (path.name.partition(".so.")[2] for folder in _TENSORRT_FOLDERS for path in root.glob(folder))
    return max(found, key=len, default=None)  # beside it are links that name less of the version


def cuda_toolkit_version() -> str | None:
    """Of the toolkit that is installed; the driver may serve a newer CUDA."""
    try:
        return str(json.loads(_CUDA_TOOLKIT.read_bytes())["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):  # no toolkit, or one that does not say
        return None


def _host(gpus: int) -> Host:
    packages = ("torch", "transformers", "tensorrt_llm", *_TENSORRT_PACKAGES[:3])
    versions = {name: found for name in packages if (found := package_version(name))}
    versions |= {"cuda": toolkit} if (toolkit := cuda_toolkit_version()) else {}
    return Host(
        name=host.node(),
        cpu=_cpuinfo("model name") or host.processor() or arch(),
        cores=psutil.cpu_count(logical=True) or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        gpus=gpus,
        versions=versions,
    )


def _cpuinfo(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


@contextmanager
def _nvml() -> Iterator[bool]:
    """True inside while NVML answers; False on a machine without an NVIDIA driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def _gpus() -> list[Platform]:
    with _nvml() as there:
        if not there:
            return []
        return [_gpu(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]


def _gpu(handle: pynvml.c_nvmlDevice_t) -> Platform:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    return Platform(
        arch=arch(),
        gpu=pynvml.nvmlDeviceGetName(handle),
        sm=f"{major}{minor}",
        gpu_memory_gib=round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30),
        mig=_mig(handle),
        ecc=_ecc(handle),
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
        driver=pynvml.nvmlSystemGetDriverVersion(),
        tensorrt=tensorrt_version(),
    )


def _ecc(handle: pynvml.c_nvmlDevice_t) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetEccMode(handle)
    except pynvml.NVMLError:  # the card has no ECC
        return False
    return bool(current)


def _mig(handle: pynvml.c_nvmlDevice_t) -> str | None:
    """The MIG profile this process sees, such as `1g.10gb`; None for a whole GPU."""
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
        if not current:
            return None
        name = str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)))
    except pynvml.NVMLError:  # no MIG on this card, or no instance made yet
        return None
    return name.rpartition("MIG ")[2]
