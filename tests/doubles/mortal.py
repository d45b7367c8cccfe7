"""`python -m tests.doubles.mortal api|workers FILE`: an API or a worker, one of whose loops ends once FILE exists."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    part, file = sys.argv[1:]
    # The sweep of an API, the report of a worker to the catalogue.
    module, name = {"api": ("api.app", "sweep"), "workers": ("workers.presence", "register")}[part]
    target = import_module(module)
    setattr(target, name, _mortal(getattr(target, name), Path(file)))
    import_module(f"{part}.__main__").main()


def _mortal(function: Callable[..., Any], file: Path) -> Callable[..., Any]:
    def mortal(*arguments: Any, **options: Any) -> Any:
        if file.exists():
            raise SystemExit(0)
        return function(*arguments, **options)

    return mortal


if __name__ == "__main__":
    main()
