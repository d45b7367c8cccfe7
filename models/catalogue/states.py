"""The states of rows, and the moves that an action may make. models.lifecycle.transitions makes them."""

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
    """A build has no state of its own while it is open: readers see that of its action."""

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
    HANDED_BACK = "handed_back"  # its worker was stopped; the try does not count


class WorkerState(StrEnum):
    """The stored state of a worker's process. models.fleet.worker_states says what each means to readers."""

    LIVE = "live"
    DRAINING = "draining"  # finishes what it runs, takes nothing new
    QUARANTINED = "quarantined"  # takes nothing new until it is released, also after a restart
    GONE = "gone"  # stopped, or silent for too long


_S = ActionState
IN_FLIGHT = frozenset({_S.WAITING, _S.QUEUED, _S.RUNNING})
CLOSED = frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED})

# Target state → the states that may move there. A submit opens a closed action again if its output is missing. A build
# action waits again if the checkpoint that it starts from is withdrawn.
MOVES: Mapping[ActionState, frozenset[ActionState]] = {
    _S.WAITING: CLOSED | {_S.QUEUED, _S.RUNNING},
    _S.QUEUED: CLOSED | {_S.WAITING, _S.RUNNING},
    _S.RUNNING: frozenset({_S.QUEUED}),
    _S.SUCCEEDED: frozenset({_S.RUNNING}),
    _S.FAILED: IN_FLIGHT,
    _S.CANCELLED: IN_FLIGHT,
}


class Fenced(Exception):
    """The row is not in the state or attempt that the move needs: another worker or transaction owns it now."""


def sources(to: ActionState, among: Iterable[ActionState]) -> list[str]:
    """The states of `among` that may move to `to`, for a WHERE clause.

    Raises:
        ValueError: none may; the caller's code is wrong.
    """
    allowed = [str(state) for state in among if state in MOVES[to]]
    if not allowed:
        raise ValueError(f"no move to {to} from any of {list(among)}")
    return allowed


def leaving(to: ActionState) -> Mapping[str, Any]:
    """Columns that a move out of `running` must clear, so that the CHECKs hold."""
    if to is _S.RUNNING:
        return {}
    return {"worker_id": None, "lease_expires_at": None}
