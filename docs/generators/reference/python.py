"""The reference of the Python client, from the public names of `enginefarm` and their docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import enginefarm
from docs.generators.markdown import code_block, table
from enginefarm.contract.errors import EnginefarmError


def python_reference() -> str:
    """Markdown: functions and classes with their methods first, then the errors."""
    sections: list[str] = []
    errors = []
    for name in enginefarm.__all__:
        public = getattr(enginefarm, name)
        if isinstance(public, type) and issubclass(public, EnginefarmError):
            errors.append((f"`{name}`", f"`{public.code}`", public.title))
        elif isinstance(public, type):
            sections += _class(name, public)
        elif callable(public):
            sections += _callable("##", name, public)
    sections += ["## Errors", table(("class", "code", "means"), errors)]
    return "\n\n".join(sections)


def _class(name: str, public: type) -> Iterator[str]:
    yield f"## {name}"
    yield from _docstring(public)
    for method_name, method in inspect.getmembers(public, inspect.isfunction):
        # Data models inherit dozens of pydantic's methods; those of the farm's own are documented here.
        if not method_name.startswith("_") and method.__module__.startswith("enginefarm."):
            yield from _callable("###", f"{name}.{method_name}", method)


def _callable(level: str, name: str, function: object) -> Iterator[str]:
    assert callable(function)
    yield f"{level} `{name}`"
    # Annotations are strings in modules that postpone them; their quotes would only disturb.
    signature = str(inspect.signature(function)).replace("'", "")
    yield code_block(f"{name.rpartition('.')[2]}{signature}", "python")
    yield from _docstring(function)


def _docstring(public: object) -> Iterator[str]:
    """The docstring as it stands: its sections keep their indentation."""
    docstring = inspect.getdoc(public)
    if docstring:
        yield code_block(docstring, "text")
