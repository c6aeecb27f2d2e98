"""`python -m tests.benchmarks.language_model`: the trainings of the notebook on a sparse language model, but longer.

It runs the notebook's own cells, those with the tags "settings" and "model", with other settings and three seeds.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from tests.benchmarks import machine

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "11_sparse_language_model.ipynb"
SETTINGS = {"WIDTH": 48, "HEADS": 4, "HIDDEN": 192, "BLOCKS": 2, "CONTEXT": 32, "BATCH": 16, "STEPS": 800}
RATES = (3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2)
STRENGTHS: dict[str, tuple[float, ...]] = {
    "dense": (0.0,),
    "L1 in the loss": (3e-4,),
    "L1, proximal": (1e-4, 3e-4, 1e-3),
    "magnitude": (0.5, 0.2, 0.05),
    "group lasso": (3e-4, 1e-3, 3e-3),
    "2:4": (0.0,),
    "2:4, latent": (0.0,),
    "2:4, late": (0.0,),
}


def notebook(**settings: Any) -> dict[str, Any]:
    """What the notebook defines, with these settings in place of its own."""
    names: dict[str, Any] = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        tags = cell.metadata.get("tags", [])
        if "settings" in tags or "model" in tags:
            exec(cell.source, names)
        if "settings" in tags:
            names.update(settings)
    return names


def measure(out: Path) -> None:
    """Choose the learning rate for the dense model, then run all; the file has the results after each seed."""
    begin, dense = time.perf_counter(), {}
    for rate in RATES:
        names = notebook(**SETTINGS, PEAK=rate)
        dense[rate] = names["figures"](names["trainer"]("dense")(0.0, 0)[0])["loss"]
        print(f"largest learning rate {rate:g}: validation loss {dense[rate]:.4f}", flush=True)
    settings = {**SETTINGS, "PEAK": min(dense, key=dense.__getitem__)}
    names = notebook(**settings)
    trainers = {name: names["trainer"](name) for name in STRENGTHS}
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        for name, strengths in STRENGTHS.items():
            for strength in strengths:
                params, seconds = trainers[name](strength, seed)
                rows.append({"name": name, "strength": strength, "seed": seed, **names["figures"](params)})
                rows[-1]["milliseconds"] = 1e3 * seconds
                print(rows[-1], flush=True)
        result = {
            "machine": machine.description(("jax", "jaxlib", "numpy", "optax", "flax")),
            "command": "python -m tests.benchmarks.language_model",
            "settings": settings,
            "letters": {text: names[text].size for text in ("training", "validation")},
            "rates": {f"{rate:g}": loss for rate, loss in dense.items()},
            "minutes": (time.perf_counter() - begin) / 60,
            "rows": rows,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def table(file: Path) -> str:
    """The means over the seeds as a Markdown table; of the loss also the least and the greatest."""
    result = json.loads(file.read_text())
    units = {key: result["settings"][key] * result["settings"]["BLOCKS"] for key in ("HIDDEN", "HEADS")}
    lines = [
        "| | strength, share | validation loss (least – greatest) | zeros | units gone | heads gone | ms a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            rows = [row for row in result["rows"] if (row["name"], row["strength"]) == (name, strength)]
            if not rows:
                continue
            losses = [row["loss"] for row in rows]
            means = {key: np.mean([row[key] for row in rows]) for key in rows[0] if key != "name"}
            lines.append(
                f"| {name} | {f'{strength:g}' if strength else '–'} "
                f"| {means['loss']:.3f} ({min(losses):.3f} – {max(losses):.3f}) | {means['zeros']:.1%} "
                f"| {means['hidden units']:.0f} of {units['HIDDEN']} | {means['heads']:.1f} of {units['HEADS']} "
                f"| {min(row['milliseconds'] for row in rows):.1f} |"
            )
    return "\n".join(lines)


def picture(file: Path, to: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    names = notebook()
    names["draw"](json.loads(file.read_text())["rows"])
    names["plt"].savefig(to, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.language_model", description=__doc__)
    parser.add_argument("--out", type=Path, help="run all, some ten minutes, and write the results here as JSON")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print such a file as a Markdown table")
    parser.add_argument("--picture", type=Path, nargs=2, metavar=("FILE", "PNG"), help="draw such a file")
    args = parser.parse_args()
    if args.out:
        measure(args.out)
    if args.table:
        print(table(args.table))
    if args.picture:
        picture(*args.picture)


if __name__ == "__main__":
    main()
