"""A document of another version is refused, and the error says which version it has and what to do."""

from __future__ import annotations

import pytest

from enginefarm.contract.document_version import require_version
from enginefarm.contract.errors import InvalidRequest


def test_the_expected_version_is_accepted() -> None:
    require_version("a.tar", "format", "enginefarm.bundle/1", "enginefarm.bundle/1")


@pytest.mark.parametrize("version", ["enginefarm.bundle/2", None, 1, ""])
def test_another_version_is_refused_with_both_versions(version: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        require_version("a.tar", "format", version, "enginefarm.bundle/1")
    assert str(refused.value).startswith(f"a.tar: format is {str(version)!r}, this program reads 'enginefarm.bundle/1'")
    assert "upgrade the older" in str(refused.value)


def test_a_long_version_is_cut() -> None:
    with pytest.raises(InvalidRequest) as refused:
        require_version("a.tar", "format", "x" * 10_000, "enginefarm.bundle/1")
    assert len(str(refused.value)) < 300
