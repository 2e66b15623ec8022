r"""Data sets from files: protocols, layouts, splits, labels, and what is refused."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from pyro_dlgm import DLGM, data, fit, guides, likelihoods, nets, priors

rng = np.random.default_rng(0)
BYTES = rng.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(30) % 4


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def npz(tmp_path):
    return save(tmp_path / "faces.npz", images=BYTES, labels=LABELS)


# Files of arrays


def test_a_split_is_stated_and_keeps_images_and_labels_together(npz):
    d = data.arrays(npz, "images", layout="NHWC", labels="labels", num_val=5, num_test=7, transform=data.Grid(256))
    assert (d.name, d.image_shape, [len(p) for p in (d.train, d.val, d.test)]) == ("faces", (3, 6, 5), [18, 5, 7])
    assert d.train.dtype == torch.uint8 and "18 / 5 / 7" in d.protocol and "seed 0" in d.protocol
    where = {v.tobytes(): i for i, v in enumerate(BYTES)}
    parts = [d.train, *((255 * p).round().to(torch.uint8) for p in (d.val, d.test))]
    rows = [[where[v.permute(1, 2, 0).contiguous().numpy().tobytes()] for v in p] for p in parts]
    assert sorted(i for part in rows for i in part) == list(range(30)) and rows[0] != sorted(rows[0])
    assert d.train_labels.tolist() == [LABELS[i] for i in rows[0]]
    assert d.test_labels.tolist() == [LABELS[i] for i in rows[2]]


def test_the_seed_makes_the_split_and_none_keeps_the_order(npz):
    settings = {"layout": "NHWC", "num_test": 7, "transform": data.Grid(256)}
    one, again, other = (data.arrays(npz, "images", seed=s, **settings) for s in (0, 0, 1))
    assert torch.equal(one.train, again.train) and not torch.equal(one.train, other.train)
    kept = data.arrays(npz, "images", seed=None, **settings)
    assert (
        torch.equal(kept.train, torch.from_numpy(BYTES[:23]).permute(0, 3, 1, 2)) and "in their order" in kept.protocol
    )


def test_reading_leaves_the_generator_alone(npz):
    state = torch.get_rng_state()
    data.arrays(npz, "images", layout="NHWC", num_test=7, transform=data.Dequantize(256))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("NCHW", (30, 3, 6, 5), (3, 6, 5)),
        ("NHWC", (30, 6, 5, 3), (3, 6, 5)),
        ("NHW", (30, 6, 5), (1, 6, 5)),
        (None, (30, 6, 5), (1, 6, 5)),
        ("NP", (30, 7), (7,)),
        (None, (30, 7), (7,)),
        (None, (30, 3, 6, 5), (3, 6, 5)),
        (None, (30, 6, 5, 1), (1, 6, 5)),
    ],
)
def test_layouts_become_channels_first(tmp_path, layout, shape, expected):
    v = rng.standard_normal(shape)
    np.save(tmp_path / "v.npy", v)
    d = data.arrays(tmp_path / "v.npy", layout=layout, num_test=5, seed=None)
    assert d.image_shape == expected and d.train.dtype == torch.float32 and d.train.is_contiguous()
    back = d.train.permute(0, 2, 3, 1) if shape[1:] == (6, 5, *expected[:1]) else d.train
    assert np.allclose(back.numpy().reshape(25, *shape[1:]), v[:25])


@pytest.mark.parametrize("shape", [(30, 3, 6, 3), (30, 1, 6, 3), (30, 4, 6, 5)])
def test_four_axes_that_may_be_either_need_a_layout(tmp_path, shape):
    np.save(tmp_path / "v.npy", rng.standard_normal(shape))
    with pytest.raises(ValueError, match="say which axis holds channels"):
        data.arrays(tmp_path / "v.npy", num_test=5)


def test_files_of_torch_hold_a_tensor_or_a_dictionary(tmp_path):
    v = torch.rand(10, 4)
    torch.save(v, tmp_path / "one.pt")
    torch.save({"v": v, "y": torch.arange(10)}, tmp_path / "two.pt")
    one = data.arrays(tmp_path / "one.pt", num_test=3, seed=None)
    two = data.arrays(tmp_path / "two.pt", "v", labels="y", num_test=3, seed=None)
    assert torch.equal(one.train, v[:7]) and torch.equal(two.train, v[:7]) and two.test_labels.tolist() == [7, 8, 9]


def test_whole_numbers_without_a_transform_become_real_and_missing_values_stay(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[0, 1], [1, 0], [1, 1]], dtype=np.uint8))
    assert data.arrays(tmp_path / "v.npy", num_test=1, seed=None).train.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    np.save(tmp_path / "w.npy", np.array([[np.nan, 1], [1, 0], [1, 1]]))
    assert data.arrays(tmp_path / "w.npy", num_test=1, seed=None).train.isnan().sum() == 1


class Bomb:
    r"""Writes a file where a pickle of it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def bombs(folder):
    mark = folder / "executed"
    np.save(folder / "a.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    np.savez(folder / "b.npz", images=np.array([Bomb(mark)], dtype=object))
    torch.save({"v": Bomb(mark)}, folder / "c.pt")
    for name in ("d.npy", "e.npz", "f.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    return mark


@pytest.mark.parametrize("name", ["a.npy", "b.npz", "c.pt", "d.npy", "e.npz", "f.pt"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, name):
    mark = bombs(tmp_path)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as arrays alone .*no pickled objects") as error:
        data.arrays(tmp_path / name, num_test=1)
    assert not mark.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.npy", "b.npz", "c.pt"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00"])
def test_garbage_and_cut_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read") as error:
        data.arrays(tmp_path / name, num_test=1)
    assert "\n" not in str(error.value)


def test_a_file_cut_short_is_refused(npz):
    npz.write_bytes(npz.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        data.arrays(npz, "images", layout="NHWC", num_test=1)


GOOD = {"key": "images", "layout": "NHWC", "num_test": 5}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"key": None}, "holds 'images', 'labels'"),
        ({"key": "faces"}, "key is 'faces'"),
        ({"labels": "names"}, "labels is 'names'"),
        ({"labels": "images"}, r"labels in .* have shape \(30, 6, 5, 3\)"),
        ({"key": "labels"}, r"holds shape \(30,\)"),
        ({"layout": "CHWN"}, "layout is 'CHWN'"),
        ({"layout": "NHW"}, "layout 'NHW' has 3"),
        ({"num_test": 0}, "num_test is 0"),
        ({"num_test": -1}, "num_test is -1"),
        ({"num_val": -1}, "num_val is -1"),
        ({"num_test": 30}, "num_test is 30 of 30 points"),
        ({"num_test": 10, "num_val": 20}, "one point left to train"),
        ({"transform": data.Grid(17)}, r"Grid\(levels=17\) expects whole numbers in 0..16"),
        ({"transform": data.Dequantize(100)}, "choose other levels"),
        ({"transform": data.Binarize()}, r"Binarize expects real ones in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_the_file_is_named(npz, change, match):
    with pytest.raises(ValueError, match=match):
        data.arrays(npz, **(GOOD | change))


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array([["a", "b"]] * 3), "expected an array of numbers"),
        (np.ones((3, 2), dtype=complex), "complex"),
        (np.ones((0, 2)), "at least one"),
        (np.array([[1.0, np.inf], [0, 0], [0, 1]]), "infinite"),
        (np.float64(3), "holds shape"),
    ],
)
def test_what_is_no_data_is_named(tmp_path, array, match):
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(ValueError, match=match):
        data.arrays(tmp_path / "v.npy", num_test=1)


def test_real_values_are_no_levels(tmp_path):
    np.save(tmp_path / "v.npy", rng.random((5, 4)))
    with pytest.raises(ValueError, match="not whole numbers"):
        data.arrays(tmp_path / "v.npy", num_test=1, transform=data.Grid(256))


def test_one_array_has_no_key(tmp_path):
    np.save(tmp_path / "v.npy", rng.random((5, 4)))
    with pytest.raises(ValueError, match="leave the name out"):
        data.arrays(tmp_path / "v.npy", "images", num_test=1)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file"):
        data.arrays(tmp_path / "none.npy", num_test=1)
    for name in ("v.pkl", "v.csv", "v"):
        with pytest.raises(ValueError, match=r"expected \.npy, \.npz or \.pt"):
            data.arrays(tmp_path / name, num_test=1)


# Transforms


def test_transforms_take_bytes_and_keep_real_dtypes():
    v = torch.arange(256, dtype=torch.uint8)
    assert data.Grid(256)(v).dtype == data.Dequantize(256)(v).dtype == torch.float32
    assert data.Grid(256)(v.double()).dtype == torch.float64
    assert torch.equal((256 * data.Dequantize(256)(v)).floor(), v.float())
    assert data.Grid(256)(v)[[0, -1]].tolist() == [0, 1]


def test_a_threshold_is_one_above_it():
    assert data.Threshold(0.5)(torch.tensor([0.0, 0.5, 0.51, 1.0])).tolist() == [0, 0, 1, 1]


def test_bytes_on_the_grid_fit_the_discretized_logistic_and_bernoulli_refuses_them(npz):
    d = data.arrays(npz, "images", layout="NHWC", num_test=7, transform=data.Grid(256))
    net = nets.ConvDecoder(2, d.image_shape, widths=(4,), heads=2)
    model = DLGM(priors.StandardNormal(2), likelihoods.DiscretizedLogistic(net))
    assert model.log_joint(d.test, torch.zeros(7, 2)).isfinite().all()
    net = nets.ConvDecoder(2, d.image_shape, widths=(4,))
    with pytest.raises(ValueError, match="outside the support of Bernoulli"):
        DLGM(priors.StandardNormal(2), likelihoods.Bernoulli(net))(d.test)


# A folder of images


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    for i, (name, mode, size) in enumerate(
        [
            ("cat/a.png", "RGB", (20, 10)),
            ("cat/b.PNG", "L", (8, 8)),
            ("dog/c.jpg", "RGB", (9, 30)),
            ("dog/deep/d.png", "RGBA", (5, 5)),
            ("cat/e.png", "P", (16, 16)),
            ("dog/f.bmp", "1", (7, 9)),
        ]
    ):
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 0).save(path) if mode == "1" else Image.new("RGB", size, (40 * i, 0, 200)).convert(
            mode if path.suffix != ".jpg" else "RGB"
        ).save(path)
    (tmp_path / "pets" / "notes.txt").write_text("no image")
    return tmp_path / "pets"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_of_all_kinds_become_bytes_of_one_size(folder, num_workers):
    state = torch.get_rng_state()
    d = data.images(folder, size=(6, 8), num_test=2, seed=None, num_workers=num_workers)
    assert d.image_shape == (3, 6, 8) and d.train.dtype == torch.uint8 and d.name == "pets"
    assert "resized to 6x8" in d.protocol and "4 / 0 / 2" in d.protocol
    # In the order of their paths: cat/a, cat/b, cat/e, dog/c | dog/deep/d, dog/f
    assert d.train_labels.tolist() == [0, 0, 0, 1] and d.test_labels.tolist() == [1, 1]
    assert d.train[0, :, 0, 0].tolist() == [0, 0, 200] and d.train[2, 0].float().mean() == pytest.approx(160, abs=12)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_cropped_to_their_middle_with_the_sides_in_proportion(tmp_path):
    from PIL import Image

    v = np.zeros((10, 30), dtype=np.uint8)
    v[:, 10:20] = 255
    Image.fromarray(v).save(tmp_path / "a.png")
    Image.fromarray(v.T.copy()).save(tmp_path / "b.png")
    d = data.images(tmp_path, size=5, channels=1, num_test=1)
    assert d.image_shape == (1, 5, 5) and d.train.min() > 200 and d.test.min() > 0.8
    assert d.train_labels is None and "grey" in d.protocol


def test_images_of_colours_keep_their_rows_and_columns(tmp_path):
    from PIL import Image

    for i in range(2):
        Image.fromarray(BYTES[i]).save(tmp_path / f"{i}.png")
    d = data.images(tmp_path, size=(6, 5), num_test=1, seed=None)
    assert torch.equal(d.train[0], torch.from_numpy(BYTES[0]).permute(2, 0, 1))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_is_no_image_is_named(folder, num_workers):
    (folder / "cat" / "b.PNG").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"b\.PNG cannot be read as an image") as error:
        data.images(folder, size=4, num_test=1, num_workers=num_workers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"size": 0}, "size is"),
        ({"size": (4, 4, 3)}, "size is"),
        ({"size": (4, -4)}, "size is"),
        ({"channels": 2}, "channels is 2"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"num_test": 6}, "num_test is 6 of 6"),
        ({"transform": data.Grid(17)}, r"Grid\(levels=17\)"),
    ],
)
def test_what_does_not_fit_the_folder_is_named(folder, settings, match):
    with pytest.raises(ValueError, match=match):
        data.images(folder, **({"size": 4, "num_test": 1} | settings))


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no image"):
        data.images(tmp_path, size=4, num_test=1)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        data.images(tmp_path / "none", size=4, num_test=1)


# Images that stay in their files

SETTINGS = {"size": (6, 8), "num_test": 1, "num_val": 1, "seed": 3}


@pytest.fixture
def many(tmp_path):
    from PIL import Image

    for i in range(23):
        v = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        (tmp_path / str(i % 2)).mkdir(exist_ok=True)
        Image.fromarray(v).save(tmp_path / str(i % 2) / f"{i:02}.png")
    return tmp_path


def test_streamed_images_are_those_in_memory(many):
    memory, streamed = (data.images(many, streamed=s, **SETTINGS) for s in (False, True))
    assert isinstance(streamed.train, data.Streamed) and streamed.image_shape == memory.image_shape
    assert streamed.train.shape == memory.train.shape and streamed.train.dtype == memory.train.dtype
    index = torch.tensor([5, 0, 20])
    assert torch.equal(streamed.train[index], memory.train[index])
    assert torch.equal(streamed.train.read(), memory.train)
    assert torch.equal(streamed.val, memory.val) and torch.equal(streamed.test, memory.test)
    assert torch.equal(streamed.train_labels, memory.train_labels) and streamed.protocol == memory.protocol
    assert streamed.train.nansum(dtype=torch.float64) == memory.train.sum()
    assert len(data.images(many, streamed=True, size=4, num_test=1).val) == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_on_streamed_images_is_bit_for_bit_that_in_memory(many, num_workers):
    states = []
    for streamed in (False, True):
        d = data.images(many, streamed=streamed, num_workers=num_workers if streamed else 0, **SETTINGS)
        states.append(training(d, epochs=3).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("streamed", [False, True])
def test_batches_go_on_in_the_middle_of_a_pass(many, streamed):
    d = data.images(many, streamed=streamed, num_workers=2 * streamed, **SETTINGS)
    torch.manual_seed(0)
    whole = data.Batches(d.train, 4, transform=d.transform)
    seen = [points.seen[:2] for _ in range(2) for points in whole]
    torch.manual_seed(0)
    first, second = (data.Batches(d.train, 4, transform=d.transform) for _ in range(2))
    passed = iter(first)
    begun = [next(passed).seen[:2] for _ in range(2)]
    second.load_state_dict(first.state_dict())
    rest = [points.seen[:2] for _ in range(2) for points in second]
    assert len(seen) == 12 and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(seen, begun + rest, strict=True)
    )


def test_a_streamed_file_that_is_no_image_any_more_is_named(many):
    d = data.images(many, streamed=True, num_workers=1, **SETTINGS)
    for path in many.rglob("*.png"):
        path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"\.png cannot be read as an image") as error:
        list(data.Batches(d.train, 4))
    assert "\n" not in str(error.value)


def test_streamed_images_are_no_tensor_and_say_so(many):
    d = data.images(many, streamed=True, **SETTINGS)
    with pytest.raises(TypeError, match="read them into memory with streamed=False"):
        torch.where(torch.tensor(True), d.train, torch.zeros(()))


def training(d: data.Dataset, epochs: int):
    r"""The model after a small training on the data set."""
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(2), likelihoods.DiscretizedLogistic(nets.MLP(2, d.image_shape, (8,), heads=2)))
    guide = guides.Amortized(nets.MLP(d.image_shape, 8, (8,)), 2)
    fit(model, guide, d.train, epochs=epochs, batch_size=4, transform=d.transform, x_val=d.val, seed=0)
    return model


# torchvision's


class Idx:
    r"""Stands for torchvision's MNIST: grey images that say which they are."""

    def __init__(self, root, train, download):
        self.data = torch.arange(12 if train else 6, dtype=torch.uint8).mul(20).reshape(-1, 1, 1).expand(-1, 4, 4)
        self.targets = torch.arange(len(self.data))


@pytest.fixture
def small(monkeypatch):
    import torchvision.datasets

    for name in ("MNIST", "FashionMNIST"):
        monkeypatch.setattr(torchvision.datasets, name, Idx)


@pytest.mark.parametrize("read", [data.mnist, data.fashion_mnist])
def test_binarizations_are_different_data_sets(small, read):
    dynamic, static, threshold, grey = (
        read("root", num_val=3, binarization=b) for b in ("dynamic", "static", "threshold", None)
    )
    assert len({d.protocol for d in (dynamic, static, threshold, grey)}) == 4
    for d in (dynamic, static, threshold, grey):
        assert [len(p) for p in (d.train, d.val, d.test)] == [9, 3, 6] and d.image_shape == (1, 4, 4)
        assert d.train_labels.tolist() == list(range(9)) and d.test_labels.tolist() == list(range(6))
    for d in (dynamic, static, threshold):
        assert set(d.test.unique().tolist()) <= {0.0, 1.0}
    assert isinstance(dynamic.transform, data.Binarize) and dynamic.train.max() < 1
    assert static.transform is None and set(static.train.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(static.train, read("root", num_val=3, binarization="static").train)
    assert torch.equal(static.test, dynamic.test)
    assert torch.equal(threshold.train[:, 0, 0, 0], (torch.arange(9) * 20 > 127.5).float())
    assert grey.train.dtype == torch.uint8 and torch.equal(
        (255 * grey.test[:, 0, 0, 0]).round(), torch.arange(6) * 20.0
    )


def test_grey_images_may_be_dequantized(small):
    d = data.mnist("root", binarization=None, transform=data.Dequantize(256))
    assert torch.equal((256 * d.test[:, 0, 0, 0]).floor(), torch.arange(6) * 20.0) and "Dequantize" in d.protocol


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"binarization": "statik"},
            "binarization is 'statik'; expected one of 'dynamic', 'static', 'threshold', None",
        ),
        ({"transform": data.Grid(256)}, "binarization=None"),
        ({"num_val": -1}, "num_val is -1 of 12"),
        ({"num_val": 12}, "num_val is 12 of 12"),
    ],
)
def test_what_makes_no_sense_is_named(small, settings, match):
    with pytest.raises(ValueError, match=match):
        data.mnist("root", **settings)


@pytest.mark.parametrize("read", [data.mnist, data.fashion_mnist, data.cifar10])
def test_nothing_is_downloaded_unless_asked(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="download=True"):
        read(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_cifar_has_channels_first(monkeypatch):
    import torchvision.datasets

    class Cifar:
        def __init__(self, root, train, download):
            self.data, self.targets = (BYTES if train else BYTES[:9]), LABELS[: 30 if train else 9].tolist()

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Cifar)
    d = data.cifar10("root", num_val=4)
    assert d.train.dtype == torch.uint8 and torch.equal(d.train, torch.from_numpy(BYTES[:26]).permute(0, 3, 1, 2))
    assert [len(p) for p in (d.train, d.val, d.test)] == [26, 4, 9] and d.test_labels.tolist() == LABELS[:9].tolist()


def test_digits_have_labels():
    d = data.digits()
    assert len(d.train_labels) == 1200 and len(d.test_labels) == 397
    # Images of one label are nearer to their mean than to that of all.
    x = d.train.flatten(1)
    within = sum(((x[d.train_labels == k] - x[d.train_labels == k].mean(0)) ** 2).sum() for k in range(10))
    assert within < 0.7 * ((x - x.mean(0)) ** 2).sum()


# The real files


@pytest.mark.parametrize(("name", "read"), [("MNIST", data.mnist), ("FashionMNIST", data.fashion_mnist)])
def test_the_published_files_are_read(data_file, tmp_path, name, read):
    raw = data_file(name, "raw", "train-images-idx3-ubyte.gz").parent
    shutil.copytree(raw, tmp_path / name / "raw")
    (tmp_path / name / "raw").chmod(0o755)
    d = read(str(tmp_path), num_val=5000, download=True, binarization=None)
    assert [len(p) for p in (d.train, d.val, d.test)] == [55_000, 5_000, 10_000] and d.image_shape == (1, 28, 28)
    assert d.train_labels.shape == (55_000,) and d.test_labels.bincount().tolist() == (
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009] if name == "MNIST" else [1000] * 10
    )


def test_frey_faces_are_read(data_file):
    path = data_file("FreyFaces", "freyfaces.npz")
    d = data.arrays(path, num_val=200, num_test=265, transform=data.Grid(256))
    assert d.image_shape == (1, 28, 20) and len(d.train) == 1500
    assert d.train.min() >= 8 and d.train.max() <= 238 and likelihood_fits(d)


def test_the_first_images_of_cifar_are_read(data_file):
    path = data_file("CIFAR10-first4000", "cifar10_train_first4000.npz")
    d = data.arrays(path, "images", layout="NHWC", labels="labels", num_test=500, transform=data.Dequantize(256))
    assert d.image_shape == (3, 32, 32) and len(d.train) == 3500 and d.train_labels.max() == 9
    assert d.test.min() >= 0 and d.test.max() < 1


def likelihood_fits(d: data.Dataset) -> bool:
    r"""Whether the test points are on the grid of the discretized logistic."""
    net = nets.ConvDecoder(2, d.image_shape, widths=(4,), heads=2)
    p = likelihoods.DiscretizedLogistic(net)(torch.zeros(len(d.test), 2))
    return bool(p.support.check(d.test).all())
