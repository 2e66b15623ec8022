r"""Progress bars on the terminal."""

EVERY = 20


class Bar:
    r"""Creates a bar with loss and points per second, shown inside its context; with ``shown=False`` it does nothing.

    Arguments:
        total: the number of steps.
        done: the number of steps taken before.
        shown: whether to show it.
        name: the label.
    """

    def __init__(self, total: int, *, done: int = 0, shown: bool, name: str = "fit"):
        self.progress, self.points = _progress() if shown else None, 0
        if self.progress:
            self.task = self.progress.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> "Bar":
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *error) -> None:
        if self.progress:
            self.progress.stop()

    def tick(self) -> None:
        r"""Counts one step of work other than training."""
        if self.progress:
            self.progress.advance(self.task)

    def after(self, step, record: dict | None) -> None:
        r"""Counts one training step; reads the loss, which waits for the device, only every 20 steps."""
        if not self.progress:
            return
        self.points += step.points
        self.progress.advance(self.task)
        if step.step % EVERY == 0:
            rate = self.points / (self.progress.tasks[0].elapsed or 1e-9)
            note = f"epoch {step.epoch} · loss {float(step.loss):.2f} nats/point · {rate:,.0f} points/s"
            self.progress.update(self.task, note=note)


def _progress():
    # Imported here: training without a bar needs no terminal library.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[note]}"
    return Progress(*columns, console=Console(stderr=True), transient=True)
