"""Where the tests of a run of Bazel ran, and how long each waited, ran and was moved about: docs/remote_timeline.md.

usage: ./bazelw test //... --build_event_json_file=events.json --profile=profile.gz
       ./bazelw run //tools/remote/timeline -- --events events.json --profile profile.gz --output timeline.svg
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from tools.remote import engine
from tools.remote.places import Places
from tools.remote.timeline import bazel_profile, build_events, jobs, recorded, report
from tools.remote.timeline.attempts import in_order

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def timeline(
    events: Annotated[Path, typer.Option(help="What --build_event_json_file of Bazel wrote.")],
    profile: Annotated[Path | None, typer.Option(help="What --profile of Bazel wrote.")] = None,
    cluster: Annotated[
        Path | None, typer.Option(help="Home of the cluster that ran it, which is up: the scheduler is asked.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Picture to write: .svg or .png.")] = None,
    output_format: Annotated[Literal["table", "json"], typer.Option(help="How to print the answer.")] = "table",
) -> None:
    """Prints the attempts of a run and the totals of its pools; draws them."""
    attempts, invocation = build_events.read(_folder(events))
    if profile:
        attempts = recorded.merge(attempts, bazel_profile.read(_folder(profile)))
    if cluster:
        psql = engine.provide().postgres / "psql"
        attempts = recorded.merge(attempts, jobs.read(psql, Places(_folder(cluster)).run, invocation))
    attempts = in_order(attempts)
    if output_format == "json":
        sys.stdout.write(report.as_json(attempts, invocation))
    else:
        # Not a terminal: the width of nobody's window, so that logs hold the table in one piece.
        report.show(Console(width=None if sys.stdout.isatty() else 140, highlight=False), attempts)
    if output:
        # (imported late: matplotlib takes its second only where something is drawn)
        from tools.remote.timeline import picture

        picture.draw(attempts, _folder(output))


def _folder(path: Path) -> Path:
    """The path as the caller meant it: `bazel run` starts the program elsewhere and says where the caller stands."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", os.curdir)).absolute() / path


def main() -> None:
    """Runs it; what a user can mend is said in one message."""
    try:
        app()
    except FileNotFoundError as error:
        print(f"timeline: no file {error.filename}", file=sys.stderr)
        sys.exit(2)
    except (OSError, ValueError) as error:
        print(f"timeline: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
