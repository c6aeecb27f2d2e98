"""What the problems of `solver_problems.py` share: data, paths of warm starts, how each library is called, errors."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreg
from tests.benchmarks import peers

Array = np.ndarray
Solve = Callable[[float], Array]  # the solver's own tolerance -> what it found
Objective = Callable[[Array], Array]  # coefficients -> the objective at each strength


def regression(n: int, p: int) -> tuple[Array, Array]:
    """Neighbouring features have correlation ½, a tenth of them, at least three, matter; the noise is a third."""
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((n, p)), rng.standard_normal(n)
    for j in range(1, p):
        x[:, j] = x[:, j - 1] / 2 + np.sqrt(0.75) * x[:, j]
    true = np.zeros(p)
    chosen = rng.choice(p, max(3, p // 10), replace=False)
    true[chosen] = rng.standard_normal(len(chosen))
    signal = x @ true
    return np.asfortranarray(x), signal + noise * signal.std() / 3  # by columns, as coordinate descent reads them


def strengths_from(top: float, count: int) -> Array:
    """From the least strength at which all is 0 down to a hundredth."""
    return np.geomspace(top, top / 100, count)


def compiled(program: Callable[..., Any], *args: Any) -> tuple[Solve, float]:
    """`program(*args, tol)` as a function of the tolerance, and the seconds to trace and compile it."""
    args = tuple(map(jnp.asarray, args))
    start = time.perf_counter()
    run = jax.jit(program).lower(*args, jnp.asarray(0.1)).compile()
    seconds = time.perf_counter() - start
    return lambda tol: np.asarray(run(*args, jnp.asarray(tol))), seconds


def along(strengths: Array, fit: Callable[[Any, Any], Any], start: Any) -> Any:
    """One minimum a strength, each from the one before."""

    def one(w: Any, c: Any) -> Any:
        w = fit(c, w)
        return w, w

    return jax.lax.scan(one, start, jnp.asarray(strengths))[1]


def squares(w: Any, x: Any, y: Any) -> Any:
    return jnp.sum((y - x @ w) ** 2) / (2 * len(x))


def least_squares(reg: Any, w: Any, x: Any, y: Any, tol: Any) -> Any:
    return jaxreg.minimize(squares, reg, w, x, y, tol=tol).params


def with_jaxopt(loss: Callable[..., Any], prox: Callable[..., Any], c: Any, w: Any, x: Any, y: Any, tol: Any) -> Any:
    solver = peers.jaxopt.ProximalGradient(loss, prox, maxiter=10_000, tol=tol, implicit_diff=False)
    return solver.run(w, c, x, y).params


def with_skglm(x: Array, y: Array, strengths: Array, l1_ratio: float) -> Solve:
    from skglm.datafits import Quadratic
    from skglm.penalties import L1_plus_L2
    from skglm.solvers import AndersonCD
    from skglm.utils.jit_compilation import compiled_clone

    datafit, penalty = compiled_clone(Quadratic()), compiled_clone(L1_plus_L2(1.0, l1_ratio))

    def solve(tol: float) -> Array:
        solver = AndersonCD(tol=tol, fit_intercept=False)
        return solver.path(x, y, datafit, penalty, strengths)[1].T

    return solve


def groups_with_skglm(x: Array, y: Array, strengths: Array, size: int) -> Solve:
    from skglm.datafits import QuadraticGroup
    from skglm.penalties import WeightedGroupL2
    from skglm.solvers import GroupBCD
    from skglm.utils.data import grp_converter
    from skglm.utils.jit_compilation import compiled_clone

    indices, starts = grp_converter(size, x.shape[1])
    weights = np.ones(x.shape[1] // size)
    datafit = compiled_clone(QuadraticGroup(starts, indices))
    penalty = compiled_clone(WeightedGroupL2(1.0, weights, starts, indices))
    datafit.initialize(x, y)

    def solve(tol: float) -> Array:
        w, found = np.zeros(x.shape[1]), []
        for c in strengths:
            penalty.alpha = c
            w = GroupBCD(tol=tol).solve(x, y, datafit, penalty, w.copy(), x @ w)[0]
            found.append(w)
        return np.stack(found)

    return solve


def weighted_with_skglm(x: Array, y: Array) -> Callable[[Array, float], Array]:
    """(a strength for each feature, tolerance) -> the minimum, from the one before."""
    from skglm.datafits import Quadratic
    from skglm.penalties import WeightedL1
    from skglm.solvers import AndersonCD
    from skglm.utils.jit_compilation import compiled_clone

    datafit, penalty = compiled_clone(Quadratic()), compiled_clone(WeightedL1(1.0, np.ones(x.shape[1])))
    datafit.initialize(x, y)
    last = np.zeros(x.shape[1])

    def solve(strengths: Array, tol: float) -> Array:
        nonlocal last
        penalty.weights = strengths
        last = AndersonCD(tol=tol, fit_intercept=False).solve(x, y, datafit, penalty, last.copy(), x @ last)[0]
        return last

    return solve


def gap(objective: Objective, solvers: dict[str, Solve]) -> Callable[[Array], float]:
    """How far a result is above the best that any of the solvers finds: the largest share over the strengths."""
    best = np.min([objective(solve(1e-10)) for solve in solvers.values()], axis=0)
    return lambda found: float(np.max((objective(found) - best) / best))


def gradient_in_strengths(x: Array, y: Array, c: Array, held_x: Array, held_y: Array) -> Array:
    """The derivatives of ½‖y' − x'w‖²/n' in the strengths c of w = argmin ½‖y − xw‖²/n + Σ_j c_j|w_j|, in NumPy.

    Coordinate descent finds the support S and the signs. On S, and with x' for the n' rows that are held out,

        w_S = (x_Sᵀx_S/n)⁻¹ (x_Sᵀy/n − c_S·sign w_S)   ⇒   ∇_S = −sign w_S · (x_Sᵀx_S/n)⁻¹ x'_Sᵀ(x'w − y')/n'
    """
    gram, moment, w = x.T @ x / len(x), x.T @ y / len(x), np.zeros(x.shape[1])
    for _ in range(200):
        for j in range(len(w)):
            z = moment[j] - gram[j] @ w + gram[j, j] * w[j]
            w[j] = np.sign(z) * max(abs(z) - c[j], 0) / gram[j, j]
    on = w != 0
    sign, gram_on = np.sign(w[on]), gram[np.ix_(on, on)]
    w[on] = np.linalg.solve(gram_on, moment[on] - c[on] * sign)
    pull = np.abs(moment - gram @ w)
    if not (np.all(pull[~on] < c[~on]) and np.array_equal(np.sign(w[on]), sign)):
        raise ArithmeticError("200 rounds of coordinate descent did not find the support of the minimum.")
    slope = np.zeros_like(w)
    slope[on] = -sign * np.linalg.solve(gram_on, held_x[:, on].T @ (held_x @ w - held_y) / len(held_x))
    return slope
