"""The results: JSON, and the tables of README.md in this folder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.accelerators import growth, penalties, steps
from tests.accelerators.targets import TARGETS
from tests.benchmarks import machine

Result = dict[str, Any]
Key = tuple[str, str, str, str]  # family, work, program, target
RESULTS = Path(__file__).parent / "results" / "compiled.json"
PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "optax", "numpy")


def table() -> list[Key]:
    """All programs, in the order of the tables."""
    return [
        *(("penalties", *name, target) for target in penalties.ON for name in penalties.names()),
        *(("steps", work, "step", target) for target in steps.ON for work in steps.steps()),
        *(("growth", work, str(leaves), target) for work, leaves, target in growth.TREES),
    ]


def key(result: Result) -> Key:
    return result["family"], result["work"], result["program"], result["target"]


def write(path: Path, result: Result) -> None:
    """Write a result into a file; those of other programs that it has already stay."""
    found = {key(old): old for old in read(path)["results"]} if path.exists() else {}
    found[key(result)] = result
    content = {
        "machine": machine.description(PACKAGES),
        "command": "python -m tests.accelerators",
        "results": [found[name] for name in table() if name in found],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def line(result: Result) -> str:
    """One result for the terminal."""
    work = f"{result['work']}, {result['program']}, {result['target']}"
    if "refused" in result:
        return f"{work}: {result['refused']}"
    return f"{work}: {_cell(result)}; {result.get('trace', '-')} s to trace, {result.get('compile', '-')} s to compile"


def _cell(result: Result | None) -> str:
    """`3.01 · 17 MB · 2 all-reduce`; – where there is no such operator."""
    if result is None:
        return ""
    if "refused" in result:
        return "–"
    if "limit" in result:
        return f"> {result['limit']} s"
    parts = [f"{result['ratio']:.3g}"] if "ratio" in result else []
    if (megabytes := result.get("temporaries", 0) / 1e6) >= 1:
        parts.append(f"{megabytes:.0f} MB")
    parts += [f"{count} {kind}" for kind, count in result.get("collectives", {}).items()]
    if result["family"] == "steps" and TARGETS[result["target"]].platform == "cuda":
        parts.append(f"{result['kernels']} kernels")
    return " · ".join(parts)


def markdown(path: Path) -> str:
    """The tables, with machine and command below them."""
    content = read(path)
    found = {key(result): result for result in content["results"]}
    columns = [(target, program) for target in penalties.ON for program in penalties.PROGRAMS]
    lines = _head("penalty", [f"{target}: {program}" for target, program in columns])
    for work in penalties.penalties():
        lines.append(
            _row(f"`{work}`", [found.get(("penalties", work, program, target)) for target, program in columns])
        )
    lines += ["", *_head("step", steps.ON)]
    for work in steps.steps():
        lines.append(_row(work, [found.get(("steps", work, "step", target)) for target in steps.ON]))
    lines += ["", "| tree | leaves | for | ms a leaf to trace | ms a leaf to compile |", "|---|---|---|---|---|"]
    for work, leaves, target in growth.TREES:
        if result := found.get(("growth", work, str(leaves), target)):
            each = [f"{1e3 * result[name] / leaves:.3g}" if name in result else "" for name in ("trace", "compile")]
            lines.append(f"| {work} | {leaves:,} | {target} | {' | '.join(each)} |")
    return "\n".join([*lines, "", f"(`{content['command']}`. {machine.one_line(content['machine'])}.)"])


def _head(first: str, columns: Iterable[str]) -> list[str]:
    names = [first, *columns, "s to compile"]
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _row(name: str, results: list[Result | None]) -> str:
    """With the seconds of the program that took longest."""
    tried = [result for result in results if result and "refused" not in result]
    over = [result["limit"] for result in tried if "limit" in result]
    slowest = max((result.get("compile", 0) for result in tried), default=0)
    seconds = f"> {max(over)}" if over else f"{slowest:.1f}" if tried else ""
    return f"| {' | '.join([name, *map(_cell, results), seconds])} |"
