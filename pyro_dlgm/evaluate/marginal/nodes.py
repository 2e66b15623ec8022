r"""log p(x_i, t_c | w) of many pairs of a point i and a node t_c of a grid, where points share nodes."""

from itertools import pairwise

import torch
from torch import Tensor

from ...likelihoods.bernoulli import Bernoulli
from ...model import DLGM

NUMBERS = 2**21  # values of x that are compared with their distribution, or decoded, at a time
NODES = 2**8  # that are decoded at a time, at most
SIDE = 16  # cells; neighbours are decoded together, since much the same points ask for them
CUBES = 2**12  # in a row, on the widest grid with the finest cells


def shares(model) -> bool:
    r"""Whether log p(x, t | w) is log p(t) and an entry of the likelihood's table.

    What is derived from either class may have changed its density without its table, and then goes pair by pair.
    """
    own = getattr(model.log_joint, "__func__", None) is DLGM.log_joint
    return own and type(model.likelihood) is Bernoulli


def log_joint(model, x: Tensor, mask: Tensor | None, owner: Tensor, u: Tensor, width: float) -> Tensor:
    r"""log p(x, t | w) dt/du of the point owner_c at t = mean + scale · u_c, for each row of u, in blocks.

    Arguments:
        model: a `DLGM`. Behind a `Bernoulli` each node is decoded once for all points that ask for it.
        x: data (B, ...), which the model has checked.
        mask: boolean, True where observed, of x's shape or (B,).
        owner: (n,).
        u: midpoints (n, D) of cells of one width, in units of the prior's scale.
        width: of the cells.

    Returns:
        Nats (n,), in float64.
    """
    prior = model.prior()
    how = _shared if shares(model) else _alone
    return how(model, prior, x, mask, owner, u, width) + prior.stddev.double().log().sum()


def _alone(model, prior, x: Tensor, mask: Tensor | None, owner: Tensor, u: Tensor, width: float) -> Tensor:
    r"""Pair by pair."""
    rows, parts = max(1, NUMBERS // x[0].numel()), [u.new_zeros(0)]
    for i, u_b in zip(owner.split(rows), u.split(rows), strict=True):
        parts.append(model.log_joint(x[i], _codes(prior, u_b), None if mask is None else mask[i]).double())
    return torch.cat(parts)


def _shared(model, prior, x: Tensor, mask: Tensor | None, owner: Tensor, u: Tensor, width: float) -> Tensor:
    r"""By tables of neighbouring nodes and of the points that ask for any of them."""
    code, order = _places((u / width - 0.5).round().long()).sort()
    node = code.unique_consecutive(return_inverse=True)[1]
    size = max(1, min(NODES, NUMBERS // x[0].numel()))
    starts = torch.arange(0, int(node[-1]) + 1, size, device=u.device) if len(u) else node
    values = torch.empty_like(u[:, 0])
    for a, b in pairwise([*torch.searchsorted(node, starts).tolist(), len(u)]):
        here, row = order[a:b], node[a:b] - node[a]
        points, column = owner[here].unique(return_inverse=True)
        nodes = u.new_empty(int(row[-1]) + 1, u.shape[1])
        nodes[row] = u[here]
        t = _codes(prior, nodes)
        table = model.likelihood.table(x[points], t, None if mask is None else mask[points])
        values[here] = table[row, column] + prior.log_prob(t).double()[row]
    return values


def _codes(prior, u: Tensor) -> Tensor:
    return prior.mean + prior.stddev * u.to(prior.mean)


def _places(cell: Tensor) -> Tensor:
    r"""One number for each cell (n, D) of the lattice: those of a cube of SIDE^D cells stand together."""
    code = torch.zeros_like(cell[:, 0])
    for part, size in ((cell // SIDE + CUBES // 2, CUBES), (cell % SIDE, SIDE)):
        for coordinate in part.unbind(1):
            code = code.mul_(size).add_(coordinate)
    return code
