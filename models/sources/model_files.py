"""Which files of a model count: what is fetched, what enters its identity, and what nobody may load.

Only files at the top count. Repositories keep second copies of the weights in folders (`original/`) and
under other names (`consolidated.safetensors`); fetching those would double the traffic, and loaders
that read every `*.safetensors` would find each weight twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from enginefarm.contract.errors import ModelUnavailable, Problem
from models.sources.rejection import problem

CONFIG = "config.json"
SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

_TOKENIZER = frozenset(
    [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tekken.json",
        "chat_template.json",
        "chat_template.jinja",
    ]
)
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
_SETTINGS = frozenset({CONFIG, "generation_config.json", "hf_quant_config.json", "quantize_config.json"})
_SAFE_NAME = re.compile(r"[\w.+=@,-][\w.+=@, -]*", re.ASCII)
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_PICKLED = "pytorch_model.bin"
_PICKLED_SHARD = re.compile(r"pytorch_model-\d{5}-of-\d{5}\.bin")
_PICKLE = re.compile(r".*\.(?:bin|pt|pth|ckpt|pkl|pickle)")


def select(reference: object, names: Iterable[str], *, trusted: bool = False) -> tuple[str, ...]:
    """The names that count, sorted.

    Args:
        names: every file of the model, relative to its top.
        trusted: Python code counts too, and pickled weights where there are no others.

    Raises:
        ModelUnavailable: with all that keeps these files from being a model at once.
    """
    top = {name for name in names if _SAFE_NAME.fullmatch(name)}
    weights = _weights(top) or (_pickled(top) if trusted else set())
    code = {name for name in top if trusted and name.endswith(".py")}
    if problems := _problems(reference, top, weights):
        raise ModelUnavailable(f"{reference}: " + "; ".join(p.detail for p in problems), problems=problems)
    return tuple(
        sorted(weights | code | (top & (_SETTINGS | _TOKENIZER)) | {n for n in top if n.endswith(".tiktoken")})
    )


def is_weights(name: str) -> bool:
    return name.endswith(".safetensors") or _PICKLE.fullmatch(name) is not None


def has_safetensors(names: Iterable[str]) -> bool:
    return any(name.endswith(".safetensors") for name in names)


def has_pickle(names: Iterable[str]) -> bool:
    return any(_PICKLE.fullmatch(name) for name in names)


def has_tokenizer(names: Iterable[str]) -> bool:
    return any(name in _VOCABULARIES or name.endswith(".tiktoken") for name in names)


def _weights(top: Collection[str]) -> set[str]:
    """One copy of the weights, found in the order in which Hugging Face loaders look for them."""
    if SINGLE_WEIGHTS in top:
        return {SINGLE_WEIGHTS}
    if shards := {name for name in top if _SHARD.fullmatch(name)}:
        return shards | ({WEIGHTS_INDEX} & set(top))
    return {name for name in top if name.endswith(".safetensors")}


def _pickled(top: Collection[str]) -> set[str]:
    """As transformers names them: `pytorch_model.bin`, or shards of it with their index."""
    shards = {name for name in top if _PICKLED_SHARD.fullmatch(name)}
    return {_PICKLED} & set(top) or shards | ({f"{_PICKLED}.index.json"} & set(top) if shards else set())


def _problems(reference: object, top: Collection[str], weights: Collection[str]) -> list[Problem]:
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
    found = []
    if CONFIG not in top:
        found.append(
            problem(
                reference,
                "model_config_missing",
                f"there is no {CONFIG}",
                expected=f"a {CONFIG} in Hugging Face form at the top of the model",
                remedy="name the folder or repository with the transformers files, not original weights or a GGUF",
            )
        )
    if not weights:
        found.append(_no_weights(reference, top))
    elif missing := _missing_parts(weights):
        found.append(
            problem(
                reference,
                "model_weights_incomplete",
                f"the weights are incomplete: {', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} missing",
                expected="every shard that the names announce, and their index",
                remedy="finish the upload or the download of the model, then submit again",
            )
        )
    return found


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


def _missing_parts(weights: Collection[str]) -> list[str]:
    shards = [match for name in weights if (match := _SHARD.fullmatch(name))]
    if not shards:
        return []
    total = max(int(match[2]) for match in shards)
    announced = {f"model-{n:05}-of-{total:05}.safetensors" for n in range(1, total + 1)}
    return sorted((announced | {WEIGHTS_INDEX}).difference(weights))
