"""Estimate the memory and disk of a stage from the model and the limits.

Measurements behind the constants: a 49B model at tp 2 took 133 GB of host memory and 12 GB in child processes
(NVIDIA/TensorRT-LLM#4375); an 8B model 40 GB; calibrating a 70B model to FP8 about 210 GB of GPU memory (its docs,
workflow.md); a 7B model in 16 bits 14.5 GB of weights and 3 GB of activations on the GPU (#1397).
"""

from __future__ import annotations

from collections.abc import Mapping

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.toolchain import Needs
from toolchains.trtllm.context.conversion import conversion_of
from toolchains.trtllm.releases.engine_part import is_encoder_decoder, relative_bias_elements
from toolchains.trtllm.releases.model_family import find_family
from toolchains.trtllm.releases.precision_recipe import may_be_laid_out_for_sm, quantization_of

_GIB = 1 << 30
_LIBRARIES = 3 * _GIB  # host memory of the builder's kernels and of Python
_CUDA_CONTEXT = _GIB // 2  # memory of one GPU
_HOST_PER_SHARD = 2.7  # the builder loads the weights of a rank more than once
_CALIBRATION = 1.5  # GPU memory of calibration, on all GPUs together, in multiples of the weights
_COPIES_ON_DISK = 3  # source, result, and the file that is being written or uploaded
_LOGIT_BYTES = 4

_QUANTIZED_BITS: Mapping[str, float] = {
    **dict.fromkeys(("int8_wo", "int8_sq", "fp8", "fp8_rowwise", "fp8_pc_pt"), 8),
    "int4_wo": 4,
    **dict.fromkeys(
        ("int4_awq", "int4_gptq", "w4a8_awq", "w4a8_qserve"), 4.25
    ),  # with a scale for each group of weights
    "nvfp4": 4.5,
    "auto_quantize": 8,
}
_DTYPE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}


def needs(job: Job) -> Needs:
    """The memory and disk of a stage, in bytes."""
    if job.stage is Stage.CONVERT:
        return convert_needs(job)
    return build_needs(job)


def convert_needs(job: Job) -> Needs:
    """A script loads the whole model and writes one rank at a time, unless it is told to load shard by shard."""
    weights = job.facts.weight_bytes
    checkpoint = checkpoint_bytes(job)
    host_memory = _LIBRARIES + _bytes_of_rank(job)
    if not job.spec.options.get("load_by_shard"):
        host_memory += weights
    # Encoder and decoder are each made from a converted copy of the whole model.
    if is_encoder_decoder(job.facts.architecture):
        host_memory += 2 * checkpoint

    gpu_memory = 0
    gpu_memory_in_all = 0
    scratch = _COPIES_ON_DISK * weights + _repeated_embeddings(job)
    conversion = conversion_of(job)
    if conversion is not None:
        same_sm = conversion.needs_same_sm
    else:
        same_sm = may_be_laid_out_for_sm(job.spec.precision.quantization, calibrated=job.spec.calibration is not None)
    # Weights are laid out one matrix at a time; the program asks the GPU for its SM.
    if same_sm:
        gpu_memory = _CUDA_CONTEXT
    if conversion is not None and conversion.calibrates:
        gpu_memory = _CUDA_CONTEXT
        gpu_memory_in_all = round(_CALIBRATION * weights)
    # The weights are rewritten twice for the script of Whisper, and the first copy is deleted after the second one.
    # Weights of another program are as large as the model's, and are written anew.
    family = find_family(job.facts.architecture)
    is_openai_file = family is not None and family.reads_openai_file
    if is_openai_file or (conversion is not None and conversion.loads_pickles):
        scratch += 2 * weights
    # The checkpoint has a copy of the model, from which the engine of the images is made.
    if family is not None and family.vision is not None:
        scratch += weights
    # Draft heads may be added to a checkpoint of the base model, which is written first.
    if conversion is not None and conversion.base:
        scratch += checkpoint
    return Needs(
        host_memory=host_memory,
        gpu_memory=gpu_memory,
        gpu_memory_in_all=gpu_memory_in_all,
        scratch=scratch,
        same_sm=same_sm,
    )


def build_needs(job: Job) -> Needs:
    """The needs of one rank. A machine with more GPUs builds more ranks at once, but has more memory too."""
    shard = _bytes_of_rank(job)
    gpu_memory = _CUDA_CONTEXT + activation_bytes(job)
    # With weight streaming the weights stay in host memory.
    if not job.spec.options.get("weight_streaming"):
        gpu_memory += shard
    host_memory = _LIBRARIES + round(_HOST_PER_SHARD * shard)
    scratch = _COPIES_ON_DISK * checkpoint_bytes(job)
    family = find_family(job.facts.architecture)
    # One program loads the whole model to make the engine of its images.
    if family is not None and family.vision is not None:
        host_memory = max(host_memory, _LIBRARIES + job.facts.weight_bytes)
        scratch += job.facts.weight_bytes
    return Needs(host_memory=host_memory, gpu_memory=gpu_memory, gpu_memory_in_all=0, scratch=scratch)


def checkpoint_bytes(job: Job) -> int:
    """Upper bound of the checkpoint's size: the converted weights of all ranks, of encoder and decoder together."""
    facts = job.facts
    precision = job.spec.precision
    # A model that is quantized already keeps its weights.
    if quantization_of(facts):
        return facts.weight_bytes
    bits_before = _DTYPE_BITS.get(facts.dtype or "", 16)
    bits_after = _QUANTIZED_BITS.get(precision.quantization or "", _DTYPE_BITS.get(precision.dtype, 16))
    return round(facts.weight_bytes * bits_after / bits_before) + _repeated_embeddings(job)


def _repeated_embeddings(job: Job) -> int:
    """Bytes of embeddings that a model stores once, but encoder, decoder and the decoder's head each get."""
    facts = job.facts
    if not is_encoder_decoder(facts.architecture):
        return 0
    return 2 * (facts.vocab_size or 0) * (facts.hidden_size or 0) * _element_bytes(job)


def _bytes_of_rank(job: Job) -> int:
    """Bytes of one rank's weights, rounded up."""
    ranks = job.spec.parallelism.tp * job.spec.parallelism.pp
    return -(-checkpoint_bytes(job) // ranks)


def activation_bytes(job: Job) -> int:
    """GPU memory in bytes for the widest layer, for every token in flight, and for the logits."""
    facts = job.facts
    limits = job.spec.limits
    # Both engines of an encoder-decoder take every input at its full length, whatever max_num_tokens says.
    tokens = limits.max_batch_size * limits.max_input_len
    if limits.max_num_tokens and not is_encoder_decoder(facts.architecture):
        tokens = limits.max_num_tokens

    hidden = facts.hidden_size or 0
    width = 4 * hidden + 3 * (facts.intermediate_size or 4 * hidden) // job.spec.parallelism.tp
    elements = tokens * width + relative_bias_elements(facts, job.spec)

    # An engine computes logits for the last token of each sequence, or on request for all tokens.
    logit_rows = limits.max_batch_size * limits.max_beam_width
    if job.spec.options.get("gather_context_logits"):
        logit_rows = tokens
    return elements * _element_bytes(job) + logit_rows * (facts.vocab_size or 0) * _LOGIT_BYTES


def _element_bytes(job: Job) -> int:
    return _DTYPE_BITS.get(job.spec.precision.dtype, 16) // 8
