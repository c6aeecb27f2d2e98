"""Where `proximal` comes to rest: at the optimum of loss + R that independent solvers find, whatever the metric."""

from collections.abc import Callable
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso

import jaxreg
from tests.training import trained

pytestmark = pytest.mark.wide  # trainings until they rest

Array = np.ndarray
EXACT = {"fit_intercept": False, "tol": 1e-14, "max_iter": 1_000_000}
SCALES = np.logspace(-1, 1, 10)[[3, 7, 0, 9, 5, 1, 8, 2, 6, 4]]  # of the columns: gradients that differ by 10⁴


def diabetes() -> tuple[Array, Array]:
    x, y = load_diabetes(return_X_y=True)
    return x * np.sqrt(len(y)), y - y.mean()


def least_squares(x: Array, y: Array, w: Any) -> Any:
    return ((x @ w - y) ** 2).sum() / (2 * len(y))


def train(tx: Any, loss: Callable[[Any], Any], start: Any, steps: int) -> Any:
    """The parameters after some steps, in the precision that is switched on."""

    params = jax.tree.map(lambda p: jnp.asarray(p, float), start)
    return jax.tree.map(np.asarray, trained(tx, jax.grad(loss), params, steps)[0])


# ------------------------------------------------------------------------------------------------- badly scaled lasso


def rescaled_lasso(make: Callable[[Any, Any], Any], steps: int) -> Array:
    """The lasso of alpha = 5 in the variables v = w/s: the columns times s, and the strength of v_j is 5·s_j."""
    x, y = diabetes()
    rules = jaxreg.TreeRegularizer({str(j): jaxreg.L1(5.0 * s) for j, s in enumerate(SCALES)})
    rate = optax.exponential_decay(10.0, 1000, 0.5)
    columns = jnp.asarray(x * SCALES)

    def loss(v: Any) -> Any:
        return least_squares(columns, jnp.asarray(y), jnp.stack([v[str(j)] for j in range(10)]))

    v = train(make(rate, rules), loss, {str(j): 0.0 for j in range(10)}, steps)
    return SCALES * np.array([v[str(j)] for j in range(10)], np.float64)


def lasso_objective(w: Array) -> float:
    return least_squares(*diabetes(), w) + 5.0 * np.abs(w).sum()


OPTIMUM = 1839.14371632485


@pytest.mark.core
def test_the_optimum_is_scikit_learns() -> None:
    w = Lasso(alpha=5.0, **EXACT).fit(*diabetes()).coef_
    assert lasso_objective(w) == pytest.approx(OPTIMUM, rel=1e-13) and (w == 0).sum() == 5


@pytest.mark.core
@pytest.mark.parametrize(("x64", "slack"), [(True, 1e-8), (False, 1e-5)], ids=["float64", "float32"])
def test_the_metric_reaches_the_badly_scaled_lasso(x64: bool, slack: float) -> None:
    with jax.enable_x64(x64):
        w = rescaled_lasso(jaxreg.proximal_adam, 15_000)
    best = Lasso(alpha=5.0, **EXACT).fit(*diabetes()).coef_
    assert lasso_objective(w) <= OPTIMUM * (1 + slack)
    np.testing.assert_array_equal(w == 0, best == 0)


def test_one_step_for_all_misses_it_and_the_gradient_in_the_loss_gives_no_zero() -> None:
    with jax.enable_x64(True):
        scalar = rescaled_lasso(lambda rate, reg: jaxreg.proximal(optax.adam(rate), reg, rate), 15_000)
        coupled = rescaled_lasso(
            lambda rate, reg: optax.chain(jaxreg.add_regularization(reg), optax.adam(rate)), 15_000
        )
    assert lasso_objective(scalar) > 1.065 * OPTIMUM
    assert lasso_objective(coupled) < 1.001 * OPTIMUM and (coupled != 0).all()


# ------------------------------------------------------------------------------------ the fixed point and the metric


def preconditioned(rate: Any) -> optax.GradientTransformation:
    return optax.chain(optax.stateless(lambda updates, params: updates / HESSIAN), optax.scale_by_learning_rate(rate))


MILD = np.logspace(-0.5, 0.5, 10)[[3, 7, 0, 9, 5, 1, 8, 2, 6, 4]]
HESSIAN = 10 * MILD**2  # the diagonal of XᵀX/n times the number of columns, which bounds XᵀX/n
RATE = optax.exponential_decay(10.0, 1500, 0.5)
HEAVY = 0.9
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "adam": lambda reg: jaxreg.proximal_adam(RATE, reg),
    "adam, b1=0.5, b2=0.9": lambda reg: jaxreg.proximal_adam(RATE, reg, b1=0.5, b2=0.9, eps=1e-3, eps_root=1e-3),
    "adam, no bound": lambda reg: jaxreg.proximal_adam(RATE, reg, max_step=np.inf),
    "nadam": lambda reg: jaxreg.proximal(optax.nadam(RATE), reg, RATE, jaxreg.adam_metric()),
    "amsgrad": lambda reg: jaxreg.proximal(optax.amsgrad(300.0), reg, 300.0, jaxreg.amsgrad_metric()),
    "rmsprop": lambda reg: jaxreg.proximal(optax.rmsprop(RATE), reg, RATE, jaxreg.rmsprop_metric()),
    "rmsprop with momentum": lambda reg: jaxreg.proximal(
        optax.rmsprop(0.5, momentum=0.5), reg, 0.5, jaxreg.rmsprop_metric(), momentum=0.5
    ),
    "adagrad": lambda reg: jaxreg.proximal(optax.adagrad(50.0), reg, 50.0, jaxreg.adagrad_metric()),
    "a function": lambda reg: jaxreg.proximal(preconditioned(1.0), reg, 1.0, lambda state, params: 1 / HESSIAN),
    "sgd": lambda reg: jaxreg.proximal(optax.sgd(0.02), reg, 0.02),
    "heavy ball": lambda reg: jaxreg.proximal(optax.sgd(0.002, HEAVY), reg, 0.002, momentum=HEAVY),
    "nesterov": lambda reg: jaxreg.proximal(optax.sgd(0.002, HEAVY, nesterov=True), reg, 0.002, momentum=HEAVY),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("kind", ["lasso", "elastic net"])
def test_the_fixed_point_does_not_depend_on_the_metric(make: Any, kind: str) -> None:
    x, y = diabetes()
    x = x * MILD
    reg: Any
    if kind == "lasso":
        reg, peer, strengths = jaxreg.L1(5.0), Lasso(alpha=5.0, **EXACT), (5.0, 0.0)
    else:
        reg, peer, strengths = jaxreg.L1L2(5.0, 1.0), ElasticNet(alpha=7.0, l1_ratio=5 / 7, **EXACT), (5.0, 1.0)

    def objective(w: Array) -> float:
        return least_squares(x, y, w) + strengths[0] * np.abs(w).sum() + strengths[1] * (w**2).sum()

    best = peer.fit(x, y).coef_
    with jax.enable_x64(True):
        w = train(make(reg), lambda w: least_squares(jnp.asarray(x), jnp.asarray(y), w), np.zeros(10), 30_000)
    assert objective(w) <= objective(best) * (1 + 1e-8)
    np.testing.assert_array_equal(w == 0, best == 0)


def test_momentum_without_the_option_solves_another_problem() -> None:
    x, y = diabetes()
    with jax.enable_x64(True):
        tx = jaxreg.proximal(optax.sgd(0.02, HEAVY), jaxreg.L1(5.0), 0.02)
        w = train(tx, lambda w: least_squares(jnp.asarray(x), jnp.asarray(y), w), np.zeros(10), 30_000)
    np.testing.assert_allclose(w, Lasso(alpha=5.0 * (1 - HEAVY), **EXACT).fit(x, y).coef_, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------- structures, against a conic solver


def solved(variable: Any, loss: Any, penalty: Any) -> float:
    options = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    return float(cvxpy.Problem(cvxpy.Minimize(loss + penalty)).solve(solver=cvxpy.CLARABEL, **options))


def column_norms(w: Any) -> Any:
    return cvxpy.sum(cvxpy.norm(w, 2, axis=1))


STRUCTURES: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Array], float]]] = {
    "group": (
        jaxreg.Group(jaxreg.L1(8.0), axis=1),
        lambda w: 8 * column_norms(w),
        lambda w: 8 * np.linalg.norm(w, axis=1).sum(),
    ),
    "sparse group": (
        jaxreg.L1(2.0) + jaxreg.Group(jaxreg.L1(6.0), axis=1),
        lambda w: 2 * cvxpy.sum(cvxpy.abs(w)) + 6 * column_norms(w),
        lambda w: 2 * np.abs(w).sum() + 6 * np.linalg.norm(w, axis=1).sum(),
    ),
    "group elastic net": (
        jaxreg.Group(jaxreg.L1L2(8.0, 0.5), axis=1),
        lambda w: 8 * column_norms(w) + 0.5 * cvxpy.sum_squares(w),
        lambda w: 8 * np.linalg.norm(w, axis=1).sum() + 0.5 * (w**2).sum(),
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(("x64", "slack"), [(True, 1e-8), (False, 1e-5)], ids=["float64", "float32"])
def test_groups_in_the_metric_reach_the_optimum(name: str, x64: bool, slack: float) -> None:
    reg, conic, penalty = STRUCTURES[name]
    x, y = diabetes()
    x = x * MILD
    w = cvxpy.Variable((5, 2))
    flat = cvxpy.reshape(w, (10,), order="C")
    best = solved(w, cvxpy.sum_squares(x @ flat - y) / (2 * len(y)), conic(w))
    zero_groups = np.abs(w.value).max(axis=1) < 1e-4
    with jax.enable_x64(x64):
        columns, target = jnp.asarray(x, float), jnp.asarray(y, float)
        ours = train(
            jaxreg.proximal_adam(RATE, reg),
            lambda w: least_squares(columns, target, w.ravel()),
            np.zeros((5, 2)),
            25_000,
        ).astype(np.float64)
    assert least_squares(x, y, ours.ravel()) + penalty(ours) <= best * (1 + slack)
    np.testing.assert_array_equal((ours == 0).all(axis=1), zero_groups)
    assert 0 < zero_groups.sum() < 5


@pytest.mark.parametrize("steps", [1, 5])
def test_inner_steps_reach_the_optimum_of_a_nuclear_norm(steps: int) -> None:
    rng = np.random.default_rng(0)
    x, low_rank = (
        rng.normal(size=(40, 6)) * np.logspace(-0.3, 0.3, 6),
        rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5)),
    )
    y = x @ low_rank + 0.5 * rng.normal(size=(40, 5))
    w = cvxpy.Variable((6, 5))
    best = solved(w, cvxpy.sum_squares(x @ w - y) / 80, 0.3 * cvxpy.normNuc(w))
    with jax.enable_x64(True):
        columns, target = jnp.asarray(x), jnp.asarray(y)
        rate = optax.exponential_decay(0.1, 1000, 0.5)
        tx = jaxreg.proximal_adam(rate, jaxreg.Spectral(jaxreg.L1(0.3)), b2=0.9, inner_steps=steps)
        ours = train(tx, lambda w: ((columns @ w - target) ** 2).sum() / 80, np.zeros((6, 5)), 4000)
    spectrum = np.linalg.svd(ours, compute_uv=False)
    assert ((x @ ours - y) ** 2).sum() / 80 + 0.3 * spectrum.sum() <= best * (1 + 1e-7)
    assert (spectrum < 1e-10).sum() == (np.linalg.svd(w.value, compute_uv=False) < 1e-6).sum() > 0


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("metric", [True, False], ids=["adam", "gradient descent"])
def test_inner_steps_come_near_the_optimum_of_differences(order: int, metric: bool) -> None:
    """Of order 1 the operator is exact, and the number of inner steps makes no difference."""
    rng = np.random.default_rng(1)
    weights = np.logspace(-0.5, 0.5, 30) if metric else np.ones(30)
    y = np.repeat([0.0, 2.0, -1.0], 10) + 0.3 * rng.normal(size=30)
    w = cvxpy.Variable(30)
    best = solved(w, cvxpy.sum(cvxpy.multiply(weights, cvxpy.square(w - y))) / 2, cvxpy.norm1(cvxpy.diff(w, order)))
    reg = 0.5 * jaxreg.Difference(jaxreg.L1(2.0), order=order)
    rate = optax.exponential_decay(0.1, 300, 0.5)
    gaps = []
    for steps in (5, 20, 100):
        with jax.enable_x64(True):
            tx = (
                jaxreg.proximal_adam(rate, reg, inner_steps=steps)
                if metric
                else jaxreg.proximal(optax.sgd(1.0), reg, 1.0, inner_steps=steps)
            )
            ours = train(tx, lambda w: (jnp.asarray(weights) * (w - y) ** 2).sum() / 2, np.zeros(30), 2000)
        gaps.append((weights * (ours - y) ** 2).sum() / 2 + np.abs(np.diff(ours, order)).sum() - best)
    if order == 1:
        assert np.ptp(gaps) < 1e-12 and (metric or abs(gaps[0]) < 1e-9)
    else:
        assert gaps[0] > 3 * gaps[1] > 9 * gaps[2] > 0
    assert gaps[2] < {1: 5e-4, 2: 5e-3}[order] * best
