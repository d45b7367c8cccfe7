"""List the values of the precision that pass every check on this GPU, in this release, of this model.

A check knows why a value is impossible. Which others are possible depends on all checks together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.precision_recipe import recipe_table

_FIELDS = {"/precision/quantization": "quantization", "/precision/kv_cache": "kv_cache"}
_ABOUT_PRECISION = ("/precision", "/model")


def with_legal_values(
    context: BuildContext, problems: Iterable[Problem], find: Callable[[BuildContext], Iterable[Problem]]
) -> list[Problem]:
    """Give each problem of the quantization or the KV cache the values that would have been accepted.

    Args:
        find: finds the problems of a context.
    """
    problems = list(problems)
    all_codes = {(problem.pointer, problem.code) for problem in problems}
    answered = []
    for problem in problems:
        field = _FIELDS.get(problem.pointer)
        if field is None:
            answered.append(problem)
            continue
        # What is wrong with another field is no reason against a value of this one.
        ignored = {(pointer, code) for pointer, code in all_codes if pointer != problem.pointer}
        expected = ", ".join(_legal_values(context, field, ignored, find)) or "another model or another GPU"
        answered.append(problem.model_copy(update={"expected": expected}))
    return answered


def _legal_values(
    context: BuildContext,
    field: str,
    ignored: set[tuple[str, str]],
    find: Callable[[BuildContext], Iterable[Problem]],
) -> list[str]:
    recipes: dict[str, object] = getattr(recipe_table(), field)
    legal = []
    for value in (None, *recipes):
        candidate = context.with_value("precision", field, value)
        is_refused = any(
            problem.pointer.startswith(_ABOUT_PRECISION) and (problem.pointer, problem.code) not in ignored
            for problem in find(candidate)
        )
        if not is_refused:
            legal.append(value or "null")
    return legal
