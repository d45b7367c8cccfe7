"""Smoke test: load the engine in a process of its own, as a serving node does, and compare its logits with the model's.

Prints one JSON object: the relative error, its tolerance, and the share of equal most likely tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .. import environment

# torch reads its environment when it is imported.
environment.prepare()

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from ..report import Failure, exit_status  # noqa: E402
from .reference import Row, unpack  # noqa: E402
from .session import Session  # noqa: E402

# Root mean square of the difference over that of the logits. Fused and unfused arithmetic of one dtype stay well below;
# a wrong computation is near 1.
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 6e-2}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, test, print the measurements, and return the exit status."""
    parser = argparse.ArgumentParser(prog="smoke.py", description="compare an engine with the model it was made from")
    parser.add_argument("--engine-dir", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    arguments = parser.parse_args(argv)
    return exit_status(lambda: print(json.dumps(smoke_test(arguments.engine_dir, arguments.reference)), flush=True))


def smoke_test(engine: Path, reference: Path) -> dict[str, float]:
    """Compare the engine of a directory with the logits of a reference file.

    Raises:
        Failure: smoke_failed; the logits differ by more than the tolerance, or the engine fails at its limits.
    """
    session = Session(engine)
    batches = unpack(load_file(reference))
    # Both [rows of all batches × steps, vocab], in the same order.
    engine_logits = torch.cat([run_batch(session, rows).flatten(0, 1) for rows in batches])
    model_logits = torch.cat([row.logits for rows in batches for row in rows])
    error = float((engine_logits - model_logits).square().mean().sqrt() / model_logits.square().mean().sqrt())
    tolerance = TOLERANCE[session.config["dtype"]]
    # Not `error > tolerance`, which is false for NaN.
    if not error <= tolerance:
        raise Failure("smoke_failed", f"the engine's logits differ by {error:.2g} of their size: at most {tolerance:g}")
    run_at_limits(session)
    agreement = float((engine_logits.argmax(-1) == model_logits.argmax(-1)).float().mean())
    return {"relative_error": error, "tolerance": tolerance, "argmax_agreement": agreement}


def run_batch(session: Session, rows: Sequence[Row]) -> torch.Tensor:
    """The engine's logits: [batch, steps, vocab]. It is fed the reference's tokens, whatever it would choose."""
    steps = [session.begin([row.prompt.tolist() for row in rows])]
    for tokens in zip(*(row.answer.tolist() for row in rows), strict=True):
        steps.append(session.add(tokens))  # noqa: PERF401  (each step depends on the one before)
    return torch.stack([logits.cpu() for logits in steps], dim=1)


def run_at_limits(session: Session) -> None:
    """Run the largest batch of the longest prompts, then the last slot: an engine must not fail within its limits."""
    limits = session.config["limits"]
    rows = limits["max_batch_size"]
    # Token 0 is in every vocabulary.
    prefill_logits = session.begin([[0] * limits["max_input_len"]] * rows)
    last_logits = session.add_at(limits["max_seq_len"] - 1, [0] * rows)
    if not bool(torch.isfinite(prefill_logits).all()) or not bool(torch.isfinite(last_logits).all()):
        raise Failure("smoke_failed", f"at its limits {limits} the engine computes infinite values or NaN")
