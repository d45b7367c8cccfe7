"""Selecting the files of a model: the index says which weights count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from enginefarm.contract.errors import ModelUnavailable
from models.sources.inspection.file_names import has_pickle, has_safetensors, has_tokenizer
from models.sources.inspection.model_files import select
from models.sources.inspection.weights import MAX_INDEX_BYTES
from tests.doubles.weights import index

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


def selected(names: Sequence[str], *, trusted: bool = False, files: Mapping[str, bytes] | None = None) -> set[str]:
    """The selected files besides `config.json`. An index that `files` lacks names all shards."""
    shards = {f"tensor.{number}": name for number, name in enumerate(names) if name.endswith(".safetensors")}
    contents = {INDEX: index(shards), **(files or {})}

    def read(name: str, length: int) -> bytes:
        return contents[name][:length]

    return set(select("hf:org/tiny", ["config.json", *names], read, trusted=trusted)) - {"config.json"}


def codes(names: list[str]) -> list[str]:
    with pytest.raises(ModelUnavailable) as caught:
        select("hf:org/tiny", names, lambda name, length: index({"a": SHARDS[0], "b": SHARDS[1]}))
    assert all(p.pointer == "/model" and p.value == "hf:org/tiny" and p.remedy for p in caught.value.problems)
    return [problem.code for problem in caught.value.problems]


def test_shards_come_with_their_index() -> None:
    assert selected([*SHARDS, INDEX]) == {*SHARDS, INDEX}


@pytest.mark.parametrize(
    ("architecture", "read_too"), [("Mamba2ForCausalLM", {"params.json"}), ("MistralForCausalLM", set())]
)
def test_settings_of_mistrals_own_form_are_those_of_codestral_mamba_alone(
    architecture: str, read_too: set[str]
) -> None:
    config = json.dumps({"architectures": [architecture]}).encode()
    names = ["model.safetensors", "params.json", "consolidated.safetensors"]
    assert selected(names, files={"config.json": config}) == {"model.safetensors"} | read_too


def test_second_copies_of_the_weights_are_not_selected() -> None:
    named = {INDEX: index({"a": SHARDS[0], "b": SHARDS[1]})}
    others = [
        "consolidated.safetensors",
        "adapter_model.safetensors",
        "original/a.pth",
        "model-00003-of-00003.safetensors",
    ]
    assert selected([*SHARDS, INDEX, *others], files=named) == {*SHARDS, INDEX}
    assert selected(["model.safetensors", *SHARDS, INDEX], files=named) == {"model.safetensors"}


def test_weights_of_another_name_are_selected_if_there_are_no_others() -> None:
    assert selected(["tiny-llama.safetensors", "adapter_model.safetensors"]) == {"tiny-llama.safetensors"}


def test_tokenizers_of_every_kind_are_selected() -> None:
    tokenizers = ["merges.txt", "qwen.tiktoken", "special_tokens_map.json", "tokenizer.model", "vocab.json"]
    assert set(tokenizers) <= selected(["model.safetensors", *tokenizers])


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "model.pth", "flax_model.msgpack", "tf_model.h5", "modeling.py", "q4.gguf"],
)
def test_code_pickles_and_unused_formats_are_not_selected(name: str) -> None:
    assert name not in selected(["model.safetensors", name])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ["model_empty"]),
        (["original/config.json", "original/model.safetensors"], ["model_empty"]),
        (["model.safetensors"], ["model_config_missing"]),
        (["config.json"], ["model_weights_missing"]),
        (["README.md"], ["model_config_missing", "model_weights_missing"]),
        (["config.json", "pytorch_model.bin"], ["model_only_pickle"]),
        (["pytorch_model.bin"], ["model_config_missing", "model_only_pickle"]),
        (["config.json", SHARDS[0], INDEX], ["model_weights_incomplete"]),
        (["config.json", *SHARDS], ["model_weights_incomplete"]),
    ],
)
def test_all_problems_are_reported_at_once(names: list[str], expected: list[str]) -> None:
    assert codes(names) == expected


def test_the_missing_shard_is_named() -> None:
    with pytest.raises(ModelUnavailable, match=r"model-00002-of-00002\.safetensors is missing"):
        selected([SHARDS[0], INDEX], files={INDEX: index({"a": SHARDS[0], "b": SHARDS[1]})})


def test_pickles_and_tokenizers_are_recognized() -> None:
    assert has_pickle(["a.safetensors", "pytorch_model-00001-of-00002.bin"])
    assert not has_pickle(["a.safetensors", "binary.json"])
    assert has_tokenizer(["tokenizer.model"])
    assert not has_tokenizer(["tokenizer_config.json"])  # settings of a tokenizer, without a vocabulary


@pytest.mark.parametrize(
    "shards",
    [
        ("model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"),
        ("model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"),
        ("model.safetensors-00001-of-00002.safetensors", "model.safetensors-00002-of-00002.safetensors"),
        ("layers-0.safetensors", "layers-1.safetensors", "outside.safetensors"),
        ("quantized shard a.safetensors", "b.safetensors"),
        ("model.safetensors", "mtp.safetensors"),
    ],
)
def test_the_index_says_which_weights_count(shards: Sequence[str]) -> None:
    weight_map = index(dict.fromkeys(["a", "b"], shards[0]) | {name: name for name in shards})
    assert selected([*shards, INDEX, "left-behind.safetensors"], files={INDEX: weight_map}) == {*shards, INDEX}


def test_an_index_beside_a_complete_file_is_left_behind() -> None:
    for stale in (index({"a": SHARDS[0]}), index({"a": "model.safetensors", "b": SHARDS[0]}), b"", b"[]", b"{"):
        assert selected(["model.safetensors", INDEX], files={INDEX: stale}) == {"model.safetensors"}


@pytest.mark.parametrize(
    ("names", "weight_map", "missing"),
    [
        ([SHARDS[0]], {"a": SHARDS[0], "b": SHARDS[1]}, "model-00002-of-00002.safetensors is missing"),
        (SHARDS, {"a": SHARDS[0], "b": SHARDS[1], "c": "head.safetensors"}, "head.safetensors is missing"),
        ([], {"a": "x.safetensors", "b": "y.safetensors"}, "x.safetensors, y.safetensors are missing"),
        ([], {str(n): f"{n}.safetensors" for n in range(9)}, "0.safetensors, 1.safetensors, 2.safetensors and 6 more"),
    ],
)
def test_a_shard_that_the_index_names_and_is_missing_is_named(
    names: Sequence[str], weight_map: Mapping[str, str], missing: str
) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        selected([*names, INDEX], files={INDEX: index(weight_map)})
    [problem] = caught.value.problems
    assert problem.code == "model_weights_incomplete"
    assert missing in problem.detail
    assert INDEX in problem.detail


@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (b"not json", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "has no weight_map"),
        (b'{"weight_map": {}}', "has no weight_map"),
        (b'{"weight_map": ["model-00001-of-00002.safetensors"]}', "has no weight_map"),
        (index({"a": "../outside.safetensors"}), "no plain name of a file"),
        (index({"a": "/etc/passwd"}), "no plain name of a file"),
        (index({"a": "shards/a.safetensors"}), "no plain name of a file"),
        (b'{"weight_map": {"a": 5}}', "is not a .safetensors file"),
        (index({"a": "pytorch_model.bin"}), "not a .safetensors file"),
        (json.dumps({"x": "y" * MAX_INDEX_BYTES}).encode(), "has more than"),
    ],
)
def test_an_unusable_index_is_refused(content: bytes, defect: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        selected([*SHARDS, INDEX], files={INDEX: content})
    [problem] = caught.value.problems
    assert problem.code == "model_index_invalid"
    assert INDEX in problem.detail
    assert defect in problem.detail


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["model-00001-of-000003.safetensors"], "model-00002-of-000003.safetensors, model-00003-of-000003.safetensors"),
        (["model-00000-of-00002.safetensors"], "model-00001-of-00002.safetensors, model.safetensors.index.json"),
        (["model-00001-of-999999.safetensors"], "and 2 more"),
        (["model.safetensors-00001-of-00001.safetensors"], "model.safetensors.index.json is missing"),
        (["a.safetensors", "model.safetensors.index.fp16.json"], "rename model.safetensors.index.fp16.json"),
        (
            ["consolidated.safetensors.index.json", "c.safetensors"],
            "loaders do not open consolidated.safetensors.index",
        ),
    ],
)
def test_shards_without_an_index_are_incomplete(names: Sequence[str], missing: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        selected(names)
    [problem] = caught.value.problems
    assert problem.code == "model_weights_incomplete"
    assert missing in f"{problem.detail}; {problem.remedy}"


def test_pickled_shards_of_a_trusted_model_come_with_their_index() -> None:
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "training_args.bin"]
    files = {"pytorch_model.bin.index.json": index({"a": names[0], "b": names[1]})}
    assert selected([*names, *files], trusted=True, files=files) == {*names[:2], *files}
    with pytest.raises(ModelUnavailable, match=r"00002\.bin is missing"):
        selected([names[0], *files], trusted=True, files=files)
    with pytest.raises(ModelUnavailable, match=r"00002\.bin, pytorch_model\.bin\.index\.json are"):
        selected(names[:1], trusted=True)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"])
def test_an_adapter_alone_is_no_model(name: str) -> None:
    files = {"adapter_config.json": b'{"base_model_name_or_path": "org/base", "r": 8}'}
    with pytest.raises(ModelUnavailable) as caught:
        selected([name, "adapter_config.json", "tokenizer.json"], files=files, trusted=True)
    [problem] = caught.value.problems
    assert problem.code == "model_only_adapter"
    assert name in problem.detail
    assert "org/base" in str(problem.remedy)
    assert not has_safetensors([name])


@pytest.mark.parametrize("config", [b"{", b"[]", b"{}", b'{"base_model_name_or_path": "a\\nb"}'])
def test_an_adapter_that_names_no_model_is_refused_all_the_same(config: bytes) -> None:
    with pytest.raises(ModelUnavailable, match="LoRA adapter"):
        selected(["adapter_model.safetensors", "adapter_config.json"], files={"adapter_config.json": config})


@pytest.mark.parametrize(
    ("name", "weights_format"),
    [
        ("q4.gguf", "GGUF"), ("model.onnx", "ONNX"), ("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax"),
        ("weights.npz", "NumPy"),
    ],
)  # fmt: skip
def test_weights_of_another_format_are_refused_by_name(name: str, weights_format: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        selected([name, "tokenizer.json"])
    [problem] = caught.value.problems
    assert problem.code == "model_weights_missing"
    assert f"only {weights_format} weights ({name})" in problem.detail
