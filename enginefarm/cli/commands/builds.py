"""`status`, `wait`, `logs`, `cancel`: show, follow or cancel a build."""

from __future__ import annotations

import sys
from itertools import islice

import click

from enginefarm.cli import words
from enginefarm.cli.output import echo, facts, json_option, print_items, print_json, print_json_line, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.watch import watch
from enginefarm.client.farm import engine_of
from enginefarm.wire.bodies import Attempt, Build, BuildState

timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop waiting after this long (exit code 9)."
)


@click.command()
@click.argument("build_id", metavar="[BUILD_ID]", required=False)
@click.option("--state", type=click.Choice([state.value for state in BuildState]))
@click.option("--model", metavar="MODEL")
@click.option("--toolchain", metavar="NAME")
@click.option("--platform", metavar="PLATFORM", help="A GPU's name, or a platform as `ls` names it.")
@click.option("--requested-by", metavar="WHO")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Builds to list at most.")
@json_option
@pass_settings
def status(settings: Settings, /, build_id: str | None, limit: int, as_json: bool, **filters: str | None) -> None:
    """Show one build, or list the latest."""
    with settings.farm() as farm:
        if build_id is None:
            builds = list(islice(farm.builds(**filters), limit))
            if as_json:
                print_items(builds)
            else:
                print_builds(builds)
        else:
            build = farm.build(build_id)
            if as_json:
                print_json(build)
            else:
                print_build(build)


@click.command()
@click.argument("build_id")
@timeout_option
@json_option
@pass_settings
def wait(settings: Settings, build_id: str, timeout: float | None, as_json: bool) -> None:
    """Wait until a build has ended.

    Exit code 8: it ended without an engine.
    """
    with settings.farm() as farm:
        report(watch(farm, build_id, timeout), as_json=as_json)


@click.command()
@click.argument("build_id")
@click.option("-f", "--follow", is_flag=True, help="Print new lines until the build has ended.")
@click.option("--raw", is_flag=True, help="Print the bytes as they are, with colours and control characters.")
@json_option
@pass_settings
def logs(settings: Settings, build_id: str, follow: bool, raw: bool, as_json: bool) -> None:
    """Print the log of a build. With --json, one object for each line.

    Without --raw, control characters are removed or shown as escapes, on a terminal and in a pipe alike.
    """
    if raw and as_json:
        raise click.UsageError("give --raw or --json, not both")
    with settings.farm() as farm:
        if raw:
            stdout = sys.stdout.buffer
            for chunk in farm.log_chunks(build_id, follow=follow):
                stdout.write(chunk)
                stdout.flush()  # each chunk: a followed log is read while it grows
            return
        for line in farm.logs(build_id, follow=follow):
            if as_json:
                print_json_line({"line": line})
            else:
                echo(line)


@click.command()
@click.argument("build_id")
@json_option
@pass_settings
def cancel(settings: Settings, build_id: str, as_json: bool) -> None:
    """Cancel a build. An action that another build waits for goes on."""
    with settings.farm() as farm:
        build = farm.cancel(build_id)
    if as_json:
        print_json(build)
    else:
        echo(f"build {build.id} is {build.state}")


def report(build: Build, *, as_json: bool) -> None:
    """Print a build that has ended.

    Raises:
        BuildFailed: it has no engine. With --json, the build is printed first.
    """
    if as_json:
        print_json(build)
    # After the JSON: a program reads from it why the build failed, and the exit code says that it did.
    engine = engine_of(build)
    if not as_json:
        show(
            facts(
                [
                    ("build", build.id),
                    ("engine", engine.key),
                    ("size", f"{words.size(engine.size)} in {engine.files} files"),
                    ("fetch it", f"enginefarm pull {words.short(engine.key)} DIRECTORY"),
                ]
            )
        )


def print_build(build: Build) -> None:
    """Print one build and its attempts."""
    state = str(build.state)
    if build.stage:
        state += f", {build.stage}"
    if build.state is BuildState.RUNNING:
        state += f" {build.progress:.0%}"
    eta = cause = advice = engine = None
    log_lines: list[str] = []
    if build.eta_seconds is not None:
        eta = words.duration(build.eta_seconds)
    if build.error:
        # Of an unknown failure, the detail has the errors of the log on the lines after the first.
        first_line, *log_lines = build.error.detail.split("\n")
        cause = f"{build.error.cause}: {first_line}"
        advice = build.error.advice
    if build.engine:
        engine = f"{words.size(build.engine.size)} in {build.engine.files} files"
    show(
        facts(
            [
                ("build", build.id),
                ("key", build.key),
                ("state", f"{state} ({build.disposition})"),
                ("doing", words.doing(build) or None),
                ("eta", eta),
                ("model", words.model(build.model)),
                ("toolchain", f"{build.toolchain} {build.version}"),
                ("platform", build.platform.label()),
                ("requested by", build.requested_by),
                ("created", f"{build.created_at:%Y-%m-%d %H:%M:%SZ} ({words.age(build.created_at)} ago)"),
                ("cause", cause),
                *(("error before", line) for line in reversed(log_lines)),
                ("advice", advice),
                ("engine", engine),
            ]
        )
    )
    if build.attempts:
        echo()
        print_attempts(build.attempts)


def print_attempts(attempts: list[Attempt]) -> None:
    """Print a table of attempts: where each ran, for how long, and why it failed."""
    rows = []
    for attempt in attempts:
        took = words.age(attempt.started_at)  # of one that still runs
        if attempt.ended_at:
            took = words.duration((attempt.ended_at - attempt.started_at).total_seconds())
        cause = ""
        if attempt.failure:
            first_line, *_ = attempt.failure.detail.split("\n")
            cause = f"{attempt.failure.cause}: {first_line}"
        rows.append((attempt.stage, attempt.number, attempt.worker, attempt.outcome, took, cause))
    show(table(("STAGE", "TRY", "WORKER", "OUTCOME", "TOOK", "CAUSE"), rows, elastic="CAUSE"))


def print_builds(builds: list[Build]) -> None:
    """Print a table of builds, with what an open one does or waits for."""
    rows: list[tuple[object, ...]] = []
    for build in builds:
        share = f"{build.progress:.0%}"
        rows.append((build.id, build.state, share, words.age(build.created_at), words.model(build.model)))
        doing = words.doing(build)
        if doing and not build.state.ended:
            rows.append(("", "", "", "", f"({doing})"))  # a line of its own, because it is long
    show(table(("BUILD", "STATE", "DONE", "AGE", "MODEL"), rows, elastic="MODEL"))
