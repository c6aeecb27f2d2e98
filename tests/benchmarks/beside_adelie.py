"""The group lasso path of `solvers.py` by `minimize` and by adelie, in an environment of its own.

    python3 -m venv /somewhere && /somewhere/bin/pip install adelie
    python -m tests.benchmarks.beside_adelie /somewhere/bin/python

adelie needs NumPy 1, jaxreg NumPy 2, so that its runs are processes of their own, in turn with ours; both time
themselves. Each gets the loosest tolerance, of powers of ten, with which its objective is at most 1e-6 of itself above
the best of both, at every strength.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreg
from tests.benchmarks.solver_calls import Array, along, compiled, regression, squares, strengths_from

THEIRS = """
import json, sys, time
import adelie, numpy
data = numpy.load(sys.argv[1])
x, y = numpy.asfortranarray(data["x"]), data["y"]
for tol in map(float, sys.argv[3:]):
    begin = time.perf_counter()
    state = adelie.grpnet(
        x, adelie.glm.gaussian(y), groups=numpy.arange(0, x.shape[1], 5), penalty=numpy.ones(x.shape[1] // 5),
        lmda_path=data["strengths"], tol=tol, adev_tol=1.0, early_exit=False, intercept=False, progress_bar=False,
    )
    seconds = time.perf_counter() - begin
    numpy.savez(sys.argv[2], w=state.betas.toarray())
print(json.dumps([adelie.__version__, numpy.__version__, seconds]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="the interpreter of an environment with adelie")
    python = parser.parse_args().python
    n, groups, count = 200, 100, 50
    x, y = regression(n, 5 * groups)
    strengths = strengths_from(np.linalg.norm((x.T @ y).reshape(groups, 5), axis=1).max() / n, count)

    def objective(w: Array) -> Array:
        fit = ((y - w.reshape(count, -1) @ x.T) ** 2).sum(-1) / (2 * n)
        return fit + strengths * np.linalg.norm(w.reshape(count, groups, 5), axis=-1).sum(-1)

    def path(x: Any, y: Any, tol: Any) -> Any:
        def fit(c: Any, w: Any) -> Any:
            reg = jaxreg.Group(jaxreg.L1(c), axis=1)
            return jaxreg.minimize(lambda w, x, y: squares(w.ravel(), x, y), reg, w, x, y, tol=tol).params

        return along(strengths, fit, jnp.zeros((groups, 5)))

    with jax.enable_x64(True), tempfile.TemporaryDirectory() as folder:
        solve, compilation = compiled(path, x, y)
        data, out = Path(folder, "data.npz"), Path(folder, "out.npz")
        np.savez(data, x=x, y=y, strengths=strengths)
        versions: list[str] = []

        def ours(tol: float) -> tuple[Array, float]:
            begin = time.perf_counter()
            return solve(tol), time.perf_counter() - begin

        def theirs(tol: float) -> tuple[Array, float]:
            command = [python, "-c", THEIRS, str(data), str(out), str(tol), str(tol)]  # the first warms up
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            *versions[:], seconds = json.loads(done.stdout)
            return np.load(out)["w"], seconds

        both = {"jaxreg": ours, "adelie": theirs}
        best = np.min([objective(run(1e-12)[0]) for run in both.values()], axis=0)
        chosen = {}
        for name, run in both.items():
            for tol in (10.0**-digits for digits in range(1, 15)):
                error = np.max(objective(run(tol)[0]) / best - 1)
                if error <= 1e-6:
                    break
            chosen[name] = tol
            print(f"{name}: tolerance {tol:g}, objective {error:.1e} of itself above the best")
        times = [[run(chosen[name])[1] for name, run in both.items()] for _ in range(7)]
    ratios = sorted(a / b for a, b in times)
    seconds = [statistics.median(each) for each in zip(*times, strict=True)]
    print(
        f"group lasso {n}×{5 * groups}, groups of 5, {count} strengths: jaxreg {seconds[0]:.3g} s ({compilation:.3g} s "
        f"to compile), adelie {versions[0]} (NumPy {versions[1]}) {seconds[1]:.3g} s: ratio "
        f"{statistics.median(ratios):.3g} ({ratios[0]:.3g} – {ratios[-1]:.3g})"
    )


if __name__ == "__main__":
    main()
