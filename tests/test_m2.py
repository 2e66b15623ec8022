r"""The semi-supervised example: parts, plain Pyro and a sum over classes by hand agree, also for B = K."""

import importlib.util
import inspect
import json
import math
import sys
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from torch import nn

from pyro_dlgm import data

FILE = Path(__file__).parent.parent / "examples" / "m2_digits.py"
PAGE = Path(__file__).parent.parent / "docs" / "semi_supervised.md"
K, WEIGHT = 10, 7.0
RELATIVE = 1e-4


@pytest.fixture
def m2(monkeypatch):
    r"""The example as a module."""
    spec = importlib.util.spec_from_file_location("m2_digits", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "m2_digits", module)  # dataclasses and inspect look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pair(m2):
    r"""Both forms with the same weights, small."""
    return m2.new_pair(m2.Settings(latents=3, hidden=12), WEIGHT)


def batch(B: int):
    r"""Points x (B, 1, 8, 8) and classes y (B, 10)."""
    return torch.rand(B, 1, 8, 8), nn.functional.one_hot(torch.arange(B) % K, K).float()


def loss_of(program, *args) -> torch.Tensor:
    torch.manual_seed(3)
    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    return elbo.differentiable_loss(program.model, program.guide, *args)


def parameters(program) -> list[torch.Tensor]:
    r"""The parameters, in the order of decoder, σ, encoder, head, classifier."""
    if isinstance(program, nn.Module):
        nets, u = (program.decoder, program.encoder, program.head, program.classifier), program.u
    else:
        nets = (program.p.likelihood.net, program.q.encoder, program.q.head, program.classifier)
        u = program.p.likelihood.u
    return [u, *(w for net in nets for w in net.parameters())]


@pytest.mark.parametrize("known", [False, True], ids=["enumerated", "labelled"])
@pytest.mark.parametrize("B", [1, 7, K, 2 * K])
def test_parts_and_plain_have_one_loss_and_one_gradient(pair, B, known):
    x, y = batch(B)
    losses = [loss_of(program, x, *([y] if known else [])) for program in pair]
    torch.testing.assert_close(*losses, rtol=RELATIVE, atol=0)
    gradients = [
        torch.autograd.grad(loss, parameters(p), allow_unused=True) for loss, p in zip(losses, pair, strict=True)
    ]
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("B", [7, K])
def test_enumeration_is_the_sum_over_classes(pair, B):
    parts, (x, _) = pair[0], batch(B)
    log_q_y, total = parts.classes(x).logits, 0.0
    torch.manual_seed(3)
    noise = torch.normal(torch.zeros(K, B, 3), 1.0)
    for c in range(K):
        given = torch.eye(K)[c].expand(B, K)
        q = parts.q.posterior(x, given=given)
        t = q.base_dist.loc + q.base_dist.scale * noise[c]
        log_joint = parts.p.log_joint(x, t, given=given) - math.log(K)
        total += (log_q_y[:, c].exp() * (log_joint - q.log_prob(t) - log_q_y[:, c])).sum()
    torch.testing.assert_close(loss_of(parts, x), -total, rtol=RELATIVE, atol=0)


def test_all_parameters_of_the_parts_train(m2, pair):
    parts, (x, y) = pair[0], batch(12)
    task = m2.Task(x, y, x, None, None)
    before = [w.clone() for w in parameters(parts)]
    SVI(parts.model, parts.guide, pyro.optim.Adam({"lr": 1e-2}), m2.Objective(task)).step((x, y), x)
    assert all(not torch.equal(v, w) for v, w in zip(before, parameters(parts), strict=True))


def test_the_label_weight_is_that_of_the_paper(m2, pair):
    # α N · mean_labelled: the factor of a labelled point's log q(y | x) is α N / (number of labels).
    for program in pair:
        x, y = batch(5)
        whole = loss_of(program, x, y)
        program.weight = 0.0
        expected = -WEIGHT * program.classes(x).log_prob(y).sum()
        torch.testing.assert_close(whole - loss_of(program, x, y), expected, rtol=1e-3, atol=1e-2)
    task = m2.new_task(0, data.digits())
    assert m2.new_programs(task, m2.Settings(alpha=0.1), 0)[0].weight == pytest.approx(0.1 * 1200 / 100)


def test_model_and_guide_take_twenty_lines(m2):
    assert m2.lines(m2.M2) <= 20 < m2.lines(m2.Plain)


def test_the_page_shows_the_code(m2):
    r"""Up to docstrings, which the page leaves out."""
    shown = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    code = [line.strip() for line in shown.splitlines() if line.strip()]
    assert len(code) == m2.lines(m2.M2)
    source = [line.strip() for line in inspect.getsource(m2.M2).splitlines()]
    assert all(line in source for line in code)


def test_labels_are_few_and_balanced(m2):
    digits = data.digits()
    task, again, other = (m2.new_task(seed, digits) for seed in (0, 0, 1))
    assert task.y.sum(0).tolist() == [10] * K and len(task.rest) == 1100 and task.points == 1200
    assert torch.equal(task.v, again.v) and not torch.equal(task.v, other.v)
    assert len(task.val_labels) == 200 and task.val_labels.bincount().min() >= 19


def test_it_writes_what_it_says(m2, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(m2, "EVERY", 1)
    monkeypatch.setattr(sys, "argv", ["m2_digits.py", "--seeds", "0", "--epochs", "2", "--out", str(tmp_path)])
    m2.main()
    record = json.loads((tmp_path / "m2_digits.json").read_text())
    assert record.keys() == {"machine", "arguments", "settings", "protocol", "lines", "runs", "mean"}
    assert record["lines"].keys() == {"parts", "plain"}
    (run,) = record["runs"]
    assert run.keys() - {"parts", "plain"} == {"seed", "classifier_alone", "logistic_regression", "largest_difference"}
    for name in ("parts", "plain"):
        assert run[name].keys() == {"first_loss", "loss", "test_loss", "seconds", "accuracy"}
        assert run[name]["loss"] < run[name]["first_loss"]
    for key in ("first_loss", "loss", "test_loss"):
        assert run["parts"][key] == pytest.approx(run["plain"][key], rel=RELATIVE)
    assert 0.85 < run["logistic_regression"] < 0.95
    said = capsys.readouterr().out
    assert said.count("epoch") == 4 and "largest difference" in said


def test_settings_are_chosen_on_validation_points(m2, monkeypatch, tmp_path):
    monkeypatch.setattr(m2, "GRID", {"latents": (2,), "alpha": (0.1, 10.0)})
    monkeypatch.setattr(m2, "CHOICE_SEEDS", (10,))
    monkeypatch.setattr(m2, "PENALTIES", (1.0,))
    monkeypatch.setattr(sys, "argv", ["m2_digits.py", "--choose", "--epochs", "1", "--out", str(tmp_path)])
    digits = data.digits()
    digits.test.fill_(float("nan"))  # logistic regression would refuse them, and a network say nothing of them
    monkeypatch.setattr(data, "digits", lambda: digits)
    m2.main()
    rows = json.loads((tmp_path / "m2_choice.json").read_text())["choice"]
    assert [row.get("alpha") for row in rows] == [0.1, 10.0, None]
    assert all(0 < row[name] < 1 for row in rows for name in row.keys() - {"latents", "alpha", "penalty"})
    assert [row.keys() & {"m2", "classifier_alone", "logistic_regression"} for row in rows] == [
        {"m2", "classifier_alone"},
        {"m2", "classifier_alone"},
        {"logistic_regression"},
    ]
