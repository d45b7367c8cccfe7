"""Decide by the retention policies which engines and checkpoints to remove, and why. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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

# Pulls are noted at most once in this time, so `pulled_at` may be that much too old.
LINKS_NOTED_SECONDS = 60.0


def engines_to_remove(session: Session, policies: Sequence[Policy], *, link_seconds: float) -> list[RemovalCandidate]:
    """Engines that no rule keeps, the newest first.

    The first policy that fits an engine decides. A withdrawn engine goes without any policy. A pinned engine stays, and
    so does one with a link that may still be valid: links are valid for `link_seconds`.
    """
    time = session.execute(select(now())).scalar_one()
    links_expired_before = time - timedelta(seconds=link_seconds + LINKS_NOTED_SECONDS)
    query = select(EngineRow, ManifestRow.size).join(ManifestRow, ManifestRow.digest == EngineRow.manifest)
    newer_engines: Counter[tuple[str, str]] = Counter()  # by model and platform, of those that were seen so far
    candidates = []
    # From the newest to the oldest, so that `keep_last` knows how many newer ones an engine has.
    for row, size in session.execute(query.order_by(EngineRow.created_at.desc(), EngineRow.key)):
        model_name = _without_revision(row.model)
        platform_label = Platform.model_validate(row.platform).label()
        reason = None
        if row.quarantined_at is not None:
            # It is not counted as a newer one either: it must not push a good engine out.
            reason = f"withdrawn: {row.quarantine_reason}"
        else:
            policy = deciding_policy(policies, model_name, platform_label, row.platform["gpu"])
            if policy is not None:
                reason = _reason_to_remove(policy, row, newer_engines[model_name, platform_label], time)
            newer_engines[model_name, platform_label] += 1
        link_may_be_valid = row.pulled_at is not None and row.pulled_at > links_expired_before
        if reason is None or row.pinned or link_may_be_valid:
            continue
        candidates.append(
            RemovalCandidate(
                kind="engine",
                key=row.key,
                model=row.model,
                platform=platform_label,
                size=size,
                reason=reason,
                since=row.marked_for_removal_at,
            )
        )
    return candidates


def _without_revision(model: str) -> str:
    return model.partition("@")[0]


def deciding_policy(policies: Sequence[Policy], model_name: str, label: str, gpu: str | None) -> Policy | None:
    """The first policy that fits engines of this model (without a revision) on this platform; None if none does."""
    for policy in policies:
        # Not fnmatch, which ignores case on some operating systems.
        fits_model = policy.model is None or fnmatchcase(model_name, _without_revision(policy.model))
        if fits_model and policy.platform in {None, label, gpu}:
            return policy
    return None


def _reason_to_remove(policy: Policy, row: EngineRow, newer_engines: int, time: datetime) -> str | None:
    """Why no rule of `policy` keeps the engine; None if one does. `newer_engines` are of its model and platform."""
    reasons = []
    if policy.keep_last is not None:
        if newer_engines < policy.keep_last:
            return None
        reasons.append(f"{newer_engines} of its model and platform are newer")
    if policy.keep_days is not None:
        if time - row.created_at < timedelta(days=policy.keep_days):
            return None
        reasons.append(f"older than {policy.keep_days:g} days")
    if policy.keep_pulled_days is not None:
        if row.pulled_at is not None and time - row.pulled_at < timedelta(days=policy.keep_pulled_days):
            return None
        reasons.append(f"not pulled for {policy.keep_pulled_days:g} days")
    return ", ".join(reasons)


def checkpoints_to_remove(
    session: Session, engines_removed: Sequence[str], *, keep_days: float
) -> list[RemovalCandidate]:
    """Checkpoints that no engine was built from except `engines_removed`, and that no action in flight starts from.

    Withdrawn ones go at once, others when they are older than `keep_days`.
    """
    build = aliased(ActionRow)
    # Engines of the same clean-up count as removed, so that a checkpoint is marked together with its last engine.
    remaining_engines = (
        select(EngineRow.key)
        .join(build, build.key == EngineRow.key)
        .where(build.depends_on == CheckpointRow.key, EngineRow.key.not_in(engines_removed))
    )
    # A build that waits, or runs again after a failure, starts from the checkpoint.
    needed = exists().where(ActionRow.depends_on == CheckpointRow.key, ActionRow.state.in_(IN_FLIGHT))
    query = (
        select(CheckpointRow, ManifestRow.size)
        .join(ManifestRow, ManifestRow.digest == CheckpointRow.manifest)
        .where(~needed, ~remaining_engines.exists())
        .where((CheckpointRow.quarantined_at.is_not(None)) | (CheckpointRow.created_at <= now(-keep_days * 86400)))
        .order_by(CheckpointRow.created_at.desc(), CheckpointRow.key)
    )
    candidates = []
    for row, size in session.execute(query):
        if row.quarantined_at is not None:
            reason = f"withdrawn: {row.quarantine_reason}"
        else:
            reason = f"no engine is left that was built from it, and it is older than {keep_days:g} days"
        candidates.append(
            RemovalCandidate(kind="checkpoint", key=row.key, size=size, reason=reason, since=row.marked_for_removal_at)
        )
    return candidates


def freed_bytes(session: Session, candidates: Sequence[RemovalCandidate]) -> int:
    """Bytes of the blobs that nothing refers to after all candidates are removed."""
    # Not the sum of the sizes: engines share files, and a shared file is freed with the last of them.
    removed_keys = {candidate.key for candidate in candidates}
    kept_manifests: list[str] = []
    removed_manifests: list[str] = []
    for row in (EngineRow, CheckpointRow):
        for key, manifest in session.execute(select(row.key, row.manifest)):
            if key in removed_keys:
                removed_manifests.append(manifest)
            else:
                kept_manifests.append(manifest)
    query = select(func.coalesce(func.sum(BlobRow.size), 0)).where(
        exists().where(ManifestFileRow.blob == BlobRow.digest, ManifestFileRow.manifest.in_(removed_manifests)),
        ~exists().where(ManifestFileRow.blob == BlobRow.digest, ManifestFileRow.manifest.in_(kept_manifests)),
        # Warm files and logs are kept by rows of their own.
        ~exists().where(WarmFileRow.blob == BlobRow.digest),
        ~exists().where(AttemptRow.log_digest == BlobRow.digest),
    )
    return int(session.execute(query).scalar_one())
