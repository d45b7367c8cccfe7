"""Plan a build: turn a spec into a request with two keyed actions. Planning writes nothing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import ValidationError

from api.planning.actions import CompletedSpec, build_action, convert_action
from api.planning.completion import complete_platform, complete_version
from api.planning.defaults import default_limits
from api.planning.findings import Findings
from api.planning.fleet_view import FleetView
from api.planning.inputs import Inputs, auxiliary_configs, pin_inputs, with_pinned_references
from enginefarm.contract.errors import InvalidSpec, Problem
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.platform import Platform, PlatformSelector
from enginefarm.contract.spec import BuildSpec, ToolchainRef
from models.lifecycle.submission import Request
from models.settings import Settings
from models.sources import Sources
from toolchains.registry import all_toolchains


@dataclass(frozen=True)
class Plan:
    """A request that can be submitted, with notes: what was chosen or changed for the caller, and advice."""

    request: Request
    spec: BuildSpec  # normalized
    notes: tuple[Problem, ...]

    def requested_by(self, name: str | None) -> Request:
        """The request with the caller's name, which is None if the farm has no API keys.

        The plan itself has no caller, so that it can be cached for all of them.
        """
        return replace(self.request, requested_by=name)


@dataclass(frozen=True)
class Draft:
    """How far planning came. `request` is None if the findings leave the spec without keys."""

    spec: BuildSpec  # normalized as far as possible
    request: Request | None = None
    notes: tuple[Problem, ...] = ()
    findings: tuple[Problem, ...] = ()


class Planner:
    """Plans specs against the model sources and the live fleet."""

    def __init__(self, settings: Settings, sources: Sources, fleet: FleetView) -> None:
        self._settings = settings
        self._sources = sources
        self._fleet = fleet

    def plan(self, spec: BuildSpec) -> Plan:
        """
        Raises:
            InvalidSpec: with everything that is wrong with the spec.
            SourceUnavailable: a model's source did not answer.
        """
        draft = self.draft(spec)
        if draft.findings or draft.request is None:
            raise InvalidSpec(draft.findings)
        as_written = spec.model_dump(mode="json", exclude_unset=True)
        return Plan(replace(draft.request, spec_as_written=as_written), draft.spec, draft.notes)

    def draft(self, spec: BuildSpec) -> Draft:
        """Plan as far as possible. The findings of all steps are collected, so that a caller can mend them at once.

        Raises:
            SourceUnavailable: a model's source did not answer.
        """
        findings = Findings()
        toolchain = all_toolchains().get(spec.toolchain.name)
        if toolchain is None:
            findings.add(_unknown_toolchain(spec.toolchain.name))
            return Draft(spec, findings=findings.problems)

        # Complete what the spec leaves to the farm.
        fleet = self._fleet.present_workers()
        binding = self._settings.driver_binding
        version = complete_version(spec.toolchain, spec.platform, toolchain, fleet, binding, findings)
        findings.add_notes(*default_limits(spec))
        platform = None
        if version is not None:
            platform = complete_platform(spec.platform, toolchain, version, fleet, binding, findings)

        # Pin everything that a worker will read: a branch may move before the build runs.
        model = None
        with findings.collect("/model"):
            model = self._sources.resolve_model(model_reference.parse(spec.model))
        inputs = pin_inputs(self._sources, spec, toolchain, findings)
        configs = auxiliary_configs(self._sources, inputs, findings)
        if version is None or model is None:
            return Draft(spec, notes=findings.notes, findings=findings.problems)
        facts = model.facts.model_copy(update={"beside": configs})
        only_platform = all(problem.pointer.startswith("/platform") for problem in findings.problems)
        if platform is None and only_platform and spec.platform.gpu and spec.platform.sm:
            # A machine that is not described in full has no key. What no GPU of this SM can do is known without it.
            with suppress(ValidationError), findings.collect():
                machine = spec.platform.complete()
                partial = _completed(spec, toolchain.name, version, machine, model.reference, inputs)
                findings.add(*toolchain.preflight(toolchain.normalise(partial, facts, machine)[0], facts, machine))
        if findings or platform is None:
            return Draft(spec, notes=findings.notes, findings=findings.problems)

        # Normalize and check. A spec that cannot be normalized has no keys; one that fails a check has keys, so that
        # an explanation can compare it with the catalogue.
        completed = _completed(spec, toolchain.name, version, platform, model.reference, inputs)
        try:
            normalized, notes = toolchain.normalise(completed, facts, platform)
            findings.add(*toolchain.preflight(normalized, facts, platform))
        except InvalidSpec as error:
            return Draft(completed, notes=findings.notes, findings=error.problems)

        bound_platform = platform.bound(toolchain.binds_to, binding)
        planned = CompletedSpec(normalized, toolchain, version, platform, bound_platform, model, inputs)
        convert = convert_action(planned)
        request = Request(
            convert=convert,
            build=build_action(planned, convert.key),
            model=model.reference,
            toolchain=toolchain.name,
            version=version,
            spec=normalized.model_dump(mode="json"),
            platform=platform.model_dump(),
            platform_label=platform.label(),
            requested_by=None,
        )
        return Draft(normalized, request, (*findings.notes, *notes), findings.problems)


def _completed(
    spec: BuildSpec, toolchain: str, version: str, platform: Platform, model: str, inputs: Inputs
) -> BuildSpec:
    """The spec with everything that it left to the farm."""
    return spec.model_copy(
        update={
            "model": model,
            "options": with_pinned_references(spec.options, inputs),
            "toolchain": ToolchainRef(name=toolchain, version=version),
            "platform": PlatformSelector(**platform.model_dump()),
        }
    )


def _unknown_toolchain(name: str) -> Problem:
    return Problem(
        pointer="/toolchain/name",
        code="unknown_toolchain",
        detail=f"there is no toolchain {name!r}",
        value=name,
        expected=" or ".join(sorted(all_toolchains())),
        remedy="GET /v1/toolchains lists them",
    )
