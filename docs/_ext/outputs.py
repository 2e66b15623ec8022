r"""What cells show, made fit for narrow screens: wide pictures and columns of text scroll, and pictures have a text."""

import re
import struct
from pathlib import Path

from docutils import nodes

WIDE = 640  # pixels; a picture that is wider cannot be read where it is scaled to the width of a telephone
COLUMNS = re.compile(r"\S {2,}\S")


def width(file: Path) -> int:
    r"""The width of a PNG in pixels, and 0 of anything else."""
    head = file.read_bytes()[:24] if file.is_file() else b""
    return struct.unpack(">I", head[16:20])[0] if head.startswith(b"\x89PNG") else 0


def in_columns(text: str) -> bool:
    r"""Whether two lines or more have their words in columns, which wrapping would destroy."""
    return sum(bool(COLUMNS.search(line.strip())) for line in text.splitlines()) > 1


def mark(app, doctree, docname) -> None:
    for image in doctree.findall(nodes.image):
        if width(Path(app.srcdir, image["uri"])) > WIDE:
            image["classes"].append("wide")
        image.setdefault("alt", "The picture that the code above draws")
    for block in doctree.findall(nodes.literal_block):
        if "output" in block["classes"] and in_columns(block.astext()):
            block["classes"].append("columns")


def setup(app):
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True}
