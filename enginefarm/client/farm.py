"""The farm as a Python object: every call of the REST API that a caller of the farm needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError
from typing_extensions import Self

from enginefarm.client.answers import checked_resolution
from enginefarm.client.connection import Connection, StreamedResponse
from enginefarm.client.log_stream import Chunks, log_chunks, log_lines
from enginefarm.client.urls import path_segment
from enginefarm.client.waiting import build_changes, fetch_build
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import BuildFailed, Conflict, FarmError, NotFound, WaitTimedOut
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import (
    Build,
    BuildPage,
    BuildState,
    Engine,
    EnginePage,
    EngineSummary,
    Readiness,
    SigningKeyList,
    Submitted,
    Toolchain,
    ToolchainList,
    VerificationKey,
    Worker,
    WorkerList,
)
from enginefarm.wire.engine_binding import require_requested
from enginefarm.wire.engine_record import BlobSizes, EngineRecord, ImportRequest, ImportResult, MissingBlobs
from enginefarm.wire.explanation import Explanation
from enginefarm.wire.matrix import Matrix
from enginefarm.wire.recall import Damage, Inspection, Recall, WithdrawalResult
from enginefarm.wire.resolution import EngineRequirements, Resolution
from enginefarm.wire.retention import CleanUpRequest, CleanUpResult, Removal, RemovalPage

DEFAULT_URL = "http://127.0.0.1:8000"
_REPAIR_SECONDS = 3600.0  # for the farm to read all bytes of an engine
_STORE_SECONDS = 300.0  # for the store to make a large file durable after its last byte
# A write must end within the timeout. In small pieces it does so on a slow line, too.
_UPLOAD_PIECE = 1 << 16  # bytes

_Page = TypeVar("_Page", BuildPage, EnginePage, RemovalPage)
_JSON_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class Farm:
    """A farm at `url`. Use it as a context manager; it is safe to share between threads.

    Args:
        api_key: sent to the farm's own origin and nowhere else.
        timeout: seconds for one response.
        patience: seconds for which `wait`, `logs` and `pull` keep trying while the farm cannot be reached.

    Every call raises the class of the error tree that the farm refused with, or FarmError if the farm cannot be
    reached.
    """

    def __init__(
        self, url: str = DEFAULT_URL, api_key: str | None = None, *, timeout: float = 30.0, patience: float = 60.0
    ) -> None:
        self._connection = Connection(url, api_key, timeout)
        self.patience = patience

    @property
    def url(self) -> str:
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    # Builds

    def submit(self, spec: BuildSpec | Mapping[str, Any], *, require_worker: bool = False) -> Submitted:
        """Ask for an engine.

        Args:
            require_worker: refuse a spec that no live worker could build now.

        Raises:
            InvalidSpec: with every problem of the spec at once.
        """
        params = {"require_worker": _flag(require_worker)}
        response = self._connection.request("POST", "/v1/builds", params=params, json=_json(spec))
        return self._connection.parse(Submitted, response)

    def explain(self, spec: BuildSpec | Mapping[str, Any]) -> Explanation:
        """What a submit would do, and why, without doing it."""
        response = self._connection.request("POST", "/v1/builds:explain", json=_json(spec))
        return self._connection.parse(Explanation, response)

    def submit_matrix(self, spec: Mapping[str, Any], *, require_worker: bool = False) -> Matrix:
        """Submit every combination of the lists in `spec`. A refused cell is part of the result, not an error."""
        params = {"require_worker": _flag(require_worker)}
        response = self._connection.request("POST", "/v1/builds:matrix", params=params, json=dict(spec))
        return self._connection.parse(Matrix, response)

    def build(self, build_id: str, *, wait: float | None = None) -> Build:
        """One build. With `wait`, the farm delays its response for up to that many seconds until the build ends."""
        build, _etag = fetch_build(self._connection, build_id, wait=wait)
        assert build is not None, "only a request with an ETag is answered 'not modified'"
        return build

    def builds(self, **filters: str | None) -> Iterator[Build]:
        """Builds, newest first. Filters: state, model, toolchain, platform, requested_by."""
        for page in self._pages(BuildPage, "/v1/builds", filters):
            yield from page.items

    def wait(
        self, build_id: str, *, timeout: float | None = None, on_update: Callable[[Build], None] | None = None
    ) -> Build:
        """Return the build once it has ended, however it ended; `engine_of` tells success from failure.

        `on_update` is called with the build first and after every change. A farm that cannot be reached is tried
        again for as long as this client's patience lasts.

        Raises:
            WaitTimedOut: after `timeout` seconds.
        """
        deadline = math.inf
        if timeout is not None:
            deadline = time.monotonic() + timeout
        # For the error: a caller who gives up wants to know what the build waits for.
        state, reason = "not known", ""
        for build in build_changes(self._connection, build_id, deadline=deadline, patience=self.patience):
            if on_update:
                on_update(build)
            if build.state.ended:
                return build
            state = str(build.state)
            reason = f" ({build.waiting_for})" if build.waiting_for else ""
        raise WaitTimedOut(f"build {build_id} is {state}{reason} after {timeout or 0:g} s; it goes on")

    def logs(self, build_id: str, *, follow: bool = False) -> Iterator[str]:
        """The lines of a build's log, without their ends; with `follow`, until the build has ended.

        After a broken connection the log is read on from the byte where it broke.
        """
        return log_lines(self.log_chunks(build_id, follow=follow))

    def log_chunks(self, build_id: str, *, follow: bool = False) -> Chunks:
        """The bytes of a build's log as they arrive, with whatever its programs wrote: see `logs`."""
        return log_chunks(
            self._connection,
            f"/v1/builds/{path_segment(build_id)}/logs",
            patience=self.patience,
            ended=(lambda: self.build(build_id).state.ended) if follow else None,
        )

    def cancel(self, build_id: str) -> Build:
        """Cancel this build; work that another build waits for goes on."""
        response = self._connection.request("DELETE", f"/v1/builds/{path_segment(build_id)}")
        if response.status == HTTPStatus.NO_CONTENT:
            return self.build(build_id)
        return self._connection.parse(Build, response)

    # Engines

    def engines(self, *, model: str | None = None) -> Iterator[EngineSummary]:
        """The catalogue, newest first."""
        for page in self._pages(EnginePage, "/v1/engines", {"model": model}):
            yield from page.items

    def engine(self, key: str) -> Engine:
        """The engine of this key. Its record agrees with the key: see `enginefarm.wire.engine_binding`.

        Raises:
            IntegrityError: the answer is another engine, or its record was changed.
        """
        engine = self._connection.get(Engine, f"/v1/engines/{path_segment(key)}")
        require_requested(engine, key)
        return engine

    def resolve(self, requirements: EngineRequirements | Mapping[str, Any]) -> Resolution:
        """The best engine that runs on the platform in `requirements`.

        Raises:
            InvalidSpec: the requirements are malformed.
            NotFound: no engine does; the message says what the nearest engines lack.
            IntegrityError: the answered engine does not meet the requirements.
        """
        if not isinstance(requirements, EngineRequirements):
            requirements = EngineRequirements.parse(requirements)
        response = self._connection.request("POST", "/v1/engines:resolve", json=_json(requirements))
        return checked_resolution(self._connection.parse(Resolution, response), requirements)

    def pin(self, key: str, *, pinned: bool = True) -> EngineSummary:
        """Pin or unpin an engine; garbage collection skips pinned ones."""
        response = self._connection.request("PUT" if pinned else "DELETE", f"/v1/engines/{path_segment(key)}/pin")
        return self._connection.parse(EngineSummary, response)

    def delete(self, key: str) -> None:
        """Stop serving an engine; garbage collection removes it later. Raises Conflict while it is pinned."""
        self._connection.request("DELETE", f"/v1/engines/{path_segment(key)}")

    def attestation(self, key: str) -> dict[str, JsonValue]:
        """The signed DSSE envelope of an engine's provenance: see `enginefarm.trust.attestation`."""
        return self._envelope(f"/v1/engines/{path_segment(key)}/attestation", "an attestation")

    def verification_summary(self, key: str) -> dict[str, JsonValue] | None:
        """The signed DSSE envelope in which this farm states that it verified an imported engine's provenance.

        None if this farm built the engine, does not sign, or is too old to make summaries.
        """
        try:
            return self._envelope(f"/v1/engines/{path_segment(key)}/verification-summary", "a verification summary")
        except NotFound:
            return None

    def signing_keys(self) -> list[VerificationKey]:
        """The public keys that this farm claims as its own, the current one first.

        Trust them once, over a channel that you trust.
        """
        return self._connection.get(SigningKeyList, "/v1/signing-keys").items

    def revocations(self) -> dict[str, JsonValue]:
        """The signed DSSE envelope of this farm's list of recalled engines: see `enginefarm.trust.revocations`.

        Raises:
            NotFound: the farm does not sign, or is too old to have a list.
        """
        return self._envelope("/v1/revocations", "a list of recalled engines")

    def recall(self, selection: Recall | Mapping[str, Any]) -> WithdrawalResult:
        """Withdraw every engine that was built where and when `selection` says."""
        if isinstance(selection, Recall):
            # A farm of an earlier release refuses fields that it does not know: a default need not be sent.
            selection = selection.model_dump(mode="json", exclude_defaults=True)
        response = self._connection.request("POST", "/v1/engines:recall", json=_json(selection))
        return self._connection.parse(WithdrawalResult, response)

    def repair(self, key: str, *, rebuild: bool = False) -> Inspection:
        """Let the farm read all bytes of an engine again, which takes a while, and withdraw it if they are damaged."""
        path = f"/v1/engines/{path_segment(key)}:repair"
        params = {"rebuild": _flag(rebuild)}
        response = self._connection.request("POST", path, params=params, waits=_REPAIR_SECONDS)
        return self._connection.parse(Inspection, response)

    def report_damage(self, key: str, paths: list[str]) -> Inspection:
        """Report that these files of an engine arrived with wrong bytes. The farm checks its own copy."""
        path = f"/v1/engines/{path_segment(key)}:damaged"
        response = self._connection.request("POST", path, json=_json(Damage(paths=paths)), waits=_REPAIR_SECONDS)
        return self._connection.parse(Inspection, response)

    # Imports

    def missing_blobs(self, sizes: Mapping[Digest, int]) -> list[Digest]:
        """Those of `sizes` (bytes by digest) that the farm's store lacks or has only damaged."""
        body = _json(BlobSizes(blobs=dict(sizes)))
        response = self._connection.request("POST", "/v1/blobs:missing", json=body)
        return self._connection.parse(MissingBlobs, response).items

    def put_blob(self, digest: Digest, size: int, chunks: Iterable[bytes]) -> None:
        """Send a blob to the farm's store, which checks it against `digest` and `size` (bytes)."""
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        path = f"/v1/blobs/{path_segment(digest)}"
        self._connection.request("PUT", path, content=_pieces(chunks), headers=headers, waits=_STORE_SECONDS)

    def import_engine(self, record: EngineRecord, trusted_keys: Sequence[str] = ()) -> ImportResult:
        """Import an engine of another farm. Send its blobs first, with `put_blob`.

        Args:
            trusted_keys: up to 16 Ed25519 public keys in PEM. Of the keys that the farm imports from, one that is also
                among these must have signed `record.attestation`; without any, all of the farm's count.

        Raises:
            InvalidRequest: no key that the farm imports from signed the engine, or the record is not what was signed.
            Conflict: the store lacks a blob of it, or the signing key was recalled.
        """
        body = _json(ImportRequest(engine=record, trusted_keys=list(trusted_keys)))
        return self._connection.parse(ImportResult, self._connection.request("POST", "/v1/engines:import", json=body))

    # Operations

    def workers(self) -> list[Worker]:
        return self._connection.get(WorkerList, "/v1/workers").items

    def drain(self, worker: str) -> list[Worker]:
        """Let the workers with this name or id finish what they run and take no new work."""
        response = self._connection.request("POST", f"/v1/workers/{path_segment(worker)}:drain")
        return self._connection.parse(WorkerList, response).items

    def release(self, worker: str) -> list[Worker]:
        """Let the workers with this name or id take work again, whether they were drained or quarantined."""
        response = self._connection.request("POST", f"/v1/workers/{path_segment(worker)}:release")
        return self._connection.parse(WorkerList, response).items

    def clean_up(self, policies: CleanUpRequest | Mapping[str, Any] | None = None) -> CleanUpResult:
        """Mark what no policy keeps, and remove what was marked a grace period ago: see `enginefarm.wire.retention`."""
        response = self._connection.request("POST", "/v1/gc", json=_json(policies or {}), waits=_REPAIR_SECONDS)
        return self._connection.parse(CleanUpResult, response)

    def removals(self) -> Iterator[Removal]:
        """What clean-ups removed, newest first."""
        for page in self._pages(RemovalPage, "/v1/removals", {}):
            yield from page.items

    def toolchains(self) -> list[Toolchain]:
        return self._connection.get(ToolchainList, "/v1/toolchains").items

    def health(self) -> Readiness:
        """Whether the farm and each part that it depends on is ready. "Not ready" is a result, not an error."""
        response = self._connection.send("GET", "/readyz")
        # The farm answers 503 with the same body, so that a load balancer needs no parser.
        if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
            self._connection.require_success(response)
        return self._connection.parse(Readiness, response)

    def bytes(self, url: str, *, headers: Mapping[str, str]) -> AbstractContextManager[StreamedResponse]:
        """GET a file from `url`, absolute or of the farm: see `Connection.stream`."""
        return self._connection.stream(url, headers=headers)

    def _envelope(self, path: str, what: str) -> dict[str, JsonValue]:
        response = self._connection.request("GET", path)
        try:
            return _JSON_OBJECT.validate_json(response.body)
        except ValidationError:
            # Without its cause: pydantic repeats the body.
            raise FarmError(f"{self.url} answered with something that is not {what}") from None

    def _pages(self, kind: type[_Page], path: str, filters: Mapping[str, str | None]) -> Iterator[_Page]:
        # One page when the caller gets there: a catalogue may have a million rows, of which a caller wants ten.
        cursor: str | None = None
        while True:
            page = self._connection.get(kind, path, params={**filters, "cursor": cursor})
            yield page
            if page.next_cursor is None:
                return
            # A farm that has a next page has items on this one, and says where to go on. Else this would never end.
            if page.next_cursor == cursor or not page.items:
                raise FarmError(f"{self.url} answers {path} page after page without coming forward")
            cursor = page.next_cursor


def engine_of(build: Build) -> EngineSummary:
    """The engine of a build that succeeded.

    Raises:
        BuildFailed: it failed or was cancelled; says why and what to do.
        Conflict: it has not ended.
    """
    if build.engine is not None:
        return build.engine
    if not build.state.ended:
        raise Conflict(f"build {build.id} is {build.state}: it has an engine once it has succeeded")
    if build.state is BuildState.CANCELLED:
        raise BuildFailed(f"build {build.id} was cancelled")
    if build.error is None:
        raise BuildFailed(f"build {build.id} is {build.state}, and the farm names no engine and no cause")
    advice = f". {build.error.advice}" if build.error.advice else ""
    raise BuildFailed(f"build {build.id} failed ({build.error.cause}): {build.error.detail}{advice}")


def _flag(value: bool) -> str | None:
    """As a query parameter, which is left out if it is None."""
    return "true" if value else None


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), _UPLOAD_PIECE):
            yield chunk[start : start + _UPLOAD_PIECE]


def _json(body: BaseModel | Mapping[str, Any]) -> Any:
    if isinstance(body, BuildSpec):
        # As the caller wrote it: the farm notes the limits that are left to their defaults.
        return body.model_dump(mode="json", exclude_unset=True)
    if isinstance(body, BaseModel):
        return body.model_dump(mode="json")
    return dict(body)
