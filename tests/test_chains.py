"""Sorted norms, monotone entries, total variation: skglm, scikit-learn, Condat's algorithm, brute force, on paper."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from skglm.utils import prox_funcs
from sklearn.isotonic import isotonic_regression

import jaxreg
from jaxreg import L1, L2, SLOPE, Difference, Monotone, Weighted
from jaxreg.penalties import _chain

pytestmark = pytest.mark.wide  # a long program for each length

Array = np.ndarray
RNG = np.random.default_rng(0)
WEIGHTS = np.array([2.0, 1.5, 1.5, 0.5, 0.25, 0.0])


@pytest.fixture
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@jax.jit
def prox(reg: jaxreg.Regularizer, z: jax.Array, step: Any = 1.0) -> jax.Array:
    return reg.prox(z, step)


@jax.jit
def value_and_gradients(reg: jaxreg.Regularizer, x: jax.Array) -> Any:
    return jax.value_and_grad(lambda reg, x: reg(x), (0, 1))(reg, x)


def condat(y: Array, lam: float) -> Array:
    """Total variation in one dimension: Condat, *A direct algorithm for 1D total variation denoising*, 2013."""
    n, x = len(y), np.empty(len(y))
    k = k0 = up = down = 0
    umin, umax, vmin, vmax = lam, -lam, y[0] - lam, y[0] + lam
    while True:
        while k == n - 1:
            if umin < 0:
                x[k0 : down + 1] = vmin
                k = down = k0 = down + 1
                vmin, umin = y[k], lam
                umax = vmin + umin - vmax
            elif umax > 0:
                x[k0 : up + 1] = vmax
                k = up = k0 = up + 1
                vmax, umax = y[k], -lam
                umin = vmax + umax - vmin
            else:
                x[k0:] = vmin + umin / (k - k0 + 1)
                return x
        umin += y[k + 1] - vmin
        umax += y[k + 1] - vmax
        if umin < -lam:
            x[k0 : down + 1] = vmin
            k = up = down = k0 = down + 1
            umin, umax, vmin, vmax = lam, -lam, y[k], y[k] + 2 * lam
        elif umax > lam:
            x[k0 : up + 1] = vmax
            k = up = down = k0 = up + 1
            umin, umax, vmin, vmax = lam, -lam, y[k] - 2 * lam, y[k]
        else:
            k += 1
            if umin >= lam:
                vmin, umin, down = vmin + (umin - lam) / (k - k0 + 1), lam, k
            if umax <= -lam:
                vmax, umax, up = vmax + (umax + lam) / (k - k0 + 1), -lam, k


def by_all_patterns(z: Array, step: Array, strengths: Array) -> Array:
    """The minimum among those of every pattern of rising, equal and falling neighbours, float64."""
    best, found = np.inf, z
    for pattern in itertools.product((-1, 0, 1), repeat=len(z) - 1):
        drawn = np.array([0, *(p * c for p, c in zip(pattern, strengths, strict=True)), 0])
        ends = [i for i in range(len(z) + 1) if i in (0, len(z)) or pattern[i - 1]]
        w = np.empty(len(z))
        for a, b in itertools.pairwise(ends):
            w[a:b] = ((z / step)[a:b].sum() - drawn[a] + drawn[b]) / (1 / step[a:b]).sum()
        value = ((w - z) ** 2 / step).sum() / 2 + strengths @ np.abs(np.diff(w))
        if value < best:
            best, found = value, w
    return found


# -------------------------------------------------------------------------------------------------- total variation


def of_a_chain(weights: Any) -> Any:
    return lambda w: cp.sum(cp.multiply(weights, cp.abs(cp.diff(w))))


EACH = np.linspace(0.1, 0.9, 11)
SUMS = {  # the sum, its cost without the first part of constraints, the constraints
    "fused lasso": (
        L1(0.2) + Difference(L1(0.5)),
        lambda w: 0.2 * cp.norm1(w) + of_a_chain(0.5)(w),
        lambda w: [],
    ),
    "all that merges": (
        jaxreg.NonNegative() + 2 * (Difference(Weighted(L1(0.5), EACH)) + jaxreg.L1L2(0.1, 0.2)),
        lambda w: 0.2 * cp.norm1(w) + 0.4 * cp.sum_squares(w) + of_a_chain(EACH)(w),
        lambda w: [w >= 0],
    ),
    "box": (jaxreg.Box(-0.4, 0.6) + Difference(L1(0.3)), of_a_chain(0.3), lambda w: [w >= -0.4, w <= 0.6]),
    "isotonic": (
        Monotone(increasing=False) + L1(0.3) + L2(0.1) + jaxreg.Box(-0.4, 0.6),
        lambda w: 0.3 * cp.norm1(w) + 0.1 * cp.sum_squares(w),
        lambda w: [cp.diff(w) <= 0, w >= -0.4, w <= 0.6],
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_penalty_of_all_entries_comes_after_the_chain(double: None, name: str) -> None:
    """Against Clarabel."""
    reg, cost, within = SUMS[name]
    z = np.array([0.9, 1.1, -0.1, 0.0, 0.1, -0.2, -1.3, -0.9, 0.4, 1.5, 1.6, 0.2])
    w = cp.Variable(12)
    cp.Problem(cp.Minimize(cost(w) + cp.sum_squares(w - z) / 1.4), within(w)).solve(
        cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
    )
    ours = prox(reg, z, 0.7)
    np.testing.assert_allclose(ours, w.value, atol=1e-6)
    assert (np.diff(ours) == 0).any() and not (np.diff(ours) == 0).all()


@pytest.mark.parametrize(
    "reg",
    [
        Weighted(L1(0.2), jnp.linspace(0, 1, 3)) + Difference(L1(0.5)),
        jaxreg.Box(jnp.zeros(3), 1.0) + Monotone(),
        L1(0.2) + jaxreg.Anchored(Difference(L1(0.5)), jnp.ones(3)),
        L1(0.2) + Difference(L1(0.5), order=2),
        L1(0.2) + Difference(L1(0.5)) + Monotone(),
    ],
    ids=["weights", "bounds", "anchor", "order", "two chains"],
)
def test_what_differs_from_entry_to_entry_cannot_come_after_the_chain(reg: jaxreg.Regularizer) -> None:
    with pytest.raises(NotImplementedError, match=r"prox` has no exact form"):
        reg.prox(jnp.ones(3))


def test_steps_that_differ_cannot_either() -> None:
    reg = L1(0.2) + Difference(L1(0.5))
    with pytest.raises(NotImplementedError, match=r"\(L1 \+ Difference\)\.prox` has no exact form"):
        reg.prox(jnp.ones(3), jnp.ones(3))


LONG = {
    "noise": RNG.normal(size=1000),
    "random walk": np.cumsum(RNG.normal(size=1000)),
    "ramp": np.linspace(0, 1, 1000),
    "steps": np.repeat(RNG.normal(size=10), 100) + 0.1 * RNG.normal(size=1000),
    "growth": 1.005 ** np.arange(1000),
}


@pytest.mark.parametrize("name", LONG)
def test_long_chains_have_all_digits_of_float32(name: str) -> None:
    z = np.float32(LONG[name])
    scale = float(np.abs(z).max())
    for lam in np.float32([1e-3, 0.3, 20.0]):
        w = np.asarray(prox(Difference(L1(1.0)), z, lam), float)
        np.testing.assert_allclose(w, condat(z.astype(float), float(lam)), rtol=0, atol=1e-7 * scale)
    np.testing.assert_allclose(prox(Monotone(), z), isotonic_regression(z.astype(float)), rtol=0, atol=1e-7 * scale)


@pytest.mark.usefixtures("double")
def test_total_variation_over_other_axes_with_weights_and_a_metric() -> None:
    z, step = RNG.normal(size=(2, 5, 2)), RNG.uniform(0.2, 3, (2, 5, 2))
    weights = np.array([0.2, 0.0, 1.0, 0.5])
    regs = Difference(2 * L1(0.3), axis=1), Difference(Weighted(L1(0.6), weights[:, None]), axis=1)
    for reg, strengths in zip(regs, (np.full(4, 0.6), 0.6 * weights), strict=True):
        w = prox(reg, z, step)
        scalar = prox(reg, z, 0.7)
        for i, j in itertools.product(range(2), range(2)):
            np.testing.assert_allclose(w[i, :, j], by_all_patterns(z[i, :, j], step[i, :, j], strengths), atol=1e-12)
            expected = by_all_patterns(z[i, :, j], np.full(5, 0.7), strengths)
            np.testing.assert_allclose(scalar[i, :, j], expected, atol=1e-12)


def test_steps_of_very_different_sizes() -> None:
    """Each beside the others: what hardly moves holds its neighbours, with an error below the digits of z."""
    rng = np.random.default_rng(1)
    for k in range(20):
        z = np.float32(rng.normal(size=5))
        step = np.float32(10.0 ** rng.uniform(-8, 8, size=5))
        step[k % 5] *= np.float32(k % 3 > 0)  # 0 now and then
        strength = np.float32(1 / np.median(step))
        expected = by_all_patterns(z.astype(float), np.maximum(step, 1e-25).astype(float), np.full(4, float(strength)))
        np.testing.assert_allclose(prox(Difference(L1(strength)), z, step), expected, atol=5e-7)


@pytest.mark.parametrize(("name", "most"), [("noise", 8), ("random walk", 11), ("ramp", 12), ("growth", 14)])
def test_few_rounds_cut_a_chain(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand entries, log₂ of which is 10; total variation in the loop that stands in the program."""
    rounds, whole = [], jax.lax.while_loop

    def counted(goes_on: Any, cut: Any, state: Any) -> Any:
        if len(state) != 4:
            return whole(goes_on, cut, state)
        cut = jax.jit(cut)
        while goes_on(state):
            rounds.append(state := cut(state))
        return state

    monkeypatch.setattr(jax.lax, "while_loop", counted)
    _chain.along_a_chain(jnp.float32(LONG[name]), jnp.ones(()), 0.3, 0.3, 0)
    assert 3 < len(rounds) <= most


@pytest.mark.usefixtures("double")
def test_derivatives_are_those_of_the_blocks() -> None:
    """In z, the steps and the strength, by central differences; in the strength at 0 too, from paper."""
    z, step = jnp.asarray(RNG.normal(size=6)), jnp.asarray(RNG.uniform(0.5, 2, 6))

    @jax.jit
    def moved(z: jax.Array, step: jax.Array, c: Any) -> Any:
        def cubes(z: jax.Array, step: jax.Array, c: Any) -> jax.Array:
            return jnp.sum(Difference(L1(c)).prox(z, step) ** 3 + Monotone().prox(z, step) ** 3)

        return jax.value_and_grad(cubes, (0, 1, 2))(z, step, c)

    def difference(*h: Any) -> Array:
        (plus, _), (minus, _) = (moved(z + s * h[0], step + s * h[1], 0.2 + s * h[2]) for s in (1, -1))
        return (plus - minus) / 2e-6

    _, (of_z, of_step, of_c) = moved(z, step, 0.2)
    units = 1e-6 * np.eye(6)
    np.testing.assert_allclose(of_z, [difference(unit, 0, 0) for unit in units], atol=1e-7)
    np.testing.assert_allclose(of_step, [difference(0, unit, 0) for unit in units], atol=1e-7)
    np.testing.assert_allclose(of_c, difference(0, 0, 1e-6), atol=1e-7)
    at_zero = jax.jacobian(lambda c: Difference(L1(c)).prox(jnp.array([0.0, 2.0, 1.0, 5.0])))(0.0)
    np.testing.assert_allclose(at_zero, [1, -2, 2, -1])


def test_what_total_variation_cannot_do_says_inner_steps() -> None:
    z = jnp.ones(3)
    for reg, at in (
        (Difference(L1(), order=2), z),
        (Difference(jaxreg.Huber()), z),
        (Difference(L1() + L2()), z),
        (Difference(L1()), z + 1j),
    ):
        with pytest.raises(NotImplementedError, match=r"Difference\(\w+, order=\d\)\.prox.*inner_steps=10") as error:
            reg.prox(at)
        call = re.search(r"`(jaxreg\.proximal\(.*?\))`", str(error.value))
        assert call is not None
        names = {"jaxreg": jaxreg, "optimizer": optax.sgd(0.1), "reg": reg, "learning_rate": 0.1}
        tx = eval(call[1], names)
        assert jax.eval_shape(tx.update, at, tx.init(at), at)[0].shape == (3,)


def test_special_entries_and_lengths() -> None:
    tv = Difference(L1(0.5))
    for shape in ((0,), (1,), (0, 3), (3, 0), (2, 1)):
        np.testing.assert_array_equal(tv.prox(jnp.ones(shape)), np.ones(shape))
    z = np.float32([[1, 3, 2, np.nan], [1, 2, 3, np.inf], [3e38, -3e38, 0, 1e-38], [1e-40, 0, 0, 0]])
    w = np.asarray(prox(Monotone(), z))
    assert np.isnan(w[0]).all() and (w[1] == z[1]).all() and np.isfinite(w[2:]).all()
    np.testing.assert_allclose(w[2], [0, 0, 0, 1e-38], atol=np.finfo(np.float32).eps * 3e38)  # a block of ±3e38
    np.testing.assert_allclose(prox(tv, z[2:], jnp.inf), np.zeros((2, 4)), atol=1e-37)
    np.testing.assert_array_equal(prox(tv, np.float32([3, 1, 2]), 0.0), [3, 1, 2])
    with pytest.raises(TypeError, match="`Monotone` takes real numbers"):
        Monotone().prox(jnp.ones(2, complex))
    with pytest.raises(TypeError, match=r"`Monotone\(axis=\.\.\.\)` must be an int"):
        Monotone(**{"axis": (0,)})


# ------------------------------------------------------------------------------------------------------------ SLOPE


@pytest.mark.usefixtures("double")
def test_slope_as_skglm_has_it() -> None:
    for seed in range(5):
        z = np.random.default_rng(seed).normal(size=6, scale=3.0)
        for step in (0.1, 1.0, 3.0):
            order = np.argsort(-np.abs(z))  # theirs takes moduli that fall
            expected = np.empty(6)
            expected[order] = np.sign(z[order]) * prox_funcs.prox_SLOPE(np.abs(z)[order], step * WEIGHTS)
            np.testing.assert_allclose(prox(SLOPE(WEIGHTS), z, step), expected, atol=1e-14)
    np.testing.assert_array_equal(prox(SLOPE(WEIGHTS), z, np.inf), np.zeros(6))


@pytest.mark.usefixtures("double")
def test_the_subgradient_at_ties_and_zeros_is_the_one_of_least_norm() -> None:
    """The mean over all orders that sort |x|, each of which gives a subgradient; 0 at zeros."""
    x = np.array([[2.0, -3.0, 2.0], [0.0, -2.0, 0.0]])
    value, (of_weights, found) = value_and_gradients(SLOPE(WEIGHTS), x)
    assert value == 3 * 2 + 2 * (1.5 + 1.5 + 0.5)
    orders = [o for o in itertools.permutations(range(6)) if (np.diff(np.abs(x.ravel())[list(o)]) <= 0).all()]
    mean = np.mean([np.eye(6)[list(o)].T @ WEIGHTS for o in orders], axis=0)
    np.testing.assert_allclose(found.ravel(), mean * np.sign(x.ravel()), rtol=1e-12)
    np.testing.assert_array_equal(of_weights.weights, [3, 2, 2, 2, 0, 0])


def test_complex_entries_count_by_their_modulus_and_half_precision_comes_back() -> None:
    z = np.array([3 + 4j, 1j, -2.0])
    weights = np.array([1.0, 0.5, 0.5])
    np.testing.assert_allclose(SLOPE(weights)(z), 5 + 1 + 0.5, rtol=1e-6)
    np.testing.assert_allclose(prox(SLOPE(weights), z), [(3 + 4j) * 0.8, 0.5j, -1.5], rtol=1e-6)
    for dtype in (jnp.bfloat16, jnp.float16):
        for reg in (SLOPE(weights), Difference(L1()), Monotone()):
            assert jax.eval_shape(reg.prox, jax.ShapeDtypeStruct((3,), dtype)).dtype == dtype


def test_the_usual_weights_and_json() -> None:
    x = RNG.normal(size=5)
    pairs = sum(max(abs(a), abs(b)) for a, b in itertools.combinations(x, 2))
    np.testing.assert_allclose(SLOPE.oscar(0.3, 0.1, 5)(x), 0.3 * np.abs(x).sum() + 0.1 * pairs, rtol=1e-6)
    scipy_stats = pytest.importorskip("scipy.stats")
    bh = SLOPE.bh(2.0, 0.1, 5)
    np.testing.assert_allclose(bh.weights, 2 * scipy_stats.norm.isf(np.arange(1, 6) * 0.1 / 10), rtol=1e-12)
    for reg in (bh, SLOPE(0.3), SLOPE(jnp.float32([2.0, 0.1])), Monotone(0, increasing=False)):
        assert jaxreg.deserialize(json.loads(json.dumps(jaxreg.serialize(reg)))) == reg
    with pytest.raises(TypeError, match="a number or a list of numbers"):
        SLOPE.from_config({"weights": [True, "a"]})


def test_weights_that_do_not_fit_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"non-increasing.*`(-np.sort\(-weights\))`"):
        SLOPE(np.array([0.5, 1.0]))
    SLOPE(-np.sort(-np.array([0.5, 1.0])))
    with pytest.raises(ValueError, match="non-negative"):
        SLOPE(np.array([0.5, -1.0]))
    with pytest.raises(ValueError, match=r"each of the 6 entries.*`jaxreg.SLOPE.bh\(l1, q, n=6\)`"):
        SLOPE(np.ones(5)).prox(jnp.ones((2, 3)))
    assert SLOPE.bh(0.1, 0.1, n=6).prox(jnp.ones((2, 3))).shape == (2, 3)
    for q, n in ((1.0, 3), (0.1, 0), (0.1, 2.0)):
        with pytest.raises(ValueError, match=r"SLOPE\.bh\((q|n)=\.\.\.\)"):
            SLOPE.bh(1.0, q, **{"n": n})
    with pytest.raises(NotImplementedError, match=r"SLOPE\(\.\.\.\)\.prox.*scalar step"):
        SLOPE(WEIGHTS).prox(jnp.ones(6), jnp.ones(6))


def test_the_top_of_a_path_is_where_the_prox_of_the_gradient_leaves_zero() -> None:
    g = np.float32([3.0, -1.0, 2.5, 0.5, 2.0, 0.1])
    top = float(jaxreg.coefficient_max(SLOPE(WEIGHTS), g))
    assert not np.asarray(prox(SLOPE(WEIGHTS), g, top * 1.0001)).any()
    assert np.asarray(prox(SLOPE(WEIGHTS), g, top * 0.9999)).any()
