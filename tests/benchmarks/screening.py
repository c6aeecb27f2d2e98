"""What the screen of `jaxreg.minima` is worth to a path of the lasso, beside one program of all features.

python -m tests.benchmarks.screening [--quick]
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreg
from tests.benchmarks.solver_calls import along, compiled, least_squares, regression, squares, strengths_from


def measure(n: int, p: int, count: int, tol: float, rounds: int) -> None:
    x, y = regression(n, p)
    strengths = strengths_from(np.abs(x.T @ y).max() / n, count)

    def whole(x: Any, y: Any, tol: Any) -> Any:
        return along(strengths, lambda c, w: least_squares(jaxreg.L1(c), w, x, y, tol), jnp.zeros(p))

    one_program, compilation = compiled(whole, x, y)
    times: dict[str, list[float]] = {"whole": [], "minima": []}
    objectives = {}
    for _ in range(rounds):
        for name in times:
            begin = time.perf_counter()
            if name == "whole":
                w = one_program(tol)
            else:
                w = np.asarray(jaxreg.minima(squares, jaxreg.L1(1.0), strengths, np.zeros(p), x, y, tol=tol).params)
            times[name].append(time.perf_counter() - begin)
            objectives[name] = ((y - w @ x.T) ** 2).sum(-1) / (2 * n) + strengths * np.abs(w).sum(-1)
    whole_times = [compilation + seconds for seconds in times["whole"]]
    ratios = sorted(ours / theirs for ours, theirs in zip(times["minima"], whole_times, strict=True))
    off = np.max(np.abs(objectives["minima"] / objectives["whole"] - 1))
    print(
        f"lasso {n}×{p}, {count} strengths, compilation included: minima {statistics.median(times['minima']):.3g} s, "
        f"one program {statistics.median(whole_times):.3g} s of which {compilation:.3g} s compile: ratio "
        f"{statistics.median(ratios):.3g} ({ratios[0]:.3g} – {ratios[-1]:.3g}); objectives differ by {off:.0e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: that it runs")
    quick = parser.parse_args().quick
    with jax.enable_x64(True):
        for n, p, rounds in ((20, 600, 1),) if quick else ((200, 500, 3), (200, 5000, 3), (500, 20_000, 1)):
            measure(n, p, 2 if quick else 50, 1e-3, rounds)


if __name__ == "__main__":
    main()
