"""Sphinx: the theme, what is shown of an object, and how docstrings and names in the text become links."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import docstrings
import latex2mathml.converter
import names
from docutils import nodes
from jax.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

import jaxreg

project = "jaxreg"
copyright = author = "The jaxreg authors"
version = release = jaxreg.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.githubpages",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
]
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
napoleon_use_rtype = False
toc_object_entries = False
viewcode_follow_imported_members = True

nb_execution_mode = "off"  # the tests execute the notebooks; the site shows what they committed
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"jaxreg {release}"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["jaxreg.css"]
html_math_renderer = "mathml"
html_copy_source = False

_ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = docstrings.to_rst("\n".join(lines)).splitlines()


def _signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Write the long union of types as the name that it has in JAX."""
    if signature is None:
        return None
    return tuple(text and text.replace(_ARRAY_LIKE, "ArrayLike") for text in (signature, returns))


def _source(app: Sphinx, module: str, attribute: str) -> str:
    return names.home(module, attribute.partition(".")[0])[0]


def _link_names(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Make links of public names and pages: `Group(L1(1.0), axis=0)`, `jaxreg.path`, `jaxreg/_optax/README.md`."""
    objects = app.env.get_domain("py").objects
    for literal in list(tree.findall(nodes.literal)):
        name, _, arguments = literal.astext().partition("(")
        if isinstance(literal.parent, nodes.reference):
            continue
        if name.endswith(".md") and name.removesuffix(".md") in app.env.found_docs:
            uri = app.builder.get_relative_uri(page, name.removesuffix(".md"))
            literal.replace_self(nodes.reference("", "", literal.deepcopy(), internal=True, refuri=uri))
        if not name.replace(".", "").isidentifier():
            continue
        if ") " in arguments:
            continue  # a sum of two
        if "." not in name and not (name[0].isupper() or "_" in name):
            continue  # `path` and `get` are words of their own
        entry = objects.get(name) or objects.get(f"jaxreg.{name}")
        if entry and entry.docname != page:
            anchor = name if name in objects else f"jaxreg.{name}"
            link = make_refnode(app.builder, page, entry.docname, entry.node_id, literal.deepcopy(), anchor)
            literal.replace_self(link)


def _inline_math(writer: Any, node: nodes.math) -> None:
    writer.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def _display_math(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(latex2mathml.converter.convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))
    app.connect("autodoc-process-docstring", _docstring, priority=100)  # before napoleon reads the sections
    app.connect("autodoc-process-signature", _signature)
    app.connect("viewcode-follow-imported", _source)
    app.connect("doctree-resolved", _link_names)
