"""Command line: a full state of a training to a folder that transformers loads."""

from pathlib import Path
from typing import Annotated

import typer

from trainers.data.callers_folder import from_callers_folder
from trainers.data.command_errors import report_error
from trainers.data.literal_console import literal_console
from trainers.sft.config import CONFIG, read_config


def convert(
    output: Annotated[Path, typer.Argument(help="Output folder of a training.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make, for transformers.")],
    step: Annotated[int | None, typer.Option(min=0, help="Step of the state. Default: the newest.")] = None,
    save_dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Default: as in config.yaml.")] = None,
) -> None:
    """Make a model that transformers loads of a full state. Adapters are merged, factors of OSFT multiplied out."""
    # torch and transformers take seconds, and other commands do not need them.
    from trainers.parallel.ranks import RankError
    from trainers.sft.conversion import convert_state, intact_state

    notes = literal_console()
    output, folder = from_callers_folder(output), from_callers_folder(folder)
    try:
        config = read_config(output / CONFIG, {"save_dtype": save_dtype} if save_dtype else {})
        checkpoint = intact_state(output, step)
        convert_state(checkpoint, config, folder)
    except (ValueError, OSError, RankError) as error:
        raise typer.Exit(report_error(error)) from error
    notes.print(f"step {checkpoint.step}: model {folder}", soft_wrap=True)
