r"""Data by name or path: what each likelihood gets, what is refused, and which networks fit."""

from functools import partial

import numpy as np
import pytest
import torch

from pyro_dlgm import data, nets
from pyro_dlgm.cli import config
from pyro_dlgm.likelihoods import LowRankNormal
from pyro_dlgm.recipes import datasets, pairs, sources

rng = np.random.default_rng(0)
BYTES = rng.integers(0, 256, (30, 5, 4), dtype=np.uint8)
BINARY = rng.integers(0, 2, (30, 6), dtype=np.uint8)
UNIT = rng.random((30, 6))
REAL = rng.standard_normal((30, 6))


@pytest.fixture
def file(tmp_path):
    r"""A function that saves an array and gives the source that it is."""

    def save(array):
        np.save(tmp_path / "v.npy", array)
        return sources.locate(tmp_path / "v.npy", None)

    return save


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    (tmp_path / "pets").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(tmp_path / "pets" / f"{i:02}.png")
    return tmp_path / "pets"


def test_a_place_is_a_name_or_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("mine.npy", UNIT)
    (tmp_path / "digits").mkdir()
    assert sources.locate("mnist", "here") == ("mnist", str(tmp_path / "here"))
    assert sources.locate("digits", None) == ("digits", None)
    assert sources.locate("mine.npy", None) == ("file", str(tmp_path / "mine.npy"))
    assert sources.locate("./digits", None) == ("folder", str(tmp_path / "digits"))
    with pytest.raises(ValueError, match="leave out --data-root"):
        sources.locate("mine.npy", "here")
    with pytest.raises(FileNotFoundError, match=r"'letters', which is not there; expected digits, .* or a folder"):
        sources.locate("letters", None)


FITS = [
    (BYTES, "bernoulli", data.Binarize()),
    (BYTES, "discretized-logistic", data.Grid(256)),
    (BYTES.astype(np.int64), "diagonal", data.Dequantize(256)),
    (BYTES, "continuous-bernoulli", data.Dequantize(256)),
    (BINARY, "bernoulli", None),
    (BINARY.astype(bool), "bernoulli", None),
    (UNIT, "bernoulli", data.Binarize()),
    (UNIT, "continuous-bernoulli", None),
    (UNIT, "low-rank", None),
    (REAL, "fixed", None),
]


@pytest.mark.parametrize(("array", "likelihood", "transform"), FITS)
def test_each_likelihood_gets_the_values_that_it_takes(file, array, likelihood, transform):
    d = datasets.dataset(*file(array), likelihood, num_test=5)
    assert d.transform == transform and len(d.train) == 25 and str(transform or "as they are") in d.protocol
    x = d.train if transform is None else d.transform(d.train)
    for values in (x, d.test):
        pairs.model(likelihood, 2, d.image_shape).check(values)
    assert set(x.unique().tolist()) == {0, 1} if likelihood == "bernoulli" else len(x.unique()) > 2


@pytest.mark.parametrize(
    ("array", "likelihood", "words"),
    [
        (BINARY, "fixed", "which are zeros and ones; use bernoulli"),
        (UNIT, "discretized-logistic", r"real values in \[0, 1\]; use fixed, .*bernoulli"),
        (REAL, "bernoulli", "which are real values; use fixed, fixed-per-pixel, diagonal, low-rank, factor-analysis"),
        (REAL, "continuous-bernoulli", "which are real values"),
        (300 * BYTES.astype(np.int64), "fixed", r"whole numbers from \d+ to \d+; expected 8 bits"),
        (-BYTES.astype(np.int64), "fixed", r"whole numbers from -\d+ to"),
        (np.where(UNIT > 0.9, np.nan, UNIT), "bernoulli", "has missing values.*, which Binarize"),
        (np.full_like(UNIT, np.nan), "fixed", "has missing values alone"),
    ],
)
def test_a_likelihood_that_does_not_fit_names_those_that_do(file, array, likelihood, words):
    with pytest.raises(ValueError, match=words):
        datasets.dataset(*file(array), likelihood)


@pytest.mark.parametrize(
    ("likelihood", "transform"), [("fixed", data.Dequantize(256)), ("discretized-logistic", data.Grid(256))]
)
def test_a_folder_becomes_images_of_the_size(folder, likelihood, transform):
    d = datasets.dataset(*sources.locate(folder, None), likelihood, size="6x4", validate=True, grey=True)
    assert d.image_shape == (1, 6, 4) and [len(p) for p in (d.train, d.val, d.test)] == [16, 2, 2]
    assert d.transform == transform and "resized to 6x4" in d.protocol and "grey" in d.protocol
    assert datasets.dataset("folder", str(folder), likelihood, size="5").image_shape == (3, 5, 5)


def test_what_does_not_fit_a_folder_is_named(folder):
    with pytest.raises(ValueError, match="give it with --size"):
        datasets.dataset("folder", str(folder), "fixed")
    with pytest.raises(ValueError, match="bernoulli does not fit"):
        datasets.dataset("folder", str(folder), "bernoulli", size="5")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        (
            "digits",
            {"size": "8", "num_test": 5},
            "--num-test, --size: not for digits|--size, --num-test: not for digits",
        ),
        ("mnist", {"split_seed": 1}, "--split-seed: not for mnist"),
        ("file", {"size": "8"}, "--size: not for a file of arrays"),
        ("file", {"grey": True}, "--grey: not for a file"),
        ("folder", {"key": "x"}, "--key: not for a folder of images"),
    ],
)
def test_options_that_do_not_apply_are_named(name, given, words):
    with pytest.raises(ValueError, match=words):
        datasets.dataset(name, "/nowhere", "fixed", **given)


def test_the_split_is_as_asked_and_does_not_move_with_validation(file):
    source = file(REAL)
    default = datasets.dataset(*source, "fixed")
    assert [len(p) for p in (default.train, default.val, default.test)] == [27, 0, 3]
    validated = datasets.dataset(*source, "fixed", validate=True)
    assert [len(p) for p in (validated.train, validated.val, validated.test)] == [24, 3, 3]
    assert torch.equal(default.test, validated.test)
    kept = datasets.dataset(*source, "fixed", num_test=4, num_val=2, split_seed="none")
    assert np.allclose(torch.cat([kept.train, kept.val, kept.test]), REAL) and len(kept.val) == 2
    other = datasets.dataset(*source, "fixed", split_seed=1)
    assert not torch.equal(other.test, default.test)
    with pytest.raises(ValueError, match="no points validate"):
        datasets.dataset(*source, "fixed", validate=True, num_val=0)


def test_colour_images_of_cifar_are_not_binarized():
    with pytest.raises(ValueError, match="bernoulli does not fit"):
        datasets.dataset("cifar10", "/nowhere", "bernoulli")


def test_a_run_of_an_older_form_is_read(file):
    name, root = file(REAL)
    options = config.options_in({"data": {"name": name, "root": root}, "recipe": {"likelihood": "fixed"}})
    assert options["name"] == root and options["data_root"] is None and options["num_test"] is None


# Networks


@pytest.mark.parametrize("likelihood", pairs.LIKELIHOODS)
@pytest.mark.parametrize("shape", [(6,), (1, 3, 9), (3, 5, 4)])
def test_points_of_any_shape_get_networks(likelihood, shape):
    m = pairs.model(likelihood, 2, shape)
    for name in pairs.GUIDES:
        q = pairs.guide(name, 2, shape)(m, 5)
        assert q(torch.zeros(5, *shape), torch.arange(5)).shape == (5, 2)
    found = {type(net) for net in m.modules() if isinstance(net, nets.Net)}
    dense = {nets.Linear} if likelihood in pairs.LINEAR else {nets.MLP}
    assert found == (dense if shape != (3, 5, 4) or likelihood in pairs.LINEAR else {nets.ConvDecoder})


def test_low_rank_has_the_rank_that_the_help_says():
    m = pairs.model("low-rank", 2, (1, 8, 8))
    assert isinstance(m.likelihood, LowRankNormal) and m.likelihood.rank == pairs.RANK
    assert m.likelihood(torch.zeros(3, 2)).factor.shape == (3, 1, 8, 8, pairs.RANK)


def test_binarization_is_as_asked_and_for_bernoulli_alone(monkeypatch):
    asked = []

    def read(root, **settings):
        asked.append(settings["binarization"])
        return data.digits()

    monkeypatch.setitem(datasets.READERS, "mnist", partial(datasets._official, read, True))
    datasets.dataset("mnist", "/somewhere", "bernoulli")
    datasets.dataset("mnist", "/somewhere", "bernoulli", binarization="static")
    datasets.dataset("mnist", "/somewhere", "fixed")
    assert asked == ["dynamic", "static", None]
    with pytest.raises(ValueError, match="binarization is for the likelihood bernoulli, and it is fixed"):
        datasets.dataset("mnist", "/somewhere", "fixed", binarization="static")
    with pytest.raises(ValueError, match="--binarization: not for digits"):
        datasets.dataset("digits", None, "fixed", binarization="static")
