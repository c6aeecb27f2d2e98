"""Build the documentation: `python .docs/build.py`, then open build/docs/html/index.html.

Its pages are those that the repository has anyway: README.md, the pages in its folders, the notebooks with the outputs
that were committed, and a reference written from the docstrings. They are laid out as in the repository, so that one
link leads to the same place on both. A warning is an error: a link that leads nowhere, a docstring that cannot be read.
"""

import os
import re
import shutil
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(Path(__file__).parent.parent))

import links
import pages
from names import ROOT

OUT = ROOT / "build" / "docs"
# Servers do not show folders that begin with a dot.
FOLDERS = {".github": "contributing", ".docs": "help"}
LINK = re.compile(r"\]\(((?:\.\./)*[\w./-]+)(#[\w-]*)?\)")

MENU = """
```{{toctree}}
:hidden:
:caption: Tutorials

{notebooks}
```

```{{toctree}}
:hidden:
:caption: In depth

help/errors
jaxreg/penalties/README
jaxreg/_rules/README
jaxreg/_optax/README
```

```{{toctree}}
:hidden:
:caption: Names

api/index
```

```{{toctree}}
:hidden:
:caption: The project

contributing/CHANGELOG
contributing/CONTRIBUTING
tests/README
tests/benchmarks/README
tests/accelerators/README
```
"""


def documents() -> list[Path]:
    """Return the files of the repository that are pages of the site."""
    folders = (ROOT / "jaxreg", ROOT / "tests")
    readmes = [path for folder in folders for path in sorted(folder.rglob("README.md"))]
    own = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]
    return [ROOT / "README.md", *own, *readmes, *notebooks()]


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def place(path: Path) -> Path:
    """Where a file of the repository lies on the site."""
    relative = path.relative_to(ROOT)
    if relative == Path("README.md"):
        return Path("index.md")
    folder, *rest = relative.parts
    return Path(FOLDERS.get(folder, folder), *rest)


def lay_out(source: Path) -> None:
    """Copy the documents and what they link to."""
    for path in documents():
        text = path.read_text()
        for link, _ in LINK.findall(text):
            target = (path.parent / link).resolve()
            if target.is_file() and target not in documents():
                copy = source / place(target)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(target, copy)
        copy = source / place(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        for folder, name in FOLDERS.items():
            text = text.replace(f"]({folder}/", f"]({name}/").replace(f"/{folder}/", f"/{name}/")
        if path == ROOT / "README.md":
            text += MENU.format(notebooks="\n".join(f"notebooks/{notebook.stem}" for notebook in notebooks()))
        copy.write_text(text)


def main() -> int:
    from sphinx.cmd.build import main as sphinx  # here, so that the tests do without

    shutil.rmtree(OUT, ignore_errors=True)
    source = OUT / "source"
    source.mkdir(parents=True)
    lay_out(source)
    pages.write(source / "api")
    configuration = str(Path(__file__).parent)
    options = ["--fail-on-warning", "--keep-going", "--quiet", "-j", "auto"]
    failed = sphinx([*options, "-c", configuration, "-d", str(OUT / "doctrees"), str(source), str(OUT / "html")])
    for link in (broken := links.broken((OUT / "html").resolve())):
        print("a link that leads nowhere:", link)
    return failed or bool(broken)


if __name__ == "__main__":
    sys.exit(main())
