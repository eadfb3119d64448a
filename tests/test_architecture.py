"""Who may import whom: CONTRIBUTING.md's table, read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmcli

PACKAGE = Path(llmcli.__file__).parent

# Layer -> the layers of ours that it may import, itself aside. "params" stands for
# engine/params.py, plain data that every layer may use.
ALLOWED = {
    "errors": set(),
    "_version": set(),
    "params": {"errors"},
    "reporting": set(),
    "shapes": set(),
    "extras": {"errors"},
    "system": {"errors"},
    "io": {"errors", "extras", "reporting"},
    "tokenization": {"errors", "extras", "io", "system"},
    "hub": {"errors", "reporting", "system", "io", "_version"},
    "engine": {"errors", "extras", "params", "system", "tokenization"},
}
ALLOWED["models"] = {*ALLOWED["engine"], *ALLOWED["hub"], "engine", "hub"}
ALLOWED["scoring"] = {"errors", "engine", "params", "tokenization"}
ALLOWED["tasks"] = {*ALLOWED["models"], "models", "scoring", "shapes"}
ALLOWED["api"] = {*ALLOWED["tasks"], "tasks"}
ALLOWED["training"] = {*ALLOWED["api"], "api", "extras"}
ALLOWED["serve"] = {*ALLOWED["api"], "api", "extras"}
ALLOWED["cluster"] = {*ALLOWED["tasks"], "tasks", "extras"}
ALLOWED["terminal"] = {*ALLOWED["tasks"], "tasks"}
ALLOWED["__init__"] = {"errors", "_version", "params", "models", "api"}
ALLOWED["__main__"] = {"cli"}

# What a layer must not import of other people's, even inside a function.
FORBIDDEN = {
    "errors": {"torch", "transformers", "click", "rich"},
    "params": {"torch", "transformers", "click", "rich", "numpy"},
    "reporting": {"torch", "transformers", "click", "rich", "numpy"},
    "io": {"torch", "transformers", "click", "rich", "huggingface_hub"},
    "tokenization": {"torch", "click", "rich"},
    "hub": {"torch", "transformers", "click", "rich"},
    "engine": {"click", "rich", "huggingface_hub"},
    "models": {"click", "rich"},
    "scoring": {"click", "rich", "huggingface_hub"},
    "tasks": {"click", "rich", "huggingface_hub"},
    "api": {"click", "rich", "huggingface_hub"},
    "cluster": {"torch", "transformers", "click", "rich", "huggingface_hub"},
    "training": {"click"},
    "serve": {"click", "rich", "torch", "transformers", "huggingface_hub"},
    "terminal": {"click", "torch", "transformers", "huggingface_hub"},
}
TRANSFORMERS_IN_ENGINE = {"engine/transformers_decoder.py", "engine/reading.py"}
NO_TORCH = {"scoring/windows.py", "scoring/statistics.py", "engine/params.py"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    if relative.as_posix() == "engine/params.py":
        return "params"
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports at run time, wherever in the file."""
    for node in _running(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk all nodes but those under ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield other
                yield from _running(other)
            continue
        yield node
        yield from _running(node)


def target_layer(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "llmcli" or len(parts) < 2:
        return None
    if module.startswith("llmcli.engine.params"):
        return "params"
    return parts[1]


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_layers(path: Path) -> None:
    own = layer(path)
    modules = set(imports(path))
    if own != "cli":
        allowed = ALLOWED[own] | {own}
        # `from llmcli.engine.params import X` also yields the name X under the module.
        wrong = {m for m in modules if (t := target_layer(m)) is not None and t not in allowed}
        assert not wrong, f"{own} may not import {sorted(wrong)}"
    roots = {module.split(".")[0] for module in modules}
    forbidden = set(FORBIDDEN.get(own, set()))
    name = path.relative_to(PACKAGE).as_posix()
    if own == "engine" and name not in TRANSFORMERS_IN_ENGINE:
        forbidden.add("transformers")
    if name in NO_TORCH:
        forbidden.add("torch")
    assert not roots & forbidden


def test_subpackages_import_nothing() -> None:
    """Importing a leaf must never pull in a neighbour."""
    for path in PACKAGE.glob("*/__init__.py"):
        assert not list(imports(path)), path


def test_no_circle_of_imports() -> None:
    """No file imports, by way of others or inside a function, a file that imports it."""
    files = {module_name(path): path for path in sources()}
    ahead = {
        name: {module for module in imports(path) if module in files and module != name}
        for name, path in files.items()
    }
    while leaves := {name for name, modules in ahead.items() if not modules & ahead.keys()}:
        ahead = {name: modules for name, modules in ahead.items() if name not in leaves}
    circles = {name: sorted(modules & ahead.keys()) for name, modules in ahead.items()}
    assert not circles, "these, or some of them, import each other"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def test_only_the_output_layer_touches_stdout() -> None:
    for path in sources():
        name = path.relative_to(PACKAGE).as_posix()
        if layer(path) == "terminal" or name == "cli/boundary.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "click.echo"), name
            assert not isinstance(node, ast.Attribute) or ast.unparse(node) != "sys.stdout", name


def test_files_are_readable_in_a_sitting() -> None:
    long = {
        path.relative_to(PACKAGE).as_posix(): lines
        for path in sources()
        if (lines := len(path.read_text("utf-8").splitlines())) > 500
    }
    assert not long
