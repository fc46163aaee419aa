"""ParallelEmbedding against torch.nn.Embedding: lookups, gradients, padding and changes of the vocabulary."""

import pytest
import torch
from torch import nn

from testing.tolerances.tolerances import assert_close
from trainers.parallel.embedding import ParallelEmbedding
from trainers.parallel.tensor_parallel_case import TensorParallelTest

VOCABULARY, DIM, BATCH, SEQUENCE = 48, 20, 3, 16


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestParallelEmbedding(TensorParallelTest):
    world_size = [2, 4, 8]

    def ids(self):
        """Every id at least once, most of them in some rank's part only."""
        ids = torch.randint(0, VOCABULARY, (BATCH * SEQUENCE,), generator=torch.Generator().manual_seed(1))
        ids[: VOCABULARY // 2] = torch.arange(0, VOCABULARY, 2)
        return ids.view(BATCH, SEQUENCE).to(self.device)

    def test_lookups_and_gradients(self, subtests):
        mesh, ids = self.set_up(), self.ids()
        whole = draw(2, VOCABULARY, DIM)
        # The padding id lies in the first rank's rows, in the last's, and nowhere.
        for padding_idx in (0, -1, None):
            for dtype in (torch.float32, torch.bfloat16):
                grad = draw(3, BATCH, SEQUENCE, DIM).to(self.device, dtype)
                plain = nn.Embedding(VOCABULARY, DIM, padding_idx, _weight=whole.to(self.device, dtype))
                y = plain(ids)
                y.backward(grad)
                for sequence in (False, True):
                    with subtests.test(padding_idx=padding_idx, dtype=dtype, sequence=sequence):
                        layer = ParallelEmbedding(
                            VOCABULARY,
                            DIM,
                            mesh,
                            padding_idx=padding_idx,
                            sequence_parallel=sequence,
                            device="meta",
                            dtype=dtype,
                        ).to_empty(device=self.device)
                        layer.load_full(whole)
                        out = layer(ids)
                        out.backward(self.part(grad.transpose(0, 1), 0) if sequence else grad)
                        # A row and zeros add up to the row, whatever the order and the dtype.
                        assert torch.equal(out, self.part(y.transpose(0, 1), 0) if sequence else y)
                        assert_close(layer.weight.grad, self.part(plain.weight.grad, 0), "weight gradient")
                        if padding_idx is not None:
                            padding_row = layer.row_index() == padding_idx % VOCABULARY
                            assert layer.weight.grad[padding_row.to(self.device)].count_nonzero() == 0

    def test_initial_values_do_not_depend_on_the_number_of_ranks(self):
        mesh = self.set_up()
        for padding_idx in (5, None):
            torch.manual_seed(7)
            plain = nn.Embedding(VOCABULARY, DIM, padding_idx).to(self.device)
            torch.manual_seed(7)
            layer = ParallelEmbedding(VOCABULARY, DIM, mesh, padding_idx=padding_idx, device=self.device)
            assert torch.equal(layer.weight, self.part(plain.weight, 0))

    def test_resize_keeps_rows_and_owners_by_id(self, subtests):
        mesh, n = self.set_up(), self.world_size
        whole = draw(2, VOCABULARY, DIM).to(self.device)
        for size in (VOCABULARY, VOCABULARY + n, 2 * VOCABULARY, VOCABULARY - n, VOCABULARY // 2, 16):
            for dtype in (torch.float32, torch.bfloat16):
                with subtests.test(size=size, dtype=dtype):
                    layer = ParallelEmbedding(VOCABULARY, DIM, mesh, padding_idx=3, device=self.device, dtype=dtype)
                    layer.load_full(whole)
                    generator = torch.get_rng_state()
                    graph = layer(self.ids()).sum()  # kept: autograd still knows the old weight
                    graph.backward(retain_graph=True)
                    layer.resize(size)
                    assert layer.weight.grad is None and layer.weight.requires_grad and layer.num_embeddings == size
                    assert layer.weight.shape == (size // n, DIM) and layer.weight.dtype == dtype
                    # Whose id is it now, and does it have its old row?
                    for row, owned in zip(
                        layer.weight.detach(), range(self.rank * (size // n), VOCABULARY), strict=False
                    ):
                        assert torch.equal(row, whole[owned].to(dtype))
                    # New rows are drawn alike on every rank.
                    torch.set_rng_state(generator)
                    fresh = torch.randn(max(0, size - VOCABULARY), DIM).to(self.device, dtype)
                    now = torch.cat([whole[:size].to(dtype), fresh])
                    assert torch.equal(layer.weight, self.part(now, 0))
                    ids = torch.arange(size, device=self.device).view(1, -1)
                    assert torch.equal(layer(ids)[0], now)
                    layer(ids).sum().backward()
                    assert layer.weight.grad.shape == layer.weight.shape

    def test_invalid_use_is_an_error(self):
        mesh, n = self.set_up(), self.world_size
        with pytest.raises(ValueError, match=rf"num_embeddings is 49.*{n}"):
            ParallelEmbedding(49, DIM, mesh)
        for padding_idx in (VOCABULARY, -VOCABULARY - 1):
            with pytest.raises(ValueError, match=rf"padding_idx={padding_idx}.*{VOCABULARY}"):
                ParallelEmbedding(VOCABULARY, DIM, mesh, padding_idx=padding_idx)
        layer = ParallelEmbedding(VOCABULARY, DIM, mesh, padding_idx=40, sequence_parallel=True, device=self.device)
        with pytest.raises(ValueError, match=rf"num_embeddings is {VOCABULARY + 1}.*{n}"):
            layer.resize(VOCABULARY + 1)
        with pytest.raises(ValueError, match="num_embeddings=0"):
            layer.resize(0)
        with pytest.raises(ValueError, match="num_embeddings=40 with padding_idx=40"):
            layer.resize(40)
        assert layer.num_embeddings == VOCABULARY
        with pytest.raises(ValueError, match=r"\(B, S\).*\(8,\)"):
            layer(torch.zeros(8, dtype=torch.long, device=self.device))
        with pytest.raises(ValueError, match=rf"dimension 0 .*\(9, 1, {DIM}\)"):
            layer(torch.zeros(1, 9, dtype=torch.long, device=self.device))
        # An accelerator cannot stop for a value; there the lookup itself faults, as torch's does.
        if self.device.type == "cpu":
            for wrong in (VOCABULARY, -1):
                with pytest.raises(ValueError, match=rf"\[{wrong}\].*{VOCABULARY}"):
                    layer(torch.tensor([[0, wrong]]))
