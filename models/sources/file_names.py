"""Names that the files of a model have in Hugging Face form, and what a name tells about a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

CONFIG = "config.json"
SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

# Files from which a tokenizer can be loaded alone.
_VOCABULARIES = frozenset(
    [
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tekken.json",
    ]
)
TOKENIZER = _VOCABULARIES | {
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
}
# The last two describe how the weights of a checkpoint are quantized already, as ModelOpt and AutoGPTQ write it.
SETTINGS = frozenset({CONFIG, "generation_config.json", "hf_quant_config.json", "quantize_config.json"})
# Names with a slash are not at the top, and names with control characters or a leading space are no model's files.
SAFE_NAME = re.compile(r"[\w.+=@,-][\w.+=@, -]*", re.ASCII)
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_SINGLE_PICKLE = "pytorch_model.bin"
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_PICKLE_SHARD = re.compile(r"pytorch_model-\d{5}-of-\d{5}\.bin")
# torch.load accepts any of these, and each may run code.
_PICKLE = re.compile(r".*\.(?:bin|pt|pth|ckpt|pkl|pickle)")


def is_weights(name: str) -> bool:
    """Return True for a file of weights, pickled or not."""
    return name.endswith(".safetensors") or _PICKLE.fullmatch(name) is not None


def has_safetensors(names: Iterable[str]) -> bool:
    """Return True if a file of `names` holds safetensors weights."""
    return any(name.endswith(".safetensors") for name in names)


def has_pickle(names: Iterable[str]) -> bool:
    """Return True if a file of `names` is a pickle, by its name."""
    return any(_PICKLE.fullmatch(name) for name in names)


def has_tokenizer(names: Iterable[str]) -> bool:
    """Return True if a tokenizer can be loaded from `names`: settings of a tokenizer alone are none."""
    return any(name in _VOCABULARIES or name.endswith(".tiktoken") for name in names)


def choose_weights(names: Set[str], *, trusted: bool) -> set[str]:
    """Return one copy of the weights among `names`, with its index; nothing if there are none that may be loaded.

    Args:
        trusted: use pickles if there are no safetensors, under the names that transformers gives them: a `.bin` of
            another name may be anything.
    """
    safetensors = {name for name in names if name.endswith(".safetensors")}
    # The order in which Hugging Face loaders look for them.
    if SINGLE_WEIGHTS in names:
        return {SINGLE_WEIGHTS}
    shards = set(filter(_SHARD.fullmatch, names))
    if shards:
        return shards | (names & {WEIGHTS_INDEX})
    if safetensors or not trusted:
        return safetensors
    if _SINGLE_PICKLE in names:
        return {_SINGLE_PICKLE}
    shards = set(filter(_PICKLE_SHARD.fullmatch, names))
    if shards:
        return shards | (names & {_PICKLE_INDEX})
    return set()


def missing_shards(weights: Iterable[str]) -> list[str]:
    """Return the shards that the names of the others announce, and their index, as far as `weights` lacks them."""
    total = 0
    for name in weights:
        match = _SHARD.fullmatch(name)
        if match:
            # One shard that names a larger total makes the others incomplete too.
            total = max(total, int(match[2]))
    if total == 0:
        return []
    announced = {f"model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)}
    # Loaders find the shards by the index, so a model without it cannot be loaded.
    return sorted((announced | {WEIGHTS_INDEX}).difference(weights))
