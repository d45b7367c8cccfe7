"""The guards that keep the promises: the fault that is planted in place of each, and the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """`text` is found once in `file`, and `instead` is what somebody might write there by mistake."""

    name: str
    file: str
    text: str
    instead: str
    tests: str


GUARDS = (
    Guard(
        "a late result is fenced by its attempt", "models/lifecycle/transitions.py",
        "where.append(ActionRow.attempt == attempt)", "pass",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "an action moves only from a state that may go there", "models/lifecycle/transitions.py",
        "ActionRow.state.in_(sources(to, among))]", "ActionRow.state.is_not(None)]",
        "tests/models/lifecycle/test_races.py tests/models/lifecycle/test_concurrent_pairs.py",
    ),
    Guard(
        "a lost lease cannot be renewed", "models/lifecycle/leases.py",
        "update(ActionRow).where(*_leased(claim))", "update(ActionRow).where(ActionRow.key == claim.key)",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "only a lease that ran out is taken back", "models/lifecycle/leases.py",
        "ActionRow.state == ActionState.RUNNING, ActionRow.lease_expires_at < now())",
        "ActionRow.state == ActionState.RUNNING)",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "tries are counted", "models/lifecycle/leases.py",
        "tries_left = claim.tries < max_tries", "tries_left = True",
        "tests/models/lifecycle/test_retry_policy.py tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "the sweep releases only what waits", "models/lifecycle/recovery.py",
        "ActionRow.state == ActionState.WAITING, ActionRow.depends_on", "ActionRow.depends_on",
        "tests/models/lifecycle/test_lifecycle.py tests/simulation",
    ),
    Guard(
        "what was announced just now is not announced again", "models/lifecycle/recovery.py",
        ".where(ActionRow.key.in_(oldest), *_quiet())", ".where(ActionRow.queue == queue)",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "an engine that is there is not built again", "models/lifecycle/submission.py",
        "if engine_exists(session, request.build.key):\n        [build_id]", "if False:\n        [build_id]",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "an engine that was published meanwhile is not built again", "models/lifecycle/submission.py",
        "if engine_exists(session, request.build.key):  # published while", "if False:  # published while",
        "tests/models/lifecycle/test_races.py",
    ),
    Guard(
        "cancelling spares what others wait for", "models/lifecycle/transitions.py",
        "or is_needed(session, key):", "or False:",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "publishing asks whether the bytes are there still", "workers/runner.py",
        "require_stored(self.tools.store, blob_sizes(manifest) | dict([log_blob]))", "pass",
        "tests/farm/test_garbage_collection.py",
    ),
    Guard(
        "an upload is checked on the server before it has a name", "models/store/s3.py",
        "if (stored.size, stored.etag) != (size, etag):", "if False:",
        "tests/models/store/test_s3.py",
    ),
    Guard(
        "bytes are those of their digest", "enginefarm/contract/digest.py",
        "if not hmac.compare_digest(actual, digest):", "if False:",
        "tests/models/store/test_store.py",
    ),
    Guard(
        "a pulled file is that of its manifest", "enginefarm/transfer/partial_file.py",
        "if not hmac.compare_digest(actual, self.entry.digest):", "if False:",
        "tests/enginefarm/transfer/test_partial_file.py tests/enginefarm/transfer/test_pull.py",
    ),
    Guard(
        "a submit is committed before it is answered", "api/builds/submit.py",
        "with control.database.write() as session:\n        if require_worker:",
        "with control.database.read() as session:\n        if require_worker:",
        "tests/farm/test_cached_submits.py",
    ),
    Guard(
        "a cached answer is recorded before it is given", "api/planning/cached_submits.py",
        "with database.write() as session:", "with database.read() as session:",
        "tests/farm/test_cached_submits.py",
    ),
    Guard(
        "bytes that something refers to by now are not deleted", "models/retention/blob_gc.py",
        "BlobRow.digest == digest, _REFERRED)).first() is not None:",
        "BlobRow.digest == digest, _REFERRED)).first() == 0:",
        "tests/models/retention/test_blob_gc.py",
    ),
    Guard(
        "what was taken out is not served", "models/catalogue/visibility.py",
        "SERVED = EngineRow.quarantined_at.is_(None)", "SERVED = EngineRow.key.is_not(None)",
        "tests/models/incidents/test_withdrawal.py",
    ),
    Guard(
        "a worker that cannot renew ends its programs in time", "workers/heartbeat.py",
        "if self._clock() - self._renewed > self._lease * _GIVE_UP:", "if False:",
        "tests/workers/test_heartbeat.py",
    ),
    Guard(
        "a route asks for its scope", "api/auth.py",
        "if self._scope not in caller.scopes:", "if False:",
        "tests/api/test_access.py",
    ),
    Guard(
        "a key's secret counts", "models/security/api_keys.py",
        "or row.revoked_at is not None or not matches:", "or row.revoked_at is not None:",
        "tests/api/test_access.py",
    ),
    Guard(
        "models are read below their roots only", "models/sources/confined_folders.py",
        "return any(path.is_relative_to(root) for root in self._roots)", "return True",
        "tests/models/sources/test_folder_source.py",
    ),
    Guard(
        "a link is good for what was signed", "models/store/links.py",
        "if not hmac.compare_digest(self._sign(digest, filename, expires).encode(), signature.encode()):", "if False:",
        "tests/models/store/test_links.py",
    ),
    Guard(
        "a node that insists on a signature checks it", "enginefarm/trust/signature_policy.py",
        "    if not keys:\n", "    if keys:\n",
        "tests/enginefarm/trust/test_signature_policy.py",
    ),
)  # fmt: skip
