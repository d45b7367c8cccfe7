"""Encoder-decoders: one conversion to two checkpoints, one build of two engines, each in a folder of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from enginefarm.contract.model.facts import ModelFacts, Stack
from enginefarm.contract.serving import Serving
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.doubles import tensors
from tests.doubles.installation import order
from tests.doubles.tiny_models.encoder_decoders import LAYERS, make_tiny_bart, make_tiny_t5
from tests.toolchains.trtllm.build_contexts import BART, FACTS, H100, T5, VERSION, spec
from tests.toolchains.trtllm.commands.test_plan import CACHE, TRTLLM, one_line, planned
from tests.toolchains.trtllm.serving.test_launch import joined, names, parameter, python_model
from tests.toolchains.trtllm.test_end_to_end import TINY, Pipeline, finished_pipeline
from toolchains.toolchain import InvalidOutput, Needs
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.releases.engine_part import closed_options, engine_parts
from toolchains.trtllm.releases.release import find_release

LIMITS = {"max_batch_size": 8, "max_input_len": 1024, "max_output_len": 200}
BEFORE = ("0.8.", "0.9.", "0.10.", "0.11.", "0.12.", "0.13.", "0.14.")
VERSIONS = [release.version for release in TOOLCHAIN.releases() if not release.version.startswith(BEFORE)]
TINY_ENCODER_DECODER = ModelFacts.model_validate(
    TINY.model_dump()
    | {
        name: Stack(num_hidden_layers=layers, num_attention_heads=4, intermediate_size=128)
        for name, layers in LAYERS.items()
    }
    | {"num_hidden_layers": LAYERS["decoder"], "num_key_value_heads": None}
)
TINY_T5 = TINY_ENCODER_DECODER.model_copy(update={"architecture": "T5ForConditionalGeneration"})
TINY_BART = TINY_ENCODER_DECODER.model_copy(update={"architecture": "BartForConditionalGeneration"})


def command_lines(stage: Stage, model: ModelFacts, version: str = VERSION, **fields: Any) -> list[str]:
    normal, _ = TRTLLM.normalise(spec(version, **{"limits": LIMITS} | fields), model, H100)
    return [one_line(argv) for argv in planned(stage, normal, model)[:-1]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("model", "kind"), [(T5, ""), (BART, "--model_type bart ")])
def test_one_command_converts_encoder_and_decoder(version: str, model: ModelFacts, kind: str) -> None:
    """t5 is what the script takes without the option."""
    folder = "enc_dec" if version.startswith("0.1") else "models/core/enc_dec"
    (convert,) = command_lines(Stage.CONVERT, model, version, parallelism={"tp": 2, "pp": 3})
    assert convert == (
        f"python3 /examples/{folder}/convert_checkpoint.py {kind}--workers 1 "
        "--model_dir /source --output_dir /output --dtype bfloat16 --tp_size 2 --pp_size 3"
    )


# Between 0.16 and mid 2025 some defaults changed, so that they are written.
CHANGED_DEFAULTS = "--tokens_per_block 64 --use_paged_context_fmha disable --use_fp8_context_fmha disable"
ATTENTION_OFF = "--use_paged_context_fmha disable --use_fp8_context_fmha disable"


def options(version: str, *, relative: bool, folder: str) -> str:
    """In the order of the release's table."""
    arguments = "--gemm_plugin auto --moe_plugin disable"
    arguments += " --context_fmha disable" if relative else ""
    arguments = ("--kv_cache_type disabled " if folder == "encoder" else "") + arguments
    if version.startswith(("0.17", "0.18", "0.19")):
        return f"{arguments} {CHANGED_DEFAULTS}"
    later = not version.startswith(("0.15", "0.16"))
    return f"{arguments} {ATTENTION_OFF}" if later and relative else arguments


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", [T5, BART], ids=["t5", "bart"])
def test_encoder_and_decoder_are_built_by_a_command_each(version: str, model: ModelFacts) -> None:
    encoder, decoder = (
        f"trtllm-build --checkpoint_dir /source/{folder} --output_dir /output/{folder} "
        f"{options(version, relative=model is T5, folder=folder)} {shape} {CACHE}"
        for folder, shape in (
            ("encoder", "--max_batch_size 8 --max_input_len 1024 --max_seq_len 1024"),
            ("decoder", "--max_batch_size 8 --max_input_len 1 --max_seq_len 201 --max_encoder_input_len 1024"),
        )
    )
    assert command_lines(Stage.BUILD, model, version) == [encoder, decoder]


def test_only_the_encoder_gets_token_limits() -> None:
    limits = LIMITS | {"max_num_tokens": 2048, "opt_num_tokens": 512, "max_beam_width": 4}
    encoder, decoder = command_lines(Stage.BUILD, BART, limits=limits)
    assert "--max_beam_width 4 --max_num_tokens 2048 --opt_num_tokens 512" in encoder
    assert "--max_beam_width 4" in decoder
    assert "num_tokens" not in decoder


@pytest.mark.parametrize(
    ("requested", "expected", "rule"),
    [
        ({}, 8192, "tokens_default"),
        ({"max_num_tokens": 9000}, 8192, "tokens_clip"),  # 8 × 1024: what is generated is not in flight there
        ({"max_num_tokens": 100}, 1024, "tokens_low"),
    ],
)
def test_tokens_are_bounded_by_the_input_alone(requested: dict[str, int], expected: int, rule: str) -> None:
    normal, notes = TRTLLM.normalise(spec(limits=LIMITS | requested), T5, H100)
    assert normal.limits.max_num_tokens == expected
    assert rule in {note.code for note in notes}


@pytest.mark.parametrize(
    ("model", "name", "value", "remedy"),
    [
        (T5, "max_encoder_input_len", 512, "use /limits/max_input_len: 512"),
        (T5, "strip_plan", True, "remove it"),
        (T5, "speculative_decoding_mode", "draft_tokens_external", "remove it"),
        (BART, "lora_target_modules", ["attn_q"], "remove it"),
        (BART, "lora_dir", ["hf:org/adapter"], "remove it"),
        (T5, "model_type", "bart", "remove it"),
        (BART, "nougat", True, "remove it"),
        (BART, "use_implicit_relative_attention", True, "remove it"),
        (T5, "use_weight_only", True, "remove it: the farm makes no quantisation of this model"),
    ],
)
def test_an_option_closed_to_encoder_decoders_is_refused_with_a_remedy(
    model: ModelFacts, name: str, value: object, remedy: str
) -> None:
    normal, _ = TRTLLM.normalise(spec(limits=LIMITS, options={name: value}), model, H100)
    (problem,) = TRTLLM.preflight(normal, model, H100)
    assert (problem.pointer, problem.code, problem.remedy) == (f"/options/{name}", "reserved_option", remedy)


def test_a_quantized_encoder_decoder_is_refused() -> None:
    requested = spec(limits=LIMITS, precision={"dtype": "bfloat16", "quantization": "int8_wo", "kv_cache": "int8"})
    normal, _ = TRTLLM.normalise(requested, T5, H100)
    problems = TRTLLM.preflight(normal, T5, H100)
    assert {(problem.pointer, problem.expected) for problem in problems} == {
        ("/precision/quantization", "null"), ("/precision/kv_cache", "null"),
    }  # fmt: skip
    assert all("makes nothing of them" in problem.detail for problem in problems)


def test_every_release_with_encoder_decoders_has_their_options() -> None:
    for version in VERSIONS:
        options_by_name = find_release(version).build_table.by_name
        assert (
            set(closed_options(T5.architecture))
            <= options_by_name.keys() | find_release(version).convert_options(T5.architecture).keys()
        )
        for part in engine_parts(T5.architecture):
            assert {*part.fixed_options, "max_seq_len", "max_encoder_input_len"} <= options_by_name.keys()


class TestRoad:
    """From a model to an engine, by programs that refuse what the real ones refuse."""

    @pytest.mark.usefixtures("installation")
    @pytest.mark.parametrize(("version", "folder"), [("0.10.0", "tp1/pp1/"), ("0.12.0", "")])
    def test_releases_before_kv_cache_type_convert_and_build_both(
        self, version: str, folder: str, tmp_path: Path
    ) -> None:
        """In 0.10 the checkpoints lie below the parallelism that they are for."""
        pipeline = start_pipeline(tmp_path, TINY_T5, version)
        assert pipeline.run_both()["differences"] == []
        assert (tmp_path / "convert" / folder / "encoder" / "config.json").is_file()
        encoder, decoder = command_lines(Stage.BUILD, T5, version)
        assert f"--checkpoint_dir /source/{folder}encoder" in encoder
        assert "--paged_kv_cache disable" in encoder
        assert "--paged_kv_cache" not in decoder

    @pytest.mark.usefixtures("installation")
    @pytest.mark.parametrize("version", ["0.15.0", "0.16.0", "0.19.0", "1.0.0", VERSION, "1.3.0rc20"])
    @pytest.mark.parametrize("model", [TINY_T5, TINY_BART], ids=["t5", "bart"])
    def test_encoder_and_decoder_are_converted_and_built(self, version: str, model: ModelFacts, tmp_path: Path) -> None:
        pipeline = start_pipeline(tmp_path, model, version)
        facts = pipeline.run_both()
        assert (facts["version"], facts["differences"], facts["own_limits"]) == (version, [], ["max_output_len"])
        encoder, decoder = (facts["effective"][folder]["build_config"] for folder in ("encoder", "decoder"))
        assert (encoder["max_input_len"], encoder["max_seq_len"], encoder["kv_cache_type"]) == (64, 64, "DISABLED")
        assert (decoder["max_input_len"], decoder["max_seq_len"], decoder["kv_cache_type"]) == (1, 33, "PAGED")
        assert decoder["max_encoder_input_len"] == 64
        engine = {str(path.relative_to(tmp_path / "build")) for path in (tmp_path / "build").rglob("*")}
        assert {"encoder/config.json", "encoder/rank0.engine", "decoder/rank0.engine", "tokenizer.json"} <= engine
        assert pipeline.check(Stage.CONVERT) == {"architecture": {"encoder": "EncoderModel", "decoder": "DecoderModel"}}

    @pytest.mark.usefixtures("installation")
    def test_encoder_and_decoder_have_files_for_every_rank(self, tmp_path: Path) -> None:
        pipeline = start_pipeline(tmp_path, TINY_T5, parallelism={"tp": 2, "pp": 2})
        assert pipeline.run_both()["differences"] == []
        for folder in LAYERS:
            assert len(list((tmp_path / "convert" / folder).glob("rank*.safetensors"))) == 4
            assert len(list((tmp_path / "build" / folder).glob("rank*.engine"))) == 4
        cache = (tmp_path / "build-scratch" / "model.cache").read_bytes()
        assert cache == b"timed\n" * 2, "the second build started with what the first one timed"

    @pytest.mark.parametrize("stage", list(Stage))
    @pytest.mark.parametrize(
        ("mode", "complaint"),
        [
            ("nothing", "encoder: there is no config.json"),
            ("missing_rank", r"ranks \[1\] of 2"),
            ("truncated", "rank1.* (is empty|complete)"),
        ],
    )
    def test_an_incomplete_output_is_refused_though_the_program_succeeded(
        self, installation: Path, tmp_path: Path, stage: Stage, mode: str, complaint: str
    ) -> None:
        pipeline = start_pipeline(tmp_path, TINY_T5, parallelism={"tp": 2})
        if stage is Stage.BUILD:
            assert pipeline.run(Stage.CONVERT).status == 0
        order(installation, VERSION, **{stage: {"mode": mode}})
        assert pipeline.run(stage).status == 0
        with pytest.raises(InvalidOutput, match=complaint):
            pipeline.check(stage)

    @pytest.mark.usefixtures("installation")
    def test_progress_moves_forward_through_both_programs(self, tmp_path: Path) -> None:
        """Each program begins at its own part of the stage."""
        pipeline = start_pipeline(tmp_path, TINY_T5)
        for stage, spans in ((Stage.CONVERT, [(0, 1)]), (Stage.BUILD, [(0, 0.5), (0.5, 1)])):
            planned = TOOLCHAIN.plan(pipeline.job(stage), pipeline.directories(stage))
            assert [command.span for command in planned[:-1]] == spans
            assert pipeline.run(stage).status == 0
            output = pipeline.run(stage).tail.split("TensorRT LLM version")
            progress: list[float] = []
            for span, part in zip(spans, output[1:], strict=True):
                for line in part.splitlines():
                    report = TOOLCHAIN.read_line(stage, line)
                    if report is not None and report.progress is not None:
                        progress.append(report.within(span).progress or 0.0)
            assert progress == sorted(progress)
            assert progress[-1] == (0.98 if stage is Stage.CONVERT else 0.99)

    @pytest.mark.usefixtures("installation")
    def test_the_double_refuses_a_model_of_another_kind(self, tmp_path: Path) -> None:
        make_tiny_bart(tmp_path / "model")
        assert Pipeline(tmp_path, model=TINY_T5).run(Stage.CONVERT).status == 1


def start_pipeline(root: Path, model: ModelFacts, version: str = VERSION, **fields: Any) -> Pipeline:
    make = make_tiny_t5 if model is TINY_T5 else make_tiny_bart
    make(root / "model")
    return Pipeline(root, version, model=model, **fields)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted and built model; tests copy it and break the copy."""
    return finished_pipeline(tmp_path_factory.mktemp("encoder_decoder"), lambda root: start_pipeline(root, TINY_T5))


@pytest.mark.parametrize(
    ("stage", "name", "content", "complaint"),
    [
        (Stage.CONVERT, "decoder/config.json", b"{", "decoder: config.json is not JSON"),
        (Stage.CONVERT, "encoder/rank0.safetensors", b"x", "encoder: rank0.safetensors is not a complete"),
        (Stage.CONVERT, "decoder/rank1.safetensors", b"x", r"decoder: .* ranks \[1\], but only 1"),
        (Stage.CONVERT, "encoder", None, "encoder: there is no config.json"),
        (Stage.BUILD, "decoder", None, "decoder: there is no config.json"),
        (Stage.BUILD, "encoder/rank0.engine", b"", "encoder: rank0.engine is empty"),
        (Stage.BUILD, "decoder/rank1.engine", b"x", r"decoder: .* ranks \[1\], but only 1"),
        (Stage.BUILD, "decoder/config.json", b'{"pretrained_config": {}}', "decoder: .* no build_config"),
    ],
)
def test_a_broken_file_is_reported_with_its_folder(
    finished: Path, tmp_path: Path, stage: Stage, name: str, content: bytes | None, complaint: str
) -> None:
    pipeline = copied_pipeline(finished, tmp_path)
    path = pipeline.root / stage / name
    if content is None:
        shutil.rmtree(path)
    else:
        path.write_bytes(content)
    with pytest.raises(InvalidOutput, match=complaint):
        pipeline.check(stage)


@pytest.mark.parametrize(
    ("folder", "changes", "complaint"),
    [
        ("encoder", {"num_hidden_layers": 4}, "encoder: num_hidden_layers .* is 4, but the model has 2"),
        ("decoder", {"num_hidden_layers": 2}, "decoder: num_hidden_layers .* is 2, but the model has 4"),
        ("decoder", {"architecture": "EncoderModel"}, "decoder: .* one of EncoderModel, not of DecoderModel"),
        ("encoder", {"dtype": "float16"}, "encoder: .* dtype is float16"),
        ("decoder", {"mapping": {"tp_size": 2}}, "decoder: .* tp_size is 2, not 1"),
    ],
)
def test_a_checkpoint_with_other_settings_is_refused_with_its_folder(
    finished: Path, tmp_path: Path, folder: str, changes: dict[str, Any], complaint: str
) -> None:
    pipeline = copied_pipeline(finished, tmp_path)
    path = pipeline.root / "convert" / folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    with pytest.raises(InvalidOutput, match=complaint):
        pipeline.check(Stage.CONVERT)


@pytest.mark.parametrize(
    ("folder", "changes", "difference"),
    [
        ("encoder", {"max_seq_len": 97}, {"pointer": "/limits/max_input_len", "wanted": 64, "has": 97}),
        ("encoder", {"max_num_tokens": 64}, {"pointer": "/limits/max_num_tokens", "wanted": 256, "has": 64}),
        (
            "encoder", {"kv_cache_type": "PAGED"},
            {"pointer": "/options/kv_cache_type", "wanted": "disabled", "has": "PAGED"},
        ),
        ("decoder", {"max_seq_len": 32}, {"pointer": "/limits/max_output_len", "wanted": 33, "has": 32}),
        ("decoder", {"max_encoder_input_len": 9}, {"pointer": "/limits/max_input_len", "wanted": 64, "has": 9}),
        ("decoder", {"max_num_tokens": 64}, None),
    ],
)  # fmt: skip
def test_lengths_that_differ_from_the_spec_are_reported(
    finished: Path, tmp_path: Path, folder: str, changes: dict[str, Any], difference: dict[str, Any] | None
) -> None:
    pipeline = copied_pipeline(finished, tmp_path)
    path = pipeline.root / "build" / folder / "config.json"
    content = json.loads(path.read_bytes())
    content["build_config"] |= changes
    path.write_text(json.dumps(content))
    assert pipeline.check(Stage.BUILD)["differences"] == ([difference] if difference else [])


def copied_pipeline(finished: Path, tmp_path: Path) -> Pipeline:
    return Pipeline(shutil.copytree(finished, tmp_path / "pipeline"), model=TINY_T5)


def test_shared_embeddings_are_in_both_checkpoints(finished: Path) -> None:
    embedding = tensors.read(finished / "model" / "model.safetensors")["shared.weight"]
    for folder in LAYERS:
        shard = tensors.read(finished / "convert" / folder / "rank0.safetensors")
        assert (shard["embedding.vocab_embedding.weight"] == embedding).all()


def job(stage: Stage, model: ModelFacts, **fields: Any) -> Job:
    normal, _ = TOOLCHAIN.normalise(spec(**{"limits": LIMITS} | fields), model, H100)
    platform = H100 if stage is Stage.BUILD else None
    return Job(stage=stage, toolchain="trtllm", version=VERSION, spec=normal, facts=model, platform=platform)


def needs(stage: Stage, model: ModelFacts, **fields: Any) -> Needs:
    return TOOLCHAIN.needs(job(stage, model, **fields))


def test_needs_count_both_checkpoints() -> None:
    embeddings = 2 * 32128 * 1024 * 2
    one_engine = T5.model_copy(update={"architecture": FACTS.architecture})
    assert needs(Stage.CONVERT, T5).scratch == needs(Stage.CONVERT, one_engine).scratch + embeddings
    assert needs(Stage.CONVERT, T5).host_memory > 3 * T5.weight_bytes, "each half is made from a copy of the whole"
    assert needs(Stage.BUILD, T5).scratch == 3 * (T5.weight_bytes + embeddings)


def test_needs_count_the_table_of_relative_positions() -> None:
    long = {"limits": LIMITS | {"max_output_len": 4000}}
    short, table = needs(Stage.BUILD, T5).gpu_memory, needs(Stage.BUILD, T5, **long).gpu_memory
    assert table - short == 16 * (4002**2 - 202**2) * 2
    assert needs(Stage.BUILD, BART, **long).gpu_memory == needs(Stage.BUILD, BART).gpu_memory
    on_the_fly = {"options": {"use_implicit_relative_attention": True}}
    assert needs(Stage.BUILD, T5, **long, **on_the_fly).gpu_memory < short


def test_needs_do_not_depend_on_the_token_limit() -> None:
    """Whatever max_num_tokens says: both take every input at its full length."""
    few_tokens = {"limits": LIMITS | {"max_num_tokens": 1024}}
    assert needs(Stage.BUILD, BART, **few_tokens).gpu_memory == needs(Stage.BUILD, BART).gpu_memory


def serving_of(model: ModelFacts, **fields: Any) -> Serving:
    serving = TOOLCHAIN.serving(job(Stage.BUILD, model, **fields))
    assert serving is not None
    return serving


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"parallelism": {"pp": 2}}, "pipeline stages"),
        ({"options": {"remove_input_padding": "disable"}}, "in-flight batching"),
        ({"options": {"kv_cache_type": "continuous"}}, "in-flight batching"),
    ],
)
def test_an_engine_that_triton_cannot_serve_has_no_layout_and_a_reason(fields: dict[str, Any], reason: str) -> None:
    serving = serving_of(T5, **fields)
    assert set(serving.launch) == {"run"}
    assert serving.layouts == {}
    assert reason in serving.without["triton"]
    assert reason in serving.summary()["without"]["triton"]
    assert serving_of(FACTS, **fields).layouts


def test_the_triton_layout_names_both_engines() -> None:
    serving = serving_of(BART, parallelism={"tp": 2})
    assert "--engine_dir {engine} --tokenizer_dir {engine}" in " ".join(serving.launch["run"].argv)
    assert serving.launch["triton"].argv.count("tritonserver") == 2
    files = serving.layouts["triton"].files
    for name, value in (
        ("gpt_model_path", "{engine}/decoder"), ("encoder_model_path", "{engine}/encoder"),
        ("cross_kv_cache_fraction", "0.5"), ("enable_kv_cache_reuse", "false"), ("enable_chunked_context", "false"),
    ):  # fmt: skip
        assert parameter(name, value) in files["tensorrt_llm/config.pbtxt"]
    assert parameter("decoder_dir", "{engine}/decoder") in files["preprocessing/config.pbtxt"]
    assert parameter("tokenizer_dir", "{engine}") in files["preprocessing/config.pbtxt"]
    joined(files)
    assert {"decoder_input_ids", "decoder_input_lengths"} <= names(files["tensorrt_llm/config.pbtxt"], "input")
    one_engine = serving_of(FACTS).layouts["triton"].files
    assert not any("decoder" in text for path, text in one_engine.items() if path.endswith(".pbtxt"))


def test_an_output_starts_with_the_token_that_the_decoder_names(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = copied_pipeline(finished, tmp_path).root / "build"
    request = {"QUERY": [[b"w1 w2"], [b"w3"]], "REQUEST_OUTPUT_LEN": [[5], [6]]}
    (tokens,) = python_model("preprocessing", engine, monkeypatch, decoder_dir=engine / "decoder").execute([request])
    assert tokens["INPUT_ID"].tolist() == [[4, 5], [6, 1]]
    assert tokens["DECODER_INPUT_ID"].tolist() == [[2], [2]]
    assert tokens["REQUEST_DECODER_INPUT_LEN"].tolist() == [[1], [1]]
    (plain,) = python_model("preprocessing", engine, monkeypatch).execute([request])
    assert plain.keys() == tokens.keys() - {"DECODER_INPUT_ID", "REQUEST_DECODER_INPUT_LEN"}
