"""The documentation has a page for every public name and every document, and reads docstrings as they are meant.

Building it is another matter, `python .docs/build.py`: it needs Sphinx, and its own warnings are errors.
"""

import importlib
import inspect
import re
import subprocess
import types
from pathlib import Path
from typing import Any

import pytest

import jaxreg

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _the_folder_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / ".docs"))


def _public(module: types.ModuleType) -> set[str]:
    """The public names of a module as Python has them, without what it only imports: other modules, other packages."""
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    objects = {name: value for name, value in found.items() if not isinstance(value, types.ModuleType)}
    return {name for name, value in objects.items() if str(getattr(value, "__module__", "")).startswith("jaxreg")}


def test_every_public_name_has_its_page_once(tmp_path: Path) -> None:
    """The generator reads the source; this is compared with what Python imports, and with `jaxreg.__all__`."""
    pages = importlib.import_module("pages")
    pages.write(tmp_path / "api")
    text = "".join(path.read_text() for path in (tmp_path / "api").iterdir())
    documented = re.findall(r"^\.\. auto(?:class|function):: (\S+)$", text, re.MULTILINE)
    assert len(documented) == len(set(documented))

    names = {f"jaxreg.{name}" for name in jaxreg.__all__ if not isinstance(getattr(jaxreg, name), types.ModuleType)}
    also = set(re.findall(r"^Also ``(\S+)``\.$", text, re.MULTILINE))
    assert names == {name for name in documented if name.count(".") == 1} | also
    assert also == {"jaxreg.l1", "jaxreg.l2", "jaxreg.l1_l2", "jaxreg.orthogonal_regularizer"}

    for room in ("activity", "linen", "nnx", "plot"):
        module = importlib.import_module(f"jaxreg.{room}")
        assert {f"jaxreg.{room}.{name}" for name in _public(module)} <= set(documented)
        assert f".. automodule:: jaxreg.{room}\n" in text
    assert "jaxreg.keras.constraint" in documented
    assert [name for name in documented if not _is_there(name)] == []


def _is_there(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute)


def test_pages_differ_in_more_than_the_case_of_letters(tmp_path: Path) -> None:
    """Some file systems do not tell `Path.html` from `path.html`."""
    names = importlib.import_module("names")
    pages = [*names.documented()["jaxreg"], *names.modules()]
    assert len({page.casefold() for page in pages}) == len(pages)


def test_every_document_is_in_the_menu() -> None:
    build = importlib.import_module("build")
    documents = [path for path in build.documents() if path.suffix == ".md"]
    files = subprocess.run(["git", "ls-files", "*.md"], capture_output=True, text=True, cwd=ROOT, check=False).stdout
    assert {ROOT / file for file in files.split()} <= set(documents)
    assert {str(build.place(path).with_suffix("")) for path in documents} - {"index"} <= set(build.MENU.split())


DOCSTRINGS = {
    "a formula": ("One line.\n\n    R(x) = Σ |x_i|      (a remark)\n    more", "R(x) = Σ |x_i|   (a remark)\n    more"),
    "code": ("As `optax.sgd` does.", "As ``optax.sgd`` does."),
    "bars and underscores": ("|x_i| and x_ here", r"\|x_i\| and x\_ here"),
    "stars": ("all of ** here, *Title*, `**kwargs`", r"all of \*\* here, *Title*, ``**kwargs``"),
    "a paper": ("A, *B*, arXiv:1608.03665.", "`arXiv:1608.03665 <https://arxiv.org/abs/1608.03665>`__"),
    "an example": ("Example:\n    >>> {'a_': `1` | 2}", "Example:\n    >>> {'a_': `1` | 2}"),
    "a table in a section": (
        "Args:\n    a: b.\n\n        x | y\n        z",
        "    .. code-block:: text\n\n        x | y\n",
    ),
}


@pytest.mark.parametrize("kind", DOCSTRINGS)
def test_docstrings_are_read_as_they_are_meant(kind: str) -> None:
    text, part = DOCSTRINGS[kind]
    to_rst = importlib.import_module("docstrings").to_rst
    assert part in to_rst(text)


def _sections_of_errors() -> list[tuple[str, str]]:
    """The words of each error as the heading has them, and what stands below."""
    text = (ROOT / ".docs" / "errors.md").read_text()
    return [tuple(section.split("\n", 1)) for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]]


def test_each_error_of_the_page_is_raised_there_and_has_a_way_out() -> None:
    """The blocks run in `test_package.py`; here: the heading is of the message in its block, code comes after it."""
    for heading, below in _sections_of_errors():
        told = re.search(r"^Traceback.*\n(\S.*)\n>>> ", below, re.MULTILINE)
        assert told, heading
        words = ".*".join(map(re.escape, heading.strip("`").split("…")))
        assert re.search(words, told[1]), (heading, told[1])


def test_names_on_the_page_of_errors_have_a_page_of_their_own() -> None:
    names = importlib.import_module("names").documented()["jaxreg"]
    for heading, below in _sections_of_errors():
        prose = re.sub(r"```.*?```", "", below, flags=re.DOTALL)
        found = re.findall(r"`(?:([A-Z]\w+)(?:\.\w+)?|jaxreg\.(\w+)|([a-z]+_[a-z]+))`", prose)
        assert {name for one in found for name in one if name} <= set(names), heading
    assert len(_sections_of_errors()) > 20


def test_papers_lead_to_names_and_names_to_papers() -> None:
    papers = importlib.import_module("papers")
    for name, given in papers.sources().items():
        section = inspect.getdoc(_found(name)).partition("References:\n")[2].partition("\n\n")[0]
        assert " ".join(given) == " ".join(section.split())
        assert all(source.count("*") == 2 and source.endswith(".") for source in given if "`" not in source), given
    of_a_paper = papers.papers()
    (adam,) = (names for paper, names in of_a_paper.items() if "(ProxGen)" in paper)
    assert adam == ["jaxreg.adam_metric", "jaxreg.proximal", "jaxreg.proximal_adam"]
    assert {name for names in of_a_paper.values() for name in names} == {
        name for name, given in papers.sources().items() if any(map(papers.title, given))
    }


def _found(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text('<p id="here"><a href="../page.html?v=1#there">up</a>')
    links = ["folder", "folder/#here", "https://example.org/x", "#there", "%66older/index.html", "mailto:a@b"]
    wrong = ["folder/none.html", "folder/index.html#there", "#nowhere"]
    page = "".join(f'<a class="x" href="{link}">' for link in links + wrong) + '<img src="none.png"><p id="there">'
    (tmp_path / "page.html").write_text(page)
    found = importlib.import_module("links").broken(tmp_path)
    assert found == [f"page.html: {link}" for link in sorted([*wrong, "none.png"])]


def test_the_workflow_builds_what_the_page_says() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    assert "python .docs/build.py" in text
    assert "python .docs/build.py" in (ROOT / ".github" / "workflows" / "tests.yml").read_text()
