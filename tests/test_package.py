"""The package as a whole: what imports what, what an import costs, style, types, README and the other documents."""

import ast
import doctest
import functools
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import jax
import pytest
import yaml

import jaxreg
from jaxreg.penalties import PENALTIES
from tests.penalty_table import ELSEWHERE, table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
DOCUMENTS = (
    README,
    CONTRIBUTING,
    ROOT / ".github" / "CHANGELOG.md",
    ROOT / ".docs" / "errors.md",
    *sorted((ROOT / "jaxreg").rglob("README.md")),
    *sorted((ROOT / "tests").rglob("README.md")),
)
PACKAGE = ROOT / "jaxreg"
FILES = sorted(PACKAGE.rglob("*.py"))

# The rooms of the house. Imports go down this list: a room may import those above it, and penalties not each other.
ROOMS = (
    "_core",
    "penalties",
    "_rules",
    "_optax",
    "_solver",
    "_strength",
    "_reports",
    "_shrink",
    "activity",
    "_flax",
    "linen",
    "nnx",
    "plot",
    "keras",
    "_commands",
    "__main__",
)
# Heavy packages, and the only places that import them.
GUESTS = {
    "flax": {"_flax", "linen", "nnx", "_commands"},
    "optax": {"_optax", "_commands"},
    "keras": {"keras"},
    "matplotlib": {"plot", "_commands"},
    "rich": {"_reports", "_strength", "_commands"},
    "sklearn": {"_commands"},
    "h5py": {"_commands"},
    "orbax": {"_commands"},
    "safetensors": {"_commands"},
    "chex": set(),
    "pytest": set(),
}


def _imports(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def _room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_files(file: Path) -> set[Path]:
    """The files in rooms that a file imports, also inside functions."""
    names = [name for name in _imports(file) if name.startswith("jaxreg.")]
    return {_file_of(name) for name in names} - {file, PACKAGE / "__init__.py"}


def _file_of(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    if not (path.is_dir() or path.with_suffix(".py").is_file()):
        path = path.parent  # the name of something in that file
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("file", [file for file in FILES if _room(file) != "__init__"], ids=lambda f: f.stem)
def test_imports_go_one_way(file: Path) -> None:
    own = ROOMS.index(_room(file))
    for name in _imports(file):
        top, _, rest = name.partition(".")
        if top == "jaxreg" and rest:
            room = rest.partition(".")[0]
            if room not in ROOMS:  # a public name of the package, for what stands above the optimizers
                assert own > ROOMS.index("_optax"), f"{file} imports {name}"
            else:
                assert ROOMS.index(room) <= own, f"{file} imports {name}"
        if top in GUESTS:
            assert _room(file) in GUESTS[top], f"{file} imports {top}"
    if _room(file) == "penalties" and not file.stem.startswith("_"):
        assert all(other.stem.startswith("_") for other in _imported_files(file) if _room(other) == "penalties")


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Follow the imports down: a file that is above itself is a circle."""
    above = {file: _imported_files(file) for file in FILES}
    while above:
        free = {file for file, needs in above.items() if not needs & set(above)}
        assert free, f"a circle among {sorted(str(file.relative_to(PACKAGE)) for file in above)}"
        above = {file: needs for file, needs in above.items() if file not in free}


def test_a_file_has_its_room() -> None:
    """A public folder has `_private.py` files, a private `_folder/` has plain ones; flat stand only entrances."""
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "keras.py"}
    for file in FILES:
        room, plain = _room(file), not file.name.startswith("_")
        if room in {"activity", "linen", "nnx", "plot"}:
            assert not plain, file
        elif room.startswith("_") and file.name not in {"__init__.py", "__main__.py"}:
            assert plain, file


def test_each_penalty_is_one_final_class_a_file() -> None:
    for file in (PACKAGE / "penalties").glob("*.py"):
        classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
        if not file.name.startswith("_"):
            assert [c.name for c in classes] == [n for n in (p.__name__ for p in PENALTIES) if n == classes[0].name]
            assert "final" in [getattr(d, "id", "") for d in classes[0].decorator_list]
            assert file.stem.replace("_", "") == classes[0].name.lower()


def test_what_is_written_for_the_compiler_names_the_test_that_needs_it() -> None:
    """One file has what is general, two have sums in one pass; and the tests that they name are there."""
    texts = [(PACKAGE / "_core" / f"{name}.py").read_text() for name in ("compiler", "two_sums", "sums_on_gpu")]
    functions = [node for text in texts for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    for function in functions:
        if function.name.startswith("_"):
            continue
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", str(ast.get_docstring(function)))
        assert named, function.name
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), test
    others = [file for file in FILES if file.name != "compiler.py"]
    tricks = "optimization_barrier|reduce_precision|auto_axes|platform_dependent"
    assert not [file for file in others if re.search(tricks, file.read_text())]


def test_every_public_name_is_documented_with_an_example() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in dir(jaxreg):
        obj = getattr(jaxreg, name)
        if name.startswith("_") or not (isinstance(obj, type) or callable(obj)):
            continue
        assert obj.__doc__, name
        assert any(test.examples for test in finder.find(obj, globs={})) or name == "coefficient", name


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, env=_environment()
    ).stdout


@functools.cache
def _imported() -> tuple[set[str], set[str]]:
    """The modules that are there after `import jaxreg`, and after `import flax` as well."""
    first, second = _run("import sys, jaxreg; print(*sys.modules); import flax; print(*sys.modules)").splitlines()
    return set(first.split()), set(second.split())


def test_import_brings_in_nothing_heavy() -> None:
    heavy = {"flax", "keras", "matplotlib", "optax", "rich", "sklearn"}
    assert "jaxreg" in _imported()[0] and not heavy & _imported()[0]
    assert heavy & _imported()[1]  # the probe can fail


PAIRS = """
import os, sys, time
import jax

shared, sys.pycache_prefix = time.process_time(), sys.argv[1]


def seconds(module):
    read, write = os.pipe()
    if not os.fork():
        before = time.process_time()
        __import__(module)
        os.write(write, str(shared + time.process_time() - before).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    with open(read) as result:
        return float(result.read())


optax, ours = seconds("optax"), seconds("jaxreg")
for i in range(27):
    if i % 2:
        optax, ours = seconds("optax"), seconds("jaxreg")
    else:
        ours, optax = seconds("jaxreg"), seconds("optax")
    print(ours / optax, flush=True)
"""


def test_import_costs_as_little_as_that_of_optax(tmp_path: Path) -> None:
    """CPU time of processes in pairs, every other pair in reverse order, after one of each that writes the bytecode.

    They are forked from one that imported JAX, as both do first: what that took is added to the time of each. The
    median of nine pairs, or of 27 if that of nine is too high, for busy machines. The median is within the limit if
    more than half of the pairs are, so that no more are started once that many are.
    """
    ratios: list[float] = []
    env = _environment()
    if not Path(str(jax.__spec__.cached)).exists():  # where JAX is, nothing can be written
        env["PYTHONPYCACHEPREFIX"] = str(tmp_path)
        subprocess.run([sys.executable, "-c", "import jax"], check=True, env=env)

    def decided(pairs: int) -> bool:
        return sum(ratio <= 1.05 for ratio in ratios) > pairs // 2

    command = [sys.executable, "-W", "ignore:os.fork", "-c", PAIRS, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE) as pairs:
        assert pairs.stdout
        while not (len(ratios) <= 9 and decided(9)) and len(ratios) < 27 and not decided(27):
            ratios.append(float(pairs.stdout.readline()))
        pairs.kill()
    assert decided(9 if len(ratios) <= 9 else 27), ratios


def test_import_loads_no_lazy_file() -> None:
    """What not every program needs stays out of `sys.modules` until it is asked for."""
    files = {name for name in _imported()[0] if name.startswith("jaxreg.")}
    assert not {*jaxreg._LAZY.values()} & files
    lazy = {"_optax", "_reports", "_shrink", "_solver", "_strength", "activity"}
    assert not lazy & {name.split(".")[1] for name in files}


@pytest.mark.parametrize("name", jaxreg._LAZY)
def test_a_lazy_name_is_as_the_others(name: str) -> None:
    """It is found, listed, and its examples run: those of a class are not collected from a file whose name it lost."""
    public = getattr(jaxreg, name)
    assert name in dir(jaxreg) and name in jaxreg.__all__
    if isinstance(public, type):
        tests = doctest.DocTestFinder().find(public, name, module=False, globs={})
        assert any(test.examples for test in tests)
        assert not any(doctest.DocTestRunner().run(test).failed for test in tests)


LINES = ("import jaxreg; print(jaxreg.{name}.__name__)", "from jaxreg import {name}; print({name}.__name__)")


@pytest.mark.parametrize("line", LINES)
def test_a_lazy_name_is_found_by_the_first_who_asks(line: str) -> None:
    """In a process where nobody asked for it before."""
    names = _run("\n".join(line.format(name=name) for name in jaxreg._LAZY)).split()
    assert [name.removeprefix("jaxreg.") for name in names] == [*jaxreg._LAZY]


def test_names_that_are_not_there_are_missed() -> None:
    with pytest.raises(AttributeError, match="module 'jaxreg' has no attribute 'L3'"):
        _ = jaxreg.L3
    assert not {"sys", "import_module", "TYPE_CHECKING"} & {*dir(jaxreg)}


def test_a_name_that_is_near_and_a_module_that_is_not_imported_are_told() -> None:
    """As Python prints it; the way out of the second is run."""
    program = """
import sys, jaxreg
sys.stderr = sys.stdout
for name in ("proximal_adamm", "TreeRegulariser", "activity.kl_sparsty", "linen"):
    try:
        eval(f"jaxreg.{name}")
    except AttributeError as error:
        sys.excepthook(AttributeError, error, None)
        way_out = str(error).split("`")[-2] if "`" in str(error) else ""
exec(way_out)
jaxreg.linen.Dense
"""
    told = [line for line in _run(program).splitlines() if line.startswith("AttributeError")]
    near = ("proximal_adam", "TreeRegularizer", "kl_sparsity")
    assert all(line.endswith(f"Did you mean: '{name}'?") for line, name in zip(told, near, strict=False)), told
    assert told[3].endswith("module 'jaxreg' has no attribute 'linen': it is there after `import jaxreg.linen`")
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()} - {"__pycache__", "py.typed", "penalties"}
    assert {*jaxreg._ENTRANCES} == {room for room in rooms if not room.startswith("_")} - {*jaxreg._LAZY}


USER = "import jaxreg\nreveal_type(jaxreg.path)\njaxreg.pathh\n"


@functools.cache
def _mypy() -> str:
    """What mypy says of the package and of a file that uses it, in one process: the most of it is reading JAX."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "user.py"
        file.write_text(USER)
        command = [sys.executable, "-m", "mypy", str(PACKAGE), str(file)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout


def test_type_checkers_see_the_lazy_names() -> None:
    """The imports for type checkers are the table of lazy names, and a name that is not there is an error."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    assert {alias.name for node in branch.body for alias in node.names} == {*jaxreg._LAZY}
    assert 'Revealed type is "def (' in _mypy() and "RegularizationPath" in _mypy()
    assert 'Module has no attribute "pathh"' in _mypy()


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."]], ids=" ".join)
def test_style(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_style_of_types() -> None:
    """The error of the user is the only one."""
    assert f"Found 1 error in 1 file (checked {len(FILES) + 1} source files)" in _mypy(), _mypy()


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
    assert f"    {', '.join(layer for layer in ROOMS if layer != '__main__')}\n" in text
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


def test_what_is_said_twice_is_the_same() -> None:
    """The versions of Python in pyproject.toml and those that are tested; the version, and that of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["project"]["classifiers"]))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    matrices = [job["strategy"]["matrix"] for job in workflow["jobs"].values() if "strategy" in job]
    tested = [matrix.get("python") or [row["python"] for row in matrix["include"]] for matrix in matrices]
    assert tested == [versions, versions]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "jaxreg/__init__.py"


def test_the_workflows_run_commands_that_are_there() -> None:
    """Modules, files and extras that a workflow or a hook names."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for file in (
        *(ROOT / ".github" / "workflows").glob("*.yml"),
        ROOT / ".pre-commit-config.yaml",
        ROOT / ".ci" / "run",
    ):
        text = file.read_text()
        assert file.suffix != ".yml" or yaml.safe_load(text)["jobs"]
        modules = re.findall(r"-m (tests\.[\w.]+)", text)
        files = re.findall(r"(?:python\"?|pytest) ((?:tests|\.docs)/[\w./]+\.py)", text)
        assert all((ROOT / f"{module.replace('.', '/')}.py").exists() for module in modules), file
        assert all((ROOT / path).exists() for path in files), file
        assert set(re.findall(r'-e "\.\[(\w+)\]"', text)) <= set(extras), file


def test_without_the_package_of_an_extra_the_import_names_the_extra() -> None:
    program = """
import importlib, sys
sys.modules["flax"] = sys.modules["matplotlib"] = None
for name in ("linen", "nnx", "plot"):
    try:
        importlib.import_module(f"jaxreg.{name}")
    except ImportError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told = [line.partition(" Importing")[0] for line in result.stdout.splitlines()]
    assert told == [
        "`import jaxreg.linen` needs Flax: `pip install 'jaxreg[flax]'`.",
        "`import jaxreg.nnx` needs Flax: `pip install 'jaxreg[flax]'`.",
        "`import jaxreg.plot` needs matplotlib: `pip install 'jaxreg[plot]'`.",
    ]
