"""Models whose own Python code and pickled weights conversions may run: those that an administrator names."""

from __future__ import annotations

from collections.abc import Iterable

from enginefarm.contract.model.reference import HubReference, ModelReference, parse


class Trust:
    """The set of trusted models.

    Args:
        models: references. A hub model needs its full commit, because a branch can move to code that nobody reviewed.

    Raises:
        ValueError: a reference is malformed, or a hub reference lacks its commit.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        allowed = set()
        for model in models:
            reference = parse(model)
            if isinstance(reference, HubReference) and reference.commit is None:
                raise ValueError(f"a trusted model needs its full commit, as in hf:{reference.repo}@<40 hex digits>")
            # As text, so that two spellings of one model are one.
            allowed.add(str(reference))
        self._models = frozenset(allowed)

    def allows(self, reference: ModelReference) -> bool:
        """Return True if code and pickles of the model may run. A hub reference must be pinned to its commit."""
        return str(reference) in self._models


NOBODY = Trust()
