r"""Learning curves, and codes in the plane."""

from torch import Tensor

from ..evaluate.snapshot import Plane

BOUNDS = {"elbo": "ELBO, nats per point", "log_joint": "log p(x, t), no bound; nats per point"}
TAIL = 0.05  # of the records are left out when the scale is chosen: the first steps climb far
NAMED = 20  # as many labels have their name in the plane


def learning_curves(figure, histories: dict[str, list[dict]], levels: dict[str, float]):
    r"""Draws learning curves and returns the figure: a panel for bounds, one for what is none; dashed: validation.

    Arguments:
        figure: to draw on.
        histories: the records of `fit`, by name.
        levels: horizontal lines among the bounds, by name.
    """
    titles = BOUNDS | _importance_bounds(histories)
    kinds = [kind for kind in titles if any(_curve(h, kind)[0] for h in histories.values())] or ["elbo"]
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for number, (name, history) in enumerate(histories.items()):
            for of, style in (("", "-"), ("val_", "--")):
                at, values = _curve(history, of + kind)
                if at:
                    label, marker = f"{name}, validation" if of else name, "o" if len(at) == 1 else None
                    axis.plot(at, values, style, color=f"C{number}", marker=marker, markersize=3, label=label)
        for label, level in levels.items() if kind == "elbo" else ():
            axis.axhline(level, color="0.5", linestyle=":", label=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel="gradient evaluations per training point", ylabel=titles[kind])
        _scale(axis)
        axis.grid(alpha=0.15)
        axis.legend(fontsize=8, loc="lower right")
    return figure


def _importance_bounds(histories: dict[str, list[dict]]) -> dict[str, str]:
    r"""Titles of the training bounds "iwae_K" of `objectives.IWAE` and `DReG`, by name."""
    names = {name for history in histories.values() for record in history for name in record if name[:5] == "iwae_"}
    return {name: f"IWAE-{name[5:]}, nats per point" for name in sorted(names)}


def _curve(history: list[dict], name: str) -> tuple[list[float], list[float]]:
    seen = [h for h in history if h.get(name) is not None]
    return [h["gradients_per_point"] for h in seen], [h[name] for h in seen]


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
        axis.scatter(*points.T.numpy(), s=5, color="C0", linewidths=0)
    for number, value in enumerate(values):
        here, color = points[labels.cpu() == value], f"C{number % 10}"
        axis.scatter(*here.T.numpy(), s=8, color=color, linewidths=0, alpha=0.7)
        if len(values) <= NAMED:  # annotations lie above all points
            at = here.median(0).values.tolist()
            axis.annotate(str(value), at, ha="center", va="center", size=13, weight="bold", color=color)
    axis.set_aspect("equal", "datalim")
    axis.set(xlabel=plane.axes[0], ylabel=plane.axes[1])
    axis.grid(alpha=0.15)
