"""TensorRT-LLM releases as data: their programs, and the options that callers may set.

A new release is a new entry in a file of `data/releases`, and new files in `data/tables` if its options changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property

from packaging.version import Version

from enginefarm.contract.errors import InvalidSpec, Problem
from toolchains.trtllm.releases.data_file import DATA, FrozenModel, Source, read_data_file
from toolchains.trtllm.releases.engine_part import closed_options
from toolchains.trtllm.releases.model_family import family_names, proven_since
from toolchains.trtllm.releases.option_table import Option, OptionTable, load_table
from toolchains.trtllm.releases.reserved_options import is_reserved


class Script(FrozenModel):
    """A program of the examples: its path below their folder, and the file of its option table."""

    script: str
    table: str
    output_folder: str = ""  # where it puts the checkpoint below the directory that it is given: "tp{tp}/pp{pp}"

    @property
    def options(self) -> OptionTable:
        return load_table(self.table)


class ReleaseFacts(FrozenModel):
    """One release, and what it is built on. None: its notes do not state it, which does not mean unchanged."""

    version: str
    commit: str | None
    tensorrt: str | None
    cuda: str | None
    torch: str | None
    container: str | None
    modelopt: str | None
    notes: str | None


class Programs(FrozenModel):
    """The programs of the releases of one series. `build` and `refit` are files of option tables."""

    build: str
    quantize: Script
    refit: str | None  # None before 0.10: those releases make no plans without weights
    convert: Mapping[str, Script]  # by model family
    vision: Script | None = None  # makes engines of images; None before 0.10: what those releases have was not read
    draft: Mapping[str, Script] = {}  # by speculative_decoding_mode: scripts that add draft heads


class ReleaseDescriptor(ReleaseFacts, Programs):
    """One release with its programs, and how sure their options are."""

    source: Source
    series: str  # releases of one series have the same programs

    @property
    def build_table(self) -> OptionTable:
        """The options of trtllm-build."""
        return load_table(self.build)

    @property
    def refit_table(self) -> OptionTable | None:
        """The options of trtllm-refit; None if the release has no such program."""
        if self.refit is None:
            return None
        return load_table(self.refit)

    @property
    def build_options(self) -> Mapping[str, Option]:
        """The options of trtllm-build that callers may set, by name."""
        return caller_options(self.build)

    @cached_property
    def architectures(self) -> tuple[str, ...]:
        """The Hugging Face architectures that the release is proven to convert, sorted."""
        return tuple(sorted(name for name in family_names() if self.script_for(name)))

    def script_for(self, architecture: str) -> Script | None:
        """The script that is proven to convert this architecture in this release; None if there is none."""
        first_release = proven_since(architecture)
        if first_release is None or Version(self.version) < Version(first_release):
            return None
        return self.convert.get(family_names()[architecture])

    def build_options_of(self, architecture: str) -> Mapping[str, Option]:
        """The options of trtllm-build that callers may set for this architecture, by name."""
        return _without_closed(self.build_options, architecture)

    def convert_options(self, architecture: str) -> Mapping[str, Option]:
        """The options of its conversion script that callers may set, by name; empty without such a script."""
        script = self.script_for(architecture)
        if script is None:
            return {}
        return _without_closed(convert_options(script), architecture)

    def options(self, architecture: str) -> Mapping[str, Option]:
        """The options of both programs that callers may set for this architecture, by name."""
        return {**self.build_options_of(architecture), **self.convert_options(architecture)}

    def option_aliases(self, architecture: str) -> Mapping[str, str]:
        """Alias of an option of either program → the option's name."""
        script = self.script_for(architecture)
        if script is None:
            return option_aliases(self.build)
        return option_aliases(self.build, script.table)

    def scripts(self) -> list[Script]:
        """Every program that makes a checkpoint."""
        return [self.quantize, *self.convert.values(), *self.draft.values()]


class _Series(Programs):
    """A file of `data/releases`."""

    source: Source
    releases: tuple[ReleaseFacts, ...]

    def descriptors(self, name: str) -> list[ReleaseDescriptor]:
        shared = {field: getattr(self, field) for field in (*Programs.model_fields, "source")}
        return [ReleaseDescriptor(**dict(release), **shared, series=name) for release in self.releases]


@cache
def all_releases() -> tuple[ReleaseDescriptor, ...]:
    """Newest first."""
    descriptors: list[ReleaseDescriptor] = []
    for path in (DATA / "releases").glob("*.json"):
        series = read_data_file(f"releases/{path.name}", _Series)
        descriptors += series.descriptors(path.stem)
    return tuple(sorted(descriptors, key=lambda release: Version(release.version), reverse=True))


@cache
def first_release(architecture: str) -> str | None:
    """The oldest release that converts this architecture; None if no release does."""
    for release in reversed(all_releases()):
        if release.script_for(architecture) is not None:
            return release.version
    return None


@cache
def last_release(architecture: str) -> str | None:
    """The newest release that converts this architecture; None if no release does."""
    for release in all_releases():
        if release.script_for(architecture) is not None:
            return release.version
    return None


def find_release(version: str | None) -> ReleaseDescriptor:
    """
    Raises:
        InvalidSpec: the farm does not know this release.
    """
    for release in all_releases():
        if release.version == version:
            return release
    problem = Problem(
        pointer="/toolchain/version",
        code="unknown_release",
        detail=f"the farm does not know TensorRT-LLM {version}",
        value=version,
        expected=" or ".join(release.version for release in all_releases()),
    )
    raise InvalidSpec([problem])


def convert_option_names() -> frozenset[str]:
    """Every option that callers may set of a conversion, in any release and family."""
    names: set[str] = set()
    for release in all_releases():
        for script in release.scripts():
            names.update(caller_options(script.table))
    # As in `convert_options`: a name that trtllm-build has too is an option of the build alone.
    return frozenset(names - build_option_names())


@cache
def build_option_names() -> frozenset[str]:
    """Every option of trtllm-build, in any release."""
    names: set[str] = set()
    for release in all_releases():
        names.update(release.build_table.by_name)
    return frozenset(names)


@cache
def switches_of_two_forms() -> frozenset[str]:
    """Options of trtllm-build that are a flag in some releases, and enable or disable in others."""
    flags: set[str] = set()
    words: set[str] = set()
    for release in all_releases():
        for name, option in release.build_table.by_name.items():
            if option.type == "bool":
                flags.add(name)
            elif set(option.choices) == {"enable", "disable"}:
                words.add(name)
    return frozenset(flags & words)


def releases_with_option(name: str) -> list[str]:
    """The versions in which trtllm-build or a conversion program has this option, newest first."""
    versions = []
    for release in all_releases():
        names = set(release.build_table.by_name)
        for script in release.scripts():
            names.update(script.options.by_name)
        if name in names:
            versions.append(release.version)
    return versions


@cache
def caller_options(file: str) -> Mapping[str, Option]:
    """The options of this table that callers may set, by name."""
    all_options = load_table(file).by_name
    options = {}
    for name, option in all_options.items():
        if not is_reserved(name, all_options):
            options[name] = option.for_callers
    return options


def convert_options(script: Script) -> Mapping[str, Option]:
    """The options of this script that callers may set, by name.

    A name that trtllm-build has too belongs to the build alone. As an option of both stages it would enter both keys,
    and the builder's value is the one that counts.
    """
    options = dict(caller_options(script.table))
    for name in build_option_names():
        options.pop(name, None)
    return options


def _without_closed(options: Mapping[str, Option], architecture: str) -> Mapping[str, Option]:
    remaining = dict(options)
    for name in closed_options(architecture):
        remaining.pop(name, None)
    return remaining


@cache
def option_aliases(*files: str) -> Mapping[str, str]:
    """Alias → name of every option of these tables."""
    names = {}
    for file in files:
        for option in load_table(file).options:
            names.update(dict.fromkeys(option.alias_names, option.name))
    return names
