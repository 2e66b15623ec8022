r"""Checks of what is optimized: programs with parameters, and objectives that can be differentiated."""

from pyro.infer import TraceMeanField_ELBO
from torch import nn

from ..guides.exact import Exact
from ..guides.laplace import Laplace
from ..guides.programs.outer import Outer
from ..nets.bfloat16 import BF16

CLIMBED = "objectives.ELBO, IWAE, DReG, Trace_ELBO or TraceMeanField_ELBO"


def check_program(name: str, program) -> None:
    r"""Raises a `TypeError` unless the program is a module, so that its parameters can be found and saved."""
    if isinstance(program, type) or program is None:
        said = f"the class {program.__name__}" if isinstance(program, type) else "None"
        raise TypeError(f"{name} is {said}; expected an instance: make one first")
    if not isinstance(program, nn.Module):
        said = "a function" if callable(program) else f"a {type(program).__name__}"
        raise TypeError(
            f"{name} is {said}, whose parameters cannot be found; expected a Pyro module: call it, or enter handlers "
            "(poutine.scale), in the forward of a PyroModule that holds them"
        )


def check_precision(precision: str | None, guide) -> None:
    r"""Raises a `ValueError` unless the precision of networks is "bf16" or `None`.

    It is also refused for a q that needs all digits of w: a closed form, or the result of steps that must converge.
    """
    if precision not in (None, BF16):
        raise ValueError(f"precision is {precision!r}; expected {BF16!r}, or None for that of the parameters")
    if precision is not None and isinstance(guide, Exact | Laplace):
        raise ValueError(
            f"precision is {precision!r} and the guide is {type(guide).__name__}, which solves for q with all digits "
            "of w; expected no precision, or another guide"
        )


def check_objective(objective) -> None:
    r"""Raises a `TypeError` unless the objective has a loss that can be differentiated for each batch."""
    kind = type(objective).__name__
    if isinstance(objective, type) or objective is None:
        said = f"the class {objective.__name__}" if isinstance(objective, type) else "None"
        raise TypeError(f"objective is {said}; expected an instance: make one first")
    if kind.startswith("Jit"):
        raise TypeError(
            f"objective is a {kind}, which compiles the program for one batch, with its parameters as constants; "
            f"expected {CLIMBED}"
        )
    if not hasattr(objective, "differentiable_loss"):
        raise TypeError(
            f"objective is a {kind}, which has no differentiable_loss(model, guide, ...); expected {CLIMBED}, or take "
            "pyro.infer.SVI for it"
        )


def check_jacobians(objective, guide) -> None:
    r"""Raises a `ValueError` if the objective leaves out the log-Jacobians of the guide of a program."""
    if isinstance(objective, TraceMeanField_ELBO) and isinstance(guide, Outer) and guide.has_jacobians:
        raise ValueError(
            "objective is a TraceMeanField_ELBO, which leaves out the log-Jacobians of latents that are not real "
            "(Pyro's KL of a Delta forgets its log_density); expected objectives.ELBO or Trace_ELBO"
        )
