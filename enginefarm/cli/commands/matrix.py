"""`matrix`: submit many builds with one spec."""

from __future__ import annotations

from typing import IO

import click

from enginefarm.cli import words
from enginefarm.cli.output import json_option, print_json, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.spec import read_object
from enginefarm.contract.errors import InvalidSpec


@click.command()
@click.argument("spec_file", metavar="SPEC", type=click.File(encoding="utf-8"))
@click.option("--require-worker", is_flag=True, help="Refuse cells that no live worker can build, instead of waiting.")
@json_option
@pass_settings
def matrix(settings: Settings, spec_file: IO[str], require_worker: bool, as_json: bool) -> None:
    """Submit every combination of the lists in a spec.

    SPEC is a JSON file, or '-' for stdin. Any value in it may be a list. Each combination is accepted or refused on its
    own. Exit code 2: some were refused.
    """
    with settings.farm() as farm:
        answer = farm.submit_matrix(read_object(spec_file), require_worker=require_worker)
    if as_json:
        print_json(answer)
    else:
        rows: list[tuple[object, ...]] = []
        for cell in answer.cells:
            name = ", ".join(f"{pointer.rpartition('/')[2]}={value}" for pointer, value in cell.axes.items())
            submitted = cell.submitted
            if submitted is None:
                rows.append((name, "-", "refused", cell.problem.detail if cell.problem else cell.status))
            else:
                state = f"{submitted.state} ({submitted.disposition})"
                rows.append((name, submitted.id, state, words.short(submitted.key)))
        show(table(("CELL", "BUILD", "STATE", "KEY OR REASON"), rows, elastic="KEY OR REASON"))
    refused = [cell.problem for cell in answer.cells if cell.problem is not None]
    if refused:
        problems = []
        for document in refused:
            problems.extend(document.errors)
        raise InvalidSpec(problems, f"{len(refused)} of {len(answer.cells)} cells were refused")
