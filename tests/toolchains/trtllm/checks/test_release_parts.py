"""The TensorRT and the CUDA of a platform are those that the release carries, where a source states them."""

from __future__ import annotations

import pytest

from enginefarm.contract.platform import Platform
from tests.toolchains.trtllm.build_contexts import FACTS, platform
from tests.toolchains.trtllm.checks.refusals import Refusal, assert_rule, codes, find_problems
from toolchains.trtllm.releases.images import carried, image_python
from toolchains.trtllm.releases.release import all_releases

OLD_PRECISION = {"precision": {"dtype": "float16"}}


REFUSALS = [
    Refusal(
        "release_tensorrt", "/platform/tensorrt", OLD_PRECISION, platform=platform(sm="80", tensorrt="10.13.3"),
        version="0.21.0", expected="10.11 or 10.11.0.33", allowed_platform=platform(sm="80", tensorrt="10.11.0"),
        allowed_in="1.1.0",
    ),
    Refusal(
        "release_cuda", "/platform/cuda", OLD_PRECISION, platform=platform(sm="80", cuda="12.8"), version="1.1.0",
        allowed_platform=platform(sm="80", cuda="13.0"), allowed_in="0.21.0",
    ),
]  # fmt: skip


def parts(**fields: str) -> Platform:
    return platform(sm="80", **fields)


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_part_that_the_release_does_not_carry_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)


@pytest.mark.parametrize(
    ("version", "tensorrt", "carried_versions"),
    [
        ("0.21.0", "10.13.3", "10.11"),
        ("0.21.0", "10.1", "10.11"),  # no prefix of the text, but of the numbers
        ("1.0.0", "10.13.3.9", "10.11.0.33"),
        ("1.1.0", "10.11.0.33", "10.13.3.9"),
        ("0.10.0", "9.3.0", "10.0.1"),
        ("0.15.0", "10.7.0", "10.6"),
        ("1.2.1", "10.13.3", "10.14.1"),
        ("0.19.0", "10.10.0", "10.9.0"),
        ("0.8.0", "9.3.0", "9.2.0"),
    ],
)
def test_a_tensorrt_that_the_release_does_not_carry_is_refused_with_the_one_that_it_carries(
    version: str, tensorrt: str, carried_versions: str
) -> None:
    (problem,) = find_problems(OLD_PRECISION, FACTS, parts(tensorrt=tensorrt), version)
    assert (problem.pointer, problem.code, problem.value) == ("/platform/tensorrt", "release_tensorrt", tensorrt)
    assert carried_versions in (problem.expected or "")
    assert carried_versions in (problem.remedy or "")


def test_the_refusal_names_the_releases_that_carry_the_given_tensorrt() -> None:
    (problem,) = find_problems(OLD_PRECISION, FACTS, parts(tensorrt="10.13.3.9"), "0.21.0")
    assert "that of 1.1.0" in (problem.remedy or "")


@pytest.mark.parametrize(
    ("version", "tensorrt"),
    [
        *(("0.21.0", "10.11"), ("0.21.0", "10.11.0.33"), ("0.9.0", "9.3.0"), ("0.9.0", "10.0.1.6")),
        *(("1.2.1", "10.14.1.48"), ("0.8.0", "9.2")),
        ("1.3.0rc20", "10.99"),  # no source states its own
    ],
)
def test_a_tensorrt_that_no_source_contradicts_is_accepted(version: str, tensorrt: str) -> None:
    assert find_problems(OLD_PRECISION, FACTS, parts(tensorrt=tensorrt), version) == []


def test_a_driver_of_an_older_major_version_of_cuda_is_refused() -> None:
    (problem,) = find_problems(OLD_PRECISION, FACTS, parts(cuda="12.8"), "1.1.0")
    assert (problem.pointer, problem.code, problem.expected) == ("/platform/cuda", "release_cuda", "CUDA 13.0 or newer")
    for served in ("13.0", "14.1"):
        assert find_problems(OLD_PRECISION, FACTS, parts(cuda=served), "1.1.0") == []
    # A driver of the same major version runs it, by CUDA's minor version compatibility.
    assert find_problems(OLD_PRECISION, FACTS, parts(cuda="12.2"), "0.21.0") == []
    assert "release_cuda" in codes(find_problems(OLD_PRECISION, FACTS, parts(cuda="11.8"), "0.21.0"))


@pytest.mark.parametrize("part", ["tensorrt", "cuda"])
def test_every_pair_of_a_release_and_a_part_that_it_carries_is_accepted(part: str) -> None:
    for release in all_releases():
        for version in carried(release.version, part):
            problems = find_problems(OLD_PRECISION, FACTS, parts(**{part: version}), release.version)
            assert not {"release_tensorrt", "release_cuda"} & codes(problems), (release.version, version)


def test_the_python_of_the_images_is_stated_with_each_release() -> None:
    assert (image_python("0.8.0"), image_python("0.15.0"), image_python("0.16.0")) == ("3.10", "3.10", "3.12")
    assert image_python("1.3.0rc20") == "3.12"
