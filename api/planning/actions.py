"""The two keyed actions of a planned build: each has a key document, a queue, and the work that a worker does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api.planning.inputs import Inputs, inputs_of_build, inputs_of_convert, with_identities
from enginefarm.contract.key import Key, build_document, convert_document, key_of
from enginefarm.contract.model.resolved_files import ResolvedModel
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job, work_of
from models.lifecycle.submission import NewAction
from models.queue.names import build_queue, convert_queue
from toolchains.inputs import CALIBRATION
from toolchains.toolchain import Toolchain


@dataclass(frozen=True)
class CompletedSpec:
    """A spec that leaves nothing open, with everything that a build of it reads."""

    spec: BuildSpec  # normalized
    toolchain: Toolchain
    version: str
    platform: Platform
    bound_platform: dict[str, Any]  # the fields of `platform` that the engine is bound to, as they enter the key
    model: ResolvedModel
    inputs: Inputs


def convert_action(completed: CompletedSpec) -> NewAction:
    """The action that makes the checkpoint. Its key has no limits: many builds share a checkpoint.

    It has no platform either, unless the toolchain lays the weights out for the SM of the GPU that converts them.
    """
    spec = completed.spec
    toolchain = completed.toolchain
    version = completed.version
    # Only what convert reads enters the key, or equal checkpoints would be made once for every build option.
    inputs = inputs_of_convert(completed.inputs, toolchain)
    options = {name: value for name, value in spec.options.items() if name in toolchain.convert_options}
    calibration = None
    if CALIBRATION in inputs:
        calibration = inputs[CALIBRATION].identity
    job = Job(
        stage=Stage.CONVERT,
        toolchain=toolchain.name,
        version=version,
        spec=spec,
        facts=completed.model.facts,
        platform=None,
    )
    needs = toolchain.needs(job)
    if needs.same_sm:
        job = job.model_copy(update={"sm": completed.platform.sm})
    document = convert_document(
        toolchain=toolchain.name,
        version=version,
        model=completed.model.identity,
        precision=spec.precision,
        parallelism=spec.parallelism,
        options=with_identities(options, inputs),
        calibration=calibration,
        sm=job.sm,
    )
    # Only a convert that needs a GPU is kept from workers without one.
    queue = convert_queue(toolchain.name, version, on_gpu=needs.gpu, sm=job.sm)
    work = work_of(job, model=completed.model, inputs=inputs)
    return NewAction(key_of(document), Stage.CONVERT, queue, document, work)


def build_action(completed: CompletedSpec, convert: Key) -> NewAction:
    """The action that makes the engine from the checkpoint of the action `convert`."""
    spec = completed.spec
    toolchain = completed.toolchain
    version = completed.version
    # The key of convert stands for the model, the precision and the parallelism: the document does not repeat them.
    inputs = inputs_of_build(completed.inputs, toolchain)
    options = {name: value for name, value in spec.options.items() if name not in toolchain.convert_options}
    document = build_document(
        convert=convert,
        toolchain=toolchain.name,
        version=version,
        limits=spec.limits,
        options=with_identities(options, inputs),
        platform=completed.bound_platform,
    )
    job = Job(
        stage=Stage.BUILD,
        toolchain=toolchain.name,
        version=version,
        spec=spec,
        facts=completed.model.facts,
        platform=completed.platform,
    )
    queue = build_queue(toolchain.name, version, completed.platform, completed.bound_platform)
    return NewAction(key_of(document), Stage.BUILD, queue, document, work_of(job, inputs=inputs))
