"""The page of papers, from the `References` of the docstrings: what each paper is the source of, and the reverse."""

import importlib
import inspect
import re

import docstrings
import names


def sources() -> dict[str, list[str]]:
    """Return the sources that the docstring of each public name gives, such as `Wen et al., *Learning ...*, 2016`."""
    found = {}
    for module, members in names.documented().items():
        for name in members:
            text = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
            if section := text.partition("References:\n")[2].partition("\n\n")[0]:
                found[f"{module}.{name}"] = split(" ".join(section.split()))
    return found


def split(section: str) -> list[str]:
    """One source each: authors, *title* and where, which end at the last stop before the authors of the next title."""
    pieces = re.split(r"(\*[^*]+\*)", section)
    if len(pieces) == 1:  # no paper: a name in Keras
        return [section]
    result = [pieces[0]]
    for i in range(1, len(pieces), 2):
        result[-1] += pieces[i]
        if i + 2 < len(pieces):
            end, _, authors = pieces[i + 1].rpartition(". ")
            result[-1] += f"{end}."
            result.append(authors)
        else:
            result[-1] += pieces[-1]
    return result


def title(source: str) -> str:
    """The title by which two sources are the same paper; "" of what is none."""
    found = re.search(r"\*([^*]+)\*", source)
    return found[1].casefold() if found else ""


def papers() -> dict[str, list[str]]:
    """Return the names that each paper is the source of, the papers by the name of the first author."""
    result: dict[str, tuple[str, list[str]]] = {}
    for name, given in sources().items():
        for source in filter(title, given):
            written, of = result.setdefault(title(source), (source, []))
            result[title(source)] = min(written, source, key=len), [*of, name]  # without the remarks of one docstring
    return dict(sorted(result.values(), key=lambda item: item[0].lstrip("*").casefold()))


def page() -> str:
    """Both directions as reStructuredText."""
    by_paper = [
        f"{docstrings.inline(paper)}\n   {', '.join(f':py:obj:`{name}`' for name in of)}\n\n"
        for paper, of in papers().items()
    ]
    by_name = [f":py:obj:`{name}`\n   {docstrings.inline(' '.join(given))}\n\n" for name, given in sources().items()]
    return "".join(
        [
            "Papers\n======\n\nWhat each paper is the source of, and the sources of each name.\n\n",
            "From a paper to its names\n-------------------------\n\n",
            *by_paper,
            "From a name to its papers\n-------------------------\n\n",
            *by_name,
        ]
    )
