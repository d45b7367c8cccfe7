"""Build the errors that refuse a model: field, value, what is wrong, what was expected, what to do."""

from __future__ import annotations

from enginefarm.contract.errors import ModelUnavailable, Problem

POINTER = "/model"  # JSON pointer into the spec; the planner replaces it for options that name a model


def problem(
    reference: object, code: str, detail: str, *, expected: str | None = None, remedy: str | None = None
) -> Problem:
    """Return one finding about the model that `reference` names."""
    return Problem(pointer=POINTER, code=code, detail=detail, value=str(reference), expected=expected, remedy=remedy)


def refusal(
    reference: object, code: str, detail: str, *, expected: str | None = None, remedy: str | None = None
) -> ModelUnavailable:
    """Return a ModelUnavailable with one problem, for `raise refusal(…)`."""
    return ModelUnavailable(
        f"{reference}: {detail}",
        problems=[problem(reference, code, detail, expected=expected, remedy=remedy)],
    )


def changed(reference: object, difference: str) -> ModelUnavailable:
    """Return the refusal of a model whose files are no longer those that were resolved."""
    return refusal(
        reference,
        "model_changed",
        f"the model changed between submit and convert: {difference}",
        expected="the files as they were at submit, since the engine's key names them",
        remedy="submit again, and leave the files alone until the checkpoint is converted",
    )
