"""compare over seeds: the same numbers as one after the other, failures, what is kept, intervals, winners, files."""

import csv
import json
import math
import multiprocessing
import os
import pickle
import platform
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import scipy
import torch
from click.testing import CliRunner

from pyro_dlgm import DLGM, compare, compare_seeds, guides, likelihoods, nets, priors
from pyro_dlgm.cli.main import main
from pyro_dlgm.comparison import comparison
from pyro_dlgm.comparison.certificates import Certify
from pyro_dlgm.comparison.seeds import over_seeds, planned, table
from pyro_dlgm.comparison.seeds.gathered import SeedRow, winner
from pyro_dlgm.comparison.seeds.paired import Paired, Spread, lead
from pyro_dlgm.comparison.workers import pool, serving
from pyro_dlgm.runs.files import RunError, write_json

D, P, SEED = 2, 4, 3
CERTIFY = Certify(num_chains=2, num_temperatures=5, num_samples=25, num_simulated=4)
HOW = {"gradients": 2, "num_samples": 25, "batch_size": 10}
CLOCK = {
    "seconds",
    "test_seconds",
    "history",
    "difference",
}  # times, and the difference to the first row


def model():
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, (P,), (6,)), 0.5))


def data():
    x = torch.randn(28, P, generator=torch.Generator().manual_seed(0))
    return x[:20], x[20:]


def encoder(model, N):
    return guides.Amortized(nets.MLP((P,), 6, (6,)), D)


def one_thread(model, N):
    assert torch.get_num_threads() == 1
    return encoder(model, N)


def killed(model, N):
    if torch.initial_seed() == SEED:
        os.kill(os.getpid(), signal.SIGKILL)
    return encoder(model, N)


def broken(model, N):
    if torch.initial_seed() == SEED + 1:
        raise ValueError("no such\nguide")
    return encoder(model, N)


METHODS = {"sound": lambda model, N: one_thread(model, N), "killed": killed, "broken": broken}
METHODS |= {"slow": lambda model, N: time.sleep(0.5) or encoder(model, N)}
METHODS |= {"rows": lambda model, N: guides.PointEstimate(N, D)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    r"""Four methods at two seeds in two processes; one is killed at the first seed, one fails at the second."""
    out = tmp_path_factory.mktemp("seeds")
    how = HOW | {"ppca": D, "certify": CERTIFY}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")  # what a process would take by itself
        return out, compare_seeds(
            model,
            {k: v for k, v in METHODS.items() if k != "slow"},
            *data(),
            seeds=2,
            seed=SEED,
            jobs=2,
            out=out,
            **how,
        )


@pytest.fixture
def here(monkeypatch):
    r"""Tasks are sent as to a process and called in this one; returns the names of those that were called."""
    called = []

    def run(tasks, jobs):
        for task in tasks:
            called.append((task.name, task.seed))
            yield task, pickle.loads(serving.outcome(serving.sent(task)))

    monkeypatch.setattr(pool, "run", run)
    torch.set_num_threads(1)
    return called


def same(row: dict, other: dict) -> bool:
    r"""Whether two rows agree bit for bit in all but times."""
    return all(row[key] == other[key] for key in row.keys() - CLOCK)


def test_rows_in_processes_are_those_of_one_after_the_other_bit_for_bit(found):
    _, rows = found
    torch.set_num_threads(1)
    methods = {name: METHODS[name] for name in ("sound", "rows")}
    alone = compare(model, methods, *data(), seed=SEED + 1, ppca=D, certify=CERTIFY, **HOW)
    ours = {row.name: row.rows[SEED + 1] for row in rows if SEED + 1 in row.rows}
    assert all(same(row.plain(), ours[row.name]) for row in alone)
    losses = [[record["elbo"] for record in one["history"]] for one in (alone[1].plain(), ours["sound"])]
    assert losses[0] == losses[1] and losses[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_rows_at_once_are_those_in_turn_bit_for_bit_and_in_order(frozen):
    torch.set_num_threads(1)
    methods = {name: METHODS[name] for name in ("slow", "sound", "rows")}
    how = HOW | {"certify": CERTIFY, "frozen": frozen}
    alone, together = (compare(model, methods, *data(), jobs=jobs, **how) for jobs in (None, 2))
    assert [row.name for row in together] == list(methods)
    assert all(same(a.plain(), b.plain()) for a, b in zip(alone, together, strict=True))
    differences = [row.difference for row in together]
    assert [row.difference for row in alone] == differences and differences[0]["to"] == "slow"
    for a, b in zip(alone, together, strict=True):
        pairs = [list(part.parameters()) for one in (a, b) for part in one.pair]
        assert all(torch.equal(p, q) for p, q in zip(pairs[0] + pairs[1], pairs[2] + pairs[3], strict=True))


def warns(model, N):
    warnings.warn("a word of warning", stacklevel=1)
    return encoder(model, N)


def test_warnings_of_rows_at_once_are_warnings_here():
    task = partial(warns, None, 3)
    ends = pool.run([task], jobs=1)
    with pytest.warns(UserWarning, match="a word of warning"):
        assert next(ends)[1].warned == ("a word of warning",)
    ends.close()


def test_what_cannot_be_sent_is_a_failure():
    end = pickle.loads(serving.outcome(serving.sent(lambda: (n for n in range(3)))))
    assert end.value is None and "cannot be sent: TypeError" in end.failure


def test_a_class_of_a_script_comes_back_as_itself(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(OWN_CLASSES)
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "True"]


OWN_CLASSES = """
import torch
from pyro_dlgm import DLGM, compare, guides, likelihoods, nets, priors


class Net(nets.Linear):
    pass


class Q(guides.MeanField):
    pass


if __name__ == "__main__":
    x = torch.randn(9, 3)
    make = lambda: DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(Net(1, (3,))))
    (row,) = compare(make, {"q": lambda model, N: Q(N, 1)}, x, x, gradients=1, num_samples=25, jobs=1)
    print(type(row.pair[0].likelihood.net) is Net, type(row.pair[1]) is Q)
"""


def test_a_method_that_fails_at_once_is_named():
    with pytest.raises(RunError, match="broken failed: ValueError: no such guide"):
        compare(model, {"broken": METHODS["broken"]}, *data(), seed=SEED + 1, jobs=1, **HOW)


def test_seeds_differ(found):
    _, rows = found
    assert len(set(rows[1].scores("test_elbo").values())) == 2


def test_a_failure_names_row_and_seed_and_the_rest_goes_on(found):
    _, (ppca, sound, dead, bad, points) = found
    assert [row.name for row in (ppca, sound, points)] == [f"PPCA-{D}", "sound", "rows"]
    assert all(sorted(row.rows) == [SEED, SEED + 1] and not row.failed for row in (ppca, sound, points))
    assert dead.failed == {
        SEED: "its process was ended by SIGKILL, as where there is too little memory: take fewer jobs"
    } and sorted(dead.rows) == [SEED + 1]
    assert bad.failed == {SEED + 1: "ValueError: no such guide"} and sorted(bad.rows) == [SEED]
    notes = "\n".join(table.footnotes([ppca, sound, dead, bad, points], 8, 25))
    assert f"killed failed at seed {SEED}: its process was ended by SIGKILL, as" in notes
    assert f"broken failed at seed {SEED + 1}: ValueError: no such guide." in notes


@pytest.fixture
def kept(tmp_path, here):
    r"""A folder with one method at one seed, and its row."""
    (row,) = compare_seeds(model, {"a": encoder}, *data(), seeds=1, seed=SEED, out=tmp_path, **HOW)
    here.clear()
    return tmp_path, row


def test_finished_rows_are_kept_and_more_seeds_and_guides_are_added(kept, here):
    out, row = kept
    again = compare_seeds(model, {"a": encoder, "b": encoder}, *data(), seeds=2, seed=SEED, out=out, **HOW)
    assert here == [("b", SEED), ("a", SEED + 1), ("b", SEED + 1)]
    assert again[0].rows[SEED] == row.rows[SEED] and sorted(again[0].rows) == [SEED, SEED + 1]


@pytest.mark.parametrize(
    ("other", "said"),
    [({"gradients": 3}, "settings.gradients was 2, now 3"), ({"certify": CERTIFY}, "settings.certify")],
)
def test_rows_of_other_settings_are_refused(kept, other, said):
    with pytest.raises(RunError, match=said):
        compare_seeds(model, {"a": encoder}, *data(), seeds=1, seed=SEED, out=kept[0], **HOW | other)


def test_other_points_guides_models_and_ws_are_refused(kept):
    def wider():
        return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, (P,), (7,)), 0.5))

    x, y = data()
    how = HOW | {"seeds": 1, "seed": SEED, "out": kept[0]}
    for place, (factory, guide, points, more) in {
        "data.test.x": (model, encoder, (x, y + 1), {}),
        "guide": (model, METHODS["rows"], (x, y), {}),
        "model": (wider, encoder, (x, y), {}),
        "frozen": (model, encoder, (x, y), {"frozen": True}),
    }.items():
        with pytest.raises(RunError, match=f"is of another comparison: {place} was"):
            compare_seeds(factory, {"a": guide}, *points, **how, **more)


def test_a_default_may_be_spelled_out(tmp_path):
    r"""In the rows that are there, and in the call that goes on with them."""
    spelled = {"lr": 2e-3, "schedule": "cosine", "certify": None}
    for first, then in [({}, spelled), (spelled, {})]:
        settings = HOW | {"seeds": 1, "seed": 0, "folder": tmp_path}
        (part,) = planned.planned(model, {"a": encoder}, *data(), **settings | first)
        older = part.config | {"settings": HOW | first}  # older versions kept what was given
        write_json(part.file, {"config": older, "row": {"test_elbo": 1.0}})
        (again,) = planned.planned(model, {"a": encoder}, *data(), **settings | then)
        assert again.kept() == {"test_elbo": 1.0}
        (other,) = planned.planned(model, {"a": encoder}, *data(), **settings | {"lr": 1e-3})
        with pytest.raises(RunError, match=r"settings\.lr was not there, now 0\.001"):
            other.kept()


def test_an_interrupted_comparison_goes_on(tmp_path, here):
    settings = HOW | {"seeds": 2, "seed": 0, "folder": tmp_path}
    parts = planned.planned(model, {"a": encoder, "b": encoder}, *data(), **settings)
    cut = over_seeds.run(parts, tmp_path)
    next(cut)
    cut.close()
    assert here == [("a", 0)]
    done = list(over_seeds.run(parts, tmp_path))
    assert here[1:] == [("b", 0), ("a", 1), ("b", 1)] and len(done) == 4
    assert not any(end.failure for end in done) and list(over_seeds.run(parts, tmp_path)) == sorted(done, key=_place)


def _place(end):
    return end.part.seed, end.part.name


def test_one_w_for_all_rows_is_that_of_the_first(tmp_path, here):
    methods = {"first": encoder, "second": lambda model, N: guides.Amortized(nets.MLP((P,), 6, (6,)), D, "full_rank")}
    alone = compare(model, methods, *data(), frozen=True, seed=1, **HOW)
    rows = compare_seeds(model, methods, *data(), frozen=True, seeds=2, out=tmp_path, **HOW)
    assert here == [("first", 0), ("first", 1), ("second", 0), ("second", 1)]
    assert all(same(row.plain(), ours.rows[1]) for row, ours in zip(alone, rows, strict=True))
    assert [row.w for row in rows] == ["own", "first"] and winner(rows, "test_log_px") is None


def test_where_the_first_w_failed_the_others_say_so(here):
    def only_at_1(model, N):
        if torch.initial_seed() == 0:
            raise ValueError("diverged")
        return encoder(model, N)

    rows = compare_seeds(model, {"first": only_at_1, "second": encoder}, *data(), frozen=True, seeds=2, **HOW)
    assert rows[1].failed == {0: "RunError: there is no w: first failed at seed 0"} and list(rows[1].rows) == [1]


def test_a_process_has_the_default_dtype_of_the_caller(tmp_path, here):
    points = [v.double() for v in data()]
    try:
        torch.set_default_dtype(torch.float64)
        parts = planned.planned(model, {"a": encoder}, *points, seeds=1, seed=0, folder=tmp_path, **HOW)
        torch.set_default_dtype(torch.float32)
        assert [end.failure for end in over_seeds.run(parts, tmp_path)] == [None]
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_makes_no_sense_is_refused(here):
    with pytest.raises(TypeError, match="gradient"):
        compare_seeds(model, {"a": encoder}, *data(), seeds=2, gradient=3)
    with pytest.raises(ValueError, match="seeds is 0"):
        compare_seeds(model, {"a": encoder}, *data(), seeds=0)
    with pytest.raises(ValueError, match="jobs is 0"):
        compare_seeds(model, {"a": encoder}, *data(), seeds=1, jobs=0)
    with pytest.raises(RunError, match="all 2 trainings failed; a at seed 0: ValueError: lr"):
        compare_seeds(model, {"a": encoder}, *data(), seeds=2, lr=-1.0)


def test_processes_end_when_the_work_is_given_up():
    work = pool.run([partial(int, 1), partial(time.sleep, 600)], jobs=2)
    assert next(work)[1] == (1, None, ())
    children = multiprocessing.active_children()
    work.close()
    assert len(children) == 2 and not any(child.is_alive() for child in children)


# Differences and winners, on tables of scores that are made up.


def scores(rng, means, S, noise=1.0, shared=5.0) -> dict[str, dict[int, float]]:
    r"""Scores of rows at S seeds: what a seed does to all of them is large beside what it does to one."""
    of_seed = [rng.gauss(0, shared) for _ in range(S)]
    return {f"{n}": {s: m + of_seed[s] + rng.gauss(0, noise) for s in range(S)} for n, m in enumerate(means)}


@pytest.mark.parametrize("S", [2, 5, 12])
def test_the_interval_is_that_of_the_paired_t_test(S):
    a, b = scores(random.Random(S), [1.0, 0.0], S).values()
    found = Paired.of(a, b)
    oracle = scipy.stats.ttest_rel([a[s] for s in range(S)], [b[s] for s in range(S)])
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert found.mean / found.standard_error == pytest.approx(oracle.statistic) and found.seeds == S


def test_differences_are_over_the_seeds_that_both_rows_have():
    found = Paired.of({0: 5.0, 1: 2.0, 2: 4.0}, {2: 1.0, 1: 1.0, 7: 99.0})
    assert (found.mean, found.standard_error, found.seeds) == (2.0, pytest.approx(1.0), 2)
    assert Paired.of({0: 1.0}, {1: 1.0}) is None
    assert Paired.of({0: 3.0}, {0: 1.0}) == (2.0, None, -math.inf, math.inf, 1)


def test_the_spread_is_that_over_seeds():
    assert Spread.of({0: 1.0, 1: 3.0, 2: 5.0}) == (3.0, 2.0, pytest.approx(2 / 3**0.5))
    assert Spread.of({4: 1.0}) == (1.0, None, None) and Spread.of({}) is None


@pytest.mark.parametrize(("means", "S"), [([0.0, 0.0], 3), ([0.0, 0.0, -20.0], 5), ([0.0] * 5, 4)])
def test_noise_names_a_winner_in_at_most_five_of_a_hundred_tables(means, S):
    rng, tables = random.Random(0), 1500
    named = sum(lead(scores(rng, means, S)).wins for _ in range(tables))
    assert named / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5


def test_two_equal_rows_ahead_of_all_others_are_the_worst_case():
    rng, tables = random.Random(1), 1500
    named = sum(lead(scores(rng, [0.0, 0.0, -20.0], 5)).wins for _ in range(tables))
    assert named / tables == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / tables) ** 0.5)


def test_a_real_difference_names_the_winner_though_seeds_vary_more():
    rng = random.Random(2)
    leads = [lead(scores(rng, [0.0, 6.0, 1.0], 5, shared=50.0)) for _ in range(200)]
    assert sum(found.wins for found in leads) >= 195 and {found.best for found in leads} == {"1"}


def test_the_winner_is_ahead_of_every_other_row_not_only_of_the_next_one():
    even = {0: 0.0, 1: 0.0, 2: 0.0}
    table_ = {"best": dict.fromkeys(even, 1.0), "next": even, "wild": {0: -9.0, 1: 10.0, 2: -5.0}}
    found = lead(table_)
    assert (found.best, found.other, found.wins) == ("best", "wild", False)
    assert lead({name: table_[name] for name in ("best", "next")}).wins


def test_who_has_no_score_at_a_seed_wins_nothing():
    good = dict.fromkeys(range(4), 5.0)
    assert lead({"a": good, "b": dict.fromkeys(range(4), 0.0)}).wins
    assert not lead({"a": dict.fromkeys(range(3), 5.0), "b": dict.fromkeys(range(4), 0.0)}).wins
    assert lead({"a": good, "b": dict.fromkeys(range(2), 0.0)}).wins
    assert lead({"a": good, "b": {}}) is None and not lead({"a": {0: 5.0}, "b": {0: 0.0}}).wins


def rows_of(log_px: dict[str, list[float]], gap: float = 0.0, **gaps: float) -> list[SeedRow]:
    r"""Rows with these scores, which BDMC certifies within |gap|, of some rows another one."""
    made = []
    for name, values in log_px.items():
        one = {"test_bdmc_gap": gaps.get(name, gap), "standard_errors": {"test_bdmc_gap": 0.0}, "test_elbo": None}
        of = {s: one | {"test_log_px": v, "reasons": {"test_elbo": "none"}} for s, v in enumerate(values)}
        made.append(SeedRow(name, name, "m", "own", name == "PPCA", of, {}))
    for row in made:
        found = {o.name: Paired.of(row.scores("test_log_px"), o.scores("test_log_px")) for o in made if o is not row}
        row.differences = {"test_log_px": found, "test_elbo": {}}
    return made


def test_a_winner_by_log_px_is_beyond_what_bdmc_leaves_open():
    ahead = {"a": [3.0, 3.1, 2.9], "b": [1.0, 1.1, 0.9]}
    assert winner(rows_of(ahead, gap=1.5)).wins and not winner(rows_of(ahead, gap=-2.5)).wins
    assert "the winner is a, ahead of b, the closest row, by 2.00" in table.verdict(rows_of(ahead), "test_log_px")
    assert winner(rows_of(ahead, a=2.5)).wins and not winner(rows_of(ahead, b=2.5)).wins  # both are lower bounds
    said = table.verdict(rows_of(ahead, gap=2.5), "test_log_px")
    assert "no winner is named; a is ahead of b by 2.00" in said and "BDMC leaves 2.50 open" in said


def test_rows_with_one_w_have_no_winner_by_it():
    rows = rows_of({"a": [3.0, 3.1, 2.9], "b": [1.0, 1.1, 0.9]})
    assert winner(rows).wins and winner([rows[0], replace(rows[1], w="a")]) is None


def test_a_reference_takes_no_part():
    rows = rows_of({"PPCA": [9.0, 9.1], "a": [3.0, 3.0], "b": [1.0, 1.0]})
    assert winner(rows).best == "a" and winner(rows).wins
    assert winner(rows_of({"PPCA": [9.0, 9.1], "a": [3.0, 3.0]})) is None


def test_cells_are_means_spreads_and_paired_differences():
    rows = rows_of({"a": [1.0, 3.0], "b": [1.5, 4.5]}, gap=0.25)
    cells = {column.title: column.text(rows[1]) for column in table.columns(rows)}
    assert (cells["method"], cells["model"], cells["log p(x)"]) == ("b", "m", "3.00 (2.12)")
    assert (cells["Δ log p(x)"], cells["BDMC"]) == ("1.00 ± 0.50", "0.25 (0.00)") and "ELBO" not in cells
    plain = replace(rows[1]).plain()
    assert plain["test_log_px"] == 3.0 and plain["differences"]["test_log_px"]["a"]["seeds"] == 2
    json.dumps(plain, allow_nan=False)


# The command.


@pytest.fixture
def folder(tmp_path, here):
    arguments = ["compare", "--guides", "amortized,amortized-full-rank", "--gradients", "1", "--samples", "25"]
    arguments += ["--no-ais", "--points", "20", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return tmp_path, result


def test_the_command_over_seeds(folder):
    out, result = folder
    rows = json.loads((out / "compare.json").read_text())
    assert [row["guide"] for row in rows] == ["Exact", "amortized", "amortized-full-rank"]
    assert all(row["seeds"] == [0, 1] and row["test_elbo"] is not None for row in rows)
    lines = list(csv.DictReader((out / "compare.csv").open()))
    assert [(line["method"], line["seed"]) for line in lines][2:4] == [("amortized", "0"), ("amortized", "1")]
    assert float(lines[3]["test_elbo"]) == rows[1]["rows"]["1"]["test_elbo"]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.html").read_text()
    assert "Differences over seeds" in report and "2 seeds" in report
    assert json.loads((out / "config.json").read_text())["seeds"] == 2
    assert "6 of 6  amortized-full-rank, seed 1: ELBO" in result.stderr
    assert "Δ ELBO" in result.stdout and "ELBO: " in result.stdout and "one seed" not in result.stdout


def test_a_failure_is_said_and_ends_the_command_with_status_1(tmp_path, here, monkeypatch):
    run = pool.run
    lost = serving.Outcome(None, "lost")
    fails = lambda task, end: lost if (task.name, task.seed) == ("amortized", 1) else end  # noqa: E731
    monkeypatch.setattr(pool, "run", lambda tasks, jobs: ((t, fails(t, end)) for t, end in run(tasks, jobs)))
    arguments = ["compare", "--guides", "amortized", "--gradients", "1", "--samples", "25", "--no-ais", "--points", "9"]
    result = CliRunner().invoke(main, [*arguments, "--seeds", "2", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "amortized, seed 1 failed: lost" in result.stderr
    assert "amortized failed at seed 1: lost." in result.stdout
    assert json.loads((tmp_path / "compare.json").read_text())[1]["failed"] == {"1": "lost"}


def test_jobs_are_counted_from_one():
    with pytest.raises(ValueError, match="jobs is 0; expected at least 1"):
        compare(model, {"a": encoder}, *data(), jobs=0)


@pytest.mark.parametrize(("asked", "jobs"), [((), None), (("--jobs", "5"), 2), (("--jobs", "1"), None)])
def test_the_command_does_rows_at_once_where_there_are_cores(tmp_path, monkeypatch, asked, jobs):
    seen = []
    monkeypatch.setattr(comparison, "rows", lambda *args, jobs, **how: seen.append(jobs) or iter(()))
    monkeypatch.setattr("pyro_dlgm.cli.compare._write", lambda *args: [])
    CliRunner().invoke(main, ["compare", "--guides", "amortized,hard-em", "--out", str(tmp_path), *asked])
    assert seen == [jobs]
    monkeypatch.setattr(pool, "cores", lambda: 4)
    CliRunner().invoke(main, ["compare", "--guides", "amortized,hard-em", "--out", str(tmp_path)])
    assert seen[1:] == [2]


def _faults() -> tuple[int, int]:
    r"""Pages of an array of 40 MB, and page faults of making it twenty times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(10_000_000).fill_(1.0)
    return 40_000_000 // resource.getpagesize(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_processes_keep_the_memory_of_arrays_for_the_next_ones():
    ((_, end),) = pool.run([_faults], 1)
    pages, faults = end.value
    assert faults < 3 * pages


@pytest.mark.parametrize("largest", [1 << 26, 1 << 25, 0])
def test_a_threshold_that_is_refused_leaves_the_others_as_they_are(largest, monkeypatch):
    calls = []

    def mallopt(name, value):
        calls.append((name, value))
        return int(name == -1 or value <= largest)  # M_TRIM_THRESHOLD of malloc.h; M_MMAP_THRESHOLD is -3

    monkeypatch.setattr(serving.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    serving._keep_freed_memory()
    tried = [(-3, size) for size in (1 << 26, 1 << 25) if size >= largest]
    assert calls == tried + [(-1, 1 << 30)] * (largest > 0)


def test_processes_work_where_memory_cannot_be_kept(monkeypatch):
    monkeypatch.setattr(serving.ctypes, "CDLL", lambda name: object())
    serving._keep_freed_memory()
