r"""Semi-amortized guides: the encoder's q, refined for each point by a few steps up F."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import pyro_method
from torch import Tensor

from ..points import Points
from ..shared import Shared
from .amortized import Amortized
from .ascent import Refined, noise, refined
from .base import Guide
from .families import FullRankFamily, Gaussian
from .per_point import PerPoint


class SemiAmortized(Guide):
    r"""Creates q(t | x): the q of an encoder, refined by ``steps`` steps up F(q, w) for this x and the current w.

    From the encoder's raw numbers λ_0 of x, natural-gradient steps ascend

        F̂(λ) = (1/S) Σ_k log p(x, m + L ε_k | w) + H(q_λ)

    separately for each point, in the coordinates in which q is N(0, I): the mean moves by q's covariance times the
    gradient. A step that would lower F̂ is not taken. The noise ε is fixed by ``seed`` and the same for each point, so
    that q is a function of x, φ and w alone. With 0 steps q is the encoder's.

    Training: with ``through=False`` q is a constant for the M-step, and the encoder ascends its own F̂(λ_0), whose
    gradient is a by-product of the first step (Krishnan et al.) and enters through a factor of the guide, of value 0.
    With ``through=True`` F(λ_K) is differentiated through the steps, by φ and by w (Kim et al.), which takes second
    derivatives of log p(x, t | w), and memory for all steps.

    The parameters are those of the encoder. The model is held outside the module tree, as in `Exact`.

    Arguments:
        model: a `DLGM`.
        guide: an `Amortized` guide of a Gaussian family.
        steps: the number K of steps.
        num_samples: the number S of draws of ε, even. `None`: 2D, both signs of D orthogonal directions, with which F̂
            is F where log p(x, t | w) is quadratic in t. With fewer, q fits these draws more than the posterior.
        through: whether gradients go through the steps.
        seed: the seed of the noise.

    Attributes:
        refined: the result of the last call, an `ascent.Refined`, with F̂ ``before`` and ``after``, (B,); `None` with 0
            steps.
        gradients: gradient evaluations of log p(x, t | w) so far.

    Raises:
        TypeError: if ``guide`` is not an `Amortized` guide of a Gaussian family.
        ValueError: if a number is out of range, or there are too few samples for full rank.

    References:
        Kim, Wiseman, Miller, Sontag, Rush, "Semi-amortized variational autoencoders" (2018).
        https://arxiv.org/abs/1802.02550
        Marino, Yue, Mandt, "Iterative amortized inference" (2018). https://arxiv.org/abs/1807.09356
        Krishnan, Liang, Hoffman, "On the challenges of learning with inference networks on sparse, high-dimensional
        data" (2018). https://arxiv.org/abs/1710.06085
        Giordano, Ingram, Broderick, "Black box variational inference with a deterministic objective: faster, more
        accurate, and even more black box" (2024), on fixed noise. https://arxiv.org/abs/2304.05527

    Example:
        >>> from pyro_dlgm import PPCA, nets
        >>> ppca = PPCA(2, 5)
        >>> encoder = Amortized(nets.MLP(5, 8, hidden=(16,)), 2)
        >>> guide = SemiAmortized(ppca, encoder, steps=5)
        >>> q = guide.posterior(torch.randn(3, 5))
        >>> bool((guide.refined.after >= guide.refined.before).all())
        True
    """

    def __init__(
        self,
        model,
        guide: Amortized,
        steps: int = 5,
        *,
        num_samples: int | None = None,
        through: bool = False,
        seed: int = 0,
    ):
        super().__init__(latent=model.latent, plate=model.plate)
        _check(guide, steps, num_samples)
        self.num_samples = 2 * guide.latent_dim if num_samples is None else num_samples
        self.steps, self.through, self.seed = steps, through, seed
        self.guide, self._model = guide, Shared((model,))
        self.refined, self.gradients = None, 0

    @property
    def latent_dim(self) -> int:
        r"""The number D of latents."""
        return self.guide.latent_dim

    def posterior(
        self, x: Tensor | None = None, index=None, mask: Tensor | None = None, given: Tensor | None = None
    ) -> dist.TorchDistribution:
        r"""Returns the refined q(t | x), of batch shape (B,) and event shape (D,). The index is ignored.

        Raises:
            ValueError: if x is left out.
            RuntimeError: in inference mode, which has no gradients.
        """
        return self.guide.family(self._raw(Points(x, None, mask, given))[0])

    @pyro_method
    def datum(
        self, x: Tensor | None = None, index: Tensor | None = None, mask: Tensor | None = None, *, given=None
    ) -> Tensor:
        r"""Samples t from the refined q; in training mode, adds the factor that trains the encoder."""
        raw, pull = self._raw(Points(x, None, mask, given))
        if self.training and pull is not None:
            pyro.factor(f"{self.latent}_encoder", pull.detach() - pull, has_rsample=True)
        return pyro.sample(self.latent, self.guide.family(raw), infer={"analytic_kl": self.analytic_kl})

    def cost(self, visits: int) -> int:
        r"""Returns the gradient evaluations over ``visits`` visits: those of the steps, and one for each M-step."""
        return visits * (self._each() + 1)

    def prepare(self, look: Callable[[], Points]) -> None:
        r"""Prepares the encoder for the scale of x, as `Amortized.prepare`."""
        self.guide.prepare(look)

    def start(self, points: Points) -> PerPoint:
        r"""Creates the per-point guide of the same family, whose rows start at the refined q."""
        return self.guide.start(points).set_rows(self._raw(points)[0].detach())

    def _each(self) -> int:
        r"""Returns the gradient evaluations of refining one point; a second derivative counts as two."""
        return self.num_samples * (self.steps + 1 + (2 * self.steps if self.through else 0)) if self.steps else 0

    def _raw(self, points: Points) -> tuple[Tensor, Tensor | None]:
        r"""Returns raw numbers of the refined q, (B, width), and None or a (B,) with the encoder's gradient of F̂."""
        if points.x is None:
            raise ValueError("SemiAmortized computes q from x and got none: call it with the data, guide(x)")
        first = self.guide.raw(points.x, points.mask, points.given)
        if self.steps == 0:
            return first, None
        found = self._refine(points, first)
        self.refined = Refined(*(part.detach() for part in found))
        if self.through:
            return found.raw if torch.is_grad_enabled() else found.raw.detach(), None
        return found.raw.detach(), (found.by_raw * first).sum(-1)

    def _refine(self, points: Points, raw: Tensor) -> Refined:
        r"""Ascends F̂ block by block, with the modules of the model in eval mode, so that points are independent."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("SemiAmortized needs gradients and was called under inference_mode(); leave it first")
        epsilon = noise(self.num_samples, self.latent_dim, self.seed)
        through = self.through and raw.requires_grad
        found = refined(self._model[0], points, self.guide.family, raw, self.steps, epsilon, through=through)
        self.gradients += len(raw) * self._each()
        return found


def _check(guide, steps: int, num_samples: int | None) -> None:
    if not isinstance(guide, Amortized) or not isinstance(guide.family, Gaussian):
        what = guide.family.name if isinstance(guide, Amortized) else type(guide).__name__
        raise TypeError(f"guide is {what}; expected guides.Amortized of a Gaussian family, whose q it refines")
    if not (steps >= 0 and steps == int(steps)):
        raise ValueError(f"steps is {steps}; expected a whole number, 0 for the encoder's q")
    if num_samples is None:
        return
    least = 2 * guide.latent_dim if isinstance(guide.family, FullRankFamily) else 2
    if not (num_samples >= least and num_samples % 2 == 0):
        raise ValueError(
            f"num_samples is {num_samples}; expected an even number, at least {least} for the family "
            f"{guide.family.name} with {guide.latent_dim} latents: both signs of each direction"
        )
