"""Print a table and the lines below it, and save the same as plain text."""

from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table

WIDTH = 80  # columns of a saved report, and the least of a table: rich would shorten numbers, a terminal breaks lines


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise what `print` raises; rich would end the process."""
        raise BrokenPipeError


def show(*parts: RenderableType) -> None:
    """Print the parts one below the other, after an empty line."""
    print()
    _print(_Console(), parts)


def save(path: Path, *parts: RenderableType) -> Path:
    """Write the parts into a text file and return its path."""
    with path.open("w", encoding="utf-8") as file:
        _print(Console(file=file, width=WIDTH), parts)
    return path


def _print(console: Console, parts: tuple[RenderableType, ...]) -> None:
    width = console.width
    for part in parts:
        console.width = max(width, WIDTH) if isinstance(part, Table) else width
        console.print(part)
