"""jaxreg.path: the paths of scikit-learn, the choice of a strength, chunks, devices, and what is refused."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNetCV, LassoCV, enet_path, lasso_path
from sklearn.model_selection import KFold

import jaxreg
from jaxreg._strength import runs
from jaxreg._strength.path import RegularizationPath

X, Y = load_diabetes(return_X_y=True)
Y = (Y - Y.mean()) / Y.std()
X = X / X.std(axis=0)
ALPHA_MAX = np.abs(X.T @ Y).max() / len(Y)  # of scikit-learn's documentation


def fista(reg, x, y, weights=None, tolerance=1e-13):
    """The minimum of ½·mean (xw − y)² + reg(w), by accelerated proximal gradient steps until nothing moves."""
    weights = jnp.ones(len(y)) if weights is None else weights
    n = weights.sum()
    step = 1 / jnp.linalg.eigvalsh(x.T @ (weights[:, None] * x) / n)[-1]

    def move(state):
        w, v, t, _ = state
        new = reg.prox(v - step * x.T @ (weights * (x @ v - y)) / n, step)
        restart = jnp.vdot(v - new, new - w) > 0
        t = jnp.where(restart, 1.0, t)
        following = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return new, new + (t - 1) / following * (new - w), following, jnp.abs(new - w).max()

    start = jnp.zeros(x.shape[1]), jnp.zeros(x.shape[1]), jnp.ones(()), jnp.full((), jnp.inf)
    return jax.lax.while_loop(lambda state: state[-1] > tolerance, move, start)[0]


def ols_with(reg, key):
    w = fista(reg, jnp.asarray(X), jnp.asarray(Y))
    loss = 0.5 * jnp.mean((X @ w - Y) ** 2)
    return w, loss, -loss


# ------------------------------------------------------------------------------------------------------- scikit-learn


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5, 0.1])
def test_it_is_the_path_of_scikit_learn(l1_ratio):
    with jax.enable_x64(True):
        reg = jaxreg.L1L2(l1_ratio, 0.5 * (1 - l1_ratio))
        result = jaxreg.path(ols_with, reg, ALPHA_MAX / l1_ratio)
        alphas, expected, _ = enet_path(X, Y, l1_ratio=l1_ratio, alphas=result.coefficients, tol=1e-14, max_iter=10**6)
    np.testing.assert_array_equal(alphas, result.coefficients)
    assert len(alphas) == 50
    np.testing.assert_allclose(result.params, expected.T, atol=1e-6)
    np.testing.assert_allclose(result.zeros[1:], np.mean(expected.T == 0, axis=1)[1:])  # rounding decides at the top
    np.testing.assert_allclose(result.losses, 0.5 * np.mean((X @ expected - Y[:, None]) ** 2, axis=0), atol=1e-9)


def test_a_function_of_the_coefficient_and_a_tree_give_the_same_path():
    grid = np.geomspace(ALPHA_MAX, ALPHA_MAX / 100, 10)
    with jax.enable_x64(True):
        expected = lasso_path(X, Y, alphas=grid, tol=1e-14, max_iter=10**6)[1].T
        for reg in (jaxreg.L1, lambda c: 2 * jaxreg.L1(c / 2), jaxreg.L1(1.0)):
            np.testing.assert_allclose(jaxreg.path(ols_with, reg, grid).params, expected, atol=1e-6)

        def with_intercept(reg, key):
            # the intercept is 0 because X and Y are centred; the tree leaves it alone
            w = fista(reg.assignment({"w": jnp.zeros(10), "b": jnp.zeros(3)})["w"], jnp.asarray(X), jnp.asarray(Y))
            return {"w": w, "b": jnp.zeros(3)}, 0.0, 0.0

        tree = jaxreg.TreeRegularizer({"w": jaxreg.L1(1.0), "b": None})
        with_tree = jaxreg.path(with_intercept, tree, grid)
    np.testing.assert_allclose(with_tree.params["w"], expected, atol=1e-6)
    np.testing.assert_allclose(with_tree.zeros[1:], np.mean(expected == 0, axis=1)[1:])  # b is not penalized


# ------------------------------------------------------------------------------------------------- folds and the choice


def test_folds_and_the_one_standard_error_rule():
    masks = np.zeros((5, len(Y)))
    for mask, (train, _) in zip(masks, KFold(5, shuffle=True, random_state=0).split(X), strict=True):
        mask[train] = 1.0

    def on_fold(reg, mask):
        w = fista(reg, jnp.asarray(X), jnp.asarray(Y), mask)
        errors = (X @ w - Y) ** 2
        return w, 0.5 * jnp.vdot(mask, errors) / mask.sum(), -jnp.vdot(1 - mask, errors) / (1 - mask).sum()

    grid = np.geomspace(ALPHA_MAX, ALPHA_MAX / 1000, 12)
    with jax.enable_x64(True):
        result = jaxreg.path(on_fold, jaxreg.L1(1.0), grid, keys=jnp.asarray(masks))
    assert result.params.shape == (12, 5, 10)
    scores = np.empty((12, 5))
    for j, mask in enumerate(masks.astype(bool)):
        w = lasso_path(X[mask], Y[mask], alphas=grid, tol=1e-14, max_iter=10**6)[1]
        scores[:, j] = -np.mean((X[~mask] @ w - Y[~mask, None]) ** 2, axis=0)
    np.testing.assert_allclose(result.fold_scores, scores, atol=1e-7)
    np.testing.assert_allclose(result.scores, scores.mean(axis=1), atol=1e-7)
    best = scores.mean(axis=1).argmax()
    error = scores[best].std(ddof=1) / np.sqrt(5)
    assert result.best == best
    within = [i for i in range(12) if scores[i].mean() >= scores[best].mean() - error]
    assert result.best_1se == min(within)  # the grid goes down, so the first is the strongest
    assert result.best_1se < result.best
    np.testing.assert_array_equal(result.at(result.best), result.params[best])


def chosen(coefficients, fold_scores):
    scores = np.array(fold_scores, float)
    zeros = np.zeros(len(scores))
    return RegularizationPath(np.array(coefficients), zeros, scores.mean(axis=1), zeros, scores, None)


def test_the_choice_does_not_depend_on_the_order_of_the_grid():
    down = chosen([1.0, 0.1, 0.01], [[0.0, 0.0], [0.5, 0.7], [0.6, 0.8]])
    up = chosen([0.01, 0.1, 1.0], [[0.6, 0.8], [0.5, 0.7], [0.0, 0.0]])
    assert (down.best, down.best_1se) == (2, 1)
    assert (up.best, up.best_1se) == (0, 1)


def test_of_equal_scores_the_strongest_and_nan_never():
    result = chosen([0.1, 1.0, 10.0], [[0.5], [0.5], [np.nan]])
    assert (result.best, result.best_1se) == (1, 1)
    np.testing.assert_array_equal(result.standard_errors, 0)
    with pytest.raises(ValueError, match="every score is nan"):
        _ = chosen([0.1, 1.0], [[np.nan], [-np.inf]]).best


# --------------------------------------------------------------------------------------------------- chunks and devices


def shrink_by_key(reg, key):
    z = jax.random.normal(key, (6,))
    w = reg.prox(z)
    return {"w": w}, jnp.sum((w - z) ** 2), -jnp.sum(w**2)


GRID = [3.0, 1.0, 0.5, 0.25, 0.0]
MISSPELT = jaxreg.TreeRegularizer({"kernle": jaxreg.L1(1.0)})


@functools.cache
def one_after_the_other():
    keys = jax.random.split(jax.random.key(3), 3)
    w = np.stack([[shrink_by_key(jaxreg.L1(c), key)[0]["w"] for key in keys] for c in GRID])
    return keys, w


@pytest.mark.parametrize("chunk", [None, 1, 4, 15, 1000])
@pytest.mark.parametrize("devices", [1, 3, 8])
def test_chunks_and_devices_change_nothing(chunk, devices):
    keys, expected = one_after_the_other()
    result = jaxreg.path(shrink_by_key, jaxreg.L1, GRID, keys=keys, chunk=chunk, devices=jax.devices()[:devices])
    rounding = 2 * np.spacing(np.float32(4.0))  # of z, where |z| < 4; in z − c, it is that of a smaller number
    np.testing.assert_allclose(result.params["w"], expected, rtol=1e-6, atol=rounding)
    np.testing.assert_allclose(result.fold_scores, -(expected**2).sum(axis=-1), rtol=1e-6, atol=rounding)
    np.testing.assert_allclose(result.zeros, (expected == 0).mean(axis=(1, 2)), rtol=1e-6)


def test_all_devices_work_and_wait_for_none():
    seen = set()

    def train(reg, key):
        jax.debug.callback(lambda device: seen.add(int(device)), jax.lax.axis_index("runs"))
        w = jax.lax.while_loop(lambda w: jnp.max(w) > reg.factor, lambda w: w / 2, jnp.ones(2))
        return w, 0.0, 0.0

    result = jaxreg.path(train, jaxreg.L1(1.0), np.geomspace(1, 1e-3, 16))
    assert len(jax.devices()) == 8
    assert seen == set(range(8))
    np.testing.assert_array_equal(result.params[:, 0], 2.0 ** np.floor(np.log2(result.coefficients)))


def test_chunks_are_made_when_memory_would_not_hold_all(monkeypatch):
    def one(c):  # needs at least one array of 0.4 MB
        return jnp.sort(jnp.sin(c * jnp.arange(100_000.0)))[::10_000]

    def arguments(start, size):
        asked.append((start, size))
        return (jnp.arange(start, start + size, dtype=float),)

    asked = []
    expected = runs.run(one, arguments, 6, None, jax.devices()[:1], False)
    assert asked == [(0, 6), (0, 6)]  # to compile for, and to run
    monkeypatch.setattr(runs, "_memory", lambda devices: 1.5e6)  # the compiler says 2.4e6
    asked.clear()
    np.testing.assert_array_equal(runs.run(one, arguments, 6, None, jax.devices()[:1], False), expected)
    size = asked[-1][1]
    assert size < 6
    assert [start for start, _ in asked if start] == list(range(size, 6, size))
    asked.clear()
    runs.run(one, arguments, 6, 6, jax.devices()[:1], False)  # what the user asks for goes first
    assert asked == [(0, 6), (0, 6)]


def test_the_training_is_traced_once_for_all_strengths():
    traces = []

    def train(reg, key):
        traces.append(reg)
        return reg.prox(jnp.ones(3)), 0.0, 0.0

    jaxreg.path(train, jaxreg.L1(1.0), GRID, chunk=2, devices=jax.devices()[:1])
    assert len(traces) == 1


def test_the_memory_of_this_machine_is_known():
    assert runs._memory(jax.devices()) > 2**28


def test_the_bar_shows_in_a_terminal_only(capsys, monkeypatch):
    one = {"devices": jax.devices()[:1], "chunk": 2}
    jaxreg.path(shrink_by_key, jaxreg.L1, GRID, **one)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in notebooks
    jaxreg.path(shrink_by_key, jaxreg.L1, GRID, **one)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    jaxreg.path(shrink_by_key, jaxreg.L1, GRID, **one)
    assert "100%" in capsys.readouterr().err
    jaxreg.path(shrink_by_key, jaxreg.L1, GRID, progress=False, **one)
    assert capsys.readouterr() == ("", "")


# -------------------------------------------------------------------------------------------------------- real training


def test_an_nnx_network_trained_by_proximal():
    graph, start = nnx.split(nnx.Linear(10, 1, rngs=nnx.Rngs(0)))
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)

    def train(reg, key):
        tx = jaxreg.proximal(optax.sgd(0.1), reg, 0.1)

        def loss(params):
            return 0.5 * jnp.mean((nnx.merge(graph, params)(x)[:, 0] - y) ** 2)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=2000)
        return params, loss(params), -loss(params)

    reg = jaxreg.TreeRegularizer({"kernel": jaxreg.L1(1.0), "bias": None})
    result = jaxreg.path(train, reg, [0.5, 0.1, 0.02])
    expected = lasso_path(X, Y, alphas=[0.5, 0.1, 0.02], tol=1e-12)[1].T
    np.testing.assert_allclose(result.params["kernel"][...][..., 0], expected, atol=1e-3)
    assert isinstance(result.at(0), nnx.State)
    np.testing.assert_allclose(result.zeros, (expected == 0).mean(axis=1))


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"coefficients": [0.1, -1.0]}, ValueError, r"path.coefficients=\.\.\..` must be a real, finite, non-negative"),
        ({"coefficients": [0.1, np.nan]}, ValueError, "got nan"),
        ({"coefficients": 0.0}, ValueError, "greater than 0"),
        ({"coefficients": "0.1"}, TypeError, "got '0.1'"),
        ({"coefficients": True}, TypeError, "bool"),
        ({"coefficients": []}, ValueError, "sequence of numbers, got shape"),
        ({"coefficients": np.ones((2, 2))}, (TypeError, ValueError), "coefficients"),
        ({"regularizer": "l1"}, TypeError, "takes a regularizer or a function"),
        ({"regularizer": lambda c: c}, TypeError, "must return a regularizer"),
        ({"train": lambda reg, key: jnp.ones(2)}, TypeError, r"must return \(params, loss, score\)"),
        ({"train": lambda reg, key: (jnp.ones(2), jnp.ones(2), 0.0)}, ValueError, r"scalar loss, got shape \(2,\)"),
        ({"train": lambda reg, key: (jnp.ones(2), 0.0, jnp.ones(3))}, ValueError, r"scalar score, got shape \(3,\)"),
        ({"keys": jax.random.key(0)}, ValueError, "jax.random.split"),
        ({"keys": {"a": jnp.ones(2), "b": jnp.ones(3)}}, ValueError, "one common leading axis"),
        ({"keys": ()}, ValueError, "one common leading axis"),
        ({"chunk": 0}, ValueError, "at least 1"),
        ({"chunk": True}, ValueError, "at least 1"),
        (
            {"regularizer": MISSPELT, "train": lambda reg, key: ({"kernel": 1.0}, 0.0, 0.0)},
            ValueError,
            "kernle",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_refused(change, error, message):
    arguments = {"train": shrink_by_key, "regularizer": jaxreg.L1, "coefficients": GRID, **change}
    with pytest.raises(error, match=message):
        jaxreg.path(**arguments)


def test_half_precision_parameters():
    def train(reg, key):
        w = reg.prox(jnp.array([1.0, -0.5, 0.01], jnp.bfloat16))
        return w, jnp.sum(w), jnp.sum(w)

    result = jaxreg.path(train, jaxreg.L1, [0.25, 0.0])
    assert result.params.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result.params.astype(float)[0], [0.75, -0.25, 0.0])
    assert result.losses.dtype == np.float64
    np.testing.assert_allclose(result.zeros, [1 / 3, 0], rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------- warm starts


def test_each_strength_begins_at_the_minimum_of_the_one_before():
    """With folds, in any order of the grid: the minima of coordinate descent, after fewer steps than from zero."""
    masks = np.arange(len(Y)) % 3 != np.arange(3)[:, None]
    grid = np.geomspace(ALPHA_MAX / 1000, ALPHA_MAX, 24)

    def loss(w, mask):
        return 0.5 * jnp.sum(mask * (X @ w - Y) ** 2) / mask.sum()

    def on_fold(reg, mask, start=None):
        found = jaxreg.minimize(loss, reg, jnp.zeros(10) if start is None else start, mask, tol=1e-9)
        return found.params, found.steps, jnp.where(found.converged, 0.0, jnp.nan)

    with jax.enable_x64(True):
        cold, warm = (
            jaxreg.path(on_fold, jaxreg.L1(1.0), grid, keys=jnp.asarray(masks, float), **start)
            for start in ({}, {"start": np.zeros(10)})
        )
    for j, mask in enumerate(masks):
        expected = lasso_path(X[mask], Y[mask], alphas=grid[::-1], tol=1e-14, max_iter=10**6)[1].T[::-1]
        for result in (cold, warm):
            np.testing.assert_allclose(result.params[:, j], expected, atol=1e-6)
    np.testing.assert_array_equal(cold.fold_scores, 0)
    np.testing.assert_array_equal(warm.fold_scores, 0)
    np.testing.assert_array_equal(cold.zeros, warm.zeros)
    assert warm.losses.sum() < 0.9 * cold.losses.sum()


@pytest.mark.parametrize("peer", [LassoCV, ElasticNetCV], ids=["LassoCV", "ElasticNetCV"])
def test_folds_and_strengths_at_once_are_the_cross_validation_of_scikit_learn(peer):
    grid, masks = ALPHA_MAX * np.array([0.5, 0.1, 0.01]), np.arange(len(Y)) % 4 != np.arange(4)[:, None]
    ratio = 1.0 if peer is LassoCV else 0.5

    def on_fold(reg, mask):
        def loss(w):
            return mask @ (X @ w - Y) ** 2 / (2 * mask.sum())

        found = jaxreg.minimize(loss, reg, jnp.zeros(10), tol=1e-9)
        return found.params, found.value, -(1 - mask) @ (X @ found.params - Y) ** 2 / (1 - mask).sum()

    with jax.enable_x64(True):
        reg = jaxreg.L1L2(ratio, (1 - ratio) / 2)
        result = jaxreg.path(on_fold, reg, grid, keys=jnp.asarray(masks, float))
    folds = [(np.flatnonzero(mask), np.flatnonzero(~mask)) for mask in masks]
    theirs = peer(alphas=grid, cv=folds, fit_intercept=False, tol=1e-12, max_iter=10**6)
    theirs = theirs.set_params(**{} if peer is LassoCV else {"l1_ratio": ratio}).fit(X, Y)
    np.testing.assert_allclose(-result.fold_scores, theirs.mse_path_, rtol=1e-6)
    assert result.coefficients[result.best] == theirs.alpha_


def test_without_keys_and_a_tree_that_is_not_like_the_start():
    def train(reg, key, start):
        return {"w": reg.prox(start["w"])}, 0.0, 0.0

    result = jaxreg.path(train, jaxreg.L1(1.0), [1.0, 0.5, 2.0], start={"w": np.full(2, 5.0, np.float32)})
    np.testing.assert_array_equal(result.params["w"][:, 0], [2.0, 1.5, 3.0])  # 5 − 2, − 1, − 0.5
    with pytest.raises(ValueError, match=r"got \{'b': .*\} as shapes and dtypes for \{'w': "):
        jaxreg.path(train, jaxreg.L1(1.0), [1.0], start={"w": np.ones(2, np.float32), "b": 0.0})
