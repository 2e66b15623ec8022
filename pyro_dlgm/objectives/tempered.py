r"""A handler for β, the weight of the KL term."""

from pyro.distributions.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .sites import point_frame


class Tempered(Messenger):
    r"""Creates the handler that scales the log-density of every latent of the points by β.

    Around model *and* guide it makes F into E_q[log p(x | t)] − β KL(q ‖ p): ``SVI(Tempered(0.5)(model),
    Tempered(0.5)(guide), ...)``. Around only one of them the objective is a different one. The densities of global
    latents, outside the plate over data, stay as they are.

    Arguments:
        beta: β >= 0, a number or a scalar tensor.
        plate: the name of the plate over data, at any dimension; `None`: any plate at dimension −1.

    References:
        Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational framework" (2017).
    """

    def __init__(self, beta: float, plate: str | None = None):
        super().__init__()
        self.beta, self.plate = weight(beta), plate

    def _pyro_sample(self, msg) -> None:
        if not msg["is_observed"] and point_frame(msg, self.plate) is not None:
            msg["scale"] = msg["scale"] * self.beta


def weight(beta):
    r"""Returns β; raises a `ValueError` unless it is a number >= 0."""
    # A tensor is checked only if Pyro's validation is on: reading it waits for the device.
    if (not isinstance(beta, Tensor) or is_validation_enabled()) and not beta >= 0:
        raise ValueError(f"beta is {beta}; expected a number >= 0")
    return beta
