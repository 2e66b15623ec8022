r"""One row of a comparison at one seed: trained and scored in a process, and kept in a file."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import torch

from ...points import Points
from ...runs import checkpoint
from ...runs.files import RunError, plain, write_json
from ...runs.fingerprint import differences
from ..columns import Row
from ..comparison import compare

DEFAULTS = {name: p.default for name, p in inspect.signature(compare).parameters.items()}


def beyond_defaults(settings: dict) -> dict:
    r"""Returns the arguments of `compare` that differ from its defaults, so that a default may be spelled out."""
    return {name: value for name, value in settings.items() if name not in DEFAULTS or value != DEFAULTS[name]}


@dataclass(frozen=True, eq=False)
class Part:
    r"""Creates the task that trains and scores one row at one seed, and writes it to its file.

    Attributes:
        name: of the row.
        seed: of all that is random in it.
        folder: where its file is.
        model_factory: as in `compare`.
        guides: its guide factory by its name, as in `compare`; none for the row of PPCA.
        train, test, val: the points, as in `compare`.
        settings: the other arguments of `compare`.
        config: what its numbers depend on, as plain values; it is kept with them.
        dtype: torch's default, as it was where this part was made.
        frozen: where all rows have the w of the first one, the name of that row.
    """

    name: str
    seed: int
    folder: Path
    model_factory: Callable
    guides: dict[str, Callable]
    train: Points
    test: Points
    settings: dict
    config: dict
    dtype: torch.dtype
    frozen: str | None = None
    val: Points | None = None

    @property
    def file(self) -> Path:
        r"""Where the row is kept."""
        return self.folder / f"{quote(self.name, safe='')}-{self.seed}.json"

    def __call__(self) -> None:
        r"""Trains and scores the row, and writes its file."""
        torch.set_default_dtype(self.dtype)
        (row,) = compare(
            self.model, self.guides, self.train, self.test, x_val=self.val, seed=self.seed, **self.settings
        )
        self.keep(row)

    def keep(self, row: Row) -> None:
        r"""Writes the row to its file."""
        if self.frozen == self.name:
            checkpoint.write(self._w, {"w": row.pair[0].state_dict()})
        elif self.frozen and self.guides:
            row.w = self.frozen
        row.cells["difference"] = None  # it would be to the first row, here itself
        write_json(self.file, {"config": self.config, "row": row.plain()})

    def kept(self) -> dict | None:
        r"""Returns the plain values of the row if it is there already.

        Raises:
            RunError: if the file is of another comparison, or cannot be read.
        """
        if not self.file.exists():
            return None
        try:
            saved = json.loads(self.file.read_text(encoding="utf-8"))
            config, row = saved["config"], saved["row"]
            config = config | {"settings": beyond_defaults(config["settings"])}
        except (OSError, ValueError, KeyError, TypeError):
            raise RunError(f"{self.file} is no row of a comparison; move it away") from None
        found = differences(config, plain(self.config))
        if found:
            raise RunError(f"{self.file} is of another comparison: {'; '.join(found)}; choose another folder")
        return row

    @property
    def _w(self) -> Path:
        return self.file.with_name(f"w-{self.seed}.pt")

    def model(self):
        r"""Returns the model to start from: a new one, or with the w of the first row, which no training moves."""
        model = self.model_factory()
        if self.frozen in (None, self.name) or not self.guides:  # PPCA needs none
            return model
        if not self._w.exists():
            raise RunError(f"there is no w: {self.frozen} failed at seed {self.seed}")
        model.load_state_dict(checkpoint.read(self._w)["w"])
        return model.requires_grad_(False)


class Done(NamedTuple):
    r"""A part that has ended.

    Attributes:
        part: which row at which seed.
        row: its plain values, as in ``compare.json``; `None` if it failed.
        failure: why it failed, in one line.
    """

    part: Part
    row: dict | None
    failure: str | None = None
