"""Adapters that the builder would ignore, cut short or not load; it looks at them late, or only when it serves them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context import adapters
from toolchains.trtllm.context.build_context import BuildContext

_OPTION = adapters.adapter_table().option


def possible(context: BuildContext) -> Iterator[Problem]:
    if not context.option_value(_OPTION):
        yield from _nothing(context)
        return
    known = adapters.adapter_table()
    detail = f"what TensorRT-LLM {context.release.version} does with adapters is not known; 0.9 takes pickles alone"
    yield refused_option(context, "lora_release", _OPTION, detail, f"{known.since} or newer, or unset")
    if context.architecture not in known.architectures:
        detail = f"what modules of {context.architecture} are called in adapters is not known"
        expected = f"a model of {', '.join(known.architectures)} without draft heads, or unset"
        yield refused_option(context, "lora_model", _OPTION, detail, expected)
    if context.option_value("lora_plugin") in (None, "disable"):
        detail = "without lora_plugin the builder ignores adapters"
        yield refused_option(context, "lora_plugin", _OPTION, detail, "lora_plugin auto beside it, or unset")
    if context.option_value("lora_ckpt_source") == "nemo":
        detail = "adapters of NeMo are archives of pickles, and loading one runs whatever code it carries"
        yield refused_option(context, "lora_source", "lora_ckpt_source", detail, "hf")


def _nothing(context: BuildContext) -> Iterator[Problem]:
    """Of NeMo's the builder takes attn_qkv where nothing is said."""
    on = context.option_value("lora_plugin") not in (None, "disable")
    if on and not context.option_value("lora_target_modules") and context.option_value("lora_ckpt_source") != "nemo":
        detail = "lora_plugin needs the modules that adapters are for"
        expected = f"disable, or lora_target_modules or {_OPTION} beside it"
        yield refused_option(context, "lora_nothing", "lora_plugin", detail, expected)


def kind(context: BuildContext) -> Iterator[Problem]:
    for place, reference, said in adapters.requested_adapters(context):
        for detail in _unlike(context, said):
            yield _adapter("lora_adapter", place, reference, detail, "a LoRA adapter as PEFT writes it, of one rank")


def _unlike(context: BuildContext, said: Mapping[str, Any]) -> Iterator[str]:
    if not said:
        return
    if said.get("peft_type", "LORA") != "LORA":
        yield f"it is no LoRA adapter but {said['peft_type']}"
    if said.get("use_dora") and not context.enabled("dora_plugin"):
        yield "it is a DoRA adapter, which needs dora_plugin and a release that has it"
    if said.get("bias", "none") != "none":
        yield f"it trains biases ({said['bias']}), which nothing loads"
    if patterns := [name for name in ("rank_pattern", "alpha_pattern") if said.get(name)]:
        yield f"its {' and '.join(patterns)} say otherwise for some modules, and one rank and alpha count for all"
    if not isinstance(said.get("r"), int):
        yield "it names no rank (r)"


def rank(context: BuildContext) -> Iterator[Problem]:
    most = context.number("max_lora_rank")
    for place, reference, said in adapters.requested_adapters(context):
        given = said.get("r")
        if isinstance(given, int) and given > most:
            yield _adapter("lora_rank", place, reference, f"its rank {given} is more than max_lora_rank {most}",
                           f"max_lora_rank {given} or more")  # fmt: skip


def modules(context: BuildContext) -> Iterator[Problem]:
    """Where nothing is asked for, the first adapter decides which modules the engine has."""
    places, asked = adapters.adapter_table().places, context.option_value("lora_target_modules")
    had = adapters.with_joined_modules([str(name) for name in asked]) if isinstance(asked, list) else None
    for place, reference, said in adapters.requested_adapters(context):
        names = said.get("target_modules")
        if not isinstance(names, list):
            continue  # a pattern over the names of the weights, or nothing
        called = {str(name).rpartition(".")[2] for name in names}
        if strange := sorted(called - places.keys()):
            detail = f"it adapts {', '.join(strange)}, which the engine has no place for"
            yield _adapter("lora_modules", place, reference, detail, f"some of {', '.join(places)}")
        wanted = sorted(places[name] for name in called & places.keys())
        had = adapters.with_joined_modules(wanted) if had is None else had
        if lost := [name for name in wanted if name not in had]:
            detail = f"it adapts {', '.join(lost)}, which the engine would not have, and would ignore"
            yield _adapter("lora_modules", place, reference, detail, "lora_target_modules that has them, or unset")


def _adapter(rule: str, place: int, reference: str, detail: str, expected: str) -> Problem:
    return Problem(pointer=f"/options/{_OPTION}/{place}", code=rule, detail=detail, value=reference, expected=expected)


CHECKS: tuple[Check, ...] = (possible, kind, rank, modules)
