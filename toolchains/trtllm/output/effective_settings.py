"""Compare an engine's own settings, from its config.json, with the spec.

trtllm-build rewrites values. Normalization predicts the rewrites that are known; differences that it does not predict
are reported with the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.rewrites import idle_options
from toolchains.trtllm.releases.engine_part import EnginePart

_SIZE_LIMITS = ("max_batch_size", "max_beam_width")
_TOKEN_LIMITS = ("max_num_tokens", "opt_num_tokens")
# trtllm-build renames these two between its command line and its configuration.
_CONFIG_NAMES = {"fast_build": "manage_weights", "strip_plan": "use_strip_plan"}  # option → its name in config.json
# config.json has a number for the mode, and the engine's own directories of adapters: they never equal the spec's.
_NOT_COMPARED = frozenset({"speculative_decoding_mode", "lora_dir"})
_SCRATCH_PATHS = ("input_timing_cache", "output_timing_cache", "visualize_network")


def settings(config: Mapping[str, Any]) -> dict[str, JsonValue]:
    """The part of an engine's config.json for the catalogue: how it was built, and from what."""
    # Paths of the worker's scratch directory mean nothing to anybody else.
    build = {name: value for name, value in config["build_config"].items() if name not in _SCRATCH_PATHS}
    model = {name: config["pretrained_config"].get(name) for name in ("architecture", "dtype", "quantization")}
    return {"build_config": build, "pretrained_config": model}


def differences(context: BuildContext, part: EnginePart, config: Mapping[str, Any]) -> list[JsonValue]:
    """Limits and options that differ from the spec, as `enginefarm.wire.bodies.Difference`.

    A value that the spec leaves to the builder is no difference.
    """
    build = config["build_config"]
    mismatches = [*differing_limits(context, part, build), *differing_options(context, part, build)]
    rows: list[JsonValue] = []
    for pointer, requested, actual in mismatches:
        rows.append({"pointer": pointer, "wanted": requested, "has": actual})
    return rows


def differing_limits(
    context: BuildContext, part: EnginePart, build: Mapping[str, Any]
) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """Yield (pointer, requested, actual) for every limit in build_config that differs."""
    # The builder extends max_seq_len by room for drafts, which no sequence of a caller may use.
    draft_tokens = 0
    if context.option_value("speculative_decoding_mode") is not None:
        draft_tokens = context.number("max_draft_len")
        if context.draft_heads and context.draft_heads.sequence_length_option:
            draft_tokens += context.number(context.draft_heads.sequence_length_option)

    # name in build_config → (requested value, the spec's limit that it follows from)
    requests: dict[str, tuple[int | None, str]] = {}
    for name in _SIZE_LIMITS:
        requests[name] = (getattr(context.limits, name), name)
    if part.has_token_limits:
        for name in _TOKEN_LIMITS:
            requests[name] = (getattr(context.limits, name), name)
    requests.update(part.lengths(context.limits))
    for name, (requested, limit) in requests.items():
        # Old releases lack some names, and a limit that the spec leaves open is the builder's to choose.
        if name not in build or requested is None:
            continue
        expected = requested
        if name == "max_seq_len":
            expected += draft_tokens
        if build[name] != expected:
            yield f"/limits/{limit}", requested, build[name]


def differing_options(
    context: BuildContext, part: EnginePart, build: Mapping[str, Any]
) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """Yield (pointer, requested, actual) for every build option that differs."""
    # Options of plugins and of adapters are in sections of their own; old releases lack some sections.
    sections = (build, build.get("plugin_config"), build.get("lora_config"))
    skipped = _NOT_COMPARED | idle_options(context)
    for name in context.release.build_options_of(context.facts.architecture):
        requested = part.fixed_options.get(name, context.option_value(name))
        if requested is None or name in skipped:
            continue
        config_name = _CONFIG_NAMES.get(name, name)
        for section in sections:
            if isinstance(section, dict) and config_name in section:
                actual = section[config_name]
                if _normalize(requested, context.dtype) != _normalize(actual, context.dtype):
                    yield f"/options/{name}", requested, actual
                break


def _normalize(value: Any, dtype: str) -> Any:
    """One form for what a command line and config.json write differently: enable and true, auto and the dtype."""
    # config.json has null or a boolean where the command line has enable or disable.
    if value is None or value is False:
        return "disable"
    if value is True:
        return "enable"
    if isinstance(value, str):
        if value == dtype:
            return "auto"
        return value.lower()
    return value
