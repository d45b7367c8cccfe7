"""From a spec to keyed actions: resolve the model, complete, normalise, check, key. Nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from api.planning import inputs
from api.planning.completion import complete_platform, complete_version
from api.planning.fleet_view import FleetView
from enginefarm.contract import model_reference
from enginefarm.contract.errors import InvalidSpec, ModelUnavailable, Problem
from enginefarm.contract.key import build_document, convert_document, key_of
from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.platform import Platform, PlatformSelector
from enginefarm.contract.spec import BuildSpec, ToolchainRef
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job, Work
from models.caching import TimedCache
from models.catalogue.rows import WorkerRow
from models.lifecycle.submission import NewAction, Request
from models.queue.names import build_queue, convert_queue
from models.settings import Settings
from models.sources import ResolvedModel, Sources
from toolchains.inputs import CALIBRATION
from toolchains.registry import all_toolchains
from toolchains.toolchain import Toolchain

_PLANNED_SECONDS = 60.0  # the fleet, as a request sees it, is another long before


@dataclass(frozen=True)
class Plan:
    """A request ready to be submitted, and what was changed on the way."""

    request: Request
    spec: BuildSpec  # normalised
    notes: tuple[Problem, ...]

    def asked_by(self, name: str | None) -> Request:
        return replace(self.request, requested_by=name)


@dataclass(frozen=True)
class Draft:
    """A request that may have faults. `request` is there if the spec was whole enough to have a key."""

    spec: BuildSpec  # normalised as far as it could be
    request: Request | None = None
    notes: tuple[Problem, ...] = ()
    findings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class _Inputs:
    """What a build reads, pinned."""

    model: ResolvedModel
    beside: inputs.Inputs
    said: Mapping[str, dict[str, Any]]  # by the second models among them

    @property
    def facts(self) -> ModelFacts:
        """Of the model, and of what is read beside it."""
        return self.model.facts.model_copy(update={"beside": self.said})


@dataclass(frozen=True)
class _Planned:
    """A plan, and what it was made from beside the spec."""

    fleet: Sequence[WorkerRow]
    model: ResolvedModel
    plan: Plan


class Planner:
    def __init__(self, settings: Settings, sources: Sources, fleet: FleetView) -> None:
        self._settings = settings
        self._sources = sources
        self._fleet = fleet
        self._planned: TimedCache[str, _Planned] = TimedCache()

    def plan(self, spec: BuildSpec) -> Plan:
        """Raises InvalidSpec with everything that is wrong, SourceUnavailable if the model's source is away."""
        draft = self.draft(spec)
        if draft.findings or draft.request is None:
            raise InvalidSpec(draft.findings)
        asked = spec.model_dump(mode="json", exclude_unset=True)
        return Plan(replace(draft.request, spec_as_written=asked), draft.spec, draft.notes)

    def plan_at_hand(self, spec: BuildSpec) -> Plan | None:
        """As `plan`, if that takes no network and no reading of files; the same spec is planned once a second.

        Raises InvalidSpec.
        """
        toolchain = all_toolchains().get(spec.toolchain.name)
        if toolchain is None or any(inputs.mentions(spec, toolchain)):
            return None
        resolved = self._sources.at_hand(model_reference.parse(spec.model))
        if resolved is None:
            return None
        asked, fleet = spec.model_dump_json(exclude_unset=True), self._fleet.there()
        known = self._planned.get(asked)
        if known and known.fleet is fleet and known.model == resolved:
            return known.plan
        plan = self.plan(spec)
        self._planned.put(asked, _Planned(fleet, resolved, plan), _PLANNED_SECONDS)
        return plan

    def draft(self, spec: BuildSpec) -> Draft:
        """Plan as far as it goes; say what is in the way. Raises SourceUnavailable if the model's source is away."""
        try:
            toolchain = _toolchain(spec.toolchain.name)
            version = complete_version(spec.toolchain, toolchain, self._fleet.there())
        except InvalidSpec as error:
            return Draft(spec, findings=error.problems)
        findings: list[Problem] = []
        platform: Platform | Problem | None = None
        if isinstance(version, Problem):
            findings.append(version)
        else:
            platform = self._platform(spec, toolchain, version)
            findings += [platform] if isinstance(platform, Problem) else []
        resolved = self._resolve(spec.model, findings)
        beside = inputs.resolved(self._sources, spec, toolchain, findings)
        said = inputs.settings(self._sources, beside, findings)
        if findings or resolved is None or not isinstance(platform, Platform) or isinstance(version, Problem):
            return Draft(spec, findings=tuple(findings))
        read = _Inputs(resolved, beside, said)
        return self._draft(_completed(spec, read, version, platform), toolchain, version, read, platform)

    def _platform(self, spec: BuildSpec, toolchain: Toolchain, version: str) -> Platform | Problem:
        fleet, binding = self._fleet.there(), self._settings.driver_binding
        return complete_platform(spec.platform, toolchain, version, fleet, binding)

    def _resolve(self, reference: str, problems: list[Problem]) -> ResolvedModel | None:
        try:
            return self._sources.resolve(model_reference.parse(reference))
        except ModelUnavailable as error:
            problems.extend(error.problems or [Problem(pointer="/model", code=error.code, detail=error.detail)])
            return None

    def _draft(self, asked: BuildSpec, toolchain: Toolchain, version: str, read: _Inputs, platform: Platform) -> Draft:
        resolved, facts = read.model, read.facts
        try:
            spec, notes = toolchain.normalise(asked, facts, platform)
            findings = toolchain.preflight(spec, facts, platform)
        except InvalidSpec as error:
            return Draft(asked, findings=error.problems)
        convert = _convert_action(spec, toolchain, version, read)
        bound = platform.bound(toolchain.binds_to, self._settings.driver_binding)
        request = Request(
            convert=convert,
            build=_build_action(spec, toolchain, version, read, platform, convert=convert.key, bound=bound),
            model=resolved.reference,
            toolchain=toolchain.name,
            version=version,
            spec=spec.model_dump(mode="json"),
            platform=platform.model_dump(),
            platform_label=platform.label(),
            requested_by=None,
        )
        return Draft(spec, request, tuple(notes), tuple(findings))


def _toolchain(name: str) -> Toolchain:
    known = all_toolchains()
    if name not in known:
        raise InvalidSpec(
            [
                Problem(
                    pointer="/toolchain/name", code="unknown_toolchain", detail=f"there is no toolchain {name!r}",
                    value=name, expected=" or ".join(sorted(known)), remedy="GET /v1/toolchains lists them",
                )
            ]
        )  # fmt: skip
    return known[name]


def _completed(spec: BuildSpec, read: _Inputs, version: str, platform: Platform) -> BuildSpec:
    return spec.model_copy(
        update={
            "model": read.model.reference,
            "options": inputs.pinned(spec, read.beside),
            "toolchain": ToolchainRef(name=spec.toolchain.name, version=version),
            "platform": PlatformSelector(**platform.model_dump()),
        }
    )


def _convert_action(spec: BuildSpec, toolchain: Toolchain, version: str, read: _Inputs) -> NewAction:
    resolved, beside = read.model, inputs.of_convert(read.beside, toolchain)
    options = {name: value for name, value in spec.options.items() if name in toolchain.convert_options}
    data = beside.get(CALIBRATION)
    document = convert_document(
        toolchain=toolchain.name,
        version=version,
        model=resolved.identity,
        precision=spec.precision,
        parallelism=spec.parallelism,
        options=inputs.keyed(options, beside),
        calibration=data.identity if data else None,
    )
    job = Job(
        stage=Stage.CONVERT, toolchain=toolchain.name, version=version, spec=spec, facts=resolved.facts, platform=None
    )
    work = Work(job=job, model=resolved, inputs=dict(beside))
    queue = convert_queue(toolchain.name, version, on_gpu=toolchain.needs(job).gpu)
    return NewAction(key_of(document), Stage.CONVERT, queue, document, work)


def _build_action(
    spec: BuildSpec,
    toolchain: Toolchain,
    version: str,
    read: _Inputs,
    platform: Platform,
    *,
    convert: str,
    bound: dict[str, Any],
) -> NewAction:
    beside = inputs.of_build(read.beside, toolchain)
    options = {name: value for name, value in spec.options.items() if name not in toolchain.convert_options}
    document = build_document(
        convert=convert,
        toolchain=toolchain.name,
        version=version,
        limits=spec.limits,
        options=inputs.keyed(options, beside),
        platform=bound,
    )
    job = Job(
        stage=Stage.BUILD, toolchain=toolchain.name, version=version, spec=spec, facts=read.model.facts,
        platform=platform,
    )  # fmt: skip
    queue = build_queue(toolchain.name, version, platform, bound)
    return NewAction(key_of(document), Stage.BUILD, queue, document, Work(job=job, inputs=dict(beside)))
