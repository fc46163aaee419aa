"""Command line: conversations to token ids and labels, with a tokenizer's chat template."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.logging import RichHandler
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from trainers.data.callers_folder import from_callers_folder
from trainers.data.command_errors import report_error
from trainers.data.jsonl_blocks import OnBadLine
from trainers.data.literal_console import literal_console

app = typer.Typer(add_completion=False)


@app.command()
def main(
    messages: Annotated[Path, typer.Argument(help="JSONL file, each line an object with 'messages'.")],
    tokenizer: Annotated[str, typer.Option(help="Folder of a tokenizer, or a tokenizer.json.")],
    output: Annotated[Path, typer.Option(help="File to write: JSONL, or Arrow if its name ends in .arrow.")],
    chat_template: Annotated[Path | None, typer.Option(help="Template to use instead of the tokenizer's.")] = None,
    min_len: Annotated[int, typer.Option(min=1, help="Fewest tokens of a conversation that is kept.")] = 20,
    max_len: Annotated[
        int | None, typer.Option(help="Tokens from which on one is left out. Default: no limit.")
    ] = None,
    trained_role: Annotated[
        list[str] | None, typer.Option(help="Role that carries loss; may be given again. Default: assistant.")
    ] = None,
    unmask: Annotated[bool, typer.Option("--unmask", help="All roles but the system's carry loss.")] = False,
    on_bad_line: Annotated[str, typer.Option(help="'error', or 'skip' to leave bad lines out.")] = "error",
    processes: Annotated[int, typer.Option(min=1, help="Processes. Default: one per core.")] = os.cpu_count() or 1,
) -> None:
    """Tokenise conversations: from messages to input_ids and labels, a JSON object a line or an Arrow file."""
    from trainers.data.preparation import prepare  # (transformers takes seconds, and other commands do not need it)

    notes = literal_console()
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=notes, show_time=False, show_path=False)])
    messages, output = from_callers_folder(messages), from_callers_folder(output)
    given = from_callers_folder(Path(tokenizer))
    try:
        columns = (
            TextColumn("tokenising"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=notes) as progress:
            task = progress.add_task("", total=messages.stat().st_size)
            summary = prepare(
                messages,
                given if given.exists() else tokenizer,
                output,
                chat_template=chat_template and from_callers_folder(chat_template),
                min_len=min_len,
                max_len=max_len,
                trained_roles=trained_role or ("assistant",),
                unmask=unmask,
                on_bad_line=cast(OnBadLine, on_bad_line),
                num_processes=processes,
                advance=lambda size: progress.advance(task, size),
            )
        notes.print(_table(vars(summary), output))
    except (ValueError, OSError) as error:
        raise typer.Exit(report_error(error)) from error


def _table(counts: Mapping[str, int], output: Path) -> Table:
    table = Table(title=f"{output.name}", title_justify="left", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("count", justify="right")
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    return table


if __name__ == "__main__":
    app()
