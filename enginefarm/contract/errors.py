"""Every error the farm raises on purpose, in one tree.

    EnginefarmError
    ├── CallerError            the caller can mend it; never retried by the farm
    │   ├── InvalidSpec        422  the request does not describe something that can be built
    │   ├── InvalidRequest     400  malformed query, cursor or header
    │   ├── ModelUnavailable   422  the model source is missing, gated, or changed under the request
    │   ├── Unauthenticated    401
    │   ├── Forbidden          403
    │   ├── NotFound           404
    │   ├── Gone               410  it was there and was taken out, with the reason
    │   └── Conflict           409  true elsewhere, or no longer
    ├── FarmError              the farm's fault or its surroundings'; worth another try
    │   ├── StoreUnavailable   503
    │   ├── DatabaseUnavailable 503
    │   ├── BrokerUnavailable  503
    │   └── SourceUnavailable  503  the model hub did not answer
    ├── IntegrityError         bytes are not what their digest says; never kept
    ├── PlatformMismatch       this engine does not run on this machine
    ├── BuildFailed            a build ended without an engine (the client raises it)
    └── WaitTimedOut           the caller's own deadline passed; the build goes on (the client raises it)

The class says whose fault it is. That alone decides the HTTP status, the exit code of the command
line, and whether the farm tries again. `code` is stable; `detail` is for people.
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


class EnginefarmError(Exception):
    """Base of the tree. `status` is the HTTP status, `exit_code` what the command line returns."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, detail: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = tuple(problems)


class CallerError(EnginefarmError):
    code = "invalid_request"
    title = "The request cannot be served as it is"
    status = 400
    exit_code = 2


class InvalidRequest(CallerError):
    pass


class InvalidSpec(CallerError):
    """Carries every problem of the spec at once."""

    code = "invalid_spec"
    title = "The spec does not describe something that can be built"
    status = 422

    def __init__(self, problems: Sequence[Problem], detail: str | None = None) -> None:
        summary = detail or "; ".join(f"{p.pointer or '/'}: {p.detail}" for p in problems)
        super().__init__(summary, problems=problems)


class ModelUnavailable(CallerError):
    code = "model_unavailable"
    title = "The model cannot be used"
    status = 422


class Unauthenticated(CallerError):
    code = "unauthenticated"
    title = "An API key is needed"
    status = 401
    exit_code = 3


class Forbidden(CallerError):
    code = "forbidden"
    title = "This API key may not do that"
    status = 403
    exit_code = 3


class NotFound(CallerError):
    code = "not_found"
    title = "There is no such thing"
    status = 404
    exit_code = 4


class Gone(CallerError):
    code = "gone"
    title = "It was taken out"
    status = 410
    exit_code = 4


class Conflict(CallerError):
    code = "conflict"
    title = "The state no longer allows that"
    status = 409


class FarmError(EnginefarmError):
    code = "unavailable"
    title = "The farm cannot do that right now"
    status = 503
    exit_code = 5


class StoreUnavailable(FarmError):
    code = "store_unavailable"


class DatabaseUnavailable(FarmError):
    code = "database_unavailable"


class BrokerUnavailable(FarmError):
    code = "broker_unavailable"


class SourceUnavailable(FarmError):
    code = "source_unavailable"
    title = "The model's source did not answer"


class IntegrityError(EnginefarmError):
    code = "integrity"
    title = "The bytes are not what their digest says"
    status = 502
    exit_code = 6


class PlatformMismatch(EnginefarmError):
    code = "platform_mismatch"
    title = "This engine does not run on this machine"
    status = 409
    exit_code = 7


class BuildFailed(EnginefarmError):
    code = "build_failed"
    title = "The build ended without an engine"
    status = 409
    exit_code = 8


class WaitTimedOut(EnginefarmError):
    code = "wait_timed_out"
    title = "The build did not end in the time given"
    status = 504
    exit_code = 9
