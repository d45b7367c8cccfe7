"""What makes a build impossible, known before a GPU is taken. Each rule is named as in `data/rules.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from enginefarm.errors import Problem
from toolchains.trtllm.case import Case
from toolchains.trtllm.rewrites import expert_sizes

Rule = Callable[[Case], Iterator[Problem]]

_BF16_SM = 80
_TENSOR_ELEMENTS = 1 << 31
_NARROWEST = 128  # elements a token has at least, so that tokens beyond a spec's own bound never pass
_SM100_REFUSED = (
    "gemm_swiglu_plugin",
    "fp8_rowwise_gemm_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
    "bert_context_fmha_fp32_acc",
)


def architecture(case: Case) -> Iterator[Problem]:
    if case.release.script_for(case.facts.architecture) is None:
        yield Problem(
            pointer="/model",
            code="architecture",
            detail=f"TensorRT-LLM {case.release.version} has no conversion for {case.facts.architecture} in this farm",
            value=case.facts.architecture,
            expected=", ".join(case.release.architectures),
        )


def remote_code(case: Case) -> Iterator[Problem]:
    if case.facts.remote_code and not case.facts.trusted:
        yield Problem(
            pointer="/model",
            code="remote_code",
            detail="the model brings Python code of its own, and the conversion would run it",
            expected="a model that transformers loads without remote code, or one that an administrator trusts",
        )


def precision(case: Case) -> Iterator[Problem]:
    if case.dtype == "auto":
        yield Problem(
            pointer="/precision/dtype",
            code="dtype_unknown",
            detail="the model's config.json names no dtype",
            value="auto",
            expected="bfloat16, float16 or float32",
        )


def gpu(case: Case) -> Iterator[Problem]:
    if case.platform.gpu is None:
        yield Problem(
            pointer="/platform",
            code="needs_gpu",
            detail="TensorRT-LLM builds engines for GPUs, and this platform has none",
            value=case.platform.label(),
            expected="a platform with gpu and sm",
        )
    elif case.dtype == "bfloat16" and case.sm < _BF16_SM:
        yield Problem(
            pointer="/precision/dtype",
            code="bf16_sm",
            detail=f"SM {case.platform.sm} has no bfloat16; it needs SM {_BF16_SM} or newer",
            value="bfloat16",
            expected="float16 or float32",
        )


def heads(case: Case) -> Iterator[Problem]:
    count, kv_count, tp = case.facts.num_attention_heads, case.facts.num_key_value_heads, case.parallelism.tp
    if count and count % tp:
        detail = f"{count} attention heads cannot be divided among {tp} ranks"
        yield _tensor_parallel(case, "heads_tp", detail)
    if kv_count and kv_count % tp and tp % kv_count:
        detail = f"{kv_count} key/value heads can be neither divided among nor duplicated over {tp} ranks"
        yield _tensor_parallel(case, "kv_heads_tp", detail)


def _tensor_parallel(case: Case, code: str, detail: str) -> Problem:
    heads, kv = case.facts.num_attention_heads or 0, case.facts.num_key_value_heads or 1
    legal = [tp for tp in _divisors(heads) if kv % tp == 0 or tp % kv == 0]
    expected = f"tp may be {', '.join(map(str, legal))}" if legal else None
    return Problem(pointer="/parallelism/tp", code=code, detail=detail, value=case.parallelism.tp, expected=expected)


def layers(case: Case) -> Iterator[Problem]:
    count, pp = case.facts.num_hidden_layers, case.parallelism.pp
    if count and count % pp:
        yield Problem(
            pointer="/parallelism/pp",
            code="pp_layers",
            detail=f"{count} layers do not divide into {pp} stages, and the release would lose the rest silently",
            value=pp,
            expected=f"pp may be {', '.join(map(str, _divisors(count)))}",
        )


def experts(case: Case) -> Iterator[Problem]:
    sizes, tp = expert_sizes(case), case.parallelism.tp
    if sizes is None:
        given = [case.option("moe_tp_size"), case.option("moe_ep_size")]
        expected = f"moe_tp_size × moe_ep_size = {tp}, or -1 for what follows from the other"
        detail = f"moe_tp_size {given[0]} × moe_ep_size {given[1]} is not tp {tp}"
        yield _expert_parallel("moe_tp_ep", detail, given, expected)
        return
    count, size = case.facts.num_experts, sizes[1]
    if count and count % size:
        detail = f"{count} experts do not divide into {size} ranks, and the release would lose the rest silently"
        yield _expert_parallel("experts_ep", detail, size, f"a divisor of {count}")
    if case.parallelism.cp > 1 and size > 1:
        detail = f"expert parallelism ({size}) and context parallelism ({case.parallelism.cp}) exclude each other"
        yield _expert_parallel("cp_moe", detail, size, "moe_ep_size 1, or cp 1")


def _expert_parallel(code: str, detail: str, value: object, expected: str) -> Problem:
    return Problem(pointer="/options/moe_ep_size", code=code, detail=detail, value=value, expected=expected)


def volume(case: Case) -> Iterator[Problem]:
    tokens = case.limits.max_num_tokens or 0
    width = max(case.facts.hidden_size or 0, case.facts.intermediate_size or 0, _NARROWEST)
    if tokens * width >= _TENSOR_ELEMENTS:
        yield Problem(
            pointer="/limits/max_num_tokens",
            code="volume",
            detail=f"{tokens} tokens × {width} elements is more than TensorRT's 2^31 elements a tensor",
            value=tokens,
            expected=f"< {-(-_TENSOR_ELEMENTS // width)}",
            remedy="lower max_num_tokens",
        )


def combinations(case: Case) -> Iterator[Problem]:
    if case.parallelism.cp > 1 and not case.enabled("remove_input_padding"):
        yield _option(case, "cp_packing", "remove_input_padding", "context parallelism needs packed input", "enable")
    if case.enabled("multiple_profiles") and case.limits.opt_num_tokens is not None:
        detail = "several profiles have several token counts: opt_num_tokens cannot be given with them"
        yield _option(case, "opt_profiles", "multiple_profiles", detail, "disable, or no opt_num_tokens")
    if case.option("weight_streaming") and case.option("gemm_plugin") not in (None, "disable"):
        detail = "weights cannot be streamed to the GEMM plugin"
        yield _option(case, "weight_streaming", "gemm_plugin", detail, "disable")
    if case.enabled("streamingllm"):
        yield _option(case, "streamingllm", "streamingllm", "the release refuses it", "disable")
    if case.enabled("pp_reduce_scatter") and case.facts.architecture != "MixtralForCausalLM":
        yield _option(case, "pp_reduce_scatter", "pp_reduce_scatter", "it is for Mixtral only", "disable")


def sm100(case: Case) -> Iterator[Problem]:
    if case.sm != 100:
        return
    for name in _SM100_REFUSED:
        if case.option(name) not in (None, "disable"):
            yield _option(case, "sm100_plugins", name, "the release refuses it on SM 100", "disable")


def _option(case: Case, code: str, name: str, detail: str, expected: str) -> Problem:
    return Problem(pointer=f"/options/{name}", code=code, detail=detail, value=case.option(name), expected=expected)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


RULES: tuple[Rule, ...] = (
    architecture,
    remote_code,
    precision,
    gpu,
    heads,
    layers,
    experts,
    volume,
    combinations,
    sm100,
)
