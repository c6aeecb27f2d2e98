"""The results: a table for the terminal, JSON, and the table of README.md in this folder."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from tests.benchmarks import machine
from tests.benchmarks.measurement import Measurement


def show(console: Console, rows: list[Measurement]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns: dict[str, JustifyMethod] = {
        "work": "left", "against": "left", "median": "right", "min": "right", "max": "right", "ms": "right",
        "to reach": "right", "": "left",
    }  # fmt: skip
    for name, justify in columns.items():
        table.add_column(name, justify=justify)
    family = ""
    for row in rows:
        if row.family != family:
            family = row.family
            table.add_row(f"[bold]{family}", end_section=False)
        table.add_row(*_cells(row), {None: "", True: "yes", False: "[red]no"}[row.reached])
    console.print(table)


def _cells(row: Measurement) -> tuple[str, ...]:
    if row.unit != "×":
        return row.work, row.against, f"{_digits(row.median)} {row.unit}", "", "", "", str(row.limit or "")
    numbers = (_digits(value) for value in (row.median, row.least, row.greatest))
    return row.work, row.against, *numbers, _digits(row.milliseconds or 0), str(row.limit or "")


def _digits(value: float) -> str:
    """Three digits; a difference of nothing is 0."""
    return f"{value:.3g}" if abs(value) >= 1e-6 else "0"


def to_json(path: Path, rows: list[Measurement], missing: list[str], command: str) -> None:
    result = {
        "machine": machine.description(),
        "command": command,
        "missing": missing,
        "measurements": [row.to_json() for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Measurement]]:
    result = json.loads(path.read_text())
    return result, [Measurement.from_json(row) for row in result["measurements"]]


def markdown(path: Path) -> str:
    """The rows with a limit and those that are stated, as a Markdown table, with machine and command below it."""
    result, rows = read(path)
    lines = ["| work | against | ratio (min – max) | to reach | reached |", "|---|---|---|---|---|"]
    for row in rows:
        if (row.limit is not None or row.stated) and row.unit == "×":
            spread = f"{_digits(row.median)} ({_digits(row.least)} – {_digits(row.greatest)})"
            reached = {None: "–", True: "yes", False: "**no**"}[row.reached]
            lines.append(f"| {row.family}: {row.work} | {row.against} | {spread} | {row.limit or '–'} | {reached} |")
    exact = [row for row in rows if row.limit is not None and row.unit != "×"]
    kept = sum(bool(row.reached) for row in exact)
    limits = (
        f"; {kept} of {len(exact)} exact limits on temporaries, bytes, operations and errors are kept" if exact else ""
    )
    lines += [
        "",
        f"(`{result['command']}`: time over time, median, least and greatest of the pairs{limits}. "
        f"{machine.one_line(result['machine'])}.)",
    ]
    return "\n".join(lines)
