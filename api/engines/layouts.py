"""Whether the weights of an engine or a checkpoint are laid out for one SM, by its toolchain.

Releases before key document `enginefarm.convert/2` shared such a checkpoint between all GPUs.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from enginefarm.contract.errors import InvalidSpec
from enginefarm.contract.key import Key
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job, UnreadableWork, read_work, toolchain_of
from models.catalogue.rows import ActionRow, EngineRow
from models.lifecycle.conversions import names_no_sm
from toolchains.registry import all_toolchains

log = logging.getLogger(__name__)

# An imported engine comes without the facts of its model: no toolchain knows this architecture.
_UNKNOWN_MODEL = ModelFacts(
    architecture="unknown",
    weight_bytes=0,
    has_safetensors=True,
    has_pickle=False,
    has_tokenizer=False,
    remote_code=False,
)


def spec_of_outdated_key(session: Session, key: Key) -> dict[str, Any] | None:
    """The normalized spec of an engine that a release without SMs in its keys planned; None if its key is right."""
    action = session.get_one(ActionRow, key)
    engine = session.get_one(EngineRow, key)
    if action.depends_on is None or not names_no_sm(session, action.depends_on):
        return None
    if not laid_out_for_sm(action.work, engine.spec):
        return None
    return engine.spec


def laid_out_for_sm(stored_work: dict[str, Any], spec: dict[str, Any] | None) -> bool:
    """Ask the toolchain whether a conversion lays the weights out for one SM.

    Args:
        stored_work: of the action that made the engine or the checkpoint.
        spec: the engine's; it stands in for work that this program cannot read, such as that of an imported engine.
    """
    reference = toolchain_of(stored_work)
    toolchain = all_toolchains().get(reference.toolchain)
    if toolchain is None:
        return False
    try:
        job = read_work(stored_work).job.model_copy(update={"stage": Stage.CONVERT})
    except UnreadableWork as unreadable:
        if spec is None:
            return False
        try:
            job = Job(
                stage=Stage.CONVERT,
                toolchain=reference.toolchain,
                version=reference.version,
                spec=BuildSpec.model_validate(spec),
                facts=_UNKNOWN_MODEL,
                platform=None,
            )
        except ValidationError:
            log.warning("the layout of an engine's weights is not known: %s", unreadable.detail)
            return False
    try:
        return toolchain.needs(job).same_sm
    except InvalidSpec as unknown_release:
        log.warning("the layout of an engine's weights is not known: %s", unknown_release.detail)
        return False
