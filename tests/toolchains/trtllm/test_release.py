from __future__ import annotations

import pytest

from enginefarm.errors import InvalidSpec
from tests.toolchains.trtllm.cases import FACTS, H100, spec
from toolchains.registry import all_toolchains
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.release import Descriptor, releases


def test_registered_under_its_name() -> None:
    assert all_toolchains()["trtllm"] is TOOLCHAIN


def test_newest_first() -> None:
    assert [release.version for release in TOOLCHAIN.releases()][:2] == ["1.2.1", "1.2.0"]


@pytest.mark.parametrize("release", releases(), ids=lambda release: release.version)
def test_no_option_belongs_to_both_stages(release: Descriptor) -> None:
    """A name in both would enter both keys, and the wrong one."""
    assert not TOOLCHAIN.convert_options & set(release.build_options)
    for architecture in release.architectures:
        assert set(release.convert_options(architecture)) <= TOOLCHAIN.convert_options


def test_unknown_release_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSpec) as caught:
        TOOLCHAIN.normalise(spec("0.1.0"), FACTS, H100)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/toolchain/version", "unknown_release")
    assert "1.2.1" in (problem.expected or "")
