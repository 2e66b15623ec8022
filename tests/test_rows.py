r"""Tables of rows and the Adam that moves only those that it meets."""

import copy

import pytest
import torch
from pyro_dlgm.guides import MeanField
from pyro_dlgm.guides.rows import Rows, sparse_gradients
from torch import nn

from pyro_dlgm.optim.row_adam import RowAdam


def visit(rows, optimizer, index, g):
    r"""One step on Σ g · row over the rows of the index."""
    optimizer.zero_grad()
    with sparse_gradients():
        (g * rows(index)).sum().backward()
    optimizer.step()


def test_lookup_returns_the_rows_in_their_order():
    start = torch.randn(5, 3)
    index = torch.tensor([4, 0, 0])
    assert torch.equal(Rows(start.clone())(index), start[index])
    assert len(Rows(start)) == 5


def test_gradients_are_sparse_only_inside_the_context():
    rows, index = Rows(torch.randn(5, 3)), torch.tensor([4, 0])
    for inside in (False, True, False):
        rows.weight.grad = None
        if inside:
            with sparse_gradients():
                rows(index).sum().backward()
        else:
            rows(index).sum().backward()
        assert rows.weight.grad.is_sparse == inside


def test_the_context_ends_with_an_error():
    rows = Rows(torch.randn(5, 3))
    with pytest.raises(KeyError), sparse_gradients():
        raise KeyError
    rows(torch.tensor([1])).sum().backward()
    assert not rows.weight.grad.is_sparse


def test_sparse_and_dense_gradients_agree():
    rows, index, g = Rows(torch.randn(5, 3)), torch.tensor([4, 0, 4]), torch.randn(3, 3)
    (g * rows(index)).sum().backward()
    dense = rows.weight.grad
    rows.weight.grad = None
    with sparse_gradients():
        (g * rows(index)).sum().backward()
    torch.testing.assert_close(rows.weight.grad.to_dense(), dense, rtol=1e-6, atol=0)


@pytest.mark.parametrize("lr", [1e-3, 0.5])
def test_the_first_step_of_every_row_has_length_lr_whenever_it_comes(lr):
    rows = Rows(torch.zeros(6, 2, dtype=torch.float64))
    optimizer = RowAdam(rows.parameters(), lr=lr)
    for row in range(6):
        for _ in range(10):  # the global step count at the first visit of row k is 1 + 10 k
            before = rows.weight[row].detach().clone()
            g = torch.randn(1, 2, dtype=torch.float64)
            visit(rows, optimizer, torch.tensor([row]), g)
            if (before == 0).all():
                torch.testing.assert_close(rows.weight[row].detach(), -lr * g[0].sign(), rtol=1e-6, atol=0)


def test_a_row_that_is_not_in_the_batch_does_not_move():
    rows = Rows(torch.randn(4, 3))
    optimizer = RowAdam(rows.parameters(), lr=0.1)
    visit(rows, optimizer, torch.arange(4), torch.randn(4, 3))
    before = rows.weight.detach().clone()
    visit(rows, optimizer, torch.tensor([2]), torch.randn(1, 3))
    assert torch.equal((rows.weight != before).any(1), torch.tensor([False, False, True, False]))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.8)])
def test_it_is_adam_if_all_rows_are_in_each_batch(betas):
    start = torch.randn(7, 3, dtype=torch.float64)
    rows, dense = Rows(start.clone()), nn.Parameter(start.clone())
    ours, adam = RowAdam(rows.parameters(), lr=0.05, betas=betas), torch.optim.Adam([dense], lr=0.05, betas=betas)
    for _ in range(30):
        g, order = torch.randn(7, 3, dtype=torch.float64), torch.randperm(7)
        visit(rows, ours, order, g[order])
        dense.grad = g
        adam.step()
        torch.testing.assert_close(rows.weight, dense, rtol=1e-12, atol=1e-14)


def test_each_row_is_adam_on_its_own_visits():
    start = torch.randn(4, 2, dtype=torch.float64)
    rows, alone = Rows(start.clone()), [nn.Parameter(v.clone()) for v in start]
    ours, adams = RowAdam(rows.parameters(), lr=0.1), [torch.optim.Adam([v], lr=0.1) for v in alone]
    for _ in range(40):
        index = torch.randperm(4)[: torch.randint(1, 4, ())]
        g = torch.randn(len(index), 2, dtype=torch.float64)
        visit(rows, ours, index, g)
        for i, v in zip(index.tolist(), g, strict=True):
            alone[i].grad = v
            adams[i].step()
    torch.testing.assert_close(rows.weight, torch.stack(alone), rtol=1e-12, atol=1e-14)


def test_a_row_that_comes_twice_is_visited_once_with_the_sum():
    rows = [Rows(torch.zeros(3, 2, dtype=torch.float64)) for _ in range(2)]
    optimizers = [RowAdam(r.parameters(), lr=0.1) for r in rows]
    g = torch.randn(3, 2, dtype=torch.float64)
    for _ in range(3):
        visit(rows[0], optimizers[0], torch.tensor([1, 1, 0]), g)
        visit(rows[1], optimizers[1], torch.tensor([1, 0]), torch.stack([g[0] + g[1], g[2]]))
    torch.testing.assert_close(rows[0].weight, rows[1].weight, rtol=1e-12, atol=0)


def test_its_state_can_be_saved_and_loaded():
    rows = [Rows(torch.zeros(3, 2)) for _ in range(2)]
    first, second = (RowAdam(r.parameters(), lr=0.1) for r in rows)
    g = torch.randn(2, 2)
    visit(rows[0], first, torch.tensor([0, 1]), g)
    rows[1].load_state_dict(rows[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for r, optimizer in zip(rows, (first, second), strict=True):
        visit(r, optimizer, torch.tensor([1, 2]), g)
    assert torch.equal(rows[0].weight, rows[1].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_table_of_few_digits_moves_as_one_of_many(dtype):
    start, g = torch.randn(4, 3), torch.randn(4, 3).to(dtype)
    coarse, fine = Rows(start.to(dtype)), Rows(start.to(dtype).double())
    ours, theirs = RowAdam(coarse.parameters(), lr=0.1), RowAdam(fine.parameters(), lr=0.1)
    ulp = torch.finfo(dtype).eps
    for step in range(1, 21):
        visit(coarse, ours, torch.arange(4), g)
        visit(fine, theirs, torch.arange(4), g.double())
        # Each step rounds the row, of absolute value below 4, once.
        torch.testing.assert_close(coarse.weight.double(), fine.weight, rtol=0, atol=2 * step * ulp)
    assert (coarse.weight - start.to(dtype)).abs().min() > 1.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_visits_of_a_table_of_few_digits_are_counted_on(dtype):
    rows = Rows(torch.zeros(2, 1, dtype=dtype))
    optimizer = RowAdam(rows.parameters(), lr=1e-4)
    for _ in range(2100):  # bfloat16 counts to 256, float16 to 2,048
        visit(rows, optimizer, torch.tensor([1]), torch.ones(1, 1, dtype=dtype))
    assert optimizer.state[rows.weight]["visits"].tolist() == [0, 2100]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_second_moment_of_a_table_of_few_digits_is_an_average_over_many_visits(dtype):
    rows = Rows(torch.zeros(1, 1, dtype=dtype))
    optimizer = RowAdam(rows.parameters(), lr=1e-3, betas=(0.9, 0.999))
    for g in (1.0, 300.0):  # the square of the second one is not a number of float16
        for _ in range(1000):
            visit(rows, optimizer, torch.tensor([0]), torch.full((1, 1), g, dtype=dtype))
        second = (1 - 0.999**1000) * (1 if g == 1 else 0.999**1000 + 300.0**2)
        assert optimizer.state[rows.weight]["exp_avg_sq"].item() == pytest.approx(second, rel=1e-3)


@pytest.mark.parametrize("saved", [torch.bfloat16, torch.float32])
def test_the_state_of_a_table_of_few_digits_is_loaded_with_all_that_was_saved(saved):
    rows = Rows(torch.zeros(3, 2, dtype=torch.bfloat16))
    first, second = RowAdam(rows.parameters()), RowAdam(rows.parameters())
    for _ in range(3):
        visit(rows, first, torch.tensor([0, 1]), torch.randn(2, 2).bfloat16())
    state = copy.deepcopy(first.state_dict())
    state["state"][0] = {k: v.to(saved) for k, v in state["state"][0].items()}  # bfloat16: what was saved formerly
    second.load_state_dict(state)
    for name, value in second.state[rows.weight].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state["state"][0][name].float())


def test_mean_field_learns_in_bfloat16():
    guide = MeanField(5, 2).bfloat16()
    before = copy.deepcopy(guide.state_dict())
    tables = [m for m in guide.modules() if isinstance(m, Rows)]
    optimizer = RowAdam([m.weight for m in tables], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        with sparse_gradients():
            q = guide.posterior(index=torch.arange(5))
            (q.mean - 1).square().sum().backward()
        optimizer.step()
    assert (guide.posterior(index=torch.arange(5)).mean - 1).abs().max() < 0.4
    assert all(not torch.equal(value, before[name]) for name, value in guide.state_dict().items())


def test_a_dense_gradient_is_refused():
    rows = Rows(torch.zeros(3, 2))
    rows(torch.tensor([0])).sum().backward()
    with pytest.raises(TypeError, match="sparse_gradients"):
        RowAdam(rows.parameters()).step()


def test_a_step_without_gradients_does_nothing():
    rows = Rows(torch.ones(3, 2))
    RowAdam(rows.parameters()).step()
    assert (rows.weight == 1).all()
