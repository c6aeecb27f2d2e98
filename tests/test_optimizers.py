"""`proximal` around every optimizer of optax: it reaches the optimum, or it raises. No metric in between."""

import functools
from pathlib import Path
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from sklearn.linear_model import Lasso

import jaxreg
from tests.optimizer_cases import (
    CONTRIB,
    INSIDE,
    METRICS,
    OPTIMIZERS,
    OUTSIDE,
    PARAMS,
    PLAIN,
    Refused,
    Right,
    public_optimizers,
)
from tests.optimizer_table import table

STEPS = 4000
STRENGTH = {"lasso": 0.5, "group": 0.4}
BOUNDS = (-0.4, 0.8)
ALL = OPTIMIZERS | {f"contrib.{name}": case for name, case in CONTRIB.items()} | INSIDE
RIGHT = {name: case for name, case in ALL.items() if isinstance(case, Right)}
REFUSED = {name: case for name, case in ALL.items() if isinstance(case, Refused)}


@functools.cache
def problem() -> tuple[np.ndarray, np.ndarray]:
    """Six columns of different length, the gradients at rest neither 0 nor alike."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 6)) * np.array([1.0, 0.5, 1.6, 0.8, 1.2, 0.6])
    y = x @ np.array([1.5, 0.0, -1.0, 0.1, 0.6, -0.05]) + 0.3 * rng.normal(size=40)
    return x, y


def half_mean_square(w: Any) -> Any:
    x, y = problem()
    return ((x @ w.ravel() - y) ** 2).sum() / (2 * len(y))


@functools.cache
def optima() -> dict[str, np.ndarray]:
    """By scikit-learn, SciPy and Clarabel."""
    x, y = problem()
    lasso = Lasso(alpha=STRENGTH["lasso"], fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
    box = scipy.optimize.lsq_linear(x, y, bounds=BOUNDS, tol=1e-14).x
    w = cvxpy.Variable((3, 2))
    loss = cvxpy.sum_squares(x @ cvxpy.reshape(w, (6,), order="C") - y) / (2 * len(y))
    penalty = STRENGTH["group"] * cvxpy.sum(cvxpy.norm(w, 2, axis=1))
    tolerances = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    cvxpy.Problem(cvxpy.Minimize(loss + penalty)).solve(solver=cvxpy.CLARABEL, **tolerances)
    return {"lasso": lasso, "box": box, "group": w.value}


RULES = jaxreg.TreeRegularizer(
    {
        "lasso": jaxreg.L1(STRENGTH["lasso"]),
        "box": jaxreg.Box(*BOUNDS),
        "group": jaxreg.Group(jaxreg.L1(STRENGTH["group"]), axis=1),
    }
)


def loss(params: Any) -> Any:
    return sum(half_mean_square(w) for w in params.values())


def train(tx: Any) -> dict[str, np.ndarray]:
    """The three problems at once, in float64: the loss of the tree is the sum of theirs."""
    with jax.enable_x64(True):
        params = {"lasso": jnp.zeros(6), "box": jnp.zeros(6), "group": jnp.zeros((3, 2))}

        @jax.jit
        def run(params: Any, state: Any) -> Any:
            def step(carry: Any, _: Any) -> Any:
                params, state = carry
                value, grads = jax.value_and_grad(loss)(params)
                updates, state = tx.update(
                    grads, state, params, value=value, grad_fn=lambda params, _: jax.grad(loss)(params)
                )
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, state), length=STEPS)[0][0]

        return jax.tree.map(np.asarray, run(params, tx.init(params)))


def assert_optimal(params: dict[str, np.ndarray], slack: float = 1e-4) -> None:
    for name, best in optima().items():
        np.testing.assert_allclose(params[name], best, atol=slack, err_msg=name)
    zeros = params["lasso"] == 0
    np.testing.assert_array_equal(zeros, optima()["lasso"] == 0)
    np.testing.assert_array_equal((params["group"] == 0).all(1), np.abs(optima()["group"]).max(1) < 1e-6)
    assert 0 < zeros.sum() < 6 and 0 < (params["group"] == 0).all(1).sum() < 3
    assert (np.isin(params["box"], BOUNDS)).sum() == np.isin(optima()["box"].round(9), BOUNDS).sum() > 1


def proximal(case: Right, reg: Any = RULES) -> Any:
    metric = (case.metric_call or METRICS[case.metric])()
    return jaxreg.proximal(case.make(case.rate), reg, case.rate, metric, momentum=case.momentum)


def test_every_optimizer_has_its_place() -> None:
    assert public_optimizers(optax) == set(OPTIMIZERS)
    assert public_optimizers(optax.contrib) == set(CONTRIB)


@pytest.mark.parametrize("name", RIGHT)
def test_it_reaches_the_optimum(name: str) -> None:
    assert_optimal(train(proximal(RIGHT[name])), slack=2e-3 if "noise" in RIGHT[name].note else 1e-4)


@pytest.mark.parametrize("name", RIGHT)
def test_no_other_metric_is_taken(name: str) -> None:
    case = RIGHT[name]
    for metric, make in METRICS.items():
        if metric not in ("None", case.metric):
            tx = jaxreg.proximal(case.make(0.1), jaxreg.L1(0.1), 0.1, make(), momentum=case.momentum)
            with pytest.raises(ValueError, match=r"reads the one|does not tell the step"):
                tx.init({"lasso": jnp.ones((5, 3)), "box": jnp.ones(4)})


@pytest.mark.parametrize("name", REFUSED)
def test_it_raises_whatever_the_metric(name: str) -> None:
    case = REFUSED[name]
    for metric, make in METRICS.items():
        tx = jaxreg.proximal(case.make(), jaxreg.L1(0.1), 0.1, make())
        if metric == "None" and case.also_with_moments:
            tx.init(PARAMS)
            continue
        with pytest.raises(ValueError, match="`") as raised:
            tx.init(PARAMS)
        if metric == "None":
            assert case.message in str(raised.value)


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_may_stand_outside(name: str) -> None:
    assert_optimal(train(OUTSIDE[name](jaxreg.proximal(optax.sgd(PLAIN), RULES, PLAIN))))


def test_the_table_is_in_the_documentation() -> None:
    readme = Path(jaxreg.__file__).parent / "_optax" / "README.md"
    assert table() in readme.read_text(), "run `python -m tests.optimizer_table` and paste what it prints"
