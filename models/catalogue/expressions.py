"""SQL that the two databases spell differently. Listings filter by some of them, and indexes have these expressions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ColumnElement, Float, Text, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement


class text_before_at(FunctionElement[str]):  # noqa: N801  # reads as the SQL function that it is
    """The text before the first `@`, or all of it: of a model's reference, the model without its revision.

    An index of it finds a model at any revision in every locale, in the order of a listing. An index of the whole text
    serves LIKE in the locale C only.
    """

    type = Text()
    inherit_cache = True


@compiles(text_before_at, "postgresql")
def text_before_at_on_postgresql(element: text_before_at, compiler: SQLCompiler, **kw: Any) -> str:
    return f"split_part({compiler.process(element.clauses, **kw)}, '@', 1)"


@compiles(text_before_at, "sqlite")
def text_before_at_on_sqlite(element: text_before_at, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.clauses, **kw)
    return f"substr({text}, 1, instr({text} || '@', '@') - 1)"


class gpu_of(FunctionElement[str]):  # noqa: N801
    """The GPU's name in a platform, which is a JSON column. NULL for a machine without a GPU."""

    type = Text()
    inherit_cache = True


@compiles(gpu_of, "postgresql")
def gpu_of_on_postgresql(element: gpu_of, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} ->> 'gpu')"


@compiles(gpu_of, "sqlite")
def gpu_of_on_sqlite(element: gpu_of, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_extract({compiler.process(element.clauses, **kw)}, '$.gpu')"


class seconds_between(FunctionElement[float]):  # noqa: N801
    """The seconds from one time to another, to the millisecond."""

    type = Float()
    inherit_cache = True


@compiles(seconds_between, "postgresql")
def seconds_between_on_postgresql(element: seconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    start, end = (compiler.process(time, **kw) for time in element.clauses)
    return f"round(extract(epoch FROM {end} - {start}), 3)::double precision"


@compiles(seconds_between, "sqlite")
def seconds_between_on_sqlite(element: seconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    start, end = (compiler.process(time, **kw) for time in element.clauses)
    return f"round((julianday({end}) - julianday({start})) * 86400.0, 3)"


class json_list(FunctionElement[list[Any]]):  # noqa: N801
    """The values of a column of all rows as one list. Of no rows, it is empty on SQLite and NULL on PostgreSQL."""

    type = JSON()
    inherit_cache = True


@compiles(json_list, "postgresql")
def json_list_on_postgresql(element: json_list, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_agg({compiler.process(element.clauses, **kw)})"


@compiles(json_list, "sqlite")
def json_list_on_sqlite(element: json_list, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_group_array({compiler.process(element.clauses, **kw)})"


def is_of_model(column: InstrumentedAttribute[str], reference: str) -> ColumnElement[bool]:
    """For a WHERE clause: the row is of this model, at any revision if the reference has none."""
    model, at, _ = reference.partition("@")
    if at and reference.startswith("hf:"):
        return column == reference
    of_model = text_before_at(column) == model
    if at:
        # In the path of a folder or a bucket, `@` is a character like others. autoescape: `_` is a wildcard of LIKE.
        return of_model & or_(column == reference, column.startswith(reference + "@", autoescape=True))
    return of_model
