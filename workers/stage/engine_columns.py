"""The columns of an engine's row that only the worker knows: what it was built for, and how."""

from __future__ import annotations

from typing import Any

from workers.stage.output import StageOutput
from workers.stage.run import StageRun


def engine_columns(stage_run: StageRun, output: StageOutput) -> dict[str, Any]:
    """The columns of an engine's row that only the worker knows."""
    claim, job, identity = stage_run.claim, stage_run.job, stage_run.tools.identity
    serving = None
    if output.serving is not None:
        serving = output.serving.summary()
    return {
        "model": job.spec.model,
        "toolchain": job.toolchain,
        "version": job.version,
        "platform": identity.fingerprint.platform.model_dump(),
        "bound_to": claim.document["platform"],
        "driver_binding": stage_run.tools.binding,
        "spec": job.spec.model_dump(mode="json"),
        "provenance": {
            "worker": identity.name,
            "host": identity.fingerprint.host.model_dump(mode="json"),
            "isolation": list(stage_run.tools.isolation.in_force),
            "attempt": claim.attempt,
            "started_at": stage_run.started_at,
            "seconds": dict(stage_run.steps),
            "peaks": stage_run.peaks.summary(),
            "convert": claim.document["convert"],
            "checkpoint": claim.checkpoint,
            "facts": output.facts,
            "serving": serving,
        },
    }
