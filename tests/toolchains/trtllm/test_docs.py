"""The tables of docs/trtllm.md are those of the data. Run as a program, this prints them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from enginefarm.contract.spec import Parallelism, Precision
from tests.doubles.option_parser import DATA
from toolchains.trtllm.context.conversion import find_conversion
from toolchains.trtllm.releases.draft_heads import draft_heads_by_mode
from toolchains.trtllm.releases.model_family import (
    ModelFamily,
    families_by_name,
)
from toolchains.trtllm.releases.option_table import load_table
from toolchains.trtllm.releases.release import ReleaseDescriptor, all_releases
from toolchains.trtllm.releases.rule_table import Rule, rules

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "trtllm.md"
RULES_HEAD = "| rule | effect | when | then | releases | held | source |"
FAMILIES_HEAD = "| family | architectures | converted by | parallelism | read at |"
DRAFTS_HEAD = "| mode | option | of | precisions | releases |"
CAUSES_HEAD = "| cause | whose fault | tried again | advice | seen as | source |"


def rule_rows() -> Iterator[str]:
    for rule in rules().values():
        cells = (f"`{rule.id}`", rule.effect, rule.when, rule.then, _releases(rule), rule.enforced_at, rule.source)
        yield _row(cells)


def _releases(rule: Rule) -> str:
    since, until = rule.since, rule.until
    if since is None and until is None:
        return "all"
    return f"before {until}" if since is None else f"{since} on" if until is None else f"{since} to before {until}"


def cause_rows() -> Iterator[str]:
    causes: list[dict[str, Any]] = json.loads((DATA / "failures.json").read_bytes())["causes"]
    for cause in causes:
        name = f"`{cause['cause']}`" + "".join(f" ({stage})" for stage in cause.get("stages", []))
        for message in cause["messages"]:
            retried = "yes" if cause["retryable"] else "no"
            message_cell = f"`{_short(message['says'])}`"
            yield _row((name, cause["fault"], retried, _advice(cause["advice"]), message_cell, message["source"]))


def _advice(advice: str | dict[str, str]) -> str:
    if isinstance(advice, str):
        return advice
    return "; ".join(f"*{step}*: {text}" for step, text in advice.items())


def family_rows() -> Iterator[str]:
    for name, family in sorted(families_by_name().items()):
        if releases_with_family := [release for release in reversed(all_releases()) if name in release.convert]:
            sizes = sorted({_parallelism(release, family) for release in releases_with_family}, key=len)
            read_at = _read_at(releases_with_family[0].convert[name].table)
            yield _row(
                (name, _architectures(family), f"{releases_with_family[0].version} on", " or ".join(sizes), read_at)
            )


def _architectures(family: ModelFamily) -> str:
    """In the release from which the script is proven to take it."""
    return ", ".join(f"{name} ({since})" for name, since in family.architectures.items())


def _parallelism(release: ReleaseDescriptor, family: ModelFamily) -> str:
    conversion = find_conversion(release, next(iter(family.architectures)), Precision(), None)
    unsupported = conversion.unsupported(Parallelism(tp=2, pp=2, cp=2)) if conversion else []
    return ", ".join(role for role in ("tp", "pp", "cp") if role not in unsupported) or "none"


def _read_at(file: str) -> str:
    """Of the script that one of these tables is of: families may share it."""
    script = ".".join(file.split(".")[:2]) + "."
    files = {path.name: load_table(path.name) for path in (DATA / "tables").glob(f"{script}*.json")}
    labels = {file.removeprefix(script)[:-5]: read.source.sure for file, read in files.items()}
    read = [(label, sure) for label, sure in labels.items() if sure != "inferred"]
    return ", ".join(f"{label} ({sure})" for label, sure in sorted(read, key=lambda entry: _order(entry[0])))


def _order(label: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 99 for part in label.split("."))


def draft_rows() -> Iterator[str]:
    for mode, heads in draft_heads_by_mode().items():
        since = next(release.version for release in reversed(all_releases()) if mode in release.draft)
        precisions = ", ".join(quantization or "plain" for quantization in heads.quantization)
        yield _row((f"`{mode}`", f"`{heads.model_option}`", ", ".join(heads.architectures), precisions, f"{since} on"))


def _short(message: str) -> str:
    return message if len(message) <= 90 else message[:89] + "…"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(head: str) -> list[str]:
    """The rows below the head, without the line that makes it one."""
    lines = DOCUMENT.read_text().splitlines()
    start = lines.index(head) + 2
    return list(takewhile(lambda line: line.startswith("|"), lines[start:]))


def test_the_documented_rules_are_those_of_the_data() -> None:
    assert _table(RULES_HEAD) == list(rule_rows())


def test_the_documented_failures_are_those_of_the_data() -> None:
    assert _table(CAUSES_HEAD) == list(cause_rows())


def test_the_documented_draft_modes_are_those_of_the_data() -> None:
    assert _table(DRAFTS_HEAD) == list(draft_rows())


def test_the_documented_families_are_those_of_the_data() -> None:
    assert _table(FAMILIES_HEAD) == list(family_rows())


if __name__ == "__main__":
    for head, rows in ((RULES_HEAD, rule_rows()), (FAMILIES_HEAD, family_rows()), (CAUSES_HEAD, cause_rows())):
        print(head, "|" + "---|" * (head.count("|") - 1), *rows, "", sep="\n")
