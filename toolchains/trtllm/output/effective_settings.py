"""What an engine really is, by its own config.json, against what was asked for.

The builder rewrites values. Normalisation foresees what is known of that; what it does not foresee is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.rewrites import idle_options
from toolchains.trtllm.releases.engine_part import EnginePart

_SIZES, _TOKENS = ("max_batch_size", "max_beam_width"), ("max_num_tokens", "opt_num_tokens")
_ELSEWHERE = {"fast_build": "manage_weights", "strip_plan": "use_strip_plan"}  # option → its name in config.json
_NOT_COMPARED = frozenset({"speculative_decoding_mode", "lora_dir"})  # an enumeration there, and places of its own
_PATHS = ("input_timing_cache", "output_timing_cache", "visualize_network")  # of the worker's scratch directory


def settings(config: Mapping[str, Any]) -> dict[str, JsonValue]:
    """What the engine says of how it was built, and of what."""
    build = {name: value for name, value in config["build_config"].items() if name not in _PATHS}
    model = {name: config["pretrained_config"].get(name) for name in ("architecture", "dtype", "quantization")}
    return {"build_config": build, "pretrained_config": model}


def differences(context: BuildContext, part: EnginePart, config: Mapping[str, Any]) -> list[JsonValue]:
    """As of `enginefarm.wire.Difference`. What was left to the builder is no difference."""
    build = config["build_config"]
    found = (*_limits(context, part, build), *_options(context, part, build))
    return [{"pointer": pointer, "wanted": wanted, "has": has} for pointer, wanted, has in found]


def _limits(
    context: BuildContext, part: EnginePart, build: Mapping[str, Any]
) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """Each under the limit that it follows from."""
    alike = (*_SIZES, *_TOKENS) if part.has_token_limits else _SIZES
    told = {name: (getattr(context.limits, name), name) for name in alike} | part.lengths(context.limits)
    for name, (wanted, limit) in told.items():
        has = build.get(name)
        if name in build and wanted is not None and has != wanted + _grows(context, name):
            yield f"/limits/{limit}", wanted, has


def _grows(context: BuildContext, name: str) -> int:
    """Drafts need room that no sequence of the caller's may use."""
    if name != "max_seq_len" or context.option_value("speculative_decoding_mode") is None:
        return 0
    beside = context.draft_heads.sequence_length_option if context.draft_heads else None
    return context.number("max_draft_len") + (context.number(beside) if beside else 0)


def _options(
    context: BuildContext, part: EnginePart, build: Mapping[str, Any]
) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    places = [part for part in (build, build.get("plugin_config"), build.get("lora_config")) if isinstance(part, dict)]
    skipped = _NOT_COMPARED | idle_options(context)
    for name in context.release.build_options_of(context.facts.architecture):
        wanted, theirs = part.fixed_options.get(name, context.option_value(name)), _ELSEWHERE.get(name, name)
        place = next((part for part in places if theirs in part), None)
        if place is None or wanted is None or name in skipped:
            continue
        if _plain(wanted, context.dtype) != _plain(place[theirs], context.dtype):
            yield f"/options/{name}", wanted, place[theirs]


def _plain(value: Any, dtype: str) -> Any:
    """A command line says enable, a dtype or auto where config.json says true, or the dtype itself."""
    if isinstance(value, bool) or value is None:
        return "enable" if value else "disable"
    if isinstance(value, str):
        return "auto" if value == dtype else value.lower()
    return value
