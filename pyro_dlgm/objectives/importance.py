r"""Bounds from K importance weights of each point, as losses: w_k = p(x, t_k | w) / q(t_k | x), t_k ~ q.

The log-mean-exp is taken over the samples of each point, and then scaled by N/B:

    IWAE-K = (N/B) Σ_i log (1/K) Σ_k w_ik  <=  Σ_i log p(x_i | w)   (in expectation).

Its gradient is Σ_k w̃_k ∇ log w_k, w̃ the normalized weights. Of each chunk of samples only the log-weights are stored;
the backward pass, in which w̃ is known, computes it a second time with the same noise. So memory does not grow with K.

Latents outside the plate over data, such as a Bayesian w, are drawn once for all samples and points. With g ~ q(g), log
p(g) − log q(g) and factors outside the plate are added after the log-mean-exp, so that the total bounds log p(X).

References:
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016). https://arxiv.org/abs/1509.00519
    Rainforth, Kosiorek, Le, Maddison, Igl, Wood, Teh, "Tighter variational bounds are not necessarily better" (2018).
    https://arxiv.org/abs/1802.04537
"""

import math
from collections.abc import Iterator

import torch
from pyro.distributions.util import is_validation_enabled
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .log_weights import Weights, log_weights
from .loss import Loss
from .pair import Doubly, Pair

NUMBERS = 2**23  # numbers of x times samples to compute together


class IWAE(Loss):
    r"""Creates the loss −IWAE-K for reparametrized guides with a density, in nats, summed over points.

    The signal-to-noise ratio of the guide's gradient falls with K, as 1/√K; `DReG` corrects this.

    Arguments:
        num_samples: the number K of samples of each point.
        chunk_size: the number of samples computed together; by default as many as make about eight million numbers of
            x. With 1 there is no axis of samples, for programs that cannot take one.
        plate: the name of the plate over data; by default that of model or guide, else any plate at dimension −1.
        max_plate_nesting: the number of dimensions that the plates of the program take.

    Attributes:
        bound: the name in the history of `fit`, "iwae_50" for K = 50.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from pyro_dlgm import PPCA, guides
        >>> model, x = PPCA(2, 5), torch.zeros(3, 5)
        >>> loss = IWAE(1000).loss(model, guides.Exact(model), x)
        >>> abs(loss + float(model.log_prob(x).sum())) < 1e-4
        True
    """

    _kind = Pair

    def __init__(
        self, num_samples: int, *, chunk_size: int | None = None, plate: str | None = None, max_plate_nesting: int = 1
    ):
        for name, value in {"num_samples": num_samples, "chunk_size": 1 if chunk_size is None else chunk_size}.items():
            if not (value >= 1 and value == int(value)):
                raise ValueError(f"{name} is {value}; expected a whole number, at least 1")
        super().__init__(num_samples, max_plate_nesting, vectorize_particles=True)
        self.chunk_size, self.plate, self.bound = chunk_size, plate, f"iwae_{num_samples}"

    def differentiable_loss(self, model, guide, *args, **kwargs) -> Tensor:
        r"""Returns the loss as a scalar tensor, in nats, with its graph.

        Raises:
            TypeError: if the guide has no density.
            ValueError: if sites of a point have different scales, or a factor outside the plate depends on latents of
                points.
        """
        pair = self._pair(model, guide, args, kwargs)
        parts = list(self._parts(pair))
        table = torch.cat([part.table for part in parts])
        pair.shares = table.detach().softmax(0)
        bounds = table.logsumexp(0) - math.log(len(table))
        return -((parts[0].scale * bounds).sum() + parts[0].outside)

    def _pair(self, model, guide, args, kwargs) -> Pair:
        pair = self._kind(model, guide, args, kwargs, self.plate, self.max_plate_nesting)
        if is_validation_enabled():
            pair.check(min(2, self.num_particles))
        if len(self._chunks(pair)) > 1:
            pair.draw_outside()
        return pair

    def _parts(self, pair: Pair) -> Iterator[Weights]:
        chunks = self._chunks(pair)

        def compute(rows: slice, *args, **kwargs) -> Weights:
            return log_weights(*pair.traces(rows, args, kwargs), pair.plate, rows.stop - rows.start)

        for rows in chunks:
            if len(chunks) == 1:
                yield compute(rows, *pair.args, **pair.kwargs)
                continue
            # Early stopping would leave plates and handlers of the program open.
            with set_checkpoint_early_stop(False):
                yield checkpoint(compute, rows, *pair.args, use_reentrant=False, **pair.kwargs)

    def _chunks(self, pair: Pair) -> list[slice]:
        K = self.num_particles
        size = self.chunk_size or max(1, NUMBERS // pair.numbers)
        return [slice(k, min(k + size, K)) for k in range(0, K, size)]

    def _get_traces(self, model, guide, args, kwargs):
        r"""Yields the traces chunk by chunk, in which `SVI` looks for values that are not finite."""
        pair = self._pair(model, guide, args, kwargs)
        for rows in self._chunks(pair):
            yield pair.traces(rows, args, kwargs)


class DReG(IWAE):
    r"""Creates the loss −IWAE-K with the doubly reparametrized gradient of the guide.

    The loss is that of `IWAE`. Its gradient by w is Σ_k w̃_k ∂ log w_k. The gradient by the guide's parameters flows
    through the samples alone, with the parameters fixed in log q:

        Σ_k w̃_k² (∂ log w_k / ∂ t_k) (∂ t_k / ∂ φ),

    which has the same expectation and a signal-to-noise ratio that grows as √K. The guide is called twice.

    Arguments and errors are those of `IWAE`. If q of local latents depends on global ones, these are fixed as well.

    References:
        Tucker, Lawson, Gu, Maddison, "Doubly reparameterized gradient estimators for Monte Carlo objectives" (2019).
        https://arxiv.org/abs/1810.04152
    """

    _kind = Doubly
