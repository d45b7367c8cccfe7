"""Run convert and build as a worker does: the planned commands in order, on real files, then the check of outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.doubles import tensors
from tests.doubles.installation import make_installation, order
from tests.doubles.tiny_models.llama import make_tiny_llama
from tests.toolchains.trtllm.build_contexts import H100, LLAMA, VERSION, spec
from toolchains.toolchain import PASSED_ON, Directories, Exit, InvalidOutput
from toolchains.trtllm import TOOLCHAIN

LIMITS = {"max_batch_size": 4, "max_input_len": 64, "max_output_len": 32}
TINY = ModelFacts(
    architecture=LLAMA, dtype="bfloat16", hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=128, intermediate_size=256, max_position_embeddings=256,
    weight_bytes=1, has_safetensors=True, has_pickle=False, has_tokenizer=True, remote_code=False,
)  # fmt: skip


class Pipeline:
    """The two stages of one model: `run` a stage, then `check` its output."""

    def __init__(
        self, root: Path, version: str = VERSION, architecture: str = LLAMA, model: ModelFacts | None = None,
        heads: int = 4, **fields: Any,
    ) -> None:  # fmt: skip
        """`model`: facts of a model that exists at `root / "model"`; None makes a tiny Llama with `heads` there."""
        self.root = root
        self.version = version
        self.model = root / "model"
        if model is None:
            make_tiny_llama(self.model, heads=heads, architectures=[architecture])
        self.facts = model or TINY.model_copy(update={"architecture": architecture, "num_attention_heads": heads})
        self.spec, _ = TOOLCHAIN.normalise(spec(version, **{"limits": LIMITS} | fields), self.facts, H100)
        assert not TOOLCHAIN.preflight(self.spec, self.facts, H100)

    def directories(self, stage: Stage) -> Directories:
        source = self.model if stage is Stage.CONVERT else self.root / "convert"
        scratch = self.root / f"{stage}-scratch"
        for directory in (scratch, self.root / stage, self.root / "calibration"):
            directory.mkdir(exist_ok=True)
        return Directories(source, self.root / stage, scratch, {"calibration": self.root / "calibration"})

    def job(self, stage: Stage) -> Job:
        return Job(
            stage=stage, toolchain="trtllm", version=self.version, spec=self.spec, facts=self.facts, platform=H100
        )

    def run(self, stage: Stage) -> Exit:
        """Run the programs of a stage up to the first that fails."""
        directories = self.directories(stage)
        output = ""
        for command in TOOLCHAIN.plan(self.job(stage), directories):
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            ended = subprocess.run(
                command.argv, cwd=directories.scratch, env={**environment, **command.environment},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
            )  # fmt: skip
            output += ended.stdout
            if ended.returncode:
                return Exit(ended.returncode, output)
        return Exit(0, output)

    def check(self, stage: Stage) -> dict[str, Any]:
        return dict(TOOLCHAIN.check_output(self.job(stage), self.directories(stage)))

    def run_both(self) -> dict[str, Any]:
        for stage in Stage:
            ended = self.run(stage)
            assert ended.status == 0, ended.tail
            facts = self.check(stage)
        return facts


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted and built model; tests copy it and break the copy."""
    return finished_pipeline(tmp_path_factory.mktemp("finished"), Pipeline)


def finished_pipeline(root: Path, start: Callable[[Path], Pipeline]) -> Path:
    environment = make_installation(root / "tensorrt_llm", VERSION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", environment["PATH"])
        patch.setenv("ENGINEFARM_TRTLLM_EXAMPLES", environment["ENGINEFARM_TRTLLM_EXAMPLES"])
        start(root / "pipeline").run_both()
    return root / "pipeline"


@pytest.mark.usefixtures("installation")
def test_a_model_becomes_an_engine_with_tokenizer_and_timing_cache(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    facts = pipeline.run_both()
    assert facts["version"] == VERSION
    assert facts["differences"] == []
    assert facts["effective"]["build_config"]["max_seq_len"] == 96
    assert facts["effective"]["pretrained_config"]["architecture"] == LLAMA
    assert str(tmp_path) not in json.dumps(facts)
    engine = {path.name for path in (tmp_path / "build").iterdir()}
    assert {"config.json", "rank0.engine", "tokenizer.json", "tokenizer_config.json"} <= engine
    assert (tmp_path / "build-scratch" / "model.cache").is_file()
    source = tensors.read(pipeline.model / "model.safetensors")
    converted = tensors.read(tmp_path / "convert" / "rank0.safetensors")
    assert (converted["lm_head.weight"] == source["lm_head.weight"]).all()


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("version", ["0.8.0", "0.9.0", "0.12.0", "0.16.0", "0.19.0", "1.0.0", "1.3.0rc20"])
def test_a_release_of_each_kind_builds_an_engine_of_the_spec(version: str, tmp_path: Path) -> None:
    facts = Pipeline(tmp_path, version).run_both()
    assert (facts["version"], facts["differences"]) == (version, [])


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    ("version", "architecture"),
    [
        *(("0.9.0", "GemmaForCausalLM"), ("0.16.0", "Qwen2ForCausalLM"), ("0.16.0", "FalconForCausalLM")),
        *(("0.9.0", "BloomForCausalLM"), ("1.2.1", "GLMModel"), ("1.0.0", "RecurrentGemmaForCausalLM")),
        *(("0.8.0", "InternLMForCausalLM"), ("0.9.0", "GPT2LMHeadModel"), ("0.10.0", "Qwen2ForCausalLM")),
    ],
)
def test_another_family_builds_an_engine_of_the_spec(version: str, architecture: str, tmp_path: Path) -> None:
    assert Pipeline(tmp_path, version, architecture).run_both()["differences"] == []


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("version", ["0.9.0", "0.16.0", VERSION])
@pytest.mark.parametrize(
    ("quantization", "kv_cache", "algorithms"),
    [
        ("int8_wo", None, ("W8A16", None)),
        ("int8_sq", "int8", ("W8A8_SQ_PER_TENSOR_PLUGIN", "INT8")),
        ("fp8", "fp8", ("FP8", "FP8")),
        ("fp8", None, ("FP8", None)),
        ("w4a8_awq", None, ("W4A8_AWQ", None)),
        (None, "fp8", (None, "FP8")),
    ],
)
def test_a_checkpoint_has_the_precision_of_the_spec(
    version: str, tmp_path: Path, quantization: str | None, kv_cache: str | None, algorithms: tuple[str | None, ...]
) -> None:
    calibration_data = None if (quantization, kv_cache) == ("int8_wo", None) else "file:/data/set"
    precision = {"dtype": "bfloat16", "quantization": quantization, "kv_cache": kv_cache}
    pipeline = Pipeline(tmp_path, version, precision=precision, calibration=calibration_data)
    calibration = pipeline.directories(Stage.CONVERT).inputs["calibration"]
    (calibration / "train.jsonl").write_text("{}")
    assert pipeline.run_both()["differences"] == []  # normalization predicts what the builder makes of attention
    quantization_config = json.loads((tmp_path / "convert" / "config.json").read_bytes())["quantization"]
    assert (quantization_config["quant_algo"], quantization_config["kv_cache_quant_algo"]) == algorithms


MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    ("version", "architecture", "quantization_config", "kv_cache", "algorithms"),
    [
        ("0.17.0", LLAMA, MODELOPT, None, ("FP8", None)),
        (VERSION, LLAMA, MODELOPT, "fp8", ("FP8", "FP8")),
        (VERSION, "NemotronForCausalLM", MODELOPT, None, ("FP8", "FP8")),
        ("0.16.0", LLAMA, {"quant_method": "awq", "bits": 4}, "fp8", ("W4A16_GPTQ", "FP8")),
    ],
)
def test_a_quantized_model_becomes_an_engine_of_its_own_precision(
    version: str, architecture: str, quantization_config: dict[str, Any], kv_cache: str | None,
    algorithms: tuple[str, str | None], tmp_path: Path,
) -> None:  # fmt: skip
    model = TINY.model_copy(update={"architecture": architecture, "quantization_config": quantization_config})
    directory = make_tiny_llama(
        tmp_path / "model", architectures=[architecture], quantization_config=quantization_config
    )
    stated = {"producer": {"name": "modelopt"}, "quantization": quantization_config}
    (directory / "hf_quant_config.json").write_text(json.dumps(stated))
    pipeline = Pipeline(tmp_path, version, model=model, precision={"dtype": "bfloat16", "kv_cache": kv_cache})
    assert pipeline.run_both()["differences"] == []
    converted = json.loads((tmp_path / "convert" / "config.json").read_bytes())["quantization"]
    assert (converted["quant_algo"], converted["kv_cache_quant_algo"]) == algorithms


@pytest.mark.usefixtures("installation")
def test_a_calibration_without_data_fails(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, precision={"dtype": "bfloat16", "quantization": "fp8"}, calibration="file:/data/set")
    ended = pipeline.run(Stage.CONVERT)
    assert ended.status != 0
    assert TOOLCHAIN.classify(Stage.CONVERT, ended).cause == "calibration_unreachable"


@pytest.mark.parametrize("version", ["0.10.0", "0.16.0", VERSION])
def test_a_stripped_engine_gets_its_weights_back(installation: Path, version: str, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, version, options={"strip_plan": True}, parallelism={"tp": 2})
    facts = pipeline.run_both()
    assert facts["differences"] == []
    assert facts["effective"]["build_config"]["use_strip_plan"] is True
    for rank in range(2):
        weights = (tmp_path / "convert" / f"rank{rank}.safetensors").read_bytes()
        assert (tmp_path / "build" / f"rank{rank}.engine").read_bytes().endswith(weights)
        assert weights not in (tmp_path / "build-scratch" / "stripped" / f"rank{rank}.engine").read_bytes()
    order(installation, version, refit={"mode": "refit_failed"})
    ended = pipeline.run(Stage.BUILD)
    assert (ended.status, TOOLCHAIN.classify(Stage.BUILD, ended).cause) == (1, "refit_failed")
    order(installation, version, refit={"mode": "no_weights"})
    assert pipeline.run(Stage.BUILD).status == 0
    with pytest.raises(InvalidOutput, match=r"rank0\.engine is no larger than before its weights were added"):
        pipeline.check(Stage.BUILD)


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    ("parallelism", "shards", "engines"),
    [({"tp": 2, "pp": 2}, 4, 4), ({"tp": 4}, 4, 4), ({"tp": 1, "cp": 2}, 1, 2)],
)
def test_each_rank_has_a_shard_and_an_engine_file(
    tmp_path: Path, parallelism: dict[str, int], shards: int, engines: int
) -> None:
    Pipeline(tmp_path, parallelism=parallelism).run_both()
    assert len(list((tmp_path / "convert").glob("rank*.safetensors"))) == shards
    assert len(list((tmp_path / "build").glob("rank*.engine"))) == engines


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    "options",
    [
        {"remove_input_padding": "disable"},
        {"context_fmha": "disable", "gather_all_token_logits": True},
        {"multiple_profiles": "enable", "tokens_per_block": 512},
        {"fast_build": True, "gemm_plugin": "bfloat16", "use_fp8_context_fmha": "disable"},
    ],
)
def test_the_engine_has_the_limits_that_its_key_names(tmp_path: Path, options: dict[str, Any]) -> None:
    """The double computes the builder's rewrites by itself; normalization must predict them."""
    assert Pipeline(tmp_path, options=options).run_both()["differences"] == []


def test_limits_and_options_that_differ_from_the_spec_are_reported(finished: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(shutil.copytree(finished, tmp_path / "pipeline"))
    config = pipeline.root / "build" / "config.json"
    content = json.loads(config.read_bytes())
    content["build_config"]["max_num_tokens"] = 64
    config.write_text(json.dumps(content))
    content["build_config"]["plugin_config"]["context_fmha"] = False
    config.write_text(json.dumps(content))
    assert pipeline.check(Stage.BUILD)["differences"] == [
        {"pointer": "/limits/max_num_tokens", "wanted": pipeline.spec.limits.max_num_tokens, "has": 64},
        {"pointer": "/options/context_fmha", "wanted": "enable", "has": False},
    ]


@pytest.mark.parametrize(("has", "differs"), [(96, True), (96 + 7, False)])
def test_room_for_drafts_is_no_difference(finished: Path, tmp_path: Path, has: int, differs: bool) -> None:
    pipeline = Pipeline(shutil.copytree(finished, tmp_path / "pipeline"))
    drafts = {"speculative_decoding_mode": "draft_tokens_external", "max_draft_len": 7}
    pipeline.spec = pipeline.spec.model_copy(update={"options": pipeline.spec.options | drafts})
    _change(pipeline.root / "build" / "config.json", "build_config", max_seq_len=has, max_num_tokens=256)
    pointers = [difference["pointer"] for difference in pipeline.check(Stage.BUILD)["differences"]]
    assert ("/limits/max_seq_len" in pointers) is differs


@pytest.mark.parametrize(
    ("stage", "part", "changes", "complaint"),
    [
        (Stage.CONVERT, "mapping", {"tp_size": 2}, "tp_size is 2, not 1"),
        (Stage.CONVERT, "mapping", {"world_size": 2}, "world_size is 2, not 1"),
        (Stage.CONVERT, "quantization", {"quant_algo": "FP8"}, "quant_algo is FP8, not NO_QUANT or None"),
        (Stage.CONVERT, "quantization", {"kv_cache_quant_algo": "INT8"}, "kv_cache_quant_algo is INT8, not None"),
        (Stage.CONVERT, None, {"dtype": "float16"}, "dtype is float16, not bfloat16"),
        (Stage.CONVERT, None, {"num_hidden_layers": 1}, "num_hidden_layers .* is 1, but the model has 2"),
        (Stage.CONVERT, None, {"vocab_size": 100}, "100 words, but the model 128"),
        (Stage.BUILD, "pretrained_config", {"dtype": "float16"}, "the engine is not what .* dtype is float16"),
        (Stage.BUILD, "build_config", {"lora_config": {"lora_dir": ["lora/0"]}}, r"adapters .'lora/0'., not .."),
        (
            Stage.BUILD, "pretrained_config", {"quantization": {"quant_algo": "MIXED_PRECISION"}},
            "quant_algo is MIXED_PRECISION",
        ),
    ],
)  # fmt: skip
def test_settings_that_differ_from_the_spec_are_refused(
    finished: Path, tmp_path: Path, stage: Stage, part: str | None, changes: dict[str, Any], complaint: str
) -> None:
    pipeline = Pipeline(shutil.copytree(finished, tmp_path / "pipeline"))
    _change(pipeline.root / stage / "config.json", part, **changes)
    with pytest.raises(InvalidOutput, match=complaint):
        pipeline.check(stage)


def test_a_padded_vocabulary_is_accepted(finished: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(shutil.copytree(finished, tmp_path / "pipeline"))
    _change(pipeline.root / "convert" / "config.json", None, vocab_size=160)
    assert pipeline.check(Stage.CONVERT)


@pytest.mark.parametrize(("name", "complaint"), [("quant_cfg.json", "no quant_cfg.json"), (None, None)])
def test_a_checkpoint_of_mixed_precision_needs_the_file_of_layer_precisions(
    finished: Path, tmp_path: Path, name: str | None, complaint: str | None
) -> None:
    pipeline = Pipeline(shutil.copytree(finished, tmp_path / "pipeline"))
    precision = pipeline.spec.precision.model_copy(update={"quantization": "auto_quantize"})
    pipeline.spec = pipeline.spec.model_copy(update={"precision": precision})
    config = pipeline.root / "build" / "config.json"
    _change(config, "pretrained_config", quantization={"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None})
    if complaint:
        with pytest.raises(InvalidOutput, match=complaint):
            pipeline.check(Stage.BUILD)
    else:
        (config.parent / "quant_cfg.json").write_text("{}")
        assert pipeline.check(Stage.BUILD)


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(("cut", "complaint"), [(0, r"ranks \[0\] of 1 have no _managed"), (50, "not complete")])
def test_an_engine_with_managed_weights_needs_their_file(tmp_path: Path, cut: int, complaint: str) -> None:
    pipeline = Pipeline(tmp_path, options={"fast_build": True})
    assert pipeline.run_both()["differences"] == []
    weights = tmp_path / "build" / "rank0_managed_weights.safetensors"
    if cut:
        weights.write_bytes(weights.read_bytes()[:-cut])
    else:
        weights.unlink()
    with pytest.raises(InvalidOutput, match=complaint):
        pipeline.check(Stage.BUILD)


def _change(path: Path, part: str | None, **changes: Any) -> None:
    config = json.loads(path.read_bytes())
    (config[part] if part else config).update(changes)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize(
    ("mode", "cause"), [("exit137", "killed"), ("cuda_oom", "gpu_out_of_memory"), ("disk_full", "disk_full")]
)
def test_a_failed_program_is_classified_by_its_output(
    installation: Path, tmp_path: Path, stage: Stage, mode: str, cause: str
) -> None:
    order(installation, VERSION, **{stage: {"mode": mode}})
    ended = Pipeline(tmp_path).run(stage)
    assert ended.status != 0
    assert TOOLCHAIN.classify(stage, ended).cause == cause


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize(
    ("mode", "complaint"),
    [
        ("nothing", "no config.json"),
        ("missing_rank", r"ranks \[1\] of 2"),
        ("truncated", "rank1.* (is empty|complete)"),
    ],
)
def test_an_incomplete_output_is_refused_though_the_program_succeeded(
    installation: Path, tmp_path: Path, stage: Stage, mode: str, complaint: str
) -> None:
    pipeline = Pipeline(tmp_path, parallelism={"tp": 2})
    if stage is Stage.BUILD:
        assert pipeline.run(Stage.CONVERT).status == 0
    order(installation, VERSION, **{stage: {"mode": mode}})
    assert pipeline.run(stage).status == 0
    with pytest.raises(InvalidOutput, match=complaint):
        pipeline.check(stage)


@pytest.mark.parametrize(
    ("stage", "name", "content", "complaint"),
    [
        (Stage.CONVERT, "config.json", b"{", "not JSON"),
        (Stage.CONVERT, "config.json", b"[]", "not a JSON object"),
        (Stage.CONVERT, "config.json", b'{"dtype": "bfloat16"}', "lacks architecture"),
        (Stage.CONVERT, "rank1.safetensors", b"", r"ranks \[1\], but only 1"),
        (Stage.CONVERT, "rank0.safetensors", b"", "is empty"),
        (Stage.CONVERT, "rank0.safetensors", b"x", "not a complete"),
        (Stage.CONVERT, "tokenizer.json", None, "tokenizer"),
        (Stage.BUILD, "config.json", b'{"pretrained_config": {}}', "no build_config"),
        (Stage.BUILD, "config.json", b'{"pretrained_config": {}, "build_config": {}, "version": "0.9"}', "not 1.2.1"),
        (Stage.BUILD, "rank0.engine", b"", "is empty"),
        (Stage.BUILD, "rank0.engine", None, r"ranks \[0\] of 1"),
        (Stage.BUILD, "rank1.engine", b"x", r"ranks \[1\], but only 1"),
    ],
)
def test_a_broken_file_is_named(
    finished: Path, tmp_path: Path, stage: Stage, name: str, content: bytes | None, complaint: str
) -> None:
    pipeline = Pipeline(shutil.copytree(finished, tmp_path / "pipeline"))
    path = pipeline.root / stage / name
    if content is None:
        path.unlink()
        for other in (pipeline.root / stage).glob("*token*"):
            other.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(InvalidOutput, match=complaint):
        pipeline.check(stage)


def test_a_checkpoint_in_another_dtype_is_refused(finished: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(shutil.copytree(finished, tmp_path / "pipeline"))
    pipeline.spec = BuildSpec.parse(pipeline.spec.model_dump() | {"precision": {"dtype": "float16"}})
    with pytest.raises(InvalidOutput, match="dtype is bfloat16, not float16"):
        pipeline.check(Stage.CONVERT)


@pytest.mark.usefixtures("installation")
def test_progress_never_falls_back_for_one_rank(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    for stage in Stage:
        reports = [TOOLCHAIN.read_line(stage, line) for line in pipeline.run(stage).tail.splitlines()]
        progress = [report.progress for report in reports if report and report.progress is not None]
        assert progress == sorted(progress)
        assert progress[-1] == 0.98
