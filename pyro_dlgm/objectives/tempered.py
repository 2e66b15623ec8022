r"""β, the weight of the KL term, as a handler."""

from pyro.distributions.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor


class Tempered(Messenger):
    r"""Creates the handler that scales the log-density of every latent site of the points by β.

    F becomes E_q[log p(x | t)] − β KL(q ‖ p) if it is around model *and* guide; around one of them it is another
    objective. With it: ``SVI(Tempered(0.5)(model), Tempered(0.5)(guide), ...)``. Global latents, which are outside of
    the plate over data, keep their densities.

    Arguments:
        beta: β >= 0, a number or a scalar tensor.
        plate: the name of the plate over data, wherever it is; `None`: any plate at dimension −1.

    References:
        Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational framework" (2017).
    """

    def __init__(self, beta: float, plate: str | None = None):
        super().__init__()
        self.beta, self.plate = weight(beta), plate

    def _pyro_sample(self, msg) -> None:
        frames = msg["cond_indep_stack"]
        local = any(f.dim == -1 if self.plate is None else f.name == self.plate for f in frames)
        if local and not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta


def weight(beta):
    r"""Returns β; a `ValueError` unless it is a number >= 0."""
    # Of a tensor only where Pyro validates: reading it waits for the device.
    if (not isinstance(beta, Tensor) or is_validation_enabled()) and not beta >= 0:
        raise ValueError(f"beta is {beta}; expected a number >= 0")
    return beta
