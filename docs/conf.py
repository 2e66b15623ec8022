"""Sphinx configuration. Neither the build nor the pages need a network."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# The number of threads changes the last digits of gradients: one thread, so that executed pages repeat.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "pyro_dlgm"
author = "the pyro_dlgm developers"
version = release = installed_version("pyro_dlgm")
project_copyright = author

extensions = [
    "anchors",
    "command_line",
    "docstrings",
    "pages",
    "external",
    "objects",
    "offline",
    "outputs",
    "signatures",
    "tables",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_ext", "_templates", "jupyter_execute"]
templates_path = ["_templates"]

# Pages
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # a cache would not see that the package has changed
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# Docstrings
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
strip_signature_backslash = True  # napoleon then keeps the last character of names such as model_
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False

# Formulas: MathJax 3.2.2 with all its extensions in one file, drawn as SVG, so that nothing is fetched. Its license is
# Apache 2.0, docs/_static/mathjax/LICENSE; the file is es5/tex-svg-full.js of `npm pack mathjax@3.2.2`.
mathjax_path = "mathjax/tex-svg-full.js"
mathjax3_config = {"options": {"enableMenu": False}}

# Theme
html_theme = "pydata_sphinx_theme"
html_title = f"pyro_dlgm {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {"**": ["contents.html"]}
html_context = {
    "default_mode": "auto",
    "doors": [
        ("tutorials/index", "Tutorials"),
        ("methods/index", "Guides"),
        ("how_to", "How-to"),
        ("api/index", "API"),
        ("benchmarks", "Benchmarks"),
    ],
}
html_theme_options = {
    "logo": {"text": "pyro_dlgm"},
    "navbar_align": "left",
    "navbar_center": ["doors.html"],
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
