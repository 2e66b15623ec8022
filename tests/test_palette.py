r"""The ten colours of the pictures: apart for all readers, legible on their page."""

import numpy as np
import pytest

from pyro_dlgm.plots.palette import DARK, LIGHT, colour

# Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
APART = {"normal": 0.18, "protanopia": 0.11, "deuteranopia": 0.11}
# OKLab: from linear RGB to cone responses, and from their cube roots to L, a, b.
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(colours):
    v = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def nearest(colours, vision):
    seen = np.clip(linear(colours) @ np.array(VISION[vision]).T, 0, 1)
    lab = np.cbrt(seen @ np.array(CONES).T) @ np.array(LAB).T
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return distances[np.triu_indices(len(colours), 1)].min()


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_ten_colours_are_apart_for_all_readers(colours, vision):
    assert len(colours) == 10 and nearest(colours, vision) >= APART[vision]


def test_the_measure_sees_what_cannot_be_told_apart():
    usual = ("#2ca02c", "#8c564b", "#d62728", "#7f7f7f")  # green and brown of matplotlib's ten
    assert nearest(usual, "deuteranopia") < 0.05 or nearest(usual, "protanopia") < 0.05


@pytest.mark.parametrize(("colours", "page"), [(LIGHT, "#ffffff"), (DARK, "#14181d")], ids=["light", "dark"])
def test_each_is_legible_on_its_page(colours, page):
    weights = np.array([0.2126, 0.7152, 0.0722])
    ink, paper = linear(colours) @ weights, float((linear([page]) @ weights)[0])
    contrast = (np.maximum(ink, paper) + 0.05) / (np.minimum(ink, paper) + 0.05)
    assert contrast.min() >= 2.1


def test_colours_begin_again_after_ten():
    assert colour(0) == colour(10) == LIGHT[0] and len({colour(n) for n in range(10)}) == 10
