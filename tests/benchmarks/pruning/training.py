"""`python -m tests.benchmarks.pruning.training`: smaller networks by joint groups, and by magnitude, on digits."""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import machine
from tests.benchmarks.pruning.comparison import DENSE, METHODS, Budget, Comparison, Row, Setting, timed

COMMAND = "python -m tests.benchmarks.pruning.training"
STRENGTHS = {"convolutions": (0.004, 0.008, 0.016, 0.026), "residual MLP": (0.003, 0.006, 0.009, 0.018)}
FULL = Budget(STRENGTHS)
QUICK = Budget({"residual MLP": (0.01,)}, shares=(1 / 2,), rates=(1e-2,), seeds=(0,), first=20, second=5, rounds=2)
_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax", "scikit-learn")


def measure(budget: Budget, out: Path) -> None:
    """Run all; the file has what there is after each network."""
    begin, load, rows = time.process_time(), os.getloadavg()[0], list[Row]()
    for name in budget.strengths:
        for row in Comparison(name, budget).rows():
            print(row, flush=True)
            rows.append(row)
        result = {
            "machine": machine.description(_PACKAGES),
            "command": COMMAND,
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
            "processor minutes": (time.process_time() - begin) / 60,
            "budget": dataclasses.asdict(budget),
            "rows": list(map(dataclasses.asdict, rows)),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    time_forward(out)


def time_forward(file: Path) -> None:
    """Time the networks of the file that were chosen; best on a machine that does nothing else."""
    result, rows = read(file)
    rounds = result["budget"]["rounds"]
    rows = [timed(row, rounds) if row.chosen and row.method != DENSE else row for row in rows]
    result |= {"load of forward": round(os.getloadavg()[0], 1), "rows": list(map(dataclasses.asdict, rows))}
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def read(file: Path) -> tuple[dict[str, Any], list[Row]]:
    result = json.loads(file.read_text())
    return result, [Row(**{**row, "setting": Setting(**row["setting"])}) for row in result["rows"]]


def markdown(file: Path) -> str:
    """A row for each method and size: means over the seeds; of accuracies also the least and the greatest."""
    result, rows = read(file)
    lines = [
        "| multiply-adds | method | test accuracy, % (least – greatest) | before fine-tuning | strength; rates "
        "| validation: chosen, worst | training, s | forward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in result["budget"]["strengths"]:
        (dense,) = {row.multiply_adds for row in rows if row.network == name and row.method == DENSE}
        lines.append(f"| **{name}** | | | | | | | |")
        for share, method in ((0.0, DENSE), *((share, m) for share in result["budget"]["shares"] for m in METHODS)):
            alike = [row for row in rows if (row.network, row.method, row.share) == (name, method, share)]
            lines.append(_line(dense, alike))
    where = machine.one_line(result["machine"])
    minutes, load = result["processor minutes"], "load {} to {}".format(*result["load"])
    return "\n".join(lines) + (
        f"\n\n(`{COMMAND}`, {minutes:.0f} minutes of processor time, {load}; forward at "
        f"load {result['load of forward']}. {where}.)"
    )


def _line(dense: int, rows: Sequence[Row]) -> str:
    chosen, tried = ([row for row in rows if row.chosen == was] for was in (True, False))
    row, *_ = chosen
    share = _mean([row.multiply_adds for row in chosen]) / dense
    setting, tests = row.setting, [row.test for row in chosen]
    rates = f"{setting.rate:g}" + (f", {setting.fine_rate:g}" if setting.fine_rate else "")
    validations = [row.validation for row in tried]
    cells = [
        f"{dense}" if row.method == DENSE else f"{share:.1%}",
        row.method,
        f"{100 * _mean(tests):.1f} ({100 * min(tests):.1f} – {100 * max(tests):.1f})",
        "–" if row.removed is None else f"{100 * _mean([row.removed or 0 for row in chosen]):.1f}",
        (f"{setting.strength:g}; " if setting.strength else "") + rates,
        f"{100 * max(validations):.1f}, {100 * min(validations):.1f}" if validations else "–",
        f"{_mean([row.seconds for row in chosen]):.1f}",
        "1" if row.forward is None else f"{_mean([row.forward or 0 for row in chosen]):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def picture(file: Path, to: Path) -> None:
    """Test accuracy against multiply-adds: a mark for each seed, a line through the means; all that was tried small."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    result, rows = read(file)
    networks = list(result["budget"]["strengths"])
    figure, panels = plt.subplots(
        1, len(networks), figsize=(5 * len(networks), 3.8), layout="constrained", squeeze=False
    )
    for axes, name in zip(panels[0], networks, strict=True):
        own = [row for row in rows if row.network == name]
        for method, colour, mark in zip(METHODS, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^v", strict=True):
            for chosen, size in ((False, 9), (True, 26)):
                found = [row for row in own if row.method == method and row.chosen == chosen]
                axes.scatter(*_points(found), size, colour, marker=mark, alpha=0.9 if chosen else 0.35, linewidths=0)
            found = [row for row in own if row.method == method and row.chosen]
            shares = sorted({row.share for row in found})
            means = [np.mean(_points([row for row in found if row.share == share]), axis=1) for share in shares]
            axes.plot(*np.transpose(means), color=colour, label=method)
        dense = [row for row in own if row.method == DENSE and row.chosen]
        axes.scatter(*_points(dense), 26, "0.3", marker="D", linewidths=0, label=DENSE)
        axes.set(xscale="log", xlabel="multiply-adds", ylabel="test accuracy, %", title=name)
        lowest = min(100 * row.test for row in own if row.chosen)
        axes.set_ylim(lowest - 4, None)
    panels[0, -1].legend(frameon=False, loc="lower right")
    figure.savefig(to, dpi=100)


def _points(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    return [row.multiply_adds for row in rows], [100 * row.test for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--out", type=Path, help="run all, some half an hour, and write the results here as JSON")
    parser.add_argument("--quick", action="store_true", help="with --out: a few steps of one network, that all runs")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print such a file as a Markdown table")
    parser.add_argument("--picture", type=Path, nargs=2, metavar=("FILE", "PNG"), help="draw such a file")
    parser.add_argument("--time", type=Path, metavar="FILE", help="time the forward passes of such a file anew")
    args = parser.parse_args()
    if args.out:
        measure(QUICK if args.quick else FULL, args.out)
    if args.time:
        time_forward(args.time)
    if args.table:
        print(markdown(args.table))
    if args.picture:
        picture(*args.picture)


if __name__ == "__main__":
    main()
