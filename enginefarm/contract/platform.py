"""The platform (the "fingerprint"): what a machine is, as far as an engine is bound to it.

`Platform` is a whole machine; `PlatformSelector` is the part of one that a request names. Which fields
enter a key, and in which form, is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

DriverBinding = Literal["branch", "exact"]

_GPU_ONLY = ("sm", "gpu_memory_gib", "mig", "ecc", "cuda", "driver", "tensorrt")


def _plain_sm(value: object) -> object:
    """`9.0`, `sm_90` and `90` are one compute capability."""
    if isinstance(value, str):
        return value.lower().removeprefix("sm_").removeprefix("sm").replace(".", "")
    return value


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+){0,3}$", max_length=32)]
Sm = Annotated[str, BeforeValidator(_plain_sm), StringConstraints(pattern=r"^\d{2,3}[af]?$")]
Os = Literal["linux"]
Arch = Literal["x86_64", "aarch64"]
CpuIsa = Literal["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"]


class PlatformSelector(BaseModel):
    """The fields of a platform that a request insists on; `null` leaves a field to the fleet."""

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
    def _cpu_or_gpu(self) -> PlatformSelector:
        if self.cpu_isa and (self.gpu or self.sm):
            raise ValueError("cpu_isa asks for a CPU engine, gpu and sm for a GPU engine: give one or the other")
        return self

    def matches(self, platform: Platform, binding: DriverBinding) -> bool:
        """Whether `platform` has every field that is given here."""
        ours = self.model_dump(exclude_none=True)
        theirs = platform.model_dump()
        if binding == "branch":
            ours, theirs = _by_branch(ours), _by_branch(theirs)
        return all(theirs[field] == value for field, value in ours.items())

    def missing(self, bound: frozenset[str]) -> tuple[str, ...]:
        """Which of the fields that an engine is `bound` to must still be given before this names a machine that
        the farm has never seen. A whole GPU (`mig` null) on Linux and x86_64 need not be said."""
        if self.cpu_isa:
            return ()
        if "gpu" not in bound:
            return ("cpu_isa",)
        needed = ("gpu", "sm", "gpu_memory_gib", "ecc", "cuda", "driver", "tensorrt")
        return tuple(name for name in needed if name in bound and getattr(self, name) is None)

    def complete(self) -> Platform:
        """This selector as a whole machine; only if nothing is `missing()`."""
        given = self.model_dump(exclude_none=True)
        return Platform(**{"os": "linux", "arch": "aarch64" if self.cpu_isa == "aarch64" else "x86_64"} | given)


class Platform(BaseModel):
    """One machine. Without `gpu` it is a CPU machine and `cpu_isa` binds its engines."""

    # A newer farm may say more of a machine than this client knows. What a caller writes is a `PlatformSelector`.
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
    def _whole(self) -> Platform:
        if self.gpu is None:
            if given := [name for name in _GPU_ONLY if getattr(self, name) is not None]:
                raise ValueError(f"{', '.join(given)} without gpu")
            if self.cpu_isa is None:
                raise ValueError("a platform without gpu needs cpu_isa")
        elif self.sm is None:
            raise ValueError("a platform with gpu needs sm")
        return self

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cpu" if self.gpu is None else "cuda"

    def bound(self, fields: frozenset[str], binding: DriverBinding) -> dict[str, str | int | bool | None]:
        """The part that an engine is bound to, as it enters the key.

        `fields` is the toolchain's choice. A CPU engine is bound to os, arch and cpu_isa; a GPU engine to
        everything but the CPU's instruction set.
        """
        relevant = {"os", "arch", "cpu_isa"} if self.gpu is None else set(PlatformSelector.model_fields) - {"cpu_isa"}
        document = {name: getattr(self, name) for name in sorted(relevant & fields)}
        return _by_branch(document) if binding == "branch" else document

    def label(self) -> str:
        """A short name for people and queues: `h100-80gb-hbm3-sm90`, `cpu-x86-64-v3`."""
        if self.gpu is None:
            return f"cpu-{self.cpu_isa}"
        name = self.gpu.lower().removeprefix("nvidia ").replace(" ", "-")
        return f"{name}-sm{self.sm}" + (f"-{self.mig}" if self.mig else "")


def _by_branch(fields: dict[str, object]) -> dict:  # type: ignore[type-arg]  # a JSON object, whichever came in
    """The driver cut to its branch: `580.159.04` → `580`. Patch releases of a branch keep engines loadable."""
    driver = fields.get("driver")
    return fields | {"driver": str(driver).split(".")[0]} if driver else fields


def differences(
    engine: Platform, here: Platform, fields: frozenset[str], binding: DriverBinding
) -> dict[str, tuple[object, object]]:
    """Field by field what keeps an engine for `engine` from running on `here`: (needed, found).

    Instruction sets are levels: an x86-64-v3 engine runs on x86-64-v4.
    """
    needed = engine.bound(fields, binding)
    found = here.model_dump() if binding == "exact" else _by_branch(here.model_dump())
    unlike: dict[str, tuple[object, object]] = {
        name: (value, found[name]) for name, value in needed.items() if found[name] != value
    }
    if "cpu_isa" in unlike and _level(found["cpu_isa"]) >= _level(needed["cpu_isa"]) > 0:
        del unlike["cpu_isa"]
    return unlike


def selector_differences(
    bound: Mapping[str, Any], here: PlatformSelector, binding: str
) -> tuple[dict[str, tuple[object, object]], list[str]]:
    """What keeps an engine that is `bound` to these fields from running `here`, as in `differences`, and the fields
    that `here` leaves open. A whole GPU (`mig` null) on Linux and x86_64 need not be said."""
    found = here.model_dump() if binding == "exact" else _by_branch(here.model_dump())
    on_gpu = any(found[name] is not None for name in ("gpu", *_GPU_ONLY))
    if on_gpu or here.cpu_isa:
        found["os"] = found["os"] or "linux"
        found["arch"] = found["arch"] or ("aarch64" if here.cpu_isa == "aarch64" else "x86_64")
    known = {name for name in found if found[name] is not None}
    known |= {"mig", "cpu_isa"} if on_gpu else set()
    known |= {"gpu", *_GPU_ONLY} if here.cpu_isa else set()
    unlike = {name: (needed, found[name]) for name, needed in bound.items() if name in known and found[name] != needed}
    if "cpu_isa" in unlike and _level(found["cpu_isa"]) >= _level(bound["cpu_isa"]) > 0:
        del unlike["cpu_isa"]
    return unlike, sorted(name for name, needed in bound.items() if name not in known and needed is not None)


def _level(isa: object) -> int:
    """x86-64 levels are 1 to 4; anything else has no order."""
    return {"x86-64": 1, "x86-64-v2": 2, "x86-64-v3": 3, "x86-64-v4": 4}.get(str(isa), 0)
