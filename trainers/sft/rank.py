"""What one rank of a training does, from the configuration to the exit status."""

import logging
import os

import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.logging import RichHandler
from transformers.utils.logging import disable_progress_bar

from trainers.checkpoint.ranks import CheckpointError, Ranks
from trainers.data.command_errors import report_error
from trainers.sft.callbacks import Callback
from trainers.sft.config import CONFIG, TrainConfig
from trainers.sft.conversations import tokenised
from trainers.sft.display import LossCurve, ProgressBar
from trainers.sft.loop import train
from trainers.sft.metrics import JsonlMetrics, TensorBoardMetrics, WandbMetrics
from trainers.sft.signals import STOPPED
from trainers.sft.worker import joined


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
            outcome = train(config, worker, _callbacks(config, console) if rank == 0 else [])
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
