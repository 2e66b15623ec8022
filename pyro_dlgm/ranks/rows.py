r"""Rows among the processes of a training: each process has those of its points, and saves them in its file."""

from torch import Tensor, nn

from ..guides.rows import Rows
from ..optim.row_adam import RowAdam
from ..seeding import forked, restore, seeds, states

OWN = ("batches", "generators")  # what differs between processes besides the rows, in the state of a training


def tables(*programs: nn.Module) -> list[Rows]:
    r"""Returns the tables of rows that the programs contain."""
    return [m for program in programs for m in program.modules() if isinstance(m, Rows)]


def places(svi, state: dict) -> list[tuple]:
    r"""Returns where the state of a training has rows, by the keys that lead there."""
    found = [
        (name, f"{path}.weight")
        for name, program in (("model", svi.model), ("guide", svi.guide))
        for path, module in program.named_modules()
        if isinstance(module, Rows)
    ]
    for number, (optimizer, held) in enumerate(zip(svi.optimizers, state["optimizers"], strict=True)):
        if isinstance(optimizer, RowAdam):
            kept = held["state"].items()
            found += [("optimizers", number, "state", p, name) for p, tensors in kept for name in tensors]
    return found


def parted(state: dict, where: list[tuple]) -> tuple[dict, dict]:
    r"""Returns what all processes share of the state; and what this one alone has: its rows, by place, and `OWN`."""
    rest, rows = _copied(state), {}
    for place in where:
        rows[place] = _inner(rest, place).pop(place[-1])
    return rest, {"rows": rows} | {name: rest.pop(name) for name in OWN}


def own(state: dict, svi, part: range, num_points: int, rank: int, num: int) -> dict:
    r"""Returns the state of one of ``num`` processes, from a checkpoint of as many, or of another number.

    Another number draws the rest of the pass anew, from generators that follow from those of the first process.

    Arguments:
        state: the checkpoint, with the rows of these or of all points.
        svi: the pair with its optimizers.
        part: the points of this process.
        num_points: the number of all points.
        rank, num: the number of this process, and how many there are.
    """
    saved = state.get("ranks") or [{name: state[name] for name in OWN}]
    mine = saved[rank] if len(saved) == num else _anew(saved[0], rank, num)
    for place in places(svi, state) if num > 1 else ():
        inner = _inner(state, place)
        if len(inner[place[-1]]) == num_points:
            inner[place[-1]] = inner[place[-1]][part.start : part.stop].clone()
    return state | mine


def _anew(first: dict, rank: int, num: int) -> dict:
    with forked():
        restore(first["generators"])
        chosen = seeds(num)[rank]
    with forked(chosen):
        return {"batches": first["batches"] | {"order": None}, "generators": states()}


def _copied(value):
    r"""Returns copies of dictionaries and lists, with the same tensors."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _inner(state: dict, place: tuple) -> dict[str, Tensor]:
    for key in place[:-1]:
        state = state[key]
    return state
