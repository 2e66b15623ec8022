r"""How many lines does a semi-supervised model take? M2 on digits, from parts and by hand in plain Pyro.

    python examples/m2_digits.py

M2 is p(y) p(t) p(x | t, y) with q(y | x) q(t | x, y): a digit x has a class y and a style t, and q(y | x) is the
classifier. 100 of 1,200 training points have a label, 10 a class; the classes of the others are enumerated, so that
their sum over y is exact. `M2` is built from the parts of this package, `Plain` is the same model in Pyro and torch
alone. Both start at the same weights, see the same batches and draw the same random numbers, so what differs is the
code. Next to them: their classifier trained on the labels alone, and logistic regression.

Pixels are dequantized, x = (v + u) / 17, with a Gaussian density of one learned σ. The objective is that of the paper,
in nats per training point,

    ( Σ_labelled L(x, y) + Σ_others U(x) + α N · mean_labelled(−log q(y | x)) ) / N,

where −L and −U are the bounds on log p(x, y) and log p(x). The classifier has to have a term for labelled points, since
L has none. Latents, α, Adam's rate and C of logistic regression were chosen by ``--choose``: by accuracy on the 200
validation points, at seeds that are not those of the table.

References:
    Kingma, Rezende, Mohamed, Welling, "Semi-supervised learning with deep generative models" (2014).
    https://arxiv.org/abs/1406.5298
"""

import argparse
import ast
import copy
import inspect
import itertools
import json
import math
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from pyro_dlgm import DLGM, data, guides, likelihoods, nets, priors

SHAPE, CLASSES, PER_CLASS, SIGMA = (1, 8, 8), 10, 10, 0.2  # σ at the start
GRID = {"latents": (2, 10), "alpha": (0.1, 1.0, 10.0, 100.0), "lr": (1e-3, 3e-3)}
PENALTIES = (0.1, 1.0, 10.0)  # C of logistic regression
CHOICE_SEEDS = (10, 11, 12)
EVERY = 10  # epochs between two lines


@dataclass(frozen=True)
class Settings:
    r"""How M2 is built and trained.

    Attributes:
        latents, hidden: the number of latents, and of units in each hidden layer.
        alpha: the weight of the classifier's own term, times N: 0.1 in the paper.
        lr, batch, epochs: Adam's rate, the number of unlabelled points in a batch, passes through them.
        penalty: C of logistic regression.
    """

    latents: int = 10
    hidden: int = 128
    alpha: float = 100.0
    lr: float = 3e-3
    batch: int = 100
    epochs: int = 50
    penalty: float = 10.0


@dataclass(frozen=True)
class Task:
    r"""Digits of which few have a label.

    Attributes:
        v, y: raw values (100, 1, 8, 8) and one-hot classes (100, 10) of the labelled points.
        rest: raw values (1100, 1, 8, 8) of the other training points.
        digits: the data set.
        val_labels: whole numbers (200,).
    """

    v: Tensor
    y: Tensor
    rest: Tensor
    digits: data.Dataset
    val_labels: Tensor

    @property
    def points(self) -> int:
        r"""The number N of training points."""
        return len(self.v) + len(self.rest)


class M2:
    r"""Creates M2 from parts.

    Arguments:
        s: sizes of the networks.
        weight: the factor of log q(y | x) of a labelled point, α N / (number of labels).
    """

    def __init__(self, s: Settings, weight: float):
        D, H, self.weight = s.latents, s.hidden, weight
        self.p = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D + CLASSES, SHAPE, (H,)), SIGMA))
        self.q = guides.Amortized(nets.MLP(SHAPE, H, (H,)), D, given_dim=CLASSES)
        self.classifier = nets.MLP(SHAPE, CLASSES, (H,))

    def classes(self, x: Tensor) -> dist.OneHotCategorical:
        r"""q(y | x), of batch shape (B,) and event shape (10,)."""
        return dist.OneHotCategorical(logits=pyro.module("classifier", self.classifier)(x))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        r"""Samples y, t and x for each point; x (B, 1, 8, 8), y (B, 10) where the classes are known."""
        with pyro.plate("data", len(x)):
            if y is not None:
                pyro.factor("classified", self.weight * self.classes(x).log_prob(y))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(CLASSES)), obs=y)
            self.p.datum(x, given=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        r"""Samples y, where it is not known, and t."""
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", self.classes(x), infer={"enumerate": "parallel"})
            self.q.datum(x, given=y)


class Plain(nn.Module):
    r"""Creates M2 in Pyro and torch alone, with networks of the same shapes; arguments as those of `M2`."""

    def __init__(self, s: Settings, weight: float):
        super().__init__()
        D, H, P, self.weight = s.latents, s.hidden, 64, weight
        self.decoder = nn.Sequential(nn.Linear(D + CLASSES, H), nn.ELU(), nn.Linear(H, P))
        self.u = nn.Parameter(torch.tensor(SIGMA).log())
        self.encoder = nn.Sequential(nn.Linear(P, H), nn.ELU(), nn.Linear(H, H))
        self.head = nn.Linear(H + CLASSES, 2 * D)
        self.classifier = nn.Sequential(nn.Linear(P, H), nn.ELU(), nn.Linear(H, CLASSES))

    def classes(self, x: Tensor) -> dist.OneHotCategorical:
        r"""q(y | x), of batch shape (B,) and event shape (10,)."""
        return dist.OneHotCategorical(logits=self.classifier(x.flatten(1)))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        r"""Samples y, t and x for each point; arguments as those of `M2.model`."""
        with pyro.plate("data", len(x)):
            if y is not None:
                pyro.factor("classified", self.weight * self.classes(x).log_prob(y))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(CLASSES)), obs=y)
            t = pyro.sample("t", dist.Normal(x.new_zeros(self.head.out_features // 2), 1.0).to_event(1))
            mu = self.decoder(torch.cat([t, y.expand(*t.shape[:-1], CLASSES)], -1))
            pyro.sample("x", dist.Normal(mu, 1e-3 + self.u.exp()).to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        r"""Samples y, where it is not known, and t."""
        pyro.module("plain", self)  # SVI collects parameters from both programs
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", self.classes(x), infer={"enumerate": "parallel"})
            features = self.encoder(x.flatten(1)).expand(*y.shape[:-2], -1, -1)  # (B, H) -> (10, B, H)
            y = y.expand(*features.shape[:-1], CLASSES)  # (10, 1, 10) -> (10, B, 10)
            m, log_s = self.head(torch.cat([features, y], -1)).chunk(2, -1)
            pyro.sample("t", dist.Normal(m, log_s.exp()).to_event(1))


def lines(program: type) -> int:
    r"""The number of lines of code in a class: those that are not blank, comments or docstrings."""
    source = inspect.getsource(program)
    said = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said |= set(range(node.lineno, node.end_lineno + 1))
    code = [line.strip() for i, line in enumerate(source.splitlines(), 1) if i not in said]
    return sum(bool(line) and not line.startswith("#") for line in code)


def new_pair(s: Settings, weight: float) -> tuple[M2, Plain]:
    r"""Both forms of the model, with the same weights."""
    parts, plain = M2(s, weight), Plain(s, weight)
    theirs = (parts.p.likelihood.net, parts.q.encoder, parts.q.head, parts.classifier)
    with torch.no_grad():
        plain.u.copy_(parts.p.likelihood.u)
        for mine, other in zip((plain.decoder, plain.encoder, plain.head, plain.classifier), theirs, strict=True):
            for w, v in zip(mine.parameters(), other.parameters(), strict=True):
                w.copy_(v)
    return parts, plain


def new_task(seed: int, digits: data.Dataset) -> Task:
    r"""Chooses the training points whose label is known."""
    labels, rows = digits.train_labels, torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(seed))
    known = torch.cat([rows[labels[rows] == c][:PER_CLASS] for c in range(CLASSES)])
    rest = torch.ones(len(rows), dtype=torch.bool).index_fill(0, known, False)
    y = nn.functional.one_hot(labels[known], CLASSES).to(digits.train.dtype)
    return Task(digits.train[known], y, digits.train[rest], digits, val_labels(digits))


def val_labels(digits: data.Dataset) -> Tensor:
    r"""Classes of the validation points (200,), which the data set does not keep: its split again, on labels alone."""
    y = load_digits().target
    y, test = train_test_split(y, test_size=len(digits.test), stratify=y, random_state=0)
    train, val = train_test_split(y, test_size=len(digits.val), stratify=y, random_state=0)
    for found, kept in ((train, digits.train_labels), (test, digits.test_labels)):
        if not torch.equal(torch.as_tensor(found), kept):
            raise RuntimeError("data.digits() splits in another way than this; expected the labels that it keeps")
    return torch.as_tensor(val)


class Objective:
    r"""Creates the loss of a step: the objective per training point, where one batch stands for all unlabelled points.

    Arguments:
        task: says how many points there are.
    """

    def __init__(self, task: Task):
        self.elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
        self.points, self.rest = task.points, len(task.rest)

    def __call__(self, model, guide, labelled: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        known = self.elbo.differentiable_loss(model, guide, *labelled)
        return (known + self.rest / len(x) * self.elbo.differentiable_loss(model, guide, x)) / self.points


def train(name: str, program: M2 | Plain, task: Task, s: Settings, seed: int) -> list[float]:
    r"""Trains model and guide under Pyro's SVI; returns the loss of each step, in nats per training point."""
    pyro.clear_param_store()  # all seeds have the same names in it, and what it holds would replace new weights
    pyro.set_rng_seed(seed)
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": s.lr}), Objective(task))
    drawn, losses = task.digits.transform, []
    for epoch in range(1, s.epochs + 1):
        for v in task.rest[torch.randperm(len(task.rest))].split(s.batch):
            losses.append(svi.step((drawn(task.v), task.y), drawn(v)))
        if epoch % EVERY == 0:
            print(f"seed {seed}  {name}  epoch {epoch:3}  loss {losses[-1]:8.3f} nats per point", flush=True)
    return losses


def train_alone(classifier: nn.Module, task: Task, s: Settings, seed: int) -> None:
    r"""Trains a classifier on the labelled points alone, with as many steps as M2 takes."""
    torch.manual_seed(seed)
    adam = torch.optim.Adam(classifier.parameters(), s.lr)
    for _ in range(s.epochs * steps(task, s)):
        adam.zero_grad()
        nn.functional.cross_entropy(classifier(task.digits.transform(task.v).flatten(1)), task.y).backward()
        adam.step()


def steps(task: Task, s: Settings) -> int:
    r"""The number of steps of an epoch."""
    return math.ceil(len(task.rest) / s.batch)


@torch.no_grad()
def accuracy(logits: Tensor, labels: Tensor) -> float:
    r"""The fraction of points whose largest logit, of (B, 10), is that of their class (B,)."""
    return (logits.argmax(-1) == labels).double().mean().item()


@torch.no_grad()
def bound(program: M2 | Plain, x: Tensor, draws: int = 10) -> float:
    r"""The mean of U(x), the bound on −log p(x) of points without a label, in nats per point."""
    pyro.set_rng_seed(0)
    return TraceEnum_ELBO(max_plate_nesting=1, num_particles=draws).loss(program.model, program.guide, x) / len(x)


def regression(task: Task, penalty: float, x: Tensor, labels: Tensor) -> float:
    r"""Accuracy on x of logistic regression, fitted to the labelled points at (v + ½) / 17, the mean of their x."""
    fitted = LogisticRegression(C=penalty, max_iter=5000).fit((task.v.flatten(1) + 0.5) / 17, task.y.argmax(1))
    return fitted.score(x.flatten(1), labels)


def new_programs(task: Task, s: Settings, seed: int) -> tuple[M2, Plain]:
    r"""Both forms of the model, not trained, for the number of labels of the task."""
    torch.manual_seed(seed)
    return new_pair(s, s.alpha * task.points / len(task.v))


def run(s: Settings, seed: int, digits: data.Dataset) -> dict:
    r"""All that is trained at one seed, and its scores on the test points; seconds are those of the processor."""
    task, result, losses = new_task(seed, digits), {"seed": seed}, {}
    parts, plain = new_programs(task, s, seed)
    alone = copy.deepcopy(plain.classifier)
    for name, program in {"parts": parts, "plain": plain}.items():
        start = time.process_time()
        losses[name] = train(name, program, task, s, seed)
        result[name] = {"first_loss": losses[name][0], "loss": mean(losses[name][-steps(task, s) :])}
        result[name] |= {"test_loss": bound(program, digits.test), "seconds": time.process_time() - start}
        result[name]["accuracy"] = accuracy(program.classes(digits.test).logits, digits.test_labels)
    train_alone(alone, task, s, seed)
    result["classifier_alone"] = accuracy(alone(digits.test.flatten(1)), digits.test_labels)
    result["logistic_regression"] = regression(task, s.penalty, digits.test, digits.test_labels)
    return result | {"largest_difference": max(abs(a - b) for a, b in zip(*losses.values(), strict=True))}


def choose(s: Settings, digits: data.Dataset) -> list[dict]:
    r"""Accuracy on the validation points, the mean over seeds, for each setting of the grid; no test point is seen."""
    rows, tasks = [], {seed: new_task(seed, digits) for seed in CHOICE_SEEDS}
    for values in itertools.product(*GRID.values()):
        chosen = dict(zip(GRID, values, strict=True))
        found = [validated(task, replace(s, **chosen), seed) for seed, task in tasks.items()]
        rows.append(chosen | {"m2": mean(m2 for m2, _ in found), "classifier_alone": mean(alone for _, alone in found)})
    for penalty in PENALTIES:
        found = [regression(task, penalty, digits.val, task.val_labels) for task in tasks.values()]
        rows.append({"penalty": penalty, "logistic_regression": mean(found)})
    return rows


def validated(task: Task, s: Settings, seed: int) -> tuple[float, float]:
    r"""Accuracy on the validation points of M2's classifier and of the same one trained alone."""
    program, plain = new_programs(task, s, seed)
    train("parts", program, task, s, seed)
    train_alone(plain.classifier, task, s, seed)
    x = task.digits.val
    return tuple(accuracy(q.classes(x).logits, task.val_labels) for q in (program, plain))


def means(runs: list[dict]) -> dict:
    r"""The numbers of the runs, averaged over seeds."""
    result = {name: mean(r[name] for r in runs) for name in ("classifier_alone", "logistic_regression")}
    for name in ("parts", "plain"):
        result[name] = {key: mean(r[name][key] for r in runs) for key in runs[0][name]}
    return result


def show(code: dict[str, int], runs: list[dict]) -> None:
    r"""Prints the table: a line for each form and seed, then the baselines."""
    print(f"\n{'':20} {'lines':>5} {'seed':>4} {'loss':>9} {'test loss':>9} {'accuracy':>8} {'seconds':>7}")
    for name in code:
        for r in [*runs, {"seed": "mean"} | means(runs)]:
            numbers = "{loss:9.3f} {test_loss:9.3f} {accuracy:8.3f} {seconds:7.1f}".format(**r[name])
            print(f"{name:20} {code[name]:5} {r['seed']:>4} {numbers}")
    for name in ("classifier_alone", "logistic_regression"):
        for r in [*runs, {"seed": "mean"} | means(runs)]:
            print(f"{name:20} {'':5} {r['seed']:>4} {'':9} {'':9} {r[name]:8.3f}")
    print(f"largest difference of a step's loss: {max(r['largest_difference'] for r in runs):.1e} nats per point")


def machine() -> dict:
    r"""What it ran on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
    return {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()} | versions


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains M2 on digits of which 100 have a label, built from parts and by hand, and scores both on "
        "the 397 test points, next to the classifier alone and logistic regression. Writes m2_digits.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of labels, weights, batches and draws")
    parser.add_argument("--epochs", type=int, default=Settings.epochs, help="passes through the unlabelled points")
    parser.add_argument("--choose", action="store_true", help="try the settings on the validation points instead")
    parser.add_argument("--out", default="runs/m2_digits", help="folder for the results")
    return parser.parse_args()


def main() -> None:
    a = arguments()
    out, digits, s = Path(a.out), data.digits(), replace(Settings(), epochs=a.epochs)
    out.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "arguments": vars(a), "settings": asdict(s), "protocol": digits.protocol}
    if a.choose:
        record["choice"], file = choose(s, digits), out / "m2_choice.json"
        print(*record["choice"], sep="\n")
    else:
        record["lines"], file = {"parts": lines(M2), "plain": lines(Plain)}, out / "m2_digits.json"
        record["runs"] = [run(s, seed, digits) for seed in a.seeds]
        record["mean"] = means(record["runs"])
        show(record["lines"], record["runs"])
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nWritten: {file}")


if __name__ == "__main__":
    main()
