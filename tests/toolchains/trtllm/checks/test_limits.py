"""Specs that preflight refuses: limits that a release does not have."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.checks.refusals import Refusal, assert_rule

REFUSALS = [
    Refusal(
        "limit_unknown", "/limits/opt_num_tokens", {"limits": {"max_batch_size": 4, "opt_num_tokens": 2}},
        version="0.8.0", expected="null", allowed_in="0.9.0", allowed_fields={"limits": {"max_batch_size": 4}},
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
