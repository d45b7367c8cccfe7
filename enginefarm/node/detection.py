"""Detect the platform and the host of this machine: from NVML if there is an NVIDIA driver, else from the kernel.

Versions of toolchains come from package metadata: of the Python that has TensorRT-LLM, else of this one. No toolchain
is imported: detection must take milliseconds, and must work where CUDA is broken.
"""

from __future__ import annotations

import json
import os
import platform as system
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import psutil
import pynvml

from enginefarm.contract.errors import PlatformMismatch
from enginefarm.contract.host import Fingerprint, Host
from enginefarm.contract.platform import Arch, CpuIsa, Platform
from enginefarm.node.gpu_units import Card, visible_cards, visible_units
from enginefarm.node.image_python import TENSORRT_PACKAGES, find_image_python, own_packages

# The x86-64 psABI levels, by the flags of /proc/cpuinfo. A processor has a level only with all levels below it.
_LEVELS: tuple[tuple[CpuIsa, frozenset[str]], ...] = (
    ("x86-64-v2", frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"})),
    ("x86-64-v3", frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})),
    ("x86-64-v4", frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
)
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
    gpus: list[Platform] = []
    cards: list[Card] = []
    if prefer_gpu:
        gpus, cards = _gpus()
    # The programs of TensorRT-LLM run in the image's Python, so its packages count, not those of the farm's own one.
    # It is not asked where nothing can use TensorRT-LLM: that takes as long as a start of Python.
    packages = own_packages()
    if gpus or shutil.which("trtllm-build"):
        image_python = find_image_python()
        if image_python is not None:
            for name in TENSORRT_PACKAGES:
                packages.pop(name, None)
            packages |= {**image_python.packages, "python": image_python.version}
    if gpus:
        tensorrt = tensorrt_version(packages)
        gpus = [Platform(**gpu.model_dump() | {"tensorrt": tensorrt}) for gpu in gpus]
    visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if any(gpu != gpus[0] for gpu in gpus):
        labels = ", ".join(gpu.label() for gpu in gpus)
        gpus = [gpus[index] for index in visible_cards(cards, visible_devices, os.environ.get("CUDA_DEVICE_ORDER"))]
        if any(gpu != gpus[0] for gpu in gpus):
            raise PlatformMismatch(
                f"this machine has unlike GPUs ({labels}): give each worker a container with GPUs of one kind, or name "
                "their UUIDs (nvidia-smi -L) in CUDA_VISIBLE_DEVICES"
            )
    machine = gpus[0] if gpus else Platform(arch=arch(), cpu_isa=cpu_isa())

    # Recorded with what this machine builds, to explain a failure later; no key contains it.
    versions = dict(packages)
    toolkit = cuda_toolkit_version()
    if toolkit:
        versions["cuda"] = toolkit
    host = Host(
        name=system.node(),
        cpu=_cpuinfo("model name") or system.processor() or arch(),
        cores=psutil.cpu_count(logical=True) or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        gpus=len(gpus),
        gpu_uuids=visible_units(cards, visible_devices),
        versions=versions,
    )
    return Fingerprint(platform=machine, host=host)


def arch() -> Arch:
    """Return the processor architecture by its Linux name. Raises PlatformMismatch for one that the farm lacks."""
    machine = system.machine().lower()
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
        # A virtual machine can hide a flag of a lower level: code for the levels above it would crash there.
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


def tensorrt_version(packages: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """Return TensorRT's version, of at most four numbers; None if it is not installed.

    It comes from its Python package in `packages` (name → version), else from the name of the library below `root`,
    such as `libnvinfer.so.10.13.3`.
    """
    version = next((packages[name] for name in TENSORRT_PACKAGES if name in packages), None)
    if version is None:
        # An image can have the library without the Python package. `libnvinfer.so.10` links to
        # `libnvinfer.so.10.13.3`: the longest name has the complete version.
        version = ""
        for pattern in _TENSORRT_LIBRARIES:
            for path in root.glob(pattern):
                version = max(version, path.name.partition(".so.")[2], key=len)
    if not version:
        return None
    # A wheel's version can end in a local part such as `+cu12`, which is not TensorRT's own.
    return ".".join(version.split("+")[0].split(".")[:4])


def cuda_toolkit_version() -> str | None:
    """Return the version of the installed CUDA toolkit; None if there is none, or if it does not state its version.

    It can differ from `Platform.cuda`, which is the newest CUDA that the driver supports.
    """
    try:
        return str(json.loads(_CUDA_TOOLKIT.read_bytes())["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cpuinfo(field: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; "" if it has none, as on aarch64."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _gpus() -> tuple[list[Platform], list[Card]]:
    """Return the platform of each GPU, without a TensorRT, and its UUIDs.

    None on a machine without an NVIDIA driver, which is no error.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return [], []
    gpus = []
    cards = []
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 13010 is CUDA 13.1
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            try:
                ecc, _pending = pynvml.nvmlDeviceGetEccMode(handle)
            except pynvml.NVMLError:  # the card has no ECC
                ecc = False
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
            except pynvml.NVMLError:  # a GPU without memory of its own, such as GB10, uses that of the machine
                memory = psutil.virtual_memory().total
            gpus.append(
                Platform(
                    arch=arch(),
                    gpu=pynvml.nvmlDeviceGetName(handle),
                    sm=f"{major}{minor}",
                    # Whole GiB: the size in bytes differs by a few MiB between drivers of one branch.
                    gpu_memory_gib=round(memory / 2**30),
                    mig=_mig(handle),
                    ecc=bool(ecc),
                    cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
                    driver=pynvml.nvmlSystemGetDriverVersion(),
                )
            )
            cards.append(Card(_text(pynvml.nvmlDeviceGetUUID(handle)), _mig_uuids(handle)))
    finally:
        pynvml.nvmlShutdown()
    return gpus, cards


def _mig_uuids(handle: pynvml.c_nvmlDevice_t) -> tuple[str, ...]:
    """Return the UUIDs of the MIG devices of a GPU that this process sees; none for a whole GPU."""
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
        if not current:
            return ()
        places = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except pynvml.NVMLError:  # the card has no MIG
        return ()
    uuids = []
    for place in range(places):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except pynvml.NVMLError:  # no instance, or one that belongs to another container
            continue
        uuids.append(_text(pynvml.nvmlDeviceGetUUID(device)))
    return tuple(uuids)


def _text(value: str | bytes) -> str:
    """Older NVML bindings return bytes."""
    return value.decode() if isinstance(value, bytes) else value


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
