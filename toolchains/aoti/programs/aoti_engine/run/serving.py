"""Serve: JSON lines in, JSON lines out. Greedy decoding; one batch at a time.

    ← {"ready": {"limits": {…}, "vocab_size": n}}
    → {"id": 1, "input_ids": [[…], …], "max_new_tokens": n, "stop_ids": [2]}
    ← {"id": 1, "step": 0, "tokens": [5, 7]}             null for a row that has met a stop id
    ← {"id": 1, "done": true, "timings": {"prefill_seconds": …, "decode_seconds": …, "new_tokens": …}}

Whoever asks keeps to the limits; what they do not allow ends this process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from .. import environment as sandbox

sandbox.settle()

from .session import Session  # noqa: E402  (the environment comes before torch)


def main(argv: Sequence[str] | None = None) -> int:
    (directory,) = sys.argv[1:] if argv is None else argv
    answers = _claim_stdout()
    session = Session(Path(directory))
    _say(answers, {"ready": {name: session.config[name] for name in ("limits", "vocab_size")}})
    for line in sys.stdin:
        _answer(session, json.loads(line), answers)
    return 0


def _answer(session: Session, request: dict[str, Any], answers: TextIO) -> None:
    started = perf_counter()
    stops, running = frozenset(request["stop_ids"]), [True] * len(request["input_ids"])
    logits, made = session.begin(request["input_ids"]), 0
    tokens = logits.argmax(-1).tolist()
    prefilled = perf_counter()
    for step in range(request["max_new_tokens"]):
        if step:
            tokens = session.add(tokens).argmax(-1).tolist()
        shown = [token if alive else None for token, alive in zip(tokens, running, strict=True)]
        _say(answers, {"id": request["id"], "step": step, "tokens": shown})
        made += sum(running)
        running = [alive and token not in stops for token, alive in zip(tokens, running, strict=True)]
        if not any(running):
            break
    timings = {
        "prefill_seconds": prefilled - started,
        "decode_seconds": perf_counter() - prefilled,
        "new_tokens": made,
    }
    _say(answers, {"id": request["id"], "done": True, "timings": timings})


def _claim_stdout() -> TextIO:
    """A stream on the real standard output; whatever libraries print goes to standard error instead."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, document: dict[str, Any]) -> None:
    answers.write(json.dumps(document, separators=(",", ":")) + "\n")
    answers.flush()
