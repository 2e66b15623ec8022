r"""The exact posterior as a guide, for models that have it in closed form."""

import pyro.distributions as dist
from torch import Tensor

from ..shared import Shared
from .base import Guide


class Exact(Guide):
    r"""Creates q(t | x) = p(t | x, w) for a model with a closed-form posterior, as `PPCA`: exact EM.

    It has no parameters and keeps the gradient through q: log p(x, t | w) − log q(t | x) equals log p(x | w) for every
    t, with zero variance, so that ascending F over w ascends the evidence.

    The model is held outside the module tree: ``guide.parameters()`` is empty, ``.to()`` and ``state_dict`` skip the
    model, and a deep copy of the guide alone shares it (`copy.deepcopy((model, guide))` copies the pair).

    Arguments:
        model: a model with ``posterior(x, mask)``.

    Raises:
        TypeError: if the model has no closed-form posterior.
    """

    # The sampled log p(t) − log q(t) cancels the noise of log p(x | t) exactly; its expectation does not.
    analytic_kl = False

    def __init__(self, model):
        if not hasattr(model, "posterior"):
            raise TypeError(
                f"{type(model).__name__} has no closed-form posterior; expected a model that has one, such as PPCA: "
                "choose another guide"
            )
        super().__init__(latent=model.latent, plate=model.plate)
        self._model = Shared((model,))

    def posterior(
        self, x: Tensor | None = None, index=None, mask: Tensor | None = None, **side: Tensor
    ) -> dist.TorchDistribution:
        r"""Returns p(t | x, w), of batch shape (B,) and event shape (D,). The index is ignored.

        Raises:
            ValueError: if x is left out.
        """
        if x is None:
            raise ValueError("Exact computes q from x and got none: call it with the data, guide(x)")
        return self._model[0].posterior(x, mask, **side)
