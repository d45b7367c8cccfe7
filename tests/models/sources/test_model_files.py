"""Selecting the files of a model."""

from __future__ import annotations

import pytest

from enginefarm.contract.errors import ModelUnavailable
from models.sources.file_names import has_pickle, has_tokenizer
from models.sources.model_files import select

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


def codes(names: list[str]) -> list[str]:
    with pytest.raises(ModelUnavailable) as caught:
        select("hf:org/tiny", names)
    assert all(p.pointer == "/model" and p.value == "hf:org/tiny" and p.remedy for p in caught.value.problems)
    return [problem.code for problem in caught.value.problems]


def test_shards_come_with_their_index() -> None:
    assert select("x", ["config.json", *SHARDS, INDEX]) == ("config.json", *SHARDS, INDEX)


def test_second_copies_of_the_weights_are_not_selected() -> None:
    selected = select(
        "x", ["config.json", *SHARDS, INDEX, "consolidated.safetensors", "adapter_model.safetensors", "original/a.pth"]
    )
    assert selected == ("config.json", *SHARDS, INDEX)
    assert select("x", ["config.json", "model.safetensors", *SHARDS, INDEX]) == ("config.json", "model.safetensors")


def test_weights_of_another_name_are_selected_if_there_are_no_others() -> None:
    assert select("x", ["config.json", "tiny-llama.safetensors"]) == ("config.json", "tiny-llama.safetensors")


def test_tokenizers_of_every_kind_are_selected() -> None:
    tokenizers = ["merges.txt", "qwen.tiktoken", "special_tokens_map.json", "tokenizer.model", "vocab.json"]
    assert set(tokenizers) <= set(select("x", ["config.json", "model.safetensors", *tokenizers]))


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "model.pth", "flax_model.msgpack", "tf_model.h5", "modeling.py", "q4.gguf"],
)
def test_code_pickles_and_unused_formats_are_not_selected(name: str) -> None:
    assert name not in select("x", ["config.json", "model.safetensors", name])


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
        select("x", ["config.json", SHARDS[0], INDEX])


def test_pickles_and_tokenizers_are_recognized() -> None:
    assert has_pickle(["a.safetensors", "pytorch_model-00001-of-00002.bin"])
    assert not has_pickle(["a.safetensors", "binary.json"])
    assert has_tokenizer(["tokenizer.model"])
    assert not has_tokenizer(["tokenizer_config.json"])  # settings of a tokenizer, without a vocabulary
