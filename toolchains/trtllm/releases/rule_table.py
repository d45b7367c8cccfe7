"""The table of rules: what the programs refuse, rewrite or warn of, in which releases, and where that was read.

Code that applies a rule names its `id`, which is also the `code` of the problem or note that a caller gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from packaging.version import Version

from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file

Effect = Literal["error", "rewrite", "warn"]
EnforcedAt = Literal["submit", "spec", "option", "output"]


class Rule(FrozenModel):
    """One rule. `when` and `then` are its condition and its consequence in words, for docs/trtllm.md."""

    id: str
    effect: Effect
    # `submit`: a check or rewrite names the rule's id in code. `spec`: a spec cannot express anything else. `option`:
    # callers cannot set the option, or no program has it. `output`: it is checked on what a stage wrote.
    enforced_at: EnforcedAt
    since: str | None  # the first release that has it; None: as far back as the farm knows
    until: str | None  # the first release without it; None: no end is known
    when: str
    then: str
    source: str

    def in_force(self, version: str) -> bool:
        """True if the rule holds in this release."""
        release = Version(version)
        has_begun = self.since is None or Version(self.since) <= release
        has_ended = self.until is not None and Version(self.until) <= release
        return has_begun and not has_ended


class _Rules(DataFile):
    rules: tuple[Rule, ...]


@cache
def rules() -> Mapping[str, Rule]:
    """By id."""
    return {rule.id: rule for rule in read_data_file("rules.json", _Rules).rules}


@cache
def in_force(rule: str, version: str) -> bool:
    """
    Raises:
        KeyError: the table does not have the rule, so that nothing undocumented is ever applied.
    """
    return rules()[rule].in_force(version)
