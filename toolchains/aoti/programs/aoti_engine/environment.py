"""Settle the environment before torch and transformers read it: no network, caches in the scratch directory."""

from __future__ import annotations

import os
from pathlib import Path


def settle() -> None:
    """Call before the first import of torch or transformers."""
    scratch = Path(os.environ.get("TMPDIR") or Path.cwd())
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(scratch / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(scratch / "triton"))
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    # Without it a compiled engine takes any shape and computes nonsense.
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
