"""Command line of the SFT trainer."""

import inspect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import torch
import typer
import yaml  # type: ignore[import-untyped]
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.logging import RichHandler
from transformers.utils.logging import disable_progress_bar

from trainers.checkpoint.ranks import CheckpointError, Ranks
from trainers.data.callers_folder import from_callers_folder
from trainers.data.command_errors import report_error
from trainers.data.pack_stats import pack_stats
from trainers.data.prepare import main as prepare
from trainers.sft.callbacks import Callback
from trainers.sft.config import CONFIG, TrainConfig, read_config
from trainers.sft.conversations import tokenised
from trainers.sft.convert import convert
from trainers.sft.display import LossCurve, ProgressBar
from trainers.sft.launch import launch, launched
from trainers.sft.loop import train as run_training
from trainers.sft.metrics import JsonlMetrics, TensorBoardMetrics, WandbMetrics
from trainers.sft.options import check_options_compatible
from trainers.sft.signals import STOPPED
from trainers.sft.worker import hardware_of, joined

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Fine-tune a language model: from a JSONL file to a checkpoint that transformers loads."""


def train(config: Path | None = None, **flags: Any) -> None:
    """Train from a configuration file, flags, or both; flags win. Goes on from the newest state in the output folder.

    Exit status: 0 at the end, 75 after a signal (the state is saved, the same command goes on), 1 after an error.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    raise typer.Exit(_start(lambda: read_config(config and from_callers_folder(config), given)))


@app.command()
def resume(output: Annotated[Path, typer.Argument(help="Output folder of a training that was stopped.")]) -> None:
    """Go on with a training by the configuration that is stored in its output folder."""
    stored = from_callers_folder(output) / CONFIG
    raise typer.Exit(_start(lambda: read_config(stored, {})))


def _start(read: Callable[[], TrainConfig]) -> int:
    try:
        config = _absolute(read())
        hardware = hardware_of(config.device)
        check_options_compatible(config, "cuda" if hardware == "gpu" and torch.cuda.is_available() else "cpu")
        if launched():
            return run(config)
        return launch(config.ranks or max(1, torch.cuda.device_count() * (hardware == "gpu")), run, config)
    except (ValueError, OSError) as error:
        return report_error(error)


def run(config: TrainConfig) -> int:
    """Train on this rank; return the exit status."""
    console = Console(stderr=True)
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.ERROR,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_time=False, show_path=False)],
    )
    disable_progress_bar()  # type: ignore[no-untyped-call]  # (of transformers, for every model that is read or written)
    try:
        with joined(config.device) as worker:
            config = tokenised(config, Ranks(worker.control))
            outcome = run_training(config, worker, _callbacks(config, console) if rank == 0 else [])
    except (ValueError, CheckpointError) as error:
        return report_error(error)
    return STOPPED if outcome.signal else 0


def _callbacks(config: TrainConfig, console: Console) -> list[Callback]:
    folder = config.output
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (folder / CONFIG).write_text(text)
    console.print(text, highlight=False, style="dim")
    return [
        ProgressBar(console),
        JsonlMetrics(folder),
        *([TensorBoardMetrics(folder)] if config.tensorboard else []),
        *([WandbMetrics(folder)] if config.wandb else []),
        LossCurve(folder),
    ]


def _absolute(config: TrainConfig) -> TrainConfig:
    """Paths are the caller's: ``bazel run`` starts the program elsewhere."""
    names = ("model", "data", "output", "tokenizer", "validation_data")
    return config.model_copy(
        update={name: from_callers_folder(path) for name in names if (path := getattr(config, name)) is not None}
    )


def _option(field: FieldInfo) -> tuple[Any, Any]:
    """Type and parameter of the option of a field: a flag, a choice, or text that pydantic reads."""
    default = "" if field.default in (PydanticUndefined, None) else f" [{field.default}]"
    parameter = typer.Option(help=(field.description or "") + default, show_default=False)
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)] or [field.annotation]
    if bool in kinds:
        return bool, parameter
    if get_origin(kinds[0]) is tuple:
        return list[str], parameter
    return str, parameter


def _command() -> None:
    """Give `train` an option for each field of the configuration."""
    parameters = [
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, typer.Option(help="YAML or TOML file with the fields below.")],
        )
    ]
    for name, field in TrainConfig.model_fields.items():
        kind, option = _option(field)
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
            )
        )
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command()(train)


_command()
app.command()(convert)
app.command("prepare")(prepare)
app.command()(pack_stats)

if __name__ == "__main__":
    sys.exit(app())
