"""Which names are public, and where each is defined: read from the source, so that nothing has to be imported."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxreg"


def modules() -> list[str]:
    """Return the public modules: `jaxreg`, and its files and folders without an underscore."""
    paths = [path for path in sorted(PACKAGE.iterdir()) if path.suffix == ".py" or (path / "__init__.py").exists()]
    return ["jaxreg", *(f"jaxreg.{path.stem}" for path in paths if not path.stem.startswith("_"))]


def public(module: str) -> list[str]:
    """Return the names that a module defines, or exports by `from ... import name as name`."""
    tree = _tree(module)
    exported = [a.name for node in _imports(tree) for a in node.names if a.name == a.asname]
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return sorted({name for name in exported + defined if not name.startswith("_") and not _is_module(module, name)})


def home(module: str, name: str) -> tuple[str, str]:
    """Return the module that defines a name, and its name there: imports are followed."""
    for node in _imports(_tree(module)):
        for alias in node.names:
            ours = node.module != module and (node.module or "").startswith("jaxreg")
            if ours and (alias.asname or alias.name) == name:
                return home(str(node.module), alias.name)
    return module, name


def documented() -> dict[str, list[str]]:
    """Return the names of each public module that no module before it has."""
    seen: set[tuple[str, str]] = set()
    result: dict[str, list[str]] = {}
    for module in modules():
        result[module] = [name for name in public(module) if home(module, name) not in seen]
        seen |= {home(module, name) for name in result[module]}
    return {module: names for module, names in result.items() if names}


def _is_module(module: str, name: str) -> bool:
    path = ROOT.joinpath(*".".join(home(module, name)).split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


@functools.cache
def _tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def _imports(tree: ast.Module) -> list[ast.ImportFrom]:
    """The imports of a module, those for type checkers included, but not those inside of functions."""
    branches = [node.body for node in tree.body if isinstance(node, ast.If | ast.Try)]
    return [node for body in (tree.body, *branches) for node in body if isinstance(node, ast.ImportFrom)]
