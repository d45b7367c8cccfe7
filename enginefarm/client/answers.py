"""Check that what a farm answers is what was asked for: a mirror or a proxy may answer with another engine."""

from __future__ import annotations

from enginefarm.contract.document_version import require_version
from enginefarm.contract.errors import FarmError, IntegrityError
from enginefarm.contract.key import BUILD
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.model.reference import HubReference
from enginefarm.wire.bodies import Build, Engine
from enginefarm.wire.engine_binding import require_bound, second_models
from enginefarm.wire.resolution import EngineRequirements, Resolution
from enginefarm.wire.suitability import Offer, compare


def require_build(build: Build, build_id: str) -> None:
    """Return if `build` is the build that was asked for, and its engine is that of its key.

    Raises:
        IntegrityError: it is not.
    """
    if build.id != build_id:
        raise IntegrityError(f"asked for build {build_id}, got build {build.id[:64]}: do not trust who answered")
    if build.engine is not None and build.engine.key != build.key:
        raise IntegrityError(
            f"build {build.id} of engine {build.key[:12]} comes with engine {build.engine.key[:12]}: "
            "do not trust the farm or mirror that answered"
        )


def checked_resolution(resolution: Resolution, requirements: EngineRequirements) -> Resolution:
    """Return the resolution as its engine's documents prove it; its `exact` and its lists are computed here.

    That no better engine exists is the farm's word.

    Raises:
        IntegrityError: the engine does not meet the requirements, or its record does not agree with its key.
        FarmError: the farm is too old to state what the engine was built from.
        InvalidRequest: the engine's documents are of a version that this program does not read.
    """
    engine = resolution.engine
    require_bound(engine)
    name = f"engine {engine.key[:12]}"
    require_version(name, "document.document", engine.document.get("document"), BUILD)
    if not engine.checkpoint_document:
        raise FarmError(f"the farm does not state what {name} was built from: upgrade the farm")
    if not _same_model(requirements.model, engine.model):
        raise _unsuitable(engine, f"asked for the model {requirements.model}, it is of {engine.model}")
    offer = Offer(
        engine.toolchain, engine.version, engine.spec, engine.bound_to, engine.driver_binding, engine.provenance
    )
    suitability = compare(offer, requirements)
    if suitability.obstacles:
        first = suitability.obstacles[0]
        raise _unsuitable(engine, f"asked for {first.pointer} {first.wanted!r}, it has {first.has!r}")
    unrequested = second_models(engine) - set(requirements.options)
    if unrequested:
        raise _unsuitable(engine, f"it has the adapters or draft heads of /options/{min(unrequested)}, not asked for")
    return resolution.model_copy(
        update={
            "exact": not suitability.larger,
            "differences": list(suitability.larger),
            "unchecked": list(suitability.unchecked),
        }
    )


def _same_model(requested: str, actual: str) -> bool:
    """True if `actual` is the requested model, or a commit of it where the request names no revision."""
    if requested == actual:
        return True
    try:
        reference = model_reference.parse(actual)
    except ValueError:
        return False
    # In the path of a folder or a bucket, `@` is a character like others.
    return isinstance(reference, HubReference) and f"hf:{reference.repo}" == requested


def _unsuitable(engine: Engine, difference: str) -> IntegrityError:
    return IntegrityError(
        f"the farm resolved to engine {engine.key[:12]}, which does not serve: {difference}; "
        "do not trust the farm or mirror that answered"
    )
