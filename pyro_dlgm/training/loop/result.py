r"""What a training returns."""

from dataclasses import dataclass, field

import torch


@dataclass
class Result:
    r"""The result of `fit`.

    Attributes:
        model, guide: the trained pair, the same objects that were passed in.
        history: one record per epoch: ``epoch``, ``step``, ``elbo`` (``iwae_K`` with `objectives.IWAE` and `DReG`;
            ``log_joint`` if q has no density; with the prefix ``tempered_`` while β is not 1), the mean of the training
            objective over the epoch in nats per point (weighted, if there are weights), ``gradient_norm``, the mean
            over the epoch's joint steps of the global norm of the dense gradients before clipping (if there are any),
            ``gradients_per_point`` (of the training alone), ``seconds`` (in total, with validation and files),
            ``points_per_second`` (of joint steps, while stepping), and, if there are validation points, the
            `Validation.scores` with the prefix ``val_``.
        stopped_early: whether the validation bound stopped the run.
        optimizers: the optimizers of the training, with their states.
    """

    model: torch.nn.Module
    guide: torch.nn.Module
    history: list[dict] = field(default_factory=list)
    stopped_early: bool = False
    optimizers: list = field(default_factory=list, repr=False)
