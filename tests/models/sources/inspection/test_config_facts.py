"""Reading `config.json`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.facts import ModelFacts
from models.sources.inspection.config_facts import read_facts
from tests.models.sources.models import CONFIG


def facts(**config: Any) -> ModelFacts:
    return read_facts("hf:org/tiny", json.dumps({**CONFIG, **config}).encode(), [10, 20], ["model.safetensors"])


def test_facts_of_a_dense_llama() -> None:
    assert facts() == ModelFacts(
        architecture="LlamaForCausalLM",
        model_type="llama",
        dtype="bfloat16",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        intermediate_size=128,
        max_position_embeddings=256,
        weight_bytes=30,
        has_safetensors=True,
        has_pickle=False,
        has_tokenizer=False,
        remote_code=False,
    )


def test_facts_for_checks_at_submit_are_in_no_job() -> None:
    read = facts(tie_word_embeddings=True, head_dim=128, moe_intermediate_size=1408, kv_lora_rank=512, q_lora_rank=None)
    assert (read.tie_word_embeddings, read.head_dim, read.moe_intermediate_size) == (True, 128, 1408)
    assert (read.kv_lora_rank, read.q_lora_rank) == (512, None)
    # A worker of the previous version refuses facts that it does not know.
    assert read.model_dump().keys() == facts(tie_word_embeddings=None).model_dump().keys()
    assert not {"tie_word_embeddings", "head_dim", "kv_lora_rank"} & read.model_dump().keys()


def test_a_tie_that_is_no_boolean_is_not_known() -> None:
    assert facts(tie_word_embeddings="yes").tie_word_embeddings is None


@pytest.mark.parametrize(
    ("written", "dtype"),
    [
        ("torch.float16", "float16"),
        ("half", "float16"),
        ("bf16", "bfloat16"),
        ("float8_e4m3fn", None),
        (None, None),
        (7, None),
    ],
)
def test_dtype_is_normalized_to_the_spelling_of_a_spec(written: Any, dtype: str | None) -> None:
    assert facts(torch_dtype=written).dtype == dtype


@pytest.mark.parametrize(
    ("config", "encoder", "decoder"),
    [
        ({"num_layers": 8, "num_heads": 6, "d_ff": 1024}, (8, 6, 1024), (8, 6, 1024)),  # as T5 writes it
        ({"num_layers": 8, "num_decoder_layers": 4, "num_heads": 6, "d_ff": 1024}, (8, 6, 1024), (4, 6, 1024)),
        (
            {
                "encoder_layers": 12, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
                "decoder_layers": 6, "decoder_attention_heads": 8, "decoder_ffn_dim": 2048,
            },
            (12, 16, 4096), (6, 8, 2048),
        ),  # as BART writes it
    ],
)  # fmt: skip
def test_both_stacks_of_an_encoder_decoder_are_read(
    config: dict[str, Any], encoder: tuple[int, ...], decoder: tuple[int, ...]
) -> None:
    """The decoder's numbers are the model's too."""
    read = facts(is_encoder_decoder=True, **config)
    for stack, numbers in ((read.encoder, encoder), (read.decoder, decoder), (read, decoder)):
        assert stack is not None
        assert (stack.num_hidden_layers, stack.num_attention_heads, stack.intermediate_size) == numbers
    assert (facts(**config).encoder, facts(**config).decoder) == (None, None), "only an encoder-decoder has stacks"
    assert facts(**config).num_hidden_layers == 2


def test_the_new_name_of_dtype_wins() -> None:
    assert facts(dtype="float32").dtype == "float32"


def test_nested_attention_and_feed_forward_settings_are_read() -> None:
    """As DBRX and MPT write it."""
    written = {
        "architectures": ["DbrxForCausalLM"], "d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768,
        "attn_config": {"kv_n_heads": 8}, "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16},
    }  # fmt: skip
    read = read_facts("hf:org/dbrx", json.dumps(written).encode(), [10], ["model.safetensors"])
    assert (read.hidden_size, read.num_hidden_layers, read.num_attention_heads) == (6144, 40, 48)
    assert (read.num_key_value_heads, read.intermediate_size, read.num_experts) == (8, 10752, 16)
    assert read.max_position_embeddings == 32768


def test_without_grouped_heads_every_head_has_its_own_keys() -> None:
    assert facts(num_key_value_heads=None).num_key_value_heads == 4


@pytest.mark.parametrize("name", ["num_local_experts", "num_experts", "n_routed_experts"])
def test_the_number_of_experts_is_read_under_each_name(name: str) -> None:
    assert facts(**{name: 8}).num_experts == 8


def test_old_names_of_settings_are_read() -> None:
    old = {"architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12, "n_head": 6, "n_positions": 1024}
    read = read_facts("x", json.dumps(old).encode(), [], [])
    assert (read.hidden_size, read.num_hidden_layers, read.num_key_value_heads) == (768, 12, 6)
    assert read.max_position_embeddings == 1024
    assert read.intermediate_size is None


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        # tiiuae/falcon-7b, falcon-40b, falcon-rw-1b, and 40B in the form of before transformers had it
        ({"architectures": ["FalconForCausalLM"], "num_attention_heads": 71, "num_kv_heads": 71, "multi_query": True,
          "new_decoder_architecture": False}, 1),
        ({"architectures": ["FalconForCausalLM"], "num_attention_heads": 128, "num_kv_heads": 8, "multi_query": True,
          "new_decoder_architecture": True}, 8),
        ({"architectures": ["FalconForCausalLM"], "num_attention_heads": 32, "num_kv_heads": 32, "multi_query": False,
          "new_decoder_architecture": False}, 32),
        ({"architectures": ["RWForCausalLM"], "n_head": 128, "n_head_kv": 8}, 8),
        ({"architectures": ["RWForCausalLM"], "n_head": 71, "multi_query": True}, 1),
        # THUDM/chatglm3-6b and chatglm-6b
        ({"architectures": ["ChatGLMModel"], "num_attention_heads": 32, "multi_query_attention": True,
          "multi_query_group_num": 2}, 2),
        ({"architectures": ["ChatGLMModel"], "num_attention_heads": 32}, 32),
        # bigcode/starcoder, and a configuration that leaves multi_query to its default
        ({"architectures": ["GPTBigCodeForCausalLM"], "n_head": 48, "multi_query": True}, 1),
        ({"architectures": ["GPTBigCodeForCausalLM"], "n_head": 48}, 1),
        ({"architectures": ["GPTBigCodeForCausalLM"], "n_head": 48, "multi_query": False}, 48),
        ({"architectures": ["GPT2LMHeadCustomModel"], "n_head": 16}, 1),
        ({"architectures": ["GPT2LMHeadModel"], "n_head": 12}, 12),
        ({"architectures": ["MPTForCausalLM"], "n_heads": 64, "attn_config": {"kv_n_heads": 8}}, 8),
        # nvidia/Llama-3_1-Nemotron-51B: layers differ, and some have no attention
        ({"architectures": ["DeciLMForCausalLM"], "num_attention_heads": 64, "num_key_value_heads": None,
          "block_configs": [{"attention": {"n_heads_in_group": 8}}, {"attention": {"n_heads_in_group": None}},
                            {"attention": {"n_heads_in_group": 16}}]}, 4),
        ({"architectures": ["DeciLMForCausalLM"], "num_attention_heads": 32,
          "num_key_value_heads_per_layer": [4, 2, 1, 4]}, 1),
    ],
)  # fmt: skip
def test_key_and_value_heads_are_read_as_each_family_states_them(config: dict[str, Any], kv_heads: int) -> None:
    assert read_facts("x", json.dumps(config).encode(), [], []).num_key_value_heads == kv_heads


@pytest.mark.parametrize(
    ("config", "fact", "value"),
    [
        ({"padded_vocab_size": 65024, "vocab_size": 64798}, "vocab_size", 65024),  # ChatGLM
        ({"seq_length": 8192}, "max_position_embeddings", 8192),  # ChatGLM, BLOOM
        ({"max_sequence_length": 2048}, "max_position_embeddings", 2048),  # the first ChatGLM
        ({"model_max_length": 4096}, "max_position_embeddings", 4096),  # Baichuan 13B
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, "max_position_embeddings", 8192),  # Command R
        ({"inner_hidden_size": 16384}, "intermediate_size", 16384),
        ({"ff_intermediate_size": 14336}, "intermediate_size", 14336),  # Phi-3-small
        ({"d_model": 4096, "expansion_ratio": 4}, "intermediate_size", 16384),  # MPT
        ({"n_embed": 1024}, "hidden_size", 1024),  # BLOOM
        ({"text_config": {"embed_dim": 2048}}, "hidden_size", 2048),  # Kosmos-2
        ({"text_config": {"layers": 24}}, "num_hidden_layers", 24),
        ({"text_config": {"attention_heads": 32}}, "num_attention_heads", 32),
        ({"num_layers": 28}, "num_hidden_layers", 28),
        ({"rope_ratio": 50}, "rope_scaling", {"rope_ratio": 50}),  # ChatGLM with 32K
        ({"rope_ratio": 1}, "rope_scaling", None),
    ],
)
def test_sizes_are_read_under_the_names_of_each_family(config: dict[str, Any], fact: str, value: Any) -> None:
    read = read_facts("x", json.dumps({"architectures": ["L"], **config}).encode(), [], [])
    assert getattr(read, fact) == value


def test_the_original_form_of_mamba_is_an_architecture_of_its_own() -> None:
    """state-spaces/mamba-2.8b names none."""
    original = {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {}, "pad_vocab_size_multiple": 8}
    read = read_facts("x", json.dumps(original).encode(), [], [])
    assert (read.architecture, read.hidden_size, read.num_hidden_layers) == ("MambaLMHeadModel", 2560, 64)
    assert (read.num_attention_heads, read.num_key_value_heads) == (None, None)


MODELOPT = b'{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}'


@pytest.mark.parametrize(
    ("files", "quantization"),
    [
        ({}, None),
        (
            {"hf_quant_config.json": MODELOPT},
            {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        ),
        ({"hf_quant_config.json": b'{"quantization": {"quant_algo": null}}'}, None),
        (
            {"quantize_config.json": b'{"bits": 4, "group_size": 128}'},
            {"quant_method": "auto_gptq", "bits": 4, "group_size": 128},
        ),
    ],
)
def test_quantized_weights_are_described_beside_the_config(
    files: dict[str, bytes], quantization: dict[str, Any] | None
) -> None:
    config = json.dumps(CONFIG).encode()
    assert read_facts("x", config, [], [], quantization=files).quantization_config == quantization
    stated = json.dumps({**CONFIG, "quantization_config": {"quant_method": "fp8"}}).encode()
    read = read_facts("x", stated, [], [], quantization=files)
    assert read.quantization_config == {"quant_method": "fp8"}, "config.json is what the scripts read first"


def test_a_description_of_quantized_weights_that_is_no_object_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match=r"hf_quant_config\.json is not a JSON object"):
        read_facts("x", json.dumps(CONFIG).encode(), [], [], quantization={"hf_quant_config.json": b"[]"})


def test_the_language_model_of_a_multimodal_model_is_read() -> None:
    written = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {"hidden_size": 2560, "dtype": "bfloat16", "model_type": "gemma3_text"},
        "vision_config": {"hidden_size": 1152},
    }
    read = read_facts("x", json.dumps(written).encode(), [], [])
    assert (read.hidden_size, read.dtype, read.model_type) == (2560, "bfloat16", "gemma3")


def test_rope_scaling_and_quantization_are_read() -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0}
    assert facts(rope_scaling=scaling).rope_scaling == scaling
    assert facts(rope_parameters=scaling).rope_scaling == scaling
    assert facts(rope_parameters={"rope_type": "default", "rope_theta": 1e4}).rope_scaling is None
    assert facts(quantization_config={"quant_method": "fp8"}).quantization_config == {"quant_method": "fp8"}


def test_a_model_with_its_own_code_is_marked() -> None:
    assert facts(auto_map={"AutoModel": "modeling_tiny.Tiny"}).remote_code


@pytest.mark.parametrize(
    ("config", "defect"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b"[]", "not a JSON object but a list"),
        (b"{}", "names no architecture"),
        (b'{"architectures": []}', "names no architecture"),
        (b'{"architectures": "LlamaForCausalLM"}', "names no architecture"),
        (b'{"architectures": ["L"], "hidden_size": "64"}', "bad hidden_size"),
        (b'{"architectures": ["L"], "vocab_size": -1}', "bad vocab_size"),
        (b'{"architectures": ["L"], "num_hidden_layers": true}', "bad num_hidden_layers"),
        (b'{"architectures": ["L"], "rope_scaling": 4}', "bad rope_scaling"),
    ],
)
def test_a_bad_config_is_refused(config: bytes, defect: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        read_facts("hf:org/tiny", config, [], [])
    (problem,) = caught.value.problems
    assert problem.code == "model_config_invalid"
    assert defect in problem.detail
    assert len(problem.detail) < 300
