r"""Signatures as a reader needs them: values for the names of defaults, documented bases alone, and a way back from
the source."""

import re
import sys
from operator import attrgetter

from sphinx.ext.viewcode import OUTPUT_DIRNAME, viewcode_anchor

NAME = re.compile(r"(= ?)([A-Z]\w*(?:\.\w+)*)(?=[,)])")
ANYTHING = re.compile(r"\(\*args: \S*Any, \*\*kwargs: \S*Any\)")  # of torch's Module, which takes none
PLAIN = (int, float, str, tuple)


def bases(cls: type, documented: dict[int, str]) -> list[type]:
    r"""The bases of a class that are documented or not of this package; of the others, their bases."""
    kept = []
    for base in cls.__bases__:
        own = base.__module__.startswith("pyro_dlgm") and id(base) not in documented
        kept += bases(base, documented) if own else [base] if base is not object else []
    return list(dict.fromkeys(kept))


def show_bases(app, name, cls, options, shown) -> None:
    if all(isinstance(base, type) for base in shown):  # else generic ones, which are shown with their types
        shown[:] = bases(cls, app.env.catalogue.names)


def value(module, name: str) -> str:
    r"""The value of a constant of a module, such as 0.1 of ``Pace.lr``; its name, unless that is plain."""
    try:
        found = attrgetter(name)(module)
    except AttributeError:
        return name
    return repr(found) if isinstance(found, PLAIN) else name


def show_values(app, what, name, obj, options, signature, returned):
    if not signature:
        return None
    module = sys.modules.get(getattr(obj, "__module__", None))
    signature = re.sub(r" ?= ?<factory>", " = ...", ANYTHING.sub("()", signature))
    return NAME.sub(lambda found: found[1] + value(module, found[2]), signature), returned


def set_anchors(app, page) -> None:
    r"""An object has its place under the name of the module that defines it, to which the pages of the source link."""
    for link in page.findall(viewcode_anchor):
        module = link["reftarget"].removeprefix(f"{OUTPUT_DIRNAME}/").replace("/", ".")
        *entry, _ = app.env._viewcode_modules[module]
        app.env._viewcode_modules[module] = (*entry, module)
        place = f"{module}.{link['refid']}"
        link.parent["ids"] += [place] if place not in link.parent["ids"] else []


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("doctree-read", set_anchors, priority=600)  # after viewcode has set the links
    app.connect("autodoc-process-bases", show_bases)
    app.connect("autodoc-process-signature", show_values)
    return {"parallel_read_safe": True}
