"""The platform (the "fingerprint"): the fields of a machine that an engine is bound to.

`Platform` describes a complete machine; `PlatformSelector` describes the fields that a request names. A toolchain
chooses the fields that its engines are bound to (`binds_to`); this module decides in which form they enter a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

DriverBinding = Literal["branch", "exact"]

_MAX_LABEL = 100  # characters; a queue's name has a label in it, and the catalogue stores queues of 200
_GPU_ONLY = ("sm", "gpu_memory_gib", "mig", "ecc", "cuda", "driver", "tensorrt")


def plain_sm(value: object) -> object:
    """Fold the spellings of a compute capability: `9.0`, `sm_90` and `90` mean the same."""
    if isinstance(value, str):
        return value.lower().removeprefix("sm_").removeprefix("sm").replace(".", "")
    return value


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+){0,3}$", max_length=32)]
Sm = Annotated[
    str,
    StringConstraints(max_length=16),
    BeforeValidator(plain_sm),
    StringConstraints(pattern=r"^[0-9]{2,3}[af]?$"),
]
Os = Literal["linux"]
Arch = Literal["x86_64", "aarch64"]
CpuIsa = Literal["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"]


class PlatformSelector(BaseModel):
    """The platform fields that a request demands; `null` leaves a field to the fleet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    os: Os | None = None
    arch: Arch | None = None
    gpu: Name | None = Field(
        default=None, description="product name as NVML gives it", examples=["NVIDIA H100 80GB HBM3"]
    )
    sm: Sm | None = Field(default=None, description="compute capability without the dot", examples=["90"])
    gpu_memory_gib: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None,
        description="GPU memory, rounded to whole GiB: drivers of one branch differ by a few MiB",
    )
    mig: Name | None = Field(default=None, description="MIG profile, null for a whole GPU", examples=["1g.10gb"])
    ecc: bool | None = Field(default=None, description="whether ECC is on; false where the GPU has none")
    cuda: Version | None = Field(default=None, description="CUDA version that the driver serves", examples=["13.0"])
    driver: Version | None = Field(default=None, description="NVIDIA driver", examples=["580.159.04"])
    tensorrt: Version | None = Field(default=None, description="TensorRT, where the toolchain is built on it")
    cpu_isa: CpuIsa | None = Field(default=None, description="instruction set level of a CPU engine")

    @model_validator(mode="after")
    def cpu_or_gpu(self) -> PlatformSelector:
        if self.cpu_isa and (self.gpu or self.sm):
            raise ValueError("cpu_isa asks for a CPU engine, gpu and sm for a GPU engine: give one or the other")
        return self

    def matches(self, platform: Platform, binding: DriverBinding) -> bool:
        """Return whether `platform` has every field that this selector names. `binding`: how drivers compare."""
        # A field that the selector leaves open is met by any machine.
        required = self.model_dump(exclude_none=True)
        actual = platform.model_dump()
        if binding == "branch":
            required = _by_branch(required)
            actual = _by_branch(actual)
        return all(actual[field] == value for field, value in required.items())

    def missing(self, bound: frozenset[str]) -> tuple[str, ...]:
        """Return the fields that a request must add before it describes a machine that the farm has never seen.

        `bound` are the fields that an engine is bound to. Linux, x86_64 and a GPU without MIG are assumed: they need
        not be given.
        """
        if self.cpu_isa:
            return ()  # os and arch have defaults, and a CPU engine is bound to no other field
        if "gpu" not in bound:
            return ("cpu_isa",)
        # Without `mig`: a null there means a whole GPU, and is an answer.
        needed = ("gpu", "sm", "gpu_memory_gib", "ecc", "cuda", "driver", "tensorrt")
        return tuple(name for name in needed if name in bound and getattr(self, name) is None)

    def complete(self) -> Platform:
        """Return the machine that this selector describes. Call it only if nothing is `missing()`.

        Raises:
            ValidationError: the fields describe no machine.
        """
        defaults = {"os": "linux", "arch": _default_arch(self.cpu_isa)}
        return Platform(**(defaults | self.model_dump(exclude_none=True)))


class Platform(BaseModel):
    """One machine. Without `gpu` it is a CPU machine and `cpu_isa` binds its engines."""

    # Unknown fields are dropped: a newer farm may describe a machine by more fields than this client knows. What a
    # caller writes is a `PlatformSelector`, which refuses them.
    model_config = ConfigDict(frozen=True, extra="ignore")

    os: Os = "linux"
    arch: Arch
    gpu: Name | None = None
    sm: Sm | None = None
    gpu_memory_gib: int | None = None
    mig: Name | None = None
    ecc: bool | None = None
    cuda: Version | None = None
    driver: Version | None = None
    tensorrt: Version | None = None
    cpu_isa: CpuIsa | None = None

    @model_validator(mode="after")
    def describe_cpu_or_gpu(self) -> Platform:
        # The key of an engine must not depend on a field that its machine cannot have.
        if self.gpu is None:
            gpu_fields = [name for name in _GPU_ONLY if getattr(self, name) is not None]
            if gpu_fields:
                raise ValueError(f"{', '.join(gpu_fields)} without gpu")
            if self.cpu_isa is None:
                raise ValueError("a platform without gpu needs cpu_isa")
        # An engine contains code for one compute capability: without it, no toolchain knows what to compile for.
        elif self.sm is None:
            raise ValueError("a platform with gpu needs sm")
        return self

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device that its engines run on, by PyTorch's name."""
        return "cpu" if self.gpu is None else "cuda"

    def bound(self, fields: frozenset[str], binding: DriverBinding) -> dict[str, str | int | bool | None]:
        """Return the fields that an engine built here is bound to, in the form in which they enter the key.

        The toolchain chooses `fields`. Of these, a CPU engine is bound to os, arch and cpu_isa, and a GPU engine to all
        but the CPU's instruction set.
        """
        relevant = {"os", "arch", "cpu_isa"} if self.gpu is None else set(PlatformSelector.model_fields) - {"cpu_isa"}
        document = {name: getattr(self, name) for name in sorted(relevant & fields)}
        if binding == "branch":
            return _by_branch(document)
        return document

    def label(self) -> str:
        """Return a short name for people and queues: `h100-80gb-hbm3-sm90`, `cpu-x86-64-v3`."""
        if self.gpu is None:
            return f"cpu-{self.cpu_isa}"
        # NVML puts the maker in front of every name; the label is part of queue names, so it has no spaces.
        name = self.gpu.lower().removeprefix("nvidia ").replace(" ", "-")
        label = f"{name}-sm{self.sm}"
        if self.mig:
            label += f"-{self.mig}"
        if len(label) <= _MAX_LABEL:
            return label
        # Only an invented name is that long. The digest keeps two of them apart.
        digest = hashlib.sha256(label.encode()).hexdigest()[:8]
        return f"{label[: _MAX_LABEL - 9]}-{digest}"


def differences(
    engine: Platform, node: Platform, fields: frozenset[str], binding: DriverBinding
) -> dict[str, tuple[object, object]]:
    """Return what keeps an engine built on `engine` from running on `node`: (needed, actual) by field.

    `fields` are those that the toolchain binds engines to. Instruction sets are levels: an x86-64-v3 engine runs on
    x86-64-v4.
    """
    needed = engine.bound(fields, binding)
    actual = _comparable(node, binding)
    unlike: dict[str, tuple[object, object]] = {}
    for name, value in needed.items():
        if actual[name] != value:
            unlike[name] = (value, actual[name])
    return _without_higher_isa(unlike)


def selector_differences(
    bound: Mapping[str, Any], node: PlatformSelector, binding: str
) -> tuple[dict[str, tuple[object, object]], list[str]]:
    """Compare an engine's bound fields with a node that may not name all of its own.

    `bound` is what `Platform.bound` returned when the engine was built. Linux, x86_64 and a GPU without MIG are
    assumed, as in `PlatformSelector.missing`.

    Returns:
        What keeps the engine from running on `node`, as in `differences`; and the bound fields that `node` leaves
        open, sorted.
    """
    actual = _comparable(node, binding)
    on_gpu = any(actual[name] is not None for name in ("gpu", *_GPU_ONLY))
    if on_gpu or node.cpu_isa:
        actual["os"] = actual["os"] or "linux"
        actual["arch"] = actual["arch"] or _default_arch(node.cpu_isa)
    # A field can be compared if the node names it, or if its null is an answer: a GPU node without `mig` has a whole
    # GPU, and a CPU node has no GPU.
    comparable = {name for name, value in actual.items() if value is not None}
    if on_gpu:
        comparable |= {"mig", "cpu_isa"}
    if node.cpu_isa:
        comparable |= {"gpu", *_GPU_ONLY}
    unlike: dict[str, tuple[object, object]] = {}
    unchecked = []
    for name, needed in bound.items():
        if name in comparable and actual[name] != needed:
            unlike[name] = (needed, actual[name])
        elif name not in comparable and needed is not None:
            unchecked.append(name)
    return _without_higher_isa(unlike), sorted(unchecked)


def _comparable(machine: Platform | PlatformSelector, binding: str) -> dict[str, Any]:
    """Return the fields of a machine in the form in which they enter a key."""
    fields = machine.model_dump()
    if binding == "exact":
        return fields
    return _by_branch(fields)


def _by_branch(fields: dict[str, Any]) -> dict[str, Any]:
    """Cut the driver to its branch: `580.159.04` → `580`. Engines load under every patch release of a branch."""
    # ADR 0004: fleets are patched node by node, and an exact version would discard every engine with each patch.
    driver = fields.get("driver")
    if not driver:
        return fields
    return fields | {"driver": str(driver).split(".")[0]}


def _without_higher_isa(unlike: dict[str, tuple[object, object]]) -> dict[str, tuple[object, object]]:
    """Drop the instruction set from `unlike` if the node's level is higher than the engine's."""
    if "cpu_isa" in unlike:
        needed, actual = unlike["cpu_isa"]
        if _x86_level(actual) >= _x86_level(needed) > 0:
            del unlike["cpu_isa"]
    return unlike


def _x86_level(isa: object) -> int:
    """Return 1 to 4 for the levels of x86-64; 0 for anything else, which has no order."""
    return {"x86-64": 1, "x86-64-v2": 2, "x86-64-v3": 3, "x86-64-v4": 4}.get(str(isa), 0)


def _default_arch(cpu_isa: CpuIsa | None) -> Arch:
    if cpu_isa == "aarch64":
        return "aarch64"
    return "x86_64"
