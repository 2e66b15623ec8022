"""Data larger than memory: `fit` takes what yields batches of `Points`, and arrays that stay on the disk."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pyro_dlgm import DLGM, PPCA, Points, fit, guides, likelihoods, nets, priors
from pyro_dlgm.data.batches import Batches
from pyro_dlgm.data.source import Source
from pyro_dlgm.training import autosave

N, P, D, B = 20, 6, 2, 6


@pytest.fixture
def x():
    return torch.randn(N, P)


def model() -> DLGM:
    torch.manual_seed(0)
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, hidden=(6,)), 0.7))


def amortized() -> guides.Amortized:
    return guides.Amortized(nets.MLP(P, 6, hidden=()), D)


class Rows(Dataset):
    """Items that are rows, with their number."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], i


def together(items) -> Points:
    return Points(torch.stack([x for x, _ in items]), torch.tensor([i for _, i in items]))


def loader(x, **settings):
    return DataLoader(Rows(x), batch_size=B, collate_fn=together, shuffle=True, **settings)


def batches_of(x, order=None):
    for rows in (torch.arange(len(x)) if order is None else order).split(B):
        yield Points(x[rows], rows)


def by_epoch(x):
    def source(epoch, start):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(epoch))
        return list(batches_of(x, order))[start:]

    return source


SOURCES = {
    "loader": loader,
    "list": lambda x: list(batches_of(x)),
    "function": lambda x: lambda: batches_of(x),
    "function of the epoch": lambda x: lambda epoch: by_epoch(x)(epoch, 0),
    "function that seeks": by_epoch,
    "iterator": lambda x: (points for _ in range(100) for points in batches_of(x)),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("make", [lambda: guides.MeanField(N, D), amortized])
def test_every_kind_of_source_trains(x, kind, make):
    result = fit(model(), make(), SOURCES[kind](x), size=N, steps=9, x_val=x[:5], seed=0)
    assert [(r["epoch"], r["step"]) for r in result.history] == [(1, 4), (2, 8), (3, 9)]
    assert all(np.isfinite(r["elbo"]) and np.isfinite(r["val_elbo"]) for r in result.history)


def test_a_source_of_the_same_batches_is_the_tensor(x):
    """One batch of all points: the same loss, the same scale N/B, the same weights at the end."""
    ends = []
    for data, more in ((x, {"batch_size": N}), ([Points(x, torch.arange(N))], {"size": N})):
        torch.manual_seed(3)
        m, guide = model(), guides.PointEstimate(N, D)
        fit(m, guide, data, steps=5, seed=1, **more)
        ends.append([*m.parameters(), *guide.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)


def test_the_scale_is_that_of_all_points(x):
    exact = PPCA.fit(x.double(), D)
    source = list(batches_of(x.double()))
    record = fit(exact, guides.Exact(exact), source, size=N, epochs=1, lr=1e-30).history[-1]
    assert record["elbo"] == pytest.approx(exact.log_prob(x.double()).mean().item(), rel=1e-6)


def test_an_epoch_ends_with_the_length_or_with_all_points(x):
    for kind, make in SOURCES.items():
        source, seen = Source(make(x), N), []
        for _ in range(2):
            seen += [(len(points), source.epoch, source.ended) for points in source]
        expected = [(B, e, False) for e in (1, 2)]
        assert seen == [s for e in expected for s in (e, e, e, (2, e[1], True))], kind


def test_given_masks_and_weights_come_with_the_points(x):
    m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D + 1, P, hidden=(6,)), 0.7))
    mask, given, weight = torch.rand(N, P) < 0.7, torch.randn(N, 1), torch.rand(N)
    whole = Points(x, torch.arange(N), mask, given, weight)
    guide = guides.PointEstimate(N, D)
    found = [
        fit(m, guide, points, steps=1, lr=1e-30, row_lr=1e-30, **more).history[0]["log_joint"]
        for points, more in (([whole], {"size": N}), (Points(x, None, mask, given, weight), {"batch_size": N}))
    ]
    t = guide.posterior(index=whole.index).mean
    expected = (weight * m.log_joint(x, t, mask, given=given)).sum() / weight.sum()
    assert found == pytest.approx([float(expected)] * 2, rel=1e-5)


# Resume


def interrupted(make_source, tmp_path, monkeypatch, stop=6, **settings):
    """The weights after a training in one go, and after one that was killed in the middle of an epoch and resumed."""
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    ends = []
    for name, at in (("whole", None), ("killed", stop)):
        torch.manual_seed(0)
        m, guide = model(), guides.MeanField(N, D)

        class Stop:
            def after(self, step, record, at=at):
                from pyro_dlgm.runs.files import RunError

                if step.step == at:
                    raise RunError("stop")

        arguments = {"size": N, "steps": 11, "seed": 1, "out": tmp_path / name, **settings}
        if at is not None:
            with pytest.raises(Exception, match="stop"):
                fit(m, guide, make_source(), listeners=[Stop()], **arguments)
            torch.manual_seed(0)
            m, guide = model(), guides.MeanField(N, D)
            arguments["resume"] = True
        fit(m, guide, make_source(), **arguments)
        ends.append([*m.parameters(), *guide.parameters()])
    return all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("kind", ["loader", "list", "function that seeks", "function of the epoch"])
def test_a_resume_in_the_middle_of_an_epoch_is_exact_where_the_source_can_be_sought(x, kind, tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interrupted(lambda: SOURCES[kind](x), tmp_path, monkeypatch)


def test_a_source_that_seeks_is_asked_for_the_rest_alone(x):
    asked = []

    def source(epoch, start):
        asked.append((epoch, start))
        return by_epoch(x)(epoch, start)

    first = Source(source, N)
    passed = iter(first)
    next(passed), next(passed)
    second = Source(source, N)
    second.load_state_dict(first.state_dict())
    rest = torch.cat([points.index for points in second])
    assert asked[-1] == (0, 2) and len(rest) == N - 2 * B and second.ended


@pytest.mark.parametrize("kind", ["function", "iterator"])
def test_a_resume_says_where_a_source_can_not_be_sought(x, kind, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="the source cannot be sought: 1 batches of this epoch .* exact resume"):
        interrupted(lambda: SOURCES[kind](x), tmp_path, monkeypatch)


def test_another_source_or_size_is_refused_on_resume(x, tmp_path):
    from pyro_dlgm.runs.files import RunError

    fit(model(), amortized(), loader(x), size=N, steps=2, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"fit\.x was 'DataLoader, 20 points', now 'list, 20 points'"):
        fit(model(), amortized(), SOURCES["list"](x), size=N, steps=2, out=tmp_path / "run", resume=True)


# What makes no sense


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        (lambda x: [x], {}, "yields a Tensor; expected Points"),
        (
            lambda x: list(batches_of(x))[:2] * 1,
            {"size": 12, "steps": 7, "mask": torch.ones(3)},
            "mask came with a list",
        ),
        (lambda x: lambda: batches_of(x[:10]), {"steps": 9}, "ended after 2 batches, 10 of size=20 points"),
        (lambda x: lambda: batches_of(torch.cat([x, x])), {"size": 15, "steps": 9}, "more than size=15 points"),
        (lambda x: lambda: batches_of(x), {"steps": None, "epochs": 2}, "has no length.* give steps="),
        (lambda x: iter([]), {}, "ended after 0 batches"),
        (lambda x: [Points(x.masked_fill(x > 1, torch.nan), torch.arange(N))], {}, "x has values that are not finite"),
        (lambda x: [Points(x, torch.arange(3))], {}, "x has 20 points and index 3"),
        (lambda x: x, {"size": 7}, "size is 7 and x has 20 points"),
        (lambda x: list(batches_of(x)), {"size": None}, "x is a list; expected a tensor.* with size=N"),
        (lambda x: Points(x, torch.arange(N)), {"size": None}, "x has an index; expected none"),
        (lambda x: loader(x), {"batch_size": 3}, "batch_size came with a DataLoader"),
    ],
)
def test_a_source_that_makes_no_sense_is_named(x, source, more, words):
    with pytest.raises((ValueError, TypeError), match=words):
        fit(model(), amortized(), source(x), **({"size": N, "steps": 3} | more))


# Arrays on the disk


@pytest.fixture
def mapped(tmp_path):
    values = np.random.default_rng(0).standard_normal((N, P)).astype("f4")
    np.save(tmp_path / "x.npy", values)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def test_a_memory_map_trains_as_the_tensor(mapped):
    ends = []
    for data in (mapped, torch.tensor(np.array(mapped))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            m = model()
            fit(m, amortized_at(1), data, epochs=2, batch_size=B, seed=0)
        ends.append(list(m.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def amortized_at(seed):
    torch.manual_seed(seed)
    return amortized()


def test_rows_are_named_across_blocks(mapped, monkeypatch):
    from pyro_dlgm.training import checks

    monkeypatch.setattr(checks, "BLOCK", 4 * P)
    x = torch.tensor(np.array(mapped))
    x[[3, 13]] = torch.nan
    with pytest.raises(ValueError, match=r"not finite in rows \[3\]"):
        fit(model(), amortized(), x, epochs=1)
    x = (torch.rand(N, P) < 0.5).float()
    x[17] = 0.5
    binary = DLGM(priors.StandardNormal(D), likelihoods.Bernoulli(nets.MLP(D, P, hidden=(6,))))
    with pytest.raises(ValueError, match=r"support of Bernoulli in rows \[17\]"):
        fit(binary, amortized(), x, epochs=1)


SCRIPT = """
import resource, sys
import numpy as np, torch
from pyro_dlgm import DLGM, fit, guides, likelihoods, nets, priors
x = np.load(sys.argv[1], mmap_mode="r")
torch.manual_seed(0)
m = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Linear(2, x.shape[1])))
guide = guides.Amortized(nets.Linear(x.shape[1], 4), 2)
def peak():
    rows = dict(line.split(":") for line in open("/proc/self/status") if line.startswith(("RssAnon", "VmHWM")))
    return int(rows["RssAnon"].split()[0])
fit(m, guide, x[:200], steps=1)
before = peak()
import threading, time
most = [0]
def watch():
    while most[0] >= 0:
        most[0] = max(most[0], peak()); time.sleep(0.002)
thread = threading.Thread(target=watch, daemon=True); thread.start()
fit(m, guide, x, steps=1, batch_size=100)
print(1024 * (most[0] - before) / x.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_the_checks_of_a_memory_map_take_a_block_of_memory(tmp_path):
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(400_000, 400)).flush()
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.25  # of the 640 MB of the file; it was 1.75 times its size


def test_batches_and_source_have_one_protocol(x):
    for batches in (Batches(x, B), Source(SOURCES["list"](x), N)):
        assert batches.num_points == N and len(batches) == 4 and batches.device.type == "cpu"
        assert len(batches.first(3)) == 3 and batches.epoch == 0
        assert [batches.ended for _ in batches] == [False, False, False, True] and batches.epoch == 1
