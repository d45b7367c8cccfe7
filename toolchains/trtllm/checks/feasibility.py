"""What no program of the release is proven to make: precisions, ranks, draft heads, and calibration without data."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.conversion import Conversion, conversion
from toolchains.trtllm.releases.draft_heads import available_modes
from toolchains.trtllm.releases.precision_recipe import PrecisionRecipe, precision_recipes, quantization_of

_WORDS = {"tp": "tensor", "pp": "pipeline", "cp": "context"}
_WITH_HEADS = ("medusa", "explicit_draft_tokens", "eagle")


def problems(context: BuildContext) -> Iterator[Problem]:
    if context.release.script_for(context.facts.architecture) is None:
        return  # said elsewhere
    if context.conversion is None:
        yield from _no_way(context)
    else:
        yield from _missing_ranks(context, context.conversion)
        yield from _missing_values(context, context.conversion)
        yield from _calibration(context, context.conversion)
    yield from _draft_heads(context)


def _no_way(context: BuildContext) -> Iterator[Problem]:
    if found := quantization_of(context.facts):
        yield _quantized_model(context, *found)
        return
    precision = context.spec.precision
    alone = [
        field
        for field, other in (("quantization", "kv_cache"), ("kv_cache", "quantization"))
        if getattr(precision, field) is not None and not _is_possible(context, **{other: None})
    ]
    for field in alone or ["kv_cache"]:
        yield _precision(context, field)


def _quantized_model(context: BuildContext, method: str, bits: int | None) -> Problem:
    return Problem(
        pointer="/model",
        code="quantized_model",
        detail=f"the model is quantised already ({method}{f', {bits} bits' if bits else ''}), "
        "and that would override what the spec says",
        value=method,
        expected="a model in float32, float16 or bfloat16, or one quantised as this release and family take it",
        remedy="give the unquantised model, or leave precision.quantization and precision.kv_cache out",
    )


def _precision(context: BuildContext, field: str) -> Problem:
    given, release = getattr(context.spec.precision, field), context.release.version
    known: dict[str, tuple[PrecisionRecipe, ...]] = getattr(precision_recipes(), field)
    why = f"no conversion of {context.facts.architecture} to {field} {given} is proven for TensorRT-LLM {release}"
    possible = [name for name in (None, *known) if _is_possible(context, **{field: name})]
    found = context.release.family(context.facts.architecture)
    if found and found.unquantized_reason:
        why += f": {found.unquantized_reason}"
        possible = [None]
    elif any(_lacks_only_data(context, recipe) for recipe in known.get(given, ())):
        why += ": its program fetches calibration data by a name of its own, and a worker fetches nothing"
    return Problem(
        pointer=f"/precision/{field}",
        code=field,
        detail=why,
        value=given,
        expected=", ".join(name or "null" for name in possible),
    )


def _lacks_only_data(context: BuildContext, recipe: PrecisionRecipe) -> bool:
    script = (
        context.release.quantize
        if recipe.program == "quantize"
        else context.release.script_for(context.facts.architecture)
    )
    assert script, "said elsewhere"
    calm = recipe.model_copy(update={"calibrates": False})
    return recipe.calibrates and calm.is_open(context.release.version, script.options, quantization_of(context.facts))


def _is_possible(context: BuildContext, **change: str | None) -> bool:
    precision = context.spec.precision.model_copy(update=change)
    return (
        conversion(
            context.release, context.facts.architecture, precision, quantization_of(context.facts), context.draft_mode
        )
        is not None
    )


def _missing_ranks(context: BuildContext, made: Conversion) -> Iterator[Problem]:
    """A program that has no option for a kind of parallelism makes one rank of it."""
    for role in made.unsupported(context.parallelism):
        yield Problem(
            pointer=f"/parallelism/{role}",
            code=f"no_{role}",
            detail=f"the conversion of {context.facts.architecture} in TensorRT-LLM {context.release.version} "
            f"is not known to have {_WORDS[role]} parallelism",
            value=getattr(context.parallelism, role),
            expected="1",
        )


def _missing_values(context: BuildContext, made: Conversion) -> Iterator[Problem]:
    for name in made.all_asks:
        if context.option_value(name) is None:
            yield Problem(
                pointer=f"/options/{name}",
                code="option_missing",
                detail=f"this conversion needs {name}: {made.all_options[name].about}",
                expected=made.all_options[name].expected.removesuffix(" or null"),
                remedy="add the option",
            )


def _calibration(context: BuildContext, made: Conversion) -> Iterator[Problem]:
    if made.calibrates and context.spec.calibration is None:
        yield Problem(
            pointer="/calibration",
            code="calibration_missing",
            detail="this precision is calibrated on data, and a worker fetches none by itself",
            expected="a data set, as in file:/data/cnn_dailymail or hf:org/news@main",
            remedy="add calibration",
        )
    elif context.spec.calibration is not None and not made.calibrates:
        yield Problem(
            pointer="/calibration",
            code="calibration_unused",
            detail="nothing is calibrated for this precision",
            value=context.spec.calibration,
            expected="null",
            remedy="leave it out",
        )


def _draft_heads(context: BuildContext) -> Iterator[Problem]:
    """A mode whose engines draft by heads goes with a checkpoint that has them, and the other recipe round."""
    mode = context.option_value("speculative_decoding_mode")
    if mode == context.draft_mode or (context.draft_mode is None and mode not in _WITH_HEADS):
        return
    known = available_modes(context.release, context.facts.architecture)
    if context.draft_mode is not None:
        detail, expected = f"the checkpoint would have draft heads for {context.draft_mode}", context.draft_mode
    elif found := known.get(str(mode)):
        option = found[0].model_option
        detail = f"{mode} needs a checkpoint with draft heads, which its conversion takes from a second model"
        expected = f"{option} beside it, or another mode"
    else:
        detail = (
            f"{mode} needs a checkpoint with draft heads, and no conversion of {context.facts.architecture} to one is "
            f"known to the farm for TensorRT-LLM {context.release.version}"
        )
        expected = "draft_tokens_external, or lookahead_decoding where the release has it"
    yield Problem(
        pointer="/options/speculative_decoding_mode",
        code="draft_heads",
        detail=detail,
        value=mode,
        expected=expected,
    )
