"""The container images of a release, and the versions of TensorRT, CUDA and Python that the release carries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from packaging.version import Version

from enginefarm.contract.serving import Image
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file
from toolchains.trtllm.releases.release import find_release


class _TritonImage(FrozenModel):
    version: str
    image: str
    has: Mapping[str, str]


class _ReleaseImage(FrozenModel):
    image: str
    since: str
    source: str


class _Python(FrozenModel):
    """The Python of every image from `since` on, up to the next entry."""

    since: str
    python: str
    source: str


class _Images(DataFile):
    images: tuple[_TritonImage, ...]
    release_image: _ReleaseImage
    python: tuple[_Python, ...]


@cache
def _table() -> _Images:
    return read_data_file("images.json", _Images)


def images(version: str) -> tuple[Image, ...]:
    """The images that contain exactly this TensorRT-LLM by a stated source; empty if no source names one."""
    matches = []
    for row in _table().images:
        if row.version == version:
            contents = {"tensorrt_llm": version, **row.has}
            matches.append(Image(image=row.image, has=contents, source=_table().source.how))
    # Newer releases have an image of their own, whose tag is the version.
    release_image = _table().release_image
    if Version(version) >= Version(release_image.since):
        name = f"{release_image.image}:{version}"
        matches.append(Image(image=name, has={"tensorrt_llm": version}, source=release_image.source))
    return tuple(matches)


def carried(version: str, part: str) -> tuple[str, ...]:
    """Every version of `tensorrt` or `cuda` that a source states for the release; empty if none is stated.

    Release notes and the list of images sometimes disagree, and no source is known to be the better one.
    """
    stated = [getattr(find_release(version), part)]
    stated += [row.has.get(part) for row in _table().images if row.version == version]
    return tuple(dict.fromkeys(number for number in stated if number is not None))


def image_python(version: str) -> str | None:
    """The Python of the release's images, such as `3.10`; None if no source states it."""
    python = None
    for row in sorted(_table().python, key=lambda row: Version(row.since)):
        if Version(row.since) <= Version(version):
            python = row.python
    return python
