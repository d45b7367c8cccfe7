"""Smoke test: load the engine in a process of its own, as a serving node will, and measure it.

Prints one JSON object: how far the engine's logits are from the model's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .. import environment as sandbox

sandbox.settle()

import torch  # noqa: E402  (the environment comes first)
from safetensors.torch import load_file  # noqa: E402

from ..report import Failure, exit_status  # noqa: E402
from .reference import Row, unpack  # noqa: E402
from .session import Session  # noqa: E402

# Root mean square of the difference over that of the logits. Fused and unfused arithmetic of one dtype stay
# well below; a wrong computation is near 1.
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 6e-2}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="smoke.py", description="compare an engine with the model it was made from")
    parser.add_argument("--engine-dir", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    given = parser.parse_args(argv)
    return exit_status(lambda: print(json.dumps(smoke(given.engine_dir, given.reference)), flush=True))


def smoke(directory: Path, expected: Path) -> dict[str, float]:
    """Raises Failure (smoke_failed) if the engine computes something else than the model did."""
    session = Session(directory)
    batches = unpack(load_file(expected))
    ours = torch.cat([_measured(session, rows).flatten(0, 1) for rows in batches])
    theirs = torch.cat([row.logits for rows in batches for row in rows])
    error = float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())
    tolerance = TOLERANCE[session.config["dtype"]]
    if not error <= tolerance:  # NaN is not, either
        raise Failure("smoke_failed", f"the engine's logits differ by {error:.2g} of their size: at most {tolerance:g}")
    _reach_limits(session)
    agreement = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    return {"relative_error": error, "tolerance": tolerance, "argmax_agreement": agreement}


def _measured(session: Session, rows: Sequence[Row]) -> torch.Tensor:
    """[batch, steps, vocab] of the engine, fed with the reference's tokens whatever it would have chosen."""
    steps = [session.begin([row.prompt.tolist() for row in rows])]
    for tokens in zip(*(row.forced.tolist() for row in rows), strict=True):
        steps.append(session.add(tokens))  # noqa: PERF401  (each step depends on the one before)
    return torch.stack([logits.cpu() for logits in steps], dim=1)


def _reach_limits(session: Session) -> None:
    """The largest batch of the longest prompts, then the last slot: what a node may ask must not fail there."""
    limits = session.config["limits"]
    rows = limits["max_batch_size"]
    reached = [session.begin([[0] * limits["max_input_len"]] * rows)]
    reached.append(session.add_at(limits["max_seq_len"] - 1, [0] * rows))
    if not all(bool(torch.isfinite(logits).all()) for logits in reached):
        raise Failure("smoke_failed", f"at its limits {limits} the engine computes values that are no numbers")
