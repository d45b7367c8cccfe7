"""The version that every stored or exchanged document states, checked in one place."""

from __future__ import annotations

from enginefarm.contract.errors import InvalidRequest


def require_version(document: str, field: str, actual: object, expected: str) -> None:
    """Return if `actual`, the version that `field` of `document` states, is the one that this program reads.

    `document` is named for a person: a file's path, or `engine 0123456789ab`. There is no conversion between
    versions: a document of another version means something else, so guessing would be worse than refusing.

    Raises:
        InvalidRequest: the document has another version.
    """
    if actual != expected:
        # The value comes from somebody else's file: it is cut, so that it cannot flood a terminal or a log.
        raise InvalidRequest(
            f"{document}: {field} is {str(actual)[:100]!r}, this program reads {expected!r}: "
            "it was written by another version: upgrade the older Enginefarm of the two"
        )
