"""The model as transformers runs it: what is compiled, and what the engine is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from .engine_limits import Limits
from ..run.reference import Row, pack
from ..report import Failure, ran_out_of_memory
from ..convert.weights import DTYPES

_ATTENTION = frozenset({"full_attention", "sliding_attention"})
_PROMPT, _STEPS = 32, 5  # tokens of the reference prompts, and logits compared after each


@dataclass(frozen=True)
class CacheShape:
    """Of one layer, for one sequence."""

    heads: int
    key_size: int
    value_size: int


def load(checkpoint: Path, dtype: str, device: str) -> Any:
    """The model, ready to run.

    Raises:
        Failure: unsupported_model, unsupported_dtype or bad_checkpoint.
    """
    if dtype not in DTYPES:
        raise Failure("unsupported_dtype", f"the checkpoint's dtype is {dtype}: expected one of {', '.join(DTYPES)}")
    try:
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise Failure("unsupported_model", f"transformers does not know this model: {error}") from error
    _check_attention(config)
    model, found = _load_weights(checkpoint, DTYPES[dtype])
    if wrong := sorted(found["missing_keys"]):
        raise Failure("bad_checkpoint", f"{len(wrong)} weights are missing, the first is {wrong[0]}")
    return model.eval().requires_grad_(requires_grad=False).to(device)


def _load_weights(checkpoint: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        model, found = loaded
    except (ValueError, RuntimeError, OSError) as error:
        if ran_out_of_memory(error):
            raise
        raise Failure("bad_checkpoint", f"the weights do not fit the model: {error}") from error
    return model, found


def _check_attention(config: Any) -> None:
    unknown = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION)
    if unknown or getattr(config, "is_encoder_decoder", False):
        what = f"{', '.join(unknown)} layers" if unknown else "an encoder"
        raise Failure("unsupported_model", f"the model has {what}: this toolchain compiles attention decoders")


def cache_shapes(model: Any) -> list[CacheShape]:
    """What each layer keeps of a token, seen by running one."""
    with torch.no_grad():
        seen = model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    layers = getattr(getattr(seen, "past_key_values", None), "layers", ())
    if not layers or any(getattr(layer, "keys", None) is None for layer in layers):
        raise Failure("unsupported_model", "the model keeps something other than keys and values of its attention")
    return [CacheShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers]


def write_reference(model: Any, limits: Limits, target: Path) -> None:
    """Batches to run one after the other: the first as ragged as the limits allow, then a shorter one.

    The second shows whether the cache still holds something of the first. Tokens are random but fixed.
    """
    generator = torch.Generator().manual_seed(0)
    longest = min(_PROMPT, limits.max_input_len)
    first = [longest, max(1, longest // 2)][: limits.max_batch_size]
    batches = [first, [max(1, longest - 1)]]
    rows = [[_row(model, length, limits, generator) for length in batch] for batch in batches]
    save_file(pack(rows), target)


def _row(model: Any, length: int, limits: Limits, generator: torch.Generator) -> Row:
    # A row padded to the longest prompt must fit too, hence the steps that the longest leaves room for.
    steps = min(_STEPS, limits.max_seq_len - min(_PROMPT, limits.max_input_len) + 1)
    ids = torch.randint(model.config.vocab_size, (length + steps - 1,), generator=generator)
    with torch.no_grad():
        logits = model(ids[None].to(model.device), use_cache=False, logits_to_keep=steps).logits
    return Row(ids, logits[0].float().cpu())
