"""Load the model in transformers, uncompiled: the input of the compiler and the reference for the engine's logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from ..convert.weights import DTYPES
from ..report import Failure, ran_out_of_memory
from ..run.reference import Row, pack
from .engine_limits import EngineLimits

_ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})
_PROMPT_TOKENS = 32  # of the longest reference prompt
_STEPS = 5  # logits compared for each prompt: after the prompt, and after each of four tokens


@dataclass(frozen=True)
class CacheShape:
    """The cache of one layer, for one sequence: attention heads, and the size of a head's key and value."""

    heads: int
    key_size: int
    value_size: int


def load(checkpoint: Path, dtype: str, device: str) -> Any:
    """The model on `device` with weights of `dtype`, ready to run.

    Raises:
        Failure: unsupported_model, unsupported_dtype or bad_checkpoint.
    """
    if dtype not in DTYPES:
        raise Failure("unsupported_dtype", f"the checkpoint's dtype is {dtype}: expected one of {', '.join(DTYPES)}")
    try:
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise Failure("unsupported_model", f"transformers does not know this model: {error}") from error
    check_attention(config)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype=DTYPES[dtype],
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        model, loading_report = loaded
    except (ValueError, RuntimeError, OSError) as error:
        if ran_out_of_memory(error):
            raise
        raise Failure("bad_checkpoint", f"the weights do not fit the model: {error}") from error
    # transformers only warns of missing weights and fills them with random numbers.
    missing = sorted(loading_report["missing_keys"])
    if missing:
        raise Failure("bad_checkpoint", f"{len(missing)} weights are missing, the first is {missing[0]}")
    return model.eval().requires_grad_(requires_grad=False).to(device)


def check_attention(config: Any) -> None:
    """Refuse encoder-decoders and models with layers other than attention, such as state space layers.

    Raises:
        Failure: unsupported_model.
    """
    unsupported = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_LAYERS)
    if unsupported:
        feature = f"{', '.join(unsupported)} layers"
    elif getattr(config, "is_encoder_decoder", False):
        feature = "an encoder"
    else:
        return
    raise Failure("unsupported_model", f"the model has {feature}: this toolchain compiles attention decoders")


def cache_shapes(model: Any) -> list[CacheShape]:
    """The shape of each layer's cache, read from the cache that the model fills for one token.

    Raises:
        Failure: unsupported_model; a layer's cache is no pair of keys and values.
    """
    with torch.no_grad():
        output = model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    layers = getattr(getattr(output, "past_key_values", None), "layers", ())
    if not layers or any(getattr(layer, "keys", None) is None for layer in layers):
        raise Failure("unsupported_model", "the model caches something other than keys and values of its attention")
    # Keys and values are [batch, heads, tokens, size].
    return [CacheShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers]


def write_reference(model: Any, limits: EngineLimits, target: Path) -> None:
    """Write the model's logits for two batches, which the smoke test runs one after the other.

    The first batch is as ragged as the limits allow, the second shorter: it shows whether entries of the first batch
    that are still in the cache change its logits. Tokens are random, from a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    longest = min(_PROMPT_TOKENS, limits.max_input_len)
    # Every row of a batch is padded to its longest prompt, so that prompt decides how many tokens may follow.
    steps = min(_STEPS, limits.max_seq_len - longest + 1)

    ragged_lengths = [longest, max(1, longest // 2)][: limits.max_batch_size]
    batches = []
    for prompt_lengths in (ragged_lengths, [max(1, longest - 1)]):
        rows = []
        # Each row runs alone and without a cache, so that no padding and no cache of transformers affects the logits.
        for prompt_length in prompt_lengths:
            ids = torch.randint(model.config.vocab_size, (prompt_length + steps - 1,), generator=generator)
            with torch.no_grad():
                logits = model(ids[None].to(model.device), use_cache=False, logits_to_keep=steps).logits
            rows.append(Row(ids, logits[0].float().cpu()))
        batches.append(rows)
    save_file(pack(batches), target)
