"""Refusing a model: the caller learns the field, the value, what was expected and what to do."""

from __future__ import annotations

from enginefarm.contract.errors import ModelUnavailable, Problem

POINTER = "/model"


def problem(
    reference: object, code: str, detail: str, *, expected: str | None = None, remedy: str | None = None
) -> Problem:
    return Problem(pointer=POINTER, code=code, detail=detail, value=str(reference), expected=expected, remedy=remedy)


def refusal(
    reference: object, code: str, detail: str, *, expected: str | None = None, remedy: str | None = None
) -> ModelUnavailable:
    """A ModelUnavailable with one problem, for `raise refusal(…)`."""
    return ModelUnavailable(
        f"{reference}: {detail}",
        problems=[problem(reference, code, detail, expected=expected, remedy=remedy)],
    )


def changed(reference: object, what: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_changed",
        f"the model changed between submit and convert: {what}",
        expected="the files as they were at submit, since the engine's key names them",
        remedy="submit again, and leave the files alone until the checkpoint is converted",
    )
