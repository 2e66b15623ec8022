r"""Networks: shapes, and what they must not see."""

import pytest
import torch
from torch import nn

from pyro_dlgm import nets
from pyro_dlgm.nets import convolution

SHAPES = [(1, 4, 4), (1, 5, 7), (2, 7, 4), (1, 8, 8), (1, 28, 20), (1, 28, 28), (3, 32, 32), (1, 33, 17), (1, 4, 50)]
LEADS = [(), (2,), (3, 2), (2, 1, 2), (0,)]
WIDTHS = (4, 6, 8)
KINDS = {"plain": {}, "residual": {"residual": True}, "norm": {"norm": True}, "both": {"residual": True, "norm": True}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_encoders_and_decoders_fit_any_image(shape, kind):
    encoder = nets.ConvEncoder(shape, 9, widths=WIDTHS, **KINDS[kind])
    decoder = nets.ConvDecoder(3, shape, widths=WIDTHS, **KINDS[kind])
    assert encoder(torch.randn(2, *shape)).shape == (2, 9)
    assert decoder(torch.randn(2, 3)).shape == (2, *shape)
    assert encoder.out_features == 9


@pytest.mark.parametrize("shape", SHAPES)
def test_default_widths_fit_any_image(shape):
    assert nets.ConvEncoder(shape)(torch.randn(1, *shape)).shape == (1, 256)
    assert nets.ConvDecoder(3, shape)(torch.randn(1, 3)).shape == (1, *shape)


def made():
    yield nets.ConvEncoder((1, 5, 7), 9, widths=WIDTHS, norm=True), (1, 5, 7), (9,)
    yield nets.ConvDecoder(3, (1, 5, 7), widths=WIDTHS, norm=True), (3,), (1, 5, 7)
    yield nets.Linear((2, 3), (4, 5)), (2, 3), (4, 5)
    yield nets.MLP(3, (1, 4, 4), hidden=(8,)), (3,), (1, 4, 4)
    yield nets.MLP((1, 4, 4), 3, hidden=()), (1, 4, 4), (3,)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("number", range(5))
def test_leading_axes_are_restored(number, lead):
    net, in_shape, out_shape = list(made())[number]
    v = torch.randn(*lead, *in_shape)
    y = net(v)
    assert y.shape == (*lead, *out_shape)
    one_by_one = [net(point) for point in v.reshape(-1, *in_shape)]
    if one_by_one:
        torch.testing.assert_close(y.reshape(-1, *out_shape), torch.stack(one_by_one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize(
    "net",
    [
        nets.ConvDecoder(3, (2, 5, 7), widths=WIDTHS, heads=2),
        nets.MLP(3, (2, 5, 7), hidden=(8,), heads=2),
        nets.Linear(3, (2, 5, 7), heads=2),
    ],
    ids=["conv", "mlp", "linear"],
)
def test_two_heads_are_two_outputs(net, lead):
    mu, r = net(torch.randn(*lead, 3))
    assert mu.shape == r.shape == (*lead, 2, 5, 7)
    assert not lead or 0 in lead or not torch.equal(mu, r)


def test_each_head_has_gradients_of_its_own():
    net = nets.ConvDecoder(3, (2, 5, 7), widths=WIDTHS, heads=2)
    mu, _ = net(torch.randn(4, 3))
    mu.sum().backward()
    used = net.body[-1].bias.grad != 0
    assert used.tolist() == [True, True, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_no_point_sees_its_batch(kind):
    net = nets.ConvEncoder((1, 9, 9), 5, widths=WIDTHS, **KINDS[kind]).double()
    x = torch.randn(6, 1, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 8, 3), (1, 1, 1)])
def test_small_images_are_refused(shape):
    with pytest.raises(ValueError, match="at least 4x4"):
        nets.ConvEncoder(shape)
    with pytest.raises(ValueError, match="at least 4x4"):
        nets.ConvDecoder(3, shape)


@pytest.mark.parametrize(("number", "wrong"), [(0, (2, 1, 7, 5)), (0, (35,)), (1, (2, 4)), (2, (2, 6)), (3, (4,))])
def test_points_of_another_shape_are_refused(number, wrong):
    net, *_ = list(made())[number]
    with pytest.raises(ValueError, match="expected"):
        net(torch.zeros(wrong))


def test_every_pixel_depends_on_the_code_and_every_feature_on_the_image():
    decoder = nets.ConvDecoder(3, (1, 7, 5), widths=WIDTHS)
    a, b = decoder(torch.randn(2, 3))
    assert (a != b).all()
    encoder = nets.ConvEncoder((1, 7, 5), 9, widths=WIDTHS)
    x = torch.randn(1, 7, 5, requires_grad=True)
    encoder(x).sum().backward()
    assert (x.grad != 0).all()


def test_linear_is_linear():
    net = nets.Linear((2, 3), (1, 4)).double()
    u, v = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(net(u + v) + net(torch.zeros_like(u)), net(u) + net(v), rtol=1e-12, atol=1e-12)


def test_the_activation_is_the_one_asked_for():
    for net in (
        nets.ConvEncoder((1, 8, 8), activation=nn.Tanh, residual=True),
        nets.ConvDecoder(3, (1, 8, 8), activation=nn.Tanh),
        nets.MLP(3, 4, activation=nn.Tanh),
    ):
        kinds = {type(m) for m in net.modules()}
        assert nn.Tanh in kinds and kinds.isdisjoint({nn.GELU, nn.ELU, nn.ReLU})


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
@pytest.mark.parametrize(("in_shape", "out_shape"), [((), 2), (3, ()), ((), ())])
def test_a_number_is_a_point_of_a_perceptron(in_shape, out_shape, lead):
    net = nets.MLP(in_shape, out_shape, (5,))
    v = torch.randn((*lead, *([] if in_shape == () else [3])))
    made, rows = net(v), v.reshape(-1, *v.shape[len(lead) :])
    assert made.shape == (*lead, *([] if out_shape == () else [2]))
    assert torch.allclose(made, torch.stack([net(row) for row in rows]).reshape(made.shape), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 11, 6)])
def test_convolutions_in_channels_last_are_those_of_torch(size, monkeypatch):
    v, t = torch.randn(5, *size), torch.randn(5, 4)
    pair = nets.ConvEncoder(size, 7, norm=True, residual=True), nets.ConvDecoder(4, size, residual=True)
    found = [net(x) for net, x in zip(pair, (v, t), strict=True)]
    assert convolution.channels_last(v).is_contiguous(memory_format=torch.channels_last)
    assert all(p.is_contiguous() for net in pair for p in net.parameters())  # as optimizers and checkpoints have them
    alone = torch.func.vmap(pair[0])(v.unsqueeze(1)).squeeze(1)
    monkeypatch.setattr(convolution, "channels_last", lambda v: v)
    for net, x, y in zip(pair, (v, t), found, strict=True):
        torch.testing.assert_close(net(x), y, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone, found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (2, 16, 7, 5), (1, 2, 1, 3)])
def test_doubling_to_one_channel_is_the_transposed_convolution_of_torch(shape):
    torch.manual_seed(0)
    layer = convolution.Up(shape[1], 1, (4, 4)).double()
    v = torch.randn(shape, dtype=torch.double, requires_grad=True)
    wrt, found, truth = (v, *layer.parameters()), layer(v), nn.ConvTranspose2d.forward(layer, v)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
    weights = torch.randn_like(truth)
    pairs = zip(*(torch.autograd.grad(y, wrt, weights) for y in (found, truth)), strict=True)
    for gradient, expected in pairs:
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-11)


def test_jacobians_and_stacks_of_layers_that_double_are_those_of_torch():
    torch.manual_seed(0)
    layer, v = convolution.Up(3, 1, (4, 4)).double(), torch.randn(2, 3, 4, 4, dtype=torch.double)
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda s: layer(s * v)))(torch.tensor([1.0, 2.0]).double())
    torch.testing.assert_close(jacobian, (layer(v) - layer.bias).expand(2, *layer(v).shape))
    stacked = {"weight": torch.randn(4, 3, 1, 4, 4).double(), "bias": torch.randn(4, 1).double()}
    made = torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (v,)))(stacked)
    for one, weight, bias in zip(made, *stacked.values(), strict=True):
        torch.testing.assert_close(one, nn.functional.conv_transpose2d(v, weight, bias, stride=2, padding=1))


@pytest.mark.parametrize(("kernel", "channels", "taken"), [((4, 4), 1, True), ((4, 3), 1, False), ((4, 4), 2, False)])
def test_only_layers_that_double_to_one_channel_are_computed_so(kernel, channels, taken, monkeypatch):
    calls, doubled = [], convolution.doubled
    monkeypatch.setattr(convolution, "doubled", lambda v, weight: calls.append(len(v)) or doubled(v, weight))
    monkeypatch.setattr(convolution, "BLOCK", 2 * 30)  # two images at a time
    layer, v = convolution.Up(3, channels, kernel), torch.randn(5, 3, 6, 5)
    torch.testing.assert_close(layer(v), nn.ConvTranspose2d.forward(layer, v))
    assert calls == ([2, 2, 1] if taken else [])
    torch.testing.assert_close(layer(v[0]), nn.ConvTranspose2d.forward(layer, v[0]))


def test_a_decoder_is_exported_for_batches_of_any_size():
    net = nets.ConvDecoder(2, (1, 8, 8), widths=WIDTHS)
    program = torch.export.export(net, (torch.randn(5, 2),), dynamic_shapes=({0: torch.export.Dim("n")},))
    for n in (1, 3, 700):
        t = torch.randn(n, 2)
        torch.testing.assert_close(program.module()(t), net(t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [0, 2, 3, 4, 50])
def test_a_linear_map_to_images_has_the_pixels_of_torch(number):
    torch.manual_seed(0)
    layer, v = convolution.ToImages(3, (2, 4, 5)), torch.randn(number, 3, requires_grad=True)
    found, truth = layer(v), nn.Linear.forward(layer, v).unflatten(-1, (2, 4, 5))
    torch.testing.assert_close(found, truth)
    assert found.movedim(-3, -1).is_contiguous() == (number > 3 or number == 0)  # in the order of convolutions
    wrt, weights = (v, *layer.parameters()), torch.randn_like(truth)
    pairs = zip(*(torch.autograd.grad(y, wrt, weights) for y in (found, truth)), strict=True)
    for gradient, expected in pairs:
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_names_of_parameters_of_a_decoder_are_those_of_files_of_older_versions():
    names = [f"body.{layer}.{part}" for layer in (0, 3, 5, 7, 9) for part in ("weight", "bias")]
    assert list(nets.ConvDecoder(2, (1, 28, 28)).state_dict()) == names
