r"""Plain-text docstrings as reStructuredText.

The docstrings of the package are written to be read in a terminal: formulas are indented text, bars are absolute
values, ``x_j`` is an x with an index, references follow one another line by line. Sphinx would read bars as
substitutions and run references together. This extension marks all that up before napoleon sees it.
"""

import re

from sphinx.domains.python import PyObject

COLON = "\ue000"  # stands for a colon that napoleon must not take for the end of a type
SECTION = re.compile(r"\s*[A-Z][a-z]+:$")
LITERAL = re.compile(r"(``.+?``|`[^`]+`)")
NAMES = re.compile(r"(\s+)(\w+(?:, \w+)+): (.*)")
INDEX = re.compile(r"(?<![A-Za-z0-9_])(d?[^\W\d_](?:\\\*)?|∏)_(\{[^{}]*\}|[A-Za-z0-9]{1,2}(?![A-Za-z0-9_]))")
POWER = re.compile(r"\^\{([^{}]*)\}")
SMALL = str.maketrans("ijk", "ᵢⱼₖ")
EMPHASIS = re.compile(r"(?<![\w*])\*(?=\w)([^*]*\w)\*(?![\w*])")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _role(name: str, text: str, after: str) -> str:
    r"""The text in a role, and a boundary where more text follows."""
    return rf"\ :{name}:`{text}`" + ("" if after in ("", " ") else r"\ ")


def _small(power: str) -> str:
    return re.sub(r"_([ijk])\b", lambda index: index[1].translate(SMALL), power)


def raised(line: str) -> str:
    r"""x_j and e^{...} with index and power as such; inside of a power, indices are single characters."""
    line = POWER.sub(lambda m: _role("sup", _small(m[1]), m.string[m.end() :][:1]), line)
    return INDEX.sub(lambda m: m[1] + _role("sub", m[2].strip("{}"), m.string[m.end() :][:1]), line)


def escape(line: str) -> str:
    r"""Indices are set as such; bars and stars outside of literals, except around *emphasis*, lose their meaning."""
    parts = LITERAL.split(line)
    for i in range(0, len(parts), 2):
        stars = EMPHASIS.sub("\ue001\\1\ue001", parts[i]).replace("*", r"\*")
        parts[i] = raised(stars.replace("\ue001", "*").replace("|", r"\|"))
    return "".join(parts)


def _starts_reference(line: str, before: str) -> bool:
    ended = before.endswith(".") or before.split(" ")[-1].startswith("http")
    return ended and '"' in line  # of a title; a journal continues


def mark_up(lines: list[str]) -> list[str]:
    r"""Formulas as literal blocks, references as list items, the rest escaped."""
    out: list[str] = []
    section, formula, last = "", None, ""
    for line in lines:
        text = line.strip()
        if formula is not None and text and _indent(line) < formula:
            formula = None
        if not text or text.startswith((">>>", "...")) or formula is not None:
            out.append(line)
        elif SECTION.match(line):
            section = text[:-1]
            out.append(line)
        elif last and out[-1] == "" and not SECTION.match(last) and _indent(line) > _indent(last):
            formula = _indent(line)
            out += [" " * _indent(last) + ".. code-block:: text", " " * _indent(line) + ":class: formula", "", line]
        else:
            line = escape(line)
            if section in ("Returns", "Yields"):
                line = line.replace(":", COLON)
            if section == "References" and _indent(line) > 0:
                first = SECTION.match(last) or _starts_reference(text, last.strip())
                line = " " * _indent(line) + ("- " if first else "  ") + text
            names = NAMES.match(line) if section == "Attributes" else None
            # napoleon takes "a, b: ..." for two arguments, but not for two attributes
            out += [f"{names[1]}{name}: {names[3]}" for name in names[2].split(", ")] if names else [line]
        last = line if text else last
        if section and text and _indent(line) == 0 and not SECTION.match(line):
            section = ""
    return out


def before_napoleon(app, what, name, obj, options, lines):
    lines[:] = mark_up(lines)
    if what in ("property", "attribute"):  # napoleon would take what comes before a colon for the type
        lines[:1] = [line.replace(":", COLON) for line in lines[:1]]


def after_napoleon(app, what, name, obj, options, lines):
    lines[:] = [line.replace(COLON, ":").replace(":Parameters:", ":Arguments:") for line in lines]


def resolve(app, env, node, contnode):
    r"""Links `fit`, `evaluate.infer`, ... to the documented object whose name ends so, the outermost of several."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    full = [name for name, entry in domain.objects.items() if name.endswith("." + target) and not entry.aliased]
    if not full:
        return None
    name = min(full, key=lambda name: name.count("."))
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    for field in PyObject.doc_field_types:
        field.label = {"parameter": "Arguments", "variable": "Attributes"}.get(field.name, field.label)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
