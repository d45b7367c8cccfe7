"""A catalogue at revision 0001 with a row of every kind and state, written as that release wrote it.

Frozen: later versions must read it. Never edit a row to make a migration pass.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

_T0 = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
CONVERT, BUILD, OTHER, LOST, DROPPED, BROKEN = ("c" * 64, "b" * 64, "a" * 64, "d" * 64, "e" * 64, "f" * 64)
WEIGHTS, ENGINE, LOG = ("sha256:" + letter * 64 for letter in "123")
CHECKPOINT_MANIFEST, ENGINE_MANIFEST = ("sha256:" + letter * 64 for letter in "45")
PLATFORM = {
    "gpu": "NVIDIA H100 80GB HBM3", "sm": "90", "gpu_memory_gib": 80, "mig": None, "ecc": True,
    "cuda": "13.0", "driver": "580.159.04", "tensorrt": "10.14.1", "os": "linux", "arch": "x86_64", "cpu_isa": None,
}  # fmt: skip
SPEC = {
    "model": "hf:org/tiny@0123456789012345678901234567890123456789",
    "toolchain": {"name": "trtllm", "version": "1.2.1"},
    "precision": {"dtype": "bfloat16", "quantization": None, "kv_cache": None},
    "parallelism": {"tp": 1, "pp": 1, "cp": 1},
    "limits": {
        "max_batch_size": 32, "max_input_len": 4096, "max_output_len": 1024, "max_seq_len": 5120, "max_beam_width": 1,
        "max_num_tokens": 8192, "opt_num_tokens": None,
    },
    "options": {"gemm_plugin": "auto"},
    "platform": PLATFORM,
}  # fmt: skip
FAILURE = {
    "cause": "out_of_memory", "fault": "worker", "detail": "killed for memory", "advice": None, "retryable": True,
}  # fmt: skip


def at(minutes: float) -> datetime:
    return _T0 + timedelta(minutes=minutes)


def action_row(key: str, stage: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "stage": stage, "queue": f"{stage}.trtllm.1.2.1", "document": {"version": 1, "stage": stage},
        "job": {"job": {"stage": stage}}, "state": state, "attempt": 0, "tries": 0, "progress": 0.0,
        "queued_at": at(0), "created_at": at(0),
    } | more  # fmt: skip


def build_row(number: int, key: str, disposition: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "seq": number, "id": f"{number:032x}", "key": key, "disposition": disposition, "state": state, "spec": SPEC,
        "model": SPEC["model"], "toolchain": "trtllm", "version": "1.2.1", "platform": PLATFORM,
        "platform_label": "sm90", "requested_by": "ci", "created_at": at(number),
        "ended_at": None if state == "open" else at(number + 30),
    } | more  # fmt: skip


def worker_row(identity: str, state: str) -> dict[str, Any]:
    return {
        "id": identity, "name": f"gpu-{identity}", "state": state, "platform": PLATFORM,
        "host": {"name": identity, "cpu": "AMD EPYC 9554", "cores": 16, "memory_gib": 128, "gpus": 1, "versions": {}},
        "capabilities": [{"toolchain": "trtllm", "version": "1.2.1", "stages": ["convert", "build"]}],
        "queues": ["convert.trtllm.1.2.1", "build.trtllm.1.2.1"], "started_at": at(0), "last_seen_at": at(60),
    }  # fmt: skip


def attempt_row(key: str, number: int, outcome: str, **more: Any) -> dict[str, Any]:
    return {
        "action_key": key, "number": number, "worker_id": "w1", "outcome": outcome, "started_at": at(number),
        "ended_at": None if outcome == "running" else at(number + 1), "steps": {},
    } | more  # fmt: skip


ROWS: dict[str, list[dict[str, Any]]] = {
    "api_keys": [
        {"id": "k1", "name": "ci", "secret_hash": "0" * 64, "scopes": ["read", "submit"], "created_at": at(0)},
        {"id": "k2", "name": "old", "secret_hash": "9" * 64, "scopes": ["admin"], "created_at": at(0),
         "revoked_at": at(5)},
    ],
    "file_digests": [{"path": "/models/tiny/config.json", "stamp": "1:2:3", "digest": WEIGHTS}],
    "blobs": [
        {"digest": WEIGHTS, "size": 1 << 40, "verified_at": at(1)},
        {"digest": ENGINE, "size": 0, "verified_at": at(2)},
    ],
    "manifests": [
        {"digest": CHECKPOINT_MANIFEST, "size": 1 << 40, "files": 1},
        {"digest": ENGINE_MANIFEST, "size": 1 << 40, "files": 2},
    ],
    "manifest_files": [
        {"manifest": CHECKPOINT_MANIFEST, "path": "rank0.safetensors", "blob": WEIGHTS},
        {"manifest": ENGINE_MANIFEST, "path": "config.json", "blob": ENGINE},
        {"manifest": ENGINE_MANIFEST, "path": "rank0.engine", "blob": WEIGHTS},
    ],
    "workers": [worker_row("w1", "live"), worker_row("w2", "draining"), worker_row("w3", "gone")],
    "actions": [
        action_row(CONVERT, "convert", "succeeded", attempt=1, tries=1, progress=1.0),
        action_row(BUILD, "build", "succeeded", depends_on=CONVERT, attempt=2, tries=2, progress=1.0),
        action_row(OTHER, "build", "running", depends_on=CONVERT, attempt=1, tries=1, worker_id="w1",
                lease_expires_at=at(61), progress=0.25, message="layer 8 of 32", announced_at=at(59)),
        action_row(LOST, "convert", "queued", attempt=1, tries=1, not_before=at(70), announced_at=at(50)),
        action_row(DROPPED, "build", "cancelled"),
        action_row(BROKEN, "build", "failed", depends_on=CONVERT, attempt=3, tries=3, failure=FAILURE),
        action_row("9" * 64, "build", "waiting", depends_on=LOST),
    ],
    "attempts": [
        attempt_row(CONVERT, 1, "succeeded", steps={"fetch": 12.5, "convert": 63.1}, log_digest=LOG, log_size=4096),
        attempt_row(BUILD, 1, "lost"),
        attempt_row(BUILD, 2, "succeeded", log_digest=LOG, log_size=4096),
        attempt_row(OTHER, 1, "running"),
        attempt_row(LOST, 1, "handed_back"),
        attempt_row(BROKEN, 1, "failed", failure=FAILURE),
        attempt_row(BROKEN, 2, "cancelled"),
        attempt_row(BROKEN, 3, "failed", failure=FAILURE),
    ],
    "log_chunks": [{"action_key": OTHER, "attempt": 1, "start": 0, "data": b"building\xff\n"}],
    "checkpoints": [
        {"key": CONVERT, "manifest": CHECKPOINT_MANIFEST, "attempt": 1, "facts": {"ranks": 1}, "created_at": at(3)},
    ],
    "engines": [
        {"key": BUILD, "manifest": ENGINE_MANIFEST, "attempt": 2, "model": SPEC["model"], "toolchain": "trtllm",
         "version": "1.2.1", "platform": PLATFORM, "bound_to": {"sm": "90", "driver": "580"},
         "driver_binding": "branch", "spec": SPEC, "provenance": {"worker": "gpu-w1"}, "pinned": True,
         "created_at": at(40)},
    ],
    "builds": [
        build_row(1, BUILD, "created", "succeeded"),
        build_row(2, BUILD, "cached", "succeeded", requested_by=None),
        build_row(3, OTHER, "created", "open"),
        build_row(4, OTHER, "joined", "cancelled"),
        build_row(5, BROKEN, "created", "failed", failure=FAILURE),
        build_row(6, "9" * 64, "created", "open"),
    ],
}  # fmt: skip
