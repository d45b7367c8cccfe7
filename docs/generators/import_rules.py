"""Write the linter's import rules into docs/architecture.md: `python -m docs.generators.import_rules`.

The rules are `[tool.importlinter]` of pyproject.toml, which `make check` enforces. A test compares the page with them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.generators.markdown import table

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs" / "architecture.md"
BEGIN = "<!-- import rules: written by `python -m docs.generators.import_rules` -->"
END = "<!-- end of the import rules -->"


def import_rules() -> str:
    """Markdown: a table for each contract about layers, then one of what is forbidden."""
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    sections = []
    for contract in contracts:
        if contract["type"] == "layers":
            containers = _code(contract.get("containers", []))
            head = f"in {containers}" if containers else "package"
            sections += [f"**{contract['name']}**", table((head, "may import"), _layer_rows(contract))]
    rows = [
        (contract["name"], _code(contract["source_modules"]), _code(contract["forbidden_modules"]))
        for contract in contracts
        if contract["type"] == "forbidden"
    ]
    sections.append("**Forbidden, also through other modules**")
    sections.append(table(("rule", "these", "must not import"), rows))
    return "\n\n".join(sections)


def _layer_rows(contract: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A row for each layer, top first. Packages of one layer, joined by `|`, do not import each other."""
    layers = [[name.strip(" ()") for name in layer.split("|")] for layer in contract["layers"]]
    for number, layer in enumerate(layers):
        lower = [name for below in layers[number + 1 :] for name in below]
        yield _code(layer), _code(lower) or "none of these"


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def block(page: str) -> str:
    """The part of the page between the two comments."""
    return _split(page)[1].strip()


def with_rules(page: str, rules: str) -> str:
    """The page with `rules` between the two comments, and every other byte as it was.

    Raises:
        ValueError: the page does not have each comment once, in this order.
    """
    before, _, after = _split(page)
    return f"{before}{BEGIN}\n{rules}\n{END}{after}"


def _split(page: str) -> tuple[str, str, str]:
    """The page before, between and after the two comments.

    By position: the text between them may be empty or occur elsewhere on the page, where it must stay.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise ValueError(f"the page needs {BEGIN!r} once, and {END!r} once after it")
    before, _, after_begin = page.partition(BEGIN)
    between, _, after = after_begin.partition(END)
    return before, between, after


def main() -> None:
    PAGE.write_text(with_rules(PAGE.read_text(), import_rules()))


if __name__ == "__main__":
    main()
