r"""Takes the screenshots of TensorBoard and of the report in the tutorial on runs, and annotates them."""

import argparse
import io
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

DPI, MARGIN, INK = 100, 370, "#b3003c"  # the margin in pixels holds the captions
GUIDES = ("amortized", "mean-field")


@dataclass(frozen=True)
class Shot:
    r"""A page, and what is said of it.

    Attributes:
        page: the address; "#..." is a page of TensorBoard, else a file of a run.
        size: of the window, in pixels.
        crop: left, top, right, bottom of what is kept.
        notes: the text, and the place in what is kept (pixels) to which its arrow points.
    """

    page: str
    size: tuple[int, int]
    crop: tuple[int, int, int, int]
    notes: tuple[tuple[str, tuple[int, int]], ...]


SHOTS = {
    "tensorboard_curves": Shot(
        "#custom_scalars",
        (1160, 780),
        (0, 0, 1060, 770),
        (
            (
                "The tab for these charts. Others hold\nsingle curves, images, histograms, the\nconfiguration (text) and hparams.",
                (452, 45),
            ),
            ("One colour for each run; tick those to\ncompare.", (150, 512)),
            ("Smoothing is on: 0 shows the curves\nas they are.", (240, 268)),
            ("Training and validation points in one\nchart.", (960, 196)),
            ("Its lines by name, with their markers.", (452, 414)),
            ("Rate, KL(q || p): near 0, q says nothing\nof x.", (960, 548)),
        ),
    ),
    "tensorboard_images": Shot(
        "#images",
        (1160, 900),
        (300, 130, 1160, 890),
        (
            ("Training points, and below each its\nreconstruction.", (731, 195)),
            ("The slider goes back to epochs\n1, 2, 4, 8, ...", (625, 140)),
            ("Samples of the model.", (731, 400)),
            ("In a row one latent moves from -3 to 3;\nthe others stay.", (731, 660)),
        ),
    ),
    "run_report": Shot(
        "amortized/report.html",
        (1000, 1800),
        (0, 0, 985, 1690),
        (
            ("Bounds on test points with standard\nerrors, from pyro-dlgm evaluate.", (430, 276)),
            ("Whether the IWAE may be trusted.", (430, 376)),
            ("Verdicts on q in words, from\nevaluate.diagnose.", (870, 632)),
            ("How many nats each latent carries.", (330, 1010)),
            ("Learning curves: solid on training,\ndashed on validation points.", (760, 1500)),
        ),
    ),
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains two runs on digits, photographs their pages in TensorBoard and the report of one of them "
        "with chromium, and writes annotated pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--runs", help="folder of the runs, which are made where they are missing (default: temporary)")
    parser.add_argument("--out", default="docs/_static", help="folder of the pictures")
    parser.add_argument("--epochs", type=int, default=30, help="of each run")
    parser.add_argument("--chromium", default="chromium", help="the browser")
    return parser.parse_args()


def train(runs: Path, epochs: int) -> None:
    r"""Makes the runs that are missing, and scores the first."""
    program = [sys.executable, "-m", "pyro_dlgm.cli"]
    for guide in GUIDES:
        options = ["--data", "digits", "--latents", "8", "--guide", guide, "--epochs", str(epochs)]
        if not (runs / guide / "report.html").exists():
            subprocess.run([*program, "fit", *options, "--out", str(runs / guide)], check=True)
    if not (runs / GUIDES[0] / "evaluation.json").exists():
        subprocess.run([*program, "evaluate", str(runs / GUIDES[0])], check=True)


@contextmanager
def board(runs: Path):
    r"""Context manager: the address of a TensorBoard on the runs, once it answers."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", runs.name, "--port", str(port)]
    process = subprocess.Popen([*command, "--host", "localhost"], cwd=runs.parent, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://localhost:{port}/data/runs", process)
        yield f"http://localhost:{port}/"
    finally:
        process.terminate()
        process.wait()


def _wait(address: str, process: subprocess.Popen) -> None:
    for _ in range(120):
        if process.poll() is not None:
            raise RuntimeError("TensorBoard ended; expected it to serve the runs")
        try:
            with urllib.request.urlopen(address) as answer:
                if len(answer.read()) > 2:  # "[]" until the runs were read
                    return
        except OSError:
            pass
        time.sleep(0.5)
    raise RuntimeError("TensorBoard did not answer within a minute")


def photograph(chromium: str, address: str, shot: Shot) -> Image.Image:
    r"""The page as the browser shows it, cut out."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.png"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
        window = "--window-size={},{}".format(*shot.size)
        patience = ["--virtual-time-budget=25000"] if address.startswith("http") else []
        command = [chromium, *options, window, *patience, f"--screenshot={file}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return Image.open(file).convert("RGB").crop(shot.crop)


def annotated(image: Image.Image, notes: tuple) -> Figure:
    r"""The picture with numbered discs and arrows, and what the numbers mean on the right."""
    width, height = image.width + MARGIN, image.height
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(image, extent=(0, image.width, height, 0))
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.axis("off")
    disc = {"boxstyle": "circle,pad=0.25", "facecolor": INK, "edgecolor": "none"}
    written = {"color": "white", "weight": "bold", "ha": "center", "va": "center", "size": 11}
    top = 40
    for number, (text, place) in enumerate(notes, 1):
        arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.8}
        axis.annotate(str(number), place, (place[0] + 42, place[1] + 22), bbox=disc, arrowprops=arrow, **written)
        axis.text(image.width + 24, top, str(number), bbox=disc, **written)
        axis.text(image.width + 46, top - 8, text, size=11, va="top")
        top += 24 + 20 * (text.count("\n") + 1)
    return figure


def write(figure: Figure, file: Path) -> None:
    r"""Writes the figure with few colours, which keeps a screenshot small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    Image.open(buffer).convert("RGB").quantize(128).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    a = arguments()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(a.runs or f"{folder}/runs").resolve()
        train(runs, a.epochs)
        with board(runs) as address:
            for name, shot in SHOTS.items():
                page = address + shot.page if shot.page.startswith("#") else (runs / shot.page).as_uri()
                write(annotated(photograph(a.chromium, page, shot), shot.notes), out / f"{name}.png")


if __name__ == "__main__":
    main()
