r"""The estimators as scikit-learn takes them: its checks, pipelines, searches, clones, frames, dtypes, and errors."""

import pickle
import warnings

import numpy as np
import pyro
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyro_dlgm
from pyro_dlgm.sklearn import EXCEPTIONS, PPCA, DeepLatentGaussian, DLGMImputer

TINY = {"max_iter": 3, "num_samples": 3, "infer_max_iter": 3, "random_state": 0}
X = load_wine().data[:40]
quietly = pytest.mark.filterwarnings("ignore:.*(converged|not to be trusted)")


def tiny(kind=DeepLatentGaussian, **given):
    return kind(**TINY | given)


CHECKED = [PPCA(), tiny(), tiny(DLGMImputer), tiny(guide="mean-field"), tiny(DLGMImputer, guide="full-rank")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", CHECKED, ids=repr)
def test_the_checks_of_scikit_learn_pass(estimator):
    expected = EXCEPTIONS if not isinstance(estimator, PPCA) else {}
    results = check_estimator(estimator, expected_failed_checks=expected, on_fail=None)
    failed = {found["check_name"]: found["exception"] for found in results if found["status"] == "failed"}
    assert not failed and len(results) > 40
    # No exception is named that is none.
    assert {found["check_name"] for found in results if found["status"] == "xfail"} == set(expected)


def test_what_is_excepted_holds_for_all_that_is_not_drawn():
    fitted, order = tiny().fit(X), np.random.default_rng(0).permutation(len(X))
    codes = fitted.transform(X)
    assert np.allclose(codes[order], fitted.transform(X[order]), atol=1e-12)
    assert np.allclose(codes[:1], fitted.transform(X[:1]), atol=1e-12)
    assert np.array_equal(fitted.score_samples(X), fitted.score_samples(X))


@quietly
@pytest.mark.parametrize("guide", ["mean-field", "hard-em", "laplace", "amortized-full-rank", "mcem", "auto-normal"])
def test_every_guide_transforms_new_points_and_fits_in_both_dtypes(guide):
    for dtype in (np.float64,) if guide == "mcem" else (np.float32, np.float64):
        fitted = tiny(guide=guide).fit(X.astype(dtype))
        codes = fitted.transform(X[:7].astype(dtype))
        assert codes.shape == (7, 2) and codes.dtype == dtype and np.isfinite(codes).all()
        if guide in ("hard-em", "mcem"):
            with pytest.raises(TypeError, match="has no density"):
                fitted.score(X)
        else:
            assert fitted.score_samples(X[:7].astype(dtype)).dtype == dtype


def test_a_pipeline_and_a_search_over_components_score_held_out_points():
    pipe = make_pipeline(StandardScaler(), tiny())
    search = GridSearchCV(pipe, {"deeplatentgaussian__n_components": [1, 3]}, cv=2, error_score="raise").fit(X)
    assert set(search.cv_results_["param_deeplatentgaussian__n_components"]) == {1, 3}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.transform(X).shape == (40, search.best_params_["deeplatentgaussian__n_components"])


@pytest.mark.parametrize("estimator", [tiny(), tiny(DLGMImputer), tiny(guide="mean-field"), PPCA(2)], ids=repr)
@quietly
def test_clones_and_pickles(estimator):
    fitted = clone(estimator).fit(X)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(fitted.transform(X), again.transform(X))
    assert np.array_equal(fitted.score_samples(X), again.score_samples(X))
    other = clone(fitted)
    assert other.get_params() == fitted.get_params() and not hasattr(other, "model_")
    assert np.array_equal(other.fit(X).transform(X), fitted.transform(X))


def test_frames_come_back_as_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"f{j}" for j in range(13)], index=np.arange(100, 140))
    frame.iloc[0, 0] = np.nan
    codes = tiny().set_output(transform="pandas").fit_transform(frame)
    assert list(codes.columns) == ["deeplatentgaussian0", "deeplatentgaussian1"] and codes.index[0] == 100
    whole = tiny(DLGMImputer).set_output(transform="pandas").fit_transform(frame)
    assert list(whole.columns) == list(frame.columns) and not whole.isna().any().any()
    assert list(PPCA(2).fit(frame).get_feature_names_out()) == ["ppca0", "ppca1"]
    with pytest.raises(ValueError, match="feature names"):
        tiny().fit(frame).transform(frame[frame.columns[::-1]])


def test_images_go_in_and_come_out_in_their_layout():
    images = np.random.default_rng(0).random((6, 8, 8))
    flat = tiny(image_shape=(1, 8, 8)).fit(images.reshape(6, -1))
    assert flat.sample(2).shape == (2, 64)
    assert type(flat.model_.likelihood.net).__name__ == "ConvDecoder"
    for shape in ((6, 8, 8), (6, 1, 8, 8)):
        fitted = tiny(image_shape=(1, 8, 8)).fit(images.reshape(shape))
        assert fitted.inverse_transform(fitted.transform(images)).shape == shape
        assert np.array_equal(fitted.transform(images), flat.transform(images))
    assert len(np.unique(flat.units_.scale)) == 1  # one for the channel
    with pytest.raises(ValueError, match=r"expected \(N, 1, 8, 8\) or flat rows"):
        flat.transform(images.reshape(6, 4, 16))
    with pytest.raises(ValueError, match="expected 64 of them"):
        tiny(image_shape=(1, 8, 8)).fit(X)


def test_nothing_outside_is_touched():
    state, threads = np.random.get_state()[1].copy(), torch.get_rng_state()
    fitted = tiny().fit(X)
    fitted.score(X), fitted.transform(X), fitted.sample(3, random_state=0), PPCA().fit(X).sample(2, random_state=0)
    assert np.array_equal(np.random.get_state()[1], state) and torch.equal(torch.get_rng_state(), threads)
    assert not list(pyro.get_param_store().keys())
    assert pyro_dlgm.DeepLatentGaussian is DeepLatentGaussian


def test_seeds_decide():
    same, other = (tiny(random_state=seed).fit(X).transform(X) for seed in (0, 1))
    assert np.array_equal(tiny().fit(X).transform(X), same) and not np.allclose(same, other)
    fitted = tiny().fit(X)
    assert np.array_equal(fitted.sample(4, random_state=2), fitted.sample(4, random_state=2))
    assert not np.allclose(fitted.sample(4, random_state=2), fitted.sample(4, random_state=3))


def test_early_stopping_keeps_the_best_epoch_and_trains_on_the_rest():
    fitted = tiny(max_iter=200, patience=1, validation_fraction=0.25, lr=0.05, batch_size=10).fit(X)
    bounds = [record["val_elbo"] for record in fitted.history_]
    assert fitted.n_iter_ < 200 and np.argmax(bounds) == len(bounds) - 2
    assert fitted.history_[0]["step"] == 3  # batches of 10 of 30 points


INFINITE = np.where(np.arange(13) == 2, np.inf, X)
EMPTY = np.where(np.arange(13) == 2, np.nan, X)


@pytest.mark.parametrize("kind", [DeepLatentGaussian, DLGMImputer, PPCA])
def test_bad_data_are_named(kind):
    estimator = kind() if kind is PPCA else tiny(kind)
    for bad, said in ((INFINITE, "infinity"), (X[:1], "1 sample"), (EMPTY, r"columns \[2\] of X have no observed")):
        with pytest.raises(ValueError, match=said):
            clone(estimator).fit(bad)
    with pytest.raises(NotFittedError):
        estimator.transform(X)
    estimator.fit(X)
    with pytest.raises(ValueError, match="infinity"):
        estimator.transform(INFINITE)
    with pytest.raises(ValueError, match="overflow"):
        clone(estimator).fit(X * 1e200)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_components": 0}, "n_components is 0; expected a whole number"),
        ({"max_iter": 2.5}, "max_iter is 2.5; expected a whole number"),
        ({"validation_fraction": 1.0}, "expected a number in"),
        ({"likelihood": "normal"}, "likelihood is 'normal'; expected one of fixed"),
        ({"guide": "vae"}, "guide is 'vae'; expected one of hard-em"),
        ({"likelihood": "bernoulli"}, "outside the support of Bernoulli"),
        ({"likelihood": "diagonal=0-3"}, "4 columns are named"),
        ({"batch_size": 50}, "batch_size is 50 and there are 40 points"),
    ],
)
def test_bad_parameters_are_named(given, said):
    with pytest.raises(ValueError, match=said):
        tiny(**given).fit(X)
    with pytest.raises(ValueError, match="n_features = 13"):
        PPCA(13).fit(X)
    with pytest.raises(ValueError, match=r"expected codes \(N, 2\)"):
        PPCA(2).fit(X).inverse_transform(np.zeros((3, 3)))


def test_constant_columns_warn_where_their_scale_is_their_own():
    constant = np.where(np.arange(13) == 2, 3.0, X)
    with pytest.warns(UserWarning, match=r"columns \[2\] of X are constant"):
        tiny(likelihood="diagonal").fit(constant)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = tiny().fit(constant)
    assert fitted.units_.scale[2] == 1 and fitted.units_.centre[2] == 3
