"""Say what is wrong with settings: one line each, with the full name, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import get_args

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

_LONGEST_VALUE = 80  # characters of a value that a line repeats
# Where pydantic's own words speak of parsing or of types.
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "url_parsing": "a URL that begins with http:// or https://",
    "url_scheme": "a URL that begins with http:// or https://",
    "tuple_type": "a list",
    "extra_forbidden": "another name: there is no such field",
}


def invalid_settings(
    error: ValidationError,
    fields: Mapping[str, FieldInfo],
    variables: Mapping[str, str],
    values: Mapping[str, str],
) -> Iterator[str]:
    """Yield a line for each finding of pydantic.

    Args:
        fields: of the settings, by name.
        variables: the environment variable that each field was read from, by the field's name.
        values: the texts of these variables, by the field's name.
    """
    for finding in error.errors(include_url=False):
        name, *path = finding["loc"]
        field = fields[str(name)]
        variable = variables[str(name)]
        if finding["type"] == "missing" and not path:
            yield f"{variable} is not set: expected {field.description}"
            continue
        reason = finding["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        reason = reason.replace("String should match", "expected text that matches the")
        if finding["type"] in _EXPECTED:
            reason = f"expected {_EXPECTED[finding['type']]}"
        # A list is shown as it was written; of JSON, the part that is wrong.
        found = _found(field, finding["input"] if path else values.get(str(name), finding["input"]))
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        yield f"{variable}{place}{found}: {reason} ({field.description})"


def _found(field: FieldInfo, value: object) -> str:
    """The value in the form "=…"; empty if it is a secret or may contain one."""
    text = str(value)
    # A URL with an @ has a password, or may have one.
    if field.annotation is SecretStr or SecretStr in get_args(field.annotation) or "@" in text:
        return ""
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}…"
    # ascii: a terminal may not show the characters of an environment that is no text, nor should it obey them.
    return "=" + (text if text.isascii() and text.isprintable() else ascii(text))


def unknown_setting(variable: str, prefix: str, names: Collection[str]) -> str:
    """The line for a variable that is no setting.

    Args:
        prefix: what the variable of every setting begins with.
        names: of all settings, without the prefix.
    """
    shown = ascii(variable)[1:-1]
    name = variable.upper().removeprefix(prefix)
    if name in names:
        return f"unknown setting {shown}: expected {prefix}{name}, in upper case"
    # Without the prefix: it is common to all of them, and would make any two names look alike.
    nearest = get_close_matches(name, names, n=1, cutoff=0.6)
    if nearest:
        return f"unknown setting {shown}: did you mean {prefix}{nearest[0]}? docs/settings.md lists all settings"
    return f"unknown setting {shown}: unset it; docs/settings.md lists all settings"
