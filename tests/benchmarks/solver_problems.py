"""The convex problems of `solvers.py`: data, the objective in NumPy, and each library's own way to the minimum."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreg
from tests.benchmarks import peers, settings
from tests.benchmarks.solver_calls import (
    Array,
    Solve,
    along,
    compiled,
    gap,
    gradient_in_strengths,
    groups_with_skglm,
    least_squares,
    regression,
    squares,
    strengths_from,
    weighted_with_skglm,
    with_jaxopt,
    with_skglm,
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """`work` as several solvers do it. `error` says how far a result is off, of which at most `bound` is allowed."""

    work: str
    solvers: dict[str, Solve]
    compilation: float  # seconds, of the program of jaxreg
    error: Callable[[Array], float]
    bound: float = 1e-6


def _with_skglm(config: settings.Settings) -> bool:
    """Not in a quick run: Numba compiles it for half a minute."""
    return peers.skglm is not None and not config.quick


def lasso(config: settings.Settings) -> Problem:
    """½‖y − xw‖²/n + c‖w‖₁."""
    n, p, count = config.scaled(200, 20), config.scaled(500, 30), config.scaled(50, 3)
    x, y = regression(n, p)
    strengths = strengths_from(np.abs(x.T @ y).max() / n, count)

    def ours(x: Any, y: Any, tol: Any) -> Any:
        return along(strengths, lambda c, w: least_squares(jaxreg.L1(c), w, x, y, tol), jnp.zeros(p))

    solve, seconds = compiled(ours, x, y)
    solvers = {"jaxreg": solve}
    if peers.sklearn is not None:
        lasso_path = peers.sklearn.lasso_path
        solvers["scikit-learn"] = lambda tol: lasso_path(x, y, alphas=strengths, tol=tol, max_iter=100_000)[1].T
    if peers.celer is not None:
        solvers["celer"] = lambda tol: peers.celer.celer_path(x, y, "lasso", alphas=strengths, tol=tol)[1].T
    if _with_skglm(config):
        solvers["skglm"] = with_skglm(x, y, strengths, 1.0)
    if peers.jaxopt is not None:

        def theirs(x: Any, y: Any, tol: Any) -> Any:
            prox = peers.jaxopt.prox.prox_lasso
            return along(
                strengths,
                lambda c, w: with_jaxopt(squares, prox, c, w, x, y, tol),
                jnp.zeros(p),
            )

        solvers["jaxopt"] = compiled(theirs, x, y)[0]

    def objective(w: Array) -> Array:
        return ((y - w @ x.T) ** 2).sum(-1) / (2 * n) + strengths * np.abs(w).sum(-1)

    return Problem(f"lasso {n}×{p}, {count} strengths", solvers, seconds, gap(objective, solvers))


def group_lasso(config: settings.Settings) -> Problem:
    """½‖y − xw‖²/n + c·Σ_g ‖w_g‖₂ of groups of five features."""
    n, groups, count = config.scaled(200, 20), config.scaled(100, 6), config.scaled(50, 3)
    x, y = regression(n, 5 * groups)
    strengths = strengths_from(np.linalg.norm((x.T @ y).reshape(groups, 5), axis=1).max() / n, count)

    def of_groups(w: Any, x: Any, y: Any) -> Any:
        return squares(w.ravel(), x, y)

    def ours(x: Any, y: Any, tol: Any) -> Any:
        reg = jaxreg.Group(jaxreg.L1(1.0), axis=1)
        start = jnp.zeros((groups, 5))
        return along(strengths, lambda c, w: jaxreg.minimize(of_groups, c * reg, w, x, y, tol=tol).params, start)

    solve, seconds = compiled(ours, x, y)
    solvers = {"jaxreg": solve}
    if peers.celer is not None:
        celer_path = peers.celer.celer_path
        solvers["celer"] = lambda tol: celer_path(x, y, "grouplasso", alphas=strengths, groups=5, tol=tol)[1].T
    if _with_skglm(config):
        solvers["skglm"] = groups_with_skglm(x, y, strengths, 5)
    if peers.jaxopt is not None:

        def theirs(x: Any, y: Any, tol: Any) -> Any:
            each = jax.vmap(peers.jaxopt.prox.prox_group_lasso, in_axes=(0, None, None))
            start = jnp.zeros((groups, 5))
            return along(strengths, lambda c, w: with_jaxopt(of_groups, each, c, w, x, y, tol), start)

        solvers["jaxopt"] = compiled(theirs, x, y)[0]

    def objective(w: Array) -> Array:
        w = w.reshape(count, groups, 5)
        fit = ((y - w.reshape(count, -1) @ x.T) ** 2).sum(-1) / (2 * n)
        return fit + strengths * np.linalg.norm(w, axis=-1).sum(-1)

    work = f"group lasso {n}×{5 * groups}, groups of 5, {count} strengths"
    return Problem(work, solvers, seconds, gap(objective, solvers))


def multinomial(config: settings.Settings) -> Problem:
    """The mean cross-entropy of softmax(xw), w of features × classes, + c‖w‖₁."""
    n, p, classes, count = config.scaled(400, 30), config.scaled(50, 6), config.scaled(5, 3), config.scaled(10, 2)
    rng = np.random.default_rng(1)
    x, true = rng.standard_normal((n, p)), rng.standard_normal((p, classes)) * (rng.random((p, 1)) < 0.3)
    y = np.argmax(x @ true + rng.gumbel(size=(n, classes)), axis=1)
    y[:classes] = range(classes)  # every class is there
    strengths = strengths_from(np.abs(x.T @ (1 / classes - np.eye(classes)[y])).max() / n, count)

    def entropy(w: Any, x: Any, y: Any) -> Any:
        z = x @ w
        own = jnp.sum(z * jax.nn.one_hot(y, classes), axis=1)
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - own)

    def ours(x: Any, y: Any, tol: Any) -> Any:
        start = jnp.zeros((p, classes))
        return along(strengths, lambda c, w: jaxreg.minimize(entropy, jaxreg.L1(c), w, x, y, tol=tol).params, start)

    solve, seconds = compiled(ours, x, y)
    solvers = {"jaxreg": solve}
    if peers.sklearn is not None:

        def saga(tol: float) -> Array:
            model = peers.sklearn.LogisticRegression(
                solver="saga",
                l1_ratio=1.0,
                fit_intercept=False,
                tol=tol,
                max_iter=2000,
                warm_start=True,
                random_state=0,
            )
            return np.stack([model.set_params(C=1 / (c * n)).fit(x, y).coef_.T for c in strengths])

        solvers["scikit-learn, saga"] = saga
    if peers.jaxopt is not None:

        def theirs(x: Any, y: Any, tol: Any) -> Any:
            prox, start = peers.jaxopt.prox.prox_lasso, jnp.zeros((p, classes))
            return along(strengths, lambda c, w: with_jaxopt(entropy, prox, c, w, x, y, tol), start)

        solvers["jaxopt"] = compiled(theirs, x, y)[0]

    def objective(w: Array) -> Array:
        z = x @ w
        top = z.max(-1, keepdims=True)
        own = np.take_along_axis(z, np.broadcast_to(y[:, None], (count, n, 1)), axis=-1)
        fit = (top + np.log(np.exp(z - top).sum(-1, keepdims=True)) - own).mean((1, 2))
        return fit + strengths * np.abs(w).sum((1, 2))

    work = f"multinomial logistic with L1, {n}×{p}, {classes} classes, {count} strengths"
    return Problem(work, solvers, seconds, gap(objective, solvers))


def cross_validation(config: settings.Settings) -> Problem:
    n, p, count = config.scaled(500, 30), config.scaled(100, 8), config.scaled(50, 3)
    return _folds(f"elastic net {n}×{p}, 5 folds × {count} strengths", n, p, count, seeds=1, config=config)


def repeated_cross_validation(config: settings.Settings) -> Problem:
    n, p, count, seeds = config.scaled(200, 20), config.scaled(10, 4), config.scaled(20, 3), config.scaled(20, 2)
    return _folds(f"elastic net {n}×{p}, 5 folds × {count} strengths × {seeds} seeds", n, p, count, seeds, config)


def _folds(work: str, n: int, p: int, count: int, seeds: int, config: settings.Settings) -> Problem:
    """½‖y − xw‖²/n + c·(½‖w‖₁ + ¼‖w‖²) on four fifths of the rows, by their Gram matrix, as there are more than p."""
    x, y = regression(n, p)
    rng = np.random.default_rng(2)
    splits = [np.delete(order, np.s_[i::5]) for order in (rng.permutation(n) for _ in range(seeds)) for i in range(5)]
    rows = np.stack(splits)
    m = rows.shape[1]
    strengths = strengths_from(2 * np.abs(x.T @ y).max() / n, count)

    def ours(x: Any, y: Any, rows: Any, tol: Any) -> Any:
        def one_path(rows: Any) -> Any:
            gram, moment = x[rows].T @ x[rows] / m, x[rows].T @ y[rows] / m

            def loss(w: Any, gram: Any, moment: Any) -> Any:
                return w @ gram @ w / 2 - moment @ w

            def fit(c: Any, w: Any) -> Any:
                return jaxreg.minimize(loss, jaxreg.L1L2(c / 2, c / 4), w, gram, moment, tol=tol).params

            return along(strengths, fit, jnp.zeros(p))

        return jax.vmap(one_path)(rows)

    solve, seconds = compiled(ours, x, y, rows)
    solvers = {"jaxreg": solve}

    def of_each(path: Callable[..., Any]) -> Solve:
        return lambda tol: np.stack([path(x[i], y[i], tol) for i in rows])

    if peers.sklearn is not None:
        enet = peers.sklearn.enet_path
        solvers["scikit-learn"] = of_each(
            lambda x, y, tol: enet(x, y, l1_ratio=0.5, alphas=strengths, tol=tol, max_iter=100_000)[1].T
        )
    if peers.celer is not None:
        celer_path = peers.celer.celer_path
        solvers["celer"] = of_each(
            lambda x, y, tol: celer_path(np.asfortranarray(x), y, "lasso", l1_ratio=0.5, alphas=strengths, tol=tol)[1].T
        )
    if _with_skglm(config):
        solvers["skglm"] = of_each(lambda x, y, tol: with_skglm(x, y, strengths, 0.5)(tol))

    def objective(w: Array) -> Array:
        fit = np.stack([((y[i] - of_fold @ x[i].T) ** 2).sum(-1) / (2 * m) for of_fold, i in zip(w, rows, strict=True)])
        return fit + strengths * (np.abs(w).sum(-1) / 2 + (w**2).sum(-1) / 4)

    return Problem(work, solvers, seconds, gap(objective, solvers))


def gradients(config: settings.Settings) -> Problem:
    """The gradient of a held-out loss in the strengths of a lasso that has one for each feature."""
    n, p = config.scaled(200, 30), config.scaled(100, 6)
    x, y = regression(2 * n, p)
    (x, held_x), (y, held_y) = (x[:n], x[n:]), (y[:n], y[n:])
    strengths = 0.1 * np.abs(x.T @ y).max() / n * np.random.default_rng(3).uniform(0.5, 2, p)

    def held_out(strengths: Any, x: Any, y: Any, tol: Any) -> Any:
        w = least_squares(jaxreg.Weighted(jaxreg.L1(1.0), strengths), jnp.zeros(p), x, y, tol)
        return squares(w, held_x, held_y)

    solve, seconds = compiled(jax.grad(held_out), strengths, x, y)
    solvers = {"jaxreg": solve}

    def differences(minimum: Callable[[Array, float], Array]) -> Solve:
        """Forward differences: p minima beside the one that is there."""

        def solve(tol: float) -> Array:
            points = [strengths, *(strengths + 1e-5 * strengths[i] * np.eye(p)[i] for i in range(p))]
            here, *there = (((held_y - held_x @ minimum(point, tol)) ** 2).sum() / (2 * n) for point in points)
            return (np.array(there) - here) / (1e-5 * strengths)

        return solve

    if peers.sklearn is not None:

        def scaled(strengths: Array, tol: float) -> Array:
            model = peers.sklearn.Lasso(alpha=1.0, fit_intercept=False, tol=tol, max_iter=100_000)
            return model.fit(x / strengths, y).coef_ / strengths

        solvers[f"{p + 1} fits of scikit-learn"] = differences(scaled)
    if _with_skglm(config):
        solvers[f"{p + 1} fits of skglm"] = differences(weighted_with_skglm(x, y))
    exact = gradient_in_strengths(x, y, strengths, held_x, held_y)

    def error(found: Array) -> float:
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    return Problem(f"gradient in {p} strengths of a lasso {n}×{p}", solvers, seconds, error, bound=1e-4)


PROBLEMS = (lasso, group_lasso, multinomial, cross_validation, repeated_cross_validation, gradients)
