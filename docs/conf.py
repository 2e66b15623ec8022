"""Sphinx configuration. The build needs no network; the pages fetch MathJax when they are read."""

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
    "docstrings",
    "tables",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_ext", "jupyter_execute"]

# Pages
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 2
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
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Theme
html_theme = "pydata_sphinx_theme"
html_title = f"pyro_dlgm {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("index", "notation", "quickstart", "conventions", "benchmarks")}
html_theme_options = {
    "logo": {"text": "pyro_dlgm"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
