"""`./bazelw run //tools/affected -- OPTIONS [-- BAZEL FLAGS]`: the tests that a change affects; docs/affected.md.

Standard output has the answer and nothing else. Exit status: 0 an answer was given, also that nothing is affected;
2 there is none; with --test it is Bazel's.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tools.affected import filters, report, run_tests, settings
from tools.affected.selection import SelectError, Selection

if TYPE_CHECKING:
    from tools.affected.explain import Explanation
    from tools.affected.selector import Options, Selector

_MARKERS = ("MODULE.bazel", "WORKSPACE", "WORKSPACE.bazel")
_INTERRUPTED = 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def affected(
    bazel_flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- BAZEL FLAGS]", help="For --test.", show_default=False)
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Revision to compare with. Default: where HEAD left the main branch.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="Revision to ask about. Default: the working tree, untracked files included."),
    ] = None,
    output: Annotated[
        Literal["table", "labels", "json", "matrix"], typer.Option(help="How to print the answer.")
    ] = "table",
    tier: Annotated[list[str] | None, typer.Option(help="Only these tiers: unit,lint.")] = None,
    hardware: Annotated[list[str] | None, typer.Option(help="Only tests for this hardware: cpu,gpu.")] = None,
    test_tag_filters: Annotated[str, typer.Option(help="Only these tags, as Bazel reads them: unit,-multi-gpu.")] = "",
    distance: Annotated[
        bool, typer.Option("--distance", help="Nearest to the change first, by steps in the graph.")
    ] = False,
    max_distance: Annotated[int | None, typer.Option(min=0, help="Only tests at most this far.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Run the tests with Bazel.")] = False,
    explain: Annotated[str | None, typer.Option(metavar="LABEL", help="Why this test is affected.")] = None,
    why_not: Annotated[str | None, typer.Option(metavar="LABEL", help="Why this test is not affected.")] = None,
    build: Annotated[
        bool, typer.Option("--build", help="Build what programs make for tests: it may be what it was.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="An error, not every test, where the base says nothing.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for what is known of bases. Default: ~/.cache/trainyard/affected.")
    ] = None,
    workspace: Annotated[Path | None, typer.Option(help="Default: the one this runs in.")] = None,
) -> None:
    """Tells the tests that a change affects: those that Bazel would have to run again."""
    try:
        root = _workspace(workspace)
        known = settings.read(root)
        wanted = filters.Filters(
            tiers=filters.words("--tier", tier or ()),
            hardware=filters.words("--hardware", hardware or ()),
            tags=filters.TagFilter.parse(test_tag_filters),
            max_distance=max_distance,
        )
        asked = [label for label in (explain, why_not) if label is not None]
        if len(asked) > 1 or (asked and test):
            raise SelectError("--explain, --why-not and --test: take one at a time")
        if bazel_flags and not test:
            raise SelectError(f"{' '.join(bazel_flags)}: Bazel's flags are for running tests; add --test before `--`")
        options = _options(root, _folder(cache) if cache else _default_cache(), known, build=build, strict=strict)
        with _selecting(root, base, head, options) as selector:
            if asked:
                status = _explain(output, selector.explain(_full(asked[0])))
            else:
                selection = selector.selection()
                far = selector.distances() if distance or max_distance is not None else None
        if not asked:
            split = filters.split(selection.affected, wanted, far)
            _answer(output, selection, split, known)
            status = _run(output, split, known, bazel_flags or [], root) if test else 0
    except (SelectError, OSError) as error:
        _say(f"error: {error}")
        status = 2
    except KeyboardInterrupt:
        _say("interrupted")
        status = _INTERRUPTED
    raise typer.Exit(status)


def _options(root: Path, cache: Path, known: settings.Settings, *, build: bool, strict: bool) -> Options:
    from tools.affected import selector  # (so that --help and errors in options do not wait for it)

    return selector.Options(
        bazel=run_tests.bazel_of(root),
        configurations=known.configurations,
        cache=cache,
        flags=known.query_flags,
        main_branch=known.main_branch,
        build=build,
        strict=strict,
    )


def _selecting(root: Path, base: str | None, head: str | None, options: Options) -> AbstractContextManager[Selector]:
    from tools.affected import selector

    return selector.selecting(root, base, head, options, _say)


def _explain(output: str, explanation: Explanation) -> int:
    if explanation.verdict == "unknown":
        raise SelectError(f"{explanation.label}: {'; '.join(explanation.because)}")
    _print(report.explanation_as_json(explanation) if output == "json" else report.explanation(explanation))
    return 0


def _answer(output: str, selection: Selection, split: filters.Split, known: settings.Settings) -> None:
    if output == "table":
        from rich.console import Console

        # Not a terminal: the width of nobody's window, so that logs hold the table in one piece.
        report.show(Console(width=None if sys.stdout.isatty() else 120, highlight=False), selection, split)
        return
    loud = report.loud(selection)
    if loud is not None:
        _say(loud)
    _say(report.summary(selection, split))
    if output == "labels":
        _print(report.labels(split))
    else:
        _print(report.as_json(selection, split) if output == "json" else report.matrix(split, known))


def _run(output: str, split: filters.Split, known: settings.Settings, flags: list[str], root: Path) -> int:
    plan = run_tests.plan((each.test for each in split.kept), known, flags)
    for line in run_tests.missing(plan):
        _say(line)
    if not plan.runs:
        _say("nothing to run here")
        return 0
    return run_tests.run(plan, root, run_tests.bazel_of(root), _say, None if output == "table" else sys.stderr)


def _workspace(given: Path | None) -> Path:
    root = _folder(given or Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", os.curdir)))
    if not any((root / name).is_file() for name in _MARKERS):
        raise SelectError(f"{root} is no Bazel workspace (no MODULE.bazel): start in one, or name it, --workspace DIR")
    return root


def _folder(path: Path) -> Path:
    """The path as the caller meant it: `bazel run` starts the program elsewhere and says where the caller stands."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", os.curdir)).absolute() / path


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainyard" / "affected"


def _full(label: str) -> str:
    """A label with its `//` and its name: `trainers/data` is `//trainers/data:data`."""
    label = "//" + label.lstrip("@").removeprefix("//")
    return label if ":" in label else f"{label}:{label.rpartition('/')[2]}"


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    print(f"affected: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
