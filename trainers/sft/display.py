"""What a person sees of a training: a progress bar while it runs, and a picture of the loss at its end. On rank 0."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from trainers.sft.callbacks import Callback, Record
from trainers.sft.config import TrainConfig
from trainers.sft.metrics import METRICS, read_metrics
from trainers.sft.progress import Progress

LOSS_CURVE = "loss.png"
"""File of the output folder."""


class ProgressBar(Callback):
    """Shows steps, loss and speed; lines instead of a bar where the output is no terminal.

    Args:
        console: one that takes nothing for markup, as `trainers.data.literal_console` has it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        columns: list[Any] = [
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
        ]
        self._bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._total: int | None = None

    def on_train_begin(self, config: TrainConfig, progress: Progress, total_steps: int | None) -> None:
        """Begin to show."""
        self._total = total_steps
        self._task = self._bar.add_task("", total=total_steps, completed=progress.step, told="")
        if self._console.is_terminal:
            self._bar.start()

    def on_resume(self, step: int, path: str) -> None:
        """Say from where."""
        self._console.print(f"resumed at step {step} from {path}", soft_wrap=True)

    def on_step(self, record: Record) -> None:
        """Move on."""
        told = f"loss {record['loss']:.4f}  {record['tokens_per_second']:,.0f} tokens/s"
        if "mfu" in record:
            told += f"  MFU {record['mfu']:.0%}"
        self._bar.update(self._task, completed=record["step"], told=told)
        every = max(1, (self._total or 1000) // 20)
        if not self._console.is_terminal and (record["step"] % every == 0 or record["step"] == 1):
            of = f"/{self._total}" if self._total else ""
            self._console.print(f"step {record['step']}{of}  {told}")

    def on_validation(self, record: Record) -> None:
        """Say what came of it."""
        self._console.print(f"step {record['step']}: validation loss {record['loss']:.4f}")

    def on_save(self, kind: str, step: int, path: str) -> None:
        """Say where."""
        self._console.print(f"step {step}: {kind} {path}", soft_wrap=True)

    def on_exception(self, error: BaseException) -> None:
        """Give the terminal back."""
        if self._console.is_terminal:
            self._bar.stop()

    def on_train_end(self, progress: Progress, reason: str) -> None:
        """Show no more."""
        if self._console.is_terminal:  # (stopping prints a line, also where nothing was shown)
            self._bar.stop()
        self._console.print(
            f"{reason}: {progress.step} steps, {progress.samples:,} samples, {progress.tokens:,} tokens "
            f"in {progress.seconds:.0f} s"
        )


class LossCurve(Callback):
    """Draws the losses of the metrics file."""

    tolerant = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_end(self, progress: Progress, reason: str) -> None:
        """Draw."""
        draw_loss(read_metrics(self._folder / METRICS), self._folder / LOSS_CURVE)


def draw_loss(records: list[Record], path: Path) -> None:
    """Draw training and validation loss by step."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for kind, style in (("step", "-"), ("validation", "o-")):
        chosen = [record for record in records if record["kind"] == kind]
        if chosen:
            label = "training" if kind == "step" else kind
            axes.plot([each["step"] for each in chosen], [each["loss"] for each in chosen], style, label=label)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
