"""Read the corpus of builds that users posted, and send one through the steps of a submit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Arch, Platform
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from models.sources.inspection.config_facts import read_facts
from toolchains.inputs import CALIBRATION, references
from toolchains.toolchain import Directories
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.toolchain import TensorRTLLM

FOLDER = Path(__file__).parent
TOOLCHAIN = TensorRTLLM(lambda: Installation(Path("/examples")))
LIMITS = {"max_batch_size": 8, "max_input_len": 1024, "max_output_len": 256}
PRECISION = {"dtype": "float16"}
FILES = ("config.json", "model.safetensors", "tokenizer.json")


def _gpu(name: str, sm: str, gib: int, arch: Arch = "x86_64") -> Platform:
    return Platform(arch=arch, gpu=name, sm=sm, gpu_memory_gib=gib, cuda="13.0", driver="580.159.04")


GPUS = {
    "P100": _gpu("Tesla P100-PCIE-16GB", "60", 16),
    "V100": _gpu("Tesla V100-SXM2-32GB", "70", 32),
    "T4": _gpu("Tesla T4", "75", 16),
    "A100": _gpu("NVIDIA A100-SXM4-80GB", "80", 80),
    "A10": _gpu("NVIDIA A10", "86", 24),
    "RTX 3090": _gpu("NVIDIA GeForce RTX 3090", "86", 24),
    "L4": _gpu("NVIDIA L4", "89", 24),
    "L40S": _gpu("NVIDIA L40S", "89", 48),
    "RTX 4090": _gpu("NVIDIA GeForce RTX 4090", "89", 24),
    "H100": _gpu("NVIDIA H100 80GB HBM3", "90", 80),
    "H20": _gpu("NVIDIA H20", "90", 96),
    "GH200": _gpu("NVIDIA GH200 480GB", "90", 96, "aarch64"),
    "B200": _gpu("NVIDIA B200", "100", 180),
    "B300": _gpu("NVIDIA B300", "103", 270),
    "RTX 5090": _gpu("NVIDIA GeForce RTX 5090", "120", 32),
    "GB200": _gpu("NVIDIA GB200", "100", 186, "aarch64"),
    "RTX PRO 6000": _gpu("NVIDIA RTX PRO 6000 Blackwell Server Edition", "120", 96),
    "GB10": _gpu("NVIDIA GB10", "121", 120, "aarch64"),
    "Xavier": _gpu("Jetson AGX Xavier", "72", 32, "aarch64"),
    "Orin": _gpu("NVIDIA Jetson AGX Orin", "87", 64, "aarch64"),
    "Thor": _gpu("NVIDIA Thor", "110", 128, "aarch64"),
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(_Frozen):
    """A published model. `config` has the fields of its config.json that anything reads, with their real values."""

    source: str
    config: dict[str, Any]
    weight_bytes: int = 15_000_000_000
    files: tuple[str, ...] = FILES
    trusted: bool = False

    def facts(self) -> ModelFacts:
        config = json.dumps(self.config).encode()
        return read_facts("hf:org/model", config, [self.weight_bytes], self.files, trusted=self.trusted)


class Finding(_Frozen):
    """A refusal: its code, and pieces of its text."""

    code: str
    says: tuple[str, ...] = ()


class Accepted(_Frozen):
    """Pieces of the command lines of both stages, and the codes of notes."""

    convert: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Row(_Frozen):
    """One build that somebody tried. README.md describes the fields."""

    source: str
    happened: str
    release: str
    model: str
    gpu: str = "H100"
    spec: dict[str, Any] = {}
    second_models: dict[str, dict[str, Any]] = {}
    refused: tuple[Finding, ...] = ()
    mended: tuple[dict[str, Any], ...] = ()
    accepted: Accepted | None = None

    @model_validator(mode="after")
    def _comes_to_one_end(self) -> Row:
        if bool(self.refused) == (self.accepted is not None):
            raise ValueError("a row is either refused or accepted")
        return self

    def changed(self, changes: Mapping[str, Any]) -> Row:
        """The row after a change that makes it acceptable."""
        of_row = {name: value for name, value in changes.items() if name in ("release", "model", "gpu")}
        of_spec = {name: value for name, value in changes.items() if name not in of_row}
        return self.model_copy(update={**of_row, "spec": self.spec | of_spec})


class _File(_Frozen):
    description: str
    models: dict[str, Model] = {}
    rows: tuple[Row, ...] = ()


@cache
def _files() -> Mapping[str, _File]:
    """By the name of the file, without its suffix."""
    return {path.stem: _File.model_validate_json(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))}


@cache
def models() -> Mapping[str, Model]:
    """Every model, by name.

    Raises:
        ValueError: two files have a model of one name.
    """
    every: dict[str, Model] = {}
    for file in _files().values():
        twice = every.keys() & file.models.keys()
        if twice:
            raise ValueError(f"two files have the model {min(twice)}")
        every |= file.models
    return every


def named_rows() -> Iterator[tuple[str, Row]]:
    """Every row with a name for a test's report."""
    for subject, file in _files().items():
        for number, row in enumerate(file.rows):
            yield f"{subject}-{number}-{row.source}-{row.release}-{row.model}", row


class Outcome(BaseModel):
    """What a caller gets: findings and notes, and the command lines of a spec without findings."""

    findings: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    convert: str = ""
    build: str = ""


def submit(row: Row) -> Outcome:
    """The steps of a submit that need no server, and then the plan of both stages."""
    facts = models()[row.model].facts().model_copy(update={"beside": row.second_models})
    platform = GPUS[row.gpu]
    spec = BuildSpec.parse(
        {
            "model": "hf:org/model",
            "toolchain": {"name": "trtllm", "version": row.release},
            "precision": PRECISION,
            "limits": LIMITS,
            **row.spec,
        }
    )
    normal, notes = TOOLCHAIN.normalise(spec, facts, platform)
    findings = tuple(TOOLCHAIN.preflight(normal, facts, platform))
    if findings:
        return Outcome(findings=findings, notes=tuple(notes))
    return Outcome(
        findings=(),
        notes=tuple(notes),
        convert=_command_lines(Stage.CONVERT, normal, facts, platform),
        build=_command_lines(Stage.BUILD, normal, facts, platform),
    )


def _command_lines(stage: Stage, normal: BuildSpec, facts: ModelFacts, platform: Platform) -> str:
    job = Job(stage=stage, toolchain="trtllm", version=normal.toolchain.version or "", spec=normal, facts=facts,
              platform=platform)  # fmt: skip
    inputs = {CALIBRATION: Path("/inputs") / CALIBRATION}
    for option in TOOLCHAIN.model_options:
        for name, _ in references(option, normal.options.get(option)):
            inputs[name] = Path("/inputs") / name
    directories = Directories(Path("/source"), Path("/output"), Path("/scratch"), inputs=inputs)
    # The last command copies the tokenizer.
    return "\n".join(" ".join(command.argv) for command in TOOLCHAIN.plan(job, directories)[:-1])
