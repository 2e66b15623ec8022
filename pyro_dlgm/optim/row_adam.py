r"""Adam that updates only the rows of a batch.

A step costs O(B) for a batch of B rows, whatever N is: the backward pass leaves a sparse gradient, and the optimizer
updates only the rows in it. A dense Adam moves *all* rows at each step by momentum, also those outside the batch, and
reads and writes three N x D tables to do so.
"""

import torch
from torch import Tensor

from ..guides.rows import files_of

IN_FILES = {"in_files": True}  # the state of a table in files, which hold the tensors


class RowAdam(torch.optim.Optimizer):
    r"""Creates Adam for `Rows`, with a separate count of visits for each row.

    A row that was never in a batch does not move, and the bias correction at a row's k-th visit uses k, so that its
    first step has length lr, as in Adam. (`torch.optim.SparseAdam` counts all steps, and corrects too little.) As in
    the fused Adam of torch, an attribute ``found_inf`` equal to 1 skips the update without waiting for the device.

    If the table is in bfloat16 or float16, which cannot count to 300 or average 1,000 gradients, then visits, moments
    and the step are in float32; only the updated row is rounded to the table's dtype.

    For a table in files (`RowsInFiles`) they are in files as well, and the state is a reference to these.

    Arguments:
        params: parameters with sparse gradients of shape (N, width).
        lr, betas, eps: as in Adam.

    References:
        Kingma and Ba, "Adam: a method for stochastic optimization" (2015), Algorithm 1.
        https://arxiv.org/abs/1412.6980
    """

    _step_supports_amp_scaling = True  # tells torch that the optimizer respects found_inf

    def __init__(self, params, lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        r"""Updates the rows that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: Tensor, group: dict) -> None:
        if not weight.grad.is_sparse:
            raise TypeError(
                "RowAdam got a dense gradient; take the step under guides.rows.sparse_gradients(), or use another Adam"
            )
        state, dtype, files = self.state[weight], _wide(weight), files_of(weight)
        if not state:
            state.update(_zeros(weight, dtype) if files is None else _begun(files, dtype))
        rows, g = _together(weight.grad._indices()[0], weight.grad._values().to(dtype))
        (b1, b2), lr = group["betas"], group["lr"]
        tables = {**(state if files is None else files.moments()), "weight": weight}
        old = {name: table.index_select(0, rows) for name, table in tables.items()}
        visits = old["visits"] + 1
        m = old["exp_avg"].lerp(g, 1 - b1)
        v = old["exp_avg_sq"].lerp(g.square(), 1 - b2)
        n = visits.unsqueeze(-1)
        m_hat, v_hat = m / (1 - b1**n), v / (1 - b2**n)
        moved = (old["weight"] - lr * m_hat / (v_hat.sqrt() + group["eps"])).to(weight)
        new = {"visits": visits, "exp_avg": m, "exp_avg_sq": v, "weight": moved}
        skip = getattr(self, "found_inf", None)
        if skip is not None:
            new = {name: torch.where(skip > 0, old[name], values) for name, values in new.items()}
        if files is not None:
            return files.write(rows, old, new)
        for name, table in tables.items():
            table.index_copy_(0, rows, new[name])

    def state_dict(self) -> dict:
        r"""Returns the state, with references for tables in files."""
        state = super().state_dict()
        held = {name: files.reference() for name, files in self._in_files(state) if name in state["state"]}
        return state | {"state": state["state"] | held}

    def load_state_dict(self, state_dict: dict) -> None:
        r"""Restores a state; visits and moments become float32 or wider, even if they were saved in less.

        Raises:
            ValueError: if rows in files are not those that were saved; the tables are restored first.
        """
        saved = dict(state_dict["state"])
        held = {name: (files, saved.pop(name)) for name, files in self._in_files(state_dict) if name in saved}
        super().load_state_dict(state_dict | {"state": saved})
        # torch rounds a state to the dtype of its parameter, so the saved values are copied once more.
        for name, weight in self._named(state_dict):
            if name in saved:  # a table that was never updated has no state
                self.state[weight].update(
                    {k: v.to(weight.device, _wide(weight), copy=True) for k, v in saved[name].items()}
                )
            if name in held:
                files, reference = held[name]
                files.restore(reference)
                self.state[weight].update(IN_FILES)

    def _named(self, state_dict: dict) -> list[tuple[int, Tensor]]:
        r"""Returns the parameters with their numbers in a state."""
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        return list(zip(names, weights, strict=True))

    def _in_files(self, state_dict: dict) -> list[tuple[int, object]]:
        return [(name, files_of(weight)) for name, weight in self._named(state_dict) if files_of(weight) is not None]


def _begun(files, dtype: torch.dtype) -> dict[str, bool]:
    files.begin(dtype)
    return IN_FILES


def _zeros(weight: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    r"""Returns visits (N,) and moments (N, width) for rows that were never in a batch."""
    visits = weight.new_zeros(len(weight), dtype=dtype)
    return {"visits": visits} | {name: torch.zeros_like(weight, dtype=dtype) for name in ("exp_avg", "exp_avg_sq")}


def _wide(weight: Tensor) -> torch.dtype:
    r"""Returns the dtype of the table, at least float32."""
    return torch.promote_types(weight.dtype, torch.float32)


def _together(rows: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    r"""Sorts rows, and replaces each gradient by the sum over its row: (B,), (B, width) -> the same shapes.

    A row that occurs twice keeps two places with the same sum, and is later written twice with the same numbers. Unlike
    `coalesce`, this has a fixed shape, so it does not wait for the device to count distinct rows.
    """
    rows, order = rows.sort(stable=True)
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1]
    group = first.cumsum(0) - 1
    return rows, torch.zeros_like(g).index_add_(0, group, g[order]).index_select(0, group)
