"""Docstrings are plain text with the marks of Markdown; Sphinx reads reStructuredText."""

import re

PAPERS = (
    (re.compile(r"arXiv:(\d{4}\.\d{4,5})"), r"`arXiv:\1 <https://arxiv.org/abs/\1>`__"),
    (re.compile(r"(?:https?://)?doi(?:\.org/|:)\s*(10\.\d{4,}/[^\s,]*[\w)])"), r"`doi:\1 <https://doi.org/\1>`__"),
)
REMARK = re.compile(r" {4,}(?=\([^()]*\)$)")  # what stands at the right margin of a formula comes near to it


def to_rst(text: str) -> str:
    """Return a docstring, already dedented, as reStructuredText: what is indented for its looks becomes a block."""
    lines, result, base, section = text.splitlines(), [], 0, False
    in_block = in_example = False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            result.append("")
            in_example = False
            continue
        if in_block and indent > base:
            result.append(REMARK.sub("   ", line))
            continue
        in_block = False
        begins = i == 0 or not lines[i - 1].strip()
        if begins and indent == 0:
            section = bool(re.match(r"[A-Z][\w ,()’']*:$", line))
        # Within a section the text is indented by 4; what stands deeper after an empty line is a formula or a table.
        base = 4 if section and indent else 0
        if begins and indent > base:
            in_block = True
            base = indent - 1 if indent > 4 * (1 + section) else base
            result += [" " * (4 if section else 0) + ".. code-block:: text", "", REMARK.sub("   ", line)]
            continue
        in_example = in_example or line.lstrip().startswith(">>>")
        result.append(line if in_example else inline(line))
    return "\n".join(result)


def inline(line: str) -> str:
    """Return one line with code in double backticks, papers as links, and no mark that was not meant as one."""
    parts = re.split(r"(`[^`]+`)", line)
    marked = "".join(f"`{part}`" if i % 2 else _prose(part) for i, part in enumerate(parts))
    return re.sub(r"(?<=\w``)(?=\w)", r"\\ ", marked)  # `Array`s: the mark ends before the letter


def _prose(text: str) -> str:
    text = text.replace("\\", r"\\").replace("|", r"\|")
    text = re.sub(r"(?<=\w)_(?!\w)", r"\_", text.replace("**", r"\*\*"))
    for pattern, link in PAPERS:
        text = pattern.sub(link, text)
    return text
