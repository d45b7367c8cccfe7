"""What no program of the release is proven to make: precisions, ranks, draft heads, and calibration without data."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import Case
from toolchains.trtllm.context.conversion import Conversion, conversion
from toolchains.trtllm.releases import draft_heads as drafting
from toolchains.trtllm.releases.precision_recipe import Way, ready, ways

_WORDS = {"tp": "tensor", "pp": "pipeline", "cp": "context"}
_WITH_HEADS = ("medusa", "explicit_draft_tokens", "eagle")


def problems(case: Case) -> Iterator[Problem]:
    if case.release.script_for(case.facts.architecture) is None:
        return  # said elsewhere
    if case.conversion is None:
        yield from _no_way(case)
    else:
        yield from _missing_ranks(case, case.conversion)
        yield from _missing_values(case, case.conversion)
        yield from _calibration(case, case.conversion)
    yield from _draft_heads(case)


def _no_way(case: Case) -> Iterator[Problem]:
    if found := ready(case.facts):
        yield _quantized_model(case, *found)
        return
    precision = case.spec.precision
    alone = [
        field
        for field, other in (("quantization", "kv_cache"), ("kv_cache", "quantization"))
        if getattr(precision, field) is not None and not _is_possible(case, **{other: None})
    ]
    for field in alone or ["kv_cache"]:
        yield _precision(case, field)


def _quantized_model(case: Case, method: str, bits: int | None) -> Problem:
    return Problem(
        pointer="/model",
        code="quantized_model",
        detail=f"the model is quantised already ({method}{f', {bits} bits' if bits else ''}), "
        "and that would override what the spec says",
        value=method,
        expected="a model in float32, float16 or bfloat16, or one quantised as this release and family take it",
        remedy="give the unquantised model, or leave precision.quantization and precision.kv_cache out",
    )


def _precision(case: Case, field: str) -> Problem:
    given, release = getattr(case.spec.precision, field), case.release.version
    known: dict[str, tuple[Way, ...]] = getattr(ways(), field)
    why = f"no conversion of {case.facts.architecture} to {field} {given} is proven for TensorRT-LLM {release}"
    possible = [name for name in (None, *known) if _is_possible(case, **{field: name})]
    found = case.release.family(case.facts.architecture)
    if found and found.unquantized:
        why += f": {found.unquantized}"
        possible = [None]
    elif any(_lacks_only_data(case, way) for way in known.get(given, ())):
        why += ": its program fetches calibration data by a name of its own, and a worker fetches nothing"
    return Problem(
        pointer=f"/precision/{field}",
        code=field,
        detail=why,
        value=given,
        expected=", ".join(name or "null" for name in possible),
    )


def _lacks_only_data(case: Case, way: Way) -> bool:
    script = case.release.quantize if way.program == "quantize" else case.release.script_for(case.facts.architecture)
    assert script, "said elsewhere"
    calm = way.model_copy(update={"calibrates": False})
    return way.calibrates and calm.is_open(case.release.version, script.options, ready(case.facts))


def _is_possible(case: Case, **change: str | None) -> bool:
    precision = case.spec.precision.model_copy(update=change)
    return conversion(case.release, case.facts.architecture, precision, ready(case.facts), case.draft) is not None


def _missing_ranks(case: Case, made: Conversion) -> Iterator[Problem]:
    """A program that has no option for a kind of parallelism makes one rank of it."""
    for role in made.missing(case.parallelism):
        yield Problem(
            pointer=f"/parallelism/{role}",
            code=f"no_{role}",
            detail=f"the conversion of {case.facts.architecture} in TensorRT-LLM {case.release.version} "
            f"is not known to have {_WORDS[role]} parallelism",
            value=getattr(case.parallelism, role),
            expected="1",
        )


def _missing_values(case: Case, made: Conversion) -> Iterator[Problem]:
    for name in made.all_asks:
        if case.option(name) is None:
            yield Problem(
                pointer=f"/options/{name}",
                code="option_missing",
                detail=f"this conversion needs {name}: {made.all_options[name].about}",
                expected=made.all_options[name].expected.removesuffix(" or null"),
                remedy="add the option",
            )


def _calibration(case: Case, made: Conversion) -> Iterator[Problem]:
    if made.calibrates and case.spec.calibration is None:
        yield Problem(
            pointer="/calibration",
            code="calibration_missing",
            detail="this precision is calibrated on data, and a worker fetches none by itself",
            expected="a data set, as in file:/data/cnn_dailymail or hf:org/news@main",
            remedy="add calibration",
        )
    elif case.spec.calibration is not None and not made.calibrates:
        yield Problem(
            pointer="/calibration",
            code="calibration_unused",
            detail="nothing is calibrated for this precision",
            value=case.spec.calibration,
            expected="null",
            remedy="leave it out",
        )


def _draft_heads(case: Case) -> Iterator[Problem]:
    """A mode whose engines draft by heads goes with a checkpoint that has them, and the other way round."""
    mode = case.option("speculative_decoding_mode")
    if mode == case.draft or (case.draft is None and mode not in _WITH_HEADS):
        return
    known = drafting.possible(case.release, case.facts.architecture)
    if case.draft is not None:
        detail, expected = f"the checkpoint would have draft heads for {case.draft}", case.draft
    elif found := known.get(str(mode)):
        option = found[0].heads
        detail = f"{mode} needs a checkpoint with draft heads, which its conversion takes from a second model"
        expected = f"{option} beside it, or another mode"
    else:
        detail = (
            f"{mode} needs a checkpoint with draft heads, and no conversion of {case.facts.architecture} to one is "
            f"known to the farm for TensorRT-LLM {case.release.version}"
        )
        expected = "draft_tokens_external, or lookahead_decoding where the release has it"
    yield Problem(
        pointer="/options/speculative_decoding_mode",
        code="draft_heads",
        detail=detail,
        value=mode,
        expected=expected,
    )
