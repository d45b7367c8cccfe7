"""Choose the files of a model that are fetched and enter its identity, and refuse a model without usable weights.

Only files at the top count. Repositories keep second copies of the weights in folders (`original/`) and under other
names (`consolidated.safetensors`). Fetching those would double the traffic, and loaders that read every
`*.safetensors` would find each weight twice. Pickles and Python files run code when they are loaded, so they count for
trusted models only. A Whisper in OpenAI's form is the exception: one `.pt` file, of which `whisper_pickle` and the
conversion accept tensors alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from enginefarm.contract.errors import ModelUnavailable
from models.sources.inspection.config_facts import MAX_CONFIG_BYTES
from models.sources.inspection.file_names import (
    ADAPTER_CONFIG,
    CONFIG,
    MISTRAL_PARAMS,
    NEEDS_PROCESSOR,
    PROCESSORS,
    SAFE_NAME,
    SETTINGS,
    TOKENIZER,
    is_tiktoken,
)
from models.sources.inspection.weights import ReadStart, choose_weights
from models.sources.inspection.whisper_pickle import pickles_without_config
from models.sources.rejection import problem, refusal


def select(reference: object, names: Iterable[str], read: ReadStart, *, trusted: bool = False) -> tuple[str, ...]:
    """Return the names of the files that are used, sorted.

    Args:
        reference: the model, for error texts.
        names: every file of the model, relative to its top.
        read: reads the index of the weights, which says which of them count.
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
    pickles = pickles_without_config(top)
    if len(pickles) == 1:
        return tuple(sorted({*pickles, *filter(is_tiktoken, top)}))
    problems = []
    # An adapter has no config.json: that it is no model is the reason to show.
    if CONFIG not in top and ADAPTER_CONFIG not in top:
        problems.append(
            problem(
                reference,
                "model_config_missing",
                f"there is no {CONFIG}",
                expected=f"a {CONFIG} in Hugging Face form at the top of the model",
                remedy="name the folder or repository with the transformers files, not original weights or a GGUF"
                + (", or put the one .pt file of a Whisper into a folder of its own" if pickles else ""),
            )
        )
    selected = set(top & (SETTINGS | TOKENIZER))
    # Codestral Mamba: its conversion reads params.json of Mistral's own form. Other models of Mistral have one too, and
    # the keys of theirs are without it.
    if MISTRAL_PARAMS in top and CONFIG in top and b'"Mamba2ForCausalLM"' in read(CONFIG, MAX_CONFIG_BYTES):
        selected.add(MISTRAL_PARAMS)
    # The engine of LLaVA's images is made by a program that loads them. The keys of other models are without them.
    if PROCESSORS & top and CONFIG in top:
        config = read(CONFIG, MAX_CONFIG_BYTES)
        if any(f'"{architecture}"'.encode() in config for architecture in NEEDS_PROCESSOR):
            selected |= PROCESSORS & top
    try:
        selected |= choose_weights(reference, top, read, trusted=trusted)
    except ModelUnavailable as error:
        problems += error.problems
    if problems:
        raise ModelUnavailable(f"{reference}: " + "; ".join(p.detail for p in problems), problems=problems)
    for name in top:
        # Qwen and others name their vocabularies freely.
        if is_tiktoken(name) or (trusted and name.endswith(".py")):
            selected.add(name)
    return tuple(sorted(selected))
