r"""`fit`: training with seeds, devices, schedules, validation, listeners, and a run on disk.

The implementation is imported at the call, so that the command line can read the signature without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..objectives.elbo import ELBO
    from .loop.listeners import Listener
    from .loop.result import Result


def fit(
    model,
    guide,
    x: Tensor,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 2e-3,
    row_lr: float = 1e-1,
    schedule: str | Callable[[float], float] = "cosine",
    e_steps: int | str = 1,
    clip_norm: float | None = None,
    compile: bool | str = False,
    precision: str | None = None,
    warmup: float = 0,
    objective: ELBO | None = None,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    weight: Tensor | None = None,
    size: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    x_val: Tensor | None = None,
    mask_val: Tensor | None = None,
    given_val: Tensor | None = None,
    labels: Tensor | None = None,
    patience: int | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    listeners: Sequence[Listener] = (),
    out: str | Path | None = None,
    resume: bool = False,
    stretch: bool = False,
    start: Result | None = None,
    ranks: bool = False,
    config: dict | None = None,
) -> Result:
    r"""Maximizes F(q, w) over q and w by stochastic gradients, for any guide.

    The loss is −F per point: learning rates, clipping and the history do not depend on N.

    Arguments:
        model: a `DLGM`, or any Pyro module with its signature.
        guide: a guide of this package, or any Pyro module with its signature.
        x: data (N, ...), a tensor or a (memory-mapped) NumPy array; `Points`; or, for data larger than memory, a source
            of batches of `Points` (`data.Source`): a DataLoader, an iterator, or a function that returns an iterator
            for an epoch.
        epochs: passes through the training points.
        steps: joint steps on q and w, instead of ``epochs``.
        batch_size: points in a batch. By default 100, or N if N is less; more than N is an error. The last of an epoch
            may be shorter.
        lr: learning rate of networks and other dense parameters.
        row_lr: learning rate of a guide's parameters for each point. `RowAdam` makes these steps, Adam the others.
        schedule: factor of the learning rates: constant, linear or cosine (both to 0). In Python also a function of
            the fraction done.
        e_steps: steps on q for each step on w, the last of them a joint step; with "converged", as many as it takes
            until the bound stops rising, at most 100, on new random batches, with the bound averaged over ten of them.
            This counters posterior collapse if the encoder lags behind w.
        clip_norm: bound on the global gradient norm of networks and other dense parameters.
        compile: whether to compile the steps. Compiling takes about half a minute at the start; losses agree up to
            rounding. A shorter last batch of an epoch runs uncompiled, as does any step that cannot be captured; a
            warning says why. In Python also the name of a backend of `torch.compile`.
        precision: with "bf16", networks compute in bfloat16 during training. Parameters, rows, log-densities, sums and
            the states of optimizers stay in float32, and validation and evaluation are in float32. It pays where the
            processor has units for bfloat16. By default networks compute in the dtype of their parameters.
        warmup: epochs over which the weight β of the KL term rises from 0 to 1.
        objective: the loss, by default `objectives.ELBO`.
        mask: boolean, True where observed, of x's shape or (N,).
        given: what points are conditioned on, (N, C): model and guide get it in addition to x.
        weight: factors (N,) >= 0 of the points' terms in the objective.
        size: the number N of all points, if x yields batches.
        transform: applied to each batch, with new random numbers (`data.Dequantize`, `data.Binarize`).
        x_val, mask_val, given_val: validation points (M, ...), already transformed, with their mask and ``given``.
        labels: whole numbers or names (N,), for display only: TensorBoard colours the latent space by them.
        patience: stop once the bound on validation points has not risen for this many epochs, and restore the best
            epoch.
        seed: seed of all random numbers in the training. In Python the global generator is left unchanged, and is used
            if there is no seed.
        device: moves model, guide and data there first.
        progress: whether to show a bar with loss and points per second.
        listeners: objects whose ``after(step, record)`` is called after each joint step, with a `Step`, and with a
            record of the history at the end of an epoch, else `None`. Errors in listeners become warnings, except for a
            `RunError`, which ends the training; their random draws leave no trace.
        out: folder of the run on disk: ``config.json``, ``metrics.jsonl``, ``checkpoint.pt``, TensorBoard's events. On
            Ctrl-C, a checkpoint is saved first.
        resume: continue the run in ``out`` as if it had never stopped (bit for bit on one machine with the same
            versions and number of threads), or begin a new one if there is none. With more ``epochs`` (or ``steps``)
            than before, it continues up to these; under a constant schedule, as if it had been started with them. A run
            that was stopped by ``patience`` continues from its best epoch.
        stretch: whether a run may be resumed for more epochs under a schedule that ends with the run: from then on the
            learning rates are those of the longer run.
        start: a former `Result` of the same w, whose optimizers provide the moments of all parameters that both have:
            to continue, or after `to_rows` or `to_encoder`. A resumed run on disk has its own.
        ranks: whether this is one of several processes of a training, called alike in each: those of torch's process
            group (``torch.distributed.init_process_group``), or those that torchrun has started. Each visits a part of
            the points, and ``batch_size`` counts the points of all. A guide with rows then keeps those of its part;
            `load` has all.
        config: plain values to store in ``config.json`` with the arguments; ``recipe`` in it lets `load` build the
            pair.

    Returns:
        A `Result` with ``history``, ``model`` and ``guide``.

    Raises:
        ValueError: on an invalid argument, which it names.
        FloatingPointError: if the loss or a gradient is not finite; it names step, site, rows and parameter. Model and
            guide keep the parameters from before that step, and the last checkpoint stays.
        RunError: if ``out`` already holds a run, or, with ``resume``, one with another configuration.
    """
    arguments = SimpleNamespace(**locals())
    from .session import train

    return train(arguments)
