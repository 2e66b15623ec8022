"""Validation: its E-step in blocks, what counts as the best epoch, and what it leaves alone."""

import cases
import pytest
import torch

from pyro_dlgm import fit
from pyro_dlgm.evaluate.blocks import blocks
from pyro_dlgm.training import validation
from pyro_dlgm.training.validation import Validation


def validated(name, monkeypatch, budget=None):
    r"""A validation after two calls, in blocks of that size if given, the scores, and the points in each call of p."""
    torch.manual_seed(0)
    model = cases.conv()
    x, lengths, datum = torch.rand(9, 1, 5, 7), [], type(model).datum
    if budget is not None:
        monkeypatch.setattr(blocks, "__defaults__", (budget,))

    def spied(self, x=None, mask=None, **side):
        if torch.is_grad_enabled():
            lengths.append(len(x))
        return datum(self, x, mask, **side)

    made = Validation(model, cases.FACTORIES[name](model, 4), x)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "datum", spied)
        scores = [made.scores() for _ in range(2)]
    return made, scores, lengths


@pytest.mark.parametrize("name", ["point", "auto_delta"])
def test_the_e_step_in_blocks_is_the_e_step_at_once(name, monkeypatch):
    whole, scores, _ = validated(name, monkeypatch)
    parts, in_blocks, lengths = validated(name, monkeypatch, 35 * 2)
    assert max(lengths) == 2
    assert [s["log_joint"] for s in in_blocks] == pytest.approx([s["log_joint"] for s in scores], rel=1e-5)
    for a, b in zip(whole.guide.parameters(), parts.guide.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", cases.PER_POINT)
def test_no_e_step_takes_more_points_than_a_block(name, monkeypatch):
    made, scores, lengths = validated(name, monkeypatch, 35 * 2)
    assert max(lengths) == 2 and scores[1] != scores[0]
    if name == "chain":
        assert int(made.guide.transitions.min()) == int(made.guide.transitions.max()) == 2 + 2 * validation.E_STEPS


def test_few_points_are_one_block(monkeypatch):
    _, _, lengths = validated("mean_field", monkeypatch)
    assert set(lengths) == {9}


@pytest.mark.parametrize(("warmup", "best"), [(0, 1), (2, 2), (3, 3)])
def test_an_epoch_of_the_warm_up_is_not_the_best_one(warmup, best, monkeypatch):
    planned, weights = iter([100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0, 0.0]), []
    monkeypatch.setattr(validation, "mean_scores", lambda *_: {"elbo": next(planned)})

    class Keeps:
        def after(self, step, record):
            weights.append(cases.tensors(model, guide))

    model, x = cases.conv(), torch.rand(20, 1, 5, 7)
    guide = cases.amortized(model)
    settings = {"epochs": 8, "warmup": warmup, "patience": 2, "x_val": x, "listeners": [Keeps()], "seed": 0}
    result = fit(model, guide, x, batch_size=20, **settings)
    assert result.stopped_early and len(result.history) == best + 2
    assert cases.same(cases.tensors(model, guide), weights[best - 1])
