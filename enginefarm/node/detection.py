"""Detect the platform and the host of this machine: from NVML if there is an NVIDIA driver, else from the kernel.

Versions of toolchains come from package metadata. No toolchain is imported: detection must take milliseconds, and must
work where CUDA is broken.
"""

from __future__ import annotations

import json
import platform as host
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import psutil
import pynvml

from enginefarm.contract.errors import PlatformMismatch
from enginefarm.contract.host import Fingerprint, Host
from enginefarm.contract.platform import Arch, CpuIsa, Platform

# The x86-64 psABI levels, by the flags of /proc/cpuinfo. A processor has a level only with all levels below it.
_LEVELS: tuple[tuple[CpuIsa, frozenset[str]], ...] = (
    ("x86-64-v2", frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"})),
    ("x86-64-v3", frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})),
    ("x86-64-v4", frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
)
_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt_cu13", "tensorrt_cu12")
_TENSORRT_LIBRARIES = (
    "usr/lib/*-linux-gnu/libnvinfer.so.*",
    "usr/local/tensorrt/lib/libnvinfer.so.*",
    "usr/local/tensorrt/targets/*/lib/libnvinfer.so.*",
)
# Written by NVIDIA's toolkit packages and images.
_CUDA_TOOLKIT = Path("/usr/local/cuda/version.json")


def detect(*, prefer_gpu: bool = True) -> Fingerprint:
    """Return the platform and the host of this machine.

    Args:
        prefer_gpu: describe the GPU if there is one; if False, describe the processor.

    Raises:
        PlatformMismatch: its GPUs are unlike, so that no one platform describes it; or its processor architecture is
            unknown to the farm.
    """
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
    """Return the processor architecture by its Linux name. Raises PlatformMismatch for one that the farm lacks."""
    machine = host.machine().lower()
    # The same architecture has another name in Debian, in Docker and on macOS.
    match machine:
        case "x86_64" | "amd64":
            return "x86_64"
        case "aarch64" | "arm64":
            return "aarch64"
    raise PlatformMismatch(f"the processor architecture is {machine!r}, the farm supports x86_64 and aarch64")


def cpu_isa() -> CpuIsa:
    """Return the highest instruction set level that this processor has completely."""
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
    """Return the version of the first installed package of `names`, from metadata alone; None if none is installed."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def tensorrt_version() -> str | None:
    """Return TensorRT's version, of at most four numbers; None if it is not installed.

    It comes from the Python package's metadata, else from the library's name, such as `libnvinfer.so.10.13.3`.
    """
    version = package_version(*_TENSORRT_PACKAGES) or _library_version()
    if version is None:
        return None
    return ".".join(version.split("+")[0].split(".")[:4])


def _library_version(root: Path = Path("/")) -> str | None:
    versions = [path.name.partition(".so.")[2] for pattern in _TENSORRT_LIBRARIES for path in root.glob(pattern)]
    # `libnvinfer.so.10` links to `libnvinfer.so.10.13.3`: the longest name has the complete version.
    return max(versions, key=len, default=None)


def cuda_toolkit_version() -> str | None:
    """Return the version of the installed CUDA toolkit; None if there is none, or if it does not state its version.

    It can differ from `Platform.cuda`, which is the newest CUDA that the driver supports.
    """
    try:
        return str(json.loads(_CUDA_TOOLKIT.read_bytes())["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _host(gpus: int) -> Host:
    packages = ("torch", "transformers", "tensorrt_llm", *_TENSORRT_PACKAGES[:3])
    versions: dict[str, str] = {}
    for name in packages:
        version = package_version(name)
        if version:
            versions[name] = version
    toolkit = cuda_toolkit_version()
    if toolkit:
        versions["cuda"] = toolkit
    return Host(
        name=host.node(),
        cpu=_cpuinfo("model name") or host.processor() or arch(),
        cores=psutil.cpu_count(logical=True) or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        gpus=gpus,
        versions=versions,
    )


def _cpuinfo(field: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; "" if it has none, as on aarch64."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


@contextmanager
def _nvml() -> Iterator[bool]:
    """Open NVML; yield False on a machine without an NVIDIA driver, which is no error."""
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
    with _nvml() as has_driver:
        if not has_driver:
            return []
        return [_gpu(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]


def _gpu(handle: pynvml.c_nvmlDevice_t) -> Platform:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 13010 is CUDA 13.1
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
    """Return the MIG profile that this process sees, such as `1g.10gb`; None for a whole GPU."""
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
        if not current:
            return None
        name = str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)))
    except pynvml.NVMLError:  # the card has no MIG, or no instance was created yet
        return None
    return name.rpartition("MIG ")[2]
