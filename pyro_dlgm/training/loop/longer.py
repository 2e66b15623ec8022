r"""Resuming a run for more epochs or steps than before: when this is allowed, and how the schedule changes."""

import warnings
from types import SimpleNamespace

from .training import Training

LENGTHS = ("epochs", "steps")
ADVICE = (
    ": the schedule {} ends with the run, so a longer one has other learning rates; add stretch=True to go on with "
    "those of the longer run"
)
SHORTER = ": a run can only become longer; for an earlier state, train another folder"


class Longer:
    r"""Creates the comparison of a training's length with that of the run that it resumes.

    Arguments:
        a: the arguments of `fit`.
        former: those stored in the run; empty if there is none.

    Attributes:
        name: "epochs" or "steps", whichever has grown; `None` if none has.
        before: its former value.
        may_differ: the names in ``config.json`` whose values may differ from the run's.
        advice: text for the error, by name, if they may not.
    """

    def __init__(self, a: SimpleNamespace, former: dict):
        pairs = {name: (former.get(name), getattr(a, name)) for name in LENGTHS}
        grown = [name for name, (old, new) in pairs.items() if old is not None and new is not None and new > old]
        self.name = grown[0] if grown else None
        self.before, self.now = pairs[self.name] if grown else (None, None)
        self.constant, self.schedule = a.schedule == "constant", former.get("schedule")
        self.may_differ = ()
        self.advice = {f"fit.{name}": SHORTER for name, (old, new) in pairs.items() if old and new and new < old}
        if grown and (self.constant or a.stretch):
            self.may_differ = (f"fit.{self.name}",)
        elif grown:
            self.advice = {f"fit.{self.name}": ADVICE.format(self.schedule)}

    def warn(self, training: Training) -> None:
        r"""Warns if the schedule is stretched."""
        if not self.may_differ or self.constant:
            return
        done, total = training.step, training.total
        before = total * self.before // self.now
        was, now = (training.factor(min(1.0, done / steps)) for steps in (before, total))
        warnings.warn(
            f"the schedule {self.schedule} is stretched from {before} to {total} steps, of which {done} are done: the "
            f"learning rates go on at {now:.3g} of the first ones, where they were at {was:.3g}",
            stacklevel=2,
        )
