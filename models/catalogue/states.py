"""The allowed moves of an action, and the one way to make them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any


class ActionState(StrEnum):
    WAITING = "waiting"  # for the checkpoint of another action
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BuildRowState(StrEnum):
    OPEN = "open"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How an attempt ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"  # its lease ran out
    CANCELLED = "cancelled"
    HANDED_BACK = "handed_back"  # its worker was told to stop


class WorkerState(StrEnum):
    """The stored state of a worker's process. models.fleet.worker_states says what each means to readers."""

    LIVE = "live"
    DRAINING = "draining"  # finishes what it runs, takes nothing new
    QUARANTINED = "quarantined"  # takes nothing new until it is released, also after a restart
    GONE = "gone"  # stopped, or silent for too long


_S = ActionState
IN_FLIGHT = frozenset({_S.WAITING, _S.QUEUED, _S.RUNNING})
CLOSED = frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED})

# to → from. A closed action is opened again when somebody asks for what it no longer has or never made; one that was
# to start from a checkpoint waits again when that is taken out.
MOVES: Mapping[ActionState, frozenset[ActionState]] = {
    _S.WAITING: CLOSED | {_S.QUEUED, _S.RUNNING},
    _S.QUEUED: CLOSED | {_S.WAITING, _S.RUNNING},
    _S.RUNNING: frozenset({_S.QUEUED}),
    _S.SUCCEEDED: frozenset({_S.RUNNING}),
    _S.FAILED: IN_FLIGHT,
    _S.CANCELLED: IN_FLIGHT,
}


class Fenced(Exception):
    """The row was not in the state, or not in the attempt, that the move needs: somebody else owns it now."""


def sources(to: ActionState, among: Iterable[ActionState]) -> list[str]:
    """The states of `among` from which `to` may be reached, for a WHERE clause."""
    allowed = [str(state) for state in among if state in MOVES[to]]
    if not allowed:
        raise ValueError(f"no move to {to} from any of {list(among)}")
    return allowed


def leaving(to: ActionState) -> Mapping[str, Any]:
    """Columns that a move out of `running` must clear, so that the CHECKs hold."""
    return {} if to is _S.RUNNING else {"worker_id": None, "lease_expires_at": None}
