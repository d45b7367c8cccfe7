"""Read the facts of a model from its `config.json`: enough to check a spec without loading weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from enginefarm.contract.bounded import is_plain_text, parse_json
from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.facts import ModelFacts, Stack
from enginefarm.contract.spec import DTYPE_ALIASES
from models.sources.inspection.file_names import (
    CONFIG,
    MODELOPT_CONFIG,
    TOKENIZER_JSON,
    has_pickle,
    has_safetensors,
    has_tokenizer,
)
from models.sources.rejection import refusal

MAX_CONFIG_BYTES = 4 << 20  # real ones have a few KB; the limit keeps a false one from filling the memory

# Fact → keys of config.json. Architectures of different ages name one thing differently; the first key present wins.
_KEYS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model", "embed_dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "attention_heads"),
    # ChatGLM states the size of its tokenizer's vocabulary beside that of the matrix.
    "vocab_size": ("padded_vocab_size", "vocab_size"),
    "intermediate_size": (
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "ffn_hidden_size",
        "inner_hidden_size",
        "ff_intermediate_size",
    ),
    # A tokenizer's limit goes last: Command R states 128K there, and was trained for what the first name says.
    "max_position_embeddings": (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "max_sequence_length",
        "max_target_positions",
        "n_ctx",
        "model_max_length",
    ),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "quantization_config": ("quantization_config",),
    "head_dim": ("head_dim", "kv_channels"),
    "moe_intermediate_size": ("moe_intermediate_size",),
    "kv_lora_rank": ("kv_lora_rank",),
    "q_lora_rank": ("q_lora_rank",),
}
# The same for each stack of an encoder-decoder: BART and its kin name each stack, T5 names most things once.
_STACK_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "encoder": {
        "num_hidden_layers": ("encoder_layers", "num_layers"),
        "num_attention_heads": ("encoder_attention_heads", "num_heads"),
        "intermediate_size": ("encoder_ffn_dim", "d_ff"),
    },
    "decoder": {
        "num_hidden_layers": ("decoder_layers", "num_decoder_layers", "num_layers"),
        "num_attention_heads": ("decoder_attention_heads", "num_heads"),
        "intermediate_size": ("decoder_ffn_dim", "d_ff"),
    },
}
# Sections of a config that nest such keys; a key outside the sections wins.
_SECTIONS = ("attn_config", "ffn_config", "text_config")
# Models of old names with one key and value head for all heads, where they do not say otherwise.
_MULTI_QUERY = frozenset({"GPTBigCodeForCausalLM", "GPT2LMHeadCustomModel"})
# Original Mamba states no architecture: only these of its keys tell it.
_ORIGINAL_MAMBA = ("ssm_cfg", "d_model", "n_layer")
_DTYPES = frozenset({"float32", "float16", "bfloat16"})


def read_facts(
    reference: object, config: bytes, weights: Collection[int], names: Collection[str], *, trusted: bool = False,
    quantization: Mapping[str, bytes] | None = None,
) -> ModelFacts:  # fmt: skip
    """Parse `config.json`.

    Args:
        reference: the model, for error texts.
        config: the content of `config.json`.
        weights: sizes in bytes of the weight files that are used.
        names: every file of the model, unused ones included.
        trusted: True if an administrator lets the model's own code run.
        quantization: name → content of the files that describe how the weights are quantized (`QUANTIZATION`).

    Raises:
        ModelUnavailable: it is not a JSON object, names no architecture, or has a fact of another type.
    """
    try:
        outer = parse_json_object(config)
    except ValueError as error:
        raise _bad_config(reference, str(error)) from error
    match outer.get("architectures"):
        case [str(architecture), *_]:
            pass  # loaders use the first
        case None if all(key in outer for key in _ORIGINAL_MAMBA):
            architecture = "MambaLMHeadModel"
        case other:
            raise _bad_config(reference, f"names no architecture: `architectures` is {json.dumps(other)[:80]}")

    # DBRX and MPT nest attention and feed-forward settings, multimodal models those of their language model.
    settings: dict[str, Any] = {}
    for section_name in _SECTIONS:
        section = outer.get(section_name)
        if isinstance(section, dict):
            settings |= section
    settings |= outer
    if settings.get("quantization_config") is None:
        settings["quantization_config"] = _read_quantization(reference, quantization or {})
    try:
        return ModelFacts(
            architecture=architecture,
            model_type=outer.get("model_type"),
            weight_bytes=sum(weights),
            has_safetensors=has_safetensors(names),
            has_pickle=has_pickle(names),
            has_tokenizer=has_tokenizer(names),
            lacks_tokenizer_json=has_tokenizer(names) and TOKENIZER_JSON not in names,
            remote_code="auto_map" in outer,  # it names the classes in the model's own Python files
            trusted=trusted,
            image_tokens=_image_tokens(outer.get("vision_config")),
            **_read_settings(settings, architecture),
        )
    except ValidationError as error:
        # One is enough: whoever mends it writes the config again.
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        # Cut: the value comes from the model and may be of any length.
        raise _bad_config(reference, f"has a bad {field}: {first['msg']} (got {str(first['input'])[:80]!r})") from error


def parse_json_object(content: bytes) -> dict[str, Any]:
    """Parse the JSON object of a config.

    Raises:
        ValueError: it is none. The text is the predicate of an error text, as in "is not JSON (…)".
    """
    try:
        parsed = parse_json(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg})") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"is not a JSON object but a {type(parsed).__name__}")
    # Neither the catalogue nor an error text could carry it.
    if not is_plain_text(parsed):
        raise ValueError("has a NUL or half of a surrogate pair in a text")
    return parsed


def config_too_large(reference: object) -> ModelUnavailable:
    """Return the refusal of a model whose `config.json` is larger than MAX_CONFIG_BYTES."""
    return _bad_config(reference, f"has more than {MAX_CONFIG_BYTES} bytes")


def _read_settings(settings: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Return the facts that a flat config states, in the spelling of ModelFacts and not validated.

    Raises:
        ValidationError: a stack of an encoder-decoder has a fact of another type.
    """
    facts = {fact: _first(settings, keys) for fact, keys in _KEYS.items()}
    facts["num_key_value_heads"] = _key_value_heads(settings, architecture, facts["num_attention_heads"])
    # MPT states how many times wider than hidden_size its feed-forward layers are.
    expansion, hidden_size = settings.get("expansion_ratio"), facts["hidden_size"]
    if facts["intermediate_size"] is None and isinstance(expansion, int) and isinstance(hidden_size, int):
        facts["intermediate_size"] = expansion * hidden_size
    if settings.get("is_encoder_decoder") is True:
        encoder = _read_stack(settings, "encoder")
        decoder = _read_stack(settings, "decoder")
        # The decoder writes the tokens, so its numbers are the model's.
        facts |= {"encoder": encoder, "decoder": decoder, **decoder.model_dump(exclude_none=True)}

    tied = settings.get("tie_word_embeddings")
    if isinstance(tied, bool):
        facts["tie_word_embeddings"] = tied

    facts["dtype"] = None  # also for one that a spec cannot name
    dtype = _first(settings, ("dtype", "torch_dtype"))  # transformers 5 renamed `torch_dtype`
    if isinstance(dtype, str):
        dtype = dtype.removeprefix("torch.")  # some configs hold the name that Python prints
        dtype = DTYPE_ALIASES.get(dtype, dtype)
        if dtype in _DTYPES:
            facts["dtype"] = dtype

    # transformers 5 writes `rope_parameters` for every model; those of type "default" scale nothing.
    rope_scaling = _first(settings, ("rope_scaling", "rope_parameters"))
    if isinstance(rope_scaling, dict) and rope_scaling.get("rope_type") == "default":
        rope_scaling = None
    # ChatGLM stretches its positions by this, in a way that differs between its versions.
    if rope_scaling is None and settings.get("rope_ratio") not in (None, 1):
        rope_scaling = {"rope_ratio": settings["rope_ratio"]}
    facts["rope_scaling"] = rope_scaling
    return facts


def _key_value_heads(settings: dict[str, Any], architecture: str, heads: Any) -> Any:
    """Return the key and value heads of a layer, under the names that the families have for them.

    Without grouped-query attention every head has keys and values of its own.
    """
    groups = _first(settings, ("num_key_value_heads", "kv_n_heads", "n_head_kv"))
    if groups is not None:
        return groups
    # ChatGLM2 and later.
    if settings.get("multi_query_attention") is True:
        return settings.get("multi_query_group_num", 1)
    # Falcon writes num_kv_heads for every model, and only its new decoders follow it (FalconAttention of transformers).
    if settings.get("new_decoder_architecture") is True:
        return settings.get("num_kv_heads", heads)
    if settings.get("multi_query", architecture in _MULTI_QUERY) is True:
        return 1
    return _fewest_of_layers(settings, heads) or heads


def _fewest_of_layers(settings: dict[str, Any], heads: Any) -> int | None:
    """Return the fewest key and value heads of a layer where layers differ, as those of DeciLM do."""
    counts = []
    per_layer = settings.get("num_key_value_heads_per_layer")
    if isinstance(per_layer, list):
        counts += [count for count in per_layer if isinstance(count, int)]
    blocks = settings.get("block_configs")
    if isinstance(blocks, list) and isinstance(heads, int):
        for block in blocks:
            attention = block.get("attention") if isinstance(block, dict) else None
            # Layers without attention have no groups.
            in_group = attention.get("n_heads_in_group") if isinstance(attention, dict) else None
            if isinstance(in_group, int) and in_group > 0:
                counts.append(heads // in_group)
    return min(counts, default=None)


def _image_tokens(vision: Any) -> int | None:
    """Return the patches of one image; None if the config does not state both sizes."""
    if not isinstance(vision, dict):
        return None
    image, patch = vision.get("image_size"), vision.get("patch_size")
    if not isinstance(image, int) or not isinstance(patch, int) or patch < 1:
        return None
    return int((image // patch) ** 2)


def _read_quantization(reference: object, files: Mapping[str, bytes]) -> dict[str, Any] | None:
    """Return what files beside `config.json` say of quantized weights, in the form of its `quantization_config`.

    Raises:
        ModelUnavailable: a file is not a JSON object.
    """
    for name, content in files.items():
        try:
            parsed = parse_json_object(content)
        except ValueError as error:
            raise refusal(
                reference,
                "model_config_invalid",
                f"{name} {error}",
                expected="a JSON object that says how the weights are quantized",
                remedy=f"write {name} again, or remove it if the weights are not quantized",
            ) from error
        if name == MODELOPT_CONFIG:
            settings = parsed.get("quantization")
            if isinstance(settings, dict) and settings.get("quant_algo") is not None:
                return {"quant_method": "modelopt", **settings}
        elif parsed.get("bits") is not None:
            # AutoGPTQ's own file. No conversion script reads it, so that it is another method than `gptq`.
            return {"quant_method": "auto_gptq", **parsed}
    return None


def _read_stack(settings: dict[str, Any], stack: str) -> Stack:
    return Stack(**{fact: _first(settings, keys) for fact, keys in _STACK_KEYS[stack].items()})


def _first(settings: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """Return the value of the first key that is present and not null; None if there is none."""
    # Configs hold null for what they leave to the default, as `n_inner` of GPT-2.
    for key in keys:
        if settings.get(key) is not None:
            return settings[key]
    return None


def _bad_config(reference: object, defect: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_config_invalid",
        f"{CONFIG} {defect}",
        expected=f'a {CONFIG} in Hugging Face form, with "architectures": ["…ForCausalLM"]',
        remedy=f"mend {CONFIG}, for instance by saving the model again with save_pretrained",
    )
