r"""What all tests share: a seed, a parameter store of their own, and the folder with data files."""

import os
from pathlib import Path

import pyro
import pytest
import torch

DATA = os.environ.get("PYRO_DLGM_DATA")


@pytest.fixture
def data_file():
    r"""A function from a path inside the data folder to the file; it skips the test if the file is not there."""

    def find(*parts: str) -> Path:
        if DATA is None:
            pytest.skip("PYRO_DLGM_DATA is not set: it names the folder with data files")
        path = Path(DATA, *parts)
        if not path.exists():
            pytest.skip(f"PYRO_DLGM_DATA has no {path.relative_to(DATA)}")
        return path

    return find


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    r"""`compare` of the command line does rows one after the other, unless a test asks for processes."""
    monkeypatch.setattr("pyro_dlgm.comparison.workers.pool.cores", lambda: 1)


@pytest.fixture(autouse=True)
def alone():
    r"""Each test starts at one seed, with an empty parameter store, and leaves all settings as they were."""
    settings, threads = pyro.settings.get(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        yield
    pyro.settings.set(**settings)
    torch.set_num_threads(threads)
