"""Orders of many points: each comes once, a pass can be taken up anywhere, and no more than a block is in memory."""

import pytest
import torch

from pyro_dlgm.data import Batches
from pyro_dlgm.storage import orders
from pyro_dlgm.storage.orders import Blocked, Scattered


@pytest.mark.parametrize("N", [1, 2, 3, 17, 1000, 4097])
@pytest.mark.parametrize("make", [Scattered, lambda N, seed: Blocked(N, seed, 64)])
def test_each_point_comes_once_whatever_the_batches(make, N, monkeypatch):
    monkeypatch.setattr(orders, "CHUNK", 50)
    order = make(N, 7)
    whole = torch.cat([order.chunk(k) for k in range(len(order.lengths))])
    assert torch.equal(whole.sort().values, torch.arange(N)) and sum(order.lengths) == N
    for size in (1, 7, 50, 64, 200):
        batches = list(order.batches(size))
        assert torch.equal(torch.cat(batches), whole)
        assert {len(b) for b in batches[:-1]} <= {size} and 1 <= len(batches[-1]) <= size
        for first in (1, len(batches) // 2, len(batches) - 1, len(batches)):
            left = list(order.batches(size, first))
            assert len(left) == len(batches[first:])
            assert all(torch.equal(a, b) for a, b in zip(left, batches[first:], strict=True))


@pytest.mark.parametrize("make", [Scattered, lambda N, seed: Blocked(N, seed, 50)])
def test_a_seed_says_the_order_and_another_one_another(make):
    one, again, other = (torch.cat(list(make(1000, seed).batches(100))) for seed in (1, 1, 2))
    assert torch.equal(one, again) and (one == other).float().mean() < 0.05


def test_a_block_is_left_when_all_its_points_have_come():
    blocks = torch.cat(list(Blocked(1000, 3, 64).batches(10))) // 64
    assert (blocks[1:] != blocks[:-1]).sum() == len(blocks.unique()) - 1
    assert blocks.unique_consecutive().tolist() != sorted(blocks.unique().tolist())


def test_a_scattered_order_is_as_good_as_a_permutation_that_is_drawn():
    N = 20_000
    v = torch.cat(list(Scattered(N, 5).batches(1000))).double() / N
    steps = (v[1:] - v[:-1]).abs()
    assert abs(torch.corrcoef(torch.stack([v, torch.arange(N) / N]))[0, 1]) < 4 / N**0.5
    assert abs(torch.corrcoef(torch.stack([v[1:], v[:-1]]))[0, 1]) < 4 / N**0.5
    assert steps.mean() == pytest.approx(1 / 3, abs=4 * (1 / 18 / N) ** 0.5 * 2)
    counts = torch.histc(v[: N // 10], 20, 0, 1)  # the first tenth of the places has points from all over
    assert ((counts - N / 200) ** 2 / (N / 200)).sum() < 60


@pytest.mark.parametrize("block", [None, 16])
def test_batches_of_many_points_go_on_within_a_pass(block, monkeypatch):
    monkeypatch.setattr("pyro_dlgm.data.batches.WHOLE", 50)
    x = torch.arange(100.0).reshape(100, 1)
    batches, again = (Batches(x, 9, block=block, weight=x[:, 0]) for _ in range(2))
    whole = []
    for number, batch in enumerate(batches, start=1):
        whole.append(batch.index)
        assert torch.equal(batch.x[:, 0].long(), batch.index) and torch.equal(batch.weight, batch.x[:, 0])
        if number == 5:
            again.load_state_dict(dict(batches.state_dict()))
    assert batches.ended and not again.ended and torch.equal(torch.cat(whole).sort().values, torch.arange(100))
    assert torch.equal(torch.cat([b.index for b in again]), torch.cat(whole[5:]))
    assert isinstance(batches.state_dict()["order"], int)


def test_a_state_from_before_the_first_pass_begins_one():
    batches = Batches(torch.zeros(10, 1), 3)
    batches.load_state_dict({"order": torch.empty(0, dtype=torch.long), "position": 0, "epoch": 0})
    assert batches.ended and len(list(batches)) == 4 and batches.epoch == 1
