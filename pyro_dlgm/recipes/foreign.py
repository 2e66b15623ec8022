r"""`adopt`: makes a pair (model, guide) from a decoder trained elsewhere, with or without its encoder."""

import copy
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn

from ..guides.amortized import Amortized
from ..guides.base import Guide
from ..guides.per_point import MeanField
from ..likelihoods.bernoulli import Bernoulli
from ..likelihoods.counts.likelihood import Poisson
from ..likelihoods.normal import FixedNormal
from ..messages import line
from ..model import DLGM
from ..priors.normal import StandardNormal
from ..seeding import forked
from .frozen import SPREADS, Decoder, Encoded, Frozen, Probabilities, Spread, parts

CODES = 8  # codes with which a decoder is checked
OUTPUTS = ("logits", "probabilities", "mean", "mean_and_spread", "log_rate")


def adopt(
    decoder: nn.Module,
    x: Tensor,
    latent_dim: int,
    *,
    outputs: str | Callable[[nn.Module], nn.Module],
    scale: float | Tensor | None = None,
    encoder: nn.Module | None = None,
    spread: str = "log_variance",
    prior: nn.Module | None = None,
) -> tuple[DLGM, Guide]:
    r"""Creates a pair from a decoder that was trained elsewhere, for `evaluate.infer`, `ais`, `gaps` and reports.

    The model is p(t) p(x | t) with that decoder, frozen. It uses copies in eval mode: the given modules keep their
    flags, gradients and parameters, and training them later has no effect on the pair.

    Arguments:
        decoder: a module from codes (n, D) to parameters of p(x | t), with as many numbers per code as a point has.
        x: points (B, ...), which give the shape of a point and are checked against the likelihood.
        latent_dim: the number D of latents.
        outputs: what the decoder returns. "logits" or "probabilities" of zeros and ones; the "mean" of a Gaussian of
            known ``scale``; "mean_and_spread", a pair; "log_rate" of counts; or a function from the decoder, as a
            network, to the likelihood.
        scale: σ of "mean", in the units of x: one number, or a tensor of a point's shape.
        encoder: a module from x to a pair of tensors (B, D), mean and spread of a Gaussian q; or to features (B, H),
            from which `fit` can learn q, with w and the encoder frozen. Without an encoder the guide has a row for each
            point of x, for `evaluate.infer` to fit.
        spread: the form of the second output of a pair: "log_variance", "log_scale", "variance" or "scale".
        prior: the prior of the codes; by default N(0, I).

    Returns:
        (model, guide): a `DLGM`, and a guide of the family "mean_field".

    Raises:
        ValueError: if decoder or encoder do not accept codes or x, or return unexpected outputs, or if x does not fit
            the likelihood.

    Example:
        >>> import torch
        >>> from pyro_dlgm import adopt, evaluate
        >>> decoder, x = torch.nn.Linear(2, 16), torch.rand(5, 1, 4, 4).bernoulli()
        >>> model, guide = adopt(decoder, x, 2, outputs="logits")
        >>> q = evaluate.infer(model, guide, x, seed=0)
        >>> evaluate.ais(model, q, x, torch.arange(5), 4, 20, seed=0).log_px.shape
        torch.Size([5])
    """
    _check(x, latent_dim, outputs, scale, spread)
    frozen = _frozen(decoder, "decoder")
    made = _decoded(frozen, x, latent_dim)
    net = Decoder(frozen, latent_dim, tuple(x.shape[1:]), len(made))
    likelihood = outputs(net) if callable(outputs) else _likelihood(net, made, outputs, scale, spread)
    prior = StandardNormal(latent_dim) if prior is None else copy.deepcopy(prior)
    model = DLGM(prior, likelihood).to(made[0].device, made[0].dtype)
    model.requires_grad_(False).eval()
    model.check(x)
    if encoder is None:
        return model, MeanField(len(x), latent_dim).to(made[0])
    return model, _guide(encoder, x, latent_dim, spread)


def _check(x, latent_dim: int, outputs, scale, spread: str) -> None:
    if not isinstance(x, Tensor) or x.dim() < 2 or len(x) == 0:
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x is {found}; expected a tensor of points (B, ...), B >= 1")
    if latent_dim < 1:
        raise ValueError(f"latent_dim is {latent_dim}; expected the number of latents that the decoder takes")
    if not callable(outputs) and outputs not in OUTPUTS:
        raise ValueError(f"outputs is {outputs!r}; expected one of {', '.join(OUTPUTS)}, or a function of the network")
    if spread not in SPREADS:
        raise ValueError(f"spread is {spread!r}; expected one of {', '.join(SPREADS)}")
    if (scale is None) == (outputs == "mean"):
        raise ValueError(
            f"scale is {scale} and outputs {outputs!r}; expected both: the σ of x around a mean, or neither"
        )


def _decoded(decoder: Frozen, x: Tensor, D: int) -> tuple[Tensor, ...]:
    r"""Returns the checked outputs of the decoder for some codes, (n, ...) each."""
    weight = next((p for p in decoder.parameters() if p.is_floating_point()), x)
    with forked(0):
        codes = torch.randn(CODES, D).to(weight)
    made = _called(decoder, codes, "decoder", f"codes ({CODES}, {D})")
    P = prod(x.shape[1:])
    if any(len(y) != CODES or y[0].numel() != P for y in made) or len(made) > 2:
        raise ValueError(
            f"the decoder makes {_shapes(made)} of codes ({CODES}, {D}); expected one tensor, or two for a mean and a "
            f"spread, with {P} numbers per code, as points {tuple(x.shape[1:])} have: wrap it in a module that returns "
            "these"
        )
    return made


def _called(module: Frozen, v: Tensor, name: str, what: str) -> tuple[Tensor, ...]:
    r"""Returns the outputs of the module, as a tuple of tensors; generators are left unchanged."""
    try:
        with torch.no_grad(), forked(0):
            made = parts(module(v))
    except Exception as error:
        raise ValueError(
            f"the {name} raised {type(error).__name__} on {what} of {v.dtype} on {v.device} ({line(error)}); expected "
            "a module that takes them: wrap it in one that does"
        ) from error
    if not all(isinstance(y, Tensor) and y.dim() for y in made):
        raise ValueError(f"the {name} returns {', '.join(type(y).__name__ for y in made)}; expected tensors")
    return made


def _frozen(module: nn.Module, name: str) -> Frozen:
    if not isinstance(module, nn.Module):
        raise ValueError(f"the {name} is a {type(module).__name__}; expected a torch module: wrap it in one")
    return Frozen(module)


def _likelihood(net: Decoder, made: tuple[Tensor, ...], outputs: str, scale, spread: str) -> nn.Module:
    count = 2 if outputs == "mean_and_spread" else 1
    if len(made) != count:
        raise ValueError(f"the decoder makes {_shapes(made)}, {len(made)} tensors; {outputs!r} expects {count}")
    y = made[0]
    unit = bool(((y >= 0) & (y <= 1)).all())
    if (outputs == "logits" and unit) or (outputs == "probabilities" and not unit):
        other = {"logits": "probabilities", "probabilities": "logits"}[outputs]
        raise ValueError(
            f"outputs is {outputs!r}, and those of the decoder go from {y.min():g} to {y.max():g}, as {other} do; "
            f"expected outputs={other!r}"
        )
    likelihoods = {
        "logits": lambda: Bernoulli(net),
        "probabilities": lambda: Bernoulli(Probabilities(net)),
        "mean": lambda: FixedNormal(net, scale, learn=False, floor=0.0),
        "mean_and_spread": lambda: Spread(net, spread),
        "log_rate": lambda: Poisson(net),
    }
    return likelihoods[outputs]()


def _guide(encoder: nn.Module, x: Tensor, D: int, spread: str) -> Guide:
    frozen, B = _frozen(encoder, "encoder"), len(x[:CODES])
    made = _called(frozen, x[:CODES], "encoder", f"x {tuple(x[:CODES].shape)}")
    if len(made) == 1 and made[0].dim() == 2 and len(made[0]) == B:
        frozen.out_features = made[0].shape[1]
        return Amortized(frozen, D).to(made[0])
    if len(made) == 2 and all(len(y) == B and y[0].numel() == D for y in made):
        return Encoded(frozen, D, spread)
    raise ValueError(
        f"the encoder makes {_shapes(made)} of {B} points; expected two tensors ({B}, {D}), mean and {spread}, or one "
        f"of features ({B}, H): wrap it in a module that returns them"
    )


def _shapes(made: tuple[Tensor, ...]) -> str:
    return " and ".join(str(tuple(y.shape)) for y in made)
