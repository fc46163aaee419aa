"""`./bazelw run //tools:fix`: applies what the lint tests find and a program can mend, and lists what remains."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.lint import build_edit, deps, distributions, house, run_buildifier, run_ruff, tree
from tools.lint.distributions import Distributions
from tools.lint.finding import DepEdit, Finding
from tools.lint.repo import Repo

_ROUNDS = 3  # an added dependency can make another one superfluous, not more than once


def apply(root: Path, wheels: Distributions, buildifier: Path | None) -> list[DepEdit]:
    """Mends the files below `root` and returns the changes to `deps`.

    Args:
      root: the repo.
      wheels: the installed wheels.
      buildifier: the program; without it BUILD files are edited but not formatted.

    Raises:
      ValueError: a program cannot run, or an edit does not apply.
    """
    for init in house.missing_packages(Repo.read(root)):
        (root / init).touch()
    run_ruff.fix(root)
    made: list[DepEdit] = []
    for _ in range(_ROUNDS):
        edits = sorted({finding.edit for finding in deps.check(Repo.read(root), wheels) if finding.edit is not None})
        if not edits:
            break
        by_file: dict[str, list[DepEdit]] = defaultdict(list)
        for edit in edits:
            by_file[edit.build_file].append(edit)
        for name, changes in by_file.items():
            path = root / name
            path.write_text(build_edit.apply(path.read_text(encoding="utf-8"), changes), encoding="utf-8")
        made += edits
    if buildifier is not None:
        run_buildifier.fix(buildifier, root, run_buildifier.files_of(root))
    return made


def remaining(root: Path, wheels: Distributions, buildifier: Path | None) -> list[Finding]:
    """What the lint tests still find, types excepted: `//tools/lint:repo_types_test` shows those.

    Raises:
      ValueError: a program cannot run.
    """
    repo = Repo.read(root)
    findings = run_ruff.check(root) + deps.check(repo, wheels) + house.check(repo)
    if buildifier is not None:
        findings += run_buildifier.check(buildifier, root, run_buildifier.files_of(root))
    return sorted(set(findings))


def snapshot(root: Path) -> dict[str, str]:
    """The content of every source file below `root`, by path."""
    return {str(path): (root / path).read_text(encoding="utf-8") for path in tree.source_files(root)}


def main(
    root: Annotated[Path | None, typer.Argument(help="The repo to mend; left out, the one this runs in.")] = None,
) -> None:
    """Formats, sorts and completes Python and BUILD files, then lists what is left to mend by hand."""
    console = Console(soft_wrap=True, emoji=False, highlight=False)  # `:100:` is a line, not a picture
    folder = (root or tree.working_tree()).resolve()
    wheels = Distributions(distributions.site_folders())
    buildifier = run_buildifier.find()
    before = snapshot(folder)
    try:
        with console.status("applying ruff, dependencies, buildifier"):
            edits = apply(folder, wheels, buildifier)
            left = remaining(folder, wheels, buildifier)
    except ValueError as error:
        console.print(f"[red]fix stopped:[/red] {escape(str(error))}")
        raise typer.Exit(2) from None
    after = snapshot(folder)
    changed = [path for path, text in after.items() if before.get(path) != text]

    table = Table("file", "change", title=f"{len(changed)} file(s) mended" if changed else "nothing to apply")
    for path in changed:
        changes = [f"{'+' if edit.add else '-'} {edit.name}: {edit.label}" for edit in edits if edit.build_file == path]
        done = "formatted" if path in before else "created"
        table.add_row(escape(path), escape("\n".join(changes) or done))
    console.print(table if changed else f"[green]{table.title}[/green]")
    if buildifier is None:
        console.print("[yellow]BUILD files were not formatted: no buildifier on PATH[/yellow]")
    for finding in left:
        console.print(f"[red]{escape(str(finding))}[/red]")
    console.print(f"{len(left)} finding(s) left" if left else "[green]nothing left to mend by hand[/green]")
    raise typer.Exit(1 if left else 0)


if __name__ == "__main__":
    typer.run(main)
