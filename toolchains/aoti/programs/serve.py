"""Load an engine and answer requests, one JSON document a line. Run by path; see `aoti_engine/serving.py`."""

import sys
from pathlib import Path

# Found by path and not as part of `toolchains`: the program then needs torch and nothing of the farm.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from aoti_engine.serving import main  # type: ignore[import-not-found]  # mypy knows it by its full name

del sys.path[0]  # a `build` or `convert` that a library imports is not the one here

sys.exit(main())
