"""The version that every stored or exchanged document states, checked in one place."""

from __future__ import annotations

from enginefarm.contract.errors import InvalidRequest


def require_version(document: str, field: str, actual: object, *readable: str) -> None:
    """Return if `actual`, the version that `field` of `document` states, is one of those that this program reads.

    `document` is named for a person: a file's path, or `engine 0123456789ab`. There is no conversion between
    versions: a document of another version means something else, so guessing would be worse than refusing.

    Raises:
        InvalidRequest: the document has another version.
    """
    if actual not in readable:
        # The value comes from somebody else's file: it is cut, so that it cannot flood a terminal or a log.
        expected = " or ".join(map(repr, readable))
        raise InvalidRequest(
            f"{document}: {field} is {str(actual)[:100]!r}, this program reads {expected}: "
            "it was written by another version: upgrade the older Enginefarm of the two"
        )
