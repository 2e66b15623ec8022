r"""The loop of a training: its steps, its listeners, its history, and a state from which it resumes exactly."""

from .listeners import Guarded, Listener
from .result import Result
from .steps import Step, em, until_it_stops
from .training import Training

__all__ = ["Guarded", "Listener", "Result", "Step", "Training", "em", "until_it_stops"]
