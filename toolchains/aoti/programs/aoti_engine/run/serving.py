"""Serve an engine over stdin and stdout, one JSON document a line. Greedy decoding; one batch at a time.

    ← {"ready": {"limits": {…}, "vocab_size": n}}
    → {"id": 1, "input_ids": [[…], …], "max_new_tokens": n, "stop_ids": [2]}
    ← {"id": 1, "step": 0, "tokens": [5, 7]}             null for a row that has met a stop id
    ← {"id": 1, "done": true, "timings": {"prefill_seconds": …, "decode_seconds": …, "new_tokens": …}}

The caller checks requests against the limits (`toolchains/aoti/admission.py`); one beyond them kills this process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from .. import environment

# torch reads its environment when it is imported.
environment.prepare()

from .session import Session  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Load the engine of the directory that is the only argument, and answer requests until stdin ends."""
    (directory,) = sys.argv[1:] if argv is None else argv
    # Answers go to a copy of the real stdout; what libraries print to stdout goes to stderr instead.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = Session(Path(directory))
    _write(answers, {"ready": {name: session.config[name] for name in ("limits", "vocab_size")}})
    for line in sys.stdin:
        answer(session, json.loads(line), answers)
    return 0


def answer(session: Session, request: dict[str, Any], answers: TextIO) -> None:
    """Generate the answers of one batch, and write a document for each step."""
    started = perf_counter()
    stop_ids = frozenset(request["stop_ids"])
    running = [True] * len(request["input_ids"])
    new_tokens = 0
    # .tolist() waits for the device, so the clock below measures the computation and not only its launch.
    tokens = session.begin(request["input_ids"]).argmax(-1).tolist()
    prefilled = perf_counter()
    for step in range(request["max_new_tokens"]):
        # Ended rows compute on with the others, since a batch has one shape; their tokens are not shown.
        if step:
            tokens = session.add(tokens).argmax(-1).tolist()
        visible_tokens = []
        for row, token in enumerate(tokens):
            visible_tokens.append(token if running[row] else None)
        _write(answers, {"id": request["id"], "step": step, "tokens": visible_tokens})
        new_tokens += sum(running)
        for row, token in enumerate(tokens):
            if token in stop_ids:
                running[row] = False
        if not any(running):
            break
    timings = {
        "prefill_seconds": prefilled - started,
        "decode_seconds": perf_counter() - prefilled,
        "new_tokens": new_tokens,
    }
    _write(answers, {"id": request["id"], "done": True, "timings": timings})


def _write(answers: TextIO, document: dict[str, Any]) -> None:
    answers.write(json.dumps(document, separators=(",", ":")) + "\n")
    answers.flush()
