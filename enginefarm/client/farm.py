"""The farm, as a Python object: every call of the REST API that a caller of the farm needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self, TypeVar

import httpx
from pydantic import JsonValue, TypeAdapter

from enginefarm.client.backoff import Backoff
from enginefarm.client.byte_client import Answer, ByteClient
from enginefarm.client.connection import Connection, accepted, segment
from enginefarm.client.log_stream import log_lines
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import BuildFailed, Conflict, FarmError, WaitTimedOut
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
from enginefarm.wire.engine_record import BlobSizes, EngineRecord, ImportRequest, ImportResult, MissingBlobs
from enginefarm.wire.explanation import Explanation
from enginefarm.wire.matrix import Matrix
from enginefarm.wire.recall import Damage, Inspection, Recall, WithdrawalResult
from enginefarm.wire.resolution import EngineRequirements, Resolution
from enginefarm.wire.retention import CleanUpRequest, CleanUpResult, Removal, RemovalPage

DEFAULT_URL = "http://127.0.0.1:8000"
_HOLD_SECONDS = 10.0  # how long one long poll asks the farm to hold its answer
_REPAIR_SECONDS = 3600.0  # for the farm to read an engine
_STORE_SECONDS = 300.0  # for the store to make a large file durable, once all of it has come
_SHORTEST_ROUND = 0.25  # seconds; a farm that answers at once is not asked faster than this

_Pages = TypeVar("_Pages", BuildPage, EnginePage, RemovalPage)
_JSON_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class Farm:
    """A farm at `url`. Use it as a context manager; it is safe to share between threads.

    `timeout` is in seconds and for one answer. `patience` is how many seconds `wait`, `logs` and `pull`
    keep trying while the farm cannot be reached. Every call raises the class of the error tree that the
    farm refused with, or FarmError if the farm cannot be reached.
    """

    def __init__(
        self, url: str = DEFAULT_URL, api_key: str | None = None, *, timeout: float = 30.0, patience: float = 60.0
    ) -> None:
        self._connection = Connection(url, api_key, timeout)
        self._bytes = ByteClient(self._connection.url, api_key, timeout)
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
        self._bytes.close()

    def submit(self, spec: BuildSpec | Mapping[str, Any], *, require_worker: bool = False) -> Submitted:
        """Ask for an engine. With `require_worker`, one that no live worker could build now is refused.

        Raises InvalidSpec with every problem of the spec at once."""
        params = {"require_worker": "true"} if require_worker else {}
        response = self._connection.request("POST", "/v1/builds", params=params, json=_json(spec))
        return self._connection.parse(Submitted, response)

    def explain(self, spec: BuildSpec | Mapping[str, Any]) -> Explanation:
        """What a submit would do, and why, without doing it."""
        response = self._connection.request("POST", "/v1/builds:explain", json=_json(spec))
        return self._connection.parse(Explanation, response)

    def submit_matrix(self, spec: Mapping[str, Any], *, require_worker: bool = False) -> Matrix:
        """Submit every combination of the lists in `spec`; a cell that is refused is an answer, no error."""
        params = {"require_worker": "true"} if require_worker else {}
        response = self._connection.request("POST", "/v1/builds:matrix", params=params, json=dict(spec))
        return self._connection.parse(Matrix, response)

    def build(self, build_id: str, *, wait: float | None = None) -> Build:
        """One build; with `wait`, the farm holds its answer up to that many seconds for the end."""
        build, _ = self._look(build_id, wait, etag=None)
        assert build is not None, "only a request with an ETag is answered 'not modified'"
        return build

    def builds(self, **filters: str | None) -> Iterator[Build]:
        """Builds, newest first, page after page. Filters: state, model, toolchain, platform, requested_by."""
        for page in self._pages(BuildPage, "/v1/builds", filters):
            yield from page.items

    def wait(
        self, build_id: str, *, timeout: float | None = None, on_update: Callable[[Build], None] | None = None
    ) -> Build:
        """Return the build once it has ended, however it ended; `engine_of` tells a good end from a bad one.

        `on_update` sees the build first and after every change. A farm that cannot be reached is tried
        again for as long as this client's patience lasts.

        Raises:
            WaitTimedOut: after `timeout` seconds.
        """
        last = None
        for build in self._changes(build_id, math.inf if timeout is None else time.monotonic() + timeout):
            last = build
            if on_update:
                on_update(build)
            if build.state.ended:
                return build
        raise WaitTimedOut(_unfinished(build_id, last, timeout or 0))

    def logs(self, build_id: str, *, follow: bool = False) -> Iterator[str]:
        """The lines of a build's log, without their ends; with `follow`, until the build has ended.

        A broken connection is taken up again at the byte where it broke.
        """
        return log_lines(
            self._connection,
            f"/v1/builds/{segment(build_id)}/logs",
            backoff=Backoff(self.patience),
            ended=(lambda: self.build(build_id).state.ended) if follow else None,
        )

    def cancel(self, build_id: str) -> Build:
        """Cancel this build; work that another build waits for goes on."""
        response = self._connection.request("DELETE", f"/v1/builds/{segment(build_id)}")
        if response.status_code == httpx.codes.NO_CONTENT:
            return self.build(build_id)
        return self._connection.parse(Build, response)

    def engines(self, *, model: str | None = None) -> Iterator[EngineSummary]:
        """The catalogue, newest first, page after page."""
        for page in self._pages(EnginePage, "/v1/engines", {"model": model}):
            yield from page.items

    def resolve(self, wanted: EngineRequirements | Mapping[str, Any]) -> Resolution:
        """The best engine that runs on the platform of `wanted`. Raises NotFound, saying what the nearest lack."""
        body = wanted.model_dump(mode="json") if isinstance(wanted, EngineRequirements) else dict(wanted)
        return self._connection.parse(Resolution, self._connection.request("POST", "/v1/engines:resolve", json=body))

    def pin(self, key: str, *, pinned: bool = True) -> EngineSummary:
        """Keep an engine, whatever clears the catalogue up; or no longer."""
        response = self._connection.request("PUT" if pinned else "DELETE", f"/v1/engines/{segment(key)}/pin")
        return self._connection.parse(EngineSummary, response)

    def engine(self, key: str) -> Engine:
        return self._connection.get(Engine, f"/v1/engines/{segment(key)}")

    def attestation(self, key: str) -> dict[str, JsonValue]:
        """What the farm says of an engine, as a signed DSSE envelope: see `enginefarm.attestation`."""
        response = self._connection.request("GET", f"/v1/engines/{segment(key)}/attestation")
        return _JSON_OBJECT.validate_json(response.content)

    def signing_keys(self) -> list[VerificationKey]:
        """The keys that this farm says are its own. Trust them once, over a channel that you trust."""
        return self._connection.get(SigningKeyList, "/v1/signing-keys").items

    def workers(self) -> list[Worker]:
        return self._connection.get(WorkerList, "/v1/workers").items

    def drain(self, worker: str) -> list[Worker]:
        """Let the workers of this name (or id) finish what they run and take nothing new."""
        response = self._connection.request("POST", f"/v1/workers/{segment(worker)}:drain")
        return self._connection.parse(WorkerList, response).items

    def release(self, worker: str) -> list[Worker]:
        """Let the workers of this name (or id) take work again, whether they were drained or quarantined."""
        response = self._connection.request("POST", f"/v1/workers/{segment(worker)}:release")
        return self._connection.parse(WorkerList, response).items

    def recall(self, wanted: Recall | Mapping[str, Any]) -> WithdrawalResult:
        """Take out everything that was built where and when `wanted` says."""
        body = wanted.model_dump(mode="json") if isinstance(wanted, Recall) else dict(wanted)
        return self._connection.parse(
            WithdrawalResult, self._connection.request("POST", "/v1/engines:recall", json=body)
        )

    def repair(self, key: str, *, rebuild: bool = False) -> Inspection:
        """Have the farm read an engine's bytes again, and take it out if they are damaged. Takes as long as reading."""
        path, params = f"/v1/engines/{segment(key)}:repair", {"rebuild": "true"} if rebuild else {}
        return self._connection.parse(
            Inspection, self._connection.request("POST", path, params=params, waits=_REPAIR_SECONDS)
        )

    def clean_up(self, wanted: CleanUpRequest | Mapping[str, Any] | None = None) -> CleanUpResult:
        """Mark what no policy keeps, and remove what was marked a grace ago: see `enginefarm.retention`."""
        body = wanted.model_dump(mode="json") if isinstance(wanted, CleanUpRequest) else dict(wanted or {})
        response = self._connection.request("POST", "/v1/gc", json=body, waits=_REPAIR_SECONDS)
        return self._connection.parse(CleanUpResult, response)

    def removals(self) -> Iterator[Removal]:
        """What clean-ups removed, newest first, page after page."""
        for page in self._pages(RemovalPage, "/v1/removals", {}):
            yield from page.items

    def delete(self, key: str) -> None:
        """Have an engine served no more; clean-ups remove it. Raises Conflict while it is pinned."""
        self._connection.request("DELETE", f"/v1/engines/{segment(key)}")

    def report_damage(self, key: str, paths: list[str]) -> Inspection:
        """Say that these files of an engine came with wrong bytes; the farm looks for itself."""
        body = Damage(paths=paths).model_dump(mode="json")
        path = f"/v1/engines/{segment(key)}:damaged"
        return self._connection.parse(
            Inspection, self._connection.request("POST", path, json=body, waits=_REPAIR_SECONDS)
        )

    def missing_blobs(self, sizes: Mapping[Digest, int]) -> list[Digest]:
        """Those of `sizes` (bytes by digest) that the farm's store lacks, or holds damaged."""
        body = BlobSizes(blobs=dict(sizes)).model_dump(mode="json")
        return self._connection.parse(
            MissingBlobs, self._connection.request("POST", "/v1/blobs:missing", json=body)
        ).items

    def put_blob(self, digest: Digest, size: int, chunks: Iterable[bytes]) -> None:
        """Send a blob to the farm's store, which checks it."""
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        path = f"/v1/blobs/{segment(digest)}"
        self._connection.request("PUT", path, content=chunks, headers=headers, waits=_STORE_SECONDS)

    def import_engine(self, record: EngineRecord, trusted_keys: Sequence[str]) -> ImportResult:
        """Import an engine of another farm. Send its blobs first, with `put_blob`.

        `trusted_keys` are Ed25519 public keys in PEM, 1 to 16; one of them must have signed `record.attestation`.

        Raises:
            InvalidRequest: no trusted key signed the engine, or the record is not what was signed.
            Conflict: the store lacks a blob of it, or the signing key was recalled.
        """
        body = ImportRequest(engine=record, trusted_keys=list(trusted_keys)).model_dump(mode="json")
        return self._connection.parse(ImportResult, self._connection.request("POST", "/v1/engines:import", json=body))

    def toolchains(self) -> list[Toolchain]:
        return self._connection.get(ToolchainList, "/v1/toolchains").items

    def health(self) -> Readiness:
        """Whether the farm and each part it depends on is ready; not being ready is an answer, no error."""
        response = self._connection.send("GET", "/readyz")
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return self._connection.parse(Readiness, response)
        return self._connection.parse(Readiness, accepted(response))

    def bytes(self, url: str, *, headers: Mapping[str, str]) -> AbstractContextManager[Answer]:
        """GET a file from `url`, of the farm or absolute: see `ByteClient.get`."""
        return self._bytes.get(url, headers)

    def _changes(self, build_id: str, deadline: float) -> Iterator[Build]:
        """The build as it is, then again after every change, until the monotonic time `deadline`."""
        backoff, etag, seen = Backoff(self.patience), None, None
        while True:
            started = time.monotonic()
            found, pause = None, _SHORTEST_ROUND
            try:
                # Without an ETag the farm would hold its answer for the end: first see how things stand.
                hold = max(0.0, min(_HOLD_SECONDS, deadline - started)) if etag else 0.0
                found, etag = self._look(build_id, hold, etag)
                backoff.reset()
            except FarmError as error:
                pause = backoff.after(error)
            if found is not None and found != seen:
                seen = found
                yield found
            if time.monotonic() >= deadline:
                return
            time.sleep(max(0.0, min(started + pause, deadline) - time.monotonic()))

    def _look(self, build_id: str, wait: float | None, etag: str | None) -> tuple[Build | None, str | None]:
        """The build and its ETag, or None in its place if it is still the one that `etag` names."""
        response = self._connection.request(
            "GET",
            f"/v1/builds/{segment(build_id)}",
            params={"wait": None if wait is None else round(wait, 3)},
            headers={"If-None-Match": etag} if etag else {},
            waits=wait or 0,
        )
        if response.status_code == httpx.codes.NOT_MODIFIED:
            return None, etag
        return self._connection.parse(Build, response), response.headers.get("etag")

    def _pages(self, kind: type[_Pages], path: str, filters: Mapping[str, str | None]) -> Iterator[_Pages]:
        cursor: str | None = None
        while True:
            page = self._connection.get(kind, path, params={**filters, "cursor": cursor})
            yield page
            if page.next_cursor is None:
                return
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
        raise Conflict(f"build {build.id} is {build.state}: its engine is there once it has succeeded")
    if build.state is BuildState.CANCELLED:
        raise BuildFailed(f"build {build.id} was cancelled")
    if build.error is None:
        raise BuildFailed(f"build {build.id} is {build.state}, and the farm names no engine and no cause")
    advice = f". {build.error.advice}" if build.error.advice else ""
    raise BuildFailed(f"build {build.id} failed ({build.error.cause}): {build.error.detail}{advice}")


def _json(spec: BuildSpec | Mapping[str, Any]) -> Any:
    return spec.model_dump(mode="json") if isinstance(spec, BuildSpec) else dict(spec)


def _unfinished(build_id: str, seen: Build | None, timeout: float) -> str:
    state = "not known" if seen is None else str(seen.state)
    why = f" ({seen.waiting_for})" if seen and seen.waiting_for else ""
    return f"build {build_id} is {state}{why} after {timeout:g} s; it goes on"
