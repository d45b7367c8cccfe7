"""Which engines and checkpoints are to go, and why. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from enginefarm.contract.platform import Platform
from enginefarm.wire.retention import Policy, RemovalCandidate
from models.catalogue.clock import now
from models.catalogue.rows import (
    ActionRow,
    AttemptRow,
    BlobRow,
    CheckpointRow,
    EngineRow,
    ManifestFileRow,
    ManifestRow,
    WarmFileRow,
)
from models.catalogue.states import IN_FLIGHT

LINKS_NOTED_SECONDS = 60.0  # `pulled_at` may be behind by so much


def engines_to_remove(session: Session, policies: Sequence[Policy], *, link_seconds: float) -> list[RemovalCandidate]:
    """Engines that no rule keeps, oldest last. Never one that is pinned, or to which somebody holds a good link."""
    time = session.execute(select(now())).scalar_one()
    pulled_now = time - timedelta(seconds=link_seconds + LINKS_NOTED_SECONDS)
    query = select(EngineRow, ManifestRow.size).join(ManifestRow, ManifestRow.digest == EngineRow.manifest)
    newer: Counter[tuple[str, str]] = Counter()
    going = []
    for row, size in session.execute(query.order_by(EngineRow.created_at.desc(), EngineRow.key)):
        name, label = _name(row.model), Platform.model_validate(row.platform).label()
        reason = f"taken out: {row.quarantine_reason}" if row.quarantined_at else None
        if reason is None:
            policy = next((policy for policy in policies if _means(policy, name, label, row.platform["gpu"])), None)
            reason = _not_kept(policy, row, newer[name, label], time) if policy else None
            newer[name, label] += 1
        if reason and not row.pinned and not (row.pulled_at and row.pulled_at > pulled_now):
            going.append(
                RemovalCandidate(kind="engine", key=row.key, model=row.model, platform=label, size=size, reason=reason,
                      since=row.marked_for_removal_at)
            )  # fmt: skip
    return going


def _name(model: str) -> str:
    return model.partition("@")[0]


def _means(policy: Policy, name: str, label: str, gpu: str | None) -> bool:
    return (policy.model is None or fnmatchcase(name, _name(policy.model))) and policy.platform in {None, label, gpu}


def _not_kept(policy: Policy, row: EngineRow, newer: int, time: datetime) -> str | None:
    """Why nothing in `policy` keeps the engine, which `newer` of its model and platform are newer than; None: it is."""
    reasons = []
    if policy.keep_last is not None:
        if newer < policy.keep_last:
            return None
        reasons.append(f"{newer} of its model and platform are newer")
    if policy.keep_days is not None:
        if time - row.created_at < timedelta(days=policy.keep_days):
            return None
        reasons.append(f"older than {policy.keep_days:g} days")
    if policy.keep_pulled_days is not None:
        if row.pulled_at is not None and time - row.pulled_at < timedelta(days=policy.keep_pulled_days):
            return None
        reasons.append(f"not pulled for {policy.keep_pulled_days:g} days")
    return ", ".join(reasons)


def checkpoints_to_remove(session: Session, engines: Sequence[str], *, keep_days: float) -> list[RemovalCandidate]:
    """Checkpoints from which no engine is left but `engines`, which go; none that a build is to start from.

    Those that were taken out go at once, others when they are older than `keep_days`.
    """
    build = aliased(ActionRow)
    left = select(EngineRow.key).join(build, build.key == EngineRow.key).where(build.depends_on == CheckpointRow.key)
    wanted = exists().where(ActionRow.depends_on == CheckpointRow.key, ActionRow.state.in_(IN_FLIGHT))
    query = (
        select(CheckpointRow, ManifestRow.size)
        .join(ManifestRow, ManifestRow.digest == CheckpointRow.manifest)
        .where(~wanted, ~left.where(EngineRow.key.not_in(engines)).exists())
        .where((CheckpointRow.quarantined_at.is_not(None)) | (CheckpointRow.created_at <= now(-keep_days * 86400)))
        .order_by(CheckpointRow.created_at.desc(), CheckpointRow.key)
    )
    return [
        RemovalCandidate(kind="checkpoint", key=row.key, size=size, since=row.marked_for_removal_at,
              reason=f"taken out: {row.quarantine_reason}" if row.quarantined_at
              else f"no engine is left that was built from it, and it is older than {keep_days:g} days")
        for row, size in session.execute(query)
    ]  # fmt: skip


def freed_bytes(session: Session, going: Sequence[RemovalCandidate]) -> int:
    """Bytes that nothing else refers to once all of `going` is removed."""
    kept = [*_manifests(session, going, stay=True)]
    lost = [*_manifests(session, going, stay=False)]
    query = select(func.coalesce(func.sum(BlobRow.size), 0)).where(
        exists().where(ManifestFileRow.blob == BlobRow.digest, ManifestFileRow.manifest.in_(lost)),
        ~exists().where(ManifestFileRow.blob == BlobRow.digest, ManifestFileRow.manifest.in_(kept)),
        ~exists().where(WarmFileRow.blob == BlobRow.digest),
        ~exists().where(AttemptRow.log_digest == BlobRow.digest),
    )
    return int(session.execute(query).scalar_one())


def _manifests(session: Session, going: Sequence[RemovalCandidate], *, stay: bool) -> Iterator[str]:
    keys = {found.key for found in going}
    for row in (EngineRow, CheckpointRow):
        for key, manifest in session.execute(select(row.key, row.manifest)):
            if (key in keys) is not stay:
                yield manifest
