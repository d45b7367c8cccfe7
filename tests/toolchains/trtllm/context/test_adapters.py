"""Adapters that an engine is built with: named, copied into it, checked, and in no key of a spec without them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.doubles import tensors
from tests.toolchains.trtllm.build_contexts import FACTS, H100, VERSION, spec
from tests.toolchains.trtllm.test_end_to_end import Pipeline
from toolchains.toolchain import Directories, InvalidOutput
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.toolchain import TensorRTLLM

HERE = TensorRTLLM(lambda: Installation(Path("/examples")))
LORA = {"lora_dir": ["hf:org/one", "file:/models/two"], "lora_plugin": "auto"}
VERSIONS = [release.version for release in TOOLCHAIN.releases() if not release.version.startswith("0.8")]


@pytest.mark.parametrize("version", ["0.10.0", "0.14.0", "0.15.0", "0.20.0", "1.2.1", "1.3.0rc20"])
def test_the_builder_gets_the_directories_of_the_adapters(version: str) -> None:
    normal, _ = HERE.normalise(spec(version, options=LORA), FACTS, H100)
    assert HERE.preflight(normal, FACTS, H100) == ()
    inputs = {f"lora_dir.{number}": Path(f"/in/lora_dir.{number}") for number in (0, 1)}
    directories = Directories(Path("/source"), Path("/output"), Path("/scratch"), inputs)
    convert, build = (
        HERE.plan(
            Job(stage=stage, toolchain="trtllm", version=version, spec=normal, facts=FACTS, platform=H100), directories
        )[0].argv
        for stage in (Stage.CONVERT, Stage.BUILD)
    )
    assert "--lora_dir /in/lora_dir.0 /in/lora_dir.1" in " ".join(build)
    assert "--lora_plugin" in build
    assert "--lora_dir" not in convert


@pytest.mark.parametrize("version", VERSIONS)
def test_a_spec_without_adapters_has_no_option_for_them(version: str) -> None:
    for options in ({}, {"lora_dir": None}):
        normal, _ = HERE.normalise(spec(version, options=options), FACTS, H100)
        assert "lora_dir" not in normal.options
        assert "lora_dir" in HERE.options_schema(version)["properties"]


def test_adapters_belong_to_the_build_and_are_never_pickles() -> None:
    assert HERE.model_options["lora_dir"] == ("adapter_config.json", "adapter_model.safetensors")
    assert "lora_dir" not in HERE.convert_options


def make_adapter(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]} | changes
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors.write(folder / "adapter_model.safetensors", {name: np.ones((8, 4), np.float32)}, "float16")
    return folder


class PipelineWithAdapters(Pipeline):
    """With adapters where a worker puts them."""

    def directories(self, stage: Stage) -> Directories:
        directories = super().directories(stage)
        adapters = {f"lora_dir.{number}": make_adapter(self.root / f"adapter{number}") for number in (0, 1)}
        return Directories(
            directories.source, directories.output, directories.scratch, adapters if stage is Stage.BUILD else {}
        )


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(("version", "tp"), [("0.12.0", 1), ("0.16.0", 2), (VERSION, 1)])
def test_an_engine_contains_its_adapters(version: str, tp: int, tmp_path: Path) -> None:
    facts = PipelineWithAdapters(
        tmp_path,
        version,
        options=LORA | {"max_lora_rank": 8, "lora_target_modules": ["attn_q"]},
        parallelism={"tp": tp},
    ).run_both()
    assert facts["differences"] == []
    assert facts["effective"]["build_config"]["lora_config"]["lora_dir"] == ["lora/0", "lora/1"]
    assert str(tmp_path) not in json.dumps(facts)
    for number in (0, 1):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            copy, original = tmp_path / "build" / "lora" / str(number) / name, tmp_path / f"adapter{number}" / name
            assert copy.read_bytes() == original.read_bytes()


@pytest.mark.usefixtures("installation")
def test_a_module_that_the_builder_adds_is_no_difference(tmp_path: Path) -> None:
    pipeline = PipelineWithAdapters(tmp_path, options=LORA | {"lora_target_modules": ["attn_v", "attn_q"]})
    assert pipeline.run_both()["differences"] == []
    assert pipeline.spec.options["lora_target_modules"] == ["attn_v", "attn_q", "attn_k"]


def _without_one(engine: Path) -> None:
    (engine / "lora" / "1" / "adapter_model.safetensors").unlink()


def _cut_short(engine: Path) -> None:
    path = engine / "lora" / "0" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _garbled(engine: Path) -> None:
    (engine / "lora" / "0" / "adapter_config.json").write_text("{")


def _ignored(engine: Path) -> None:
    config = json.loads((engine / "config.json").read_bytes())
    del config["build_config"]["lora_config"]
    (engine / "config.json").write_text(json.dumps(config))


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_without_one, "needs adapter_model.safetensors of the adapter lora/1"),
        (_cut_short, "not complete"),
        (_garbled, "adapter_config.json is not JSON"),
        (_ignored, r"names the adapters \[\], not \['lora/0', 'lora/1'\]"),
    ],
)
def test_an_engine_without_its_adapters_is_refused(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    pipeline = PipelineWithAdapters(tmp_path, options=LORA)
    pipeline.run_both()
    spoil(tmp_path / "build")
    with pytest.raises(InvalidOutput, match=says):
        pipeline.check(Stage.BUILD)
