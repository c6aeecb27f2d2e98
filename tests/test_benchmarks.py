"""The benchmark suite runs, measures what it says, and judges it right."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import language_model, machine, report, solver_calls, solvers, timing
from tests.benchmarks.measurement import Limit, Measurement, exact, ratios
from tests.benchmarks.pruning import measure as pruning
from tests.benchmarks.pruning import report as pruning_report
from tests.benchmarks.pruning.networks import NETWORKS, Network
from tests.benchmarks.solver_problems import Problem
from tests.conftest import QUICK

ROOT = Path(__file__).parent.parent
FAMILIES = {
    "penalty of the tree",
    "value and gradient",
    "optimizer step",
    "groups",
    "proximal operator",
    "sweep",
    "matrix penalty, value and gradient",
    "overhead",
    "growth",
    "solvers",
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("benchmarks") / "new" / "quick.json"
    env = {**os.environ, "XLA_FLAGS": QUICK}
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout, out


@pytest.mark.slow
def test_the_quick_run_measures_every_family_and_writes_json(quick: tuple[str, Path]) -> None:
    printed, out = quick
    result = json.loads(out.read_text())
    rows = [Measurement.from_json(row) for row in result["measurements"]]
    assert [row.to_json() for row in rows] == result["measurements"]
    assert {row.family for row in rows} == FAMILIES
    for row in rows:
        assert row.work in printed
        assert row.least <= row.median <= row.greatest
        assert row.unit != "×" or row.least > 0, row
    assert {"Keras", "jnp", "plain Adam", "plain SGD", "optax.adamw", "one BLAS read, a thread a core"} <= {
        row.against for row in rows
    }
    assert result["machine"]["versions"]["jax"] and result["machine"]["cores"]
    for name in result["missing"]:
        assert f"skipped: {name} is not installed" in printed


@pytest.mark.slow
def test_the_markdown_table_has_what_is_limited_or_stated(
    quick: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command in this process, since another one would first import Keras and scikit-learn as well."""
    _, out = quick
    monkeypatch.setattr(sys, "argv", ["python -m tests.benchmarks", "--table", str(out)])
    benchmarks.main()
    printed = capsys.readouterr().out
    _, rows = report.read(out)
    shown = [row for row in rows if (row.limit is not None or row.stated) and row.unit == "×"]
    assert {"sweep", "optimizer step"} <= {row.family for row in shown}
    assert printed.count("\n|") == 1 + len(shown)
    assert printed == report.markdown(out) + "\n"
    assert "`python -m tests.benchmarks --quick`" in printed


def test_ratios_are_taken_pair_by_pair() -> None:
    times = {"jaxreg": [1.0, 2.0, 9.0], "peer": [2.0, 4.0, 3.0]}
    (row,) = ratios("family", "work", times, {"peer": Limit("≤", 0.5), "missing": None})
    assert (row.median, row.least, row.greatest, row.milliseconds, row.reached) == (0.5, 0.5, 3.0, 2000.0, True)


@pytest.mark.parametrize(
    ("rule", "value", "reached"),
    [("≤", 1.0, True), ("≤", 1.1, False), ("<", 1.0, False), ("<", 0.9, True), ("≥", 0.9, False), ("≥", 1.0, True)],
)
def test_limits_judge(rule: str, value: float, reached: bool) -> None:
    assert exact("family", "work", "-", value, "trees", Limit(rule, 1.0)).reached is reached
    assert exact("family", "work", "-", value, "trees", None).reached is None


def test_the_timer_calls_in_turn_and_equally_often() -> None:
    calls: list[str] = []
    functions: dict[str, Any] = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = timing.alternate(functions, rounds=3, at_least=0)
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(calls[6:]) == "abcbcacab"


def test_a_solver_gets_the_loosest_tolerance_that_is_near_enough() -> None:
    best, asked = np.array([1.0, 2.0]), []

    def solve(tol: float) -> np.ndarray:
        asked.append(tol)
        return best * (1 + np.array([tol, 0.0]))

    error = solver_calls.gap(lambda found: found, {"exact": lambda tol: best})
    problem = Problem("work", {"rough": solve, "never": lambda tol: best + 1}, 0.0, error, bound=2e-3)
    tolerance, off = solvers.loosest(problem, "rough")
    assert (tolerance, round(off, 9)) == (1e-3, 1e-3) and asked == [1e-1, 1e-2, 1e-3]
    assert solvers.loosest(problem, "never") == (solvers.TOLERANCES[-1], 1.0)


def test_the_gradient_that_solvers_are_compared_with_is_that_of_finite_differences() -> None:
    """Of three features, by the minimum on each support: the least objective among those whose signs agree."""
    rng = np.random.default_rng(0)
    x, held_x = rng.standard_normal((8, 3)), rng.standard_normal((5, 3))
    y, held_y, c = x @ [1.0, 0.0, -2.0] + 0.1, rng.standard_normal(5), np.array([0.1, 0.9, 0.2])

    def objective(w: np.ndarray, c: np.ndarray) -> float:
        return float(((y - x @ w) ** 2).sum() / 16 + c @ np.abs(w))

    def held_out(c: np.ndarray) -> float:
        candidates = [np.zeros(3)]
        for signs in np.ndindex(3, 3, 3):
            sign = np.array(signs) - 1
            on, w = sign != 0, np.zeros(3)
            w[on] = np.linalg.solve(x[:, on].T @ x[:, on] / 8, x[:, on].T @ y / 8 - c[on] * sign[on])
            candidates.append(w)
        w = min(candidates, key=lambda w: objective(w, c))
        return float(((held_y - held_x @ w) ** 2).sum() / 10)

    differences = [(held_out(c + h) - held_out(c - h)) / 2e-5 for h in 1e-5 * np.eye(3)]
    found = solver_calls.gradient_in_strengths(x, y, c, held_x, held_y)
    np.testing.assert_allclose(found, differences, rtol=1e-6, atol=1e-9)
    assert np.count_nonzero(found) == 2


RESULTS = ROOT / "tests" / "benchmarks" / "results"


def test_the_page_of_the_benchmarks_has_the_tables_of_the_committed_results() -> None:
    """`python -m tests.benchmarks --table tests/benchmarks/results/FILE` prints them."""
    page = (RESULTS.parent / "README.md").read_text()
    results = sorted(RESULTS.glob("*.json"))
    assert results
    for file in results:
        assert report.markdown(file) in page, f"paste what `python -m tests.benchmarks --table {file.name}` prints"


def test_the_page_has_the_table_of_what_can_be_removed() -> None:
    """`python -m tests.benchmarks.pruning --table tests/benchmarks/pruning/results/FILE` prints it."""
    page = (RESULTS.parent / "README.md").read_text()
    results = sorted((RESULTS.parent / "pruning" / "results").glob("*.json"))
    assert results
    for file in results:
        assert pruning_report.markdown(file) in page, f"paste what `--table {file.name}` prints"


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_the_kinds_of_units_on_paper_are_found_and_go(network: Network) -> None:
    rows = pruning.ours(network)
    assert sorted(row.units or 0 for row in rows) == sorted(network.kinds.values())
    assert all(row.same for row in rows), rows


CLAIMS = {
    ("penalty of the tree", "L1L2", "Keras"): "L1L2 of a tree takes {} of Keras' time",
    ("optimizer step", "Adam, L1L2 decoupled", "plain Adam"): "a step of Adam with it (decoupled) {} of plain Adam's",
    ("optimizer step", "proximal_adam, group lasso", "plain Adam"): "the group lasso in Adam's metric {}.",
}


def test_the_readme_says_what_was_measured() -> None:
    """Its sentence has the medians of the committed results on two cores, to three digits."""
    readme = " ".join((ROOT / "README.md").read_text().split())
    runs = [report.read(RESULTS / f"{name}.json")[1] for name in ("x86_64-2-cores", "steps-x86_64-2-cores")]
    medians = {(row.family, row.work, row.against): row.median for rows in runs for row in rows}  # of the last run
    for row, claim in CLAIMS.items():
        assert claim.format(f"{medians[row]:.3g}") in readme


LONG_RUN = RESULTS / "language_model" / "x86_64-2-cores.json"


def test_the_notebook_has_what_its_long_run_measured() -> None:
    """`python -m tests.benchmarks.language_model --table FILE` prints the table."""
    result = json.loads(LONG_RUN.read_text())
    cells = nbformat.read(language_model.NOTEBOOK, as_version=4).cells
    page = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert language_model.table(LONG_RUN) in page
    assert machine.one_line(result["machine"]) in " ".join(page.split())
    assert f"{result['minutes']:.0f} minutes" in page
    assert "language_model.png" in page and (ROOT / "notebooks" / "pictures" / "language_model.png").exists()
    settings = {**language_model.SETTINGS, "PEAK": float(min(result["rates"], key=result["rates"].__getitem__))}
    assert result["settings"] == settings
    ran = [(row["name"], row["strength"], row["seed"]) for row in result["rows"]]
    assert sorted(ran) == sorted(
        (name, strength, seed)
        for name, strengths in language_model.STRENGTHS.items()
        for strength in strengths
        for seed in language_model.SEEDS
    )


def test_the_long_run_ended_in_its_sets() -> None:
    """Two of four, and a share, are numbers of zeros on paper; without a proximal step there are none."""
    for row in json.loads(LONG_RUN.read_text())["rows"]:
        if row["name"] in ("dense", "L1 in the loss"):
            assert row["zeros"] == 0
        if row["name"].startswith("2:4"):
            assert row["zeros"] >= 0.5
        if row["name"] == "magnitude":
            assert row["zeros"] == pytest.approx(1 - row["strength"], abs=1e-4)
