r"""States of runs that were begun under an older version."""

from ...data.batches import Batches
from ...data.source import Source


def of_now(state: dict, batches: Batches | Source) -> dict:
    r"""Returns the state of a training with what older versions did not keep.

    Arguments:
        state: as of `Training.state_dict`, from a checkpoint.
        batches: those of the training.
    """
    held = state["batches"]
    held = held if "epoch" in held else held | {"epoch": -(-state["step"] // len(batches))}
    generators = dict(state["generators"])
    if "cuda" in generators:  # the state of the data's device alone
        generators[f"cuda:{batches.device.index or 0}"] = generators.pop("cuda")
    return {"busy": state["seconds"]} | state | {"batches": held, "generators": generators}
