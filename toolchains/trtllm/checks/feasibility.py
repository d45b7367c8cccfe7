"""Check that a program of the release is proven to make the checkpoint: precision, ranks, calibration, draft heads."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import Version

from enginefarm.contract.errors import Problem
from enginefarm.contract.spec import Precision
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.conversion import find_conversion
from toolchains.trtllm.releases.draft_heads import available_modes
from toolchains.trtllm.releases.precision_recipe import quantization_name, quantization_of
from toolchains.trtllm.releases.release import all_releases

_PARALLELISM_NAMES = {"tp": "tensor", "pp": "pipeline", "cp": "context"}
_MODES_WITH_HEADS = ("medusa", "explicit_draft_tokens", "eagle")


def quantized_model(context: BuildContext) -> Iterator[Problem]:
    """Weights that are quantized already and that no recipe of the release takes, or not in the spec's precision."""
    script = context.release.script_for(context.facts.architecture)
    model_quantization = quantization_of(context.facts)
    if script is None or context.conversion is not None or model_quantization is None:
        return  # `checks.models.model` reports a model without a script
    remedy = "give the unquantized model, or leave precision.quantization and precision.kv_cache out"
    first_release = _first_release_for(context)
    if first_release and Version(context.release.version) < Version(first_release):
        remedy = f"build with {first_release} or newer, or give the unquantized model"
    reason = "that would override the spec's precision"
    if model_quantization.method == "gptq" and model_quantization.bits != 4:
        # update_quant_config_from_hf of examples/models/core/llama/convert_checkpoint.py @368f8f2a.
        reason = "the scripts take every GPTQ model for one of 4 bits"
    yield Problem(
        pointer="/model",
        code="quantized_model",
        detail=f"the model is quantized already ({model_quantization.described}), and {reason}",
        value=model_quantization.method,
        expected="a model in float32, float16 or bfloat16, or one quantized as this release and family take it",
        remedy=remedy,
    )


def _first_release_for(context: BuildContext) -> str | None:
    """The first release that is proven to convert the model with the quantization that it has; None if none is."""
    architecture, model_quantization = context.facts.architecture, quantization_of(context.facts)
    if model_quantization is None:
        return None
    precision = Precision(quantization=quantization_name(model_quantization))
    for release in reversed(all_releases()):
        if find_conversion(release, architecture, precision, model_quantization):
            return release.version
    return None


def precision(context: BuildContext) -> Iterator[Problem]:
    """Name the field whose value is impossible even without the other; `kv_cache` if only both together are."""
    script = context.release.script_for(context.facts.architecture)
    if script is None or context.conversion is not None:
        return
    # The scripts follow quantization_config whatever their flags are: then the model is the cause, not the spec.
    if quantization_of(context.facts):
        return
    requested = context.spec.precision
    impossible = []
    if requested.quantization is not None and not is_possible(context, kv_cache=None):
        impossible.append("quantization")
    if requested.kv_cache is not None and not is_possible(context, quantization=None):
        impossible.append("kv_cache")
    for field in impossible or ["kv_cache"]:
        value, architecture = getattr(requested, field), context.facts.architecture
        detail = (
            f"no conversion of {architecture} to {field} {value} is proven for TensorRT-LLM {context.release.version}"
        )
        if context.family and context.family.unquantized_reason:
            detail += f": {context.family.unquantized_reason}"
        elif context.family and context.family.script_only_reason:
            detail += f": {context.family.script_only_reason}"
        # `checks.precisions.legal_values` adds what would be possible.
        yield Problem(pointer=f"/precision/{field}", code=field, detail=detail, value=value)


def is_possible(context: BuildContext, **changed_fields: str | None) -> bool:
    """True if the release makes the spec's precision with these fields changed."""
    changed = context.spec.precision.model_copy(update=changed_fields)
    model_quantization = quantization_of(context.facts)
    conversion = find_conversion(
        context.release, context.facts.architecture, changed, model_quantization, context.draft_mode
    )
    return conversion is not None


def parallelism(context: BuildContext) -> Iterator[Problem]:
    # A program without an option for a kind of parallelism makes one rank of it, whatever the spec asks for.
    if context.conversion is None:
        return
    for role in context.conversion.unsupported(context.parallelism):
        yield Problem(
            pointer=f"/parallelism/{role}",
            code=f"no_{role}",
            detail=f"the conversion of {context.facts.architecture} in TensorRT-LLM {context.release.version} "
            f"is not known to have {_PARALLELISM_NAMES[role]} parallelism",
            value=getattr(context.parallelism, role),
            expected="1",
        )


def required_options(context: BuildContext) -> Iterator[Problem]:
    """Options whose defaults mean nothing for this model or precision."""
    conversion = context.conversion
    # `checks.models.model` reports a model that no value of this release names.
    if conversion is None or context.later_model is not None:
        return
    for name in conversion.all_required_options:
        if context.option_value(name) is None:
            option = conversion.all_options[name]
            yield Problem(
                pointer=f"/options/{name}",
                code="option_missing",
                detail=f"this conversion needs {name}: {option.about}",
                expected=option.expected.removesuffix(" or null"),
                remedy="add the option",
            )


def calibration(context: BuildContext) -> Iterator[Problem]:
    if context.conversion is None:
        return
    calibrates = context.conversion.calibrates
    if calibrates and context.spec.calibration is None:
        yield Problem(
            pointer="/calibration",
            code="calibration_missing",
            detail="this precision is calibrated on data, and a worker downloads none by itself",
            expected="a data set, as in file:/data/cnn_dailymail or hf:org/news@main",
            remedy="add calibration",
        )
    # Our rule: unused data would enter the key and change nothing.
    elif context.spec.calibration is not None and not calibrates:
        yield Problem(
            pointer="/calibration",
            code="calibration_unused",
            detail="nothing is calibrated for this precision",
            value=context.spec.calibration,
            expected="null",
            remedy="leave it out",
        )


def draft_heads(context: BuildContext) -> Iterator[Problem]:
    """A mode whose engines draft by heads needs a checkpoint that has them, and such a checkpoint needs its mode."""
    architecture, version = context.facts.architecture, context.release.version
    if context.release.script_for(architecture) is None:
        return  # `checks.models.model` reports it
    mode = context.option_value("speculative_decoding_mode")
    needs_no_heads = context.draft_mode is None and mode not in _MODES_WITH_HEADS
    if mode == context.draft_mode or needs_no_heads:
        return
    available = available_modes(context.release, architecture).get(str(mode))
    if context.draft_mode is not None:
        detail = f"the checkpoint would have draft heads for {context.draft_mode}"
        expected = context.draft_mode
    elif available:
        heads, _ = available
        detail = f"{mode} needs a checkpoint with draft heads, which its conversion takes from a second model"
        expected = f"{heads.model_option} beside it, or another mode"
    else:
        detail = (
            f"{mode} needs a checkpoint with draft heads, and no conversion of {architecture} to one is "
            f"known to the farm for TensorRT-LLM {version}"
        )
        expected = "draft_tokens_external, or lookahead_decoding where the release has it"
    yield Problem(
        pointer="/options/speculative_decoding_mode",
        code="draft_heads",
        detail=detail,
        value=mode,
        expected=expected,
    )


CHECKS: tuple[Check, ...] = (quantized_model, precision, parallelism, required_options, calibration, draft_heads)
