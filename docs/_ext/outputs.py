r"""What cells show, made fit for the page: wide pictures and columns of text scroll, pictures have a text, and the
sentences of a list of names and sentences continue under themselves."""

import re
import struct
import textwrap
from pathlib import Path

from docutils import nodes

WIDE = 640  # pixels; a picture that is wider cannot be read where it is scaled to the width of a telephone
LINE = 100  # characters that fit into a line of an output
COLUMNS = re.compile(r"\S {2,}(?=\S)")


def width(file: Path) -> int:
    r"""The width of a PNG in pixels, and 0 of anything else."""
    head = file.read_bytes()[:24] if file.is_file() else b""
    return struct.unpack(">I", head[16:20])[0] if head.startswith(b"\x89PNG") else 0


def in_columns(text: str) -> bool:
    r"""Whether two lines or more have their words in columns, which wrapping would destroy."""
    return sum(bool(COLUMNS.search(line.strip())) for line in text.splitlines()) > 1


def hanging(line: str) -> str:
    r"""A line of a name and a sentence that is too long, with what is over it under the sentence."""
    gaps = list(COLUMNS.finditer(line))
    if len(line) <= LINE or len(gaps) != 1:
        return line
    under = " " * gaps[0].end()
    return textwrap.fill(line, LINE, subsequent_indent=under, break_long_words=False, break_on_hyphens=False)


def set_columns(block: nodes.literal_block) -> None:
    r"""A block of columns scrolls."""
    block["classes"].append("columns")
    block.rawsource = "\n".join(map(hanging, block.astext().splitlines()))
    block[:] = [nodes.Text(block.rawsource)]


def mark(app, doctree, docname) -> None:
    for image in doctree.findall(nodes.image):
        if width(Path(app.srcdir, image["uri"])) > WIDE:
            image["classes"].append("wide")
        image.setdefault("alt", "The picture that the code above draws")
    for block in doctree.findall(nodes.literal_block):
        if "output" in block["classes"] and in_columns(block.astext()):
            set_columns(block)


def setup(app):
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True}
