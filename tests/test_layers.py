r"""The map of the package: layers, no circle, few files in a folder, imports that cost nothing."""

import ast
import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_dlgm

ROOT = Path(pyro_dlgm.__file__).parent
GUIDES = Path(pyro_dlgm.guides.__file__).parent
# What each module imports lies on a lower layer, or in its own wing.
LAYERS = [
    ("storage",),
    ("messages", "masks", "distributions", "seeding", "progress", "hmc", "shared"),
    ("nets",),
    ("points",),
    ("program", "likelihoods", "objectives"),
    ("priors",),
    ("latents",),
    ("modes",),
    ("model", "data", "ppca", "guides"),
    ("optim", "recipes"),
    ("evaluate", "runs"),
    ("plots", "ranks"),
    ("training",),
    ("comparison",),
    ("report", "sklearn"),
    ("cli",),
    ("__main__",),
]
LAYER = {wing: number for number, wings in enumerate(LAYERS) for wing in wings}


def modules() -> dict[str, Path]:
    r"""All modules by name below the package, faces (``__init__``) left out."""
    found = {}
    for folder, prefix in ((ROOT, ()), (GUIDES, ("guides",))):
        for path in folder.rglob("*.py"):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            if parts[-1] != "__init__" and (prefix or parts[0] != "guides"):
                found[".".join(parts)] = path
    return found


MODULES = modules()


def imported(name: str, path: Path, *, at_once: bool = False) -> set[str]:
    r"""The full names that a module imports; ``at_once``: only those that its own import needs."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    nodes = tree.body if at_once else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ["pyro_dlgm", *name.split(".")][: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def targets(name: str) -> set[str]:
    r"""The modules of the package that a module imports."""
    found = {full.removeprefix("pyro_dlgm.") for full in imported(name, MODULES[name])}
    return {t for full in found for t in (full, full.rpartition(".")[0]) if t in MODULES} - {name}


def wing(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name):
    for target in targets(name):
        below = LAYER[wing(target)] < LAYER[wing(name)]
        assert below or wing(target) == wing(name) or {"model", "ppca"} == {wing(name), wing(target)}, target


def test_no_module_imports_a_face():
    faces = {".".join(path.relative_to(ROOT).parts[:-1]) for path in ROOT.rglob("__init__.py")} | {"guides"}
    for name, path in MODULES.items():
        found = {full.removeprefix("pyro_dlgm.") for full in imported(name, path) if full.startswith("pyro_dlgm")}
        through = {f for f in found if f not in MODULES and f.rpartition(".")[0] not in MODULES}
        assert not through, f"{name} imports {through}, through one of {faces}"


def test_there_is_no_circle():
    arrows, seen = {name: targets(name) for name in MODULES}, {}

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        for target in () if seen.get(name) else arrows[name]:
            visit(target, [*trail, name])
        seen[name] = True

    for name in arrows:
        visit(name, [])


NEVER = [("model", "guides"), ("guides", "model"), ("nets", "pyro"), ("hmc", "pyro"), ("evaluate", "training")]


@pytest.mark.parametrize(("name", "other"), NEVER)
def test_what_must_never_import_what(name, other):
    for module in (m for m in MODULES if wing(m) == name):
        tops = {full.removeprefix("pyro_dlgm.").partition(".")[0] for full in imported(module, MODULES[module])}
        assert other not in tops, module


@pytest.mark.parametrize(
    ("library", "wings"),
    [
        ("matplotlib", {"plots", "report", "comparison"}),
        ("torchvision", {"data"}),
        ("jinja2", {"report"}),
        ("click", {"cli"}),
        ("sklearn", {"data", "sklearn"}),
    ],
)
def test_a_library_has_its_wings(library, wings):
    users = {wing(m) for m, path in MODULES.items() if any(f.split(".")[0] == library for f in imported(m, path))}
    assert users <= wings


def test_folders_are_small():
    for folder in {path.parent for path in (*ROOT.rglob("*.py"), *GUIDES.rglob("*.py"))}:
        assert len(list(folder.glob("*.py"))) <= 12, folder


def test_no_module_bears_the_name_of_what_its_package_exports():
    for face in (*ROOT.rglob("__init__.py"), GUIDES / "__init__.py"):
        tree = ast.parse(face.read_text(encoding="utf-8"))
        exported = {
            a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) and n.module for a in n.names
        }
        if face.parent == ROOT:
            exported |= set(pyro_dlgm._PLACES)
        assert not exported & {path.stem for path in face.parent.iterdir()}, face


def test_public_names_are_there():
    for name in pyro_dlgm.__all__:
        assert getattr(pyro_dlgm, name) is getattr(pyro_dlgm, name)
    with pytest.raises(AttributeError, match="no attribute 'VAE'; it has DLGM"):
        pyro_dlgm.VAE  # noqa: B018
    assert set(pyro_dlgm.__all__) <= set(dir(pyro_dlgm))


HEAVY = ("torch", "numpy", "pyro", "torchvision", "matplotlib", "jinja2", "rich", "arviz", "sklearn", "scipy")


def loaded(code: str) -> set[str]:
    r"""Which heavy libraries a fresh process has imported after the code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(json.loads(said.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "fit --help", "compare --help", "evaluate -h", "sample -h"]
)
def test_help_and_version_import_no_library(arguments):
    code = f"from pyro_dlgm.cli.main import main\nmain({arguments.split()!r}, standalone_mode=False)"
    assert loaded(code) == set()


def test_completion_imports_no_library_and_makes_no_folder(tmp_path):
    code = (
        "import os\nfrom click.shell_completion import BashComplete\nfrom pyro_dlgm.cli.main import main\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "complete = BashComplete(main, {}, 'pyro-dlgm', '_X').get_completions\n"
        "assert 'mean-field' in [c.value for c in complete(['fit', '--guide'], 'm')]\n"
        "assert complete(['compare', '--like'], '') is not None\n"
    )
    assert loaded(code) == set()
    assert list(tmp_path.iterdir()) == []


def test_the_package_itself_imports_no_library_and_models_no_pictures():
    assert loaded("import pyro_dlgm") == set()
    assert not loaded("from pyro_dlgm import DLGM, PPCA, data, evaluate, fit, guides") & {
        "torchvision",
        "matplotlib",
        "jinja2",
        "sklearn",
    }


def test_the_package_is_typed():
    assert (ROOT / "py.typed").exists()


def test_the_wheel_has_every_folder():
    r"""The packages are listed by name, since guides/ lies beside the others; one that is forgotten is in no wheel."""
    setup = configparser.ConfigParser()
    setup.read(ROOT.parent / "setup.cfg", encoding="utf-8")
    listed = set(setup["options"]["packages"].split())
    folders = {".".join(("pyro_dlgm", *p.parent.relative_to(ROOT).parts)) for p in ROOT.rglob("__init__.py")}
    beside = {".".join(("pyro_dlgm.guides", *p.parent.relative_to(GUIDES).parts)) for p in GUIDES.rglob("__init__.py")}
    assert listed == folders | beside
