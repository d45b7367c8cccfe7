"""Models whose own Python code and pickled weights an administrator lets conversions run. None, unless named."""

from __future__ import annotations

from collections.abc import Iterable

from enginefarm.contract.model_reference import HubReference, ModelReference, parse


class Trust:
    """
    Args:
        models: references; of a hub with the full commit, because a branch moves to code that nobody looked at.

    Raises:
        ValueError: a reference is none, or names no commit.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self._models = frozenset(str(_pinned(model)) for model in models)

    def allows(self, reference: ModelReference) -> bool:
        return str(reference) in self._models


def _pinned(text: str) -> ModelReference:
    reference = parse(text)
    if isinstance(reference, HubReference) and reference.commit is None:
        raise ValueError(f"a trusted model needs its full commit, as in hf:{reference.repo}@<40 hex digits>")
    return reference


NOBODY = Trust()
