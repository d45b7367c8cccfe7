"""A catalogue at revision 0006 in the middle of its work, written as that release wrote it.

It has actions in flight whose work has no version, quarantined and draining workers, an imported engine, removals,
warm files, and blobs, engines and checkpoints that are marked for removal.
Frozen: later versions must read it. Never edit a row to make a migration pass.
"""

from __future__ import annotations

from typing import Any

from tests.migrations import catalogue_0001 as first
from tests.migrations.catalogue_0001 import CONVERT, LOG, PLATFORM, SPEC, WEIGHTS, action_row, at, attempt_row

QUEUED_CONVERT, WAITING_BUILD, RUNNING_BUILD = ("1" * 64, "2" * 64, "3" * 64)
IMPORTED_CONVERT, IMPORTED_BUILD = ("4" * 64, "5" * 64)
REMOVED_BUILD, WITHDRAWN_CONVERT = ("6" * 64, "7" * 64)
CONVERT_QUEUE, BUILD_QUEUE = "convert.trtllm.1.2.1", "build.trtllm.1.2.1.h100"
WARM, ORPHAN, DAMAGED = ("sha256:" + letter * 64 for letter in "678")
IMPORTED_MANIFEST = "sha256:" + "9" * 64
SIGNER = "a" * 64

_FACTS = {
    "architecture": "LlamaForCausalLM", "model_type": "llama", "dtype": "bfloat16", "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "intermediate_size": 14336, "max_position_embeddings": 8192, "num_experts": None, "encoder": None,
    "decoder": None, "rope_scaling": None, "quantization_config": None, "weight_bytes": 16060522496,
    "has_safetensors": True, "has_pickle": False, "has_tokenizer": True, "remote_code": False, "trusted": False,
}  # fmt: skip
_MODEL = {
    "reference": SPEC["model"], "identity": {"source": "hub", "repository": "org/tiny", "commit": "0123456789" * 4},
    "files": [{"path": "config.json", "size": 100, "digest": WEIGHTS, "etag": None}], "facts": _FACTS,
}  # fmt: skip


def _job(stage: str) -> dict[str, Any]:
    job = {
        "stage": stage, "toolchain": "trtllm", "version": "1.2.1", "spec": SPEC | {"calibration": None},
        "facts": _FACTS, "platform": PLATFORM if stage == "build" else None,
    }  # fmt: skip
    return {"job": job, "model": _MODEL} if stage == "convert" else {"job": job}


def _worker(identity: str, state: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    row = first.worker_row(identity, state) | {"queues": [CONVERT_QUEUE, BUILD_QUEUE]} | more
    return row | {"name": name or row["name"]}


def _build(number: int, key: str, disposition: str, state: str, **more: Any) -> dict[str, Any]:
    return first.build_row(number, key, disposition, state, asked={"model": "hf:org/tiny"}) | more


_imported_job = {"imported": True, "job": {"toolchain": "trtllm", "version": "1.2.1"}}
_engine = first.ROWS["engines"][0]

ROWS: dict[str, list[dict[str, Any]]] = {
    "api_keys": first.ROWS["api_keys"],
    "file_digests": first.ROWS["file_digests"],
    "blobs": [
        *first.ROWS["blobs"],
        {"digest": WARM, "size": 300, "verified_at": at(3)},
        {"digest": ORPHAN, "size": 7, "verified_at": at(3), "doomed_at": at(30)},
        {"digest": DAMAGED, "size": 9, "verified_at": at(3), "damaged_at": at(31)},
    ],
    "manifests": [*first.ROWS["manifests"], {"digest": IMPORTED_MANIFEST, "size": 9, "files": 1}],
    "manifest_files": [
        *first.ROWS["manifest_files"],
        {"manifest": IMPORTED_MANIFEST, "path": "rank0.engine", "blob": DAMAGED},
    ],
    "workers": [
        _worker("w1", "live"),
        _worker("w2", "draining", draining_at=at(50)),
        _worker("w3", "gone"),
        _worker("sick", "draining", quarantined_at=at(51), quarantine_reason="bad memory"),
        _worker("both", "draining", draining_at=at(52), quarantined_at=at(53), quarantine_reason="recalled"),
        _worker("silent", "gone", quarantined_at=at(54), quarantine_reason="overheats"),
        _worker("well", "live", released_at=at(55)),
        _worker("import", "gone", name="import-aaaaaaaaaaaa", queues=[]),
    ],
    "actions": [
        *first.ROWS["actions"],
        action_row(QUEUED_CONVERT, "convert", "queued", queue=CONVERT_QUEUE, job=_job("convert"),
                   avoid_worker="sick", avoid_until=at(56)),
        action_row(WAITING_BUILD, "build", "waiting", queue=BUILD_QUEUE, job=_job("build"), depends_on=QUEUED_CONVERT),
        action_row(RUNNING_BUILD, "build", "running", queue=BUILD_QUEUE, job=_job("build"), depends_on=CONVERT,
                   attempt=1, tries=1, worker_id="w2", lease_expires_at=at(61), progress=0.5, announced_at=at(58)),
        action_row(IMPORTED_CONVERT, "convert", "cancelled", queue=CONVERT_QUEUE, job=_imported_job),
        action_row(IMPORTED_BUILD, "build", "succeeded", queue=BUILD_QUEUE, job=_imported_job,
                   depends_on=IMPORTED_CONVERT, attempt=1, tries=1, progress=1.0),
        action_row(WITHDRAWN_CONVERT, "convert", "succeeded", queue=CONVERT_QUEUE, job=_job("convert"), attempt=1,
                   tries=1, progress=1.0),
        action_row(REMOVED_BUILD, "build", "succeeded", queue=BUILD_QUEUE, job=_job("build"),
                   depends_on=WITHDRAWN_CONVERT, attempt=1, tries=1, progress=1.0),
    ],
    "attempts": [
        *first.ROWS["attempts"],
        attempt_row(RUNNING_BUILD, 1, "running", worker_id="w2"),
        attempt_row(IMPORTED_BUILD, 1, "succeeded", worker_id="import"),
        attempt_row(WITHDRAWN_CONVERT, 1, "succeeded", worker_id="sick", steps={"convert": 60.0}),
        attempt_row(REMOVED_BUILD, 1, "succeeded", steps={"build": 900.5}, log_digest=LOG, log_size=4096,
                    warmth={"file": WARM, "saved_seconds": 300.25}),
    ],
    "log_chunks": first.ROWS["log_chunks"],
    "checkpoints": [
        *first.ROWS["checkpoints"],
        {"key": WITHDRAWN_CONVERT, "manifest": first.CHECKPOINT_MANIFEST, "attempt": 1, "facts": {},
         "created_at": at(4), "quarantined_at": at(51), "quarantine_reason": "bad memory", "doomed_at": at(57)},
    ],
    "engines": [
        {**_engine, "pulled_at": at(45)},
        {**_engine, "key": IMPORTED_BUILD, "manifest": IMPORTED_MANIFEST, "attempt": 1, "pinned": False,
         "quarantined_at": at(31), "quarantine_reason": "its bytes in the store are damaged", "doomed_at": at(32)},
    ],
    "imports": [
        {"action_key": IMPORTED_BUILD, "attempt": 1, "envelope": {"payload": "e30="}, "signer": SIGNER,
         "imported_by": "admin", "imported_at": at(20)},
    ],
    "removals": [
        {"seq": 1, "kind": "engine", "key": REMOVED_BUILD, "manifest": first.ENGINE_MANIFEST, "size": 1 << 40,
         "model": SPEC["model"], "reason": "deleted by admin", "removed_by": "admin", "removed_at": at(40)},
    ],
    "warm_files": [{"key": "8" * 64, "document": {"version": 1}, "blob": WARM, "updated_at": at(41)}],
    "builds": [
        *first.ROWS["builds"],
        _build(7, WAITING_BUILD, "created", "open"),
        _build(8, RUNNING_BUILD, "created", "open"),
        _build(9, REMOVED_BUILD, "created", "succeeded"),
    ],
}  # fmt: skip
