"""Convert a Hugging Face checkpoint into a checkpoint of one dtype.

The worker and the loader run this file by path; see `aoti_engine/convert/program.py`.
"""

import sys
from pathlib import Path

# Import `aoti_engine` from this folder, not from `toolchains`: any interpreter that has torch can then run the program.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from aoti_engine.convert.program import main  # type: ignore[import-not-found]  # mypy knows it by its full name

# Libraries import top-level modules named `build` or `convert`; they must not get the files of this folder.
del sys.path[0]

sys.exit(main())
