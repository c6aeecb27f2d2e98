"""The results as JSON, and as the table of README.md one folder up."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.pruning.measure import DEPGRAPH, OURS, TOLERANCE, Removal
from tests.benchmarks.pruning.networks import NETWORKS

COMMAND = "python -m tests.benchmarks.pruning"
_PACKAGES = ("jax", "jaxlib", "numpy", "torch", "torch-pruning")


def to_json(path: Path, rows: list[Removal]) -> None:
    result = {
        "machine": machine.description(_PACKAGES),
        "command": COMMAND,
        "removals": [dataclasses.asdict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Removal]]:
    result = json.loads(path.read_text())
    return result, [Removal(**row) for row in result["removals"]]


def markdown(path: Path) -> str:
    result, rows = read(path)
    return table(rows) + f"\n\n(`{result['command']}`. {machine.one_line(result['machine'])}.)"


def table(rows: list[Removal]) -> str:
    """How many kinds there are, are found, and went with the output unchanged; below, what went otherwise."""
    lines = [
        "| network | kinds on paper | jaxreg: found | output the same | Torch-Pruning: found | output the same |",
        "|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        cells: list[Any] = [network.name, len(network.kinds)]
        for library in (OURS, DEPGRAPH):
            found = [row for row in rows if (row.network, row.library) == (network.name, library) and row.units]
            cells += [len(found), sum(row.same for row in found)] if found else ["–", "–"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", *(f"- {_sentence(row)}" for row in rows if not row.same or row.library not in (OURS, DEPGRAPH))]
    return "\n".join(lines).rstrip()


def _sentence(row: Removal) -> str:
    if row.error:
        return f"{row.network}, {row.library}, `{row.unit}`: `{row.error}`"
    change = f"≤ {TOLERANCE:g}" if row.same else f"{row.change:.2g}"
    return f"{row.network}, {row.library}, `{row.unit}`: removed, the output changes by {change} of its greatest entry"
