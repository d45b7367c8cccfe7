"""Complete what a spec leaves to the farm: the toolchain's version and the platform. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from api.planning.findings import Findings
from enginefarm.contract.errors import Problem
from enginefarm.contract.platform import DriverBinding, Platform, PlatformSelector
from enginefarm.contract.spec import ToolchainRef, problems_of
from enginefarm.contract.stage import Stage
from models.catalogue.rows import WorkerRow
from models.catalogue.states import WorkerState
from models.fleet.roster import has_toolchain, platform_of
from toolchains.toolchain import Toolchain


def complete_version(
    requested: ToolchainRef,
    selector: PlatformSelector,
    toolchain: Toolchain,
    fleet: Sequence[WorkerRow],
    binding: DriverBinding,
    findings: Findings,
) -> str | None:
    """The requested version; without one, the newest stable version of the workers that fit best, else of all releases.

    Pre-releases (rc, dev, alpha, beta) are chosen only if these workers have nothing else; a requested one is taken.
    A note says which version was chosen, and why.

    Args:
        selector: the platform that the spec asks for. A worker of another platform decides nothing if one matches.

    Returns:
        None if the requested version is neither a release nor on a present worker; `findings` says so.
    """
    released = [release.version for release in toolchain.releases()]
    if requested.version is None:
        installed = _versions_to_choose_from(selector, toolchain, fleet, binding)
        # A version that a worker has can be built now; the newest release might wait for a worker for ever.
        version = newest(installed or released)
        if not installed:
            reason = f"no worker with {toolchain.name} is there; it is the newest stable release that the farm knows"
        elif _version_order(version).is_prerelease:
            reason = "the only workers for this request have a pre-release"
        else:
            reason = "the newest stable version on a worker for this request"
        findings.add_notes(
            Problem(
                pointer="/toolchain/version",
                code="version_chosen",
                detail=f"no version is given, so {toolchain.name} {version} is taken: {reason}",
                expected=version,
                remedy=f"set toolchain.version (--toolchain {toolchain.name}@{version}) to keep this version",
            )
        )
        return version

    installed = {version for worker in fleet for version in _versions_of(worker, toolchain)}
    # A worker that is newer than this API may have a version that the API does not list.
    if requested.version in released or requested.version in installed:
        return requested.version
    versions = sorted({*released, *installed}, key=_version_order, reverse=True)
    remedy = "GET /v1/toolchains lists the versions; leave it out for the newest stable one of a live worker"
    # A series without its last number, such as 0.17.
    similar = [version for version in versions if version.startswith(f"{requested.version}.")]
    if similar:
        remedy = f"write {toolchain.name}@{newest(similar)}"
    findings.add(
        Problem(
            pointer="/toolchain/version",
            code="unknown_version",
            detail=f"{toolchain.name} {requested.version} is not a version that this farm knows",
            value=requested.version,
            expected=", ".join(similar or versions),
            remedy=remedy,
        )
    )
    return None


def newest(versions: Collection[str]) -> str:
    """The newest stable version; the newest pre-release if there is no stable one."""
    stable = [version for version in versions if not _version_order(version).is_prerelease]
    return max(stable or versions, key=_version_order)


def _versions_to_choose_from(
    selector: PlatformSelector, toolchain: Toolchain, fleet: Sequence[WorkerRow], binding: DriverBinding
) -> set[str]:
    """The versions on the workers that fit the request best: by platform first, then those that take new work."""
    builders: dict[tuple[bool, bool], set[str]] = {}
    for worker in fleet:
        versions = _versions_of(worker, toolchain, Stage.BUILD)
        if versions:
            rank = (selector.matches(platform_of(worker), binding), worker.state == WorkerState.LIVE)
            builders.setdefault(rank, set()).update(versions)
    if builders:
        return builders[max(builders)]
    # A worker that only converts shows at least which version the farm's operator installs.
    return {version for worker in fleet for version in _versions_of(worker, toolchain)}


def _versions_of(worker: WorkerRow, toolchain: Toolchain, stage: Stage | None = None) -> set[str]:
    """The versions of this toolchain that the worker reported, for this stage if one is given."""
    versions = set()
    for capability in worker.capabilities:
        if capability["toolchain"] == toolchain.name and (stage is None or stage in capability["stages"]):
            versions.add(capability["version"])
    return versions


def complete_platform(
    requested: PlatformSelector,
    toolchain: Toolchain,
    version: str,
    fleet: Sequence[WorkerRow],
    binding: DriverBinding,
    findings: Findings,
) -> Platform | None:
    """The platform of the only kind of live worker that matches, or the one that the request spells out in full.

    None: several kinds match, or none does and the request is partial; `findings` lists the candidates.
    """
    # Workers that differ only in fields that no engine of this toolchain is bound to are of one kind.
    kinds: dict[str, Platform] = {}
    for worker in fleet:
        if has_toolchain(worker, toolchain.name, version, Stage.BUILD):
            platform = platform_of(worker)
            kinds.setdefault(repr(platform.bound(toolchain.binds_to, binding)), platform)
    matching = [platform for platform in kinds.values() if requested.matches(platform, binding)]
    if len(matching) == 1:
        return matching[0]
    missing = requested.missing(toolchain.binds_to)
    if not matching and not missing:
        # No worker has this platform yet. The request is whole, so the build waits and its status gives this reason.
        try:
            return requested.complete()
        except ValidationError as error:
            # A CPU with a CUDA version, for instance: each field is right by itself.
            problems = problems_of(error.errors(include_url=False))
            for problem in problems:
                below = {"pointer": f"/platform{problem.pointer}", "code": "platform_impossible"}
                findings.add(problem.model_copy(update=below))
            return None

    # Not a guess among the candidates: an engine for another kind of machine would not load.
    subject = f"{toolchain.name} {version}"
    requested_fields = requested.model_dump(exclude_none=True)
    candidates = matching or list(kinds.values())
    if matching:
        code = "platform_ambiguous"
        detail = f"{len(matching)} kinds of live worker with {subject} match"
        remedy = "give more of the platform's fields, so that one kind is left"
    else:
        code = "platform_unknown"
        detail = f"no live worker with {subject} matches, and the platform is not complete"
        remedy = f"to wait for a machine that is not there yet, give {', '.join(missing)}"
        if not requested_fields:
            remedy += " (or cpu_isa for a CPU engine)"
        if candidates:
            remedy = f"name one of the candidates; or, {remedy}"
    if candidates:
        expected = f"one of: {'; '.join(platform_text(platform) for platform in candidates)}"
    else:
        detail = f"no live worker has {subject}, and the platform is not complete"
        expected = f"a platform with {', '.join(missing)} too, or a worker with {subject}"
    findings.add(
        Problem(
            pointer="/platform",
            code=code,
            detail=detail,
            value=requested_fields,
            expected=expected,
            remedy=remedy,
        )
    )
    return None


def platform_text(platform: Platform) -> str:
    """The platform for a person: its known fields, without the operating system, which is always Linux."""
    fields = platform.model_dump(exclude_none=True, exclude={"os"})
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"


def _version_order(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        # A worker may report a version in another form than PEP 440's; it sorts last.
        return Version("0")
