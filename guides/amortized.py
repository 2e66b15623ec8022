r"""Amortized guides: a network computes the parameters of q(t | x) from x. They ignore the index."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..masks import filled
from ..nets.net import shapes_checked
from ..points import Points, joined
from ..program import evaluating
from ..storage.sums import widened
from .base import Guide
from .families import FAMILIES, Family, log_scale
from .per_point import PER_POINT, PerPoint

SCALING = ("centre", "spread")  # buffers that exist only if the encoder sees x standardized
FAR = 10.0  # up to this |mean| + standard deviation, a feature of x is passed to the encoder as it is
WILD = 20.0  # largest raw number of q at the start from which training works; a scale of e^20 is beyond it


class Amortized(Guide):
    r"""Creates q(t | x) = family(head(encoder(x))), the guide of a variational autoencoder.

    Arguments:
        encoder: a network from x (B, ...) to features (B, H), with H as its attribute ``out_features``, as every
            network of `nets` has it; or a sequence that ends with a linear layer.
        latent_dim: the number D of latents.
        family: "mean_field", N(m_φ(x), diag s_φ²(x)), or "full_rank", N(m_φ(x), L_φ(x) L_φ(x)ᵀ), or a function of D
            that makes another family.
        init_scale: the initial scale s of q.
        mask_input: whether the encoder sees the mask: then its input is (x·m, m), stacked along the channels of an
            image (..., 2C, H, W), or the features (..., 2P). Without it, it sees x·m alone.
        given_dim: the number C of columns of ``given``: the head sees [features | c]. With 0, q depends on x alone.
        latent, plate: names of the model's latent site and plate.

    Raises:
        ValueError: on an unknown family, fewer than one latent, a scale <= 0, or an encoder of unknown width.

    References:
        Kingma and Welling, "Auto-encoding variational Bayes" (2014). https://arxiv.org/abs/1312.6114
        Nazabal et al., "Handling incomplete heterogeneous data using VAEs" (2020), on x·m as the encoder's input.
        https://arxiv.org/abs/1807.03653
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        family: str | Callable[[int], Family] = "mean_field",
        *,
        init_scale: float = 1.0,
        mask_input: bool = False,
        given_dim: int = 0,
        **names: str,
    ):
        super().__init__(**names)
        if not callable(family) and family not in FAMILIES:
            raise ValueError(f"family is {family!r}; expected one of {', '.join(map(repr, FAMILIES))}")
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}; expected at least 1 latent")
        if given_dim < 0:
            raise ValueError(f"given_dim is {given_dim}; expected the number of columns of given, or 0 for none")
        self.family = family(latent_dim) if callable(family) else FAMILIES[family]
        self.latent_dim, self.mask_input = latent_dim, mask_input
        self.encoder, self.given_dim = encoder, given_dim
        self.head = nn.Linear(_features(encoder) + given_dim, self.family.width(latent_dim))
        for name in SCALING:
            self.register_buffer(name, None)
        with torch.no_grad():
            self.head.bias.copy_(self.family.start(torch.zeros(latent_dim), log_scale(init_scale)))

    def raw(self, x: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        r"""Returns the raw numbers of q for each point, (B, width): what a row of the per-point guide holds."""
        x, mask = filled(x, mask)
        x = x if x.is_floating_point() else x.to(self.head.weight.dtype)  # counts
        if self.spread is not None:
            x = (x - self.centre) / self.spread
            x = x if mask is None else torch.where(mask, x, 0)
        if self.mask_input:
            x = torch.cat([x, torch.ones_like(x) if mask is None else mask.to(x.dtype)], dim=1)
        features = self.encoder(x)
        return self.head(joined(features, self._given(given)) if self.given_dim else features)

    @torch.no_grad()
    def prepare(self, look: Callable[[], Points]) -> None:
        r"""Makes the encoder see x standardized if x is so far from unit scale that q could not be trained.

        In that case the mean and standard deviation of each column (of images: channel) of the points become buffers,
        and so part of checkpoints. Otherwise, and for a guide that has been trained, nothing changes.
        """
        points = look()
        self._check_encoder(points[:2])
        x, mask = filled(points.x, points.mask)
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = seen.sum(axes, keepdim=True).clamp_min(1)
        centre = widened(x).sum(axes, keepdim=True) / count
        spread = (torch.where(seen, x - centre, 0).square().sum(axes, keepdim=True) / count).sqrt()
        far = float((centre.abs() + spread).max()) > FAR
        if not far or float(self.raw(points.x, points.mask, points.given).abs().nan_to_num(torch.inf).max()) <= WILD:
            return
        spread = torch.where(spread > 0, spread, 1.0)
        self.centre, self.spread = (v[0].to(self.head.weight) for v in (centre, spread))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in SCALING:
            kept = state_dict.get(prefix + name)
            setattr(self, name, None if kept is None else kept.clone().to(self.head.weight))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def posterior(
        self, x: Tensor | None = None, index=None, mask: Tensor | None = None, given: Tensor | None = None
    ) -> dist.TorchDistribution:
        r"""Returns q(t | x), of batch shape (B,) and event shape (D,). The index is ignored.

        Raises:
            ValueError: if x is left out, or ``given`` does not have ``given_dim`` columns.
        """
        if x is None:
            raise ValueError(f"{type(self).__name__} computes q from x and got none: call it with the data, guide(x)")
        return self.family(self.raw(x, mask, given))

    def start(self, points: Points) -> PerPoint:
        r"""Creates the per-point guide of the same family, whose rows start at the encoder's q."""
        with torch.no_grad():
            raw = self.raw(points.x, points.mask, points.given)
        guide = PER_POINT[self.family.name](len(points), self.latent_dim, latent=self.latent, plate=self.plate)
        return guide.to(raw).set_rows(raw)

    def _check_encoder(self, points: Points) -> None:
        expected = f"a network from x (B, {', '.join(map(str, points.x.shape[1:]))}) to features (B, H)"
        with evaluating(self), shapes_checked(f"the encoder {type(self.encoder).__name__}", points.x.shape, expected):
            self.raw(points.x, points.mask, points.given)

    def _given(self, given: Tensor | None) -> Tensor:
        if given is None or given.shape[-1] != self.given_dim:
            what = None if given is None else f"of shape {tuple(given.shape)}"
            raise ValueError(f"given is {what}; expected (B, C) with C = {self.given_dim}, this guide's given_dim")
        return given


def _features(encoder: nn.Module) -> int:
    r"""Returns the number of features: that of the encoder, or of the last layer in it that says one."""
    if hasattr(encoder, "out_features"):
        return encoder.out_features
    widths = [m.out_features for m in encoder.modules() if hasattr(m, "out_features")]
    if not widths:
        raise ValueError(
            f"{type(encoder).__name__} does not say how many features it returns; give it an attribute out_features"
        )
    return widths[-1]
