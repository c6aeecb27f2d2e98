"""duality_gap: a bound on every objective, on paper and in NumPy; 0 at minima; scikit-learn's own; what is refused."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso

import jaxreg
from jaxreg import L1, L1L2, L2, SLOPE, Group

pytestmark = pytest.mark.wide  # a program for each penalty

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 6))
Y = X @ np.array([2.0, 0.0, 0.0, -1.0, 0.0, 0.3]) + RNG.normal(size=20)
TARGETS = np.stack([Y, RNG.normal(size=20)], axis=1)


def squares(w: Any, x: Any, y: Any) -> Any:
    return 0.5 * jnp.mean(jnp.sum((x @ w - y) ** 2, axis=tuple(range(1, y.ndim))))


def logistic(w: Any, x: Any, y: Any) -> Any:
    return jnp.mean(jnp.logaddexp(0, -jnp.sign(y) * (x @ w["a"] + x[:, :2] @ w["b"])))


def descending(w: Any) -> Any:
    return np.cumsum(np.sort(np.abs(w))[::-1])


# name: loss, targets, start, penalty; and of those on one vector or matrix the dual norm of the norm in it, in NumPy
VECTOR, MATRIX = np.zeros(6), np.zeros((6, 2))
CASES: dict[str, Any] = {
    "L1": (squares, Y, VECTOR, 3 * L1(0.1), lambda g: np.abs(g).max() / 0.3),
    "L1L2": (squares, Y, VECTOR, L1L2(0.2, 0.3), lambda g: np.abs(g).max() / 0.2),
    "L1 and L2 of non-negative": (
        squares,
        Y,
        VECTOR,
        L1(0.2) + L2(0.1) + jaxreg.NonNegative(),
        lambda g: max(0, -g.min()) / 0.2,
    ),
    "weights": (
        squares,
        Y,
        VECTOR,
        jaxreg.Weighted(L1(0.1), np.arange(1.0, 7)),
        lambda g: (np.abs(g) / np.arange(1, 7)).max() / 0.1,
    ),
    "SLOPE": (
        squares,
        Y,
        VECTOR,
        SLOPE(np.linspace(0.3, 0.05, 6)),
        lambda g: (descending(g) / np.cumsum(np.linspace(0.3, 0.05, 6))).max(),
    ),
    "Group": (
        squares,
        TARGETS,
        MATRIX,
        0.5 * Group(L1L2(0.4, 0.1), axis=1, weight="sqrt_size"),
        lambda g: np.linalg.norm(g, axis=1).max() / (0.2 * np.sqrt(2)),
    ),
    "labels": (
        squares,
        Y,
        VECTOR,
        Group(L1(0.1), groups=[0, 1, 1, 2, 2, 2], weight="sqrt_size") + L2(0.1),
        lambda g: max(abs(g[0]), np.linalg.norm(g[1:3]) / np.sqrt(2), np.linalg.norm(g[3:]) / np.sqrt(3)) / 0.1,
    ),
    "Spectral": (squares, TARGETS, MATRIX, jaxreg.Spectral(L1(0.3)), lambda g: np.linalg.norm(g, 2) / 0.3),
    "Joined": (
        logistic,
        Y,
        {"a": VECTOR, "b": np.zeros(2)},
        jaxreg.Joined(Group(L1(0.1), axis=0)),
        None,
    ),
    "a tree": (
        logistic,
        Y,
        {"a": VECTOR, "b": np.zeros(2)},
        jaxreg.TreeRegularizer({"a": L1(0.05), "b": L1L2(0.02, 0.5)}),
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_no_objective_is_below_and_the_minimum_has_no_gap(name: str) -> None:
    """Weak duality: what the gap of one point leaves is below the objective of every other, the minimum's too."""
    loss, targets, start, reg, dual_norm = CASES[name]
    with jax.enable_x64(True):

        @jax.jit
        def both(params: Any) -> Any:
            data = jnp.asarray(X), jnp.asarray(targets)
            at = jax.vmap(lambda w: (loss(w, *data) + reg(w), jaxreg.duality_gap(loss, reg, w, *data)))
            found = jaxreg.minimize(loss, reg, jax.tree.map(jnp.zeros_like, start), *data, tol=1e-12)
            with_minimum = jax.tree.map(lambda x, w: jnp.concatenate([x, w[None]]), params, found.params)
            return found.converged, *at(with_minimum)

        points = [np.zeros(6), *np.random.default_rng(1).normal(size=(30, 6)) * np.logspace(-3, 1, 30)[:, None]]
        points += [-np.abs(points[-1]), np.abs(points[-1])]
        tree = jax.tree.map(lambda w: np.stack([np.resize(p, w.shape) for p in points]), start)
        converged, objectives, gaps = jax.tree.map(np.asarray, both(tree))
    assert converged
    assert objectives.min() == objectives[-1]
    inside = np.isfinite(objectives)
    assert inside.sum() > 1 and (objectives[inside] - gaps[inside] <= objectives[-1] + 1e-13).all()
    assert (gaps[~inside] == np.inf).all() and np.isfinite(gaps[inside]).all()
    assert abs(gaps[-1]) < 1e-10
    if dual_norm is not None:  # the gap on paper, at 0: there the L2 part is 0, and so is ⟨g, w⟩
        g = -X.T @ targets / len(X)
        expected = (1 - min(1, 1 / dual_norm(g))) * 0.5 * (targets**2).sum() / len(X)
        np.testing.assert_allclose(gaps[0], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.6], ids=["lasso", "elastic net"])
def test_the_gap_of_scikit_learn(ratio: float, positive: bool) -> None:
    """After each of a few passes theirs is ours less s(1 − s)·f, for they know that the loss is one of squares."""
    alpha, shares = 0.1, []
    net = L1L2(ratio * alpha, (1 - ratio) * alpha / 2)
    reg = net + jaxreg.NonNegative() if positive else net
    with jax.enable_x64(True):
        ours = jax.jit(lambda w: jaxreg.duality_gap(squares, reg, w, X, Y))
        for passes in (1, 2, 4, 1000):
            estimator = Lasso(alpha) if ratio == 1 else ElasticNet(alpha, l1_ratio=ratio)
            estimator.set_params(fit_intercept=False, tol=1e-14, max_iter=passes, positive=positive).fit(X, Y)
            w = estimator.coef_
            f = 0.5 * np.mean((X @ w - Y) ** 2) + (1 - ratio) * alpha / 2 * (w @ w)
            g = X.T @ (X @ w - Y) / len(Y) + (1 - ratio) * alpha * w
            s = min(1.0, ratio * alpha / (-g.min() if positive else np.abs(g).max()))
            shares.append(s)
            np.testing.assert_allclose(ours(w), estimator.dual_gap_ + s * (1 - s) * f, rtol=1e-9, atol=1e-13)
        assert ours(w) < 1e-10
    assert positive or shares[0] < 0.99


def test_lowest_is_any_bound_of_the_loss_and_a_better_one_helps() -> None:
    with jax.enable_x64(True):
        gap = jax.jit(lambda lowest, c: jaxreg.duality_gap(squares, L1(c), np.ones(6), X, Y, lowest=lowest))
        least = 0.5 * np.mean((X @ np.linalg.lstsq(X, Y)[0] - Y) ** 2)
        best = Lasso(0.1, fit_intercept=False, tol=1e-14, max_iter=10**5).fit(X, Y).coef_
        here, there = (float(0.5 * np.mean((X @ w - Y) ** 2) + 0.1 * np.abs(w).sum()) for w in (np.ones(6), best))
        assert here - there < gap(least, 0.1) < gap(0.0, 0.1) < gap(-1.0, 0.1)
        assert np.isnan(gap(10.0, 0.1))  # the loss is below


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, r"`duality_gap\(loss=...\)` takes a function", {"loss": 1.0}),
        (TypeError, "must return a real number, got shape", {"loss": lambda w: w}),
        (TypeError, r"`duality_gap\(reg=...\)` takes a regularizer", {"reg": "l1"}),
        (ValueError, r"`duality_gap\(lowest=...\)` must be a real, finite number, got nan", {"lowest": np.nan}),
        (NotImplementedError, "knows the dual norm of L1.*got `Huber", {"reg": jaxreg.Huber(0.1)}),
        (NotImplementedError, "got `L2", {"reg": L2(0.1)}),
        (NotImplementedError, "got `L1Ball", {"reg": jaxreg.L1Ball(0.1)}),
        (NotImplementedError, "got `MCP", {"reg": jaxreg.MCP(0.1)}),
    ],
    ids=["no function", "no scalar", "a name", "nan", "Huber", "L2", "a set", "MCP"],
)
def test_what_is_refused(error: type, message: str, change: Any) -> None:
    call = {"loss": lambda w: jnp.sum(w**2), "reg": L1(0.1), "params": jnp.ones(3), **change}
    with pytest.raises(error, match=message):
        jaxreg.duality_gap(**call)


def test_a_parameter_without_a_penalty_and_the_way_out() -> None:
    """The slope of an intercept is never quite 0. Of centered data there is none, and the minimum is the same."""
    x, y = X + 3.0, Y - 5.0

    def with_intercept(p: Any, x: Any, y: Any) -> Any:
        return squares(p["w"], x, y - p["b"])

    rules = jaxreg.TreeRegularizer({"w": L1(0.1), "b": None})
    with jax.enable_x64(True):
        start = {"w": jnp.zeros(6), "b": 0.0}
        with pytest.raises(ValueError, match="parameter 'b' has no penalty") as raised:
            jaxreg.duality_gap(with_intercept, rules, start, x, y)
        centered = [eval(code, {"x": x, "y": y}) for code in re.findall(r"`([xy] - [^`]+)`", str(raised.value))]
        w = Lasso(0.1, tol=1e-14, max_iter=10**5).fit(x, y).coef_
        assert abs(float(jaxreg.duality_gap(squares, L1(0.1), jnp.asarray(w), *centered))) < 1e-10


def test_entries_in_no_group_have_no_penalty() -> None:
    """L2 alone is no norm: a gap that left them out was below what the minimum is above."""
    labels = [0, 0, 1, 1, -1, -1]
    joint = jaxreg.JointGroup(L1(0.3), {"*": (0, labels)})
    for reg, params in (
        (Group(L1(0.3), groups=labels) + L2(0.1), jnp.ones(6)),
        (
            jaxreg.TreeRegularizer({"w": 2 * jaxreg.Weighted(Group(L1(0.3), groups=labels), np.ones(2))}),
            {"w": jnp.ones(6)},
        ),
        (joint, {"w": jnp.ones(6)}),
    ):
        with pytest.raises(ValueError, match=r"in no group,.* has no penalty"):
            jaxreg.duality_gap(lambda w: sum(jnp.sum((x - 3) ** 2) for x in jax.tree.leaves(w)), reg, params)
    whole = jaxreg.JointGroup(L1(0.3), {"*": (0, [0, 0, 1, 1, 2, 2])})
    assert jaxreg.duality_gap(lambda p: jnp.sum((p["w"] - 3) ** 2), whole, {"w": jnp.ones(6)}) > 0
