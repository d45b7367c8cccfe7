"""Specs that break one rule each, with the models, platforms and options that they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from tests.toolchains.trtllm.build_contexts import FACTS, H100, facts, platform, spec
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.releases.rule_table import rules

Fields = dict[str, Any]  # of a spec

CPU = Platform(arch="x86_64", cpu_isa="x86-64-v3")
A100, L40S, B200 = platform(sm="80"), platform(sm="89"), platform(sm="100")
MIXTRAL = facts(architecture="MixtralForCausalLM", num_experts=8)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
DATA_SET = "file:/data/cnn_dailymail"
SHORT_LIMITS = {"max_batch_size": 8, "max_input_len": 512, "max_output_len": 64}
MEDUSA: Fields = {"medusa_model_dir": "hf:org/heads", "speculative_decoding_mode": "medusa"}
DRAFTER: Fields = {"drafter_model_dir": "hf:org/drafter", "speculative_decoding_mode": "explicit_draft_tokens"}
EAGLE: Fields = {"eagle_model_dir": "hf:org/heads", "speculative_decoding_mode": "eagle"}
LORA: Fields = {"lora_dir": ["hf:org/one", "hf:org/two"], "lora_plugin": "auto"}

# Codes of problems that an option has by itself, in any release. No rule stands for them.
OPTION_CODES = frozenset(
    ["unknown_option", "option_value", "option_twice", "former_option", "newer_option", "reserved_option"]
)
# Rules about a field that is missing, so that there is no value to report.
RULES_WITHOUT_VALUE = ("remote_code", "option_missing", "calibration_missing")


@dataclass(frozen=True)
class Refusal:
    """A spec that breaks a rule, and the change that mends it.

    `fields` are laid over the seed spec. With `allowed_fields` laid over them, and with the allowed model and platform,
    nothing is refused. In the release `allowed_in` the rule is not in force.
    """

    rule: str
    pointer: str
    fields: Fields = field(default_factory=dict)
    model: ModelFacts = FACTS
    platform: Platform = H100
    expected: str | None = None
    version: str = "1.2.1"
    allowed_fields: Fields = field(default_factory=dict)
    allowed_model: ModelFacts | None = None
    allowed_platform: Platform | None = None
    allowed_in: str | None = None
    also_broken: tuple[str, ...] = ()  # rules that cannot but be broken together with it

    def __str__(self) -> str:
        return f"{self.rule}-{self.pointer.rpartition('/')[2]}"


def quantized(quantization: str | None, kv_cache: str | None = None, *, calibrated: bool = True, **more: Any) -> Fields:
    precision = {"dtype": "bfloat16", "quantization": quantization, "kv_cache": kv_cache}
    return {"precision": precision, "calibration": DATA_SET if calibrated else None} | more


def llama_with_adapters(*changes: dict[str, Any]) -> ModelFacts:
    """Llama with an adapter for each of the changes to a sound adapter_config.json."""
    sound = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]}
    return facts(beside={f"lora_dir.{number}": sound | change for number, change in enumerate(changes)})


def find_problems(fields: Fields, model: ModelFacts, platform: Platform, version: str = "1.2.1") -> list[Problem]:
    """The problems of the seed spec with these fields."""
    normal, _ = TOOLCHAIN.normalise(spec(version, **fields), model, platform)
    problems = list(TOOLCHAIN.preflight(normal, model, platform))
    assert codes(problems) <= rules().keys() | OPTION_CODES, "every problem has a documented code"
    return problems


def codes(problems: Iterable[Problem]) -> set[str]:
    return {problem.code for problem in problems}


def assert_rule(refusal: Refusal) -> None:
    """The rule refuses the spec, lets the mended one through, and is in force in its releases only."""
    problems = find_problems(refusal.fields, refusal.model, refusal.platform, refusal.version)
    assert codes(problems) == {refusal.rule, *refusal.also_broken}
    (problem,) = [problem for problem in problems if problem.code not in refusal.also_broken]
    assert (problem.code, problem.pointer) == (refusal.rule, refusal.pointer)
    assert problem.value is not None or refusal.rule in RULES_WITHOUT_VALUE
    assert problem.expected
    if refusal.expected is not None:
        assert problem.expected == refusal.expected

    mended = refusal.fields | refusal.allowed_fields
    model = refusal.allowed_model or refusal.model
    allowed_platform = refusal.allowed_platform or refusal.platform
    assert find_problems(mended, model, allowed_platform, refusal.version) == []

    if refusal.allowed_in is not None:
        problems = find_problems(refusal.fields, refusal.model, refusal.platform, refusal.allowed_in)
        assert refusal.rule not in codes(problems)
