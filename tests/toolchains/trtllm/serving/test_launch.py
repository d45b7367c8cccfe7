"""How an engine is served: launch commands, images, and a Triton model repository."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from enginefarm.contract.serving import Layout
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.doubles.tiny_models.llama import make_tiny_llama
from tests.toolchains.trtllm.build_contexts import FACTS, H100, VERSION, spec
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.releases.images import images


def job(**fields: Any) -> Job:
    normalised, _ = TOOLCHAIN.normalise(spec(**fields), FACTS, H100)
    return Job(stage=Stage.BUILD, toolchain="trtllm", version=VERSION, spec=normalised, facts=FACTS, platform=H100)


def layout(**fields: Any) -> Layout:
    serving = TOOLCHAIN.serving(job(**fields))
    assert serving is not None
    return serving.layouts["triton"]


def names(text: str, section: str) -> set[str]:
    """The tensors of `input [ … ]` or `output [ … ]`."""
    (section_text,) = re.findall(rf"^{section} \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'name: "(\w+)"', section_text))


def test_every_rank_has_a_process() -> None:
    serving = TOOLCHAIN.serving(job(parallelism={"tp": 2, "pp": 2}))
    assert serving is not None
    assert (serving.world_size, serving.ranks) == (4, {"tp": 2, "pp": 2, "cp": 1})
    assert serving.launch["run"].argv[:3] == ["mpirun", "-n", "4"]
    triton = serving.launch["triton"].argv
    assert triton.count("tritonserver") == 4
    assert triton.count("--load-model=tensorrt_llm") == 3, "the first one loads everything"
    single = TOOLCHAIN.serving(job())
    assert single is not None
    assert single.launch["run"].argv[0] == "python3"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.16.0", ["nvcr.io/nvidia/tritonserver:24.12-trtllm-python-py3"]),
        ("1.0.0", ["25.10-trtllm-python-py3", "25.09-trtllm-python-py3", "nvcr.io/nvidia/tensorrt-llm/release:1.0.0"]),
        ("1.2.1", ["nvcr.io/nvidia/tensorrt-llm/release:1.2.1"]),
        ("0.18.0", []),
    ],
)
def test_images_are_those_that_a_source_states(version: str, expected: list[str]) -> None:
    known_images = images(version)
    assert len(known_images) == len(expected)
    for image, ending in zip(known_images, expected, strict=True):
        assert image.image.endswith(ending)
        assert image.has["tensorrt_llm"] == version
        assert image.source


def test_every_placeholder_of_the_repository_has_a_value() -> None:
    triton = layout(limits={"max_batch_size": 7, "max_input_len": 64, "max_output_len": 32, "max_beam_width": 3})
    engine = triton.files["tensorrt_llm/config.pbtxt"]
    for line in (
        'backend: "tensorrtllm"', "max_batch_size: 7", "decoupled: true",
        'key: "gpt_model_path" value: { string_value: "{engine}" }',
        'key: "gpt_model_type" value: { string_value: "inflight_fused_batching" }',
        'key: "max_beam_width" value: { string_value: "3" }',
    ):  # fmt: skip
        assert line in engine
    for name in ("preprocessing", "postprocessing"):
        assert 'key: "tokenizer_dir" value: { string_value: "{engine}" }' in triton.files[f"{name}/config.pbtxt"]
    assert not any("$" in text for path, text in triton.files.items() if path.endswith(".pbtxt"))
    assert triton.engine == "tensorrt_llm/1"


MEDUSA = {"speculative_decoding_mode": "medusa", "medusa_model_dir": "hf:org/heads"}
EAGLE = {"speculative_decoding_mode": "eagle", "eagle_model_dir": "hf:org/heads"}
LORA = {"lora_plugin": "auto", "lora_dir": ["hf:org/one", "hf:org/two"], "max_lora_rank": 16}


def parameter(name: str, value: object) -> str:
    return f'parameters: {{ key: "{name}" value: {{ string_value: "{value}" }} }}'


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (MEDUSA, {"decoding_mode": "medusa"}),
        (EAGLE, {"decoding_mode": "eagle"}),
        ({"speculative_decoding_mode": "lookahead_decoding", "max_draft_len": 4}, {"decoding_mode": "lookahead"}),
        ({"speculative_decoding_mode": "draft_tokens_external", "max_draft_len": 4}, {}),
        (LORA, {"lora_cache_max_adapter_size": 16}),
        ({"max_lora_rank": 16}, {}),
    ],
)
def test_parameters_name_the_decoding_mode_and_the_largest_adapter(
    options: dict[str, Any], parameters: dict[str, object]
) -> None:
    always = parameter_lines({})
    assert parameter_lines(options) == always + [parameter(name, value) for name, value in parameters.items()]


def parameter_lines(options: dict[str, Any]) -> list[str]:
    """The lines of parameters of the model `tensorrt_llm`, for an engine with these options."""
    config = layout(options=options).files["tensorrt_llm/config.pbtxt"]
    return [line for line in config.splitlines() if "parameters" in line]


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", "TYPE_BF16"), ("float16", "TYPE_FP16")])
def test_adapters_come_with_requests_in_the_engines_own_type(dtype: str, kind: str) -> None:
    files = layout(options=LORA, precision={"dtype": dtype}).files
    for model in ("tensorrt_llm", "ensemble"):
        text = files[f"{model}/config.pbtxt"]
        assert {"lora_task_id", "lora_weights", "lora_config"} <= names(text, "input")
        assert f'{{ name: "lora_weights" data_type: {kind} dims: [ -1, -1 ] allow_ragged_batch: true' in text
        assert "lora" not in layout().files[f"{model}/config.pbtxt"]


def test_an_ensemble_passes_adapters_to_the_engine() -> None:
    joined(layout(options=LORA).files)
    assert layout(options=LORA).files["ensemble/config.pbtxt"].count('input_map { key: "lora_') == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (MEDUSA, None),
        (MEDUSA | {"num_medusa_heads": 5}, None),
        (MEDUSA | {"num_medusa_heads": 3}, "give medusa_choices, at most 3 tokens deep and of at most 63 in all"),
        (MEDUSA | {"max_medusa_token_len": 8}, "give medusa_choices, at most 4 tokens deep and of at most 8 in all"),
        (EAGLE, None),
        (EAGLE | {"num_eagle_layers": 5}, "give eagle_choices, exactly 5 tokens deep"),
    ],
)
def test_a_tree_of_drafts_that_does_not_fit_must_be_given(options: dict[str, Any], says: str | None) -> None:
    notes = layout(options=options).notes
    assert sum("mc_sim_7b_63, 4 tokens deep" in note for note in notes) == 1
    assert [note.partition(": ")[2] for note in notes if "does not fit" in note] == ([says] if says else [])


def test_the_notes_name_the_folders_of_adapters() -> None:
    adapter_notes = layout(options=LORA).notes
    assert any("lora/0 to lora/1" in note for note in adapter_notes)
    assert any("lora_task_id" in note for note in adapter_notes)
    assert not any("lora" in note for note in layout().notes)


def test_without_packed_input_there_is_no_inflight_batching() -> None:
    assert '"V1"' in layout(options={"remove_input_padding": "disable"}).files["tensorrt_llm/config.pbtxt"]


def test_the_ensemble_names_tensors_of_its_models() -> None:
    joined(layout().files)


def joined(files: dict[str, str]) -> None:
    """Assert that an earlier step makes every tensor that a step takes, and that the models have the named tensors."""
    ensemble = files["ensemble/config.pbtxt"]
    known_tensors = set(names(ensemble, "input"))
    for step in ensemble.split("model_name: ")[1:]:
        model = files[step.split('"')[1] + "/config.pbtxt"]
        inputs = dict(re.findall(r'input_map { key: "(\w+)" value: "(\w+)" }', step))
        outputs = dict(re.findall(r'output_map { key: "(\w+)" value: "(\w+)" }', step))
        assert inputs.keys() <= names(model, "input")
        assert outputs.keys() <= names(model, "output")
        assert set(inputs.values()) <= known_tensors, "an earlier step makes every tensor"
        known_tensors |= set(outputs.values())
    assert names(ensemble, "output") <= known_tensors


class Backend(ModuleType):
    """Imitates the part of Triton's Python backend that the two models use."""

    Tensor = staticmethod(lambda name, value: SimpleNamespace(name=name, as_numpy=lambda: value))
    InferenceResponse = staticmethod(lambda output_tensors: {t.name: t.as_numpy() for t in output_tensors})

    @staticmethod
    def get_input_tensor_by_name(request: dict[str, Any], name: str) -> Any:
        return SimpleNamespace(as_numpy=lambda: np.array(request[name]))


def python_model(name: str, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, **folders: Path) -> Any:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", Backend("triton_python_backend_utils"))
    space: dict[str, Any] = {}
    exec(compile(layout().files[f"{name}/1/model.py"], name, "exec"), space)
    model = space["TritonPythonModel"]()
    model_folders = {"tokenizer_dir": tokenizer, **folders}
    parameters = {key: {"string_value": str(folder)} for key, folder in model_folders.items()}
    model.initialize({"model_config": json.dumps({"parameters": parameters})})
    return model


def test_the_python_models_encode_and_decode_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_llama(tmp_path / "model")
    request = {"QUERY": [[b"w1 w2 w3"], [b"w4"]], "REQUEST_OUTPUT_LEN": [[5], [6]]}
    (tokens,) = python_model("preprocessing", folder, monkeypatch).execute([request])
    assert tokens["INPUT_ID"].tolist() == [[4, 5, 6], [7, 1, 1]], "padded with the end token"
    assert tokens["REQUEST_INPUT_LEN"].tolist() == [[3], [1]]
    assert tokens["REQUEST_OUTPUT_LEN"].tolist() == [[5], [6]]
    assert tokens["OUT_END_ID"].tolist() == [[1], [1]]
    assert {value.dtype for value in tokens.values()} == {np.dtype("int32")}
    answer = {"TOKENS_BATCH": [[[4, 5, 1, 0]], [[7, 8, 9, 10]]], "SEQUENCE_LENGTH": [[2], [4]]}
    (text,) = python_model("postprocessing", folder, monkeypatch).execute([answer])
    assert text["OUTPUT"].tolist() == [[b"w1 w2"], [b"w4 w5 w6 w7"]]
