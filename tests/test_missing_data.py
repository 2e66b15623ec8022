"""PPCA on tables with missing entries: the subspace survives a fifth of them, and real NaNs run through."""

import csv

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from pyro_dlgm import PPCA

NUMERIC = {
    "penguins.csv": ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"),
    "airquality.csv": ("Ozone", "Solar.R", "Wind", "Temp"),
}


def number(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")


@pytest.fixture
def table(data_file, request):
    with data_file("Tabular", request.param).open() as file:
        records = list(csv.DictReader(file))
    return torch.tensor([[number(r[name]) for name in NUMERIC[request.param]] for r in records], dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("table", "degrees"), [("penguins.csv", 5), ("airquality.csv", 10)], indirect=["table"])
def test_subspace_survives_a_fifth_of_the_entries_missing(table, degrees, seed):
    X = table[~table.isnan().any(1)]
    X = (X - X.mean(0)) / X.std(0, correction=0)
    deleted = torch.randperm(X.numel(), generator=torch.Generator().manual_seed(seed))[: X.numel() // 5]
    mask = torch.ones(X.numel(), dtype=torch.bool).index_fill(0, deleted, False).view(X.shape)
    complete, missing = PPCA.fit(X, 2), PPCA.fit(X, 2, mask=mask)
    angle = np.degrees(subspace_angles(complete.W.detach().numpy(), missing.W.detach().numpy()).max())
    assert angle <= degrees


@pytest.mark.parametrize("table", list(NUMERIC), indirect=True)
def test_real_missing_entries_run_through(table):
    assert table.isnan().any()
    X = (table - table.nanmean(0)) / (table - table.nanmean(0)).square().nanmean(0).sqrt()
    ppca = PPCA.fit(X, 2)
    q, evidence = ppca.posterior(X, ~X.isnan()), ppca.log_prob(X, ~X.isnan())
    assert all(v.isfinite().all() for v in (ppca.W, ppca.mu, ppca.sigma2, q.mean, q.covariance_matrix, evidence))
