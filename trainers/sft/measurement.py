"""Metrics of steps, without waiting for the device."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainers.sft.callbacks import Record


class Meter:
    """Times steps and reads their device tensors one step later, when they have long been computed.

    A step lasts from the end of the one before to its own end, both on the device: what it waits for data counts.

    Args:
        device: where the tensors are.
        flops_per_token: operations of a token's forward and backward pass, for the utilisation (MFU).
        peak_flops: operations per second of all ranks' devices together; None where it is not known.
    """

    def __init__(self, device: torch.device, flops_per_token: float, peak_flops: float | None) -> None:
        self._device = device
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._pending: _Step | None = None
        self.restart()

    def restart(self) -> None:
        """Let the next step begin now, so that it does not count what was between: a validation, a save."""
        self._ended = _Moment(self._device)

    def step(self, record: Record, loss: Tensor, grad_norm: Tensor) -> Record | None:
        """Note a step that has just been queued; return the record of the one before, if any."""
        values = torch.stack([loss.detach().float(), grad_norm.detach().float()]).to("cpu", non_blocking=True)
        began, self._ended = self._ended, _Moment(self._device)
        former = self.flush()
        self._pending = _Step(record, values, began, self._ended)
        return former

    def flush(self) -> Record | None:
        """Return the record that is still to come, waiting for the device."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        seconds = pending.ended.seconds_since(pending.began)
        loss, grad_norm = pending.values.tolist()
        tokens_per_second = pending.record["batch_tokens"] / seconds
        record = pending.record | {
            "loss": loss,
            "grad_norm": grad_norm,
            "seconds": seconds,
            "tokens_per_second": tokens_per_second,
        }
        if self._peak_flops:
            record["mfu"] = tokens_per_second * self._flops_per_token / self._peak_flops
        return record


class PeakMemory:
    """The most memory that tensors take on a GPU, phase by phase of a step; on a CPU nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peaks: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """End a phase, which began where the one before ended."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device) / 1e9
            self._peaks[phase] = max(peak, self._peaks.get(phase, 0.0))
            torch.cuda.reset_peak_memory_stats(self._device)

    def record(self) -> Record:
        """Return the peaks since the last call: ``memory_PHASE_gb``, and the highest as ``peak_memory_gb``."""
        peaks, self._peaks = self._peaks, {}
        of_phases = {f"memory_{phase}_gb": peak for phase, peak in peaks.items()}
        return of_phases | ({"peak_memory_gb": max(peaks.values())} if peaks else {})


class _Moment:
    """Now, on a device's own time line."""

    def __init__(self, device: torch.device) -> None:
        self._time: torch.cuda.Event | float
        if device.type == "cuda":
            self._time = torch.cuda.Event(enable_timing=True)
            self._time.record()
        else:
            self._time = time.perf_counter()

    def seconds_since(self, earlier: "_Moment") -> float:
        """Wait for this moment; seconds from the earlier one to it."""
        if isinstance(self._time, float) or isinstance(earlier._time, float):
            return self._time - earlier._time  # type: ignore[operator]
        self._time.synchronize()
        return float(earlier._time.elapsed_time(self._time)) / 1e3


class _Step(NamedTuple):
    record: Record
    values: Tensor
    began: _Moment
    ended: _Moment


# Dense bf16, without sparsity, from the vendor's data sheets.
_PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


def peak_flops(device: torch.device) -> float | None:
    """Operations per second that a device does at best in bf16; None if that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_FLOPS.items() if part in name), None)


_ATTENTION_SLOWER = 4.5
"""How much longer an operation of attention takes than one of a product of matrices: flash-attn 2, heads of 64, H100
(docs/benchmarks/sft.md)."""


def flops_per_token(model: torch.nn.Module, mean_length: float) -> float:
    """Operations of a token's forward and backward pass: six for each weight that is trained, four for each that is
    frozen and has no gradient, and the attention's.

    Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1; attention is causal, so half of its scores are needed.
    Operations that are done anew for the sake of memory do not count.

    Args:
        model: a transformers model whose parameters have their whole shapes.
        mean_length: tokens of a sequence, averaged over tokens.
    """
    trained, frozen, attention = _multiplied(model)
    return 6.0 * trained + 4.0 * frozen + 6.0 * attention * mean_length


def quadratic_work(model: torch.nn.Module) -> float:
    """The factor c with which the time for a sequence of n tokens is proportional to ``n + c * n**2``.

    Args:
        model: a transformers model whose parameters have their whole shapes.
    """
    trained, frozen, attention = _multiplied(model)
    return _ATTENTION_SLOWER * attention / (trained + frozen)


def _multiplied(model: torch.nn.Module) -> tuple[int, int, int]:
    """Numbers that a token is multiplied with: trained weights, frozen ones, and in attention for each token before."""
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        # (the parameters of a quantised layer are packed)
        shape = getattr(parameter, "quant_state", parameter).shape
        if len(shape) == 2 and (parameter is not embedding or config.tie_word_embeddings):
            sizes[parameter.requires_grad] += shape.numel()  # (a tied embedding is multiplied, as the head)
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return sizes[True], sizes[False], config.num_hidden_layers * width
