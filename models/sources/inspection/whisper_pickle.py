"""Read the facts of a Whisper in OpenAI's form from the start of its file, as in `large-v3.pt`, without loading it.

The file is what `torch.save({"dims": …, "model_state_dict": …})` writes: a ZIP archive that starts with `data.pkl`, a
pickle. Its opcodes are listed here and never carried out. One that would call anything but what rebuilds a tensor
refuses the whole file, long before a sandboxed conversion loads it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.facts import ModelFacts, Stack
from models.sources.inspection.file_names import CONFIG, has_safetensors, has_tokenizer, is_adapter
from models.sources.rejection import refusal

MAX_PICKLE_BYTES = 4 << 20  # the largest Whisper has 1,259 tensors and a data.pkl of 250 KB

_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_PICKLE_NAME = b"/data.pkl"
# Sizes that openai/whisper names `ModelDimensions`.
_DIMENSIONS = (
    "n_mels",
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
)
_STORAGE_DTYPES = {
    "torch HalfStorage": "float16",
    "torch FloatStorage": "float32",
    "torch BFloat16Storage": "bfloat16",
}
_OTHER_STORAGES = (
    "torch DoubleStorage",
    "torch LongStorage",
    "torch IntStorage",
    "torch ShortStorage",
    "torch CharStorage",
    "torch ByteStorage",
    "torch BoolStorage",
)
_LARGEST_DIMENSION = 1 << 24
# What rebuilds a tensor. `torch.load(weights_only=True)`, which loads the file later, calls no more either.
_CALLS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *_STORAGE_DTYPES,
        *_OTHER_STORAGES,
    }
)
# Each of these names something to call by other means than GLOBAL, the only one that torch.save uses.
_OTHER_CALLS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})
_REMEMBERED = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_EXPECTED = "a Whisper as openai/whisper publishes it, or safetensors weights with a config.json"


def pickles_without_config(names: Iterable[str]) -> list[str]:
    """Return the `.pt` files among `names`, sorted; none where a config.json or safetensors show another form."""
    names = set(names)
    if CONFIG in names or has_safetensors(names):
        return []
    return sorted(name for name in names if name.endswith(".pt") and not is_adapter(name))


def read_pickle_facts(
    reference: object, name: str, start: bytes, weight_bytes: int, names: Collection[str]
) -> ModelFacts:
    """Return the facts that the pickle states.

    Args:
        reference: the model, for error texts.
        name: the file.
        start: its first `MAX_PICKLE_BYTES`, or all of a smaller file.
        weight_bytes: size of the file.
        names: every file of the model.

    Raises:
        ModelUnavailable: it is no such file, or it would call something else than what rebuilds tensors.
    """
    dimensions: dict[str, int] = {}
    dtypes: set[str] = set()
    key = None  # of the dictionary `dims`; its value is the next opcode
    try:
        for opcode, argument in _opcodes(start):
            if opcode in _OTHER_CALLS or (opcode == "GLOBAL" and argument not in _CALLS):
                raise _unsafe(reference, name, str(argument or opcode))
            if opcode == "GLOBAL" and argument in _STORAGE_DTYPES:
                dtypes.add(_STORAGE_DTYPES[argument])
            # torch.save remembers each text between a key and its value.
            if opcode in _REMEMBERED:
                continue
            if key is not None and isinstance(argument, int):
                dimensions.setdefault(key, argument)
            key = argument if isinstance(argument, str) and argument in _DIMENSIONS else None
    # A damaged or foreign pickle can fail in each of these ways.
    except (ValueError, UnicodeDecodeError, OverflowError) as error:
        raise _no_whisper(reference, name, f"its data.pkl cannot be read ({error})") from error
    missing = [size for size in _DIMENSIONS if not 0 < dimensions.get(size, 0) <= _LARGEST_DIMENSION]
    if missing:
        raise _no_whisper(reference, name, f"it states no {', '.join(missing)}, or no possible number")
    return ModelFacts(
        architecture="WhisperForConditionalGeneration",
        model_type="whisper",
        dtype=dtypes.pop() if len(dtypes) == 1 else None,
        hidden_size=dimensions["n_text_state"],
        num_hidden_layers=dimensions["n_text_layer"],
        num_attention_heads=dimensions["n_text_head"],
        vocab_size=dimensions["n_vocab"],
        intermediate_size=4 * dimensions["n_text_state"],
        max_position_embeddings=dimensions["n_text_ctx"],
        encoder=_stack(dimensions, "audio"),
        decoder=_stack(dimensions, "text"),
        weight_bytes=weight_bytes,
        has_safetensors=False,
        has_pickle=True,
        has_tokenizer=has_tokenizer(names),
        remote_code=False,
    )


def _stack(dimensions: dict[str, int], part: str) -> Stack:
    return Stack(
        num_hidden_layers=dimensions[f"n_{part}_layer"],
        num_attention_heads=dimensions[f"n_{part}_head"],
        intermediate_size=4 * dimensions[f"n_{part}_state"],
    )


def _opcodes(start: bytes) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each opcode of data.pkl, the first file of the archive, which is not compressed.

    Raises:
        ValueError: `start` is not the start of such an archive, or does not have the whole pickle.
    """
    name_length = int.from_bytes(start[26:28], "little")
    extra_length = int.from_bytes(start[28:30], "little")
    first_name = start[_LOCAL_HEADER_BYTES : _LOCAL_HEADER_BYTES + name_length]
    is_stored = start[8:10] == b"\0\0"
    if not (start.startswith(_LOCAL_HEADER) and first_name.endswith(_PICKLE_NAME) and is_stored):
        raise ValueError("the file is not what torch.save writes since PyTorch 1.6")
    pickled = start[_LOCAL_HEADER_BYTES + name_length + extra_length :]
    for opcode, argument, _ in pickletools.genops(pickled):
        yield opcode.name, argument


def _unsafe(reference: object, name: str, called: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_pickle_refused",
        f"{name} is refused: its pickle would call {called.replace(' ', '.')[:80]!r}, and weights need no such call",
        expected=_EXPECTED,
        remedy="name the file as its publisher has it, and do not load this one anywhere",
    )


def _no_whisper(reference: object, name: str, defect: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_only_pickle",
        f"has only pickle weights ({name}), and they are no Whisper of OpenAI: {defect}",
        expected=_EXPECTED,
        remedy="convert the model to safetensors with save_pretrained(…, safe_serialization=True) on a machine that "
        "trusts the file",
    )
