"""Plain proximal gradient with jaxreg's operators, and `minimize`, against independent solvers: objective, support."""

from collections.abc import Callable
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skglm
from skglm.penalties import separable
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskLasso

import jaxreg

pytestmark = pytest.mark.wide  # solvers until they agree

Array = np.ndarray


def _diabetes() -> tuple[Array, Array]:
    data = load_diabetes()
    x = data.data * np.sqrt(len(data.data))
    return x, data.target - data.target.mean()


def _several_targets() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12))
    w = np.zeros((12, 4))
    w[[1, 5, 7]] = rng.normal(size=(3, 4))
    return x, x @ w + 0.3 * rng.normal(size=(60, 4))


def solve(reg: jaxreg.Regularizer, x: Array, y: Array, start: Array | None = None, steps: int = 20_000) -> Array:
    """argmin_w ‖y − xw‖²/(2n) + R(w) by w ← prox(w − η·∇f(w), η), in float64."""
    with jax.enable_x64(True):
        gram, moment = jnp.asarray(x.T @ x / len(x)), jnp.asarray(x.T @ y / len(x))
        eta = 1.0 / float(np.linalg.eigvalsh(x.T @ x / len(x))[-1])

        def step(w: jax.Array, _: Any) -> tuple[jax.Array, None]:
            return reg.prox(w - eta * (gram @ w - moment), eta), None

        first = jnp.zeros(moment.shape) if start is None else jnp.asarray(start)
        return np.asarray(jax.lax.scan(step, first, length=steps)[0])


@jax.jit
def _minimum(reg: jaxreg.Regularizer, start: Any, x: Any, y: Any) -> jaxreg.Minimum:
    def loss(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum((y - x @ w) ** 2) / (2 * len(x))

    return jaxreg.minimize(loss, reg, start, x, y, tol=1e-9)


def certified(reg: jaxreg.Regularizer, x: Array, y: Array, start: Array | None = None) -> Array:
    """The same by `minimize`, in float64, as it certifies."""
    with jax.enable_x64(True):
        found = _minimum(reg, np.zeros((x.shape[1], *y.shape[1:])) if start is None else start, x, y)
        assert found.converged and found.residual <= 1e-9, found.reason
    return np.asarray(found.params)


SOLVERS = (solve, certified)


def objective(w: Array, x: Array, y: Array, penalty: Callable[[Array], float]) -> float:
    return float(((y - x @ w) ** 2).sum() / (2 * len(x)) + penalty(w))


def _agree(
    ours: Array, theirs: Array, x: Array, y: Array, penalty: Callable[[Array], float], slack: float = 1e-8
) -> None:
    best = objective(theirs, x, y, penalty)
    assert objective(ours, x, y, penalty) <= best * (1 + slack)
    np.testing.assert_array_equal(ours == 0, np.abs(theirs) <= 1e-7 * np.abs(theirs).max())


@pytest.mark.parametrize("alpha", [0.5, 5.0, 30.0])
def test_lasso_and_elastic_net_of_scikit_learn(alpha: float) -> None:
    x, y = _diabetes()
    options = {"fit_intercept": False, "tol": 1e-14, "max_iter": 1_000_000}
    lasso = Lasso(alpha=alpha, **options).fit(x, y).coef_
    for solver in SOLVERS:
        _agree(solver(jaxreg.L1(alpha), x, y), lasso, x, y, lambda w: alpha * np.abs(w).sum())
    net = ElasticNet(alpha=alpha, l1_ratio=0.6, **options).fit(x, y).coef_
    reg = jaxreg.L1L2(0.6 * alpha, 0.2 * alpha)
    for solver in SOLVERS:
        _agree(solver(reg, x, y), net, x, y, lambda w: 0.6 * alpha * np.abs(w).sum() + 0.2 * alpha * (w**2).sum())


def test_multi_task_lasso_of_scikit_learn() -> None:
    x, y = _several_targets()
    theirs = MultiTaskLasso(alpha=0.2, fit_intercept=False, tol=1e-14, max_iter=1_000_000).fit(x, y).coef_.T
    for solver in SOLVERS:
        ours = solver(jaxreg.Group(jaxreg.L1(0.2), axis=1), x, y)
        _agree(ours, theirs, x, y, lambda w: 0.2 * np.linalg.norm(w, axis=1).sum())
        assert (ours == 0).all(axis=1).any()


@pytest.mark.parametrize(
    ("reg", "peer"),
    [
        (jaxreg.MCP(2.0, 3.0), skglm.penalties.MCPenalty(alpha=2.0, gamma=3.0)),
        (jaxreg.SCAD(2.0, 3.7), skglm.penalties.SCAD(alpha=2.0, gamma=3.7)),
        (jaxreg.LogSum(3.0, 1.5), skglm.penalties.LogSumPenalty(alpha=3.0, eps=1.5)),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_concave_penalties_of_skglm(reg: jaxreg.Regularizer, peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed point of the one is a fixed point of the other: from skglm's solution we do not move, nor get better."""
    monkeypatch.setattr(separable, "bool_", np.bool_)  # numba's name for it, which NumPy knows in compiled code alone
    x, y = _diabetes()
    solver = skglm.solvers.AndersonCD(tol=1e-12, fit_intercept=False, max_iter=500, max_epochs=100_000)
    estimator = skglm.GeneralizedLinearEstimator(skglm.datafits.Quadratic(), peer, solver).fit(x, y)
    theirs = estimator.coef_.ravel()
    with jax.enable_x64(True):
        ours = solve(reg, x, y, start=theirs, steps=2000)
        np.testing.assert_allclose(reg(jnp.asarray(theirs)), peer.value(theirs), rtol=1e-10)
    for found in (ours, certified(reg, x, y, start=theirs)):
        np.testing.assert_allclose(found, theirs, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found == 0, theirs == 0)


def _cvxpy(x: Array, y: Array, penalty: Callable[[Any], Any], shape: tuple[int, ...]) -> Array:
    w = cvxpy.Variable(shape)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(y - x @ w) / (2 * len(x)) + penalty(w)))
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return np.asarray(w.value)


@pytest.mark.parametrize(
    ("reg", "penalty", "numpy_penalty"),
    [
        (
            jaxreg.Group(jaxreg.L1(0.2), axis=1),
            lambda w: 0.2 * cvxpy.sum(cvxpy.norm(w, 2, axis=1)),
            lambda w: 0.2 * np.linalg.norm(w, axis=1).sum(),
        ),
        (
            jaxreg.L1(0.1) + jaxreg.Group(jaxreg.L1(0.1), axis=1),
            lambda w: 0.1 * cvxpy.sum(cvxpy.abs(w)) + 0.1 * cvxpy.sum(cvxpy.norm(w, 2, axis=1)),
            lambda w: 0.1 * np.abs(w).sum() + 0.1 * np.linalg.norm(w, axis=1).sum(),
        ),
        (
            jaxreg.Spectral(jaxreg.L1(0.3)),
            lambda w: 0.3 * cvxpy.normNuc(w),
            lambda w: 0.3 * np.linalg.svd(w, compute_uv=False).sum(),
        ),
        (
            jaxreg.L2(0.05) + jaxreg.SpectralNorm(0.3),
            lambda w: 0.05 * cvxpy.sum_squares(w) + 0.3 * cvxpy.sigma_max(w),
            lambda w: 0.05 * (w**2).sum() + 0.3 * np.linalg.svd(w, compute_uv=False)[0],
        ),
        (
            jaxreg.Huber(0.3, 0.2),
            lambda w: 0.3 / (2 * 0.2) * cvxpy.sum(cvxpy.huber(w, 0.2)),
            lambda w: 0.3 * np.where(np.abs(w) <= 0.2, w**2 / 0.4, np.abs(w) - 0.1).sum(),
        ),
    ],
    ids=["group lasso", "sparse group lasso", "nuclear norm", "spectral norm", "huber"],
)
def test_clarabel(reg: jaxreg.Regularizer, penalty: Any, numpy_penalty: Any) -> None:
    x, y = _several_targets()
    theirs = _cvxpy(x, y, penalty, (12, 4))
    for solver in SOLVERS:
        ours = solver(reg, x, y)
        assert objective(ours, x, y, numpy_penalty) <= objective(theirs, x, y, numpy_penalty) * (1 + 1e-8)
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
        if "Group" in repr(reg):
            np.testing.assert_array_equal((ours == 0).all(axis=1), (np.abs(theirs) < 1e-6).all(axis=1))
        if isinstance(reg, jaxreg.Spectral):
            assert np.linalg.matrix_rank(ours, tol=1e-9) == np.linalg.matrix_rank(theirs, tol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_group_prox_in_a_metric_against_clarabel(spread: float) -> None:
    rng = np.random.default_rng(1)
    z, d = rng.normal(size=8), 10.0 ** rng.uniform(-spread / 2, spread / 2, size=8)
    w = cvxpy.Variable(8)
    distance = cvxpy.sum(cvxpy.multiply(d, cvxpy.square(w - z))) / 2
    problem = cvxpy.Problem(cvxpy.Minimize(0.7 * cvxpy.norm(w, 2) + 0.1 * cvxpy.norm(w, 1) + distance))
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    with jax.enable_x64(True):
        reg = jaxreg.L1(0.1) + jaxreg.Group(jaxreg.L1(0.7), axis=0)
        ours = np.asarray(reg.prox(z, 1 / d))
    value = 0.7 * np.linalg.norm(ours) + 0.1 * np.abs(ours).sum() + (d * (ours - z) ** 2).sum() / 2
    assert value <= problem.value * (1 + 1e-9)
    np.testing.assert_allclose(ours, w.value, atol=1e-5)


def test_envelope_theorem() -> None:
    """The derivative of the optimal value in the coefficient is the penalty per unit at the optimum."""
    x, y = _diabetes()
    h = 1e-4

    def optimum(c: float) -> float:
        return objective(solve(jaxreg.L1(c), x, y), x, y, lambda w: c * np.abs(w).sum())

    slope = (optimum(5.0 + h) - optimum(5.0 - h)) / (2 * h)
    np.testing.assert_allclose(slope, np.abs(solve(jaxreg.L1(5.0), x, y)).sum(), rtol=1e-6)


def test_mcp_at_large_steps_where_skglm_is_not_optimal() -> None:
    """The table says "for step < gamma": there both agree; beyond, theirs has a higher objective than ours."""

    def objective_at(w: Array, z: Array, step: float) -> Array:
        a = np.abs(w)
        return step * np.where(a <= 1.0, 0.5 * a - a**2 / 4, 0.25) + (w - z) ** 2 / 2  # strength ½, gamma 2

    z = np.linspace(-3.0, 3.0, 61)
    with jax.enable_x64(True):
        for step in (0.5, 1.5, 3.0, 6.0):
            ours = np.asarray(jaxreg.MCP(0.5, 2.0).prox(z, step))
            theirs = np.array([skglm.utils.prox_funcs.prox_MCP(v, step, 0.5, 2.0) for v in z])
            excess = (objective_at(theirs, z, step) - objective_at(ours, z, step)).max()
            assert excess > 0.01 if step > 2.0 else abs(excess) < 1e-12
