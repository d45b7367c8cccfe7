"""Set the environment variables that torch and transformers read while they are imported."""

from __future__ import annotations

import os
from pathlib import Path


def prepare() -> None:
    """Forbid network access and put caches into the scratch directory. Call before torch is imported."""
    # The worker sets TMPDIR and starts programs in their scratch directory; a person at a shell may do neither.
    scratch = Path(os.environ.get("TMPDIR") or Path.cwd())
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(scratch / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(scratch / "triton"))
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    # Without this check a compiled engine accepts any shape and computes wrong values.
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
