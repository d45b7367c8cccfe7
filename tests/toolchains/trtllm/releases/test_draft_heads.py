"""Checkpoints with draft heads: planned, converted, checked, and refused where no script makes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.doubles import tensors
from tests.toolchains.trtllm.build_contexts import FACTS, H100, VERSION, facts, spec
from tests.toolchains.trtllm.test_end_to_end import Pipeline
from toolchains.toolchain import Directories, InvalidOutput
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.releases.draft_heads import draft_heads_by_mode
from toolchains.trtllm.toolchain import TensorRTLLM

HERE = TensorRTLLM(lambda: Installation(Path("/examples")))
MEDUSA = {"medusa_model_dir": "hf:org/heads", "speculative_decoding_mode": "medusa"}
DRAFTER = {"drafter_model_dir": "hf:org/drafter", "speculative_decoding_mode": "explicit_draft_tokens"}
EAGLE = {"eagle_model_dir": "hf:org/heads", "speculative_decoding_mode": "eagle"}


def planned(stage: Stage, version: str = VERSION, **fields: Any) -> str:
    normal, _ = HERE.normalise(spec(version, **fields), FACTS, H100)
    assert HERE.preflight(normal, FACTS, H100) == ()
    inputs = {name: Path(f"/{name}") for name in HERE.model_options}
    directories = Directories(Path("/source"), Path("/output"), Path("/scratch"), inputs)
    job = Job(stage=stage, toolchain="trtllm", version=version, spec=normal, facts=FACTS, platform=H100)
    return " ".join(HERE.plan(job, directories)[0].argv)


@pytest.mark.parametrize("version", ["0.16.0", "0.20.0", "1.2.1", "1.3.0rc20"])
def test_medusa_heads_are_converted_with_the_base_model(version: str) -> None:
    precision = {"dtype": "bfloat16", "quantization": "int8_wo"}
    options = MEDUSA | {"num_medusa_heads": 5}
    assert planned(Stage.CONVERT, version, precision=precision, parallelism={"tp": 2}, options=options) == (
        "python3 /examples/medusa/convert_checkpoint.py --use_weight_only "
        "--model_dir /source --output_dir /output --dtype bfloat16 --tp_size 2 "
        "--num_medusa_heads 5 --medusa_model_dir /medusa_model_dir"
    )
    build = planned(Stage.BUILD, version, options=MEDUSA)
    assert "--speculative_decoding_mode medusa" in build
    assert "--max_draft_len 63" in build
    assert "medusa_model_dir" not in build


@pytest.mark.parametrize("version", ["0.16.0", "0.17.0", "0.20.0", "1.0.0", "1.2.1", "1.3.0rc20"])
def test_eagle_heads_are_converted_with_the_base_model(version: str) -> None:
    options = EAGLE | {"num_eagle_layers": 5}
    assert planned(Stage.CONVERT, version, parallelism={"tp": 2}, options=options) == (
        "python3 /examples/eagle/convert_checkpoint.py --model_dir /source --output_dir /output --dtype bfloat16 "
        "--tp_size 2 --eagle_model_dir /eagle_model_dir --num_eagle_layers 5"
    )
    build = planned(Stage.BUILD, version, options=options)
    assert "--speculative_decoding_mode eagle" in build
    assert "--max_draft_len 63" in build
    assert ("--use_paged_context_fmha enable" in build) is (version < "0.20")  # a default from then on
    assert "eagle_" not in build


@pytest.mark.parametrize(("architecture", "folder"), [("LlamaForCausalLM", "llama"), ("Qwen2ForCausalLM", "qwen")])
def test_a_drafter_is_added_to_a_checkpoint_of_the_base_model(architecture: str, folder: str) -> None:
    model = facts(architecture=architecture)
    requested = spec(
        options=DRAFTER | {"redrafter_num_beams": 4, "use_parallel_embedding": True}, parallelism={"tp": 2}
    )
    normal, _ = HERE.normalise(requested, model, H100)
    assert HERE.preflight(normal, model, H100) == ()
    assert normal.options["max_draft_len"] == 4 * 5
    directories = Directories(
        Path("/source"), Path("/output"), Path("/scratch"), {"drafter_model_dir": Path("/drafter")}
    )  # fmt: skip
    job = Job(stage=Stage.CONVERT, toolchain="trtllm", version=VERSION, spec=normal, facts=model, platform=None)
    base, drafter, carry = (" ".join(command.argv) for command in HERE.plan(job, directories))
    assert base == (
        f"python3 /examples/models/core/{folder}/convert_checkpoint.py --model_dir /source --output_dir /scratch/base "
        "--dtype bfloat16 --tp_size 2 --use_parallel_embedding"
    )
    assert drafter == (
        "python3 /examples/redrafter/convert_checkpoint.py --base_model_checkpoint_dir /scratch/base "
        "--output_dir /output --dtype bfloat16 --tp_size 2 --drafter_model_dir /drafter --redrafter_num_beams 4"
    )
    assert carry.endswith("/source /output")


def test_options_that_name_draft_heads_belong_to_convert() -> None:
    heads = {drafting.model_option for drafting in draft_heads_by_mode().values()}
    assert heads == set(TOOLCHAIN.model_options) & TOOLCHAIN.convert_options - {"quant_ckpt_path"}
    assert heads <= TOOLCHAIN.options_schema(VERSION)["properties"].keys()


@pytest.mark.parametrize(
    ("version", "model", "options", "codes"),
    [
        ("0.15.0", FACTS, MEDUSA, {"unknown_option", "newer_option", "draft_heads"}),
        (VERSION, facts(architecture="Qwen2ForCausalLM"), MEDUSA, {"unknown_option", "draft_heads"}),
        (VERSION, FACTS, MEDUSA | {"load_by_shard": True}, {"unknown_option"}),  # the script would lose the heads
        (VERSION, FACTS, MEDUSA | {"medusa_model_dir": 5}, {"option_value"}),
        (VERSION, FACTS, {"num_medusa_heads": 3}, {"unknown_option"}),
        (VERSION, facts(quantization_config={"quant_method": "gptq", "bits": 4}), MEDUSA, {"quantized_model"}),
        ("0.15.0", FACTS, EAGLE, {"unknown_option", "newer_option", "draft_heads"}),
        (VERSION, facts(architecture="MixtralForCausalLM"), EAGLE, {"unknown_option", "draft_heads"}),
        (VERSION, FACTS, EAGLE | {"load_model_on_cpu": True}, {"unknown_option"}),  # the script reads it nowhere
        (VERSION, FACTS, EAGLE | {"num_eagle_layers": 0}, {"option_value"}),
        (VERSION, FACTS, EAGLE | {"max_draft_len": 31}, {"draft_len_other"}),
        (VERSION, FACTS, EAGLE | MEDUSA, {"draft_heads", "unknown_option"}),
        ("1.1.0", FACTS, DRAFTER, {"unknown_option", "newer_option", "draft_heads"}),
        ("1.3.0rc20", FACTS, DRAFTER, {"unknown_option", "former_option", "draft_heads"}),
        (VERSION, FACTS, DRAFTER | {"base_model_checkpoint_dir": "/x"}, {"reserved_option"}),
    ],
)
def test_draft_heads_that_no_script_makes_are_refused(
    version: str, model: ModelFacts, options: dict[str, Any], codes: set[str]
) -> None:
    normal, _ = TOOLCHAIN.normalise(spec(version, options=options), model, H100)
    problem_codes = {problem.code for problem in TOOLCHAIN.preflight(normal, model, H100)}
    assert problem_codes
    assert problem_codes <= codes
    assert "draft_heads" in problem_codes or "draft_heads" not in codes


def make_heads(folder: Path, weights: str = "medusa_lm_head.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    says = {"num_draft_layers": 1, "hidden_size": 128, "exit_dim": 128, "rnn": True}  # as ReDrafter's have to
    (folder / "config.json").write_text(json.dumps(says))
    tensors.write(folder / weights, {"0.0.linear.weight": np.ones((2, 2), np.float32)}, "float16")
    return folder


class PipelineWithDraftHeads(Pipeline):
    """With draft heads where a worker puts them."""

    def directories(self, stage: Stage) -> Directories:
        directories = super().directories(stage)
        heads = {
            "medusa_model_dir": make_heads(self.root / "medusa"),
            "eagle_model_dir": make_heads(self.root / "eagle", "model.safetensors"),
            "drafter_model_dir": make_heads(self.root / "drafter", "model.safetensors"),
        }
        return Directories(
            directories.source, directories.output, directories.scratch, heads if stage is Stage.CONVERT else {}
        )


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("version", ["0.16.0", VERSION])
def test_an_engine_drafts_by_its_heads(version: str, tmp_path: Path) -> None:
    pipeline = PipelineWithDraftHeads(
        tmp_path, version, heads=2, options=MEDUSA | {"num_medusa_heads": 2, "max_medusa_token_len": 7}
    )
    facts = pipeline.run_both()
    assert facts["differences"] == []
    assert facts["effective"]["pretrained_config"]["architecture"] == "MedusaForCausalLM"
    assert facts["effective"]["build_config"]["max_seq_len"] == pipeline.spec.limits.seq_len + 7


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("version", ["0.16.0", VERSION])
def test_an_engine_of_eagle_is_longer_by_its_drafts_and_layers(version: str, tmp_path: Path) -> None:
    pipeline = PipelineWithDraftHeads(tmp_path, version, heads=2, options=EAGLE | {"num_eagle_layers": 3})
    facts = pipeline.run_both()
    assert facts["differences"] == []
    assert facts["effective"]["pretrained_config"]["architecture"] == "EagleForCausalLM"
    assert facts["effective"]["build_config"]["max_seq_len"] == pipeline.spec.limits.seq_len + 63 + 3
    config = tmp_path / "build" / "config.json"
    content = json.loads(config.read_bytes())
    content["build_config"]["max_seq_len"] -= 3
    config.write_text(json.dumps(content))
    assert [difference["pointer"] for difference in pipeline.check(Stage.BUILD)["differences"]] == [
        "/limits/max_seq_len"
    ]


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("tp", [1, 2])
def test_an_engine_drafts_along_several_paths(tp: int, tmp_path: Path) -> None:
    pipeline = PipelineWithDraftHeads(tmp_path, options=DRAFTER | {"redrafter_num_beams": 3}, parallelism={"tp": tp})
    facts = pipeline.run_both()
    assert facts["differences"] == []
    assert facts["effective"]["pretrained_config"]["architecture"] == "ReDrafterForLLaMALM"
    assert facts["effective"]["build_config"]["max_seq_len"] == pipeline.spec.limits.seq_len + 3 * 5


def _told_of_none(config: dict[str, Any]) -> None:
    config["architecture"] = "LlamaForCausalLM"


def _told_of_others(config: dict[str, Any]) -> None:
    config["num_medusa_heads"] = 3


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [(_told_of_none, "architecture is LlamaForCausalLM"), (_told_of_others, "num_medusa_heads is 3, not 4")],
)
def test_a_checkpoint_without_its_draft_heads_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], says: str
) -> None:
    pipeline = PipelineWithDraftHeads(tmp_path, options=MEDUSA)
    assert pipeline.run(Stage.CONVERT).status == 0
    config = json.loads((tmp_path / "convert" / "config.json").read_bytes())
    spoil(config)
    (tmp_path / "convert" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidOutput, match=says):
        pipeline.check(Stage.CONVERT)
