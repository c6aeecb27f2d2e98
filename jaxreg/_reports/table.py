"""Tables that a terminal, a notebook and a file can show."""

import abc
import html
import math
import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxreg._core.text import printable

WIDTH = 80
_MANY = 40  # with more leaves than this, those whose paths differ only in numbers share a row
_GAP = "  "
_CELL = 24  # characters of a cell outside the first column; a longer one is shortened


class Table(NamedTuple):
    """A header, rows and a last row of totals; text columns are aligned to the left, numbers to the right."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    total: tuple[str, ...]
    left: tuple[int, ...] = (0,)  # the text columns


class Report(abc.ABC):
    """A table with notes below it: plain text by `print`, HTML in a notebook, colours by `rich.print`."""

    @abc.abstractmethod
    def _table(self) -> Table:
        """The table."""

    @abc.abstractmethod
    def _notes(self) -> list[str]:
        """Sentences below the table."""

    def __str__(self) -> str:
        return "\n".join([*_lines(self._table()), *([""] if self._notes() else []), *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        return _html(self._table()) + notes

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        lines, hidden = _narrowed(self._table(), options.max_width)
        yield Text(lines[0], style="bold")
        yield Text(lines[1], style="dim")
        yield from (Text(line, style="dim" if line.startswith("─") else "") for line in lines[2:-1])
        yield Text(lines[-1], style="bold")
        if hidden:
            yield Text(f"in a wider terminal: {', '.join(hidden)}", style="dim")
        if self._notes():
            yield Text("")
        yield from (Text(note) for note in self._notes())


def share(part: float, whole: float) -> str:
    """A share in percent; only exact values print as `0` and `100%`, others as `<0.1%`, `12.5%`, `>99.9%`."""
    if not part or not whole:
        return "0"
    percent = 100 * part / whole
    if not math.isfinite(percent):
        return "-"
    if percent == 100:
        return "100%"
    if 0 <= percent < 0.1:
        return "<0.1%"
    return ">99.9%" if 99.9 < percent < 100 else f"{percent:.1f}%"


def count(n: int) -> str:
    """A whole number with spaces between thousands."""
    return f"{n:,}".replace(",", " ")


def leaves(n: int) -> str:
    """`1 leaf`, `1 000 leaves`."""
    return f"{count(n)} {'leaf' if n == 1 else 'leaves'}"


def merged(kinds: Sequence[tuple[str, Hashable]]) -> list[tuple[str, list[int]]]:
    """Group leaves into rows: one each, or with many leaves one for all of a kind whose paths differ only in numbers.

    Args:
        kinds: `(path, kind)` of each leaf.

    Returns:
        for each row its path, such as `layers_{0..11}/kernel ×12`, and the positions of its leaves in `kinds`.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, (path, kind) in enumerate(kinds):
        alike = (re.sub(r"\d+", "#", path), kind)
        groups.setdefault(alike if len(kinds) > _MANY else i, []).append(i)
    return [(_common([kinds[i][0] for i in alike]), alike) for alike in groups.values()]


def _common(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return paths[0]
    words = re.split(r"\d+", paths[0])
    columns = zip(*(map(int, re.findall(r"\d+", path)) for path in paths), strict=True)
    ranges = [str(min(c)) if min(c) == max(c) else f"{{{min(c)}..{max(c)}}}" for c in map(tuple, columns)]
    return "".join(map("".join, zip(words, (*ranges, ""), strict=True))) + f" ×{len(paths)}"


def _lines(table: Table, width: int = WIDTH) -> list[str]:
    """The table as lines of text; a path that does not fit into the first column has a line of its own."""
    rows = _fitted([tuple(map(printable, row)) for row in (table.header, *table.rows, table.total)], table.left, width)
    widths = _widths(rows)
    gaps = len(_GAP) * (len(widths) - 1)
    widths[0] = max(min(widths[0], width - sum(widths[1:]) - gaps), len(table.header[0]), len(table.total[0]))
    rule = "─" * (sum(widths) + gaps)
    head, *body, total = (_line(row, widths, table.left) for row in rows)
    return [*head, rule, *(line for lines in body for line in lines), rule, *total]


def _narrowed(table: Table, width: int) -> tuple[list[str], list[str]]:
    """The table in so many columns of a terminal, and the headers that had no room: a number is whole, or not there."""
    hidden: list[str] = []
    while len((lines := _lines(table, width))[1]) > width and len(table.header) > 1:
        hidden.insert(0, table.header[-1])
        table = Table(table.header[:-1], [row[:-1] for row in table.rows], table.total[:-1], table.left)
        table = table._replace(left=tuple(i for i in table.left if i < len(table.header)))
    return lines, hidden


def _fitted(rows: list[tuple[str, ...]], left: tuple[int, ...], width: int) -> list[tuple[str, ...]]:
    """Shorten long cells; take what is still too wide from the widest text column."""
    limits = [0, *([_CELL] * (len(rows[0]) - 1))]
    widths = [min(w, limit) for w, limit in zip(_widths(rows), limits, strict=True)]
    least = max(len(rows[0][0]), len(rows[-1][0])) + sum(widths[1:]) + len(_GAP) * (len(widths) - 1)
    if least > width and left[1:]:
        widest = max(left[1:], key=widths.__getitem__)
        limits[widest] = max(8, widths[widest] - (least - width))
    return [(row[0], *map(_cut, row[1:], limits[1:])) for row in rows]


def _widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _line(row: tuple[str, ...], widths: list[int], left: tuple[int, ...]) -> list[str]:
    alone = [row[0]] if len(row[0]) > widths[0] else []
    cells = ("", *row[1:]) if alone else row
    aligned = (
        cell.ljust(width) if i in left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return [*alone, _GAP.join(aligned).rstrip()]


def _cut(cell: str, limit: int) -> str:
    return cell if len(cell) <= limit else f"{cell[: limit - 1]}…"


def _html(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        sides = ("left" if i in table.left else "right" for i in range(len(cells)))
        pairs = zip(map(printable, cells), sides, strict=True)
        inside = "".join(f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>' for cell, side in pairs)
        return f"<tr>{inside}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return (
        f"<table><thead>{row(table.header, 'th')}</thead><tbody>{body}</tbody>"
        f"<tfoot>{row(table.total, 'th')}</tfoot></table>"
    )
