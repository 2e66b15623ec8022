r"""Constant supports of latent sites, whose transforms from unconstrained numbers are the same for each point."""

import copy

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to


def constant(support, batch_dim: int):
    r"""Returns a support with bounds without batch axes; `None` if they differ between points or need gradients.

    Arguments:
        support: a constraint of torch.
        batch_dim: the number of batch axes of the site.
    """
    base = getattr(support, "base_constraint", None)
    if base is not None:
        inner = constant(base, batch_dim)
        return None if inner is None else constraints.independent(inner, support.reinterpreted_batch_ndims)
    made = copy.copy(support)
    for name, bound in vars(support).items():
        if isinstance(bound, Tensor):
            one = _one(bound, batch_dim)
            if one is None:
                return None
            setattr(made, name, one)
    return made


def _one(bound: Tensor, batch_dim: int) -> Tensor | None:
    first = bound.detach()
    for _ in range(min(batch_dim, bound.dim())):
        first = first[0]
    return first.clone() if bool((bound == first).all()) and not bound.requires_grad else None


def same(one, two) -> bool:
    r"""Returns whether two supports, as returned by `constant`, are equal."""
    if type(one) is not type(two) or vars(one).keys() != vars(two).keys():
        return False
    return all(_equal(a, vars(two)[name]) for name, a in vars(one).items())


def _equal(a, b) -> bool:
    if isinstance(a, constraints.Constraint):
        return same(a, b)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return bool(a == b)


def is_identity(transform) -> bool:
    r"""Returns whether a transform of `biject_to` is the identity, as for a real support."""
    while hasattr(transform, "base_transform"):
        transform = transform.base_transform
    return transform == biject_to(constraints.real)
