"""Names that the files of a model have in Hugging Face form, and what a name tells about a file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_JSON = "tokenizer.json"
SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

# Files from which a tokenizer can be loaded alone.
_VOCABULARIES = frozenset(
    [
        TOKENIZER_JSON,
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
# How a model of images and text prepares both.
PREPROCESSOR = "preprocessor_config.json"
PROCESSORS = frozenset({PREPROCESSOR, "processor_config.json"})
NEEDS_PROCESSOR = frozenset({"LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"})  # architectures
MODELOPT_CONFIG = "hf_quant_config.json"
MISTRAL_PARAMS = "params.json"
# They describe how the weights of a checkpoint are quantized already, as ModelOpt and AutoGPTQ write it.
QUANTIZATION = (MODELOPT_CONFIG, "quantize_config.json")
SETTINGS = frozenset({CONFIG, GENERATION_CONFIG, *QUANTIZATION})
# Names with a slash are not at the top, and names with control characters or a leading space are no model's files.
SAFE_NAME = re.compile(r"[\w.+=@,-][\w.+=@, -]*", re.ASCII)
ADAPTER_CONFIG = "adapter_config.json"
# Names that PEFT, diffusers and MLX give to adapters (LoRA): changes of another model's weights.
_ADAPTER = re.compile(r"(?:adapter_model.*|adapters?|pytorch_lora_weights)\.(?:safetensors|bin|pt)")
# torch.load accepts any of these, and each may run code.
_PICKLE = re.compile(r".*\.(?:bin|pt|pth|ckpt|pkl|pickle)")
# Weights that no conversion of the farm reads, by their suffix.
_OTHER_FORMATS = {
    ".gguf": "GGUF",
    ".onnx": "ONNX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".npz": "NumPy",
    ".nemo": "NeMo",
    ".ot": "Rust",
}


def is_weights(name: str) -> bool:
    """Return True for a file of weights, pickled or not."""
    return name.endswith(".safetensors") or _PICKLE.fullmatch(name) is not None


def is_safetensors_weights(name: str) -> bool:
    """Return True if `name` is at the top and names safetensors weights of a whole model, not an adapter's."""
    is_at_top = SAFE_NAME.fullmatch(name) is not None
    return is_at_top and name.endswith(".safetensors") and not is_adapter(name)


def is_adapter(name: str) -> bool:
    """Return True for the weights of an adapter (LoRA)."""
    return _ADAPTER.fullmatch(name) is not None


def has_safetensors(names: Iterable[str]) -> bool:
    """Return True if a file of `names` holds safetensors weights of a model."""
    return any(map(is_safetensors_weights, names))


def has_pickle(names: Iterable[str]) -> bool:
    """Return True if a file of `names` is a pickle, by its name."""
    return any(_PICKLE.fullmatch(name) for name in names)


def is_vocabulary(name: str) -> bool:
    """Return True for a file from which a tokenizer can be loaded: settings of a tokenizer alone are none."""
    return name in _VOCABULARIES or is_tiktoken(name)


def is_tiktoken(name: str) -> bool:
    """Return True for a vocabulary of tiktoken, which Qwen, Whisper and others name freely."""
    return name.endswith(".tiktoken")


def has_tokenizer(names: Iterable[str]) -> bool:
    """Return True if a tokenizer can be loaded from `names`."""
    return any(map(is_vocabulary, names))


def other_format(name: str) -> str | None:
    """Return the format of weights that the farm cannot read, as in "GGUF"; None for every other file."""
    return _OTHER_FORMATS.get(PurePosixPath(name).suffix)
