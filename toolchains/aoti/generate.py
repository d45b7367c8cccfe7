"""Ask an engine for text: `python -m toolchains.aoti.generate ENGINE_DIR --prompt "Once upon a time"`."""

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
    parser = argparse.ArgumentParser(
        prog="python -m toolchains.aoti.generate", description="greedy text from an engine"
    )
    parser.add_argument("engine_dir", type=Path)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end, instead of text as it comes")
    given = parser.parse_args(argv)
    try:
        with Engine.load(given.engine_dir) as engine:
            (_print_json if given.json else _print_text)(engine, given.prompt, given.max_new_tokens)
    except EnginefarmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _print_text(engine: Engine, prompt: str, max_new_tokens: int) -> None:
    pieces = DecodeStream(skip_special_tokens=True)
    for token in _tokens(engine, prompt, max_new_tokens):
        # Nothing yet where a character is spread over several tokens.
        print(pieces.step(engine.tokenizer, token) or "", end="", flush=True)
    print()


def _print_json(engine: Engine, prompt: str, max_new_tokens: int) -> None:
    tokens = list(_tokens(engine, prompt, max_new_tokens))
    timings = asdict(engine.timings) if engine.timings else None
    print(json.dumps({"prompt": prompt, "tokens": tokens, "text": engine.decode(tokens), "timings": timings}))


def _tokens(engine: Engine, prompt: str, max_new_tokens: int) -> Iterator[int]:
    for step in engine.generate([prompt], max_new_tokens):
        yield from (token for token in step.tokens if token is not None)


if __name__ == "__main__":
    sys.exit(main())
