"""Parse sizes on the command line: `50MiB`, `2GB`, `1000000`."""

from __future__ import annotations

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

_SIZE = TypeAdapter(ByteSize)


class _Bytes(click.ParamType[int]):
    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            size = int(_SIZE.validate_python(value))
        except ValidationError:
            size = 0
        # Zero is refused, too: a limit of 0 bytes per second would never end.
        if size < 1:
            self.fail(f"{value!r} is not a size: expected a number and a unit, such as 50MiB or 2GB", param, ctx)
        return size


BYTES = _Bytes()
