"""What `config.json` says about a model: enough to check a spec against it without loading weights."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model_facts import ModelFacts, Stack
from enginefarm.contract.spec import DTYPE_ALIASES
from models.sources.model_files import CONFIG, has_pickle, has_safetensors, has_tokenizer
from models.sources.rejection import refusal

MAX_CONFIG_BYTES = 4 << 20  # real ones are a few KB; a larger one is no config

# Architectures of different ages call one thing by different names; the first that is there wins.
_NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_key_value_heads": ("num_key_value_heads", "kv_n_heads", "num_attention_heads", "n_head", "n_heads"),
    "vocab_size": ("vocab_size",),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "quantization_config": ("quantization_config",),
}
# The same of the two halves of an encoder-decoder: BART and its kin name each half, T5 most things once.
_STACKS: dict[str, dict[str, tuple[str, ...]]] = {
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
# Parts of a config that say such things on a level of their own: what is said outside wins.
_PARTS = ("attn_config", "ffn_config", "text_config")
_DTYPES = frozenset({"float32", "float16", "bfloat16"})


def read_facts(
    reference: object, config: bytes, weights: Collection[int], names: Collection[str], *, trusted: bool = False
) -> ModelFacts:
    """Parse `config.json`.

    Args:
        weights: sizes in bytes of the weight files that count.
        names: every file of the model, the ones that do not count included.
        trusted: whether an administrator lets the model's own code run.

    Raises:
        ModelUnavailable: it is not JSON, names no architecture, or has a number that is none.
    """
    outer = _load(reference, config)
    settings = _flattened(outer)
    numbers = {fact: _first(settings, keys) for fact, keys in _NAMES.items()}
    try:
        stacks = _stacks(settings)
        numbers |= stacks["decoder"].model_dump(exclude_none=True) if stacks else {}
        return ModelFacts(
            architecture=_architecture(reference, outer),
            model_type=outer.get("model_type"),
            dtype=_dtype(settings),
            rope_scaling=_rope_scaling(settings),
            weight_bytes=sum(weights),
            has_safetensors=has_safetensors(names),
            has_pickle=has_pickle(names),
            has_tokenizer=has_tokenizer(names),
            remote_code="auto_map" in outer,
            trusted=trusted,
            **stacks,
            **numbers,
        )
    except ValidationError as error:
        raise _bad_config(reference, _summary(error)) from error


def too_large(reference: object) -> ModelUnavailable:
    return _bad_config(reference, f"has more than {MAX_CONFIG_BYTES} bytes")


def _load(reference: object, config: bytes) -> dict[str, Any]:
    try:
        settings = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise _bad_config(reference, f"is not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise _bad_config(reference, f"is not a JSON object but a {type(settings).__name__}")
    return settings


def _flattened(outer: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in (*(outer.get(name) for name in _PARTS), outer):
        settings |= part if isinstance(part, dict) else {}
    return settings


def _stacks(settings: dict[str, Any]) -> dict[str, Stack]:
    """Of the two halves of an encoder-decoder; nothing of any other model."""
    if settings.get("is_encoder_decoder") is not True:
        return {}
    return {
        half: Stack(**{fact: _first(settings, keys) for fact, keys in names.items()})
        for half, names in _STACKS.items()
    }  # fmt: skip


def _architecture(reference: object, settings: dict[str, Any]) -> str:
    match settings.get("architectures"):
        case [str(name), *_]:
            return name
        case other:
            raise _bad_config(reference, f"names no architecture: `architectures` is {json.dumps(other)[:80]}")


def _first(settings: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((settings[key] for key in keys if settings.get(key) is not None), None)


def _dtype(settings: dict[str, Any]) -> str | None:
    name = _first(settings, ("dtype", "torch_dtype"))
    if not isinstance(name, str):
        return None
    name = name.removeprefix("torch.")
    folded = DTYPE_ALIASES.get(name, name)
    return folded if folded in _DTYPES else None


def _rope_scaling(settings: dict[str, Any]) -> Any:
    """transformers 5 writes `rope_parameters` for every model; those of type "default" scale nothing."""
    scaling = _first(settings, ("rope_scaling", "rope_parameters"))
    if isinstance(scaling, dict) and scaling.get("rope_type") == "default":
        return None
    return scaling


def _summary(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"has a bad {'.'.join(map(str, first['loc']))}: {first['msg']} (got {str(first['input'])[:80]!r})"


def _bad_config(reference: object, what: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_config_invalid",
        f"{CONFIG} {what}",
        expected=f'a {CONFIG} in Hugging Face form, with "architectures": ["…ForCausalLM"]',
        remedy=f"mend {CONFIG}, for instance by saving the model again with save_pretrained",
    )
