"""The farm does with every posted build what its users found out, or what NVIDIA answered them."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.field.corpus import Row, named_rows, submit
from toolchains.trtllm.releases.rule_table import rules

ROWS = dict(named_rows())
REFUSED = {name: row for name, row in ROWS.items() if row.refused}
ACCEPTED = {name: row for name, row in ROWS.items() if row.accepted}
MENDED = {
    f"{name}-{number}": row.changed(changes)
    for name, row in REFUSED.items()
    for number, changes in enumerate(row.mended)
}


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED.keys())
def test_a_build_that_fails_is_refused(row: Row) -> None:
    findings = submit(row).findings
    texts = [f"{finding.code}: {finding.detail}; {finding.expected}; {finding.remedy}" for finding in findings]
    assert sorted(finding.code for finding in findings) == sorted(finding.code for finding in row.refused), texts
    for expected in row.refused:
        text = " ".join(text for text in texts if text.startswith(f"{expected.code}:"))
        assert [piece for piece in expected.says if piece not in text] == [], text


@pytest.mark.parametrize("row", MENDED.values(), ids=MENDED.keys())
def test_the_remedy_makes_it_acceptable(row: Row) -> None:
    assert submit(row).findings == ()


@pytest.mark.parametrize("row", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_build_that_works_is_accepted(row: Row) -> None:
    assert row.accepted is not None
    outcome = submit(row)
    assert outcome.findings == ()
    assert [piece for piece in row.accepted.convert if piece not in outcome.convert] == [], outcome.convert
    assert [piece for piece in row.accepted.build if piece not in outcome.build] == [], outcome.build
    both = f"{outcome.convert}\n{outcome.build}"
    assert [piece for piece in row.accepted.absent if piece in both] == [], both
    assert set(row.accepted.notes) <= {note.code for note in outcome.notes}


def test_every_named_rule_is_documented() -> None:
    noted = {code for row in ACCEPTED.values() if row.accepted for code in row.accepted.notes}
    assert noted <= rules().keys()
