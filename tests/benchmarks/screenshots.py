r"""Takes the screenshots of TensorBoard and of the report in the tutorial on runs, and numbers places in them."""

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

DPI, INK = 100, "#b3003c"
GUIDES = ("amortized", "mean-field")


@dataclass(frozen=True)
class Shot:
    r"""A page, and the places in it that get a number.

    Attributes:
        page: the address; "#..." is a page of TensorBoard, else a file of a run.
        size: of the window, in pixels.
        crop: left, top, right, bottom of what is kept.
        places: to which the arrows of 1, 2, ... point, in pixels of what is kept. The page that shows the picture says
            what is there.
    """

    page: str
    size: tuple[int, int]
    crop: tuple[int, int, int, int]
    places: tuple[tuple[int, int], ...]


SHOTS = {
    "tensorboard_curves": Shot(
        page="#custom_scalars",
        size=(1160, 780),
        crop=(0, 0, 1060, 770),
        places=((452, 50), (960, 200), (452, 412), (960, 552), (150, 512), (240, 268)),
    ),
    "tensorboard_images": Shot(
        page="#images",
        size=(1160, 900),
        crop=(300, 130, 1160, 890),
        places=((733, 195), (733, 400), (733, 660), (625, 142)),
    ),
    "run_report": Shot(
        page="amortized/report.html",
        size=(1000, 2000),
        crop=(0, 0, 985, 1880),
        places=((430, 280), (430, 360), (140, 572), (325, 990), (700, 1500)),
    ),
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains two runs on digits, photographs their pages in TensorBoard and the report of one of them "
        "with chromium, and writes pictures with numbered places.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--runs", help="folder of the runs, which are made where they are missing (default: temporary)")
    parser.add_argument("--out", default="docs/_static", help="folder of the pictures")
    parser.add_argument("--epochs", type=int, default=30, help="of each run")
    parser.add_argument("--chromium", default="chromium", help="the browser")
    return parser.parse_args()


def train(runs: Path, epochs: int) -> None:
    r"""Makes the runs that are missing, and scores the first."""
    program = [sys.executable, "-m", "pyro_dlgm"]
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
        patience = ["--virtual-time-budget=60000"] if address.startswith("http") else []
        command = [chromium, *options, window, *patience, f"--screenshot={file}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return Image.open(file).convert("RGB").crop(shot.crop)


def annotated(image: Image.Image, places: tuple) -> Figure:
    r"""The picture with numbered discs, whose arrows point to the places."""
    figure = Figure(figsize=(image.width / DPI, image.height / DPI), dpi=DPI)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(image, extent=(0, image.width, image.height, 0))
    axis.axis("off")
    arrow = {"arrowstyle": "-|>", "color": INK, "lw": 2.5, "mutation_scale": 16}
    disc = {"boxstyle": "circle,pad=0.25", "facecolor": INK, "edgecolor": "none"}
    written = {"color": "white", "weight": "bold", "ha": "center", "va": "center", "size": 16}
    for number, (x, y) in enumerate(places, 1):
        axis.annotate(str(number), (x, y), (x + 56, y + 28), bbox=disc, arrowprops=arrow, **written)
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
                write(annotated(photograph(a.chromium, page, shot), shot.places), out / f"{name}.png")


if __name__ == "__main__":
    main()
