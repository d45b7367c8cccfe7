"""The releases as data. Adding one is adding it to a file of `data/releases`, and tables if its options moved."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property

from packaging.version import Version
from pydantic import TypeAdapter

from enginefarm.contract.errors import InvalidSpec, Problem
from toolchains.trtllm.releases.engine_part import closed_options
from toolchains.trtllm.releases.model_family import (
    ModelFamily,
    family_names,
    find_family,
    proven_since,
)
from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Option, OptionTable, Source, load_table
from toolchains.trtllm.releases.reserved_options import is_reserved


class Script(FrozenModel):
    """A program of the examples: its path below their folder, and the file of its table."""

    script: str
    table: str

    @property
    def options(self) -> OptionTable:
        return load_table(self.table)


class ReleaseFacts(FrozenModel):
    """One release of a series, and what it is built on (None: not stated, which is not the same as unchanged)."""

    version: str
    commit: str | None
    tensorrt: str | None
    cuda: str | None
    torch: str | None
    container: str | None
    modelopt: str | None
    notes: str | None


class Programs(FrozenModel):
    """The programs that the releases of one series have, and what they accept."""

    build: str
    quantize: Script
    refit: str | None  # None: the releases before 0.10, which make no plans without weights
    convert: Mapping[str, Script]  # by family
    draft: Mapping[str, Script] = {}  # by speculative_decoding_mode: what makes a checkpoint with draft heads


class ReleaseDescriptor(ReleaseFacts, Programs):
    """One release: its programs, and how sure we are of their options."""

    source: Source
    series: str  # releases of one series have the same programs

    @property
    def build_table(self) -> OptionTable:
        return load_table(self.build)

    @property
    def refit_table(self) -> OptionTable | None:
        return load_table(self.refit) if self.refit else None

    @property
    def build_options(self) -> Mapping[str, Option]:
        """What a caller may set of trtllm-build."""
        return caller_options(self.build)

    @cached_property
    def architectures(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in family_names() if self.script_for(name)))

    def family(self, architecture: str) -> ModelFamily | None:
        return find_family(architecture)

    def script_for(self, architecture: str) -> Script | None:
        """The script that is proven to take this architecture in this release."""
        proven = proven_since(architecture)
        if proven is None or Version(self.version) < Version(proven):
            return None
        return self.convert.get(family_names()[architecture])

    def build_options_of(self, architecture: str) -> Mapping[str, Option]:
        """Those of trtllm-build that are for this architecture."""
        return _without(self.build_options, architecture)

    def convert_options(self, architecture: str) -> Mapping[str, Option]:
        """What a caller may set of the script that takes this architecture; nothing if none does."""
        script = self.script_for(architecture)
        return _without(convert_options(script), architecture) if script else {}

    def options(self, architecture: str) -> Mapping[str, Option]:
        """What a caller may set of both programs."""
        return {**self.build_options_of(architecture), **self.convert_options(architecture)}

    def option_aliases(self, architecture: str) -> Mapping[str, str]:
        script = self.script_for(architecture)
        return option_aliases(self.build, *([script.table] if script else []))


class _Series(Programs):
    source: Source
    releases: tuple[ReleaseFacts, ...]

    def descriptors(self, name: str) -> list[ReleaseDescriptor]:
        shared = {field: getattr(self, field) for field in (*Programs.model_fields, "source")}
        return [ReleaseDescriptor(**dict(release), **shared, series=name) for release in self.releases]


@cache
def all_releases() -> tuple[ReleaseDescriptor, ...]:
    """Newest first."""
    read = TypeAdapter(_Series).validate_json
    files = (DATA / "releases").glob("*.json")
    known = [release for path in files for release in read(path.read_bytes()).descriptors(path.stem)]
    return tuple(sorted(known, key=lambda release: Version(release.version), reverse=True))


def find_release(version: str | None) -> ReleaseDescriptor:
    """
    Raises:
        InvalidSpec: the farm does not know this release.
    """
    for release in all_releases():
        if release.version == version:
            return release
    raise InvalidSpec(
        [
            Problem(
                pointer="/toolchain/version",
                code="unknown_release",
                detail=f"the farm does not know TensorRT-LLM {version}",
                value=version,
                expected=" or ".join(release.version for release in all_releases()),
            )
        ]
    )


def convert_option_names() -> frozenset[str]:
    """Every option that belongs to a conversion, in any release and family."""
    programs = {script.table: script for release in all_releases() for script in _converting(release)}
    return frozenset(name for script in programs.values() for name in convert_options(script))


@cache
def build_option_names() -> frozenset[str]:
    """Every option of trtllm-build, in any release."""
    return frozenset(
        name for file in {release.build for release in all_releases()} for name in load_table(file).by_name
    )


def releases_with_option(name: str) -> list[str]:
    """The releases in which a program has this option, newest first."""
    return [
        release.version
        for release in all_releases()
        if any(name in load_table(file).by_name for file in _files(release))
    ]


def _files(release: ReleaseDescriptor) -> list[str]:
    return [release.build, *(script.table for script in _converting(release))]


def _converting(release: ReleaseDescriptor) -> list[Script]:
    return [release.quantize, *release.convert.values(), *release.draft.values()]


@cache
def caller_options(file: str) -> Mapping[str, Option]:
    """The options of this table that a caller may set, by name."""
    known = load_table(file).by_name
    return {name: option.for_callers for name, option in known.items() if not is_reserved(name, known)}


def convert_options(script: Script) -> Mapping[str, Option]:
    """What a caller may set of this script.

    A name that trtllm-build has too is its own: it would enter both keys, and what it says there wins.
    """
    options = caller_options(script.table).items()
    return {name: option for name, option in options if name not in build_option_names()}


def _without(options: Mapping[str, Option], architecture: str) -> Mapping[str, Option]:
    not_for_it = closed_options(architecture)
    return {name: option for name, option in options.items() if name not in not_for_it}


@cache
def option_aliases(*files: str) -> Mapping[str, str]:
    """Other name of an option → its name."""
    return {other: option.name for file in files for option in load_table(file).options for other in option.alias_names}
