"""Weighted: a strength for each entry or group, against skglm, scikit-learn, NumPy and the definition of the prox."""

import json
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from skglm.penalties import block_separable, separable
from sklearn.linear_model import Lasso

import jaxreg
from jaxreg import L1, L2, MCP, Group, Weighted

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4))
W, V = np.round(RNG.uniform(0.2, 2, (3, 4)), 2), np.array([0.0, 0.5, 2.0, 1.0])
STEPS = RNG.uniform(0.2, 2, (3, 4))


@pytest.fixture(autouse=True)
def double() -> Any:
    with jax.enable_x64(True):
        yield


def soft(z: Any, u: Any) -> np.ndarray:
    return np.sign(z) * np.maximum(np.abs(z) - u, 0)


# ----------------------------------------------------------------------------------------------------- other libraries


def test_entries_as_skglm_has_them() -> None:
    """Its weights of 0 are free too; its distance of a subgradient is 0 where 0 is one of ours."""
    w, x = W.ravel().copy(), X.ravel().copy()
    w[2] = 0
    peer, ours = separable.WeightedL1(0.3, w), Weighted(L1(0.3), w)
    assert float(ours(x)) == pytest.approx(peer.value(x))
    for name, step in (("scalar", 0.7), ("array", STEPS.ravel())):
        each = np.broadcast_to(step, x.shape)
        expected = [peer.prox_1d(z, each[i], i) for i, z in enumerate(x)]
        np.testing.assert_allclose(ours.prox(x, step), expected, rtol=1e-12, err_msg=name)
    gradient = np.asarray(jax.grad(ours)(jnp.asarray(x)))
    assert peer.subdiff_distance(x, -gradient, np.arange(x.size)).max() < 1e-15


def test_groups_as_skglm_has_them() -> None:
    grp_indices, grp_ptr = np.arange(12, dtype=np.int32), np.array([0, 3, 6, 9, 12], np.int32)
    weights = np.array([0.3, 0.5, 2.0, 1.0])
    peer = block_separable.WeightedGroupL2(0.3, weights, grp_ptr, grp_indices)
    ours = Weighted(Group(L1(0.3), axis=0), weights)
    assert float(ours(X)) == pytest.approx(peer.value(X.T.ravel()))
    expected = np.stack([peer.prox_1group(X[:, g].copy(), 0.7, g) for g in range(4)], axis=1)
    np.testing.assert_allclose(ours.prox(X, 0.7), expected, rtol=1e-12)


def test_the_adaptive_lasso_is_the_lasso_of_rescaled_columns() -> None:
    """min ‖Xw − y‖²/(2n) + 0.1·Σ ω_i|w_i| with u_i = ω_i·w_i; 500 proximal steps, plain and with Adam's metric."""
    design, noise = RNG.normal(size=(40, 5)), RNG.normal(size=40)
    y, omega = design @ np.array([1.0, -0.5, 0.2, 0.0, 0.1]) + 0.1 * noise, np.array([0.5, 1.0, 2.0, 1.0, 4.0])
    expected = Lasso(alpha=0.1, fit_intercept=False, tol=1e-12).fit(design / omega, y).coef_ / omega
    assert 0 < np.count_nonzero(expected) < 5
    reg = Weighted(L1(0.1), omega)
    for tx in (
        jaxreg.proximal(optax.sgd(0.3), reg, 0.3),
        jaxreg.proximal_adam(optax.cosine_decay_schedule(0.1, 500), reg),
    ):

        def step(carry: Any, _: Any, tx: Any = tx) -> Any:
            w, state = carry
            updates, state = tx.update(design.T @ (design @ w - y) / 40, state, w)
            return (optax.apply_updates(w, updates), state), None

        w, _ = jax.jit(lambda w, tx=tx, step=step: jax.lax.scan(step, (w, tx.init(w)), None, 500)[0])(jnp.zeros(5))
        np.testing.assert_allclose(w, expected, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(w) == 0, expected == 0)


# --------------------------------------------------------------------------------------------- sums, free and excluded


def sparse_group(x: Any, w: Any, v: Any) -> float:
    return float(0.4 * (w * np.abs(x)).sum() + 0.5 * (v * np.linalg.norm(x, axis=0)).sum())


@pytest.mark.parametrize("step", [0.7, STEPS], ids=["scalar", "array"])
def test_the_sparse_group_lasso_with_weights_on_both_parts(step: Any) -> None:
    """On paper: soft thresholds, then the norms, of which a metric asks SciPy's root r = ‖a·r/(r + 0.5·v·step)‖."""
    reg = Weighted(L1(0.4), W) + Weighted(Group(L1(0.5), axis=0), V)
    assert float(reg(X)) == pytest.approx(sparse_group(X, W, V))
    expected, each = soft(X, 0.4 * W * step), np.broadcast_to(step, X.shape)
    for g, v in enumerate(V):
        a, tau = expected[:, g].copy(), 0.5 * v * each[:, g]
        if v == 0:
            continue
        alive = np.linalg.norm(a / tau) > 1
        r = scipy.optimize.brentq(lambda r, a=a, tau=tau: np.linalg.norm(a / (r + tau)) - 1, 0, 9) if alive else 0.0
        expected[:, g] = a * r / (r + tau)
    assert 0 < np.count_nonzero(expected) < 12
    np.testing.assert_allclose(reg.prox(X, step), expected, atol=1e-9)
    np.testing.assert_allclose((2 * reg + L2(0.0)).prox(X, np.asarray(step) / 2), expected, atol=1e-9)


def test_zero_leaves_free_and_infinity_excludes() -> None:
    w = np.array([0.0, 1.0, np.inf, 2.0])
    inside = np.array([1e200, -3.0, 0.0, 0.25])
    for reg, z in (
        (Weighted(L2(0.5), w), inside),
        (Weighted(MCP(0.5, 2.0), w), inside),
        (Weighted(Group(L2(0.5), axis=0), w), inside[None]),
        (Weighted(Group(L1(0.5), axis=0), w) + Weighted(L1(0.5), w), inside[None]),
        (jaxreg.Anchored(Weighted(L1(0.5), w), 0.0), inside),
        (jaxreg.Stacked(Weighted(L1(0.5), w)), inside[None]),
    ):
        outside = np.where(np.isinf(w), 1.0, z)
        run = jax.jit(lambda reg, x, step: (reg(x), jax.grad(reg)(x), reg.prox(x, step)))
        value, gradient, _ = run(reg, jnp.asarray(z), 1.0)
        assert np.isfinite(value) and np.isfinite(gradient).all() and gradient.ravel()[0] == 0
        for step in (0.0, 0.7, np.inf):
            value, gradient, moved = run(reg, jnp.asarray(outside), step)
            assert value == np.inf and gradient.ravel()[2] == 0
            moved = np.asarray(moved).ravel()
            assert moved[0] == 1e200 and moved[2] == 0 and np.isfinite(reg(np.reshape(moved, z.shape)))
            assert step == 0 or abs(moved[3]) < 0.25
        assert np.isnan(reg(np.where(np.isinf(w), np.nan, z)))


def test_it_is_differentiable_in_the_weights() -> None:
    """∂R/∂ω = ρ, and ∂prox/∂ω by central differences, also at a weight of 0; nothing through what is excluded."""
    w = W.copy()
    w[0, 0], w[1, 1] = 0, np.inf
    x = np.where(np.isinf(w), 0, X)
    found = jax.grad(lambda w: Weighted(L2(0.4), w)(x))(jnp.asarray(w))
    np.testing.assert_allclose(found, 0.4 * x**2, rtol=1e-12)

    def loss(w: Any, v: Any) -> Any:
        return jnp.sum((Weighted(L1(0.2), w) + Weighted(Group(L1(0.3), axis=0), v)).prox(X, STEPS) ** 2)

    loss = jax.jit(jax.value_and_grad(loss, (0, 1)))
    v = jnp.array([0.5, 0.5, 0.2, np.inf])
    _, (of_w, of_v) = loss(w, v)
    assert of_w[1, 1] == 0 and of_v[3] == 0 and np.isfinite(of_w).all()
    h = 1e-6
    for i, j in ((0, 0), (2, 1), (1, 2)):
        sides = (1, -1) if w[i, j] else (2, 0)
        near = [loss(w + side * h * np.eye(12)[4 * i + j].reshape(3, 4), v)[0] for side in sides]
        np.testing.assert_allclose(of_w[i, j], (near[0] - near[1]) / (2 * h), rtol=1e-4, atol=1e-9)
    near = [loss(w, v.at[1].add(sign * h))[0] for sign in (1, -1)]
    np.testing.assert_allclose(of_v[1], (near[0] - near[1]) / (2 * h), rtol=1e-4)


# ------------------------------------------------------------------------------------------------------ shapes and JSON


@pytest.mark.parametrize(
    ("axis", "weights", "kept"),
    [(0, V, V), (0, V[None], V), (1, W[:, 0], W[:, 0]), (1, W[:, :1], W[:, 0]), (None, 2.0, 2.0), ((), W, W)],
    ids=["columns", "columns kept", "rows", "rows kept", "all", "entries"],
)
def test_weights_of_groups_fit_the_norms(axis: Any, weights: Any, kept: Any) -> None:
    axes = (0, 1) if axis is None else axis
    expected = float((kept * np.sqrt((X**2).sum(axis=axes))).sum())
    assert float(Weighted(Group(L1(1.0), axis=axis), weights)(X)) == pytest.approx(expected)


MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "too long": (
        lambda: Weighted(L1(), np.ones(5))(X),
        r"the entries of the array, here of shape \(3, 4\), got .*\(5,\)",
    ),
    "would grow": (lambda: Weighted(L1(), np.ones((3, 4)))(X[:1]), r"here of shape \(1, 4\), got the shape \(3, 4\)"),
    "in a sum": (lambda: (Weighted(L1(), np.ones((2, 1, 1))) + L2()).prox(X), r"got the shape \(2, 1, 1\)"),
    "of groups": (lambda: Weighted(Group(L1(), axis=0), W).prox(X), r"norms of the groups, here of shape \(1, 4\)"),
    "of rows": (lambda: Weighted(Group(L1(), axis=1), V)(X), r"norms of the groups, here of shape \(3,\)"),
    "negative": (lambda: Weighted(L1(), np.array([1.0, -1.0])), r"`Weighted\(weights=...\)` must be non-negative.*inf"),
    "nan": (lambda: Weighted(L1(), np.array([1.0, np.nan])), "must be non-negative numbers"),
    "minus infinity": (lambda: Weighted(L1(), -np.inf), "non-negative number, got -inf"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused(name: str) -> None:
    call, message = MISFITS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_sum_of_kinds_is_weighted_term_by_term() -> None:
    with pytest.raises(TypeError, match=r"`Weighted\(Sum, weights\)`.*`Weighted\(a, u\) \+ 2 \* Weighted\(b, v\)`"):
        Weighted(L1() + Group(L1()), 1.0)
    a, b, u, v = L1(0.4), Group(L1(0.25), axis=0), W, V
    names = {"Weighted": Weighted, "a": a, "b": b, "u": u, "v": v}
    assert float(eval("Weighted(a, u) + 2 * Weighted(b, v)", names)(X)) == pytest.approx(sparse_group(X, W, V))
    with pytest.raises(TypeError, match=r"`Weighted\(Stacked, weights\)`.*go around it, `Stacked\(Weighted\(a, u\)\)`"):
        Weighted(jaxreg.Stacked(a), u)


def test_a_schedule_of_weights_is_a_function_of_the_step() -> None:
    with pytest.raises(TypeError, match=r"give `(lambda step: .*?)` to") as error:
        Weighted(L1(0.5), optax.constant_schedule(2.0))
    advice = re.search(r"give `(lambda step: .*?)` to", str(error.value))
    assert advice is not None
    names = {"Weighted": Weighted, "penalty": L1(0.5), "schedule": lambda step: jnp.array([0.0, 1.0, 2.0])}
    tx = jaxreg.add_regularization(eval(advice[1], names))
    x = jnp.array([1.0, -1.0, 1.0])
    np.testing.assert_allclose(tx.update(jnp.zeros(3), tx.init(x), x)[0], [0, -0.5, 1])


def test_an_anchor_has_weights_for_groups_by_its_penalty() -> None:
    with pytest.raises(TypeError, match=r"groups have weights by `jaxreg.Anchored\(jaxreg.Weighted\(group, weights\)"):
        jaxreg.Anchored(Group(L1(1.0), axis=0), 0.5, weights=V)
    reg = jaxreg.Anchored(Weighted(Group(L1(1.0), axis=0), V), 0.5)
    assert float(reg(X)) == pytest.approx((V * np.linalg.norm(X - 0.5, axis=0)).sum())


WEIGHTS = {
    "numbers": W,
    "float32": jnp.asarray(W, jnp.float32),
    "bfloat16": jnp.asarray(V, jnp.bfloat16),
    "integers": np.array([1, 0, 2, 3]),
    "infinite": np.array([0.1, np.inf, 0.0, 1e-300]),
    "one": 0.3,
    "one infinite": np.inf,
    "0-d": np.array(0.5),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_json(name: str) -> None:
    reg = Weighted(Group(L1(0.1), axis=0), WEIGHTS[name]) + 2 * Weighted(MCP(), WEIGHTS[name])
    text = json.dumps(jaxreg.serialize(reg), allow_nan=False)
    assert jaxreg.deserialize(json.loads(text)) == reg


@pytest.mark.parametrize("weights", [[[1, 2], [3]], ["a"], [None], "a", None, [True, "inf"], [1.0, -1.0]], ids=str)
def test_json_that_is_no_weights(weights: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"Weighted.*weights.*must be"):
        Weighted.from_config({"penalty": jaxreg.serialize(L1()), "weights": weights})


def test_a_numpy_array_is_copied() -> None:
    weights = np.ones(4)
    reg = Weighted(L1(1.0), weights)
    weights[:] = 9
    assert float(reg(np.ones(4))) == 4


def test_stacked_regularizers_and_layers() -> None:
    regs = jax.vmap(lambda w: Weighted(L1(1.0), w))(jnp.stack([W, 2 * W]))
    np.testing.assert_allclose(jax.vmap(lambda reg: reg(X))(regs), [(W * abs(X)).sum() * n for n in (1, 2)])
    stacked = jaxreg.Stacked(Weighted(L1(0.4), W), axes=1)
    x = np.stack([X, 2 * X], axis=1)
    expected = np.stack([soft(z, 0.4 * W * 0.5) for z in (X, 2 * X)], axis=1)
    np.testing.assert_allclose((stacked + L2(0.25)).prox(x, 0.5), expected / 1.25, atol=1e-12)


def test_the_top_of_a_path() -> None:
    """There the soft threshold of the gradient is 0, and just below it is not."""
    for reg, of in (
        (Weighted(L1(), W), np.abs(X) / W),
        (Weighted(Group(L1(), axis=0), V + 1), np.linalg.norm(X, axis=0) / (V + 1)),
    ):
        np.testing.assert_allclose(jaxreg.coefficient_max(reg, X), of.max(), rtol=1e-12)
    assert jaxreg.coefficient_max(Weighted(L1(), np.array([np.inf, 2.0])), np.array([9.0, 3.0])) == 1.5
