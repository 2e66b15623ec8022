r"""`fit`: a training with seeds, devices, schedules, validation, listeners, and a run on disk around it.

What does the work is imported when it is called: the command line reads the signature without torch.
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
    from .loop import Listener, Result


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
    config: dict | None = None,
) -> Result:
    r"""Climbs F(q, w) over q and w by stochastic gradients, whatever the guide is.

    The loss is −F per point: learning rates, clipping and the history do not depend on N.

    Arguments:
        model: a `DLGM`, or any Pyro module with its signature.
        guide: a guide of this package, or any Pyro module with its signature.
        x: data (N, ...), a tensor or a (memory-mapped) NumPy array; `Points`; or, for data larger than memory, what
            yields batches of `Points` (`data.Source`): a DataLoader, an iterator, a function that returns one for an
            epoch.
        epochs: passes through the training points.
        steps: joint steps on q and w, in place of ``epochs``.
        batch_size: points in a batch. By default 100, or N if N is less; more than N is an error. The last of an epoch
            may be shorter.
        lr: learning rate of networks and other dense parameters.
        row_lr: learning rate of what a guide has for each point. `RowAdam` makes these steps, Adam the others.
        schedule: factor of the learning rates: constant, linear or cosine (both to 0). In Python also a function of
            the fraction done.
        e_steps: steps on q for each step on w, the last of them a joint step; converged: 100 at most, until the bound
            stops rising. These are on batches drawn afresh, and the bound is a mean over ten of them; against posterior
            collapse, where an encoder lags behind w.
        clip_norm: bound on the global gradient norm of networks and other dense parameters.
        compile: whether to compile the steps. It takes about half a minute at the start, and losses agree but for
            rounding; a shorter last batch of an epoch is stepped without it, and so is all that cannot be captured: a
            warning says why. In Python also the name of a backend of `torch.compile`.
        warmup: epochs over which the weight β of the KL term rises from 0 to 1.
        objective: the loss, by default `objectives.ELBO`.
        mask: boolean, True where observed, of x's shape or (N,).
        given: what points are conditioned on, (N, C): model and guide get it beside x.
        weight: factors (N,) >= 0 of the points' parts of the objective.
        size: the number N of all points, where x yields batches of them.
        transform: drawn afresh on each batch (`data.Dequantize`, `data.Binarize`).
        x_val, mask_val, given_val: validation points (M, ...), already transformed, with their mask and what is given.
        labels: whole numbers or names, N of them, only shown: TensorBoard colours the latent space by them.
        patience: stop once the bound on validation points has not risen for this many epochs, and go back to the best
            epoch.
        seed: seed of all that is random in the training. In Python the global generator stays as it was, and
            serves where there is no seed.
        device: moves model, guide and data there first.
        progress: whether to show a bar with loss and points per second.
        listeners: objects whose ``after(step, record)`` is called after each joint step, with a `Step`, and with a
            record of the history where an epoch ends, else `None`. An error in one is a warning, but for a `RunError`,
            which ends the training; what one draws leaves no trace.
        out: folder of the run on disk: ``config.json``, ``metrics.jsonl``, ``checkpoint.pt``, TensorBoard's events.
            On Ctrl-C, a checkpoint is saved first.
        resume: continue the run in ``out`` as if it had never stopped (bit for bit on one machine with the same
            versions and number of threads), or begin where there is none. With more ``epochs`` (or ``steps``) than it
            was made for it goes on for those: as if it had been made for them under a constant schedule. One with
            ``patience`` that has ended goes on from its best epoch.
        stretch: whether a run may be resumed for more epochs under another schedule, which ends with the run: from
            here on the learning rates are those of the longer one.
        start: a former `Result` of the same w, from which optimizers take their moments of all parameters that both
            have: to go on, or after `to_rows` or `to_encoder`. A run on disk that is resumed has its own.
        config: plain values kept in ``config.json`` beside the arguments; ``recipe`` in it lets `load` build the pair.

    Returns:
        A `Result` with ``history``, ``model`` and ``guide``.

    Raises:
        ValueError: on arguments that make no sense, each named.
        FloatingPointError: if the loss or a gradient is not finite; it names step, site, rows and parameter. Model and
            guide have the parameters from before that step, and the last checkpoint stays.
        RunError: if ``out`` holds a run already, or one with another configuration.
    """
    arguments = SimpleNamespace(**locals())
    from .session import train

    return train(arguments)
