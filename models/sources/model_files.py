"""Choose the files of a model that are fetched and enter its identity, and refuse a model without usable weights.

Only files at the top count. Repositories keep second copies of the weights in folders (`original/`) and under other
names (`consolidated.safetensors`). Fetching those would double the traffic, and loaders that read every
`*.safetensors` would find each weight twice. Pickles and Python files run code when they are loaded, so they count for
trusted models only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from enginefarm.contract.errors import ModelUnavailable, Problem
from models.sources.rejection import problem

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
_TOKENIZER = _VOCABULARIES | {
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
}
_SETTINGS = frozenset({CONFIG, "generation_config.json", "hf_quant_config.json", "quantize_config.json"})
# Names with a slash are not at the top, and names with control characters or a leading space are no model's files.
_SAFE_NAME = re.compile(r"[\w.+=@,-][\w.+=@, -]*", re.ASCII)
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_SINGLE_PICKLE = "pytorch_model.bin"
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_PICKLE_SHARD = re.compile(r"pytorch_model-\d{5}-of-\d{5}\.bin")
# torch.load accepts any of these, and each may run code.
_PICKLE = re.compile(r".*\.(?:bin|pt|pth|ckpt|pkl|pickle)")


def select(reference: object, names: Iterable[str], *, trusted: bool = False) -> tuple[str, ...]:
    """Return the names of the files that are used, sorted.

    Args:
        reference: the model, for error texts.
        names: every file of the model, relative to its top.
        trusted: use Python code too, and pickled weights if there are no others.

    Raises:
        ModelUnavailable: the files are not a usable model; all reasons at once.
    """
    top = {name for name in names if _SAFE_NAME.fullmatch(name)}
    weights = _safetensors_files(top)
    if trusted and not weights:
        weights = _pickle_files(top)
    problems = _find_problems(reference, top, weights)
    if problems:
        raise ModelUnavailable(f"{reference}: " + "; ".join(p.detail for p in problems), problems=problems)
    selected = weights | (top & (_SETTINGS | _TOKENIZER))
    selected |= {name for name in top if name.endswith(".tiktoken")}  # vocabularies of Qwen and others, named freely
    if trusted:
        selected |= {name for name in top if name.endswith(".py")}
    return tuple(sorted(selected))


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


def _safetensors_files(top: set[str]) -> set[str]:
    """Return one copy of the weights, chosen in the order in which Hugging Face loaders look for them."""
    if SINGLE_WEIGHTS in top:
        return {SINGLE_WEIGHTS}
    shards = {name for name in top if _SHARD.fullmatch(name)}
    if shards:
        return shards | (top & {WEIGHTS_INDEX})
    return {name for name in top if name.endswith(".safetensors")}


def _pickle_files(top: set[str]) -> set[str]:
    """Return the pickled weights under the names that transformers gives them: one file, or shards with an index."""
    if _SINGLE_PICKLE in top:
        return {_SINGLE_PICKLE}
    shards = {name for name in top if _PICKLE_SHARD.fullmatch(name)}
    if shards:
        return shards | (top & {_PICKLE_INDEX})
    return set()


def _find_problems(reference: object, top: Collection[str], weights: Collection[str]) -> list[Problem]:
    if not top:
        return [
            problem(
                reference,
                "model_empty",
                "there are no files here",
                expected=f"a Hugging Face model directory: {CONFIG} and safetensors weights at its top",
                remedy="name the folder that holds the files themselves, not one above it",
            )
        ]
    problems = []
    if CONFIG not in top:
        problems.append(
            problem(
                reference,
                "model_config_missing",
                f"there is no {CONFIG}",
                expected=f"a {CONFIG} in Hugging Face form at the top of the model",
                remedy="name the folder or repository with the transformers files, not original weights or a GGUF",
            )
        )
    missing = _missing_shards(weights)
    if not weights:
        problems.append(_no_weights(reference, top))
    elif missing:
        problems.append(
            problem(
                reference,
                "model_weights_incomplete",
                f"the weights are incomplete: {', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} missing",
                expected="every shard that the names announce, and their index",
                remedy="finish the upload or the download of the model, then submit again",
            )
        )
    return problems


def _no_weights(reference: object, top: Collection[str]) -> Problem:
    pickles = sorted(name for name in top if _PICKLE.fullmatch(name))
    if not pickles:
        return problem(
            reference,
            "model_weights_missing",
            "there are no safetensors weights",
            expected=f"{SINGLE_WEIGHTS}, or shards of it with {WEIGHTS_INDEX}",
            remedy="name a model with safetensors weights",
        )
    return problem(
        reference,
        "model_only_pickle",
        f"has only pickle weights ({pickles[0]}), and loading a pickle runs whatever code it carries",
        expected="safetensors weights",
        remedy="convert to safetensors with save_pretrained(…, safe_serialization=True) on a machine that "
        "trusts the file, name a revision that has safetensors, or ask an administrator to trust this model",
    )


def _missing_shards(weights: Collection[str]) -> list[str]:
    """Return the shards that the names of the others announce, and their index, as far as `weights` lacks them."""
    # One shard that names a larger total makes the others incomplete too.
    totals = [int(match[2]) for match in map(_SHARD.fullmatch, weights) if match]
    if not totals:
        return []
    total = max(totals)
    announced = {f"model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)}
    # Loaders find the shards by the index, so a model without it cannot be loaded.
    return sorted((announced | {WEIGHTS_INDEX}).difference(weights))
