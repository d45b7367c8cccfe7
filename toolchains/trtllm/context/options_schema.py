"""JSON Schema of the options that callers may set in one release."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from enginefarm.contract.spec import Precision
from toolchains.trtllm.context.conversion import find_conversion
from toolchains.trtllm.releases.draft_heads import available_modes
from toolchains.trtllm.releases.option_table import Option
from toolchains.trtllm.releases.precision_recipe import recipe_table
from toolchains.trtllm.releases.release import ReleaseDescriptor, all_releases


def options_schema(release: ReleaseDescriptor) -> dict[str, Any]:
    """JSON Schema of `options` for every model family and precision of this release."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Options of TensorRT-LLM {release.version}",
        "type": "object",
        "properties": _properties(release.series),
        "additionalProperties": False,
    }


@cache
def _properties(series: str) -> dict[str, Any]:
    """Schema of each option, by name. Releases of one series have the same programs, and so the same schemas."""
    release = next(release for release in all_releases() if release.series == series)
    schemas: dict[str, list[dict[str, Any]]] = {}
    for option in _caller_options(release):
        of_name = schemas.setdefault(option.name, [])
        if option.value_schema not in of_name:
            of_name.append(option.value_schema)
    properties = {}
    for name, alternatives in sorted(schemas.items()):
        if len(alternatives) == 1:
            properties[name] = alternatives[0]
        else:
            # Scripts may accept different values for one name. Preflight, which knows the model, is stricter.
            properties[name] = {"description": alternatives[0]["description"], "anyOf": alternatives}
    return properties


def _caller_options(release: ReleaseDescriptor) -> Iterator[Option]:
    """Those of trtllm-build, of every conversion of every precision, and of every kind of draft heads."""
    yield from release.build_options.values()
    quantizations = [None, *recipe_table().quantization]
    kv_caches = [None, *recipe_table().kv_cache]
    for architecture, quantization, kv_cache in product(release.architectures, quantizations, kv_caches):
        precision = Precision(quantization=quantization, kv_cache=kv_cache)
        conversion = find_conversion(release, architecture, precision, None)
        if conversion:
            yield from conversion.options.values()
    for architecture in release.architectures:
        for draft_mode in available_modes(release, architecture):
            conversion = find_conversion(release, architecture, Precision(), None, draft_mode)
            if conversion:
                yield from conversion.all_options.values()
