"""Command line: what each packing strategy would do to a JSONL file, as a table and a picture."""

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tokenizers import Tokenizer

from trainers.data.callers_folder import from_callers_folder
from trainers.data.command_errors import report_error
from trainers.data.literal_console import literal_console
from trainers.data.packing import STRATEGIES, Strategy
from trainers.data.packing_stats import PackingStats, measure
from trainers.data.token_lengths import token_lengths

_EXAMPLE = Path(__file__).parent / "example"

app = typer.Typer(add_completion=False)


@app.command()
def pack_stats(
    jsonl: Annotated[
        Path, typer.Argument(help="Lines with 'messages' or 'input_ids'. Default: the conversations shipped with it.")
    ] = _EXAMPLE / "conversations.jsonl",
    max_tokens_per_rank: Annotated[int, typer.Option(min=1, help="Limit of a minibatch of one rank.")] = 1024,
    num_ranks: Annotated[int, typer.Option(min=1, help="Ranks that share a batch.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch, over all ranks.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the samples.")] = 0,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Strategy to show; may be given again. Default: all.")
    ] = None,
    tokenizer: Annotated[Path, typer.Option(help="tokenizer.json for 'messages'. Default: the shipped one.")] = _EXAMPLE
    / "tokenizer.json",
    output: Annotated[Path | None, typer.Option(help="Picture to write, e.g. pack_stats.png.")] = None,
) -> None:
    """Show what each packing strategy does to a data set, one epoch of it, batch by batch."""
    from trainers.data.sampler import EpochSampler  # (torch takes seconds, and other commands do not need it)

    notes = literal_console()
    try:
        jsonl, tokenizer = from_callers_folder(jsonl), from_callers_folder(tokenizer)
        lengths = _read(jsonl, tokenizer, notes)
        order = list(EpochSampler(len(lengths), seed))
        batches = [[lengths[index] for index in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
        stats = [
            measure(batches, max_tokens_per_rank, num_ranks, cast(Strategy, each)) for each in strategy or STRATEGIES
        ]
        out = literal_console(stderr=False)
        if not out.is_terminal:
            out.width = 120  # (of nobody's window, so that logs hold the table in one piece)
        out.print(_table(stats, len(batches), f"{jsonl.name}: {num_ranks} ranks, {max_tokens_per_rank} tokens each"))
        if output is not None:
            from trainers.data.packing_picture import draw  # (drawing is slow to import)

            picture = from_callers_folder(output)
            title = f"{jsonl.name}: a batch of {len(batches[0])} samples on {num_ranks} ranks"
            draw(picture, lengths, batches[0], stats, max_tokens_per_rank, num_ranks, title)
            notes.print(f"picture: {picture}", soft_wrap=True)
    except (ValueError, OSError) as error:
        raise typer.Exit(report_error(error)) from error


def _read(jsonl: Path, tokenizer: Path, console: Console) -> list[int]:
    if not tokenizer.is_file():
        raise ValueError(f"tokenizer {tokenizer} is not a file: give a tokenizer.json")
    try:
        loaded = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"tokenizer {tokenizer} cannot be loaded: {error}") from error
    columns = (TextColumn("tokenising"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=jsonl.stat().st_size)
        return token_lengths(jsonl, loaded, lambda size: progress.advance(task, size))


def _table(stats: list[PackingStats], num_batches: int, title: str) -> Table:
    caption = f"{num_batches} batch{'es' * (num_batches != 1)}; no packing has fewer than {stats[0].min_steps} steps"
    if stats[0].num_dropped:
        caption += f"; {stats[0].num_dropped} samples above the limit left out"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("strategy", no_wrap=True)
    for head in ("steps", "over bound", "fill", "least fill", "padding", "waiting", "dummies", "ms per batch"):
        table.add_column(head, justify="right")
    for each in stats:
        table.add_row(
            each.strategy,
            f"{each.num_steps}",
            f"+{each.num_steps / each.min_steps - 1:.1%}",
            f"{each.fill:.1%}",
            f"{each.min_fill:.1%}",
            f"{each.padding:.1%}",
            f"{each.waiting:.1%}",
            f"{each.num_dummies}",
            f"{each.seconds / num_batches * 1e3:.2f}",
        )
    return table


if __name__ == "__main__":
    app()
