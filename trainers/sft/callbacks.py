"""What a training tells others while it runs."""

import logging
from collections.abc import Sequence
from typing import Any

from trainers.sft.config import TrainConfig
from trainers.sft.progress import Progress

_log = logging.getLogger(__name__)

Record = dict[str, Any]
"""Metrics of a step, or of a validation, by name; values of JSON."""


class Callback:
    """Override what you want to hear of. Everything is called on every rank unless it is said to be otherwise.

    An exception stops the training, unless ``tolerant`` is set: then it is logged, and the training goes on.
    """

    tolerant = False

    def on_train_begin(self, config: TrainConfig, progress: Progress, total_steps: int | None) -> None:
        """Everything is set up; ``progress`` is not at zero if the training is resumed."""

    def on_resume(self, step: int, path: str) -> None:
        """The state of a former run is restored; called before ``on_train_begin``."""

    def on_step(self, record: Record) -> None:
        """The metrics of a step are known, which is one step later: nothing waits for the device."""

    def on_validation(self, record: Record) -> None:
        """A validation has ended."""

    def on_save(self, kind: str, step: int, path: str) -> None:
        """A ``state`` or a ``model`` is saved, or begins to be (a state is written in the background)."""

    def on_train_end(self, progress: Progress, reason: str) -> None:
        """Nothing more comes. Called also when a signal ends the training, not after an exception."""

    def on_exception(self, error: BaseException) -> None:
        """An exception ends the training: let go of files and the like."""


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def on_train_begin(self, config: TrainConfig, progress: Progress, total_steps: int | None) -> None:
        """See `Callback`."""
        self._tell("on_train_begin", config, progress, total_steps)

    def on_resume(self, step: int, path: str) -> None:
        """See `Callback`."""
        self._tell("on_resume", step, path)

    def on_step(self, record: Record) -> None:
        """See `Callback`."""
        self._tell("on_step", record)

    def on_validation(self, record: Record) -> None:
        """See `Callback`."""
        self._tell("on_validation", record)

    def on_save(self, kind: str, step: int, path: str) -> None:
        """See `Callback`."""
        self._tell("on_save", kind, step, path)

    def on_train_end(self, progress: Progress, reason: str) -> None:
        """See `Callback`."""
        self._tell("on_train_end", progress, reason)

    def on_exception(self, error: BaseException) -> None:
        """See `Callback`."""
        self._tell("on_exception", error)

    def _tell(self, name: str, *arguments: object) -> None:
        for callback in self._callbacks:
            try:
                getattr(callback, name)(*arguments)
            except Exception:
                if not callback.tolerant:
                    raise
                _log.exception("%s of %s failed; it is tolerant, the training goes on", name, type(callback).__name__)
