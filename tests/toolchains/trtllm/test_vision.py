"""LLaVA: one conversion of the language model, and two engines, of which one is made from the model's images' part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.model.reference import FileReference
from enginefarm.contract.stage import Stage
from models.sources import FileSource, MemoryDigestCache
from tests.doubles import tensors
from tests.doubles.installation import order
from tests.doubles.tiny_models.llama import make_tiny_llama
from tests.toolchains.trtllm.test_end_to_end import Pipeline
from toolchains.toolchain import InvalidOutput
from toolchains.trtllm import TOOLCHAIN

LIMITS = {"max_batch_size": 2, "max_input_len": 1024, "max_output_len": 32}


def make_tiny_llava(directory: Path, architecture: str = "LlavaForConditionalGeneration") -> ModelFacts:
    """The facts are those that a submit reads."""
    make_tiny_llama(directory, dtype="float16")
    language = json.loads((directory / "config.json").read_bytes())
    vision = {"image_size": 336, "patch_size": 14, "hidden_size": 1024}
    model_type = "llava" if architecture.startswith("LlavaFor") else "llava_next"
    config = {"architectures": [architecture], "model_type": model_type, "torch_dtype": "float16"}
    (directory / "config.json").write_text(json.dumps(config | {"text_config": language, "vision_config": vision}))
    (directory / "preprocessor_config.json").write_text("{}")
    weights = tensors.read(directory / "model.safetensors")
    named = {f"language_model.{name}": tensor for name, tensor in weights.items()}
    named["multi_modal_projector.linear_1.weight"] = np.ones((4, 4), np.float32)
    tensors.write(directory / "model.safetensors", named, "float16")
    resolved = FileSource([directory.parent], MemoryDigestCache()).resolve_model(FileReference(str(directory)))
    assert "preprocessor_config.json" in {file.path for file in resolved.files}
    return resolved.facts


def pipeline_of(
    root: Path, version: str, architecture: str = "LlavaForConditionalGeneration", **fields: Any
) -> Pipeline:
    facts = make_tiny_llava(root / "model", architecture)
    return Pipeline(root, version, model=facts, limits=LIMITS, precision={"dtype": "float16"}, **fields)


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    ("version", "architecture", "images", "rows"),
    [
        ("0.10.0", "LlavaForConditionalGeneration", 2, 2 * 576),
        ("0.16.0", "LlavaNextForConditionalGeneration", 10, 2 * 1024),
        ("1.2.1", "LlavaForConditionalGeneration", 2, 2 * 576),
    ],
)
def test_a_llava_becomes_two_engines(version: str, architecture: str, images: int, rows: int, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, version, architecture, parallelism={"tp": 2})
    facts = pipeline.run_both()
    assert (facts["version"], facts["differences"]) == (version, [])
    assert pipeline.spec.options["max_prompt_embedding_table_size"] == rows
    vision = tmp_path / "build" / "vision"
    plan = "visual_encoder.engine" if version == "0.10.0" else "model.engine"
    assert {path.name for path in vision.iterdir()} == {"config.json", plan}
    config = json.loads((vision / "config.json").read_bytes())["builder_config"]
    model_type = "llava_next" if "Next" in architecture else "llava"
    assert config == {"model_type": model_type, "max_batch_size": images}
    assert len(list((tmp_path / "build").glob("rank*.engine"))) == 2
    assert (tmp_path / "convert" / "vision_model" / "model.safetensors").is_file()
    serving = TOOLCHAIN.serving(pipeline.job(Stage.BUILD))
    assert serving is not None
    assert "ensemble of its own" in serving.without["triton"]


@pytest.mark.parametrize("version", ["0.16.0"])
def test_an_engine_without_the_one_of_the_images_is_refused(version: str, installation: Path, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, version)
    assert pipeline.run(Stage.CONVERT).status == 0
    order(installation, version, vision={"mode": "nothing"})
    assert pipeline.run(Stage.BUILD).status == 0
    with pytest.raises(InvalidOutput, match=r"vision: there is no config.json"):
        pipeline.check(Stage.BUILD)
    (tmp_path / "convert" / "vision_model" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InvalidOutput, match=r"vision_model: model.safetensors is not a complete"):
        pipeline.check(Stage.CONVERT)


def test_a_model_that_does_not_say_how_images_are_prepared_is_refused_at_submit(tmp_path: Path) -> None:
    make_tiny_llava(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    source = FileSource([tmp_path], MemoryDigestCache())
    with pytest.raises(ModelUnavailable, match=r"there is no preprocessor_config.json"):
        source.resolve_model(FileReference(str(tmp_path / "model")))


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("version", ["0.16.0"])
def test_the_engine_of_the_images_is_beside_a_plan_that_got_its_weights_back(version: str, tmp_path: Path) -> None:
    assert pipeline_of(tmp_path, version, options={"strip_plan": True}).run_both()["differences"] == []
