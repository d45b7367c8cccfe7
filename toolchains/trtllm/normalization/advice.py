"""Advice on a normalized spec: notes on what may be wrong or slow, which change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.positions import WHISPER_FRAMES, trained_positions
from toolchains.trtllm.releases.documented_precisions import undocumented_model
from toolchains.trtllm.releases.engine_part import engine_parts
from toolchains.trtllm.releases.precision_recipe import quantization_of
from toolchains.trtllm.releases.rule_table import in_force

_AMPERE, _BLACKWELL = 80, 100  # compute capabilities
_MANY_TOKENS = 16384  # tensorrt_llm/_common.py @0fccc5b9 warns of more


def many_tokens(context: BuildContext) -> Iterator[Problem]:
    tokens = context.limits.max_num_tokens or 0
    if context.enabled("remove_input_padding") and tokens > _MANY_TOKENS:
        yield Problem(
            pointer="/limits/max_num_tokens",
            code="tokens_large",
            detail=f"{tokens} packed tokens cost memory and rarely gain speed beyond {_MANY_TOKENS}",
            value=tokens,
        )


def long_sequences(context: BuildContext) -> Iterator[Problem]:
    positions = trained_positions(context)
    # StreamingLLM counts positions inside its window, so that they never grow beyond it.
    if positions is None or context.enabled("streamingllm"):
        return
    for part in engine_parts(context.facts.architecture):
        # Its input has other items than positions, as the frames of Whisper.
        if part.max_positions is not None:
            continue
        length = part.lengths(context.limits)["max_seq_len"]
        if length.value > positions:
            yield Problem(
                pointer=f"/limits/{length.limit}",
                code="seq_too_long",
                detail=f"the model was made for {positions} positions; tokens beyond them may be nonsense",
                value=length.value,
                expected=f"≤ {positions}",
            )


def input_length_without_effect(context: BuildContext) -> Iterator[Problem]:
    # Source: tensorrt_llm/builder.py @aaacc9bd.
    is_packed = context.enabled("remove_input_padding") and context.enabled("context_fmha")
    if is_packed and not context.is_encoder_decoder:
        yield Problem(
            pointer="/limits/max_input_len",
            code="input_ignored",
            detail="with packed input and context attention it is no limit of its own: "
            f"a prompt may be as long as max_seq_len, {context.limits.seq_len}",
            value=context.limits.max_input_len,
        )


def prompt_over_tokens(context: BuildContext) -> Iterator[Problem]:
    # Source: cpp/tensorrt_llm/batch_manager/trtGptModel.h of 2025: the longest prompt is the lesser of both limits.
    is_packed = context.enabled("remove_input_padding") and context.enabled("context_fmha")
    tokens, longest_prompt = context.limits.max_num_tokens, context.limits.max_input_len
    if not is_packed or context.is_encoder_decoder or tokens is None or longest_prompt <= tokens:
        return
    yield Problem(
        pointer="/limits/max_num_tokens",
        code="prompt_over_tokens",
        detail=f"a server without chunked context refuses prompts longer than max_num_tokens, {tokens}, although "
        f"max_input_len is {longest_prompt}",
        value=tokens,
        expected=f"≥ {longest_prompt}",
        remedy=f"set limits.max_num_tokens to {longest_prompt}, or serve with chunked context "
        "(use_paged_context_fmha enable)",
    )


def undocumented_precision(context: BuildContext) -> Iterator[Problem]:
    version = context.release.version
    documented = undocumented_model(context.facts.architecture, context.spec.precision.quantization, version)
    # The release whose documentation has the table refuses the same (`checks.precisions.precision`).
    if documented and not in_force("precision_model", version):
        yield Problem(
            pointer="/precision/quantization",
            code="precision_undocumented",
            detail=f"the documentation of 0.16 does not have it for {documented.model}; later releases may take it",
            value=context.spec.precision.quantization,
            expected=documented.expected(version),
        )


def unused_kv_cache_scales(context: BuildContext) -> Iterator[Problem]:
    model_quantization = quantization_of(context.facts)
    if model_quantization and model_quantization.kv_cache and context.spec.precision.kv_cache is None:
        yield Problem(
            pointer="/precision/kv_cache",
            code="model_kv_cache",
            detail=f"the model has scales for a KV cache in {model_quantization.kv_cache}; without it the cache takes "
            f"the model's dtype and twice the memory",
            value=None,
            expected=model_quantization.kv_cache,
        )


def no_drafts(context: BuildContext) -> Iterator[Problem]:
    # Source: tensorrt_llm/builder.py @be178810, which takes the length as it is.
    mode = context.option_value("speculative_decoding_mode")
    if mode is not None and context.number("max_draft_len") == 0:
        yield Problem(
            pointer="/options/max_draft_len",
            code="draft_len_zero",
            detail=f"{mode} with max_draft_len 0 gives an engine that takes no drafts",
            value=0,
            remedy="set max_draft_len to the longest draft, or leave speculative_decoding_mode out",
        )


def encoder_decoder_in_stages(context: BuildContext) -> Iterator[Problem]:
    # Source: examples/models/core/enc_dec/README.md @57702ebc.
    if context.is_encoder_decoder and context.parallelism.pp > 1:
        yield Problem(
            pointer="/parallelism/pp",
            code="enc_dec_pp",
            detail="only the Python runtime of the examples runs an encoder-decoder in stages; the C++ runtime, and "
            "with it Triton, does not",
            value=context.parallelism.pp,
            expected="1",
        )


def t5_in_float16(context: BuildContext) -> Iterator[Problem]:
    # Source: examples/enc_dec/README.md @14e801da.
    if context.family and context.family.relative_attention and context.dtype == "float16":
        yield Problem(
            pointer="/precision/dtype",
            code="t5_float16",
            detail="Flan-T5 is known to give wrong results in float16, whatever runs it",
            value="float16",
            expected="bfloat16 or float32",
        )


def short_audio(context: BuildContext) -> Iterator[Problem]:
    # Source: examples/models/core/whisper/README.md @2a9abd95, padding_strategy; issue #2338.
    if context.family_name == "whisper" and context.limits.max_input_len < WHISPER_FRAMES:
        yield Problem(
            pointer="/limits/max_input_len",
            code="whisper_short_input",
            detail=f"so many frames are {context.limits.max_input_len / 100:g} seconds of audio, and the runtimes "
            "pad each audio to 30 seconds unless they are told otherwise: such an input is refused",
            value=context.limits.max_input_len,
            expected=str(WHISPER_FRAMES),
        )


def whisper_on_untested_gpus(context: BuildContext) -> Iterator[Problem]:
    if context.family_name != "whisper" or context.platform.gpu is None:
        return
    detail = {
        "whisper_turing": "users' builds of the larger models crashed on Turing",
        "whisper_blackwell": "NVIDIA's own test of Whisper leaves Blackwell out",
    }
    rule = None
    if context.sm < _AMPERE:
        rule = "whisper_turing"
    elif context.sm >= _BLACKWELL:
        rule = "whisper_blackwell"
    if rule is not None:
        yield Problem(pointer="/platform/sm", code=rule, detail=detail[rule], value=context.platform.sm)


_ADVICE: tuple[Callable[[BuildContext], Iterator[Problem]], ...] = (
    many_tokens,
    long_sequences,
    input_length_without_effect,
    prompt_over_tokens,
    undocumented_precision,
    unused_kv_cache_scales,
    no_drafts,
    encoder_decoder_in_stages,
    t5_in_float16,
    short_audio,
    whisper_on_untested_gpus,
)


def find_advice(context: BuildContext) -> list[Problem]:
    """The notes whose rules are in force in the release."""
    version = context.release.version
    notes: list[Problem] = []
    for advise in _ADVICE:
        notes += [note for note in advise(context) if in_force(note.code, version)]
    return notes
