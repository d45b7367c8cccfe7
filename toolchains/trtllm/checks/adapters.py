"""Check LoRA adapters that the builder would ignore, cut short or not load.

The builder looks at adapters late, or only when the engine serves them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, either, refused_option
from toolchains.trtllm.context.adapters import RequestedAdapter, requested_adapters
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.adapters import adapter_table, with_joined_modules

_OPTION = adapter_table().option


def adapters_are_possible(context: BuildContext) -> Iterator[Problem]:
    if not context.option_value(_OPTION):
        return
    table = adapter_table()
    version, architecture = context.release.version, context.architecture
    # Reported where the rule `lora_release` is in force.
    detail = f"TensorRT-LLM {version} reads adapters from a pickle alone (adapter_model.bin)"
    yield refused_option(context, "lora_release", _OPTION, detail, f"{table.since} or newer, or unset")
    if table.family(architecture, version) is None:
        since = table.since_of(architecture)
        models = either(table.architectures(version)) if table.architectures(version) else "a later release"
        detail = f"what adapters call the modules of {architecture} is not known"
        expected = f"{models} without draft heads, or unset"
        if since is not None:
            detail = f"TensorRT-LLM {version} does not load adapters of {architecture}"
            expected = f"{since} or newer, or unset"
        yield refused_option(context, "lora_model", _OPTION, detail, expected)
    if not context.is_plugin_enabled("lora_plugin"):
        detail = "without lora_plugin the builder ignores adapters"
        yield refused_option(context, "lora_plugin", _OPTION, detail, "lora_plugin auto beside it, or unset")
    if context.option_value("lora_ckpt_source") == "nemo":
        detail = "adapters of NeMo are archives of pickles, and loading one runs whatever code it carries"
        yield refused_option(context, "lora_source", "lora_ckpt_source", detail, "hf")


def plugin_has_modules(context: BuildContext) -> Iterator[Problem]:
    if context.option_value(_OPTION) or not context.is_plugin_enabled("lora_plugin"):
        return
    # For NeMo the builder takes attn_qkv if no module is named.
    is_nemo = context.option_value("lora_ckpt_source") == "nemo"
    if not context.option_value("lora_target_modules") and not is_nemo:
        detail = "lora_plugin needs the modules that adapters are for"
        expected = f"disable, or lora_target_modules or {_OPTION} beside it"
        yield refused_option(context, "lora_nothing", "lora_plugin", detail, expected)


def adapters_are_plain_lora(context: BuildContext) -> Iterator[Problem]:
    expected = "a LoRA adapter as PEFT writes it"
    for adapter in requested_adapters(context):
        for detail in _differences_from_plain_lora(context, adapter.config):
            yield _adapter_problem("lora_adapter", adapter, detail, expected)


def _differences_from_plain_lora(context: BuildContext, config: Mapping[str, Any]) -> Iterator[str]:
    if not config:
        return  # it was not read
    if config.get("peft_type", "LORA") != "LORA":
        yield f"it is no LoRA adapter but {config['peft_type']}"
    if config.get("use_dora") and not context.enabled("dora_plugin"):
        yield "it is a DoRA adapter, which needs dora_plugin and a release that has it"
    if config.get("bias", "none") != "none":
        yield f"it trains biases ({config['bias']}), which nothing loads"
    if config.get("alpha_pattern"):
        yield "its alpha_pattern differs for some modules, and the release takes one alpha for all"
    if not isinstance(config.get("r"), int):
        yield "it names no rank (r)"


def scales_are_read(context: BuildContext) -> Iterator[Problem]:
    """Early releases compute the scale from one rank, and without the square root of rsLoRA."""
    for adapter in requested_adapters(context):
        if adapter.config.get("rank_pattern"):
            detail = "its rank_pattern differs for some modules, and the release takes one rank for all"
            yield _adapter_problem("lora_rank_pattern", adapter, detail, "an adapter of one rank, or 0.15.0 or newer")
        if adapter.config.get("use_rslora"):
            detail = "it is scaled as rsLoRA, and the release scales it by its rank"
            yield _adapter_problem("lora_rslora", adapter, detail, "an adapter without use_rslora, or 0.11.0 or newer")


def ranks_fit(context: BuildContext) -> Iterator[Problem]:
    max_rank = context.number("max_lora_rank")
    for adapter in requested_adapters(context):
        rank_pattern = adapter.config.get("rank_pattern")
        ranks = [adapter.config.get("r")]
        if isinstance(rank_pattern, dict):
            ranks += rank_pattern.values()
        rank = max((rank for rank in ranks if isinstance(rank, int)), default=0)
        if rank > max_rank:
            detail = f"its rank {rank} is more than max_lora_rank {max_rank}"
            yield _adapter_problem("lora_rank", adapter, detail, f"max_lora_rank {rank} or more")


def modules_are_in_engine(context: BuildContext) -> Iterator[Problem]:
    """The builder ignores weights for modules that the engine does not have."""
    family = adapter_table().family(context.architecture, context.release.version)
    if family is None:
        return  # `adapters_are_possible` reports it
    target_modules = context.option_value("lora_target_modules")
    engine_modules: list[str] | None = None
    if isinstance(target_modules, list):
        engine_modules = with_joined_modules([str(name) for name in target_modules])
    for adapter in requested_adapters(context):
        adapted = adapter.config.get("target_modules")
        if not isinstance(adapted, list):
            continue  # a pattern over the names of the weights, or nothing
        unknown = sorted(str(name) for name in adapted if not family.builder_names(str(name)))
        if unknown:
            detail = f"it adapts {', '.join(unknown)}, which the engine has no place for"
            yield _adapter_problem("lora_modules", adapter, detail, f"some of {', '.join(family.adapter_names)}")
        modules = sorted({builder_name for name in adapted for builder_name in family.builder_names(str(name))})
        # Without lora_target_modules the first adapter decides which modules the engine has.
        if engine_modules is None:
            yield from _modules_are_joined(context, adapter, modules)
            engine_modules = with_joined_modules(modules)
        ignored = [name for name in modules if name not in engine_modules]
        if ignored:
            detail = f"it adapts {', '.join(ignored)}, which the engine would not have, and would ignore"
            yield _adapter_problem("lora_modules", adapter, detail, "lora_target_modules that has them, or unset")


def _modules_are_joined(context: BuildContext, adapter: RequestedAdapter, modules: list[str]) -> Iterator[Problem]:
    # Later releases add the others by themselves, and `join_adapted_modules` does where the option names modules.
    joined = with_joined_modules(modules)
    if joined != modules:
        detail = (
            f"it adapts {', '.join(modules)}, and the release takes queries, keys and values together or not at all"
        )
        yield _adapter_problem("lora_joined", adapter, detail, f"lora_target_modules {', '.join(joined)} beside it")


def _adapter_problem(rule: str, adapter: RequestedAdapter, detail: str, expected: str) -> Problem:
    pointer = f"/options/{_OPTION}/{adapter.number}"
    return Problem(pointer=pointer, code=rule, detail=detail, value=adapter.reference, expected=expected)


CHECKS: tuple[Check, ...] = (
    adapters_are_possible,
    plugin_has_modules,
    adapters_are_plain_lora,
    scales_are_read,
    ranks_fit,
    modules_are_in_engine,
)
