"""`status`, `wait`, `logs`, `cancel`: show, follow or cancel a build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice

import click

from enginefarm.cli import words
from enginefarm.cli.output import facts, json_option, print_items, print_json, show, table
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
                _print_list(builds)
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
@json_option
@pass_settings
def logs(settings: Settings, build_id: str, follow: bool, as_json: bool) -> None:
    """Print the log of a build. With --json, one object for each line."""
    with settings.farm() as farm:
        for line in farm.logs(build_id, follow=follow):
            click.echo(json.dumps({"line": line}, ensure_ascii=False) if as_json else line)


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
        click.echo(f"build {build.id} is {build.state}")


def report(build: Build, *, as_json: bool) -> None:
    """Print a build that has ended.

    Raises:
        BuildFailed: it has no engine. With --json, the build is printed first.
    """
    if as_json:
        print_json(build)
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
    share = f" {build.progress:.0%}" if build.state is BuildState.RUNNING else ""
    stage = f", {build.stage}" if build.stage else ""
    show(
        facts(
            [
                ("build", build.id),
                ("key", build.key),
                ("state", f"{build.state}{stage}{share} ({build.disposition})"),
                ("doing", words.doing(build) or None),
                ("eta", None if build.eta_seconds is None else words.duration(build.eta_seconds)),
                ("model", words.model(build.model)),
                ("toolchain", f"{build.toolchain} {build.version}"),
                ("platform", build.platform.label()),
                ("requested by", build.requested_by),
                ("created", f"{build.created_at:%Y-%m-%d %H:%M:%SZ} ({words.age(build.created_at)} ago)"),
                ("cause", f"{build.error.cause}: {build.error.detail}" if build.error else None),
                ("advice", build.error.advice if build.error else None),
                ("engine", f"{words.size(build.engine.size)} in {build.engine.files} files" if build.engine else None),
            ]
        )
    )
    if build.attempts:
        headings = ("STAGE", "TRY", "WORKER", "OUTCOME", "TOOK", "CAUSE")
        click.echo()
        show(table(headings, map(_attempt, build.attempts), elastic="CAUSE"))


def _attempt(attempt: Attempt) -> tuple[object, ...]:
    ended = attempt.ended_at
    took = words.duration((ended - attempt.started_at).total_seconds()) if ended else words.age(attempt.started_at)
    failure = attempt.failure
    cause = f"{failure.cause}: {failure.detail}" if failure else ""
    return attempt.stage, attempt.number, attempt.worker, attempt.outcome, took, cause


def _print_list(builds: list[Build]) -> None:
    show(table(("BUILD", "STATE", "DONE", "AGE", "MODEL"), chain.from_iterable(map(_rows, builds)), elastic="MODEL"))


def _rows(build: Build) -> Iterator[tuple[object, ...]]:
    yield build.id, build.state, f"{build.progress:.0%}", words.age(build.created_at), words.model(build.model)
    if not build.state.ended and words.doing(build):
        yield "", "", "", "", f"({words.doing(build)})"  # a line of its own, because it is long
