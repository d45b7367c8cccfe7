"""Fill in what a request left to the farm: the toolchain's version and the platform. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.version import InvalidVersion, Version

from enginefarm.contract.errors import Problem
from enginefarm.contract.platform import DriverBinding, Platform, PlatformSelector
from enginefarm.contract.spec import ToolchainRef
from enginefarm.contract.stage import Stage
from models.catalogue.rows import WorkerRow
from models.fleet.roster import has_toolchain, platform_of
from toolchains.toolchain import Toolchain


def complete_version(wanted: ToolchainRef, toolchain: Toolchain, fleet: Sequence[WorkerRow]) -> str | Problem:
    """The version asked for, else the newest that a live worker has, else the newest known."""
    known = [release.version for release in toolchain.releases()]
    live = {found["version"] for row in fleet for found in row.capabilities if found["toolchain"] == toolchain.name}
    if wanted.version is None:
        return max(live, key=_order) if live else known[0]
    if wanted.version in known or wanted.version in live:
        return wanted.version
    return Problem(
        pointer="/toolchain/version",
        code="unknown_version",
        detail=f"{toolchain.name} {wanted.version} is not a version that this farm knows",
        value=wanted.version,
        expected=", ".join(sorted({*known, *live}, key=_order, reverse=True)),
        remedy="GET /v1/toolchains lists the versions; leave it out for the newest that a live worker has",
    )


def complete_platform(
    wanted: PlatformSelector, toolchain: Toolchain, version: str, fleet: Sequence[WorkerRow], binding: DriverBinding
) -> Platform | Problem:
    """The one kind of machine that is meant: the live kind that matches, or the one spelled out in full."""
    kinds: dict[str, Platform] = {}
    for row in fleet:
        if has_toolchain(row, toolchain.name, version, Stage.BUILD):
            platform = platform_of(row)
            kinds.setdefault(repr(platform.bound(toolchain.binds_to, binding)), platform)
    matching = [platform for platform in kinds.values() if wanted.matches(platform, binding)]
    if len(matching) == 1:
        return matching[0]
    missing = wanted.missing(toolchain.binds_to)
    if not matching and not missing:
        return wanted.complete()  # nobody has it yet: the build waits and says so
    return _refusal(wanted, toolchain, version, matching or list(kinds.values()), missing, several=bool(matching))


def _refusal(
    wanted: PlatformSelector,
    toolchain: Toolchain,
    version: str,
    candidates: Sequence[Platform],
    missing: Sequence[str],
    *,
    several: bool,
) -> Problem:
    given = wanted.model_dump(exclude_none=True)
    what = f"{toolchain.name} {version}"
    if several:
        detail = f"{len(candidates)} kinds of live worker with {what} match"
        remedy = "give more of the platform's fields, so that one kind is left"
    else:
        detail = f"no live worker with {what} matches, and the platform is not complete"
        remedy = (
            f"name one of the candidates; or, to wait for a machine that is not there yet, give {', '.join(missing)}"
        )
        remedy += " (or cpu_isa for a CPU engine)" if not given else ""
    listed = "; ".join(shown(platform) for platform in candidates) or "no live worker has this toolchain"
    return Problem(
        pointer="/platform", code="platform_ambiguous" if several else "platform_unknown", detail=detail,
        value=given, expected=f"one of: {listed}", remedy=remedy,
    )  # fmt: skip


def shown(platform: Platform) -> str:
    fields = platform.model_dump(exclude_none=True, exclude={"os"})
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"


def _order(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")
