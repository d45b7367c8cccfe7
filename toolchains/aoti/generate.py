"""Generate text with an engine: `python -m toolchains.aoti.generate ENGINE_DIR --prompt "Once upon a time"`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tokenizers.decoders import DecodeStream

from enginefarm.contract.errors import EnginefarmError
from toolchains.aoti.loader import Engine


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, generate, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m toolchains.aoti.generate", description="greedy text from an engine"
    )
    parser.add_argument("engine_dir", type=Path)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end, instead of text as it comes")
    arguments = parser.parse_args(argv)
    try:
        with Engine.load(arguments.engine_dir) as engine:
            tokens = _tokens(engine, arguments.prompt, arguments.max_new_tokens)
            if arguments.json:
                ids = list(tokens)
                timings = asdict(engine.timings) if engine.timings else None
                answer = {"prompt": arguments.prompt, "tokens": ids, "text": engine.decode(ids), "timings": timings}
                print(json.dumps(answer))
            else:
                stream = DecodeStream(skip_special_tokens=True)
                for token in tokens:
                    # None while the bytes of one character are spread over several tokens.
                    print(stream.step(engine.tokenizer, token) or "", end="", flush=True)
                print()
    except EnginefarmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _tokens(engine: Engine, prompt: str, max_new_tokens: int) -> Iterator[int]:
    for step in engine.generate([prompt], max_new_tokens):
        # One prompt, so one token a step.
        (token,) = step.tokens
        if token is not None:
            yield token


if __name__ == "__main__":
    sys.exit(main())
