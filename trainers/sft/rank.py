"""What one rank of a training does, from the configuration to the exit status."""

import logging
import os
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.logging import RichHandler
from transformers.utils.logging import disable_progress_bar

from trainers.data.atomic_write import atomic_write
from trainers.data.command_errors import report_error
from trainers.data.literal_console import literal_console
from trainers.parallel.ranks import RankError, Ranks
from trainers.sft.callbacks import Callback
from trainers.sft.config import CONFIG, TrainConfig
from trainers.sft.conversations import tokenised
from trainers.sft.display import LossCurve, ProgressBar
from trainers.sft.loop import train
from trainers.sft.metrics import JsonlMetrics, TensorBoardMetrics, WandbMetrics
from trainers.sft.progress import Progress
from trainers.sft.signals import STOPPED
from trainers.sft.worker import joined


def run(config: TrainConfig) -> int:
    """Train on this rank; return the exit status."""
    console = literal_console()
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.ERROR,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_time=False, show_path=False)],
    )
    disable_progress_bar()  # type: ignore[no-untyped-call]  # (of transformers, for every model that is read or written)
    try:
        with joined(config.device) as worker:
            ranks = Ranks(worker.control)
            of_tokens = tokenised(config, ranks)
            callbacks = ranks.each(lambda: _callbacks(config, console) if rank == 0 else [])
            outcome = train(of_tokens, worker, callbacks)
    except RankError as error:
        return report_error(error) if rank == 0 else 1  # (it is the same on all)
    except (ValueError, OSError) as error:
        return report_error(error)
    return STOPPED if outcome.signal else 0


class _StoredConfig(Callback):
    """Writes the configuration into the output folder once the training begins.

    Until then it may be refused, for a state that is there among other things, whose configuration is to stay.
    """

    def __init__(self, folder: Path, text: str) -> None:
        self._path, self._text = folder / CONFIG, text

    def on_train_begin(self, config: TrainConfig, progress: Progress, total_steps: int | None) -> None:
        """Write it; the one before stays if that fails."""
        with atomic_write(self._path) as file:
            file.write(self._text.encode())


def _callbacks(config: TrainConfig, console: Console) -> list[Callback]:
    folder = config.output
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    console.print(text, style="dim", soft_wrap=True)
    return [
        ProgressBar(console),
        _StoredConfig(folder, text),
        JsonlMetrics(folder),
        *([TensorBoardMetrics(folder)] if config.tensorboard else []),
        *([WandbMetrics(folder)] if config.wandb else []),
        LossCurve(folder),
    ]
