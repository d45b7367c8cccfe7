"""`explain`: show what a submit would do, and why."""

from __future__ import annotations

import shlex
from typing import IO, Any

import click

from enginefarm.cli import words
from enginefarm.cli.output import echo, facts, json_option, print_json, print_problem, say, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.spec import read_spec, spec_arguments
from enginefarm.wire.explanation import Explanation, Verdict

_VERDICTS = {
    Verdict.HIT: "hit: the engine exists",
    Verdict.JOIN: "join: it is being built",
    Verdict.NEAR: "near: it would be built; the nearest engines are below",
    Verdict.MISS: "miss: it would be built; the farm has no engine of this model",
}


@click.command()
@spec_arguments
@json_option
@pass_settings
def explain(settings: Settings, /, spec_file: IO[str] | None, as_json: bool, **flags: Any) -> None:
    """Show what a submit would do, and why, without doing it.

    Prints the keys, every reason to refuse the spec, the nearest engines, and the commands that a worker would run. In
    commands, {source} is the model (convert) or the checkpoint (build), {output} an empty directory for the result,
    {scratch} the working directory, {calibration} the calibration data, and {OPTION} the model that this option names.
    """
    spec = read_spec(spec_file, flags)
    with settings.farm() as farm:
        explanation = farm.explain(spec)
    if as_json:
        print_json(explanation)
    else:
        _print(explanation)


def _print(explanation: Explanation) -> None:
    verdict = "a submit would be refused" if explanation.findings else _VERDICTS[explanation.verdict]
    would_take = None
    if explanation.predicted_minutes is not None:
        would_take = words.duration(explanation.predicted_minutes * 60)
    lines: list[tuple[str, object | None]] = [
        ("verdict", verdict),
        ("key", explanation.key),
        ("convert key", explanation.convert_key),
        ("join", explanation.build_id),
        ("would take", would_take),
    ]
    for stage in explanation.stages:
        outlook = f"{', '.join(stage.workers) or 'no worker'} could run it"
        if stage.waiting_for:
            outlook += f"; waits for: {stage.waiting_for}"
        if stage.done:
            outlook = "done"
        lines.append((str(stage.stage), outlook))
    show(facts(lines))
    # Problems go to stderr: stdout has only the answer, which a shell can cut and filter.
    for title, problems in (("refused for", explanation.findings), ("note", explanation.notes)):
        for problem in problems:
            say(f"{title}:")
            print_problem(problem)
    for near in explanation.nearest:
        echo()
        echo(f"engine {words.short(near.engine.key)} differs in {len(near.differences)}:")
        rows = [(difference.pointer, difference.wanted, difference.has) for difference in near.differences]
        show(table(("FIELD", "REQUESTED", "IT HAS"), rows))
    for command in explanation.commands:
        echo()
        echo(f"# {command.stage}")
        # Quoted, so that the line can be copied into a shell.
        settings = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
        echo(" ".join([*settings, shlex.join(command.argv)]))
