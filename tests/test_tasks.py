r"""The rows of a comparison as tasks: their order, failures, and when rows share the score of their w."""

import dataclasses
import pickle

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_dlgm import DLGM, Points, compare, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.comparison import scorer
from pyro_dlgm.comparison.certificates import Certify
from pyro_dlgm.comparison.comparison import rows
from pyro_dlgm.comparison.method import Method
from pyro_dlgm.comparison.seeds.part import DEFAULTS
from pyro_dlgm.comparison.workers import serving, tasks
from pyro_dlgm.comparison.workers.serving import Outcome
from pyro_dlgm.runs.files import RunError

D, P = 2, 4
CERTIFY = Certify(num_chains=2, num_temperatures=3, num_samples=25, num_simulated=4)
HOW = {"gradients": 2, "num_samples": 25, "certify": CERTIFY, "batch_size": 10}
METHODS = {
    "encoder": lambda model, N: guides.Amortized(nets.Linear(P, 2 * D), D),
    "rows": lambda model, N: guides.MeanField(N, D),
    "points": lambda model, N: guides.PointEstimate(N, D),
}


@pytest.fixture
def x():
    return torch.randn(30, P, generator=torch.Generator().manual_seed(0))


def model(body=None):
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(body or nets.MLP(D, P, (8,)), 0.5))


@pytest.fixture
def done(monkeypatch):
    r"""The row and the kind of each task, in the order in which they were done."""
    done, plain = [], tasks.in_turn

    def in_turn(todo):
        for task, end in plain(todo):
            done.append((task.row, task.what))
            yield task, end

    monkeypatch.setattr("pyro_dlgm.comparison.comparison.in_turn", in_turn)
    return done


def test_a_row_is_trained_then_scored_before_the_next(x, done):
    compare(model, METHODS, x, x[:6], **HOW)
    assert done == [(name, what) for name in METHODS for what in ("trained", "q", "w")]


def test_one_w_is_scored_once(x, done):
    found = compare(model, METHODS, x, x[:6], frozen=True, **HOW)
    assert [name for name, what in done if what == "w"] == ["encoder"]
    assert [name for name, what in done if what == "trained"] == list(METHODS)
    assert len({row.test_log_px for row in found}) == 1 and found[2].difference["mean"] == 0
    own = evaluate.evidence(found[1].pair[0], None, x[:6], **CERTIFY.numbers(), seed=0)
    assert found[1].test_log_px == pytest.approx(float(own.log_px.value.mean()), abs=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(*(row.pair[0].parameters() for row in found[:2]), strict=True))
    assert [any(p.requires_grad for p in row.pair[0].parameters()) for row in found] == [True, False, False]


def test_the_seconds_of_a_shared_score_count_once(x, monkeypatch):
    plain = scorer.Scorer.of_w
    monkeypatch.setattr(scorer.Scorer, "of_w", lambda self, model: plain(self, model)._replace(seconds=1e6))
    found = compare(model, METHODS, x, x[:6], frozen=True, **HOW)
    assert [row.test_seconds > 1e6 for row in found] == [True, False, False]


def test_statistics_that_a_training_moves_make_another_w(x, done):
    normed = lambda: model(nets.Net(D, P, nn.Sequential(nn.Linear(D, P), nn.BatchNorm1d(P))))  # noqa: E731
    compare(normed, {name: METHODS[name] for name in ("encoder", "rows")}, x, x[:6], frozen=True, **HOW)
    assert [name for name, what in done if what == "w"] == ["encoder", "rows"]


class Located(PyroModule):
    r"""Points around a common place, which is a global latent."""

    def forward(self, x=None, index=None, size=None):
        place = pyro.sample("place", dist.Normal(torch.zeros(P), 1.0).to_event(1))
        size = size or len(x)
        with pyro.plate("data", size, subsample=index):
            t = pyro.sample("t", dist.Normal(torch.zeros(P), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(place + t, 0.5).to_event(1), obs=x)


def test_w_with_global_latents_is_scored_with_those_of_each_guide(x, done):
    made = {name: lambda model, N: guides.AutoPerPoint(model, N, plate="data") for name in ("one", "two")}
    found = compare(Located, made, x, x[:6], frozen=True, **HOW)
    assert [name for name, what in done if what == "w"] == ["one", "two"]
    assert all("place" in row.conditions for row in found)


def ended(failing: tuple[str, str]):
    r"""Does the tasks, all trainings first; one of them fails."""

    def run(todo):
        while todo:
            task = next((task for task in todo if task.what == "trained"), todo[0])
            todo.remove(task)
            lost = (task.row, task.what) == failing
            yield task, Outcome(None, "lost") if lost else Outcome(task())

    return run


def test_the_last_training_and_long_scores_come_early_in_processes(x, monkeypatch):
    r"""Two processes, of which one is always at the first training."""
    order = []

    def run(todo):
        first, held = todo.popleft(), None
        while todo:
            task = todo.popleft()
            order.append((task.row, task.what))
            yield task, Outcome(task())
            if not todo and first:
                first, held = None, first
                yield held, Outcome(held())

    monkeypatch.setattr("pyro_dlgm.comparison.comparison.in_turn", run)
    four = {**METHODS, "again": METHODS["rows"]}
    assert [row.name for row in compare(model, four, x, x[:6], **HOW)] == list(four)
    assert order == [
        ("rows", "trained"),
        ("rows", "q"),
        ("rows", "w"),
        ("points", "trained"),
        ("again", "trained"),
        *((name, what) for what in "qw" for name in ("points", "again")),
        *(("encoder", what) for what in "qw"),
    ]


@pytest.mark.parametrize("what", ["trained", "q", "w"])
def test_rows_before_one_that_fails_are_there(x, what, monkeypatch):
    monkeypatch.setattr("pyro_dlgm.comparison.comparison.in_turn", ended(("rows", what)))
    found = rows(model, METHODS, x, x[:6], **HOW)
    assert next(found).name == "encoder"
    with pytest.raises(RunError, match=r"^rows failed: lost$"):
        next(found)


def test_the_seconds_of_both_halves_count(x, monkeypatch):
    monkeypatch.setattr(scorer.time, "perf_counter", iter(range(0, 1000, 7)).__next__)
    pair = model(), guides.MeanField(6, D)
    score = scorer.Scorer(Points(x[:6]), 25, None, 0, False)
    w, q = score.of_w(pair[0]), score.of_q(*pair)
    assert w.seconds == 7 and q.seconds >= 7 and score.joined(w, q)["seconds"] == w.seconds + q.seconds


@pytest.mark.parametrize("name", ["encoder", "rows"])
def test_gaps_are_those_of_evaluate(x, name):
    certify = dataclasses.replace(CERTIFY, gaps=True, points=5)
    (row,) = compare(model, {name: METHODS[name]}, x, x[:6], seed=3, **HOW | {"certify": certify})
    how = {**certify.numbers(), "fitted": name == "rows", "seed": 3}
    found = evaluate.gaps(*row.pair, x[:5], index=torch.arange(5), **how).summary()
    mine = {key: row.gaps[key] for key in ("reached", "approximation", "amortization", "log_px", "ais", "bdmc")}
    assert mine == {key: found[key] for key in mine}


def test_rows_in_files_are_scored_where_they_are_open(x, tmp_path):
    torch.set_num_threads(1)
    how = HOW | {"certify": dataclasses.replace(CERTIFY, gaps=True)}
    found = []
    for jobs in (None, 2):
        folder = tmp_path / f"rows-{jobs}"
        made = {"files": lambda model, N, folder=folder: guides.MeanField(N, D, folder=folder), "rows": METHODS["rows"]}
        found.append(compare(model, made, x, x[:6], jobs=jobs, **how)[0])
    assert found[0].gaps == found[1].gaps and found[0].test_elbo == found[1].test_elbo


class Named(PyroModule):
    r"""A program whose parameters have the names that each PyroModule without a name of its own gives them."""

    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](1, P)
        self.scale = PyroParam(torch.tensor(0.7), constraint=dist.constraints.positive)

    def forward(self, x=None, index=None, *, size=None):
        place = pyro.sample("place", dist.Normal(torch.zeros(P), 1.0).to_event(1))
        with pyro.plate("data", size or len(x), subsample=None if x is None else index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = place + self.net(z.unsqueeze(-1))
            pyro.sample("x", dist.Normal(mean, self.scale).to_event(1), obs=x)


NAMED = {
    "one": lambda model, N: guides.AutoAmortized(model, nets.MLP(P, 2 * D, (4,)), plate="data"),
    "two": lambda model, N: guides.AutoPerPoint(model, N, plate="data"),
}


def numbers(row):
    return row.test_elbo, row.test_log_px, row.pair[0].net.weight.flatten().tolist()


@pytest.mark.parametrize("jobs", [None, 2])
def test_rows_do_not_meet_in_the_parameter_store(x, jobs):
    torch.set_num_threads(1)
    how = HOW | {"lr": 0.1}
    pyro.get_param_store().clear()
    alone = [numbers(compare(Named, {name: make}, x, x[:6], **how)[0]) for name, make in NAMED.items()]
    assert not pyro.get_param_store().keys()
    pyro.param("net.weight", torch.full((P, 1), 50.0))
    try:
        found = compare(Named, NAMED, x, x[:6], jobs=jobs, **how)
        assert [numbers(row) for row in found] == alone
        assert list(pyro.get_param_store().keys()) == ["net.weight"]
    finally:
        pyro.get_param_store().clear()


def test_a_half_is_scored_where_another_pair_was_trained(x):
    r"""As in a process that has done other tasks."""
    method = Method.of(Points(x), Points(x[:6]), DEFAULTS | HOW | {"lr": 0.1})
    one, two = (tasks.trained_copy(method, Named(), make) for make in NAMED.values())
    alone = method.scored(one).scored["log_px"]
    with pyro.get_param_store().scope():
        fit(two.model, two.guide, x, epochs=1)
        assert torch.equal(method.scored(one).scored["log_px"], alone)


def test_a_program_with_global_latents_is_certified_at_their_centre(x):
    program = Located()
    guide = guides.AutoAmortized(program, nets.MLP(P, 8), plate="data")
    fit(program, guide, x, epochs=1, seed=0)
    certify = dataclasses.replace(CERTIFY, gaps=True)
    found = certify(program, guide, x[:6], 0)
    assert "place" in found.conditions
    assert found.summary() == evaluate.gaps(program, guide, x[:6], **certify.numbers(), seed=0).summary()


def test_a_guide_with_globals_and_its_rows_for_other_points_travel_together(x):
    program = Located()
    guide = guides.AutoPerPoint(program, 30, plate="data")
    fit(program, guide, x, epochs=1, seed=0)
    q = evaluate.infer(program, guide, x[:6], seed=0)
    sent = serving.sent((program, q))
    assert len(sent) < len(serving.sent((program, q, guide)))  # the rows of the training stay here
    model, other = pickle.loads(sent)
    index = torch.arange(6)
    bounds = (evaluate.elbo(*pair, x[:6], index, seed=1) for pair in ((model, other), (program, q)))
    assert torch.equal(*bounds)
