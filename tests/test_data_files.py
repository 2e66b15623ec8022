r"""Files of arrays as they are found: byte orders, widths, names, masks, bombs, numbers that float32 spoils."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from pyro_dlgm import Points, data, fit, guides, likelihoods, model, nets, priors
from pyro_dlgm.recipes import datasets

rng = np.random.default_rng(0)
X = rng.standard_normal((20, 3))
SECONDS = 1.7e9 + np.arange(20.0) * 2.7


@pytest.fixture
def read(tmp_path):
    r"""A function that saves an array and reads it."""

    def saved(array, **settings):
        np.save(tmp_path / "v.npy", array)
        return data.arrays(tmp_path / "v.npy", **({"num_test": 5, "seed": None} | settings))

    return saved


# Byte orders and widths


@pytest.mark.parametrize(
    "dtype", [">f8", ">f4", ">f2", "<f2", np.longdouble, ">i4", ">u2", "u2", "u4", "u8", ">u8", "?"]
)
def test_numbers_of_any_byte_order_and_width_are_read(read, dtype):
    v = (10 * np.abs(X)).astype(dtype)
    d = read(v)
    assert d.train.dtype == torch.float32
    assert np.allclose(d.train.numpy(), v[:15].astype("f8"), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u2", "u4", "u8", ">u2", "i4"])
def test_sixteen_bits_are_dequantized(read, dtype):
    v = rng.integers(0, 65536, (2000, 50)).astype(dtype)
    v[:, 0] = 65535
    d = read(v, transform=data.Dequantize(65536), num_test=500)
    x = d.transform(d.train)
    assert torch.equal((65536 * x).floor().long(), torch.from_numpy(v[:1500].astype("i8"))) and x.max() < 1
    assert torch.equal((65536 * d.test).floor().long(), torch.from_numpy(v[1500:].astype("i8")))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.bfloat16])
def test_tensors_of_any_width_are_read(tmp_path, dtype):
    v = torch.arange(12).reshape(6, 2)
    try:
        torch.save(v.to(dtype), tmp_path / "v.pt")
    except KeyError:
        pytest.skip(f"torch {torch.__version__} writes no {dtype}")
    d = data.arrays(tmp_path / "v.pt", num_test=1, seed=None, transform=data.Grid(12))
    assert torch.equal(d.transform(d.train), v[:5] / 11)


def test_whole_numbers_beyond_63_bits_are_refused(read):
    with pytest.raises(ValueError, match=r"v\.npy holds whole numbers up to 18446744073709551615; .* as float64"):
        read(np.full((20, 2), 2**64 - 1, dtype="u8"))


@pytest.mark.parametrize(
    "array", [np.array([["a"]] * 9), np.zeros((9, 2), "M8[s]"), np.zeros((9, 1), [("a", "f4")] * 1)]
)
def test_what_is_no_number_is_refused_by_name(read, array):
    with pytest.raises(ValueError, match=r"v\.npy holds .*; expected an array of numbers"):
        read(array)


# float64


def lossy(column, dtype="f8"):
    return np.column_stack([X[:, 0], column, X[:, 1]]).astype(dtype)


@pytest.mark.parametrize("column", [SECONDS, SECONDS * 1e9, 1e-60 * X[:, 0], 1 + 1e-9 * X[:, 0]])
@pytest.mark.parametrize("dtype", ["f8", ">f8", np.longdouble])
def test_a_column_that_float32_spoils_is_refused(read, column, dtype):
    with pytest.raises(ValueError, match=r"v\.npy in torch\.float32 would lose columns \[1\]: .*subtract its mean"):
        read(lossy(column, dtype))


def test_whole_numbers_that_float32_spoils_are_refused(read, tmp_path):
    v = np.column_stack([np.arange(20), 1_700_000_000 + np.arange(20)])
    with pytest.raises(ValueError, match=r"columns \[1\]: the standard deviation 5.77 of column 1 becomes 0"):
        read(v)
    with pytest.raises(ValueError, match="expected 8 bits"):
        datasets.dataset("file", str(tmp_path / "v.npy"), "fixed")


def test_what_is_given_is_not_spoiled_either(tmp_path):
    np.savez(tmp_path / "v.npz", x=X, c=SECONDS, d=X)
    assert data.arrays(tmp_path / "v.npz", "x", given="d", num_test=5).given_dim == 3
    with pytest.raises(ValueError, match=r"'c' in .*v\.npz in torch\.float32 would lose columns \[0\]"):
        data.arrays(tmp_path / "v.npz", "x", given="c", num_test=5)


def test_values_beyond_float32_are_named(read):
    with pytest.raises(ValueError, match=r"would be infinite: values go up to 1e\+60; divide"):
        read(lossy(1e60 * np.abs(X[:, 0]) / np.abs(X[:, 0]).max()))


@pytest.mark.parametrize("column", [np.full(20, 0.1), SECONDS - SECONDS.mean(), 1e9 * X[:, 0], 300 + X[:, 0]])
def test_a_column_that_keeps_its_content_is_read_and_the_protocol_says_so(read, column):
    d = read(lossy(column))
    assert np.allclose(d.train, lossy(column)[:15], rtol=1e-6, atol=1e-6) and "float64 as float32" in d.protocol
    assert "as float32" not in read(X.astype("f4")).protocol


def test_rounding_already_in_the_file_is_no_content(read):
    v = lossy(np.where(X[:, 0] > 0, 0.1 + 0.2, 0.3))
    assert read(v).train.shape == (15, 3)


def test_missing_values_are_no_loss(read):
    v = lossy(300 + X[:, 0])
    v[3, 1], v[:, 2] = np.nan, np.nan
    assert read(v).train.isnan().sum() == 16
    v[:, 1] = SECONDS
    v[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"columns \[1\]"):
        read(v)


def test_float64_keeps_all(read):
    torch.set_default_dtype(torch.float64)
    try:
        d = read(lossy(SECONDS))
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(d.train.numpy(), lossy(SECONDS)[:15]) and "float32" not in d.protocol


@pytest.mark.parametrize("dtype", ["f8", "i4", "u1"])
def test_what_a_mask_of_numpy_hides_is_missing(read, dtype):
    v, hidden = (10 * np.abs(X)).astype(dtype), X > 1
    d = read(np.ma.masked_array(v, hidden).toflex())
    assert torch.equal(d.train.isnan(), torch.from_numpy(hidden[:15]))
    assert np.allclose(d.train[~hidden[:15]], v[:15][~hidden[:15]])


# Labels that are names


@pytest.mark.parametrize("dtype", ["U5", "S5", ">U5"])
def test_names_are_numbered_and_kept(tmp_path, dtype):
    names = np.array(["dog", "cat", "emu", "cat"] * 5)
    np.savez(tmp_path / "v.npz", x=X, y=names.astype(dtype))
    d = data.arrays(tmp_path / "v.npz", "x", labels="y", num_test=5)
    assert d.label_names == ("cat", "dog", "emu")
    said = dict(zip(X[:, 0].astype("f4").tolist(), names, strict=True))
    for part, labels in ((d.train, d.train_labels), (d.test, d.test_labels)):
        assert [d.label_names[i] for i in labels] == [said[v] for v in part[:, 0].tolist()]
    c = data.arrays(tmp_path / "v.npz", "x", given="y", num_test=5, seed=None).train_given
    assert c.argmax(1).tolist() == [1, 0, 2, 0] * 3 + [1, 0, 2]
    found = datasets.dataset("file", str(tmp_path / "v.npz"), "fixed", key="x", labels="y")
    assert found.label_names == d.label_names


@pytest.mark.parametrize("dtype", ["u2", "u8", ">i8", "f8", "?"])
def test_labels_of_any_width_are_whole_numbers(tmp_path, dtype):
    np.savez(tmp_path / "v.npz", x=X, y=(np.arange(20) % 2).astype(dtype))
    d = data.arrays(tmp_path / "v.npz", "x", labels="y", num_test=5, seed=None)
    assert d.test_labels.tolist() == [1, 0, 1, 0, 1] and d.test_labels.dtype == torch.int64 and d.label_names is None


@pytest.mark.parametrize("labels", [list(range(20)), list("abcdefghijklmnopqrst")])
def test_labels_may_be_a_list(tmp_path, labels):
    torch.save({"x": torch.from_numpy(X), "y": labels}, tmp_path / "v.pt")
    d = data.arrays(tmp_path / "v.pt", "x", labels="y", num_test=5, seed=None)
    assert d.test_labels.tolist() == [15, 16, 17, 18, 19] and d.label_names == (
        None if labels[0] == 0 else tuple(labels)
    )


def test_labels_that_are_none_are_refused(tmp_path):
    np.savez(tmp_path / "v.npz", x=X, y=X[:, 0])
    with pytest.raises(
        ValueError, match=r"labels in .*v\.npz have shape \(20,\) \(float64\); expected 20 whole numbers"
    ):
        data.arrays(tmp_path / "v.npz", "x", labels="y", num_test=5)


# Only what is asked for is read


def test_objects_beside_the_array_are_not_read(tmp_path):
    np.savez(tmp_path / "v.npz", x=X, meta=np.array([{"a": 1}], dtype=object))
    assert len(data.arrays(tmp_path / "v.npz", "x", num_test=5).train) == 15
    with pytest.raises(ValueError, match="cannot be read as arrays alone"):
        data.arrays(tmp_path / "v.npz", "meta", num_test=5)


def bomb_npz(path):
    np.savez_compressed(path, x=X, zeros=np.zeros(300 * 2**20, dtype="u1"))


def bomb_pt(path):
    torch.save({"x": torch.from_numpy(X), "zeros": torch.zeros(300 * 2**20, dtype=torch.uint8)}, path)


READ = """
import sys
from pyro_dlgm import data
data.arrays(sys.argv[1], "x", num_test=5)
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(("name", "bomb"), [("v.npz", bomb_npz), ("v.pt", bomb_pt)])
def test_a_bomb_beside_the_array_costs_no_memory(tmp_path, name, bomb):
    def peak(path):
        done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True)
        return int(done.stdout)

    bomb(tmp_path / name)
    np.savez(tmp_path / "small.npz", x=X)
    assert peak(tmp_path / name) < peak(tmp_path / "small.npz") + 100


def test_what_was_read_does_not_change_with_its_file(tmp_path):
    torch.save({"x": torch.from_numpy(X).float()}, tmp_path / "v.pt")
    d = data.arrays(tmp_path / "v.pt", num_test=5, seed=None)
    with open(tmp_path / "v.pt", "r+b") as f:
        f.write(b"\1" * os.path.getsize(tmp_path / "v.pt"))
    assert np.allclose(d.train, X[:15])


def header(text: bytes) -> bytes:
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text


FIELDS = b"".join(b"('f%d', '<f4'), " % i for i in range(500))
HEADERS = [
    header(b"{'descr':[" + b"('a','<f4',(" + b"1," * 4000 + b")),],"),
    header(b"{'descr':'<f8'" + b" " * 60_000),
    header(b"{'descr': '" + b"x" * 9000 + b"', 'fortran_order': False, 'shape': (3,), }\n"),
    header(b"{'descr': [" + FIELDS + b"], 'fortran_order': False, 'shape': (0,), }\n"),
]


@pytest.mark.parametrize("content", HEADERS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_huge_header_is_refused_in_one_line(tmp_path, content, packed):
    path = tmp_path / ("v.npz" if packed else "v.npy")
    if packed:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name} (cannot be read|holds)") as error:
        data.arrays(path, num_test=1)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_a_header_that_promises_more_than_there_is_names_the_file(tmp_path):
    content = header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000), }\n") + b"\0" * 80
    (tmp_path / "v.npy").write_bytes(content)
    with pytest.raises(MemoryError, match=r"v\.npy asks for more memory than there is"):
        data.arrays(tmp_path / "v.npy", num_test=1)


def test_a_file_of_many_arrays_names_some(tmp_path):
    np.savez(tmp_path / "v.npz", **{f"array{i}": X for i in range(300)})
    with pytest.raises(ValueError, match=r"holds 'array0', .* and 280 more: give one") as error:
        data.arrays(tmp_path / "v.npz", num_test=1)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("name", ["v.NPY", "v.Npz", "v.PT"])
def test_capital_suffixes_are_read(tmp_path, name):
    with open(tmp_path / name, "wb") as f:
        {"y": np.save, "z": np.savez, "t": lambda f, v: torch.save(torch.from_numpy(v), f)}[name[-1].lower()](f, X)
    assert len(data.arrays(tmp_path / name, num_test=5).train) == 15
    assert len(datasets.dataset("file", str(tmp_path / name), "fixed", num_test=5).train) == 15


# Arguments from NumPy and pandas


def test_scalars_of_numpy_are_numbers(read):
    i = np.int64
    one = read(X, num_test=i(5), num_val=np.uint8(2), seed=i(3))
    two = read(X, num_test=5, num_val=2, seed=3)
    assert torch.equal(one.train, two.train) and torch.equal(one.val, two.val) and one.protocol == two.protocol
    assert str(data.Dequantize(i(17))) == "Dequantize(levels=17)" and data.Grid(i(256)) == data.Grid(256)
    assert str(data.Threshold(np.float32(0.5))) == "Threshold(at=0.5)"
    assert [len(b) for b in data.Batches(one.train, i(6))] == [6, 6, 1]
    source = data.Source(lambda: iter([Points(one.train)]), i(13))
    assert [len(b) for b in source] == [13]


@pytest.mark.parametrize("settings", [{"num_test": 5.0}, {"num_val": "3"}, {"seed": 0.5}])
def test_what_is_no_whole_number_is_named(read, settings):
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=rf"{name} is {value!r}; expected a whole number"):
        read(X, **settings)


@pytest.mark.parametrize("levels", [1, 0, 256.0, "8"])
def test_levels_are_a_whole_number_of_at_least_two(levels):
    with pytest.raises(ValueError, match="levels is"):
        data.Grid(levels)


class Frame:
    r"""Stands for a DataFrame, which torch.as_tensor does not take."""

    def __len__(self):
        return len(X)

    def to_numpy(self):
        return X


def pair():
    p = model.DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.MLP(2, (3,), (4,))))
    return p, guides.Amortized(nets.MLP((3,), 4, (4,)), 2)


def test_what_is_no_tensor_is_named_with_what_makes_one():
    x, frame, masked = torch.from_numpy(X).float(), Frame(), np.ma.masked_array(X, X > 1)
    for call in (lambda v: fit(*pair(), v, steps=1), lambda v: data.Batches(v, 5)):
        with pytest.raises(TypeError, match=r"x is a Frame; expected a tensor: torch\.as_tensor\(x\.to_numpy\(\)\)"):
            call(frame)
    for value in ([0] * 20, ["a"] * 20, np.zeros(20, dtype=int)):
        assert fit(*pair(), x, steps=1, labels=value).history
    with pytest.raises(TypeError, match=r"x is a MaskedArray; .*with mask=torch\.as_tensor\(~numpy\.ma\.getmaskarray"):
        data.Batches(masked, 5)
    with pytest.raises(TypeError, match=r"mask is a ndarray; expected a tensor: torch\.as_tensor\(mask\)"):
        data.Batches(x, 5, mask=X > 1)
