r"""The examples in the docstrings, run in the modules by their real names."""

import doctest
import importlib
import pkgutil

import pytest

import pyro_dlgm

# The guides lie in a folder of their own, which a walk through the package does not meet in an editable install.
ROOTS = (pyro_dlgm, pyro_dlgm.guides)
WALKED = (module.name for root in ROOTS for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}."))
MODULES = sorted({*(root.__name__ for root in ROOTS), *WALKED})


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_the_modules_are_found():
    found = {"pyro_dlgm.model", "pyro_dlgm.guides.per_point", "pyro_dlgm.nets.conv", "pyro_dlgm.evaluate.bounds"}
    assert found <= set(MODULES)


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert sum(len(finder.find(importlib.import_module(name))) > 0 for name in MODULES) >= 3
