"""Check secrets that travel in HTTP headers when the settings are read, not at the first request."""

from __future__ import annotations


def require_header_value(value: str) -> None:
    """Return if `value` can be sent in a header as it is.

    Raises:
        ValueError: it has a line end, another control character, a character outside ASCII, or a blank at an end. The
            text does not show the value.
    """
    fault = None
    if not value.isascii():
        fault = "a character outside ASCII"
    elif not value.isprintable():
        # The common case: a secret that was written to a file with `echo`, and read with its line end.
        fault = "a line end or another control character"
    elif value != value.strip():
        fault = "a blank at its beginning or end"
    if fault is not None:
        raise ValueError(f"it has {fault}, so it cannot be sent in a header: set it again without that")
