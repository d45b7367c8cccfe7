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
    enforced_at: EnforcedAt  # only rules that are enforced at `submit` are named in code
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
