"""Vocabulary-parallel cross entropy against torch.nn.functional.cross_entropy: losses and gradients."""

import pytest
import torch
import torch.nn.functional as F

from testing.tolerances.tolerances import assert_close
from trainers.parallel.cross_entropy import vocab_parallel_cross_entropy
from trainers.parallel.tensor_parallel_case import TensorParallelTest

TOKENS, VOCABULARY = 24, 160


def draw(seed, *shape, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


class TestCrossEntropy(TensorParallelTest):
    world_size = [2, 4, 8]

    def target(self, ignored=(), ignore_index=-100):
        """First and last id of every rank's part, then any; some ignored."""
        size = VOCABULARY // self.world_size
        edges = [rank * size + end for rank in range(self.world_size) for end in (0, size - 1)]
        target = torch.randint(0, VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(9))
        target[: len(edges)] = torch.tensor(edges)
        target[list(ignored)] = ignore_index
        return target.to(self.device)

    def compare(self, mesh, logits, target, **options):
        whole = logits.to(self.device, copy=True).requires_grad_()
        # The reference is torch in the precision in which ours computes, on the same rounded logits.
        precise = torch.promote_types(whole.dtype, torch.float32)
        plain = F.cross_entropy(whole.to(precise).flatten(0, -2), target.flatten(), **options)
        own = self.part(whole.detach(), -1).clone().requires_grad_()
        before = own.detach().clone()
        loss = vocab_parallel_cross_entropy(own, target, mesh, **options)
        upstream = draw(5, *loss.shape).to(loss)
        loss.backward(upstream)
        plain.backward(upstream.view_as(plain))
        assert loss.dtype == precise and own.grad.dtype == own.dtype
        assert_close(loss.flatten(), plain.detach().flatten(), "loss")
        assert_close(own.grad, self.part(whole.grad, -1), "gradient")
        assert torch.equal(own, before), "the logits were overwritten"

    def test_losses_and_gradients(self, subtests):
        mesh = self.set_up()
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            for smoothing in (0.0, 0.1, 1.0):
                for reduction in ("mean", "sum", "none"):
                    for ignored in ((), (0, 5, TOKENS - 1)):
                        with subtests.test(dtype=dtype, smoothing=smoothing, reduction=reduction, ignored=ignored):
                            logits = draw(1, TOKENS, VOCABULARY).to(dtype)
                            self.compare(
                                mesh, logits, self.target(ignored), label_smoothing=smoothing, reduction=reduction
                            )

    def test_other_ignore_index_and_leading_dimensions(self):
        mesh = self.set_up()
        logits = draw(1, 4, TOKENS // 4, VOCABULARY)
        target = self.target((1, 2), ignore_index=7).view(4, -1)
        self.compare(mesh, logits, target, ignore_index=7)
        self.compare(mesh, logits, target, ignore_index=7, reduction="none")

    def test_large_logits_do_not_overflow(self):
        """Far beyond what exp can take; with the largest on the first rank, then on the last."""
        mesh = self.set_up()
        for column in (0, VOCABULARY - 1):
            logits = draw(1, TOKENS, VOCABULARY, scale=100.0)
            logits[:, column] += 5000
            self.compare(mesh, logits, self.target())
            self.compare(mesh, -logits, self.target())

    def test_excluded_tokens_have_logits_of_minus_infinity(self):
        """A whole rank may hold nothing else, as where the vocabulary is padded."""
        mesh = self.set_up()
        logits = draw(1, TOKENS, VOCABULARY)
        logits[:, -VOCABULARY // self.world_size :] = -torch.inf
        target = self.target() % (VOCABULARY - VOCABULARY // self.world_size)
        self.compare(mesh, logits, target)

    def test_all_ignored_is_zero(self):
        mesh = self.set_up()
        target = torch.full((TOKENS,), -100, device=self.device)
        for smoothing in (0.0, 0.1):
            logits = self.part(draw(1, TOKENS, VOCABULARY), -1).to(self.device).requires_grad_()
            loss = vocab_parallel_cross_entropy(logits, target, mesh, label_smoothing=smoothing)
            loss.backward()
            assert loss.item() == 0
            assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_no_tokens_are_zero(self):
        mesh = self.set_up()
        logits = torch.zeros(0, VOCABULARY // self.world_size, device=self.device, requires_grad=True)
        loss = vocab_parallel_cross_entropy(logits, torch.zeros(0, dtype=torch.long, device=self.device), mesh)
        loss.backward()
        assert loss.item() == 0 and logits.grad.shape == logits.shape

    def test_bf16_logits_are_computed_in_fp32(self):
        """Within the fp32 bound of the fp32 result on the same logits: bf16 arithmetic would miss it a thousandfold."""
        mesh = self.set_up()
        logits = draw(1, TOKENS, VOCABULARY, scale=4.0).bfloat16().to(self.device)
        expected = F.cross_entropy(logits.float(), self.target())
        loss = vocab_parallel_cross_entropy(self.part(logits, -1).contiguous(), self.target(), mesh)
        assert loss.dtype == torch.float32
        assert_close(loss, expected, "loss", torch.float32)

    def test_invalid_use_is_an_error(self):
        mesh = self.set_up()
        logits = self.part(draw(1, TOKENS, VOCABULARY), -1).to(self.device)
        with pytest.raises(ValueError, match=rf"\({TOKENS}, .*\(3,\)"):
            vocab_parallel_cross_entropy(logits, self.target()[:3], mesh)
        for smoothing in (-0.1, 1.1):
            with pytest.raises(ValueError, match=f"label_smoothing={smoothing}"):
                vocab_parallel_cross_entropy(logits, self.target(), mesh, label_smoothing=smoothing)
        with pytest.raises(ValueError, match=r"'max'.*'mean'"):
            vocab_parallel_cross_entropy(logits, self.target(), mesh, reduction="max")
        for wrong in (VOCABULARY, -1):
            target = self.target()
            target[2] = wrong
            if self.device.type == "cpu":
                with pytest.raises(ValueError, match=rf"\[{wrong}\].*{VOCABULARY}"):
                    vocab_parallel_cross_entropy(logits, target, mesh)
            else:
                assert vocab_parallel_cross_entropy(logits, target, mesh).isnan()
