"""Choose the files of a model that are fetched and enter its identity, and refuse a model without usable weights.

Only files at the top count. Repositories keep second copies of the weights in folders (`original/`) and under other
names (`consolidated.safetensors`). Fetching those would double the traffic, and loaders that read every
`*.safetensors` would find each weight twice. Pickles and Python files run code when they are loaded, so they count for
trusted models only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from enginefarm.contract.errors import ModelUnavailable, Problem
from models.sources.file_names import (
    CONFIG,
    SAFE_NAME,
    SETTINGS,
    SINGLE_WEIGHTS,
    TOKENIZER,
    WEIGHTS_INDEX,
    choose_weights,
    has_pickle,
    missing_shards,
)
from models.sources.rejection import problem, refusal


def select(reference: object, names: Iterable[str], *, trusted: bool = False) -> tuple[str, ...]:
    """Return the names of the files that are used, sorted.

    Args:
        reference: the model, for error texts.
        names: every file of the model, relative to its top.
        trusted: use Python code too, and pickled weights if there are no others.

    Raises:
        ModelUnavailable: the files are not a usable model; all reasons at once.
    """
    top = set(filter(SAFE_NAME.fullmatch, names))
    if not top:
        # Alone, because every other problem would follow from it.
        raise refusal(
            reference,
            "model_empty",
            "there are no files here",
            expected=f"a Hugging Face model directory: {CONFIG} and safetensors weights at its top",
            remedy="name the folder that holds the files themselves, not one above it",
        )
    weights = choose_weights(top, trusted=trusted)
    problems = _find_problems(reference, top, weights)
    if problems:
        raise ModelUnavailable(f"{reference}: " + "; ".join(p.detail for p in problems), problems=problems)
    selected = weights | (top & (SETTINGS | TOKENIZER))
    for name in top:
        # Qwen and others name their vocabularies freely.
        if name.endswith(".tiktoken") or (trusted and name.endswith(".py")):
            selected.add(name)
    return tuple(sorted(selected))


def _find_problems(reference: object, top: Collection[str], weights: Collection[str]) -> list[Problem]:
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
    pickles = [name for name in sorted(top) if has_pickle([name])]
    missing = missing_shards(weights)
    if not weights and pickles:
        problems.append(
            problem(
                reference,
                "model_only_pickle",
                f"has only pickle weights ({pickles[0]}), and loading a pickle runs whatever code it carries",
                expected="safetensors weights",
                remedy="convert to safetensors with save_pretrained(…, safe_serialization=True) on a machine that "
                "trusts the file, name a revision that has safetensors, or ask an administrator to trust this model",
            )
        )
    elif not weights:
        problems.append(
            problem(
                reference,
                "model_weights_missing",
                "there are no safetensors weights",
                expected=f"{SINGLE_WEIGHTS}, or shards of it with {WEIGHTS_INDEX}",
                remedy="name a model with safetensors weights",
            )
        )
    elif missing:
        verb = "is" if len(missing) == 1 else "are"
        problems.append(
            problem(
                reference,
                "model_weights_incomplete",
                f"the weights are incomplete: {', '.join(missing[:3])} {verb} missing",
                expected="every shard that the names announce, and their index",
                remedy="finish the upload or the download of the model, then submit again",
            )
        )
    return problems
