"""The table of rules: what the programs refuse, rewrite or warn of, in which releases, and how that is known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from packaging.version import Version

from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Source

Effect = Literal["error", "rewrite", "warn"]
EnforcedAt = Literal["submit", "spec", "option", "output"]


class Rule(FrozenModel):
    id: str
    effect: Effect
    enforced_at: EnforcedAt  # where the farm sees to it; only those held at `submit` have code that names them
    since: str | None
    until: str | None  # the first release without it
    when: str
    then: str
    source: str

    def in_force(self, version: str) -> bool:
        release = Version(version)
        began = self.since is None or Version(self.since) <= release
        return began and (self.until is None or release < Version(self.until))


class _Rules(FrozenModel):
    description: str
    source: Source
    rules: tuple[Rule, ...]


@cache
def rules() -> Mapping[str, Rule]:
    found = _Rules.model_validate_json((DATA / "rules.json").read_bytes()).rules
    return {rule.id: rule for rule in found}


@cache
def in_force(name: str, version: str) -> bool:
    """Raises KeyError for a rule that the table does not have: what is applied must be documented."""
    return rules()[name].in_force(version)
