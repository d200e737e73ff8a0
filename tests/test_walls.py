"""The walls between the rooms: who may import what, and the shape of every module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Folder at the repository's root -> the parts of jaxpress that it may import.
ALLOWED = {
    "nnops": ("jaxpress.nnops", "jaxpress.capture.compat"),
    "capture": ("jaxpress.capture",),
    "passes": ("jaxpress.capture", "jaxpress.nnops", "jaxpress.passes"),
    "viz": ("jaxpress.capture", "jaxpress.passes.record", "jaxpress.viz"),
    "jaxpress": ("jaxpress",),
}
COMPAT = "capture/compat.py"
MAX_LINES = 450
JAX_INTERNALS = re.compile(r"\bjax(?:lib)?\._src\b|\bfrom\s+jax\s+import\s+.*\b_src\b")
JAX_VERSION = re.compile(
    r"\bjax(?:lib)?\.(?:__version|version\b)"  # jax.__version__, jax.__version_info__, jax.version
    r"|\bfrom\s+jax(?:lib)?(?:\.version)?\s+import\s+.*__version"
    r"""|\bversion\(\s*["']jax(?:lib)?["']"""  # importlib.metadata.version("jax")
)


def modules(*folders: str) -> list[str]:
    """Paths, relative to the root, of every Python file below the folders."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    )


PACKAGE = modules(*ALLOWED)
EVERYTHING = modules(*ALLOWED, "tests", "benchmarks", "examples", "docs")


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of each import, inside functions and by string too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def within(name: str, package: str) -> bool:
    """Whether a dotted name is the package or lies in it."""
    return name == package or name.startswith(package + ".")


def wall_violations(folder: str, source: str) -> list[str]:
    """Imports of jaxpress that a module of the folder must not make."""
    return [
        f"line {line}: {name}"
        for line, name in imports(source)
        if within(name, "jaxpress")
        and not any(within(name, allowed) for allowed in ALLOWED[folder])
    ]


def loose_imports(source: str) -> list[str]:
    """Relative imports, and imports of a code folder by its bare name."""
    bare = ALLOWED.keys() - {"jaxpress"}
    return [
        f"line {line}: {name}"
        for line, name in imports(source)
        if name.startswith(".") or name.partition(".")[0] in bare
    ]


def jax_secrets(source: str) -> list[str]:
    """Lines that name JAX's private modules or ask for its version."""
    return [
        f"line {number}: {line.strip()}"
        for number, line in enumerate(source.splitlines(), start=1)
        if JAX_INTERNALS.search(line) or JAX_VERSION.search(line)
    ]


def test_every_folder_has_modules() -> None:
    for folder in ALLOWED:
        assert modules(folder), f"{folder}/ has no Python files: the tests below would see nothing"


@pytest.mark.parametrize("path", PACKAGE)
def test_imports_stay_within_the_walls(path: str) -> None:
    folder = path.partition("/")[0]
    found = wall_violations(folder, (ROOT / path).read_text())
    assert not found, f"{path} may import {', '.join(ALLOWED[folder])}; it imports {found}"


@pytest.mark.parametrize("path", EVERYTHING)
def test_imports_are_absolute_and_never_bare(path: str) -> None:
    found = loose_imports((ROOT / path).read_text())
    assert not found, f"{path}: write jaxpress.<folder>... instead of {found}"


@pytest.mark.parametrize("path", [path for path in PACKAGE if path != COMPAT])
def test_only_compat_knows_jax_from_the_inside(path: str) -> None:
    found = jax_secrets((ROOT / path).read_text())
    assert not found, f"{path}: this belongs behind {COMPAT}: {found}"


@pytest.mark.parametrize("path", EVERYTHING)
def test_modules_are_short(path: str) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines; past {MAX_LINES} it is usually two files"


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("nnops", "import jaxpress.passes"),
        ("nnops", "from jaxpress.capture import Graph"),
        ("nnops", "from jaxpress.capture.compatible import x"),
        ("capture", "def f():\n    from jaxpress.nnops import dense"),
        ("capture", "if TYPE_CHECKING:\n    import jaxpress.nnops"),
        ("capture", "importlib.import_module('jaxpress.viz')"),
        ("passes", "import jaxpress"),
        ("passes", "from jaxpress import optimize"),
        ("passes", "from jaxpress.api import optimize"),
        ("passes", "import jaxpress.viz.dot as dot"),
        ("viz", "from jaxpress.passes import Pipeline"),
        ("viz", "import jaxpress.nnops"),
    ],
)
def test_a_breach_is_seen(folder: str, source: str) -> None:
    assert wall_violations(folder, source)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("nnops", "from jaxpress.capture.compat import Primitive"),
        ("nnops", "from jaxpress.capture import compat"),
        ("nnops", "import jax, numpy\nfrom jaxpress.nnops.define import define"),
        ("passes", "from jaxpress import capture, nnops"),
        ("viz", "from jaxpress.passes.record import Report"),
        ("jaxpress", "import jaxpress.viz\nfrom jaxpress.passes import default"),
    ],
)
def test_an_import_within_the_walls_is_let_through(folder: str, source: str) -> None:
    assert not wall_violations(folder, source)


@pytest.mark.parametrize(
    "source",
    [
        "from . import graph",
        "from .graph import Graph",
        "import capture.graph",
        "from viz import x",
    ],
)
def test_a_loose_import_is_seen(source: str) -> None:
    assert loose_imports(source)


@pytest.mark.parametrize(
    "source",
    [
        "from jax._src import core",
        "jax._src.core.x",
        "from jax import _src",
        "if jax.__version_info__ >= (0, 12):",
        "from jax import __version__",
        "importlib.metadata.version('jax')",
        "jaxlib.version",
    ],
)
def test_a_look_inside_jax_is_seen(source: str) -> None:
    assert jax_secrets(source)
