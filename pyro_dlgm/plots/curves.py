r"""Learning curves, and codes in the plane."""

from matplotlib.lines import Line2D
from torch import Tensor

from ..evaluate.snapshot import Plane
from .palette import REFERENCE, VALIDATION, colour

BOUNDS = {"elbo": "ELBO, nats per point", "log_joint": "log p(x, t), no bound; nats per point"}
AXES = {"epoch": "epoch", "gradients_per_point": "gradient evaluations per training point"}
TAIL = 0.05  # of the records are left out when the scale is chosen: the first steps climb far
NAMED = 20  # as many labels have their name in the plane
ACROSS = 4  # entries of a legend in a line
DASHED = "dashed: validation points"


def learning_curves(
    figure, histories: dict[str, list[dict]], levels: dict[str, float], against: str = "gradients_per_point"
):
    r"""Draws learning curves and returns the figure: a panel for bounds, and one for other objectives.

    Solid lines are the training points, dashed ones the validation points, dotted ones levels.

    Arguments:
        figure: to draw on, with a constrained layout.
        histories: the records of `fit`, by name.
        levels: horizontal lines among the bounds, by name, in nats per point.
        against: what the horizontal axis counts: "gradients_per_point", what methods are compared by, or "epoch".
    """
    titles = BOUNDS | _importance_bounds(histories)
    kinds = [kind for kind in titles if any(_curve(h, kind, against)[0] for h in histories.values())] or ["elbo"]
    entries: dict[str, Line2D] = {}
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for number, (name, history) in enumerate(histories.items()):
            _draw(axis, history, kind, against, name, colour(number), entries)
        for label, level in levels.items() if kind == "elbo" else ():
            entries[label] = axis.axhline(level, color=REFERENCE, linestyle=":")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel=AXES[against], ylabel=titles[kind])
        _scale(axis)
        axis.grid(alpha=0.15)
    if entries:
        entries = {name: entries[name] for name in (*histories, *levels, DASHED) if name in entries}
        across = min(ACROSS, len(entries))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=across, fontsize=8, frameon=False)
    return figure


def _draw(axis, history: list[dict], kind: str, against: str, name: str, color: str, entries: dict) -> None:
    r"""Draws one method, and adds what is new to the entries of the legend."""
    for of, style in (("", "-"), ("val_", VALIDATION)):
        at, values = _curve(history, of + kind, against)
        if at:
            marker = "o" if len(at) == 1 else None
            (line,) = axis.plot(at, values, style, color=color, marker=marker, markersize=3)
            entries.setdefault(*((DASHED, Line2D([], [], linestyle=style, color=REFERENCE)) if of else (name, line)))


def _importance_bounds(histories: dict[str, list[dict]]) -> dict[str, str]:
    r"""Titles of the training bounds "iwae_K" of `objectives.IWAE` and `DReG`, by name."""
    names = {name for history in histories.values() for record in history for name in record if name[:5] == "iwae_"}
    return {name: f"IWAE-{name[5:]}, nats per point" for name in sorted(names)}


def _curve(history: list[dict], name: str, against: str) -> tuple[list[float], list[float]]:
    seen = [h for h in history if h.get(name) is not None]
    return [h[against] for h in seen], [h[name] for h in seen]


def _scale(axis) -> None:
    values = [y for line in axis.lines for y in list(line.get_ydata())[int(TAIL * len(line.get_ydata())) :]]
    if values and max(values) > min(values):
        room = 0.05 * (max(values) - min(values))
        axis.set_ylim(min(values) - room, max(values) + room)


def scatter(axis, plane: Plane, labels: Tensor | None) -> None:
    r"""Draws codes in the plane, with a colour for each label and its name at the median of its points."""
    points = plane.points.cpu().double()
    values = [] if labels is None else labels.unique().tolist()
    if not values:
        axis.scatter(*points.T.numpy(), s=5, color=colour(0), linewidths=0)
    for number, value in enumerate(values):
        here = points[labels.cpu() == value]
        axis.scatter(*here.T.numpy(), s=8, color=colour(number), linewidths=0, alpha=0.7)
        if len(values) <= NAMED:  # annotations lie above all points
            at = here.median(0).values.tolist()
            axis.annotate(str(value), at, ha="center", va="center", size=13, weight="bold", color=colour(number))
    axis.set_aspect("equal", "datalim")
    axis.set(xlabel=plane.axes[0], ylabel=plane.axes[1])
    axis.grid(alpha=0.15)
