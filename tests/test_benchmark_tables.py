r"""The benchmark of mixed tables: which fits are tried, and which of them is chosen."""

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent / "benchmarks"
KINDS = {"numbers": ["pos", "pos", "cat"], "counts": ["pos", "count", "cat"], "classes": ["ordinal", "cat", "cat"]}


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def table(kinds):
    import hivae

    raw = torch.tensor([[0.0, 6, 1], [2, 3, 0]])
    seen = torch.ones(2, 3, dtype=torch.bool)
    nclass = [0 if kind in ("pos", "count") else 2 for kind in kinds]
    amount = torch.tensor(
        [kind == "pos" and bool((column == 0).any()) for kind, column in zip(kinds, raw.T, strict=True)]
    )
    return hivae.Table(raw, kinds, nclass, seen, seen, amount, torch.zeros(3), torch.ones(3))


def test_columns_have_the_likelihoods_of_their_types():
    import hivae

    of = lambda name, names: table(KINDS[name]).likelihood(names)  # noqa: E731
    assert of("numbers", hivae.NORMAL) == "zero-inflated-log-normal=0,diagonal=1,categorical:2=2"
    assert of("numbers", hivae.ROBUST) == "zero-inflated-log-normal=0,student-t=1,categorical:2=2"
    assert of("counts", hivae.NORMAL) == "zero-inflated-log-normal=0,poisson=1,categorical:2=2"
    assert of("counts", hivae.ROBUST) == "zero-inflated-log-normal=0,categorical:7=1,categorical:2=2"


@pytest.mark.parametrize(
    ("kinds", "best", "last"),
    [
        ("numbers", ("rows", 8, 3000), [("rows", 8, 10_000), ("rows", 8, 10_000, "robust")]),
        ("counts", ("encoder", 3, 1000), [("encoder", 3, 1000, "robust")]),
        ("classes", ("rows", 3, 3000), [("rows", 3, 10_000)]),
        ("classes", ("rows", 3, 1000), []),
    ],
)
def test_the_best_candidate_is_varied_and_the_best_of_all_is_chosen(kinds, best, last):
    import hivae

    cells, tried = {"wine/20/0/choice/rows 8 1000": {"reason": "it failed"}}, []
    for how in hivae.candidates(table(KINDS[kinds]), cells, "wine/20/0", len(hivae.CANDIDATES)):
        tried.append(how)
        score = 0.5 if how == best else 0.9
        score = 0.4 if how == (*best[:2], hivae.MORE_STEPS) else score
        cells[f"wine/20/0/choice/{' '.join(map(str, how))}"] = {"score": score}
    assert tried == [*hivae.CANDIDATES, *last]
    assert hivae.chosen(cells, "wine/20/0") == ((*best[:2], 10_000) if best[2] == 3000 else best)
    cells[f"wine/20/0/choice/{' '.join(map(str, best))} robust"] = {"score": 0.1}
    assert hivae.chosen(cells, "wine/20/0") == (*best, "robust")
