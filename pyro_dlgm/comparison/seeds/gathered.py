r"""The rows of a comparison over seeds, gathered from their parts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...evaluate.marginal.certificate import allowed
from ...runs.files import RunError, finite
from .paired import Lead, Paired, Scores, Spread, lead
from .part import Done, Part

SCORES = {"test_elbo": "ELBO", "test_log_px": "log p(x)"}  # that a winner is named on


@dataclass
class SeedRow:
    r"""One method of a comparison over seeds.

    Attributes:
        name: what the row is called everywhere.
        guide, model, w, reference: as in `Row`.
        rows: by seed, the row of one seed, as it stands in ``compare.json``.
        failed: by seed, why it failed.
        differences: by score ("test_elbo", "test_log_px") and name of another row, this row's `Paired` difference to
            it, ours − theirs.
    """

    name: str
    guide: str
    model: str
    w: str
    reference: bool
    rows: dict[int, dict] = field(repr=False)
    failed: dict[int, str]
    differences: dict[str, dict[str, Paired]] = field(default_factory=dict, repr=False)

    def scores(self, key: str) -> Scores:
        r"""Returns a value of the row by seed, for the seeds that have it."""
        return {seed: row[key] for seed, row in self.rows.items() if row.get(key) is not None}

    def spread(self, key: str) -> Spread | None:
        r"""Returns mean, standard deviation and standard error of a value over seeds; `None` where no seed has it."""
        return Spread.of(self.scores(key))

    @property
    def allowance(self) -> float:
        r"""By how much log p(x) may be too low by the certificates, in nats: the mean of |BDMC| + 2 s.e. over seeds."""
        return statistics.fmean(
            allowed({"gap": row["test_bdmc_gap"], "standard_error": row["standard_errors"].get("test_bdmc_gap")})
            for row in self.rows.values()
        )

    def plain(self) -> dict:
        r"""Returns the row as plain values, for JSON: numbers are means over seeds, and ``over_seeds`` has the rest."""
        some = next(iter(self.rows.values()), {})
        keys = [key for key in some if any(isinstance(v, float) for v in self.scores(key).values())]
        spreads = {key: self.spread(key) for key in keys}
        said = {key: spread.mean for key, spread in spreads.items()}
        said |= {name: getattr(self, name) for name in ("guide", "model", "w", "reference")}
        said["failed"] = {str(seed): why for seed, why in self.failed.items()}
        said["seeds"] = sorted(self.rows)
        said["over_seeds"] = {key: spread._asdict() for key, spread in spreads.items()}
        said["differences"] = {
            key: {name: paired._asdict() for name, paired in found.items()} for key, found in self.differences.items()
        }
        said["rows"] = {str(seed): row for seed, row in self.rows.items()}
        return finite(said)


def gathered(parts: Sequence[Part], done: Sequence[Done]) -> list[SeedRow]:
    r"""Returns the rows over seeds, in the order of the parts, with their paired differences.

    Raises:
        RunError: if all parts failed.
    """
    failures = [f"{end.part.name} at seed {end.part.seed}: {end.failure}" for end in done if end.failure]
    if len(failures) == len(done):
        raise RunError(f"all {len(done)} trainings failed; {failures[0]}")
    made = [_row(part, done) for part in {part.name: part for part in parts}.values()]
    for row in made:
        row.differences = {key: _differences(row, made, key) for key in SCORES}
    return made


def _row(part: Part, done: Sequence[Done]) -> SeedRow:
    ends = sorted((end for end in done if end.part.name == part.name), key=lambda end: end.part.seed)
    rows = {end.part.seed: end.row for end in ends if end.row is not None}
    some = next(iter(rows.values()), {"guide": part.name, "model": "", "w": "own", "reference": not part.guides})
    said = {name: some[name] for name in ("guide", "model", "w", "reference")}
    return SeedRow(part.name, **said, rows=rows, failed={end.part.seed: end.failure for end in ends if end.failure})


def _differences(row: SeedRow, rows: Sequence[SeedRow], key: str) -> dict[str, Paired]:
    found = {other.name: Paired.of(row.scores(key), other.scores(key)) for other in rows if other is not row}
    return {name: paired for name, paired in found.items() if paired is not None}


def first(rows: Sequence[SeedRow], score: str) -> SeedRow | None:
    r"""Returns the row to which differences are shown: the first one that has the score and is no reference."""
    return next((row for row in rows if not row.reference and row.scores(score)), None)


def winner(rows: Sequence[SeedRow], score: str = "test_log_px") -> Lead | None:
    r"""Returns the `Lead` of the row with the highest score; ``wins`` says whether it may be called the winner.

    It may where the 95% interval of its paired difference over seeds to each other row is above 0; for log p(x), above
    what the certificate of that row leaves open, the mean over seeds of |BDMC| + 2 standard errors. Its score must be
    there at each seed. Rows that are references, or have no such score, do not take part.

    Arguments:
        rows: of `compare_seeds`.
        score: "test_elbo", which q and w earn together, or "test_log_px", which is w alone.

    Returns:
        `None` where fewer than two rows have the score, or all rows have one w and the score is of w.
    """
    own = [row for row in rows if not row.reference and row.scores(score)]
    of_w = score == "test_log_px"
    if of_w and any(row.w != "own" for row in own):
        return None
    return lead(
        {row.name: row.scores(score) for row in own}, {row.name: row.allowance for row in own} if of_w else None
    )
