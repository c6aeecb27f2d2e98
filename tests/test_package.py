"""The package as a whole: what imports what, what an import costs, style, types, README and the other documents."""

import ast
import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxreg
from jaxreg.penalties import PENALTIES
from tests.penalty_table import ELSEWHERE, table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
DOCUMENTS = (
    README,
    CONTRIBUTING,
    ROOT / "jaxreg" / "penalties" / "README.md",
    ROOT / "tests" / "README.md",
    ROOT / "tests" / "benchmarks" / "README.md",
)
PACKAGE = ROOT / "jaxreg"
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports go down this list: a module may import those above it. Penalties do not import each other.
LAYERS = (
    "_checks",
    "_pytree",
    "_json",
    "_numerics",
    "_sharding",
    "_compiled",
    "_regularizer",
    "_elementwise",
    "_axes",
    "_constraint",
    "_spectrum",
    "_secular",
    "penalties",
    "_config",
    "_paths",
    "_rules",
    "_tree",
    "_table",
    "_sparsity",
    "_summary_table",
    "_summary",
    "plot",
    "_coefficient_max",
    "_updates",
    "_transform",
    "_metric",
    "_inner",
    "_step_sizes",
    "_half",
    "_proximal",
    "_runs",
    "_path",
    "_layers",
    "_shrink",
    "activity",
    "_outputs",
    "_flax",
    "linen",
    "nnx",
    "keras",
    "_cli",
    "_demo",
    "_path_command",
    "_checkpoints",
    "__main__",
)
# Heavy packages, and the only places that import them.
GUESTS = {
    "flax": {"_flax", "linen", "nnx", "_demo", "_checkpoints"},
    "keras": {"keras"},
    "matplotlib": {"plot", "_demo", "_path_command"},
    "rich": {"_table", "_demo", "_cli", "_runs", "_path_command", "_checkpoints"},
    "sklearn": {"_demo", "_path_command"},
    "h5py": {"_checkpoints"},
    "orbax": {"_checkpoints"},
    "safetensors": {"_checkpoints"},
    "chex": set(),
    "pytest": set(),
}


def _imports(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names += [
                f"{node.module}.{alias.name}" if node.module == "jaxreg" else str(node.module) for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def _layer(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", [file for file in FILES if _layer(file) != "__init__"], ids=lambda f: f.stem)
def test_imports_go_one_way(file: Path) -> None:
    own = LAYERS.index(_layer(file))
    for name in _imports(file):
        top, _, rest = name.partition(".")
        if top == "jaxreg" and rest:
            layer = rest.partition(".")[0]
            if layer not in LAYERS:  # a public name of the package, for what stands above the core
                assert own > LAYERS.index("_transform"), f"{file} imports {name}"
            elif layer != _layer(file):
                assert LAYERS.index(layer) < own, f"{file} imports {name}"
            else:
                assert layer != "penalties" or file.name == "__init__.py", f"{file} imports {name}"
        if top in GUESTS:
            assert _layer(file) in GUESTS[top], f"{file} imports {top}"


def test_each_penalty_is_one_final_class_a_file() -> None:
    for file in (PACKAGE / "penalties").glob("*.py"):
        classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
        if file.name != "__init__.py":
            assert [c.name for c in classes] == [n for n in (p.__name__ for p in PENALTIES) if n == classes[0].name]
            assert "final" in [getattr(d, "id", "") for d in classes[0].decorator_list]
            assert file.stem.replace("_", "") == classes[0].name.lower()


def test_every_public_name_is_documented_with_an_example() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name, obj in vars(jaxreg).items():
        if name.startswith("_") or not (isinstance(obj, type) or callable(obj)):
            continue
        assert obj.__doc__, name
        assert any(test.examples for test in finder.find(obj, globs={})) or name == "coefficient", name


def _run(code: str, **env: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, env={**clean, **env}
    ).stdout


PROBE = "import sys; {}; print(sorted({{'flax', 'keras', 'matplotlib', 'rich', 'sklearn'}} & set(sys.modules)))"


def test_import_brings_in_nothing_heavy() -> None:
    assert _run(PROBE.format("import jaxreg")) == "[]\n"
    assert _run(PROBE.format("import jaxreg, flax")) != "[]\n"  # the probe can fail


def test_import_costs_little_beside_optax(tmp_path: Path) -> None:
    code = (
        "import time; a = time.perf_counter(); import optax; b = time.perf_counter(); import jaxreg; "
        "c = time.perf_counter(); print((c - a) / (b - a))"
    )
    ratios = [float(_run(code, PYTHONPYCACHEPREFIX=str(tmp_path))) for _ in range(5)]
    assert min(ratios) <= 1.15, ratios


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=lambda command: " ".join(command),
)
def test_style_and_types(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_files_are_small() -> None:
    long = {file.name: n for file in FILES if (n := len(file.read_text().splitlines())) > 300}
    assert not long


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_documents_run(document: Path) -> None:
    """Every `>>>` of them; the README has many, no other needs one."""
    result = doctest.testfile(str(document), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0 and (result.attempted > 20 or document != README)


def test_the_readme_is_short_and_begins_with_an_example_and_a_picture() -> None:
    readme = README.read_text()
    assert readme.count("\n") <= 220
    for first in (">>>", "!["):
        assert readme[: readme.index(first)].count("\n") < 40


def test_the_tables_of_penalties_are_those_of_the_classes() -> None:
    assert table() in README.read_text(), "run `python -m tests.penalty_table` and paste what it prints"
    longer = (PACKAGE / "penalties" / "README.md").read_text()
    assert table(elsewhere=True) in longer, "run `python -m tests.penalty_table --elsewhere` and paste what it prints"
    assert set(ELSEWHERE) <= {cls.__name__ for cls in PENALTIES}


def _anchors(document: Path) -> set[str]:
    """The headings of a Markdown file as its links name them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_the_map_of_the_house_is_that_of_the_code() -> None:
    """The rooms, their order, and every path that is named."""
    text = CONTRIBUTING.read_text()
    rooms = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    named = set(re.findall(r"^  (\w+(?:\.py)?)/? {2,}", text, re.MULTILINE))
    assert named == rooms
    assert f"    {', '.join(layer for layer in LAYERS if layer != '__main__')}\n" in text
    for path in re.findall(r"`((?:jaxreg|tests)/[\w./]+)`", text):
        assert (ROOT / path).exists() or path == "jaxreg/penalties/tolerant.py", path
    for requirement in re.findall(r'^  "([a-z][\w-]*)[>=]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE):
        assert re.search(rf"^\|.*\b{requirement}\b.*\| extra `", text, re.MULTILINE), f"why {requirement}?"


def test_every_test_file_is_described() -> None:
    text = (ROOT / "tests" / "README.md").read_text()
    files = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", text)) == files


def test_the_readme_starts_with_two_commands_that_set_themselves_up() -> None:
    commands = [line for line in README.read_text().splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("-m jaxreg demo") and commands[1].endswith("-m pytest")
    extras = [re.search(r'-e "\.\[(\w+)\]"', command) for command in commands]
    assert [match and match[1] for match in extras] == ["demo", "test"]


def test_version_and_licence() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", jaxreg.__version__)
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert (PACKAGE / "py.typed").exists()
