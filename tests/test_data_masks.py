r"""What stands under a mask never reaches a transform, its check, or a picture of the first points."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_dlgm import DLGM, Points, data, fit, guides, likelihoods, nets, priors

N, P = 12, 6
HIDDEN = [float("nan"), float("inf"), -1.0, 7.0]
rng = torch.Generator().manual_seed(0)
PIXELS = torch.rand(N, P, generator=rng) > 0.3
MASKS = {
    "pixels": PIXELS,
    "rows": torch.arange(N) % 3 > 0,
    "all but one": torch.arange(N) == 5,
    "none": torch.zeros(N) > 0,
}


class Strict:
    r"""Creates the binarization that refuses what is no probability, and keeps what it was given."""

    def __init__(self):
        self.seen, self.checked = [], []

    def check(self, x):
        data.Binarize().check(x)
        self.checked.append(x)

    def __call__(self, x):
        assert x.isfinite().all() and x.min() >= 0 and x.max() <= 1
        self.seen.append(x)
        return data.Binarize()(x)


def spoiled(mask, hidden):
    x = torch.rand(N, P, generator=torch.Generator().manual_seed(1))
    return torch.where(mask if mask.dim() == 2 else mask.unsqueeze(1), x, torch.tensor(hidden))


def pair():
    p = DLGM(priors.StandardNormal(2), likelihoods.Bernoulli(nets.MLP(2, (P,), (4,))))
    return p, guides.Amortized(nets.MLP((P,), 4, (4,)), 2)


def weights(model):
    return torch.cat([w.flatten() for w in model.parameters()])


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_training_does_not_depend_on_what_the_mask_hides(mask):
    found = []
    for hidden in (0.0, *HIDDEN):
        torch.manual_seed(0)
        model, guide = pair()
        transform = Strict()
        fit(model, guide, spoiled(mask, hidden), mask=mask, steps=6, batch_size=4, transform=transform, seed=0)
        assert len(transform.checked) > 0 and len(transform.seen) >= 6
        found.append(weights(model))
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_batches_and_their_first_points_hide_it(mask, hidden):
    x = spoiled(mask, hidden)
    batches = data.Batches(x, 5, mask=mask, transform=Strict())
    source = data.Source(
        lambda: (Points(x, torch.arange(N), mask)[i] for i in torch.arange(N).split(5)), N, transform=Strict()
    )
    for made in (batches, source):
        for points in (*made, made.first(4)):
            gone = ~points.mask if points.mask.dim() == 2 else ~points.mask.unsqueeze(1).expand(-1, P)
            assert set(points.x.unique().tolist()) <= {0.0, 1.0} and (points.x[gone] == 0).all()


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("mask", ["pixels", "rows"])
def test_a_source_and_tensorboard_hide_it(tmp_path, mask, out):
    m, transform = MASKS[mask], Strict()
    x = spoiled(m, float("nan"))

    def source():
        return (Points(x, torch.arange(N), m)[i] for i in torch.arange(N).split(4))

    settings = {"steps": 3, "transform": transform}
    fit(*pair(), source, size=N, out=tmp_path / "source" if out else None, **settings)
    fit(*pair(), x, mask=m, out=tmp_path / "tensor" if out else None, **settings)


@pytest.mark.parametrize("transform", [data.Dequantize(4), data.Grid(4), data.Threshold(2)])
@pytest.mark.parametrize("missing", [-1, 200])
def test_whole_numbers_hide_it(transform, missing):
    v = torch.randint(0, 4, (N, P), generator=torch.Generator().manual_seed(1))
    v = torch.where(PIXELS, v, missing)
    fit(*pair()[:1], guides.MeanField(N, 2), v, mask=PIXELS, steps=2, transform=lambda x: (transform(x) > 0.5).float())
    data.Dequantize(4).check(Points(v, mask=PIXELS).observed())
    for points in data.Batches(v, 5, mask=PIXELS, transform=transform):
        assert (points.x >= 0).all() and (points.x <= 1).all()
    with pytest.raises(ValueError, match="values go from"):
        data.Dequantize(4).check(v)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_streamed_images_hide_it(tmp_path, num_workers):
    for i in range(N + 1):
        Image.fromarray(np.full((2, 3), 200, dtype="u1")).save(tmp_path / f"{i}.png")
    d = data.images(tmp_path, size=(2, 3), channels=1, num_test=1, streamed=True, num_workers=num_workers)
    for mask in (MASKS["rows"], PIXELS.reshape(N, 1, 2, 3)):
        for points in data.Batches(d.train, 5, mask=mask, transform=lambda x: x.float()):
            shown = points.mask if points.mask.dim() == 4 else points.mask.reshape(-1, 1, 1, 1).expand_as(points.x)
            assert (points.x[shown] == 200).all() and (points.x[~shown] == 0).all()


# Without a mask, NaN is refused before torch meets it.


@pytest.mark.parametrize("transform", [data.Binarize(), data.Threshold(), data.Grid(2), data.Dequantize(2)])
def test_missing_values_without_a_mask_are_refused_with_the_remedy(tmp_path, transform):
    v = np.where(PIXELS.numpy(), 1.0, np.nan)
    np.save(tmp_path / "v.npy", v)
    with pytest.raises(ValueError, match=r"values have NaN; \w+\(.*\) expects numbers: .*mask=~x\.isnan\(\)"):
        data.arrays(tmp_path / "v.npy", num_test=2, transform=transform)
    d = data.arrays(tmp_path / "v.npy", num_test=2, seed=None)
    fit(*pair(), d.train, mask=~d.train.isnan(), steps=2, transform=data.Binarize())
