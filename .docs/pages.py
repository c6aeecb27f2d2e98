"""The pages of the reference, written from the public names: there is no list that could fall behind."""

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import docstrings
import names
import papers

TITLES = {"penalties": "Penalties", "sets": "Sets (constraints)"}  # of the others, what their folder says of itself


def sections() -> dict[str, list[str]]:
    """Return the names of `jaxreg` by the room that defines them, penalties first."""
    jaxreg = importlib.import_module("jaxreg")
    result: dict[str, list[str]] = {room: [] for room in TITLES}
    for name in names.documented()["jaxreg"]:
        room = names.home("jaxreg", name)[0].split(".")[1]
        if room == "penalties" and issubclass(getattr(jaxreg, name), jaxreg.Constraint):
            room = "sets"
        result.setdefault(room, []).append(name)
    return dict(sorted(result.items(), key=lambda item: (item[0] not in TITLES, item[0])))


def write(folder: Path) -> None:
    """Write one page for each name of `jaxreg`, one for each other public module, and their tables."""
    folder.mkdir(parents=True)
    jaxreg = importlib.import_module("jaxreg")
    rooms = sections()
    for room, members in rooms.items():
        for name in members:
            (folder / f"{name}.rst").write_text(_heading(name) + _also(jaxreg, name) + _entry("jaxreg", name))
        (folder / f"{_page(room)}.rst").write_text(_heading(_title(room)) + _table(jaxreg, members, toctree=True))
    others = [module for module in names.documented() if module != "jaxreg"]
    for module in others:
        live = importlib.import_module(module)
        members = names.documented()[module]
        text = _heading(module) + f".. automodule:: {module}\n\n" + _table(live, members, toctree=False)
        (folder / f"{module}.rst").write_text(text + "".join(_entry(module, name) for name in members))
    listed = "".join(f"   {page}\n" for page in [*map(_page, rooms), *others, "papers"])
    (folder / "index.rst").write_text(_heading("Reference") + ".. toctree::\n   :maxdepth: 2\n\n" + listed)
    (folder / "papers.rst").write_text(papers.page())


def _page(room: str) -> str:
    """The page of a room: `smaller-networks`, since `shrink` is that of a function."""
    return "-".join(re.findall(r"\w+", _title(room).lower()))


def _title(room: str) -> str:
    """`Smaller networks`: the docstring of the folder, up to its first stop."""
    if room in TITLES:
        return TITLES[room]
    return re.split(r"[.;:]", inspect.getdoc(importlib.import_module(f"jaxreg.{room}")) or room)[0]


def _heading(title: str) -> str:
    return f"{title}\n{'=' * len(title)}\n\n"


def _also(module: ModuleType, name: str) -> str:
    """Say which other names the same object has: `l1` is `L1`, as in Keras."""
    others = [n for n in dir(module) if n != name and getattr(module, n) is getattr(module, name)]
    return f"Also ``{module.__name__}.{'``, ``'.join(others)}``.\n\n" if others else ""


def _entry(module: str, name: str) -> str:
    found = getattr(importlib.import_module(module), name)
    if not inspect.isclass(found):
        return f".. autofunction:: {module}.{name}\n\n"
    if issubclass(found, tuple):
        return f".. autoclass:: {module}.{name}\n\n"
    options = "   :members:\n"
    if module == "jaxreg":  # the layers of the others are Flax's, and documented there
        options += "   :special-members: __call__\n"
        options += "   :inherited-members: object\n" if _has_private_base(found) else ""
    return f".. autoclass:: {module}.{name}\n{options}\n"


def _has_private_base(found: type) -> bool:
    """Whether readers find its methods nowhere else: those of a `Regularizer` stand on the page of that name."""
    jaxreg = importlib.import_module("jaxreg")
    ours = [base.__name__ for base in found.__mro__[1:] if base.__module__.startswith("jaxreg")]
    return bool(ours) and "Regularizer" not in ours and not any(hasattr(jaxreg, name) for name in ours)


def _table(module: ModuleType, members: list[str], toctree: bool) -> str:
    """A name a line with the first line of its docstring; with `toctree` the pages are in the menu, too."""
    rows = "".join(f"   * - :py:obj:`{module.__name__}.{name}`\n     - {_summary(module, name)}\n" for name in members)
    table = f".. list-table::\n   :widths: 30 70\n\n{rows}\n"
    entries = "".join(f"   {name}\n" for name in members)
    return table + (f".. toctree::\n   :hidden:\n\n{entries}\n" if toctree else "")


def _summary(module: ModuleType, name: str) -> str:
    text = inspect.getdoc(getattr(module, name)) or ""
    return docstrings.inline(" ".join(text.partition("\n\n")[0].split()))
