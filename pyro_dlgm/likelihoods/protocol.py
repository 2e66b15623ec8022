r"""What a model asks of the modules that it is made of."""

from inspect import Parameter, signature

from torch import nn

from .base import Conditional

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def check_parts(prior, likelihood) -> None:
    r"""Raises a `TypeError` unless both are modules, in their order, and the likelihood takes a mask."""
    for name, part in (("prior", prior), ("likelihood", likelihood)):
        if not isinstance(part, nn.Module):
            said = f"the class {part.__name__}" if isinstance(part, type) else f"a {type(part).__name__}"
            raise TypeError(
                f"{name} is {said}; expected a module, such as DLGM(priors.StandardNormal(D), "
                "likelihoods.FixedNormal(net))"
            )
    if isinstance(prior, Conditional):
        raise TypeError(f"prior is {type(prior).__name__}, a likelihood; expected DLGM(prior, likelihood)")
    _check_mask(likelihood)


def _check_mask(likelihood: nn.Module) -> None:
    r"""Raises a `TypeError` unless the second argument of ``forward`` may be a mask."""
    arguments = signature(likelihood.forward).parameters.values()
    if any(a.kind is Parameter.VAR_POSITIONAL for a in arguments):
        return
    names = [a.name for a in arguments if a.kind in POSITIONAL]
    if len(names) < 2 or names[1] == "given":
        raise TypeError(
            f"{type(likelihood).__name__}.forward takes ({', '.join(names)}); expected forward(t, mask=None), or "
            "forward(t, mask=None, given=None): return p.mask(mask) where there is a mask; or derive from "
            "likelihoods.Likelihood, and write pixels(t) in place of forward"
        )
