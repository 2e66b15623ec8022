r"""One page for each object of the package, written before the pages are read.

A page of ``docs/api`` names modules, or single objects, in ``{objects}``: there is a table for each module, after its
text, and one for single objects; each entry has a page in ``docs/api/objects``. Nothing else lists them.
"""

import importlib
import inspect
import re
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Protocol

from docstrings import escape
from docutils import nodes
from nested import parsed
from signatures import bases
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

NAMED = re.compile(r"^```\{objects\} (.+)$", re.MULTILINE)
PROTOCOL = re.compile(r"^```\{protocol\} (.+)$", re.MULTILINE)
FOLDER = "objects"


def found(path: str):
    r"""The module or object of that full name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        place, _, name = path.rpartition(".")
        return getattr(importlib.import_module(place), name)


def _shown(value, module: str | None = None) -> bool:
    r"""Whether it is a class or function of the package with a text, and of that module, if one is asked for."""
    if not (inspect.isclass(value) or inspect.isfunction(value)) or not value.__doc__:
        return False
    return value.__module__.startswith("pyro_dlgm") and module in (None, value.__module__)


def entries(path: str) -> dict[str, object]:
    r"""What a module shows, by full name: what it exports, else what it defines. Of an object, itself."""
    value = found(path)
    if not isinstance(value, ModuleType):
        return {path: value}
    if hasattr(value, "__all__"):
        names = sorted(value.__all__, key=lambda name: (name.lower(), name.swapcase()))  # ais, then its result AIS
        return {f"{path}.{name}": getattr(value, name) for name in names if _shown(getattr(value, name))}
    return {f"{path}.{n}": v for n, v in vars(value).items() if not n.startswith("_") and _shown(v, path)}


class Catalogue:
    r"""Creates the list of objects that the pages of a folder name, each at one place: the public one, if it has one.

    Arguments:
        folder: with Markdown pages.
    """

    def __init__(self, folder: Path):
        texts = [page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md"))]
        paths = [path for text in texts for named in NAMED.findall(text) for path in named.split()]
        self.protocols = {base for text in texts for path in PROTOCOL.findall(text) for base in found(path).__mro__}
        self.of, self.names = {}, {}
        for path in sorted(paths, key=lambda path: not hasattr(found(path), "__all__") and path.count(".") > 1):
            new = {full: value for full, value in entries(path).items() if id(value) not in self.names}
            self.of[path] = new
            self.names |= {id(value): full for full, value in new.items()}

    def pages(self) -> dict[str, list[str]]:
        r"""Full names by page. A function and the class of its result, ``ais`` and ``AIS``, share one."""
        pages = {}
        for full in sorted(self.names.values(), key=lambda full: (full.lower(), full.swapcase())):
            pages.setdefault(full.lower(), []).append(full)
        return {page_of(together[0]): together for together in pages.values()}

    def inherited(self, cls: type) -> dict[type, list[str]]:
        r"""Methods of the class that implement those of a documented protocol, by its base."""
        found = {}
        for name, method in vars(cls).items():
            if name.startswith("_") or not inspect.isfunction(method) or not method.__doc__:
                continue
            with_it = [base for base in cls.__mro__[1:] if name in vars(base) and id(base) in self.names]
            if with_it and with_it[-1] in self.protocols:
                found.setdefault(with_it[-1], []).append(name)
        return found

    def text(self, full: str) -> str:
        r"""The reStructuredText of an object."""
        value = found(full)
        if not inspect.isclass(value):
            return f".. autofunction:: {full}\n"
        inherited = self.inherited(value)
        text = f".. autoclass:: {full}\n" + ("   :show-inheritance:\n" if bases(value, self.names) else "")
        left_out = [name for names in inherited.values() for name in names]
        text += f"   :exclude-members: {', '.join(left_out)}\n" if left_out else ""
        for base, names in inherited.items():
            title = f"Protocol of {base.__name__}"
            text += f"\n{title}\n{'-' * len(title)}\n\n"
            text += f"Called by the package; what each is for, and when: :py:obj:`~{self.names[id(base)]}`.\n\n"
            text += "".join(f".. automethod:: {full}.{name}\n\n" for name in names)
        return text


def page_of(full: str) -> str:
    return full.removeprefix("pyro_dlgm.")


def write(app) -> None:
    r"""Writes the pages that are new or have changed, and removes those of objects that are gone."""
    folder = Path(app.srcdir) / "api" / FOLDER
    folder.mkdir(exist_ok=True)
    app.env.catalogue = catalogue = Catalogue(folder.parent)
    pages = {folder / f"{page}.rst": together for page, together in catalogue.pages().items()}
    for old in set(folder.glob("*.rst")) - set(pages):
        old.unlink()
    for page, together in pages.items():
        title = together[0].rpartition(".")[2]
        text = f"{title}\n{'=' * len(title)}\n\n" + "\n".join(map(catalogue.text, together))
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def _first_line(value) -> str:
    return escape(inspect.getdoc(value).partition("\n")[0])


def _must(base: type, method) -> bool:
    r"""Whether a class has to define the method: that of the base is abstract, of a `Protocol`, or only raises."""
    declared = "__isabstractmethod__" in vars(method) or Protocol in base.__bases__
    return declared or "raise NotImplementedError" in inspect.getsource(method)


class Rst(SphinxDirective):
    r"""The base of directives that make reStructuredText in a page of Markdown."""

    required_arguments = 1
    final_argument_whitespace = True

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self):
        node = parsed(self, ["````{eval-rst}", *self.lines(), "````"])
        self.keep_anchors(node)
        return node.children

    def keep_anchors(self, node: nodes.Element) -> None:
        r"""A link to an object's place on this page finds its row."""
        for row in node.findall(nodes.row):
            row["ids"] += [link["reftarget"] for link in list(row.findall(addnodes.pending_xref))[:1]]


class Objects(Rst):
    r"""A table of what modules or objects are, with a page for each."""

    def lines(self):
        catalogue, paths = self.env.catalogue, self.arguments[0].split()
        for module, group in groupby(paths, key=lambda path: isinstance(found(path), ModuleType) and path):
            if module:
                yield from (f".. automodule:: {module}", "   :no-members:", "")
            yield from self.table({full: value for path in group for full, value in catalogue.of[path].items()})
        shown = {full for path in paths for full in catalogue.of[path]}
        pages = [page for page, together in catalogue.pages().items() if set(together) & shown]
        yield from ("", ".. toctree::", "   :hidden:", "", *(f"   {FOLDER}/{page}" for page in pages))

    def table(self, shown: dict[str, object]):
        yield from (".. list-table::", "   :class: objects", "")
        for full, value in shown.items():
            yield f"   * - :py:obj:`{full.rpartition('.')[2]} <{full}>`"
            yield f"     - {_first_line(value)}"
        yield ""


class Methods(Rst):
    r"""A table of the methods of a base class: which a part must provide, which it may."""

    def lines(self):
        cls = found(self.arguments[0])
        yield from (".. list-table::", "   :header-rows: 1", "   :class: objects", "")
        yield from ("   * - method", "     - must, may", "     - what it does or returns")
        for base in cls.__mro__:
            for name, method in vars(base).items() if id(base) in self.env.catalogue.names else ():
                if name.startswith("_") or not inspect.isfunction(method):
                    continue
                must = _must(base, method)
                yield f"   * - :py:meth:`{name} <{self.env.catalogue.names[id(base)]}.{name}>`"
                yield f"     - {'must' if must else 'may'}"
                yield f"     - {_first_line(method)}"


def setup(app):
    app.add_directive("objects", Objects)
    app.add_directive("protocol", Methods)
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
