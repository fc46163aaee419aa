"""Runs a module as ``python -m`` does and times its optimizer steps from outside, whatever trainer it is.

    python -m trainers.sft.benchmarks.stopwatch RESULT.json STEPS MODULE [ARGUMENT ...]

After so many steps rank 0 writes the result and every rank's process ends: what a trainer does at its end is not timed.
Nothing waits for the device between the first step and the last.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

_BEGAN = time.monotonic()


class Stopwatch:
    """Notes the end of each optimizer step on the device's time line, and the most memory until then.

    Args:
        result: JSON file that is written at the end: ``start_up``, seconds from the start of this process to the end of
            the first step; ``seconds``, from the end of each step to the end of the next; ``peak_gb``, the most memory
            that tensors took on a GPU in each step, in the first one with all that was before.
        steps: optimizer steps until the end.
    """

    def __init__(self, result: Path, steps: int) -> None:
        import torch  # (its import is part of the start)
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self._result = result
        self._steps = steps
        self._gpu = torch.cuda.is_available()
        self._start_up = 0.0
        self._ends: list[Any] = []
        self._peaks: list[float] = []
        self._peak = 0.0
        self._reset_peak = torch.cuda.reset_peak_memory_stats
        torch.cuda.reset_peak_memory_stats = self._keep_peak  # (trainers reset it for counts of their own)
        register_optimizer_step_post_hook(self._step_ended)

    def _keep_peak(self, device: Any = None) -> None:
        import torch

        if self._gpu:
            self._peak = max(self._peak, torch.cuda.max_memory_allocated() / 1e9)
            self._reset_peak()

    def _step_ended(self, *_: Any) -> None:
        self._ends.append(self._now())
        self._keep_peak()
        self._peaks.append(self._peak)
        self._peak = 0.0
        if len(self._ends) == 1:
            self._wait()
            self._start_up = time.monotonic() - _BEGAN
        if len(self._ends) == self._steps:
            self._wait()
            if os.environ.get("RANK", "0") == "0":
                self._write()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def _now(self) -> Any:
        """This moment, once the device has come to it."""
        import torch

        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _wait(self) -> None:
        if self._gpu:
            self._ends[-1].synchronize()

    def _write(self) -> None:
        pairs = zip(self._ends, self._ends[1:], strict=False)
        seconds = [former.elapsed_time(end) / 1e3 if self._gpu else end - former for former, end in pairs]
        result = {"start_up": self._start_up, "seconds": seconds, "peak_gb": self._peaks}
        self._result.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    result, steps, module, *arguments = sys.argv[1:]
    Stopwatch(Path(result), int(steps))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
