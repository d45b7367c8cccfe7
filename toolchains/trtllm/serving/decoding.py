"""What a Triton server is told of an engine that drafts or has adapters, as data: parameters, and words to whoever
serves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import JsonValue

from toolchains.trtllm.releases import adapters
from toolchains.trtllm.releases.data_file import DATA, FrozenModel, Source

Options = Mapping[str, JsonValue]

_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16"}


class Decoding(FrozenModel):
    mode: str
    choices: str | None = None
    depth: str | None = None
    size: str | None = None
    exact: bool = False


class Tree(FrozenModel):
    """Which drafts are tried: paths of at most `depth` tokens, `size` of them in all."""

    name: str
    depth: int
    size: int

    def fits(self, decoding: Decoding, options: Options) -> bool:
        depth, size = options.get(decoding.depth or ""), options.get(decoding.size or "")
        deep = depth == self.depth if decoding.exact else not isinstance(depth, int) or depth >= self.depth
        return deep and (not isinstance(size, int) or size >= self.size)


class Input(FrozenModel):
    """A tensor of a request, in the words of a model configuration."""

    type: str
    dims: str
    shape: str

    @property
    def flat(self) -> str:
        """Of an ensemble, which hands a tensor on as it is."""
        return "" if "reshape" in self.shape else self.shape


class _Serving(FrozenModel):
    description: str
    source: Source
    decoding: Mapping[str, Decoding]
    tree: Tree
    adapters: Mapping[str, Input]
    adapter_size: str


def parameters(options: Options) -> Iterator[tuple[str, str]]:
    """Of the model `tensorrt_llm`, beside those that every engine needs."""
    if decoding := _decoding(options):
        yield "decoding_mode", decoding.mode
    if _has_adapters(options):
        yield _known().adapter_size, str(options.get("max_lora_rank"))


def inputs(options: Options, dtype: str) -> Mapping[str, Input]:
    """Beside those of every engine."""
    if not _has_adapters(options):
        return {}
    known = _known().adapters.items()
    return {name: one.model_copy(update={"type": one.type.format(dtype=_TYPES[dtype])}) for name, one in known}


def notes(options: Options) -> Iterator[str]:
    decoding, tree = _decoding(options), _known().tree
    if decoding and decoding.choices:
        unset = f"unset, it is {tree.name}, {tree.depth} tokens deep"
        yield f"the tree of drafts is the parameter {decoding.choices} of tensorrt_llm/config.pbtxt; {unset}"
        if not tree.fits(decoding, options):
            kind = "exactly" if decoding.exact else "at most"
            bounds = [f"{kind} {options.get(decoding.depth or '')} tokens deep"]
            bounds += [f"of at most {options.get(decoding.size)} in all"] if decoding.size else []
            yield f"{tree.name} does not fit this engine: give {decoding.choices}, {' and '.join(bounds)}"
    if _has_adapters(options):
        yield (
            "the server loads no adapter by itself: send each one with its first request (lora_task_id, lora_weights, "
            "lora_config) and its lora_task_id alone with later ones, or set lora_prefetch_dir in "
            "tensorrt_llm/config.pbtxt; TensorRT-LLM's hf_lora_convert.py makes both arrays"
        )
        if count := adapters.count_adapters(options):
            first, last = (f"{adapters.ADAPTERS_DIRECTORY}/{number}" for number in (0, count - 1))
            yield f"the adapters that it was built with are in {first} to {last}"


def _decoding(options: Options) -> Decoding | None:
    return _known().decoding.get(str(options.get("speculative_decoding_mode")))


def _has_adapters(options: Options) -> bool:
    return options.get("lora_plugin") not in (None, "disable")


@cache
def _known() -> _Serving:
    return _Serving.model_validate_json((DATA / "serving.json").read_bytes())
