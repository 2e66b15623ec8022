r"""Bad inputs through the API and the command line: each message says what was given, what was expected, what to do."""

import json
import math
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from cases import INDEX, B, D, N, amortized, conv, encoder, points, ppca
from click.testing import CliRunner
from PIL import Image

from pyro_dlgm import DLGM, PPCA, compare, data, evaluate, fit, guides, likelihoods, load, nets, objectives, priors
from pyro_dlgm.cli.main import main
from pyro_dlgm.plots import diagnostics
from pyro_dlgm.ppca.streaming import fit_streamed, mean_log_prob
from pyro_dlgm.runs.files import RunError

SHAPE = (1, 5, 7)
NAN, INF = math.nan, math.inf


def rand(*shape):
    return torch.rand(*shape)


def per_point(**names):
    return guides.MeanField(N, D, **names)


class Written(likelihoods.Likelihood):
    def __init__(self, net):
        super().__init__()
        self.net = net


def written(pixels):
    r"""p(x | t) of a likelihood whose pixels are this function of μ, or are left out."""
    parts = {} if pixels is None else {"pixels": lambda self, t: pixels(self.net(t))}
    return type("Written", (Written,), parts)(nets.Linear(2, SHAPE))(torch.zeros(B, 2))


class Of(guides.Guide):
    r"""Its posterior is what ``make(mean, scale)`` returns."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def posterior(self, x=None, index=None, mask=None):
        return self.make(torch.zeros(len(x), D), torch.ones(D))


def archive(folder):
    path = folder / "x.npz"
    np.savez(path, x=np.ones((5, 2)), labels=np.arange(5))
    return path


def strings(folder):
    path = folder / "x.npy"
    np.save(path, np.array([[1.0, "a"], [2.0, "b"]], dtype=object), allow_pickle=True)
    return path


def train(x=None, guide=None, *, likelihood="fixed", **settings):
    model = conv(likelihood=likelihood)
    x = points(model, N) if x is None else x
    guide = amortized(model) if guide is None else guide
    return fit(model, guide, x, **({"epochs": 1, "batch_size": 1} | settings))


def judge(function, guide=None, x=None, index=INDEX, *arguments, **settings):
    r"""``evaluate.function`` of a small pair."""
    x = rand(B, *SHAPE) if x is None else x
    return getattr(evaluate, function)(
        conv(), per_point() if guide is None else guide, x, index, *arguments, **settings
    )


def infer(guide=None, x=None, **settings):
    return evaluate.infer(conv(), guide or per_point(), rand(B, *SHAPE) if x is None else x, **settings)


def spoiled(value):
    x = rand(N, *SHAPE)
    x[3, 0, 2, 2] = value
    return x


def without_column():
    X = rand(20, 6)
    X[:, 2] = NAN
    return X


def file(folder, name="x.npy", shape=(10, 4)):
    np.save(folder / name, np.random.default_rng(0).random(shape))
    return folder / name


def one_class(folder, count=2):
    (folder / "only").mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8)).save(folder / "only" / f"{i}.png")
    return folder


def other_configuration(folder):
    train(out=folder / "run", seed=0, epochs=1)
    return train(out=folder / "run", seed=0, epochs=1, lr=0.5, resume=True)


def blocked(folder):
    (folder / "file").write_text("")
    return folder / "file" / "run"


class NoEvents(likelihoods.FixedNormal):
    r"""A likelihood whose pixels count as points."""

    def forward(self, t, mask=None, given=None):
        return self.pixels(t)


class Scalars(guides.Amortized):
    r"""A guide whose latents count as points."""

    def posterior(self, x=None, index=None, mask=None, given=None):
        return super().posterior(x, index, mask, given).base_dist


class Planes(guides.Amortized):
    r"""A guide whose points count as latents."""

    def posterior(self, x=None, index=None, mask=None, given=None):
        return super().posterior(x, index, mask, given).to_event(1)


def forgotten(call, shape=SHAPE, **parts):
    r"""``call`` of a pair, one of whose parts forgets ``to_event``, or has one too many."""
    model = DLGM(priors.StandardNormal(D), parts.get("likelihood", likelihoods.FixedNormal)(nets.MLP(D, shape, (4,))))
    net = encoder(model) if shape is SHAPE else nets.MLP(shape, 12, (4,))
    return call(model, parts.get("guide", guides.Amortized)(net, D), rand(B, *shape))


# (what, call, what was given | what was expected | what to do)
WRONG = [
    (
        "pixels-with-events",
        lambda: written(lambda mu: pyro.distributions.Normal(mu, 1.0).to_event(3)),
        "Written.pixels returned batch shape (4,) and event shape (1, 5, 7) | expected batch shape (..., 1, 5, 7) | "
        "leave out to_event",
    ),
    (
        "pixels-flat",
        lambda: written(lambda mu: pyro.distributions.Normal(mu.flatten(-3), 1.0)),
        "batch shape (4, 35) and event shape () | expected batch shape (..., 1, 5, 7) | keep the axes of a point",
    ),
    # The shape of x
    ("fit-channels", lambda: train(rand(N, 3, 5, 7)), "(10, 3, 5, 7) | points of shape (1, 5, 7) | reshape"),
    (
        "fit-channels-last",
        lambda: train(rand(N, 5, 7, 1)),
        "(10, 5, 7, 1) | of shape (1, 5, 7) | x.movedim(-1, 1)",
    ),
    ("fit-no-channel", lambda: train(rand(N, 5, 7)), "(10, 5, 7) | points of shape (1, 5, 7) | reshape x"),
    ("fit-transposed", lambda: train(rand(N, 1, 7, 5)), "(10, 1, 7, 5) | (B, 1, 5, 7) | reshape x"),
    ("fit-val-shape", lambda: train(x_val=rand(3, 1, 7, 5)), "(3, 1, 7, 5) | (B, 1, 5, 7) | reshape x"),
    ("weights-shape", lambda: judge("elbo", x=rand(B, 1, 5, 5)), "(4, 1, 5, 5) | (B, 1, 5, 7) | reshape"),
    (
        "reconstruct-shape",
        lambda: judge("reconstruct", x=rand(B, 1, 5, 5)),
        "x has shape (4, 1, 5, 5) | expected (4, 1, 5, 7) | reshape x",
    ),
    (
        "encoder-shape",
        lambda: amortized(conv())(rand(B, 1, 8, 8)),
        "got points of shape (1, 8, 8) (a batch (4, 1, 8, 8)) | expected points of shape (1, 5, 7) | build",
    ),
    ("ppca-one-column", lambda: ppca().log_prob(rand(B, 1)), "(4, 1) | expected (B, 6) | x.flatten(1)"),
    ("ppca-fit-images", lambda: PPCA.fit(rand(9, 1, 3, 3), 2), "(9, 1, 3, 3) | (N, P) | X.flatten(1)"),
    # That of a distribution
    (
        "likelihood-no-events",
        lambda: forgotten(partial(fit, steps=1), likelihood=NoEvents),
        "NoEvents returned batch shape (1, 1, 5, 7) | expected batch shape (1,) | p.to_event(3)",
    ),
    (
        "likelihood-no-events-of-rows",
        lambda: forgotten(partial(fit, steps=1), (6,), likelihood=NoEvents),
        "NoEvents returned batch shape (1, 6) | expected batch shape (1,) | p.to_event(1)",
    ),
    (
        "guide-points-as-events",
        lambda: forgotten(partial(fit, steps=1), guide=Planes),
        "Planes.posterior returned batch shape () and event shape (4, 3) | expected (B,) and (D,) | for each point",
    ),
    (
        "guide-no-events",
        lambda: forgotten(partial(fit, steps=1), guide=Scalars),
        "Scalars.posterior returned batch shape (4, 3) | expected (B,) and (D,) | q.to_event(1)",
    ),
    (
        "guide-no-events-judged",
        lambda: forgotten(evaluate.elbo, guide=Scalars),
        "Scalars.posterior returned batch shape (4, 3) | expected (B,) and (D,) | q.to_event(1)",
    ),
    # Its type
    ("fit-whole", lambda: train(torch.ones(N, *SHAPE).long()), "torch.int64 | real numbers | x.float()"),
    ("fit-bytes", lambda: train(torch.ones(N, *SHAPE).byte()), "torch.uint8 | real numbers | data.Grid"),
    (
        "fit-whole-binary",
        lambda: train(torch.ones(N, *SHAPE).long(), per_point(), likelihood="bernoulli"),
        "torch.int64 | expected real numbers | x.float()",
    ),
    (
        "fit-bool-binary",
        lambda: train(rand(N, *SHAPE) < 0.5, per_point(), likelihood="bernoulli"),
        "torch.bool | expected real numbers | x.float()",
    ),
    ("fit-complex", lambda: train(rand(N, *SHAPE) + 0j), "torch.complex64 | real numbers | x.float()"),
    ("fit-half", lambda: train(rand(N, *SHAPE).half()), "torch.float16 | model has torch.float32 | x.to("),
    (
        "fit-double-per-point",
        lambda: train(rand(N, *SHAPE).double(), per_point()),
        "x has dtype torch.float64 | this model has torch.float32 | model.to(torch.float64)",
    ),
    (
        "weights-double",
        lambda: judge("elbo", amortized(conv()), rand(B, *SHAPE).double()),
        "torch.float64 | expected torch.float32 | use .to(",
    ),
    (
        "weights-numpy",
        lambda: judge("elbo", x=np.zeros((B, *SHAPE))),
        "x is a ndarray | expected a tensor | torch.as_tensor(x)",
    ),
    ("ppca-whole", lambda: PPCA.fit(torch.ones(9, 6).long(), 2), "torch.int64 | floating | X.double()"),
    ("ppca-double", lambda: ppca().log_prob(rand(B, 6).double()), "torch.float64 | torch.float32 | x.to("),
    ("streamed-tensor", lambda: fit_streamed(rand(9, 6), 2), "X is Tensor | NumPy array | numpy.load"),
    # Its range
    ("fit-grey", lambda: train(rand(N, *SHAPE), likelihood="bernoulli"), "rows [0,  | Bernoulli | Binarize"),
    (
        "fit-8-bit",
        lambda: train(255 * rand(N, *SHAPE), likelihood="continuous_bernoulli"),
        "x goes from | outside the support of ContinuousBernoulli | choose a likelihood",
    ),
    (
        "fit-off-the-grid",
        lambda: train(spoiled(0.51), likelihood="logistic"),
        "x goes from | outside the support of DiscretizedLogistic | data.Grid",
    ),
    (
        "bytes-on-the-grid",
        lambda: conv(likelihood="logistic").log_joint(torch.full((B, *SHAPE), 16).byte(), rand(B, D)),
        "x goes from 16 to 16 | outside the support of DiscretizedLogistic | data.Grid",
    ),
    ("fit-nan", lambda: train(spoiled(NAN)), "not finite in rows [3] | expected numbers | mask them"),
    ("fit-inf", lambda: train(spoiled(INF)), "not finite in rows [3] | expected numbers | drop the rows"),
    ("model-nan", lambda: conv()(spoiled(NAN)), "in rows [3], NaN or infinite | expected finite numbers | mask them"),
    (
        "weights-inf",
        lambda: judge("elbo", x=spoiled(INF)[:B]),
        "in rows [3], NaN or infinite | expected finite numbers | mask them",
    ),
    ("ppca-nan", lambda: ppca().log_prob(rand(B, 6) * NAN), "NaN | finite numbers | mask=~x.isnan()"),
    ("ppca-inf", lambda: PPCA.fit(rand(9, 6) / 0, 2), "infinite entries | expected numbers | NaN for missing"),
    (
        "grid-values",
        lambda: data.Grid(256).check(torch.tensor([256])),
        "from 256 to 256 | 0..255 | choose other levels",
    ),
    # Too few points
    ("fit-empty", lambda: train(rand(0, *SHAPE)), "(0, 1, 5, 7) | there are no points | at least one"),
    ("model-empty", lambda: conv()(rand(0, *SHAPE)), "got 0 points | expected | at least 1"),
    ("weights-empty", lambda: judge("elbo", x=rand(0, *SHAPE), index=INDEX[:0]), "(0, 1, 5, 7) | B >= 1 | x"),
    ("ppca-one-point", lambda: PPCA.fit(rand(1, 6), 2), "(1, 6) | N >= 2 | use X"),
    ("ppca-few-points", lambda: PPCA.fit(rand(3, 6), 4), "4 directions | no variance | choose fewer latents"),
    ("ppca-constant", lambda: PPCA.fit(torch.ones(9, 6), 2), "2 directions | no variance | fewer latents"),
    ("ppca-unseen-column", lambda: PPCA.fit(without_column(), 2), "columns [2] | no observed | drop them"),
    # The index
    ("index-left-out", lambda: judge("elbo", index=None), "got no index | which rows | torch.arange(n)"),
    ("index-too-large", lambda: judge("elbo", index=INDEX + 1), "from 1 to 10 | 0..9 | evaluate.infer"),
    ("index-negative", lambda: judge("elbo", index=INDEX - 1), "from -1 to 8 | 0..9 | evaluate.infer"),
    ("index-real", lambda: judge("elbo", index=INDEX.float()), "torch.float32 | torch.int64 | .long()"),
    ("index-bool", lambda: judge("elbo", index=INDEX > 3), "torch.bool | torch.int64 | .long()"),
    ("index-list", lambda: judge("elbo", index=[0, 1, 2, 3]), "list | torch.int64 | torch.as_tensor(index)"),
    ("index-shape", lambda: per_point()(None, INDEX.reshape(2, 2)), "(2, 2) | (B,) | index.flatten()"),
    ("index-short", lambda: judge("elbo", index=INDEX[:3]), "4 points and index 3 | one index | each point"),
    ("index-of-model", lambda: conv()(rand(B, *SHAPE), INDEX.float()), "float32 | torch.int64 | .long()"),
    # The number of points
    (
        "size",
        lambda: per_point()(None, INDEX, size=12),
        "rows for 10 points | there are 12 (size=12) | make the guide for 12",
    ),
    (
        "size-of-fit",
        lambda: train(guide=guides.MeanField(12, D)),
        "rows for 12 points | there are 10 (size=10) | make the guide for 10",
    ),
    ("size-of-auto", lambda: train(guide=guides.auto(conv(), "AutoNormal", 9)), "size=10 | 9 points | make the guide"),
    ("size-below-batch", lambda: conv()(rand(B, *SHAPE), size=3), "batch of 4 | size=3 | number of all"),
    ("no-size", lambda: conv()(), "without x, index or size | expected one | give x, or size=n"),
    ("batch-size", lambda: train(batch_size=N + 1), "batch_size is 11 | 10 points | at most"),
    # Latents: model against guide
    ("latents-per-point", lambda: train(guide=guides.MeanField(N, 2)), "(1, 2) | (..., 3) | latent_dim=3"),
    ("latents-point", lambda: train(guide=guides.PointEstimate(N, 4)), "(1, 4) | (..., 3) | latent_dim=3"),
    (
        "latents-amortized",
        lambda: train(guide=guides.Amortized(encoder(conv()), 2)),
        "t has shape (1, 2) | expected codes (..., 3) | build the guide with latent_dim=3",
    ),
    ("latents-judged", lambda: judge("elbo", guides.FullRank(N, 2)), "(100, 4, 2) | (..., 3) | latent_dim=3"),
    ("latent-name", lambda: train(guide=per_point(latent="z")), "samples 'z' | expected 't' | latent='t'"),
    ("latent-name-infer", lambda: infer(per_point(latent="z")), "samples 'z' | expected 't' | latent='t'"),
    ("ppca-latents", lambda: PPCA.fit(rand(9, 6), 6), "latent_dim is 6 | 1 <= latent_dim | < P = 6"),
    ("streamed-latents", lambda: fit_streamed(np.ones((9, 6)), 6), "is 6 | 1 <= latent_dim | < P = 6"),
    # Masks
    ("mask-shape", lambda: train(mask=torch.ones(N, 5, 7).bool()), "(10, 5, 7) | (10, 1, 5, 7) | reshape it"),
    ("mask-type", lambda: train(mask=torch.ones(N, *SHAPE)), "torch.float32 | torch.bool | mask.bool()"),
    ("mask-list", lambda: judge("elbo", mask=[True] * B), "list | expected torch.bool | mask.bool()"),
    (
        "mask-long",
        lambda: infer(mask=torch.ones(B + 1).bool(), window=2, max_steps=4),
        "mask has shape (5,) | expected x's shape (4, 1, 5, 7) | whole points",
    ),
    ("mask-impute", lambda: judge("impute", mask=rand(B, 1, 7, 5) < 1), "(4, 1, 7, 5) | (4, 1, 5, 7) | reshape"),
    ("mask-none", lambda: judge("impute"), "mask is None | boolean mask | ~x.isnan()"),
    ("mask-ppca", lambda: ppca().posterior(rand(B, 6), rand(3) < 1), "(3,) | (4, 6) | reshape it"),
    # Names
    ("guide-family", lambda: guides.Amortized(encoder(conv()), D, "iaf"), "'iaf' | expected one of | full_rank"),
    ("auto-name", lambda: guides.auto(conv(), "AutoIAFNormal", N), "AutoIAFNormal | AutoNormal | or use Mean"),
    ("schedule", lambda: train(schedule="step"), "'step' | 'cosine' | or a function"),
    ("binarization", lambda: data.mnist("x", binarization="on"), "'on' | expected one of | 'dynamic'"),
    # Pairs that do not go together
    ("encoder-width", lambda: guides.Amortized(torch.nn.Flatten(), D), "Flatten | how many features | give it"),
    (
        "one-head",
        lambda: likelihoods.DiagonalNormal(nets.Linear(2, 3)),
        "1 heads | expected two, for μ and σ | heads=2",
    ),
    ("two-heads", lambda: likelihoods.Bernoulli(nets.Linear(2, 3, heads=2)), "2 heads | one | heads=1"),
    ("rank-heads", lambda: likelihoods.LowRankNormal(nets.Linear(2, 3), 3), "1 heads | 2 + rank = 5 | heads=5"),
    (
        "foreign-heads",
        lambda: likelihoods.DiagonalNormal(torch.nn.Linear(2, 3))(rand(2, 2)),
        "1 heads | expected two | heads=2",
    ),
    (
        "scale-shape",
        lambda: likelihoods.FixedNormal(nets.Linear(2, 3), torch.ones(5, 3)),
        "scale has shape (5, 3) | x's shape (3,) | one σ",
    ),
    ("rows-shape", lambda: guides.MeanField(3, 2).set_rows(torch.zeros(4)), "(4,) | expected (3, 4) | family"),
    ("small-image", lambda: nets.ConvDecoder(2, (1, 3, 9)), "3x9 | at least 4x4 | use nets.MLP"),
    ("image-shape", lambda: nets.ConvEncoder((5, 7)), "(5, 7) | expected (C, H, W) | C = 1"),
    (
        "ppca-sigma2",
        lambda: ppca().set(torch.zeros(6, 2), torch.zeros(6), torch.tensor(0.0)),
        "sigma2 is 0 | variance > 0 | fewer latents",
    ),
    ("streamed-features", lambda: mean_log_prob(ppca(), np.ones((5, 7))), "(5, 7) | 6 features | expected (N"),
    # When it is called
    ("patience", lambda: train(patience=2), "patience is 2 | no validation points | give x_val"),
    ("epochs-and-steps", lambda: train(steps=3), "epochs is 1 and steps is 3 | expected | exactly one"),
    ("epochs-real", lambda: train(epochs=1.5), "epochs is 1.5 | a whole number | at least 1"),
    ("lr-text", lambda: train(lr="0.1"), "lr is '0.1' | a finite number | > 0"),
    ("device-name", lambda: train(device="tpu9"), "device is 'tpu9' | expected | 'cpu'"),
    ("resume-nowhere", lambda: train(resume=True), "resume is True and out is None | expected the folder | out="),
    (
        "mask-of-nothing",
        lambda: train(mask_val=torch.ones(3).bool()),
        "mask_val was given without x_val | expected both | give the validation points",
    ),
    (
        "binarize-beyond-one",
        lambda: train(x=3 * rand(N, *SHAPE) + 1, likelihood="bernoulli", transform=data.Binarize()),
        "values go from | Binarize expects | [0, 1]",
    ),
    ("few-weights", lambda: evaluate.pareto_k(rand(5, 3)), "5 weights | at least 25 | tail of 5"),
]

# The same, with the exception where it is no `ValueError`.
OTHERS = [
    (
        "exact-conv",
        lambda: guides.Exact(conv()),
        TypeError,
        "no closed-form posterior | such as PPCA | choose another guide",
    ),
    (
        "weights-of-a-point",
        lambda: judge("log_weights", guides.PointEstimate(N, D)),
        TypeError,
        "PointEstimate is a point mass | no density | evaluate.log_joint",
    ),
    ("infer-function", lambda: infer(lambda x, index: None), TypeError, "function | where q starts | guides.MeanField"),
    (
        "reconstruct-function",
        lambda: judge("reconstruct", lambda x, i: None),
        TypeError,
        "function | posterior | use a guide",
    ),
    (
        "score-function",
        lambda: objectives.ELBO().loss(scored, scored, rand(B)),
        NotImplementedError,
        "Unreparametrized | no reparametrized samples | use objectives.Trace_ELBO",
    ),
    (
        "infer-inference-mode",
        torch.inference_mode()(infer),
        RuntimeError,
        "inference_mode() | needs gradients | leave it",
    ),
    ("fit-array", lambda: train([[0.5]] * N), TypeError, "x is a list | expected a tensor | as_tensor(x)"),
    (
        "fit-class",
        lambda: train(guide=guides.MeanField),
        TypeError,
        "guide is the class MeanField | instance | make one",
    ),
    ("objective-class", lambda: train(objective=objectives.ELBO), TypeError, "the class ELBO | an instance | make one"),
    (
        "prior-class",
        lambda: DLGM(priors.StandardNormal, conv().likelihood),
        TypeError,
        "prior is the class StandardNormal | expected a module | DLGM(priors",
    ),
    ("prior-number", lambda: DLGM(2, conv().likelihood), TypeError, "prior is a int | expected a module | DLGM(priors"),
    (
        "prior-after-likelihood",
        lambda: DLGM(conv().likelihood, conv().prior),
        TypeError,
        "prior is FixedNormal | a likelihood | DLGM(prior, likelihood)",
    ),
    (
        "compare-guide",
        lambda: compare(conv, {"mine": amortized(conv())}, rand(N, *SHAPE), rand(B, *SHAPE)),
        TypeError,
        "guide_factories['mine'] is a Amortized | expected a function | lambda model, N: Amortized(...)",
    ),
    (
        "compare-model",
        lambda: compare(conv(), {}, rand(N, *SHAPE), rand(B, *SHAPE)),
        TypeError,
        "model_factory is a DLGM | expected a function | lambda: DLGM(...)",
    ),
    (
        "pixels-missing",
        lambda: written(None),
        NotImplementedError,
        "Written has no pixels(t) | expected a method | pyro.distributions.Normal(",
    ),
    (
        "pixels-tensor",
        lambda: written(lambda mu: mu),
        TypeError,
        "Written.pixels returned a torch.Tensor | expected a distribution | pyro.distributions have",
    ),
    (
        "pixels-of-torch",
        lambda: written(lambda mu: torch.distributions.Normal(mu, 1.0)),
        TypeError,
        "Written.pixels returned a torch.distributions.normal.Normal | expected | pyro.distributions have",
    ),
    (
        "posterior-missing",
        lambda: guides.Guide().posterior(rand(B, *SHAPE)),
        NotImplementedError,
        "Guide has no posterior(x, index, mask) | expected a method | to_event(1)",
    ),
    (
        "posterior-of-torch",
        lambda: Of(torch.distributions.Normal).posterior(rand(B, *SHAPE)),
        TypeError,
        "Of.posterior returned a torch.distributions.normal.Normal | expected | pyro.distributions have",
    ),
    (
        "posterior-tensor",
        lambda: Of(torch.add).posterior(rand(B, *SHAPE)),
        TypeError,
        "Of.posterior returned a torch.Tensor | expected | pyro.distributions have",
    ),
    (
        "calibration-of-none",
        lambda: diagnostics.calibration(None),
        TypeError,
        "found is a NoneType | evaluate.check_calibration | num_simulated > 0",
    ),
    ("latents-of-none", lambda: diagnostics.latents(None), TypeError, "found is a NoneType | expected | diagnose("),
    ("arrays-array", lambda: data.arrays(np.ones((5, 2)), num_test=1), TypeError, "a ndarray | path of a file | fit"),
    (
        "fit-inference-mode",
        torch.inference_mode()(train),
        RuntimeError,
        "inference_mode() | needs gradients | leave it",
    ),
]

# The same, with calls that take an empty folder.
FILES = [
    (
        "no-file",
        lambda folder: data.arrays(folder / "x.npy", num_test=2),
        FileNotFoundError,
        "x.npy | expected one | .npz",
    ),
    (
        "labels-of-another-name",
        lambda folder: data.arrays(archive(folder), "x", labels="label", num_test=1),
        ValueError,
        "labels is 'label' | holds 'x', 'labels' | give one of them",
    ),
    (
        "given-of-another-name",
        lambda folder: data.arrays(archive(folder), "x", labels="labels", given="c", num_test=1),
        ValueError,
        "given is 'c' | holds 'x', 'labels' | give one of them",
    ),
    (
        "column-of-strings",
        lambda folder: data.arrays(strings(folder), num_test=1),
        ValueError,
        "cannot be read as arrays alone | a column of strings | number the strings",
    ),
    ("no-run", lambda folder: load(folder), RunError, "is not a run | it has no | config.json"),
    (
        "no-images",
        lambda folder: data.images(folder, size=8, num_test=1),
        FileNotFoundError,
        "no image | expected | .png",
    ),
    (
        "no-mnist",
        lambda folder: data.mnist(folder),
        FileNotFoundError,
        "no MNIST under | give the folder | download=True",
    ),
    (
        "nothing-left-to-train",
        lambda folder: data.arrays(file(folder), num_test=10),
        ValueError,
        "num_test is 10 of 10 | num_test >= 1 | at least one point left",
    ),
    (
        "one-class-nothing-left",
        lambda folder: data.images(one_class(folder), size=8, num_test=2),
        ValueError,
        "num_test is 2 of 2 | num_test >= 1 | at least one point left",
    ),
    ("other-configuration", other_configuration, RunError, "fit.lr was 0.002 | now 0.5 | another configuration"),
    (
        "unwritable",
        lambda folder: train(out=blocked(folder)),
        RunError,
        "cannot write to | Not a directory | choose another",
    ),
]

# (what, call, what was given | the range that was expected): the range says what to do.
OUT_OF_RANGE = [
    ("lr-0", lambda: train(lr=0), "lr is 0 | finite number > 0"),
    ("lr-inf", lambda: train(lr=INF), "lr is inf | finite number > 0"),
    ("row-lr-nan", lambda: train(row_lr=NAN), "row_lr is nan | finite number > 0"),
    ("epochs-0", lambda: train(epochs=0), "epochs is 0 | at least 1"),
    ("steps-negative", lambda: train(epochs=None, steps=-1), "steps is -1 | at least 1"),
    ("warmup-negative", lambda: train(warmup=-1), "warmup is -1 | >= 0"),
    ("batch-0", lambda: train(batch_size=0), "batch_size is 0 | at least 1"),
    ("clip-negative", lambda: train(clip_norm=-1), "clip_norm is -1 | > 0"),
    ("samples-0", lambda: judge("log_weights", None, None, INDEX, 0), "num_samples is 0 | at least 1"),
    ("samples-0-joint", lambda: judge("log_joint", None, None, INDEX, 0), "num_samples is 0 | at least 1"),
    ("samples-0-mean", lambda: judge("reconstruct", num_samples=0), "num_samples is 0 | at least 1"),
    ("particles-0", lambda: objectives.ELBO(0), "num_particles is 0 | at least 1"),
    ("particles-0-infer", lambda: infer(num_particles=0), "num_particles is 0 | > 0"),
    ("lr-inf-infer", lambda: infer(lr=INF), "lr is inf | finite number > 0"),
    ("beta-nan", lambda: objectives.ELBO(beta=NAN), "beta is nan | >= 0"),
    ("beta-negative", lambda: objectives.Tempered(-1), "beta is -1 | >= 0"),
    ("generate-0", lambda: conv()(size=0), "got 0 points | at least 1"),
    ("generate-half", lambda: conv()(size=2.5), "got 2.5 points | whole number"),
    ("rows-0", lambda: guides.MeanField(0, D), "num_points is 0 | both >= 1"),
    ("auto-0", lambda: guides.auto(conv(), "AutoNormal", 0), "num_points is 0 | at least 1"),
    ("scale-0", lambda: guides.MeanField(N, D, init_scale=0), "init_scale is 0 | > 0"),
    ("scale-nan", lambda: guides.Amortized(encoder(conv()), D, init_scale=NAN), "init_scale is nan | > 0"),
    ("latents-0", lambda: guides.Amortized(encoder(conv()), 0), "latent_dim is 0 | at least 1"),
    ("prior-0", lambda: priors.StandardNormal(0), "latent_dim is 0 | at least 1"),
    ("heads-0", lambda: DLGM(priors.StandardNormal(2), nets.Linear(2, 3, heads=0)), "0 heads | at least 1"),
    ("sigma-below-floor", lambda: likelihoods.FixedNormal(nets.Linear(2, 3), 1e-4), "0.0001 | scale > floor"),
    ("floor-nan", lambda: likelihoods.DiagonalNormal(nets.Linear(2, 3, heads=2), floor=NAN), "floor is nan | >= 0"),
    (
        "levels-1",
        lambda: likelihoods.DiscretizedLogistic(nets.Linear(2, 3, heads=2), levels=1),
        "levels is 1 | least 2",
    ),
    ("rank-0", lambda: likelihoods.LowRankNormal(nets.Linear(2, 3, heads=2), 0), "rank is 0 | at least 1"),
    ("chunk-0", lambda: fit_streamed(np.ones((9, 6)), 2, chunk=0), "chunk is 0 | at least 1"),
]

# (arguments, what was given | what was expected | what to do)
COMMANDS = [
    ("fit --data letters --out OUT", "data is 'letters' | expected digits | a folder of images"),
    ("fit --guide meanfield", "'meanfield' | is not one of | 'mean-field'"),
    ("fit --likelihood gauss", "'gauss' | is not one of | 'diagonal'"),
    ("fit --schedule step", "'step' | is not one of | 'cosine'"),
    ("compare --guides amortised", "amortised | expected some of | amortized"),
    ("fit --latents 0", "--latents | 0 is not in the range | x>=1"),
    ("compare --latents 64", "--latents | 64 is not in the range | 1<=x<=63"),
    ("fit --epochs two", "'two' | not a valid integer | --epochs"),
    ("fit --lr 0", "--lr | 0.0 is not in the range | x>0"),
    ("fit --lr inf --out OUT", "lr is inf | expected | finite number > 0"),
    ("fit --warmup -1", "--warmup | -1 is not in the range | x>=0"),
    ("fit --seed -1", "--seed | -1 is not in the range | x>=0"),
    ("fit --likelihood bernoulli --out OUT", "digits | grey values | use fixed"),
    ("fit --data mnist --data-root OUT --out OUT", "no MNIST under | give the folder | unpacked"),
    ("fit --out RUN", "RUN | holds a run already | choose another folder"),
    ("fit --out RUN --resume --lr 0.5", "fit.lr was 0.002 | now 0.5 | another configuration"),
    ("fit --out RUN/config.json/x", "cannot write to | Not a directory | choose another folder"),
    ("evaluate OUT", "OUT | is not a run | config.json"),
    ("evaluate RUN --iwae 5", "--iwae | 5 is not in the range | x>=25"),
    ("sample OUT --out x.png", "OUT | is not a run | config.json"),
    ("sample RUN --num 0", "--num | 0 is not in the range | x>=1"),
    ("sample RUN --out RUN/config.json/x.png", "cannot write | Not a directory | config.json"),
]


def scored(x):
    pyro.sample("t", Unreparametrized())


class Unreparametrized(pyro.distributions.Normal):
    has_rsample = False

    def __init__(self):
        super().__init__(0.0, 1.0)


def ids(rows):
    return [row[0].replace(" ", "_") for row in rows]


def check(exception, said: str, call, *arguments) -> None:
    with pytest.raises(exception) as caught:
        call(*arguments)
    for part in said.split(" | "):
        assert part in str(caught.value)


@pytest.mark.filterwarnings("ignore:Found:UserWarning")
@pytest.mark.parametrize(("what", "call", "said"), WRONG, ids=ids(WRONG))
def test_a_wrong_input_is_named_with_the_way_out(what, call, said):
    check(ValueError, said, call)


def test_fit_counts_rows_before_pyro_adds_its_trace_to_the_error():
    with pytest.raises(ValueError) as error:
        train(guide=guides.MeanField(12, D))
    assert str(error.value).endswith("make the guide for 10 points")


@pytest.mark.parametrize(("what", "call", "exception", "said"), OTHERS, ids=ids(OTHERS))
def test_a_wrong_use_is_named_with_the_way_out(what, call, exception, said):
    check(exception, said, call)


@pytest.mark.parametrize(("what", "call", "exception", "said"), FILES, ids=ids(FILES))
def test_a_wrong_file_is_named_with_the_way_out(what, call, exception, said, tmp_path):
    check(exception, said, call, tmp_path)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(("what", "call", "said"), OUT_OF_RANGE, ids=ids(OUT_OF_RANGE))
def test_a_number_out_of_range_is_named_with_its_range(what, call, said):
    check(ValueError, said, call)


def test_each_message_has_three_parts():
    assert all(row[-1].count(" | ") == 2 for row in (*WRONG, *OTHERS, *FILES, *COMMANDS))
    assert all(row[-1].count(" | ") == 1 for row in OUT_OF_RANGE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    r"""A run of one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "RUN"
    arguments = ["fit", "--epochs", "1", "--latents", "2", "--likelihood", "factor-analysis", "--out", str(folder)]
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    return folder


@pytest.mark.parametrize(("line", "said"), COMMANDS, ids=ids(COMMANDS))
def test_a_wrong_command_gets_one_line_and_status_2(line, said, run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = [a.replace("RUN", str(run)).replace("OUT", str(tmp_path / "OUT")) for a in line.split()]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    for part in said.split(" | "):
        assert part in result.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for CUDA where there is none")
@pytest.mark.parametrize("command", ["fit --out OUT", "evaluate RUN"])
def test_cuda_where_there_is_none_gets_one_line_and_status_2(command, run, tmp_path):
    test_a_wrong_command_gets_one_line_and_status_2(
        f"{command} --device cuda", "sees 0 CUDA devices | use | --device cpu", run, tmp_path
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none_is_named_by_fit():
    check(ValueError, "device is 'cuda' | torch sees 0 CUDA devices | 'cpu'", lambda: train(device="cuda"))


def test_a_refused_configuration_leaves_the_run_as_it_was(tmp_path):
    with pytest.raises(RunError, match="another configuration"):
        other_configuration(tmp_path)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["fit"]["lr"] == 2e-3
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_one_class_needs_no_second_one(tmp_path):
    dataset = data.images(one_class(tmp_path), size=8, num_test=1)
    assert len(dataset.train) == len(dataset.test) == 1 and dataset.train_labels.tolist() == [0]


def test_one_constant_column_is_no_error():
    X = torch.rand(20, 6)
    X[:, 0] = 1
    fitted = PPCA.fit(X, 2)
    assert fitted.log_prob(X).isfinite().all() and fitted.W[0].abs().max() < 1e-6


def test_one_point_is_enough_for_a_step():
    result = train(rand(1, *SHAPE))
    assert math.isfinite(result.history[-1]["elbo"])


class OfCodesAlone(torch.nn.Module):
    def forward(self, t):
        return pyro.distributions.Normal(t, 1.0).to_event(1)


class OfWhatIsGiven(torch.nn.Module):
    def forward(self, t, given=None):
        return pyro.distributions.Normal(t, 1.0).to_event(1)


@pytest.mark.parametrize("likelihood", [OfCodesAlone(), OfWhatIsGiven(), torch.nn.Linear(2, 2)])
def test_a_likelihood_that_takes_no_mask_is_refused_before_it_takes_it_for_something_else(likelihood):
    with pytest.raises(TypeError, match=r"takes \(.*\); expected forward\(t, mask=None\)"):
        DLGM(priors.StandardNormal(2), likelihood)
