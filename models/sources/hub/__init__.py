"""`hf:` models and data sets. This module imports the hub's library first, with an environment of the farm's own.

The library reads some twenty variables when it is imported, and they are meant for the programs of a person: a cache
in the home, which a worker need not have, a timeout that is no number, an endpoint without a scheme, a header with a
line end. The farm has settings of its own for all that matters, so the library sees none of them.
"""

from __future__ import annotations

import os

_PREFIXES = ("HF_", "HUGGINGFACE", "TRANSFORMERS_")
_HIDDEN = ("HOME", "XDG_CACHE_HOME", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
# Absolute, and never written to: every call names its own folders.
_NOWHERE = "/nonexistent"


def _import_library() -> None:
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or name in _HIDDEN}
    for name in hidden:
        del os.environ[name]
    os.environ["HF_HOME"] = _NOWHERE
    os.environ["HOME"] = _NOWHERE
    try:
        import huggingface_hub.hf_api  # noqa: F401
    finally:
        del os.environ["HF_HOME"], os.environ["HOME"]
        os.environ.update(hidden)


_import_library()
