"""The releases as data. Adding one is adding an entry to `data/releases.json`, and tables if its options moved."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path

from pydantic import TypeAdapter

from enginefarm.errors import InvalidSpec, Problem
from toolchains.trtllm.table import Fact, Option, Source, Table

DATA = Path(__file__).parent / "data"


class Script(Fact):
    """A conversion script: its path below the examples folder, and the file of its table."""

    script: str
    table: str

    @property
    def options(self) -> Table:
        return table(self.table)


class Reserved(Fact):
    """An option that exists, but that a caller does not write under `/options`."""

    instead: str
    why: str


class Former(Fact):
    """An option of an older release."""

    instead: str
    gone_in: str
    why: str


class Descriptor(Fact):
    """One release: the programs it has, what they accept, and what it is built on (None: not stated)."""

    version: str
    commit: str | None
    tensorrt: str | None
    cuda: str | None
    torch: str | None
    container: str | None
    notes: str | None
    build: str
    convert: Mapping[str, Script]  # by family

    @property
    def build_table(self) -> Table:
        return table(self.build)

    @property
    def build_options(self) -> Mapping[str, Option]:
        """What a caller may set of trtllm-build."""
        return open_to_callers(self.build)

    @cached_property
    def architectures(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, family in families().items() if family in self.convert))

    def script_for(self, architecture: str) -> Script | None:
        return self.convert.get(families().get(architecture, ""))

    def convert_options(self, architecture: str) -> Mapping[str, Option]:
        """What a caller may set of the script that takes this architecture; nothing if none does."""
        script = self.script_for(architecture)
        return open_to_callers(script.table) if script else {}

    def options(self, architecture: str) -> Mapping[str, Option]:
        """What a caller may set of both programs."""
        script = self.script_for(architecture)
        return open_to_callers(self.build, *([script.table] if script else []))

    def other_names(self, architecture: str) -> Mapping[str, str]:
        script = self.script_for(architecture)
        return other_names(self.build, *([script.table] if script else []))


class _Releases(Fact):
    what: str
    source: Source
    releases: tuple[Descriptor, ...]


class _Families(Fact):
    what: str
    source: Source
    families: Mapping[str, tuple[str, ...]]


class _ReservedOptions(Fact):
    what: str
    source: Source
    options: Mapping[str, Reserved]


class _FormerOptions(Fact):
    what: str
    source: Source
    options: Mapping[str, Former]


@cache
def releases() -> tuple[Descriptor, ...]:
    """Newest first."""
    return _Releases.model_validate_json((DATA / "releases.json").read_bytes()).releases


@cache
def families() -> Mapping[str, str]:
    """Hugging Face architecture → family."""
    data = _Families.model_validate_json((DATA / "families.json").read_bytes())
    return {name: family for family, names in data.families.items() for name in names}


@cache
def reserved() -> Mapping[str, Reserved]:
    return _ReservedOptions.model_validate_json((DATA / "reserved.json").read_bytes()).options


@cache
def former() -> Mapping[str, Former]:
    return _FormerOptions.model_validate_json((DATA / "former_options.json").read_bytes()).options


@cache
def table(file: str) -> Table:
    return TypeAdapter(Table).validate_json((DATA / "tables" / file).read_bytes())


def find(version: str | None) -> Descriptor:
    """
    Raises:
        InvalidSpec: the farm does not know this release.
    """
    for release in releases():
        if release.version == version:
            return release
    raise InvalidSpec(
        [
            Problem(
                pointer="/toolchain/version",
                code="unknown_release",
                detail=f"the farm does not know TensorRT-LLM {version}",
                value=version,
                expected=" or ".join(release.version for release in releases()),
            )
        ]
    )


def convert_option_names() -> frozenset[str]:
    """Every option that belongs to a conversion, in any release and family."""
    scripts = {script.table for release in releases() for script in release.convert.values()}
    return frozenset(name for file in scripts for name in open_to_callers(file))


@cache
def open_to_callers(*files: str) -> Mapping[str, Option]:
    """The options of these tables that a caller may set, by name."""
    options = (option for file in files for option in table(file).options)
    return {option.name: option for option in options if option.name not in reserved()}


@cache
def other_names(*files: str) -> Mapping[str, str]:
    """Other name of an option → its name."""
    return {other: option.name for file in files for option in table(file).options for other in option.other_names}
