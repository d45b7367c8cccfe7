"""Decide by the retention policies which engines and checkpoints to remove, and why. Reads only.

A review reads the catalogue a batch at a time, so that neither its statements nor its memory grow with the catalogue.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Row, exists, func, literal, select, tuple_
from sqlalchemy.orm import Session, aliased

from enginefarm.contract.platform import Platform
from enginefarm.wire.retention import Policy, RemovalCandidate
from models.catalogue.clock import UtcDateTime, now
from models.catalogue.ranges import KeyRange
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

log = logging.getLogger(__name__)

# Pulls are noted at most once in this time, so `pulled_at` may be that much too old.
LINKS_NOTED_SECONDS = 60.0

# The condition that a row of this table is to be removed, by marks or by the decisions of a dry run.
Goes = Callable[[type[EngineRow | CheckpointRow]], ColumnElement[bool]]


@dataclass
class Batch:
    """The decisions about some rows of a table, at the time `decided_at` of the database's clock."""

    table: type[EngineRow | CheckpointRow]
    decided_at: datetime
    candidates: list[RemovalCandidate] = field(default_factory=list)
    wrongly_marked: list[str] = field(default_factory=list)  # keys that are marked, and that something keeps now
    examined: int = 0


class EngineReview:
    """Decides about all engines, the newest first. An engine that no rule keeps is a candidate.

    The first policy that fits an engine decides. A withdrawn engine goes without any policy. A pinned engine stays, and
    so does one with a link that may still be valid: links are valid for `link_seconds`.
    """

    def __init__(self, policies: Sequence[Policy], *, link_seconds: float, batch_size: int) -> None:
        self._policies = policies
        self._link_seconds = link_seconds
        self._batch_size = batch_size
        self._started_at: datetime | None = None
        self._last: tuple[datetime, str] | None = None
        # By model and platform, of the engines that were seen so far. It grows with models, not with engines.
        self._newer_engines: Counter[tuple[str, str]] = Counter()
        self._counts_newer = any(policy.keep_last is not None for policy in policies)

    def next_batch(self, session: Session) -> Batch | None:
        """The decisions about the next engines; None after the last. Engines published meanwhile are left out."""
        if self._started_at is None:
            self._started_at = session.execute(select(now())).scalar_one()
        query = (
            select(
                EngineRow.key, EngineRow.model, EngineRow.platform, EngineRow.created_at, EngineRow.quarantined_at,
                EngineRow.quarantine_reason, EngineRow.pinned, EngineRow.pulled_at, EngineRow.marked_for_removal_at,
                ManifestRow.size,
            )
            .join(ManifestRow, ManifestRow.digest == EngineRow.manifest)
            .where(EngineRow.created_at <= self._started_at)
            .order_by(EngineRow.created_at.desc(), EngineRow.key.desc())
            .limit(self._batch_size)
        )  # fmt: skip
        if self._last is not None:
            created_at, key = self._last
            query = query.where(
                tuple_(EngineRow.created_at, EngineRow.key) < tuple_(literal(created_at, UtcDateTime()), literal(key))
            )
        rows = session.execute(query).all()
        if not rows:
            return None
        self._last = (rows[-1].created_at, rows[-1].key)
        batch = Batch(EngineRow, self._started_at, examined=len(rows))
        for row in rows:
            self._decide(row, batch)
        return batch

    def _decide(self, row: Row[*tuple[Any, ...]], batch: Batch) -> None:
        label = _platform_label(row)
        reason = None
        if row.quarantined_at is not None:
            # It is not counted as a newer one either: it must not push a good engine out.
            reason = f"withdrawn: {row.quarantine_reason}"
        elif label is not None:
            model_name = _without_revision(row.model)
            policy = deciding_policy(self._policies, model_name, label, row.platform["gpu"])
            if policy is not None:
                newer_engines = self._newer_engines[model_name, label] if self._counts_newer else 0
                reason = _reason_to_remove(policy, row, newer_engines, batch.decided_at)
            if self._counts_newer:
                self._newer_engines[model_name, label] += 1
        links_expired_before = batch.decided_at - timedelta(seconds=self._link_seconds + LINKS_NOTED_SECONDS)
        link_may_be_valid = row.pulled_at is not None and row.pulled_at > links_expired_before
        if reason is None or row.pinned or link_may_be_valid:
            if row.marked_for_removal_at is not None:
                batch.wrongly_marked.append(row.key)
            return
        batch.candidates.append(
            RemovalCandidate(
                kind="engine",
                key=row.key,
                model=row.model,
                platform=label,
                size=row.size,
                reason=reason,
                since=row.marked_for_removal_at,
            )
        )


def _platform_label(row: Row[*tuple[Any, ...]]) -> str | None:
    """None if the platform cannot be read: a worker that was taken over may publish any."""
    try:
        return Platform.model_validate(row.platform).label()
    except ValidationError as error:
        log.warning("no policy decides about engine %s: its platform cannot be read at %s", row.key,
                    error.errors()[0]["loc"])  # fmt: skip
        return None


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


def _reason_to_remove(policy: Policy, row: Row[*tuple[Any, ...]], newer_engines: int, time: datetime) -> str | None:
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


class CheckpointReview:
    """Decides about all checkpoints. One is a candidate if no engine that was built from it remains, and no action in
    flight starts from it: at once if it was withdrawn, else when it is older than `keep_days`.

    `goes` says which engines do not remain. They are those of the same clean-up, so that a checkpoint is marked
    together with its last engine.
    """

    def __init__(self, goes: Goes, *, keep_days: float, batch_size: int) -> None:
        self._goes = goes
        self._keep_days = keep_days
        self._batch_size = batch_size
        self._last = ""

    def next_batch(self, session: Session) -> Batch | None:
        """The decisions about the next checkpoints; None after the last."""
        # The page first: PostgreSQL would expect the conditions for all checkpoints, and read all actions for them.
        page = (
            select(
                CheckpointRow.key, CheckpointRow.manifest, CheckpointRow.created_at, CheckpointRow.quarantined_at,
                CheckpointRow.quarantine_reason, CheckpointRow.marked_for_removal_at.label("marked_for_removal_at"),
            )
            .where(CheckpointRow.key > self._last)
            .order_by(CheckpointRow.key)
            .limit(self._batch_size)
            .cte("page")
        )  # fmt: skip
        build = aliased(ActionRow)
        remaining_engines = (
            select(EngineRow.key)
            .join(build, build.key == EngineRow.key)
            .where(build.depends_on == page.c.key, ~self._goes(EngineRow))
        )
        # A build that waits, or runs again after a failure, starts from the checkpoint.
        needed = exists().where(ActionRow.depends_on == page.c.key, ActionRow.state.in_(IN_FLIGHT))
        expired = page.c.quarantined_at.is_not(None) | (page.c.created_at <= now(-self._keep_days * 86400))
        query = (
            select(
                page.c.key, page.c.quarantined_at, page.c.quarantine_reason, page.c.marked_for_removal_at,
                ManifestRow.size, (expired & ~needed & ~remaining_engines.exists()).label("goes"),
                now().label("decided_at"),
            )
            .join(ManifestRow, ManifestRow.digest == page.c.manifest)
            .order_by(page.c.key)
        )  # fmt: skip
        rows = session.execute(query).all()
        if not rows:
            return None
        self._last = rows[-1].key
        batch = Batch(CheckpointRow, rows[0].decided_at, examined=len(rows))
        for row in rows:
            if not row.goes:
                if row.marked_for_removal_at is not None:
                    batch.wrongly_marked.append(row.key)
                continue
            reason = f"no engine is left that was built from it, and it is older than {self._keep_days:g} days"
            if row.quarantined_at is not None:
                reason = f"withdrawn: {row.quarantine_reason}"
            batch.candidates.append(
                RemovalCandidate(
                    kind="checkpoint", key=row.key, size=row.size, reason=reason, since=row.marked_for_removal_at
                )
            )
        return batch


def freed_bytes(session: Session, blobs: KeyRange, goes: Goes) -> int:
    """Bytes of the blobs of a range that nothing refers to once all engines and checkpoints that go are removed."""
    # Not the sum of the sizes of engines: they share files, and a shared file is freed with the last of them.
    kept_by = []
    for row in (EngineRow, CheckpointRow):
        owners = select(row.key).join(ManifestFileRow, ManifestFileRow.manifest == row.manifest)
        kept_by.append(owners.where(ManifestFileRow.blob == BlobRow.digest, ~goes(row)).exists())
    query = select(func.coalesce(func.sum(BlobRow.size), 0)).where(
        blobs.condition(BlobRow.digest),
        exists().where(ManifestFileRow.blob == BlobRow.digest),
        *(~is_kept for is_kept in kept_by),
        # Warm files and logs are kept by rows of their own.
        ~exists().where(WarmFileRow.blob == BlobRow.digest),
        ~exists().where(AttemptRow.log_digest == BlobRow.digest),
    )
    return int(session.execute(query).scalar_one())
