"""Data sets: splits, fresh noise in training, one seeded draw for the test."""

import math

import pytest
import torch

from pyro_dlgm import data


@pytest.fixture(scope="module")
def digits():
    return data.digits()


def test_digits_follow_the_protocol(digits):
    assert [len(part) for part in (digits.train, digits.val, digits.test)] == [1200, 200, 397]
    assert digits.image_shape == (1, 8, 8)
    assert set(digits.train.unique().tolist()) <= set(range(17))
    assert digits.test.min() >= 0 and digits.test.max() < 1


def test_the_split_is_stratified_and_without_overlap(digits):
    pixels = [set(map(tuple, (part * 17).floor().flatten(1).tolist())) for part in (digits.val, digits.test)]
    train = set(map(tuple, digits.train.flatten(1).tolist()))
    assert not pixels[0] & pixels[1] and not train & pixels[0] and not train & pixels[1]


def test_the_test_set_is_the_same_each_time_whatever_the_generator(digits):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = data.digits()
    assert torch.equal(again.test, digits.test) and torch.equal(again.val, digits.val)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_noise_is_fresh(digits):
    batches = data.Batches(digits.train[:50], 50, transform=digits.transform)
    (one, index, _), (two, other, _) = next(iter(batches)).seen, next(iter(batches)).seen
    assert not torch.equal(one[index.argsort()], two[other.argsort()])
    assert torch.equal((17 * one).floor(), digits.train[index])


def test_index_names_the_rows():
    x, mask = torch.randn(10, 3), torch.rand(10, 3) > 0.5
    for batch in data.Batches(x, 4, mask=mask):
        x_b, index, mask_b = batch.seen
        assert torch.equal(x_b, x[index]) and torch.equal(mask_b, mask[index])


def test_bits_per_dimension_of_the_uniform_density_are_those_of_uniform_levels():
    assert data.Dequantize(17).bits_per_dim(0.0, 64) == pytest.approx(math.log2(17))


def test_binarization_has_the_grey_value_as_its_mean():
    grey = torch.tensor([0.0, 0.3, 1.0]).expand(20_000, 3)
    x = data.Binarize()(grey)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert x.mean(0).tolist() == pytest.approx([0.0, 0.3, 1.0], abs=0.02)


def test_empty_data_and_empty_batches_are_named():
    with pytest.raises(ValueError, match="no points"):
        data.Batches(torch.zeros(0, 3), 4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        data.Batches(torch.zeros(3, 3), 0)
