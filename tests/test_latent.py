"""`proximal(latent=True)` and `proximal(every=n)`: iterates in NumPy, points of rest on paper, what runs in between."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from tests.training import trained

A, C = np.array([2.0, -1.0, 0.3, -0.2]), np.array([1.0, 2.0, 1.0, 0.5])  # loss ½ Σ c_i·(w_i − a_i)²


def soft(z: np.ndarray, t: Any) -> np.ndarray:
    return np.sign(z) * np.maximum(np.abs(z) - t, 0)


def run(tx: Any, w: Any, steps: int, slope: Any = lambda w: C * (w - A)) -> tuple[Any, Any]:
    return trained(tx, slope, w, steps)


def test_straight_through_a_set() -> None:
    """The larger two of four, momentum and decay in NumPy: what was removed returns, and else does not."""
    z, m, w, rate = np.array([1.0, 0.1, 0.8, 0.7]), np.zeros(4), np.array([1.0, 0.1, 0.8, 0.7]), 0.05
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(rate, 0.5))
    tx, without = (
        jaxreg.proximal(inner, jaxreg.TopK(2), rate, momentum=0.5, latent=latent) for latent in (True, False)
    )
    supports, expected = [], []
    for _ in range(150):
        m = C * (w - A) + 0.1 * z + 0.5 * m
        z = z - rate * m
        w = np.where(np.abs(z) >= np.sort(np.abs(z))[-2], z, 0)
        supports.append(tuple(np.flatnonzero(w)))
        expected.append(w)
    assert supports[0] == (0, 2) and supports[-1] == (0, 1)  # the best two
    for steps in (1, 5, 150):
        np.testing.assert_allclose(run(tx, jnp.float32([1.0, 0.1, 0.8, 0.7]), steps)[0], expected[steps - 1], rtol=1e-4)
    assert np.flatnonzero(run(without, jnp.float32([1.0, 0.1, 0.8, 0.7]), 150)[0]).tolist() == [0, 2]


RATE = optax.exponential_decay(0.1, 100, 0.7)
OPTIMIZERS = {
    "sgd": lambda reg, **options: jaxreg.proximal(optax.sgd(RATE), reg, RATE, **options),
    "momentum": lambda reg, **options: jaxreg.proximal(optax.sgd(RATE, 0.5), reg, RATE, momentum=0.5, **options),
    "proximal_adam": lambda reg, **options: jaxreg.proximal_adam(RATE, reg, b2=0.99, **options),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_latent_point_rests_at_the_minima_of_loss_and_penalty(name: str) -> None:
    w, state = run(OPTIMIZERS[name](jaxreg.L1(0.4), latent=True), jnp.ones(4), 1200)
    expected = soft(A, 0.4 / C)
    np.testing.assert_allclose(w, expected, atol=2e-4)
    np.testing.assert_array_equal(w == 0, expected == 0)
    assert np.all(np.abs(state.latent) > 1)  # far from the parameters: they are its image


def test_groups_rest_there_too() -> None:
    """In Adam's metric: ½‖w − a‖² + λ‖w‖ has its minimum at a·(1 − λ/‖a‖)."""
    a = np.array([[3.0, 0.1], [4.0, -0.2]])
    tx = OPTIMIZERS["proximal_adam"](jaxreg.Group(jaxreg.L1(1.0)), latent=True)
    w, _ = run(tx, jnp.ones((2, 2)), 1200, lambda w: w - a)
    np.testing.assert_allclose(w, [[2.4, 0], [3.2, 0]], atol=2e-3)


@pytest.mark.parametrize("every", [2, 5])
def test_every_nth_step_on_paper(every: int) -> None:
    """n steps contract w − a by q = (1 − η·c)ⁿ, then the threshold is n·η·λ: w* = a ∓ n·η·λ/(1 − q)."""
    rate, l1 = 0.1, 0.4
    tx = jaxreg.proximal(optax.sgd(rate), jaxreg.L1(l1), rate, every=every)
    w, state = run(tx, jnp.ones(4), every * 60)
    bias = every * rate * l1 / (1 - (1 - rate * C) ** every)
    np.testing.assert_allclose(w, soft(A, bias), atol=1e-5)
    assert np.all(np.abs(bias - l1 / C) < every * rate * l1) and state.total == 0
    between, _ = run(tx, jnp.ones(4), every * 60 + 1)
    np.testing.assert_allclose(between, soft(A, bias) - rate * C * (soft(A, bias) - A), atol=1e-5)


def test_every_third_step_of_adam_is_that_of_the_formula() -> None:
    """Three plain steps of Adam, and the threshold of their three learning rates in the metric of the last."""
    rng, w, m, v, total = np.random.default_rng(0), np.ones(5), np.zeros(5), np.zeros(5), 0.0
    with jax.enable_x64(True):
        tx = jaxreg.proximal_adam(lambda step: 0.1 / (1 + step), jaxreg.L1(0.3), max_step=np.inf, every=3)
        params, update = jnp.ones(5), jax.jit(tx.update)
        state = tx.init(params)
        for t in range(1, 8):
            g = rng.normal(size=5)
            updates, state = update(jnp.asarray(g), state, params)
            params = optax.apply_updates(params, updates)
            m, v, total = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2, total + 0.1 / t
            d = np.sqrt(v / (1 - 0.999**t)) + 1e-8
            w = w - 0.1 / t * m / (1 - 0.9**t) / d
            if t % 3 == 0:
                w, total = soft(w, total * 0.3 / d), 0.0
            np.testing.assert_allclose(params, w, rtol=1e-9)
        assert update._cache_size() == 1 and state.total.dtype == jnp.float64


@pytest.mark.parametrize("moments", ["entry", "group"])
def test_groups_every_second_step(moments: str) -> None:
    """O(nη) from a·(1 − λ/‖a‖), with groups that are 0."""
    a = np.array([[3.0, 0.1], [4.0, -0.2]])
    tx = OPTIMIZERS["proximal_adam"](jaxreg.Group(jaxreg.L1(1.0)), moments=moments, every=2)
    w, _ = run(tx, jnp.ones((2, 2)), 1200, lambda w: w - a)
    np.testing.assert_allclose(w, [[2.4, 0], [3.2, 0]], atol=1e-2)
    assert not np.any(w[:, 1])


def test_in_between_the_operator_does_not_run() -> None:
    """Its loop is inside of a branch, and there is one program."""
    tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.TopK(2), 0.1, every=4)
    jaxpr = jax.make_jaxpr(tx.update)(jnp.ones(4), tx.init(jnp.ones(4)), jnp.ones(4))
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert "cond" in names and "scan" not in names and "scan" in str(jaxpr)


def test_with_a_latent_point_the_parameters_stand_still_in_between() -> None:
    tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.TopK(1), 0.1, latent=True, every=3)
    w, update = jnp.array([1.0, 0.5]), jax.jit(tx.update)
    state = tx.init(w)
    for expected in ([1.0, 0.5], [1.0, 0.5], [0.0, 0.8], [0.0, 0.8]):
        updates, state = update(jnp.array([1.0, -1.0]), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, expected, rtol=1e-6)
    np.testing.assert_allclose(state.latent, [0.6, 0.9], rtol=1e-6)


@pytest.mark.parametrize("options", [{"latent": True}, {"every": 2}], ids=str)
def test_half_precision_loses_nothing(options: Any) -> None:
    """Steps of a thousandth of an ulp: the float32 run, rounded."""
    ends = []
    for dtype in ("bfloat16", "float32"):
        tx = jaxreg.proximal(optax.sgd(1e-5), jaxreg.L1(1.0), 1e-5, **options)
        w, state = run(tx, jnp.ones(2, dtype), 2000, lambda w: jnp.asarray([-0.5, 0.5], w.dtype))
        ends.append(np.asarray(w, np.float32))
        kept = state.latent if "latent" in options else state.residual
        assert w.dtype == dtype and (kept is None or kept.dtype == jnp.float32)
    np.testing.assert_allclose(ends[0], ends[1], rtol=2**-8)
    np.testing.assert_allclose(ends[1], [0.99, 0.97], atol=2e-4)


@pytest.mark.parametrize("options", [{"latent": True}, {"every": 2}, {"latent": True, "every": 2}], ids=str)
def test_trees_checkpoints_and_donated_buffers(options: Any) -> None:
    """Frozen, masked and integer leaves; the state saved in the middle: the same bits."""
    rules = jaxreg.TreeRegularizer({"w": jaxreg.L1(0.5), "v": jaxreg.TopK(1), "b": None})
    params = {"w": jnp.array([1.0, -0.1]), "v": jnp.array([1.0, 2.0]), "b": jnp.ones(2), "n": jnp.int32(3), "x": None}
    grads = {"w": jnp.ones(2), "v": jnp.ones(2), "b": jnp.ones(2), "n": jnp.int32(0), "x": None}
    tx = jaxreg.proximal_adam(0.1, rules, **options)
    ends = []
    for saved in (False, True):
        w = jax.tree.map(jnp.copy, params)
        state, update = tx.init(w), jax.jit(tx.update, donate_argnums=(1,))
        for step in range(5):
            if saved and step == 3:
                w, state = pickle.loads(pickle.dumps(jax.device_get((w, state))))
            updates, state = update(grads, state, w)
            w = optax.apply_updates(w, updates)
        ends.append((w, state))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert ends[0][0]["x"] is None and ends[0][0]["n"] == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"latent": 1}, TypeError, r"`proximal_adam\(latent=...\)` takes True or False, got 1"),
        ({"every": 0}, ValueError, r"`proximal_adam\(every=...\)` takes an int from 1.*got 0"),
        ({"every": 2.0}, ValueError, "got 2.0"),
        ({"every": jnp.int32(2)}, ValueError, "name it in its `static_args`"),
        ({"latent": True, "moments": "group"}, NotImplementedError, 'Take `moments="entry"`'),
    ],
    ids=str,
)
def test_what_is_refused(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jaxreg.proximal_adam(0.1, jaxreg.L1(0.1), **options)


def test_injected_hyperparameters() -> None:
    """As the error says; and by default there is nothing to inject."""
    for options in ({"every": 2}, {}):
        make = optax.inject_hyperparams(jaxreg.proximal_adam, static_args=("reg", *options))
        tx = make(learning_rate=0.1, reg=jaxreg.L1(10.0), **options)
        w = jnp.full(2, 0.5)
        state = tx.init(w)
        for step in (1, 2):
            updates, state = tx.update(jnp.ones(2), state, w)
            w = optax.apply_updates(w, updates)
            assert np.any(w) == (step == 1) or not options


def test_the_leaves_with_a_latent_point_stay_the_same() -> None:
    def rules(step: Any) -> jaxreg.TreeRegularizer:
        return jaxreg.TreeRegularizer(
            {"a": jaxreg.L1(0.1), "b": None if isinstance(step, jax.core.Tracer) else jaxreg.L1(1.0)}
        )

    w = {"a": jnp.ones(2), "b": jnp.ones(3)}
    tx = jaxreg.proximal(optax.sgd(0.1), rules, 0.1, latent=True)
    with pytest.raises(
        ValueError, match=r"must keep the leaves that it had in `init`; a leaf of shape \(3,\) has none now"
    ):
        jax.jit(tx.update)(w, tx.init(w), w)
