"""One case a rule that refuses: what it fires on, with the alternatives that it names, and what it lets through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from enginefarm.contract.errors import InvalidSpec, Problem
from enginefarm.contract.model_facts import ModelFacts, Stack
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec
from tests.toolchains.trtllm.build_contexts import BART, FACTS, H100, LLAMA, T5, facts, platform, spec
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.releases.rule_table import rules

CPU = Platform(arch="x86_64", cpu_isa="x86-64-v3")
MIXTRAL = facts(architecture="MixtralForCausalLM", num_experts=8)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
A100, L40S, B200 = platform(sm="80"), platform(sm="89"), platform(sm="100")
DATA = "file:/data/cnn_dailymail"

OF_ONE_OPTION = {
    *("unknown_option", "option_value", "option_twice", "former_option", "newer_option", "reserved_option"),
}  # what is wrong with an option by itself, in any release

Parts = dict[str, Any]


def quantised(quantization: str | None, kv_cache: str | None = None, *, calibrated: bool = True, **more: Any) -> Parts:
    precision = {"dtype": "bfloat16", "quantization": quantization, "kv_cache": kv_cache}
    return {"precision": precision, "calibration": DATA if calibrated else None} | more


SHORT = {"max_batch_size": 8, "max_input_len": 512, "max_output_len": 64}
MEDUSA: Parts = {"medusa_model_dir": "hf:org/heads", "speculative_decoding_mode": "medusa"}
DRAFTER: Parts = {"drafter_model_dir": "hf:org/drafter", "speculative_decoding_mode": "explicit_draft_tokens"}
EAGLE_HEADS: Parts = {"eagle_model_dir": "hf:org/heads", "speculative_decoding_mode": "eagle"}


LORA: Parts = {"lora_dir": ["hf:org/one", "hf:org/two"], "lora_plugin": "auto"}


def adapted(*said: dict[str, Any]) -> ModelFacts:
    """Llama, and what the adapters beside it say of themselves."""
    sound = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]}
    return facts(beside={f"lora_dir.{place}": sound | other for place, other in enumerate(said)})


@dataclass(frozen=True)
class Rule:
    """`parts` fires it, `spared` (laid over them) does not; where it did not hold yet or any more, nothing does."""

    name: str
    pointer: str
    parts: Parts = field(default_factory=dict)
    model: ModelFacts = FACTS
    machine: Platform = H100
    expected: str | None = None
    version: str = "1.2.1"
    spared: Parts = field(default_factory=dict)
    spared_model: ModelFacts | None = None
    spared_machine: Platform | None = None
    not_in: str | None = None  # a release in which the same is let through
    also: tuple[str, ...] = ()  # rules that cannot but fire with it


CASES = [
    Rule("architecture", "/model", model=facts(architecture="DeepseekV3ForCausalLM"), spared_model=FACTS),
    Rule(
        "architecture", "/model", model=facts(architecture="GPTJForCausalLM"),
        spared_model=FACTS, not_in="0.9.0", version="0.8.0",
    ),
    Rule(
        "option_missing", "/options/model_version", {"options": {}}, facts(architecture="BaichuanForCausalLM"),
        spared={"options": {"model_version": "v2_7b"}}, expected="one of v1_7b, v1_13b, v2_7b, v2_13b",
    ),
    Rule(
        "no_tp", "/parallelism/tp", {"parallelism": {"tp": 2}}, facts(architecture="MambaForCausalLM"),
        spared_model=facts(architecture="GPTJForCausalLM"),
    ),
    Rule(
        "no_pp", "/parallelism/pp", {"parallelism": {"pp": 2}}, facts(architecture="BloomForCausalLM"),
        spared_model=facts(architecture="GPTJForCausalLM"),
    ),
    Rule("remote_code", "/model", model=facts(remote_code=True), spared_model=facts(remote_code=True, trusted=True)),
    Rule("quantized_model", "/model", model=facts(quantization_config={"quant_method": "aqlm"}), spared_model=FACTS),
    Rule(
        "gptq_desc_act", "/model", quantised(None, calibrated=False),
        facts(quantization_config=GPTQ | {"desc_act": True}),
        spared_model=facts(quantization_config=GPTQ | {"desc_act": False}),
    ),
    Rule(
        "dtype_unknown", "/precision/dtype", {"precision": {}}, facts(dtype=None),
        expected="bfloat16, float16 or float32", spared_model=FACTS,
    ),
    Rule(
        "quantization", "/precision/quantization", quantised("int3", calibrated=False),
        spared=quantised("int8_wo", calibrated=False),
    ),
    Rule(
        "kv_cache", "/precision/kv_cache", quantised(None, "int3", calibrated=False),
        expected="null, int8, fp8", spared=quantised(None, "int8"),
    ),
    Rule(
        "precision_model", "/precision/quantization", quantised("fp8"), facts(architecture="Qwen2ForCausalLM"),
        expected="null, int8_sq, int8_wo, int4_wo, int4_awq, int4_gptq", version="0.16.0", not_in="1.2.1",
        spared=quantised("int4_awq"),
    ),
    Rule(
        "nvfp4_model", "/precision/quantization", quantised("nvfp4"), facts(architecture="Qwen2ForCausalLM"), B200,
        spared_model=FACTS,
    ),
    Rule(
        "autoq_formats", "/options/autoq_format",
        quantised("auto_quantize", options={"autoq_format": "fp8,int8_sq", "auto_quantize_bits": 8}),
        expected="one of the two",
        spared=quantised("auto_quantize", options={"autoq_format": "fp8,int4_awq", "auto_quantize_bits": 8}),
    ),
    Rule(
        "option_missing", "/options/auto_quantize_bits",
        quantised("auto_quantize", options={"autoq_format": "fp8,int4_awq"}),
        spared={"options": {"autoq_format": "fp8,int4_awq", "auto_quantize_bits": 8}},
    ),
    Rule("calibration_missing", "/calibration", quantised("fp8", calibrated=False), spared=quantised("fp8")),
    Rule(
        "calibration_unused", "/calibration", quantised("int8_wo"), expected="null",
        spared=quantised("int8_wo", calibrated=False),
    ),
    Rule("needs_gpu", "/platform", machine=CPU, spared_machine=H100),
    Rule(
        "volta", "/platform/sm", {"precision": {"dtype": "float16"}}, machine=platform(sm="70"), version="0.16.0",
        expected="SM 75 or newer", not_in="0.15.0", spared_machine=platform(sm="75"),
    ),
    Rule("blackwell", "/platform/sm", machine=B200, version="0.16.0", not_in="0.17.0", spared_machine=H100),
    Rule(
        "bf16_sm", "/precision/dtype", machine=platform(sm="75"), expected="float16 or float32", spared_machine=A100
    ),
    Rule(
        "fp8_sm", "/precision/quantization", quantised("fp8"), machine=A100, spared_machine=L40S,
        expected="null, int8_wo, int4_wo, int8_sq, int4_awq, int4_gptq, int8_gptq, auto_quantize",
    ),
    Rule(
        "fp8_kv_sm", "/precision/kv_cache", quantised(None, "fp8"), machine=A100, expected="null, int8",
        spared_machine=L40S,
    ),
    Rule("w4a8_sm", "/precision/quantization", quantised("w4a8_awq"), machine=A100, spared_machine=L40S),
    Rule(
        "fp8_rowwise_hopper", "/precision/quantization", quantised("fp8_rowwise", calibrated=False), machine=L40S,
        version="0.13.0", spared_machine=H100, not_in="0.15.0",
    ),
    Rule(
        "fp8_rowwise_sm", "/precision/quantization", quantised("fp8_rowwise", calibrated=False), machine=A100,
        spared_machine=L40S,
    ),
    Rule("nvfp4_sm", "/precision/quantization", quantised("nvfp4"), spared_machine=B200),
    Rule(
        "fp8_fmha_hopper", "/options/use_fp8_context_fmha",
        quantised("fp8", options={"use_fp8_context_fmha": "enable"}), machine=L40S, version="0.11.0",
        not_in="0.12.0", spared_machine=H100, expected="disable",
    ),
    Rule(
        "fp8_fmha_ada", "/options/use_fp8_context_fmha",
        quantised("fp8", options={"use_fp8_context_fmha": "enable"}), machine=A100, version="0.16.0",
        not_in="1.2.1", spared_machine=L40S, expected="disable", also=("fp8_sm",),
    ),
    Rule(
        "swiglu_sm", "/options/gemm_swiglu_plugin", {"options": {"gemm_swiglu_plugin": "fp8"}}, machine=L40S,
        expected="disable", spared_machine=H100,
    ),
    Rule(
        "sm100_int", "/precision/quantization", quantised("int4_awq"), machine=B200, expected="null, fp8, nvfp4",
        not_in="0.17.0", spared_machine=platform(sm="120"),
    ),
    Rule("sm100_int", "/precision/kv_cache", quantised(None, "int8"), machine=B200, spared=quantised(None, "fp8")),
    Rule(
        "sm100_plugins", "/options/gemm_swiglu_plugin", {"options": {"gemm_swiglu_plugin": "fp8"}}, machine=B200,
        expected="disable", spared={"options": {"gemm_swiglu_plugin": "disable"}},
    ),
    Rule(
        "heads_tp", "/parallelism/tp", {"parallelism": {"tp": 3}}, facts(num_key_value_heads=None),
        expected="tp may be 1, 2, 4, 8, 16, 32", spared={"parallelism": {"tp": 4}},
    ),
    Rule(
        "kv_heads_tp", "/parallelism/tp", {"parallelism": {"tp": 4}},
        facts(num_attention_heads=24, num_key_value_heads=6), expected="tp may be 1, 2, 3, 6, 12, 24",
        spared={"parallelism": {"tp": 12}},  # each of the six twice
    ),
    Rule(
        "pp_layers", "/parallelism/pp", {"parallelism": {"pp": 3}}, expected="pp may be 1, 2, 4, 8, 16, 32",
        spared={"parallelism": {"pp": 4}},
    ),
    Rule(
        "no_tp", "/parallelism/tp", {"parallelism": {"tp": 2}}, facts(architecture="PhiForCausalLM"),
        version="0.10.0", expected="1", not_in="0.16.0", spared_model=FACTS,
    ),
    Rule(
        "no_pp", "/parallelism/pp", {"parallelism": {"pp": 2}}, facts(architecture="GemmaForCausalLM"),
        expected="1", spared_model=FACTS,
    ),
    Rule(
        "no_cp", "/parallelism/cp", {"parallelism": {"cp": 2}}, version="0.10.0", expected="1", not_in="0.16.0",
        spared={"parallelism": {"tp": 2}},
    ),
    Rule(
        "limit_unknown", "/limits/opt_num_tokens", {"limits": {"max_batch_size": 4, "opt_num_tokens": 2}},
        version="0.8.0", expected="null", not_in="0.9.0", spared={"limits": {"max_batch_size": 4}},
    ),
    Rule(
        "phi_pp", "/parallelism/pp", {"parallelism": {"pp": 2}}, facts(architecture="Phi3ForCausalLM"),
        expected="pp may be 1", not_in="0.16.0", spared_model=FACTS,
    ),
    Rule(
        "moe_tp_ep", "/options/moe_ep_size",
        {"options": {"moe_tp_size": 2, "moe_ep_size": 2}, "parallelism": {"tp": 2}}, MIXTRAL,
        spared={"parallelism": {"tp": 4}},
    ),
    Rule(
        "experts_ep", "/options/moe_ep_size",
        {"options": {"moe_ep_size": 4}, "parallelism": {"tp": 4}}, facts(num_experts=6),
        expected="moe_ep_size may be 1, 2", spared={"options": {"moe_ep_size": 2}},
    ),
    Rule(
        "cp_moe", "/options/moe_ep_size",
        {"options": {"moe_ep_size": 2}, "parallelism": {"tp": 2, "cp": 2}}, MIXTRAL,
        spared={"options": {}},
    ),
    Rule(
        "cp_packing", "/options/remove_input_padding",
        {"options": {"remove_input_padding": "disable"}, "parallelism": {"cp": 2}, "limits": {"max_batch_size": 2}},
        expected="enable", spared={"options": {}},
    ),
    Rule(
        "volume", "/limits/max_num_tokens",
        {"limits": {"max_batch_size": 64, "max_input_len": 4096, "max_num_tokens": 1 << 18}}, expected="< 149797",
        spared={"limits": {"max_batch_size": 64, "max_input_len": 4096, "max_num_tokens": 149_796}},
    ),
    Rule(
        "volume", "/limits/max_num_tokens",
        {"limits": {"max_batch_size": 64, "max_input_len": 1024, "max_num_tokens": 16_744},
         "options": {"gather_context_logits": True}},
        expected="< 16744", spared={"options": {}},
    ),
    Rule(
        "volume", "/options/kv_cache_type",
        {"limits": {"max_batch_size": 1024, "max_input_len": 1024}, "options": {"kv_cache_type": "continuous"}},
        expected="paged, or max_batch_size × max_beam_width < 512", spared={"options": {"kv_cache_type": "paged"}},
    ),
    Rule(
        "opt_profiles", "/options/multiple_profiles",
        {"options": {"multiple_profiles": "enable"}, "limits": {"opt_num_tokens": 8}}, spared={"limits": {}},
    ),
    Rule(
        "logits_draft", "/options/gather_context_logits",
        {"options": {"gather_context_logits": True, "max_draft_len": 4,
                     "speculative_decoding_mode": "draft_tokens_external"}},
        spared={"options": {"gather_context_logits": True}},
    ),
    Rule(
        "draft_heads", "/options/speculative_decoding_mode",
        {"options": {"speculative_decoding_mode": "medusa", "max_draft_len": 5}},
        spared={"options": {"speculative_decoding_mode": "draft_tokens_external", "max_draft_len": 5}},
    ),
    Rule(
        "draft_heads", "/options/speculative_decoding_mode",
        {"options": MEDUSA | {"speculative_decoding_mode": "lookahead_decoding"}},
        expected="medusa", spared={"options": MEDUSA},
    ),
    Rule(
        "draft_heads", "/options/speculative_decoding_mode", {"options": {"speculative_decoding_mode": "medusa"}},
        expected="medusa_model_dir beside it, or another mode", spared={"options": MEDUSA},
    ),
    Rule(
        "draft_len_other", "/options/max_draft_len", {"options": MEDUSA | {"max_draft_len": 5}},
        expected="63, or unset", spared={"options": MEDUSA | {"max_draft_len": 5, "max_medusa_token_len": 5}},
    ),
    Rule(
        "draft_model", "/options/eagle_model_dir", {"options": EAGLE_HEADS},
        facts(beside={"eagle_model_dir": {"hidden_size": 5120}}),
        spared_model=facts(beside={"eagle_model_dir": {"hidden_size": 4096, "architectures": ["LlamaForCausalLM"]}}),
    ),
    Rule(
        "draft_model", "/options/eagle_model_dir", {"options": EAGLE_HEADS},
        facts(beside={"eagle_model_dir": {"architectures": ["LlamaForCausalLMEagle3"]}}),
        spared_model=facts(beside={"eagle_model_dir": {"architectures": None}}),
    ),
    Rule(
        "draft_model", "/options/drafter_model_dir", {"options": DRAFTER},
        facts(beside={"drafter_model_dir": {"num_draft_layers": 2, "hidden_size": 4096, "exit_dim": 8192}}),
        spared_model=facts(
            beside={"drafter_model_dir": {"num_draft_layers": 2, "hidden_size": 4096, "exit_dim": 8192, "rnn": False}}
        ),
    ),
    Rule(
        "draft_dtype", "/precision/dtype", {"options": EAGLE_HEADS, "precision": {"dtype": "float32"}},
        expected="float16 or bfloat16", spared={"precision": {"dtype": "float16"}},
    ),
    Rule(
        "no_pp", "/parallelism/pp", {"options": EAGLE_HEADS, "parallelism": {"pp": 2}},
        spared={"parallelism": {"tp": 2}},
    ),
    Rule(
        "draft_sm", "/platform/sm", {"options": EAGLE_HEADS, "precision": {"dtype": "float16"}},
        machine=platform(sm="75"), expected="SM 80 or newer", spared_machine=A100,
    ),
    Rule(
        "draft_cache", "/options/kv_cache_type", {"options": EAGLE_HEADS | {"kv_cache_type": "disabled"}},
        expected="paged, or unset", spared={"options": EAGLE_HEADS | {"kv_cache_type": "paged"}},
    ),
    Rule(
        "draft_packing", "/options/remove_input_padding",
        {"options": DRAFTER | {"remove_input_padding": "disable"}, "limits": {"max_batch_size": 1}},
        expected="enable", spared={"options": DRAFTER},
    ),
    Rule(
        "draft_len_other", "/options/max_draft_len", {"options": DRAFTER | {"max_draft_len": 10}},
        expected="25, or unset", spared={"options": DRAFTER | {"max_draft_len": 10, "redrafter_num_beams": 2}},
    ),
    Rule(
        "no_cp", "/parallelism/cp", {"options": DRAFTER, "parallelism": {"cp": 2}}, spared={"parallelism": {"tp": 2}},
    ),
    Rule(
        "eagle_rope", "/model", {"options": EAGLE_HEADS}, facts(rope_scaling={"rope_type": "linear", "factor": 2.0}),
        expected="a model without rope_scaling", spared_model=FACTS,
    ),
    Rule(
        "streamingllm_llama", "/options/streamingllm", {"options": EAGLE_HEADS | {"streamingllm": "enable"}},
        version="1.1.0", spared={"options": EAGLE_HEADS},
    ),
    Rule(
        "quantization", "/precision/quantization", quantised("int8_wo", calibrated=False, options=EAGLE_HEADS),
        expected="null", spared=quantised(None, calibrated=False, options=EAGLE_HEADS),
    ),
    Rule(
        "quantization", "/precision/quantization", quantised("int8_sq", calibrated=False, options=MEDUSA),
        expected="null, int8_wo, int4_wo", spared=quantised("int8_wo", calibrated=False, options=MEDUSA),
    ),
    Rule(
        "lora_release", "/options/lora_dir", {"options": LORA}, version="0.14.0", not_in="0.15.0",
        expected="0.15.0 or newer, or unset", spared={"options": {}},
    ),
    Rule(
        "lora_model", "/options/lora_dir", {"options": LORA}, facts(architecture="Qwen2ForCausalLM"),
        spared_model=facts(architecture="MistralForCausalLM"), not_in="0.14.0",
    ),
    Rule("lora_model", "/options/lora_dir", {"options": LORA | MEDUSA}, spared={"options": LORA}),
    Rule(
        "lora_plugin", "/options/lora_dir", {"options": LORA | {"lora_plugin": "disable"}},
        expected="lora_plugin auto beside it, or unset", spared={"options": LORA},
    ),
    Rule(
        "lora_nothing", "/options/lora_plugin", {"options": {"lora_plugin": "auto"}},
        spared={"options": {"lora_plugin": "auto", "lora_target_modules": ["attn_q"]}},
    ),
    Rule(
        "lora_source", "/options/lora_ckpt_source", {"options": LORA | {"lora_ckpt_source": "nemo"}},
        expected="hf", spared={"options": LORA | {"lora_ckpt_source": "hf"}},
    ),
    *(
        Rule(
            "lora_adapter", "/options/lora_dir/1", {"options": LORA}, adapted({}, said),
            spared_model=adapted({}, {"use_dora": False, "bias": "none", "rank_pattern": {}}),
        )
        for said in (
            {"peft_type": "LOHA"}, {"use_dora": True}, {"bias": "all"}, {"alpha_pattern": {"q_proj": 4}},
            {"rank_pattern": {"q_proj": 4}}, {"r": None},
        )
    ),
    Rule(
        "lora_rank", "/options/lora_dir/1", {"options": LORA | {"max_lora_rank": 15}}, adapted({}, {"r": 16}),
        expected="max_lora_rank 16 or more", spared={"options": LORA | {"max_lora_rank": 16}},
    ),
    Rule(
        "lora_modules", "/options/lora_dir/0", {"options": LORA}, adapted({"target_modules": ["q_proj", "lm_head"]}),
        spared_model=adapted({"target_modules": "all-linear"}),
    ),
    Rule(
        "lora_modules", "/options/lora_dir/1", {"options": LORA}, adapted({}, {"target_modules": ["o_proj"]}),
        spared_model=adapted({}, {"target_modules": ["k_proj"]}),  # the builder adds it to the others
    ),
    Rule(
        "lora_modules", "/options/lora_dir/0", {"options": LORA | {"lora_target_modules": ["attn_dense"]}},
        adapted({}), spared={"options": LORA | {"lora_target_modules": ["attn_q"]}},
    ),
    Rule(
        "refit_side_files", "/options/strip_plan", {"options": LORA | {"strip_plan": True}},
        expected="false", spared={"options": LORA},
    ),
    Rule(
        "weight_streaming", "/options/gemm_plugin", {"options": {"weight_streaming": True, "gemm_plugin": "auto"}},
        expected="disable", spared={"options": {"weight_streaming": True, "gemm_plugin": "disable"}},
    ),
    Rule(
        "manage_weights", "/options/fast_build",
        quantised("int8_wo", calibrated=False, options={"fast_build": True, "disable_weight_only_quant_plugin": True}),
        spared={"options": {"fast_build": True}},
    ),
    Rule(
        "refit_side_files", "/options/strip_plan", {"options": {"strip_plan": True, "fast_build": True}},
        version="0.16.0", expected="false", spared={"options": {"strip_plan": True}},
    ),
    Rule(
        "refit_side_files", "/options/strip_plan",
        quantised("auto_quantize", options={"autoq_format": "fp8", "auto_quantize_bits": 8, "strip_plan": True}),
        version="0.16.0", spared={"options": {"autoq_format": "fp8", "auto_quantize_bits": 8}},
    ),
    Rule(
        "swiglu", "/options/gemm_swiglu_plugin",
        {"options": {"gemm_swiglu_plugin": "fp8", "use_fused_mlp": "disable"}},
        spared={"options": {"gemm_swiglu_plugin": "fp8"}},
    ),
    Rule(
        "paged_fmha_int8", "/options/use_paged_context_fmha",
        quantised(None, "int8", options={"use_paged_context_fmha": "enable"}), version="0.16.0", not_in="1.2.1",
        expected="disable", spared={"options": {}},
    ),
    Rule(
        "paged_fmha_fp8kv", "/options/use_paged_context_fmha",
        quantised(None, "fp8", options={"use_paged_context_fmha": "enable"}), version="0.16.0", not_in="1.2.1",
        spared=quantised("fp8", "fp8"),
    ),
    Rule("streamingllm", "/options/streamingllm", {"options": {"streamingllm": "enable"}}, not_in="1.1.0",
         spared={"options": {}}),
    Rule(
        "streamingllm_llama", "/options/streamingllm", {"options": {"streamingllm": "enable"}},
        facts(architecture="MistralForCausalLM"), version="0.16.0", spared_model=FACTS,
    ),
    Rule(
        "enc_dec_tp", "/parallelism/tp", {"parallelism": {"tp": 2}, "limits": SHORT},
        BART.model_copy(update={"vocab_size": 50265}), spared_model=BART, expected="tp may be 1",
    ),
    Rule(
        "enc_dec_cache", "/options/kv_cache_type", {"options": {"kv_cache_type": "disabled"}, "limits": SHORT}, T5,
        spared={"options": {"kv_cache_type": "continuous"}}, expected="paged, continuous, or null",
    ),
    Rule(
        "enc_dec_attention", "/options/gpt_attention_plugin",
        {"options": {"gpt_attention_plugin": "disable"}, "limits": SHORT}, BART, spared={"options": {}},
    ),
    Rule(
        "heads_tp", "/parallelism/tp", {"parallelism": {"tp": 8}, "limits": SHORT},
        BART.model_copy(update={"encoder": Stack(num_attention_heads=12)}), spared_model=BART,
        expected="tp may be 1, 2, 4",
    ),
    Rule(
        "pp_layers", "/parallelism/pp", {"parallelism": {"pp": 4}, "limits": SHORT}, T5,
        spared={"parallelism": {"pp": 6}}, expected="pp may be 1, 2, 3, 6",
    ),
    Rule(
        "volume", "/limits/max_batch_size", {"limits": SHORT | {"max_batch_size": 1024}}, BART,
        spared={"limits": SHORT | {"max_batch_size": 1023}}, expected="< 1024, or a shorter max_input_len",
    ),
    Rule(
        "volume", "/limits/max_output_len", {"limits": SHORT | {"max_output_len": 12_000}}, T5,
        spared={"options": {"use_implicit_relative_attention": True}},
    ),
    Rule(
        "quantization", "/precision/quantization", quantised("int8_wo", calibrated=False, limits=SHORT), T5,
        spared=quantised(None, calibrated=False), expected="null",
    ),
    Rule(
        "pp_reduce_scatter", "/options/pp_reduce_scatter", {"options": {"pp_reduce_scatter": "enable"}},
        spared_model=MIXTRAL,
    ),
]  # fmt: skip

# Several at once: Eagle has no conversion of its heads, which is said too.
EAGLE = {"max_draft_len": 300, "speculative_decoding_mode": "eagle"}


def asked(parts: Parts, version: str = "1.2.1") -> BuildSpec:
    return spec(version, **parts)


def refused(parts: Parts, model: ModelFacts, machine: Platform, version: str) -> list[Problem]:
    normal, _ = TOOLCHAIN.normalise(asked(parts, version), model, machine)
    found = list(TOOLCHAIN.preflight(normal, model, machine))
    assert codes(found) <= rules().keys() | OF_ONE_OPTION, "every finding is documented"
    return found


def codes(problems: list[Problem]) -> set[str]:
    return {problem.code for problem in problems}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.pointer.rpartition('/')[2]}")
def test_rule_fires(case: Rule) -> None:
    found = refused(case.parts, case.model, case.machine, case.version)
    (problem,) = [problem for problem in found if problem.code not in case.also]
    assert {other.code for other in found} == {case.name, *case.also}
    assert (problem.code, problem.pointer) == (case.name, case.pointer)
    assert case.expected is None or problem.expected == case.expected
    assert problem.value is not None or case.name in ("remote_code", "option_missing", "calibration_missing")
    assert problem.expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.pointer.rpartition('/')[2]}")
def test_rule_spares(case: Rule) -> None:
    model, machine = case.spared_model or case.model, case.spared_machine or case.machine
    assert refused(case.parts | case.spared, model, machine, case.version) == []


@pytest.mark.parametrize("case", [case for case in CASES if case.not_in], ids=lambda case: case.name)
def test_rule_is_of_its_releases(case: Rule) -> None:
    assert case.not_in is not None
    assert case.name not in codes(refused(case.parts, case.model, case.machine, case.not_in))


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("Grok1ModelForCausalLM", "reads the JAX checkpoint of xAI"),
        ("M2M100ForConditionalGeneration", "learned positions"),
        ("WhisperForConditionalGeneration", "a pickle"),
        ("DeepseekV3ForCausalLM", "in this farm"),
    ],
)
def test_a_model_without_a_conversion_is_told_why(architecture: str, why: str) -> None:
    (problem,) = refused({}, facts(architecture=architecture), H100, "1.2.1")
    assert why in problem.detail


def test_eagle_is_bounded() -> None:
    found = refused({"options": EAGLE, "limits": {"max_batch_size": 513}}, FACTS, H100, "1.2.1")
    assert {problem.pointer for problem in found if problem.code == "eagle"} == {
        "/limits/max_batch_size", "/options/max_draft_len",
    }  # fmt: skip
    calm = {"options": EAGLE | {"max_draft_len": 8}, "limits": {"max_batch_size": 8}}
    assert codes(refused(calm, FACTS, H100, "1.2.1")) == {"draft_heads"}


@pytest.mark.parametrize(
    ("name", "parts", "model", "version", "code"),
    [
        ("model_class", {"options": {"model_cls_file": "x.py"}}, FACTS, "1.2.1", "reserved_option"),
        ("build_config_wins", {"options": {"build_config": "x.json"}}, FACTS, "1.2.1", "reserved_option"),
        ("auto_parallel", {"options": {"auto_parallel": 2}}, FACTS, "1.0.0", "reserved_option"),
        ("gemma_pp", {"parallelism": {"pp": 2}}, facts(architecture="GemmaForCausalLM"), "1.2.1", "no_pp"),
        ("quantize_moe_ep", quantised("fp8", options={"moe_ep_size": 2}), MIXTRAL, "1.2.1", "unknown_option"),
    ],
)
def test_what_no_option_or_conversion_is_there_for(
    name: str, parts: Parts, model: ModelFacts, version: str, code: str
) -> None:
    assert rules()[name].enforced_at == "option"
    assert codes(refused(parts, model, H100, version)) == {code}


@pytest.mark.parametrize("limits", [{"max_input_len": 64, "max_seq_len": 32}, {"max_input_len": 64, "max_seq_len": 64}])
def test_a_spec_cannot_say_less_in_all_than_its_input(limits: dict[str, int]) -> None:
    assert rules()["input_gt_seq"].enforced_at == "spec"
    with pytest.raises(InvalidSpec, match="leaves no room"):
        spec(limits=limits)


def test_a_spec_always_has_a_total_length() -> None:
    assert rules()["seq_default"].enforced_at == "spec"
    assert spec(limits={}).limits.max_seq_len == 2048


def test_every_rule_that_refuses_has_its_case() -> None:
    refusing = {rule.id for rule in rules().values() if rule.effect == "error" and rule.enforced_at == "submit"}
    assert refusing == {case.name for case in CASES} | {"eagle"}


@pytest.mark.parametrize(
    ("parts", "model", "machine"),
    [
        ({}, FACTS, H100),
        ({"precision": {"dtype": "float16"}}, FACTS, platform(sm="75")),
        ({"parallelism": {"tp": 16}}, FACTS, H100),  # 8 kv heads, each twice
        ({"parallelism": {"tp": 4}, "options": {"moe_ep_size": 4}}, MIXTRAL, H100),
        ({}, FACTS, platform(sm="100a")),
        ({}, facts(num_attention_heads=None, num_key_value_heads=None, num_hidden_layers=None), H100),
        (quantised("fp8", "fp8"), FACTS, H100),
        (quantised("nvfp4", "fp8"), FACTS, B200),
        (quantised("int4_awq"), FACTS, A100),
    ],
)
def test_what_is_possible_is_let_through(parts: Parts, model: ModelFacts, machine: Platform) -> None:
    assert refused(parts, model, machine, "1.2.1") == []


def test_all_that_is_wrong_at_once() -> None:
    wrong = {
        "precision": {"dtype": "bfloat16", "quantization": "int3"},
        "parallelism": {"tp": 5, "pp": 7},
        "options": {"no_such": 1, "streamingllm": "enable"},
    }
    assert codes(refused(wrong, facts(remote_code=True), platform(sm="75"), "1.2.1")) == {
        *("remote_code", "quantization", "bf16_sm", "heads_tp", "kv_heads_tp", "pp_layers"),
        *("unknown_option", "streamingllm"),
    }


@pytest.mark.parametrize("version", ["0.8.0", "0.9.0", "0.16.0", "0.20.0", "1.2.1", "1.3.0rc20"])
def test_the_seed_is_possible_in_every_release(version: str) -> None:
    assert refused({}, facts(architecture=LLAMA), H100, version) == []
