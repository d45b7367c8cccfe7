"""What a stage takes of a machine, estimated from the model and the limits.

Measured cases that the constants stand for: a 49B model at tp 2 took 133 GB of host memory and 12 GB in children
(NVIDIA/TensorRT-LLM#4375); an 8B one 40 GB; calibrating a 70B one to FP8 about 210 GB of GPU memory (its docs,
workflow.md); 7B in 16 bits 14.5 GB of weights and 3 GB of activations on the GPU (#1397).
"""

from __future__ import annotations

from collections.abc import Mapping

from enginefarm.contract.spec import Limits
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.toolchain import Needs
from toolchains.trtllm.context.conversion import conversion_of
from toolchains.trtllm.releases.engine_part import is_encoder_decoder, relative_bias_elements
from toolchains.trtllm.releases.precision_recipe import quantization_of

_GIB = 1 << 30
_LIBRARIES = 3 * _GIB  # of the host: kernels of the builder and Python's own
_CONTEXT = _GIB // 2  # of a GPU: CUDA's own
_HOST_PER_SHARD = 2.7  # the builder holds the weights of a rank more than once
_CALIBRATION = 1.5  # of the weights, on all GPUs together
_COPIES_ON_DISK = 3  # source, result, and what is being written or uploaded
_LOGIT = 4  # bytes

_BITS: Mapping[str, float] = {
    **dict.fromkeys(("int8_wo", "int8_sq", "int8_gptq", "fp8", "fp8_rowwise"), 8),
    "int4_wo": 4,
    **dict.fromkeys(("int4_awq", "int4_gptq", "w4a8_awq"), 4.25),  # with a scale for each group
    "nvfp4": 4.5,
    "auto_quantize": 8,
}
_DTYPE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}


def needs(job: Job) -> Needs:
    return _convert(job) if job.stage is Stage.CONVERT else _build(job)


def _convert(job: Job) -> Needs:
    """The whole model is loaded, and one rank at a time is written, unless it is loaded shard by shard."""
    weights, shard = job.facts.weight_bytes, _shard(job)
    loaded = 0 if job.spec.options.get("load_by_shard") else weights
    if is_encoder_decoder(job.facts.architecture):  # each half is made from a converted copy of the whole
        loaded += 2 * _checkpoint(job)
    made = conversion_of(job)
    calibrates = made is not None and made.calibrates
    return Needs(
        host_memory=_LIBRARIES + loaded + shard,
        gpu_memory=_CONTEXT if calibrates else 0,
        gpu_memory_in_all=round(_CALIBRATION * weights) if calibrates else 0,
        scratch=_COPIES_ON_DISK * weights
        + _repeated(job)
        + (_checkpoint(job) if made is not None and made.base else 0),
    )


def _build(job: Job) -> Needs:
    """Of one rank at a time: with more GPUs more ranks are built side by side, and then more is there, too."""
    shard = _shard(job)
    on_gpu = 0 if job.spec.options.get("weight_streaming") else shard
    return Needs(
        host_memory=_LIBRARIES + round(_HOST_PER_SHARD * shard),
        gpu_memory=_CONTEXT + on_gpu + _activations(job),
        gpu_memory_in_all=0,
        scratch=_COPIES_ON_DISK * _checkpoint(job),
    )


def _checkpoint(job: Job) -> int:
    """Bytes of the converted weights of all ranks, and of both halves if there are two: an upper bound for each."""
    facts, precision = job.facts, job.spec.precision
    if quantization_of(facts):
        return facts.weight_bytes
    before = _DTYPE_BITS.get(facts.dtype or "", 16)
    after = _BITS.get(precision.quantization or "", _DTYPE_BITS.get(precision.dtype, 16))
    return round(facts.weight_bytes * after / before) + _repeated(job)


def _repeated(job: Job) -> int:
    """An encoder-decoder may store its embeddings once; encoder, decoder and the decoder's head each get them whole."""
    facts = job.facts
    if not is_encoder_decoder(facts.architecture):
        return 0
    return 2 * (facts.vocab_size or 0) * (facts.hidden_size or 0) * _element(job)


def _shard(job: Job) -> int:
    return -(-_checkpoint(job) // (job.spec.parallelism.tp * job.spec.parallelism.pp))


def _activations(job: Job) -> int:
    """Of the widest layer at once, for every token in flight, and the logits."""
    facts, limits, tp = job.facts, job.spec.limits, job.spec.parallelism.tp
    tokens, hidden = _tokens(job), facts.hidden_size or 0
    wide = 4 * hidden + 3 * (facts.intermediate_size or 4 * hidden) // tp
    answered = tokens if job.spec.options.get("gather_context_logits") else _sequences(limits)
    held = tokens * wide + relative_bias_elements(facts, job.spec)
    return held * _element(job) + answered * (facts.vocab_size or 0) * _LOGIT


def _tokens(job: Job) -> int:
    """Both engines of an encoder-decoder take every input at its full length, whatever max_num_tokens says."""
    limits = job.spec.limits
    every = limits.max_batch_size * limits.max_input_len
    return every if is_encoder_decoder(job.facts.architecture) else limits.max_num_tokens or every


def _element(job: Job) -> int:
    return _DTYPE_BITS.get(job.spec.precision.dtype, 16) // 8


def _sequences(limits: Limits) -> int:
    return limits.max_batch_size * limits.max_beam_width
