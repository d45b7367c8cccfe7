"""Every error that the farm raises on purpose, in one tree.

    EnginefarmError
    ├── CallerError            the caller can fix it; the farm does not retry
    │   ├── InvalidSpec        422  the request does not describe something that can be built
    │   ├── InvalidRequest     400  malformed query, cursor or header
    │   ├── ModelUnavailable   422  the model source is missing, gated, or changed under the request
    │   ├── Unauthenticated    401
    │   ├── TooManyFailedSignIns 429  too many wrong API keys from this address
    │   ├── Forbidden          403
    │   ├── CrossOrigin        403  a web page of another origin sent it
    │   ├── Proxied            403  a proxy sent it, and the farm has no API keys
    │   ├── Misdirected        421  it names a host that an open farm is not
    │   ├── NotFound           404
    │   ├── Gone               410  it existed and was withdrawn; the detail has the reason
    │   └── Conflict           409  the current state does not allow it
    ├── FarmError              the fault of the farm or of a service that it needs; a retry can help unless `lasting`
    │   ├── StoreUnavailable   503
    │   ├── DatabaseUnavailable 503
    │   ├── BrokerUnavailable  503
    │   ├── SourceUnavailable  503  the model hub did not answer
    │   └── Busy               429  too many requests of this API key wait already
    ├── IntegrityError         bytes do not match their digest; they are never kept
    ├── PlatformMismatch       this engine does not run on this machine
    ├── BuildFailed            a build ended without an engine (the client raises it)
    └── WaitTimedOut           the caller's deadline passed; the build goes on (the client raises it)

The class says whose fault it is. That alone decides the HTTP status, the exit code of the command line, and whether
the farm retries. `code` is stable and for programs; `detail` is for people and may change.

The client turns a problem document back into the class with the same `code`, so a new class needs a code of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Problem(BaseModel):
    """One thing wrong with a request: where, what was given, what was expected, what to do."""

    model_config = ConfigDict(frozen=True)

    pointer: str = Field(description="JSON pointer (RFC 6901) into the request", examples=["/limits/max_batch_size"])
    code: str = Field(description="stable, machine-readable", examples=["greater_than_equal"])
    detail: str = Field(description="what is wrong, for a person")
    value: Any = Field(default=None, description="the value that was given")
    expected: str | None = Field(default=None, description="what would have been accepted")
    remedy: str | None = Field(default=None, description="what to do about it")


# A body of a megabyte can have ninety thousand mistakes. Nobody reads more than these, and each costs time and memory.
MAX_PROBLEMS = 100
_MAX_LINES = 20  # problems that one line of text repeats


def first_problems(problems: Sequence[Problem], most: int = MAX_PROBLEMS) -> tuple[Problem, ...]:
    """The first problems; if there are more than `most`, the last one says how many were left out."""
    # One more is left as it is: a client makes these errors again from what the farm answered.
    if len(problems) <= most + 1:
        return tuple(problems)
    return (*problems[:most], left_out(len(problems) - most))


def left_out(count: int) -> Problem:
    """A problem that stands for `count` others."""
    return Problem(pointer="", code="more_problems", detail=f"and {count} more problems", remedy="mend these first")


class EnginefarmError(Exception):
    """Base of the tree.

    Attributes:
        code: stable name for programs; `title` is its meaning in a few words.
        status: the HTTP status that the API answers with.
        exit_code: what the command line exits with.
        detail: what is wrong and what to do, in one line, for a person.
        problems: for a refused request, its problems: the first MAX_PROBLEMS.
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, detail: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = first_problems(problems)


class CallerError(EnginefarmError):
    """The caller can fix it; the farm does not retry."""

    code = "invalid_request"
    title = "The request cannot be served as it is"
    status = 400
    exit_code = 2


class InvalidRequest(CallerError):
    """Malformed query, cursor, header, file or argument."""


class InvalidSpec(CallerError):
    """The spec describes nothing that can be built; `problems` has the reasons, all at once."""

    code = "invalid_spec"
    title = "The spec does not describe something that can be built"
    status = 422

    def __init__(self, problems: Sequence[Problem], detail: str | None = None) -> None:
        if detail is None:
            shown = first_problems(problems, _MAX_LINES)
            lines = [f"{problem.pointer or '/'}: {problem.detail}" for problem in shown]
            detail = "; ".join(lines)
        super().__init__(detail, problems=problems)


class ModelUnavailable(CallerError):
    """The model source is missing, gated, or has changed since the request."""

    code = "model_unavailable"
    title = "The model cannot be used"
    status = 422


class Unauthenticated(CallerError):
    """The request has no API key, or one that the farm does not accept."""

    code = "unauthenticated"
    title = "An API key is needed"
    status = 401
    exit_code = 3


class Forbidden(CallerError):
    """The API key lacks the scope that the call needs."""

    code = "forbidden"
    title = "This API key may not do that"
    # The key is valid, so another login would not help: only an administrator can add the scope.
    status = 403
    exit_code = 3


class TooManyFailedSignIns(CallerError):
    """The API key is not accepted, and too many wrong keys came from this address lately."""

    code = "too_many_failed_sign_ins"
    title = "Too many wrong API keys were sent"
    status = 429
    exit_code = 3

    def __init__(self, detail: str, *, problems: Sequence[Problem] = (), retry_after_seconds: int = 6) -> None:
        super().__init__(detail, problems=problems)
        self.retry_after_seconds = retry_after_seconds


class CrossOrigin(CallerError):
    """A web page of another origin sent the request, and the browser alone authorizes it."""

    code = "cross_origin"
    title = "Pages of other origins may not use this farm"
    status = 403
    exit_code = 3


class Proxied(CallerError):
    """The request came through a proxy, and the farm has no API keys: it serves programs of its own machine only."""

    code = "proxied"
    title = "A farm without API keys serves no proxy"
    status = 403
    exit_code = 3


class Misdirected(CallerError):
    """The request's Host is no loopback address, and the farm has no API keys."""

    code = "misdirected"
    title = "The request names another host"
    status = 421
    exit_code = 3


class NotFound(CallerError):
    """No build, engine or other resource has this name."""

    code = "not_found"
    title = "The resource does not exist"
    status = 404
    exit_code = 4


class Gone(CallerError):
    """The engine existed and was withdrawn; the detail has the reason."""

    code = "gone"
    title = "The engine was withdrawn"
    status = 410
    exit_code = 4


class Conflict(CallerError):
    """The current state does not allow it."""

    code = "conflict"
    title = "The state no longer allows that"
    status = 409


class FarmError(EnginefarmError):
    """The fault of the farm, or of a service that it depends on; a retry can help unless the fault is lasting.

    Attributes:
        lasting: True if it stays until a person mends it, such as a setting; no worker tries again then.
    """

    code = "unavailable"
    title = "The farm cannot do that right now"
    status = 503
    exit_code = 5

    def __init__(self, detail: str, *, problems: Sequence[Problem] = (), lasting: bool = False) -> None:
        super().__init__(detail, problems=problems)
        self.lasting = lasting


class StoreUnavailable(FarmError):
    """The object store does not answer."""

    code = "store_unavailable"


class DatabaseUnavailable(FarmError):
    """The catalogue's database does not answer."""

    code = "database_unavailable"


class BrokerUnavailable(FarmError):
    """The queue's broker does not answer."""

    code = "broker_unavailable"


class SourceUnavailable(FarmError):
    """The model hub or bucket does not answer."""

    code = "source_unavailable"
    title = "The model's source did not answer"


class Busy(FarmError):
    """Too many requests of this API key wait or watch already; the same request may succeed later."""

    code = "busy"
    title = "Too many requests of this API key at once"
    status = 429


class IntegrityError(EnginefarmError):
    """Bytes do not match their digest, or a signature does not match what it came with; nothing of it is kept."""

    code = "integrity"
    title = "The bytes are not what their digest says"
    # Bad gateway: the caller's request was right, and what the farm has or received for it is wrong.
    status = 502
    exit_code = 6


class PlatformMismatch(EnginefarmError):
    """The engine does not run on this machine."""

    code = "platform_mismatch"
    title = "This engine does not run on this machine"
    status = 409
    exit_code = 7


class BuildFailed(EnginefarmError):
    """A build ended without an engine. Only the client raises it."""

    code = "build_failed"
    title = "The build ended without an engine"
    status = 409
    exit_code = 8


class WaitTimedOut(EnginefarmError):
    """The caller's deadline passed; the build goes on. Only the client raises it."""

    code = "wait_timed_out"
    title = "The build did not end in the time given"
    status = 504
    exit_code = 9
