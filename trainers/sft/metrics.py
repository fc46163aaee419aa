"""Where metrics go: a JSONL file always, TensorBoard and Weights & Biases if asked. On rank 0 alone."""

import json
from pathlib import Path
from typing import IO, Any

from trainers.data.atomic_write import atomic_write
from trainers.sft.callbacks import Callback, Record
from trainers.sft.config import TrainConfig
from trainers.sft.progress import Progress

METRICS = "metrics.jsonl"
"""File of the output folder: one record a line, ``{"kind": "step" or "validation", "step": ..., ...}``."""


class JsonlMetrics(Callback):
    """Appends records to a file, flushed line by line.

    A resumed training goes on where its state was taken: records of steps after that, which are computed anew, are
    removed first, and a line that was torn when the process died.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._file: IO[str] | None = None

    def on_train_begin(self, config: TrainConfig, progress: Progress, total_steps: int | None) -> None:
        """Open the file at the right place."""
        kept = [record for record in read_metrics(self._path) if record["step"] <= progress.step]
        with atomic_write(self._path) as file:
            file.writelines(json.dumps(record).encode() + b"\n" for record in kept)
        self._file = self._path.open("a", buffering=1)

    def on_step(self, record: Record) -> None:
        """Append a step."""
        self._write("step", record)

    def on_validation(self, record: Record) -> None:
        """Append a validation."""
        self._write("validation", record)

    def on_train_end(self, progress: Progress, reason: str) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def on_exception(self, error: BaseException) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _write(self, kind: str, record: Record) -> None:
        assert self._file is not None
        self._file.write(json.dumps({"kind": kind, **record}) + "\n")


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a metrics file, up to the first line that is torn; none if there is no file."""
    records: list[Record] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class TensorBoardMetrics(Callback):
    """Writes scalars for TensorBoard into the folder ``tensorboard``: ``train/NAME`` and ``validation/NAME``.

    Where a training is resumed, readers pass over what an earlier file has of later steps.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writer: Any = None

    def on_train_begin(self, config: TrainConfig, progress: Progress, total_steps: int | None) -> None:
        """Open a file."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=progress.step + 1)

    def on_step(self, record: Record) -> None:
        """Write a step."""
        self._write("train", record)

    def on_validation(self, record: Record) -> None:
        """Write a validation."""
        self._write("validation", record)

    def on_train_end(self, progress: Progress, reason: str) -> None:
        """Close the file."""
        self._writer.close()

    def on_exception(self, error: BaseException) -> None:
        """Close the file."""
        if self._writer:
            self._writer.close()

    def _write(self, kind: str, record: Record) -> None:
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(f"{kind}/{name}", value, record["step"])


class WandbMetrics(Callback):
    """Writes a run for Weights & Biases, offline, into the folder ``wandb``: ``wandb sync`` sends it.

    A resumed training is a run of its own, whose steps go on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run: Any = None

    def on_train_begin(self, config: TrainConfig, progress: Progress, total_steps: int | None) -> None:
        """Begin the run."""
        import wandb  # keep: an extra

        self._run = wandb.init(
            dir=self._folder,
            mode="offline",
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off"),  # (a progress bar would be recorded frame by frame)
        )

    def on_step(self, record: Record) -> None:
        """Log a step."""
        self._write("train", record)

    def on_validation(self, record: Record) -> None:
        """Log a validation."""
        self._write("validation", record)

    def on_train_end(self, progress: Progress, reason: str) -> None:
        """End the run."""
        self._run.finish()

    def on_exception(self, error: BaseException) -> None:
        """End the run as a failed one."""
        if self._run:
            self._run.finish(exit_code=1)

    def _write(self, kind: str, record: Record) -> None:
        metrics = {f"{kind}/{name}": value for name, value in record.items() if name != "step"}
        self._run.log(metrics, step=record["step"])
