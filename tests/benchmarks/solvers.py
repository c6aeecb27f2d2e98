"""Convex problems to one accuracy, by `minimize` and by the established solvers: first equal errors, then the time.

Every solver ends by a rule of its own. So each gets the loosest tolerance, of powers of ten, with which its result is
as near to the minimum as is asked of all, and is timed with that. Where no tolerance leads there, the error says so and
there is no time.
"""

import warnings

import jax

from tests.benchmarks import settings, solver_problems
from tests.benchmarks.measurement import Limit, Measurement, exact, ratios
from tests.benchmarks.solver_problems import Problem
from tests.benchmarks.timing import alternate

FAMILY = "solvers"
TOLERANCES = tuple(10.0**-digits for digits in range(1, 15))


def measure(config: settings.Settings) -> list[Measurement]:
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers: a tolerance below rounding, or deprecations among themselves
        return [row for problem in solver_problems.PROBLEMS for row in _compare(problem(config), config)]


def _compare(problem: Problem, config: settings.Settings) -> list[Measurement]:
    found, functions = [], {}
    for name in problem.solvers:
        tolerance, error = loosest(problem, name)
        shown = error / problem.bound
        found.append(
            exact(FAMILY, f"{problem.work}: error, {name}", "-", shown, f"of {problem.bound:g}", Limit("≤", 1))
        )
        if error <= problem.bound:
            functions[name] = lambda solve=problem.solvers[name], tolerance=tolerance: solve(tolerance)
    if "jaxreg" not in functions:
        return found
    times = alternate(functions, config.scaled(5, 1), 0)
    found += ratios(FAMILY, problem.work, times, {name: None for name in times if name != "jaxreg"}, stated=True)
    times["compilation"] = [problem.compilation] * len(times["jaxreg"])
    work = f"{problem.work}: compile the program"
    return found + ratios(FAMILY, work, times, {"jaxreg": None}, ours="compilation", stated=True)


def loosest(problem: Problem, name: str) -> tuple[float, float]:
    """The loosest tolerance with which the error is at most the bound, else the tightest; and the error."""
    for tolerance in TOLERANCES:
        error = problem.error(problem.solvers[name](tolerance))
        if error <= problem.bound:
            break
    return tolerance, error
