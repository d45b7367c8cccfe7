"""Check LoRA adapters that the builder would ignore, cut short or not load.

The builder looks at adapters late, or only when the engine serves them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.adapters import RequestedAdapter, requested_adapters
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.adapters import adapter_table, with_joined_modules

_OPTION = adapter_table().option


def adapters_are_possible(context: BuildContext) -> Iterator[Problem]:
    if not context.option_value(_OPTION):
        return
    table = adapter_table()
    version, architecture = context.release.version, context.architecture
    # Reported where the rule `lora_release` is in force: 0.9 loads pickles alone.
    detail = f"what TensorRT-LLM {version} does with adapters is not known; 0.9 takes pickles alone"
    yield refused_option(context, "lora_release", _OPTION, detail, f"{table.since} or newer, or unset")
    # Exaone, Arctic, InternLM and Skywork use the same class, but other names of modules, or adapters that nobody was
    # seen to load (source: data/adapters.json).
    if architecture not in table.architectures:
        detail = f"what adapters call the modules of {architecture} is not known"
        expected = f"a model of {', '.join(table.architectures)} without draft heads, or unset"
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
    expected = "a LoRA adapter as PEFT writes it, of one rank"
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
    patterns = [name for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
    if patterns:
        yield f"its {' and '.join(patterns)} differ for some modules, and the release takes one rank and alpha for all"
    if not isinstance(config.get("r"), int):
        yield "it names no rank (r)"


def ranks_fit(context: BuildContext) -> Iterator[Problem]:
    max_rank = context.number("max_lora_rank")
    for adapter in requested_adapters(context):
        rank = adapter.config.get("r")
        if isinstance(rank, int) and rank > max_rank:
            detail = f"its rank {rank} is more than max_lora_rank {max_rank}"
            yield _adapter_problem("lora_rank", adapter, detail, f"max_lora_rank {rank} or more")


def modules_are_in_engine(context: BuildContext) -> Iterator[Problem]:
    """The builder ignores weights for modules that the engine does not have."""
    builder_names = adapter_table().builder_names
    target_modules = context.option_value("lora_target_modules")
    engine_modules: list[str] | None = None
    if isinstance(target_modules, list):
        engine_modules = with_joined_modules([str(name) for name in target_modules])
    for adapter in requested_adapters(context):
        adapted = adapter.config.get("target_modules")
        if not isinstance(adapted, list):
            continue  # a pattern over the names of the weights, or nothing
        # PEFT accepts paths such as model.layers.0.self_attn.q_proj too. Their last part names the module.
        adapter_names = {str(name).rpartition(".")[2] for name in adapted}
        unknown = sorted(adapter_names - builder_names.keys())
        if unknown:
            detail = f"it adapts {', '.join(unknown)}, which the engine has no place for"
            yield _adapter_problem("lora_modules", adapter, detail, f"some of {', '.join(builder_names)}")
        modules = sorted(builder_names[name] for name in adapter_names & builder_names.keys())
        # Without lora_target_modules the first adapter decides which modules the engine has.
        if engine_modules is None:
            engine_modules = with_joined_modules(modules)
        ignored = [name for name in modules if name not in engine_modules]
        if ignored:
            detail = f"it adapts {', '.join(ignored)}, which the engine would not have, and would ignore"
            yield _adapter_problem("lora_modules", adapter, detail, "lora_target_modules that has them, or unset")


def _adapter_problem(rule: str, adapter: RequestedAdapter, detail: str, expected: str) -> Problem:
    pointer = f"/options/{_OPTION}/{adapter.number}"
    return Problem(pointer=pointer, code=rule, detail=detail, value=adapter.reference, expected=expected)


CHECKS: tuple[Check, ...] = (
    adapters_are_possible,
    plugin_has_modules,
    adapters_are_plain_lora,
    ranks_fit,
    modules_are_in_engine,
)
