"""The training loop: batches, updates, validations, saves, until the end or a signal."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.data.loader import Batch, BatchLoader
from trainers.sft.callbacks import Callback, Callbacks
from trainers.sft.config import TrainConfig
from trainers.sft.measurement import Meter, PeakMemory, peak_flops
from trainers.sft.progress import Progress, passed
from trainers.sft.saving import Saver
from trainers.sft.setup import Training, set_up
from trainers.sft.signals import StopRequest, caught
from trainers.sft.validation import validation_loss
from trainers.sft.worker import Worker


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        progress: where it stands.
        signal: what stopped it before its end, such as ``SIGTERM``; its state is saved.
    """

    progress: Progress
    signal: str | None


def train(config: TrainConfig, worker: Worker, callbacks: Sequence[Callback] = ()) -> Outcome:
    """Train from where the output folder stands to the end; a collective.

    Raises:
        ValueError: if model, tokenizer, data or a state in the output folder are not what they must be.
        RankError: if something cannot be saved.
    """
    with caught() as request:
        training = set_up(config, worker)
        loop = _Loop(training, Callbacks(callbacks))
        try:
            return loop.run(request)
        except BaseException as error:
            loop.callbacks.on_exception(error)
            raise
        finally:
            loop.saver.close()


class _Loop:
    def __init__(self, training: Training, callbacks: Callbacks) -> None:
        self._training = training
        self.callbacks = callbacks
        self._progress = Progress()
        self.saver = Saver(training)
        peak = peak_flops(training.worker.device)
        self._memory = PeakMemory(training.worker.device)
        self._meter = Meter(
            training.worker.device,
            training.flops_per_token,
            peak and peak * training.worker.world_size,
        )

    def run(self, request: StopRequest) -> Outcome:
        training, progress = self._training, self._progress
        if not training.config.resume:
            self.saver.begin_anew()
        elif restored := self.saver.restore(progress):
            self.callbacks.on_resume(progress.step, str(restored))
        self.callbacks.on_train_begin(training.config, progress, training.total_steps)
        signal = None
        began = time.monotonic() - progress.seconds
        self._meter.restart()
        if not self._finished():
            for batch in _endless(training.loader):
                before = replace(progress)
                self._step(batch)
                progress.seconds = time.monotonic() - began
                self._after(before)
                if training.worker.any(request.name is not None):
                    signal = request.name or "a signal on another rank"
                    break
                if self._finished():
                    break
        self._end(signal)
        return Outcome(progress, signal)

    def _step(self, batch: Batch) -> None:
        training, progress = self._training, self._progress
        counted = batch.minibatches[0]["batch_num_loss_counted_tokens"]
        learning_rate = training.schedule.get_last_lr()[0]
        loss, norm = torch.zeros(2, device=training.worker.device)
        if counted:
            loss = self._accumulate(batch, counted)
            norm = training.framework.update().to(training.worker.device)
            self._memory.end("update")
        progress.step += bool(counted)
        progress.epoch = training.loader.epoch
        progress.samples += batch.num_samples
        progress.tokens += batch.num_tokens
        progress.loss_tokens += counted
        if counted:
            record = {
                "step": progress.step,
                "epoch": batch.epoch,
                "samples": progress.samples,
                "tokens": progress.tokens,
                "batch_samples": batch.num_samples,
                "batch_tokens": batch.num_tokens,
                "batch_loss_tokens": counted,
                "minibatches": len(batch.minibatches),
                "learning_rate": learning_rate,
                **self._memory.record(),
            }
            former = self._meter.step(record, loss, norm)
            if former:
                self.callbacks.on_step(former)

    def _accumulate(self, batch: Batch, counted: int) -> Tensor:
        """Add up the gradients of the mean loss over the tokens of the batch; return that loss."""
        training, world_size = self._training, self._training.worker.world_size
        total = torch.zeros((), device=training.worker.device)
        for at, minibatch in enumerate(batch.minibatches):
            with training.framework.accumulating(last=at == len(batch.minibatches) - 1):
                loss = training.loss_of(minibatch)
                self._memory.end("forward")
                # (the framework takes the mean over ranks, the loss is the sum over them)
                (loss * (world_size / counted)).backward()
                self._memory.end("backward")
            total += loss.detach()
        dist.all_reduce(total)
        return total / counted

    def _after(self, before: Progress) -> None:
        """Do what is due, now that the counters have moved from ``before``."""
        config, progress = self._training.config, self._progress
        new_epoch = progress.epoch > before.epoch
        if self._training.validation and (
            passed(config.validate_every_steps, before.step, progress.step)
            or passed(config.validate_every_samples, before.samples, progress.samples)
            or (config.validate_every_epoch and new_epoch)
        ):
            self._validate()
        if config.save_every_epoch and new_epoch:
            self._save_model()  # (before the state: a training that goes on from there does not come by here again)
        if (
            passed(config.save_every_steps, before.step, progress.step)
            or passed(config.save_every_samples, before.samples, progress.samples)
            or (config.save_every_epoch and new_epoch)
        ):
            self._save_state()

    def _validate(self) -> None:
        training, progress = self._training, self._progress
        assert training.validation is not None
        self._flush()
        loss = validation_loss(training.framework.module, training.validation, training.loss_of, training.worker)
        self.callbacks.on_validation(
            {"step": progress.step, "epoch": progress.epoch, "samples": progress.samples, "loss": loss}
        )
        if loss < progress.best_validation_loss - training.config.best_threshold:
            progress.best_validation_loss = loss
            if training.config.save_best:
                self.callbacks.on_save("best model", progress.step, str(self.saver.save_best(progress)))
        self._meter.restart()

    def _save_state(self) -> None:
        self._flush()  # (metrics up to this step are written before its state can be resumed from)
        path = self.saver.save_state(self._progress)
        self.callbacks.on_save("state", self._progress.step, str(path))
        self._meter.restart()

    def _save_model(self) -> None:
        self._flush()
        path = self.saver.save_model(self._progress)
        self.callbacks.on_save("model", self._progress.step, str(path))
        self._meter.restart()

    def _end(self, signal: str | None) -> None:
        progress = self._progress
        self._flush()
        if self.saver.state_step != progress.step:
            self._save_state()
        if signal is None and self.saver.model_step != progress.step:
            self._save_model()
        self.saver.close()
        self.callbacks.on_train_end(progress, f"stopped by {signal}" if signal else "done")

    def _flush(self) -> None:
        record = self._meter.flush()
        if record:
            self.callbacks.on_step(record)

    def _finished(self) -> bool:
        config, progress = self._training.config, self._progress
        return bool(
            (config.epochs and progress.epoch >= config.epochs)
            or (config.steps and progress.step >= config.steps)
            or (config.tokens and progress.tokens >= config.tokens)
        )


def _endless(loader: BatchLoader) -> Iterator[Batch]:
    while True:
        yield from loader
