r"""Images as they are found: depths, orientations, transparency, formats, hidden files, links, and sizes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_dlgm import data

rng = np.random.default_rng(0)
RAMP = np.linspace(0, 65535, 48).astype("u2").reshape(6, 8)
GREY = (RAMP / 257).round().astype("u1")
COLOURS = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def seen(tmp_path):
    r"""A function that saves an image in a format, and reads it as it is."""

    def read(image, name, channels=1, size=None, **options):
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(tmp_path / name, **options)
        image.save(tmp_path / f"again-{name}", **options)
        return data.images(tmp_path, size=size or (6, 8), channels=channels, num_test=1, seed=None).train[0]

    return read


# Depths


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jp2"])
def test_sixteen_bits_are_scaled_to_eight(seen, name):
    assert (seen(RAMP, name)[0].int() - torch.from_numpy(GREY).int()).abs().max() <= 1


def test_sixteen_bits_are_grey_in_colours_and_of_the_other_byte_order(seen):
    image = Image.frombytes("I;16B", (8, 6), RAMP.astype(">u2").tobytes())
    v = seen(image, "a.tif", channels=3)
    assert torch.equal(v, torch.from_numpy(GREY).expand(3, 6, 8))


def test_sixteen_bits_in_which_zero_is_white(seen):
    assert torch.equal(seen(RAMP, "a.tif", tiffinfo={262: 0})[0], torch.from_numpy(255 - GREY))


def test_a_transparent_value_of_sixteen_bits_is_white(seen):
    v = seen(RAMP, "a.png", transparency=int(RAMP[0, 3]))[0]
    expected = torch.from_numpy(GREY.copy())
    expected[0, 3] = 255
    assert torch.equal(v, expected)


@pytest.mark.parametrize("array", [30 * np.arange(48, dtype="i4").reshape(6, 8), rng.random((6, 8)).astype("f4")])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_without_a_range_are_refused(seen, array, channels):
    with pytest.raises(ValueError, match=r"a\.tif cannot be read as an image: .* are unknown; .*data\.arrays"):
        seen(array, "a.tif", channels)


# Orientation and transparency


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_images_are_upright(tmp_path, orientation, name):
    how = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    how |= {7: "TRANSVERSE", 8: "ROTATE_270"}  # what the camera did, and EXIF says how to undo
    image = Image.fromarray(COLOURS)
    turned = image.transpose(Image.Transpose[how[orientation]]) if orientation > 1 else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(2):
        turned.save(tmp_path / f"{i}{name}", exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    d = data.images(tmp_path, size=(6, 8), num_test=1, seed=None)
    assert torch.equal(d.train[0], torch.from_numpy(COLOURS).permute(2, 0, 1)) and "EXIF" in d.protocol


def test_a_damaged_exif_leaves_the_image_as_it_is(seen):
    v = seen(COLOURS, "a.png", channels=3, exif=b"Exif\x00\x00garbage")
    assert torch.equal(v, torch.from_numpy(COLOURS).permute(2, 0, 1))


def palette():
    image = Image.fromarray(COLOURS).convert("P")
    image.putpixel((0, 0), 7)
    return image, {"transparency": 7}, np.asarray(image) == 7


def colours():
    alpha = np.where(np.arange(48).reshape(6, 8) % 3 == 0, 0, 255).astype("u1")
    return Image.fromarray(np.dstack([COLOURS, alpha])), {}, alpha == 0


def grey():
    image, _, clear = colours()
    return image.convert("LA"), {}, clear


def keyed():
    return Image.fromarray(COLOURS), {"transparency": tuple(COLOURS[2, 3].tolist())}, (COLOURS[2, 3] == COLOURS).all(2)


@pytest.mark.parametrize("made", [palette, colours, grey, keyed])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_white(seen, made, channels):
    image, options, clear = made()
    v = seen(image, "a.png", channels, **options)
    assert clear.any() and (v[:, clear] == 255).all()
    plain = torch.tensor(np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(6, 8, -1))
    assert torch.equal(v[:, ~clear], plain.permute(2, 0, 1)[:, ~clear])


def test_half_transparent_is_half_way_to_white(seen):
    image = Image.new("RGBA", (8, 6), (0, 100, 200, 51))
    assert seen(image, "a.png", 3)[:, 0, 0].tolist() == [204, 224, 244]


# What is data


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def values(d):
    return d.train[:, 0, 0, 0].tolist()


def read(folder, **settings):
    return data.images(folder, **({"size": 4, "channels": 1, "num_test": 1, "seed": None} | settings))


@pytest.mark.parametrize(
    "name", ["a.gif", "a.jfif", "a.jpe", "a.avif", "a.jp2", "a.j2k", "a.tga", "a.pbm", "a.dib", "a.GIF"]
)
def test_common_formats_are_read(tmp_path, name):
    suffix = name.lower()[1:]
    if suffix == ".avif":
        pytest.importorskip("PIL._avif")
    for i in range(3):
        image = Image.new("1" if suffix == ".pbm" else "L", (8, 8), 255)
        image.save(tmp_path / f"{i}{name}", **({"format": "JPEG"} if suffix in (".jfif", ".jpe") else {}))
    assert values(read(tmp_path)) == [pytest.approx(255, abs=2)] * 2


def test_of_several_frames_the_first_is_read(tmp_path):
    frames = [Image.new("L", (4, 4), 60 * i) for i in range(1, 4)]
    for name in ("a.gif", "b.tif", "c.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    d = read(tmp_path)
    assert values(d) == [60, 60] and "first frame" in d.protocol


def test_hidden_files_and_those_of_the_system_are_no_data(tmp_path):
    for i, name in enumerate(["cat/a.png", "cat/b.png", "dog/c.png"]):
        save(tmp_path / name, i)
    for name in (".ipynb_checkpoints/a.png", "cat/.ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", "@eaDir/a.png"):
        save(tmp_path / name)
    (tmp_path / "cat" / "._a.png").write_bytes(b"garbage")
    (tmp_path / ".DS_Store").write_bytes(b"garbage")
    d = read(tmp_path)
    assert values(d) == [0, 1] and d.train_labels.tolist() == [0, 0] and d.test_labels.tolist() == [1]
    assert d.label_names == ("cat", "dog") and "left out" not in d.protocol


def test_a_folder_that_is_hidden_itself_is_read(tmp_path):
    for i in range(3):
        save(tmp_path / ".cache" / f"{i}.png", i)
    assert values(read(tmp_path / ".cache")) == [0, 1]


def test_an_image_outside_of_the_subfolders_takes_the_labels_with_a_warning(tmp_path):
    for i, name in enumerate(["cat/a.png", "dog/b.png", "loose.png"]):
        save(tmp_path / name, i)
    with pytest.warns(UserWarning, match=r"no labels, since 1 of its 3 images lie in no subfolder, such as loose\.png"):
        assert read(tmp_path).train_labels is None


def test_what_is_left_out_is_counted_in_the_protocol(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    for name in ("notes.txt", "more.TXT", "faces.npy", "README"):
        (tmp_path / name).write_text("no image")
    assert "left out: 1 .npy, 2 .txt, 1 no suffix; " in read(tmp_path).protocol


@pytest.mark.parametrize("name", ["a.heic", "a.NEF", "a.jxl", "deep/a.exr"])
def test_images_of_other_formats_are_refused_by_name(tmp_path, name):
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"image")
    with pytest.raises(ValueError, match=rf"{name} is an image of a format that is not read: save it as PNG"):
        read(tmp_path)


def test_a_program_that_calls_itself_an_image_is_not_run(tmp_path):
    save(tmp_path / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "b.png", format="EPS")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image \(cannot identify"):
        read(tmp_path)


def test_links_to_folders_are_followed(tmp_path):
    for i, name in enumerate(["far/a.png", "far/b.png", "data/cat/c.png", "data/cat/d.png"]):
        save(tmp_path / name, i)
    (tmp_path / "data" / "ant").symlink_to(tmp_path / "far", target_is_directory=True)
    (tmp_path / "data" / "cat" / "e.png").symlink_to(tmp_path / "far" / "a.png")
    d = read(tmp_path / "data")
    assert values(d) == [0, 1, 2, 3] and d.train_labels.tolist() == [0, 0, 1, 1] and d.label_names == ("ant", "cat")


def test_links_that_lead_nowhere_or_back_are_named(tmp_path):
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "cat" / "b.png")
    (tmp_path / "cat" / "c.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"c\.png is not a file, or a broken link"):
        read(tmp_path)
    (tmp_path / "cat" / "c.png").unlink()
    (tmp_path / "cat" / "up").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ValueError, match=r"up is a link that leads back"):
        read(tmp_path)


@pytest.mark.parametrize("streamed", [False, True])
def test_files_are_in_natural_order(tmp_path, streamed):
    names = ["2/frame2.png", "2/frame2b.png", "2/frame10.png", "10/frame1.png", "10/frame01.png", "10/x.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, i)
    d = read(tmp_path, streamed=streamed)
    # Of two names with the same number, the one with more zeros comes first.
    assert d.train[torch.arange(5)][:, 0, 0, 0].tolist() == [0, 1, 2, 4, 3] and "natural order" in d.protocol
    assert d.train_labels.tolist() == [1, 1, 1, 0, 0] and d.label_names == ("10", "2")


# Sizes


LARGE = """
import sys
from pyro_dlgm import data
from pathlib import Path
from PIL import Image
data.images(sys.argv[1], size=8, num_test=1)
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
before = peak()
try:
    data.images(sys.argv[2], size=8, num_test=1)
except ValueError as error:
    print(error)
print(peak() - before)
"""


def decoded(tmp_path, name):
    r"""What reading an image of 169 megapixels says, and how many MiB it costs."""
    for i in range(2):
        save(tmp_path / "small" / f"{i}.png")
    (tmp_path / "large").mkdir()
    image = Image.new("1" if name.endswith("png") else "L", (13000, 13000), 1)
    for i in range(2):
        image.save(tmp_path / "large" / f"{i}{name}")
    command = [sys.executable, "-W", "ignore", "-c", LARGE, tmp_path / "small", tmp_path / "large"]
    *said, cost = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return said, int(cost)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    (said,), cost = decoded(tmp_path, "a.png")
    assert "0a.png cannot be read as an image: it has 13000x13000 pixels" in said and "save it smaller" in said
    assert os.path.getsize(tmp_path / "large" / "0a.png") < 50_000 and cost < 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_large_jpeg_is_decoded_at_a_lower_resolution(tmp_path):
    said, cost = decoded(tmp_path, "a.jpg")
    assert said == [] and cost < 60


def test_more_pixels_than_pillow_opens_are_refused_with_a_remedy(tmp_path, monkeypatch):
    for i in range(2):
        Image.new("1", (400, 400)).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image \(.*pixels.*\): save it smaller"):
        read(tmp_path)


# Arguments


def test_sizes_may_be_scalars_of_numpy(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", i)
    i = np.int64
    d = read(tmp_path, size=i(5), num_test=i(1), num_val=i(1), channels=i(1), num_workers=i(0))
    assert d.image_shape == (1, 5, 5) and len(d.val) == 1
    for size in ((i(5), i(6)), np.array([5, 6]), torch.tensor([5, 6])):
        shape = read(tmp_path, size=size, streamed=True, num_workers=i(1)).image_shape
        assert shape == (1, 5, 6) and all(type(side) is int for side in shape)


@pytest.mark.parametrize("size", [4.0, (4, 5.0), "4"])
def test_a_size_that_is_no_whole_number_is_named(tmp_path, size):
    with pytest.raises(ValueError, match=r"size is .*; expected"):
        read(tmp_path, size=size)
