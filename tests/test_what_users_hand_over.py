"""Numbers of NumPy, "~", lists and names as labels, batches of one; umask, locks, infinity."""

import json
import os
import subprocess
import sys
import time

import cases
import numpy as np
import pytest
import torch
from torch import nn

from pyro_dlgm import fit, guides, load
from pyro_dlgm.comparison import evaluation, scoring
from pyro_dlgm.runs.files import add_section, read_sections, whole, write_json
from pyro_dlgm.runs.fingerprint import differences
from pyro_dlgm.runs.run import Run

X = torch.rand(10, 1, 5, 7, generator=torch.Generator().manual_seed(0))
PLAIN = {"epochs": 2, "batch_size": 5, "lr": 0.015625, "row_lr": 0.25, "seed": 1, "e_steps": 2, "clip_norm": 2.0}
PLAIN |= {"warmup": 1, "patience": 3}


def pair():
    torch.manual_seed(0)
    model = cases.conv()
    return model, cases.amortized(model)


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("kind", [lambda v: np.asarray(v)[()], torch.tensor])
def test_numbers_of_numpy_and_torch_are_numbers(kind, out, tmp_path):
    settings = [{}, {}] if not out else [{"out": tmp_path / "a"}, {"out": tmp_path / "b"}]
    one = fit(*pair(), X, x_val=X, **PLAIN, **settings[0])
    other = fit(*pair(), X, x_val=X, **{name: kind(v) for name, v in PLAIN.items()}, **settings[1])
    assert [h["elbo" if "elbo" in h else "tempered_elbo"] for h in one.history] == [
        h["elbo" if "elbo" in h else "tempered_elbo"] for h in other.history
    ]
    if out:
        assert Run(tmp_path / "a").config() == Run(tmp_path / "b").config()


def test_a_configuration_takes_arrays_and_what_is_not_finite(tmp_path):
    config = {"scale": np.float32(0.5), "sizes": np.arange(3), "nan": float("nan"), "more": (1, float("inf"))}
    for _ in range(2):
        fit(*pair(), X, steps=1, out=tmp_path / "run", config=config, resume=True)
    text = (tmp_path / "run" / "config.json").read_text()
    kept = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (kept["scale"], kept["sizes"], kept["nan"], kept["more"]) == (0.5, [0, 1, 2], None, [1, None])
    assert differences({"a": None}, {"a": float("nan")}) == []


def test_a_home_is_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fit(*pair(), X, steps=1, out="~/run")
    assert (tmp_path / "run" / "config.json").exists() and not (tmp_path / "~").exists()
    model, guide = pair()
    load("~/run", model=model, guide=guide)


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ([1, 0] * 5, ["1", "0"] * 5),
        (np.arange(10), [str(i) for i in range(10)]),
        (["a\tb", "c\nd"] * 5, ["a b", "c d"] * 5),
    ],
)
def test_labels_are_a_column_of_the_projector(labels, shown, tmp_path):
    fit(*pair(), X, steps=1, out=tmp_path / "run", labels=labels)
    (place,) = (tmp_path / "run").glob("*/latents")
    assert (place / "metadata.tsv").read_text().splitlines() == shown


class Normed(nn.Module):
    out_features = 8

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(35, 8), nn.BatchNorm1d(8))

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("size", [9, 3, 1])
def test_a_last_batch_of_one_under_batch_norm_is_refused_in_one_line(size):
    guide = guides.Amortized(Normed(), cases.D)
    with pytest.raises(ValueError, match=r"batch of 1 point.*BatchNorm1d") as error:
        fit(cases.conv(), guide, X, epochs=1, batch_size=size)
    assert "\n" not in str(error.value)
    fit(cases.conv(), guide, X, epochs=1, batch_size=5)


# Files and locks


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_leaves(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", {})
        fit(*pair(), X, steps=1, out=tmp_path / "run")
    finally:
        os.umask(before)
    files = [tmp_path / "a.json", *(tmp_path / "run" / name for name in ("config.json", "checkpoint.pt"))]
    assert {file.stat().st_mode & 0o777 for file in files} == {mode}


def test_whole_leaves_nothing_and_takes_names_that_are_swept(tmp_path):
    with whole(tmp_path / "a.json") as path:
        path.write_text("1")
        assert path.match(".a-????????.json")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


LOCKS = """if True:
    import os, sys, time
    from pyro_dlgm.runs.run import Run
    run = Run(sys.argv[1])
    run.lock()
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    print("locked", flush=True)
    if sys.argv[2] == "unlock":
        run.unlock()
        print("free", flush=True)
    time.sleep(20)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("how", ["unlock", "kill"])
def test_a_run_is_free_while_workers_that_were_forked_live(how, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", LOCKS, str(tmp_path / "run"), how]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            assert process.stdout.readline() == b"locked\n"
            if how == "unlock":
                assert process.stdout.readline() == b"free\n"
            else:
                time.sleep(0.5)
                process.kill()
                process.wait()
            Run(tmp_path / "run").lock()
        finally:
            os.killpg(process.pid, 9)


def test_sections_that_are_added_at_once_are_all_there(tmp_path):
    code = "import sys; from pathlib import Path; from pyro_dlgm.runs.files import add_section\n"
    code += "for i in range(20): add_section(Path(sys.argv[1]), f'{sys.argv[2]}{i}', {'mean': 1.0})"
    file = tmp_path / "evaluation.json"
    started = [subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in "abc"]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(read_sections(file)) == 60


def test_an_infinite_k_hat_is_infinite(tmp_path):
    k = torch.tensor([0.5] * 10 + [float("inf")] * 10)
    found = scoring.summary([{"elbo": torch.zeros(20), "pareto_k": k}])
    (line,) = (line for line in evaluation.lines({"test": found}) if "Pareto" in line)
    assert len(line) < 120 and "inf" in line
    add_section(tmp_path / "e.json", "test", found)
    (line,) = (line for line in evaluation.lines(read_sections(tmp_path / "e.json")) if "Pareto" in line)
    assert len(line) < 120
