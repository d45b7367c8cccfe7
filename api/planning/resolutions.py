"""Resolve models in lanes of their own before specs are planned: a hub may take its time, and folders are hashed."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from starlette.concurrency import run_in_threadpool

from api.lanes import Lane, Lanes
from api.planning.inputs import input_references
from enginefarm.contract.errors import CallerError, EnginefarmError
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.model.reference import BucketReference, FileReference, HubReference, ModelReference
from enginefarm.contract.model.resolved_files import ResolvedModel
from enginefarm.contract.spec import BuildSpec
from models.sources import Sources
from toolchains.registry import all_toolchains

_Flight = tuple[str | None, ModelReference]  # caller and model


class Resolutions:
    """Resolves a model once for all requests of a caller that name it at the same time, without a thread for each."""

    def __init__(self, sources: Sources, lanes: Lanes) -> None:
        self._sources = sources
        self._lanes = lanes
        # By caller, too: nobody waits for another caller's place in the queue of a lane.
        self._running: dict[_Flight, asyncio.Task[ResolvedModel]] = {}
        self._waiting: Counter[_Flight] = Counter()

    async def lane_for(self, spec: BuildSpec, caller: str | None, quick: Lane) -> Lane:
        """Resolve the model of `spec`, and return the lane to plan the spec in: `quick` if that asks no source again.

        Raises:
            SourceUnavailable: the model's source did not answer.
            Busy: too many requests of this caller wait for such a source.
        """
        try:
            reference = model_reference.parse(spec.model)
        except ValueError:
            return quick  # planning refuses it, with every other problem of the spec
        slow = self._lane(reference)
        if not await self._is_resolved(reference):
            try:
                await self._resolve(reference, caller)
            except CallerError:
                return slow  # planning asks the source again, and refuses the model with the spec's other problems
        # Calibration data and second models are pinned in planning: by network calls, or by hashing files.
        toolchain = all_toolchains().get(spec.toolchain.name)
        if toolchain is not None and any(input_references(spec, toolchain)):
            return self._lanes.hub
        return quick

    async def _is_resolved(self, reference: ModelReference) -> bool:
        try:
            if isinstance(reference, FileReference):
                # It reads the folder's entries.
                return await run_in_threadpool(self._sources.cached_model, reference) is not None
            return self._sources.cached_model(reference) is not None
        except EnginefarmError:
            return False

    async def _resolve(self, reference: ModelReference, caller: str | None) -> None:
        flight = (caller, reference)
        task = self._running.get(flight)
        if task is None:
            work = partial(self._sources.resolve_model, reference)
            task = asyncio.create_task(self._lane(reference).run(caller, work))
            task.add_done_callback(partial(self._forget, flight))
            self._running[flight] = task
        self._waiting[flight] += 1
        try:
            await asyncio.shield(task)
        finally:
            self._waiting[flight] -= 1
            if not self._waiting[flight]:
                del self._waiting[flight]
                # The last of those who wait has left: the call gives up its place in the queue.
                task.cancel()

    def _forget(self, flight: _Flight, task: asyncio.Task[ResolvedModel]) -> None:
        if self._running.get(flight) is task:
            del self._running[flight]
        if not task.cancelled():
            task.exception()  # read, so that asyncio does not log it when all who waited have left

    def _lane(self, reference: ModelReference) -> Lane:
        match reference:
            case HubReference():
                return self._lanes.hub
            case BucketReference():
                return self._lanes.bucket
            case FileReference():
                return self._lanes.folders
