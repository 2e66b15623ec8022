r"""Tables of mixed columns with values missing completely at random, by HI-VAE's own masks: errors, and coverage.

The data and masks are those of HI-VAE (Nazabal, Olmos, Ghahramani, Valera 2020): the `types` say which columns are
"pos", "count" (Poisson), "ordinal" and "cat" (classes). "pos" is Gaussian in log(1 + x), standardized by what is
observed; a column with observed zeros is zero or log-normal, in units of the geometric mean of what is above 0. Errors
are means over the columns of a type: of "pos" and "count" the root mean square error over the range of the column, of
"ordinal" the mean distance over the number of levels, of "cat" the share of wrong classes.

How a table is fitted, rows or an encoder, how many latents and steps, is chosen on a tenth of the *observed* values,
which is hidden from the fit, by the mean score of all columns but counts (CRPS; of classes the Brier score). If the
most steps are chosen, more are tried; then, where there are such columns, Student's t for "pos" and classes for
"count". The chosen one is fitted again with all observed values; only this fit is compared with the values under the
mask. Each fit is kept in a file as soon as it is there, and a run goes on where the last one stopped.
"""

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import measure
import numpy as np
import torch
from torch import Tensor, nn

from pyro_dlgm import evaluate, fit, guides, nets
from pyro_dlgm.recipes import pairs

TABLES = ("wine", "breast", "spam", "letter")
# Guide, latents, steps.
CANDIDATES = [(guide, D, steps) for steps in (1000, 3000) for D in (3, 8) for guide in ("rows", "encoder")]
MORE_STEPS = 10_000  # of the best candidate, if it has the most steps
NORMAL, ROBUST = {"pos": "diagonal", "count": "poisson"}, {"pos": "student-t"}  # by type; else classes
HELD_OUT = 0.1  # of the observed values, for the choice
LEVELS = (0.5, 0.9)
CLIP_NORM = 100  # of gradients: columns of spam have values at 25 standard deviations, which end trainings without it


@dataclass
class Table:
    r"""A table with a mask.

    Attributes:
        raw: the values (N, P) as they are in the file; x: as the model sees them.
        types: of the columns; nclass: their classes, 0 for numbers.
        known: True where there is a true value; seen: True where it is observed.
        amount: which "pos" columns have observed zeros, (P,).
        centre, scale: of log(1 + x) of the other "pos" columns; of amounts 0 and the geometric mean; else 0 and 1.
    """

    raw: Tensor
    types: list[str]
    nclass: list[int]
    known: Tensor
    seen: Tensor
    amount: Tensor
    centre: Tensor
    scale: Tensor

    @property
    def x(self) -> Tensor:
        return (self._logged(self.raw) - self.centre) / self.scale

    def restored(self, x: Tensor) -> Tensor:
        r"""Values of the model in the units of the file."""
        v = x * self.scale + self.centre
        return torch.where(self._gaussian, v.expm1(), v).float()

    @property
    def _gaussian(self) -> Tensor:
        return self.of("pos") & ~self.amount

    def _logged(self, v: Tensor) -> Tensor:
        return torch.where(self._gaussian, v.log1p(), v)

    def of(self, kind: str) -> Tensor:
        r"""Which columns are of that type, (P,)."""
        return torch.tensor([t == kind for t in self.types])

    def likelihood(self, names: dict[str, str]) -> str:
        r"""The name of the likelihood, column by column, by the names for types; others are classes."""
        found = {}
        for j, (kind, K) in enumerate(zip(self.types, self.nclass, strict=True)):
            if self.amount[j]:
                name = "zero-inflated-log-normal"
            elif kind in names:
                name = names[kind]
            else:  # the range of counts is taken as given, as that of classes
                name = f"categorical:{K or int(self.raw[self.known[:, j], j].max()) + 1}"
            found.setdefault(name, []).append(str(j))
        return ",".join(f"{name}={'+'.join(columns)}" for name, columns in found.items())


def read(root: Path, name: str, percent: int, draw: int) -> Table:
    r"""The table under a mask of that many percent."""
    held = np.load(root / "HIVAE" / f"hivae_{name}.npz")
    types, nclass = held["types"].tolist(), held["nclass"].tolist()
    v, gone = torch.tensor(held["data"]), torch.tensor(held[f"missing{percent}"][draw])
    known = ~torch.tensor(held["missing_true"]) if "missing_true" in held else torch.ones_like(gone)
    lowest = torch.where(torch.tensor(nclass) > 0, torch.tensor(np.nanmin(held["data"], 0)), 0.0)
    # Classes are numbered from 0.
    plain = torch.zeros(len(types)), torch.ones(len(types))
    table = Table(v - lowest, types, nclass, known, known & ~gone, torch.zeros(len(types), dtype=bool), *plain)
    held = table.raw.masked_fill(~table.seen, torch.nan)
    table.amount = table.of("pos") & (held == 0).any(0)
    logged = table._logged(held)
    centre = logged.nanmean(0)
    table.centre = torch.where(table._gaussian, centre, 0.0)
    table.scale = torch.where(table._gaussian, (logged - centre).square().nanmean(0).sqrt(), 1.0)
    typical = held.masked_fill(held == 0, torch.nan).log().nanmean(0).exp()
    table.scale = torch.where(table.amount, typical.nan_to_num(nan=1.0), table.scale)
    return table


def fitted(table: Table, mask: Tensor, how: tuple, a: argparse.Namespace):
    r"""The pair, fitted to what the mask shows."""
    kind, D, steps, *robust = how
    N, P = table.raw.shape
    torch.manual_seed(a.seed)
    prior = {"prior": "mixture", "K": a.components} if a.components else {}
    model = pairs.model(table.likelihood(ROBUST if robust else NORMAL), D, (P,), **prior)
    if kind == "rows":
        guide = guides.FullRank(N, D)
    else:
        amounts = table.amount.nonzero().flatten().tolist()
        encoder = nn.Sequential(nets.Log1p(amounts), nets.MLP(2 * P, 200))
        guide = guides.Amortized(encoder, D, "full_rank", mask_input=True)
    how = {"steps": steps, "batch_size": min(N, a.batch), "lr": a.lr, "seed": a.seed, "clip_norm": CLIP_NORM}
    fit(model, guide, table.x.float(), mask=mask, **how)
    return model, guide


def checked(table: Table, mask: Tensor, held_out: Tensor, how: tuple, a: argparse.Namespace) -> dict:
    r"""Errors by type and coverage of the values that are held out from a fit, or why there is none."""
    try:
        model, guide = fitted(table, mask, how, a)
    except FloatingPointError as error:
        return {"reason": str(error)}
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(a.seed))
    index = order[: a.points].sort().values
    x, held_out = table.x.float(), held_out & torch.isin(torch.arange(len(mask)), index).unsqueeze(1)
    settings = {"mask": mask[index], "num_proposals": a.proposals, "seed": a.seed}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        points = model, guide, x[index], index, a.draws
        found = evaluate.check_imputations(*points, held_out=held_out[index], **settings)
        x[index] = evaluate.impute(*points, by="median", **settings)
    inside = {level: (2 * found.pit - 1).abs() <= level for level in LEVELS}
    of = {kind: table.of(kind)[found.columns] for kind in dict.fromkeys(table.types)}
    covered = {
        kind: {level: float(v[where].double().mean()) for level, v in inside.items()} for kind, where in of.items()
    }
    covered["all"] = dict(found.coverage)
    errors = errors_by_type(table, table.restored(x), held_out)
    few = sum("effective number" in str(w.message) for w in said)
    score = found.scores[~table.of("count")[found.columns]].mean()  # theirs is in counts or of classes
    return {"score": float(score), "errors": errors, "coverage": covered, "warned": few}


def errors_by_type(table: Table, made: Tensor, held_out: Tensor) -> dict[str, float]:
    r"""HI-VAE's errors: the mean over the columns of each type."""
    found = {}
    for j, (kind, K) in enumerate(zip(table.types, table.nclass, strict=True)):
        rows = held_out[:, j]
        off = made[rows, j].double() - table.raw[rows, j]
        span = table.raw[table.known[:, j], j]
        rules = {
            "cat": lambda off=off: (off != 0).double().mean(),
            "ordinal": lambda off=off, K=K: off.abs().mean() / K,
        }
        rule = rules.get(kind, lambda off=off, v=span: off.square().mean().sqrt() / (v.max() - v.min()))
        found.setdefault(kind, []).append(float(rule()))
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def constant(table: Table) -> Tensor:
    r"""The mean of each column of numbers, the median of ordinals, the most frequent class of the others."""
    held = table.raw.masked_fill(~table.seen, torch.nan)
    columns = zip(held.unbind(1), table.types, strict=True)
    rules = {"cat": lambda v: v.mode().values, "ordinal": lambda v: v.median()}
    return torch.stack([rules.get(kind, torch.mean)(v[~v.isnan()]) for v, kind in columns]).expand_as(held)


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Imputes tables of mixed columns under HI-VAE's masks: errors by type of column, and how often "
        "central intervals contain the truth. Fits are kept one by one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder with HIVAE/hivae_wine.npz and the others")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES, help="which tables")
    parser.add_argument("--percent", nargs="+", type=int, default=[20, 50], help="percentages of missing values")
    parser.add_argument("--masks", type=int, default=1, help="masks 0, 1, ... of each percentage")
    parser.add_argument(
        "--candidates", type=int, default=len(CANDIDATES), help="how many of the first candidates are tried"
    )
    parser.add_argument(
        "--components", type=int, help="of a mixture of normals as p(t), with another --out; N(0, I) if left out"
    )
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of networks at the start")
    parser.add_argument("--batch", type=int, default=200, help="points in a batch")
    parser.add_argument("--points", type=int, default=2000, help="points, at random, whose imputations are scored")
    parser.add_argument("--draws", type=int, default=99, help="draws of each value")
    parser.add_argument("--proposals", type=int, default=500, help="weighted proposals of each point")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of fits, draws and the values held out for the choice"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for hivae.json and hivae.md")
    return parser.parse_args()


def chosen(cells: dict, key: str) -> tuple:
    r"""The candidate with the best score on observed values that were held out."""
    of_choice = {name: cell for name, cell in cells.items() if name.startswith(f"{key}/choice/")}
    tried = {name: cell["score"] for name, cell in of_choice.items() if "score" in cell}
    if not tried:
        raise SystemExit(f"all fits of {key} failed: {[cell['reason'] for cell in of_choice.values()]}")
    guide, D, steps, *robust = min(tried, key=tried.get).rpartition("/")[2].split()
    return guide, int(D), int(steps), *robust


def candidates(table: Table, cells: dict, key: str, number: int) -> Iterator[tuple]:
    r"""The candidates, one after the other; the last ones vary the best of those before."""
    yield from CANDIDATES[:number]
    best = chosen(cells, key)
    if best[2] == max(steps for _, _, steps in CANDIDATES):
        yield *best[:2], MORE_STEPS
    if bool((table.of("count") | table._gaussian).any()):
        yield *chosen(cells, key)[:3], "robust"


def work(name: str, percent: int, draw: int, keep, cells: dict, a: argparse.Namespace) -> None:
    r"""All fits of a table under a mask, the choice first."""
    table, key = read(a.data_root, name, percent, draw), f"{name}/{percent}/{draw}"
    tried = torch.rand(table.seen.shape, generator=torch.Generator().manual_seed(a.seed)) < HELD_OUT
    hidden = table.seen & tried
    for how in candidates(table, cells, key, a.candidates):
        keep(
            f"{key}/choice/{' '.join(map(str, how))}",
            lambda how=how: checked(table, table.seen & ~tried, hidden, how, a),
        )
    missing, how = table.known & ~table.seen, chosen(cells, key)
    keep(f"{key}/constant", lambda: {"errors": errors_by_type(table, constant(table), missing)})
    if cells.get(f"{key}/test", {}).get("chosen") != list(how):
        cells.pop(f"{key}/test", None)  # of an earlier call with fewer candidates
    keep(f"{key}/test", lambda: checked(table, table.seen, missing, how, a) | {"chosen": how})


def markdown(cells: dict) -> str:
    r"""One line a table and percentage."""
    lines = ["| table | missing | chosen | error by type | column mean, median or mode | in 50% intervals | in 90% |"]
    lines += ["|---" * 7 + "|"]
    for key in [name.removesuffix("/test") for name in cells if name.endswith("/test")]:
        found, plain = cells[f"{key}/test"], cells[f"{key}/constant"]["errors"]
        if "reason" in found:
            lines.append(f"| {key} | {found['reason']} |" + " |" * 5)
            continue
        guide, D, steps, *robust = found["chosen"]
        shown = [", ".join(f"{kind} {v:.3f}" for kind, v in errors.items()) for errors in (found["errors"], plain)]
        inside = [f"{100 * v:.1f} ± {100 * s:.1f}" for v, s in found["coverage"]["all"].values()]
        name, percent, _ = key.split("/")
        cellular = [name, f"{percent}%", ", ".join([guide, f"{D} latents", f"{steps} steps", *robust]), *shown, *inside]
        lines.append("| " + " | ".join(cellular) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    a.out.mkdir(parents=True, exist_ok=True)
    file = a.out / "hivae.json"
    cells = json.loads(file.read_text()) if file.exists() else {}

    def keep(key: str, make) -> None:
        if key not in cells:
            cells[key] = json.loads(json.dumps(make()))
            file.write_text(json.dumps(cells, indent=1) + "\n")
            print(f"{key}: {cells[key]}", flush=True)

    for name in a.tables:
        for percent in a.percent:
            for draw in range(a.masks):
                work(name, percent, draw, keep, cells, a)
                (a.out / "hivae.md").write_text(markdown(cells))
    print(markdown(cells))


if __name__ == "__main__":
    main()
