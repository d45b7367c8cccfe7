"""What a Triton server needs to know of an engine that drafts or has adapters: parameters, inputs and notes.

`data/serving.json` has the facts. It explains its fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import JsonValue

from toolchains.trtllm.releases import adapters
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file

Options = Mapping[str, JsonValue]

# dtype of a spec → its name in a model configuration
_TRITON_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16"}


class Decoding(FrozenModel):
    """How the backend decodes an engine of one speculative decoding mode."""

    mode: str  # value of the parameter decoding_mode
    choices: str | None = None  # the parameter that has the tree of drafts
    depth: str | None = None  # the option that limits the tree's depth, in tokens
    size: str | None = None  # the option that limits the number of drafts in the tree
    exact: bool = False  # every path of the tree must be as deep as the option says


class Tree(FrozenModel):
    """The tree of drafts that the backend uses by default: paths of at most `depth` tokens, `size` of them in all."""

    name: str
    depth: int
    size: int

    def fits(self, decoding: Decoding, options: Options) -> bool:
        """True if an engine with these options can use this tree."""
        # A mode without such an option sets no limit; nor does an option without a value.
        depth_limit = options.get(decoding.depth or "")
        size_limit = options.get(decoding.size or "")
        if decoding.exact:
            depth_fits = depth_limit == self.depth
        else:
            depth_fits = not isinstance(depth_limit, int) or depth_limit >= self.depth
        return depth_fits and (not isinstance(size_limit, int) or size_limit >= self.size)


class Input(FrozenModel):
    """An input tensor of a request, in the words of a model configuration."""

    type: str
    dims: str
    shape: str

    @property
    def ensemble_shape(self) -> str:
        """The shape for an ensemble, which passes a tensor on without reshaping it."""
        return "" if "reshape" in self.shape else self.shape


class _ServingFacts(DataFile):
    decoding: Mapping[str, Decoding]
    tree: Tree
    adapters: Mapping[str, Input]
    adapter_size: str


def parameters(options: Options) -> dict[str, str]:
    """Parameters of the model `tensorrt_llm` that only some engines need."""
    values = {}
    decoding = _find_decoding(options)
    if decoding:
        values["decoding_mode"] = decoding.mode
    # Pages of the adapter cache must fit the largest rank that the engine takes.
    if _has_adapters(options):
        values[_serving_facts().adapter_size] = str(options.get("max_lora_rank"))
    return values


def inputs(options: Options, dtype: str) -> dict[str, Input]:
    """Inputs that only some engines have, by name; `dtype` is the engine's."""
    if not _has_adapters(options):
        return {}
    typed_inputs = {}
    for name, tensor in _serving_facts().adapters.items():
        # The runtime refuses adapters of another dtype than the engine's.
        typed_inputs[name] = tensor.model_copy(update={"type": tensor.type.format(dtype=_TRITON_TYPES[dtype])})
    return typed_inputs


def notes(options: Options) -> Iterator[str]:
    """What a person must know to serve the engine, one sentence each."""
    decoding = _find_decoding(options)
    tree = _serving_facts().tree
    if decoding and decoding.choices:
        default_tree = f"unset, it is {tree.name}, {tree.depth} tokens deep"
        yield f"the tree of drafts is the parameter {decoding.choices} of tensorrt_llm/config.pbtxt; {default_tree}"
        if not tree.fits(decoding, options):
            kind = "exactly" if decoding.exact else "at most"
            bounds = f"{kind} {options.get(decoding.depth or '')} tokens deep"
            if decoding.size:
                bounds += f" and of at most {options.get(decoding.size)} in all"
            yield f"{tree.name} does not fit this engine: give {decoding.choices}, {bounds}"
    if _has_adapters(options):
        yield (
            "the server loads no adapter by itself: send each one with its first request (lora_task_id, lora_weights, "
            "lora_config) and its lora_task_id alone with later ones, or set lora_prefetch_dir in "
            "tensorrt_llm/config.pbtxt; TensorRT-LLM's hf_lora_convert.py makes both arrays"
        )
        count = adapters.count_adapters(options)
        if count:
            folder = adapters.ADAPTERS_DIRECTORY
            yield f"the adapters that it was built with are in {folder}/0 to {folder}/{count - 1}"


def _find_decoding(options: Options) -> Decoding | None:
    return _serving_facts().decoding.get(str(options.get("speculative_decoding_mode")))


def _has_adapters(options: Options) -> bool:
    return options.get("lora_plugin") not in (None, "disable")


@cache
def _serving_facts() -> _ServingFacts:
    return read_data_file("serving.json", _ServingFacts)
