"""Command line of the SFT trainer."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.markup import escape

from trainers.data.callers_folder import from_callers_folder
from trainers.data.command_errors import report_error
from trainers.data.pack_stats import pack_stats
from trainers.data.prepare import main as prepare
from trainers.sft.config import CONFIG, TrainConfig, read_config
from trainers.sft.convert import convert
from trainers.sft.launch import launch, launched
from trainers.sft.options import check_options_compatible

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
    """Go on with a training by the configuration that is stored in its output folder, wherever that is by now."""
    folder = from_callers_folder(output)
    raise typer.Exit(_start(lambda: read_config(folder / CONFIG, {"output": folder, "resume": True})))


def _start(read: Callable[[], TrainConfig]) -> int:
    try:
        config = _absolute(read())
        num_gpus = _num_gpus(config)
        check_options_compatible(config, "cuda" if num_gpus else "cpu")
        if launched():
            return run(config)
        return launch(config.ranks or num_gpus or 1, run, config)
    except (ValueError, OSError) as error:
        return report_error(error)


def run(config: TrainConfig) -> int:
    """Train on this rank; return the exit status."""
    if _num_gpus(config) and config.compiles_on("cuda"):
        _start_compiler()
    from trainers.sft import rank  # (takes seconds, which the process that starts several ranks can do without)

    return rank.run(config)


def _start_compiler() -> None:
    """Let the processes that compile kernels import what they need while this one does, not when it calls for them."""
    from torch._inductor.async_compile import maybe_warm_pool

    maybe_warm_pool()


def _num_gpus(config: TrainConfig) -> int:
    """GPUs of this machine that the training may use."""
    if config.device == "cpu":
        return 0
    import torch  # (takes seconds, which a training on CPUs need not wait for)

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _absolute(config: TrainConfig) -> TrainConfig:
    """Paths are the caller's: ``bazel run`` starts the program elsewhere."""
    names = ("model", "data", "output", "tokenizer", "validation_data")
    return config.model_copy(
        update={name: from_callers_folder(path) for name in names if (path := getattr(config, name)) is not None}
    )


def _option(field: FieldInfo) -> tuple[Any, Any]:
    """Type and parameter of the option of a field: a flag, a choice, or text that pydantic reads."""
    default = "" if field.default in (PydanticUndefined, None) else escape(f" [{field.default}]")
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
