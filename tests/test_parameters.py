"""What counts as a parameter: in Equinox, Flax and Haiku trees, complex and in half precision; sums of trees."""

import operator
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jaxreg

HALF = (jnp.float16, jnp.bfloat16)


class Network(eqx.Module):
    """A model with a `__call__`, a number that is a setting, and a regularizer that it holds."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    penalty: jaxreg.L2
    rates: tuple[float, ...] = (0.1, 0.2)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.linear(x), inference=True)


@pytest.fixture
def network() -> Network:
    return Network(eqx.nn.Linear(2, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.5), jaxreg.L2(1.0))


def test_settings_and_regularizers_in_an_equinox_model_are_no_parameters(network: Network) -> None:
    reg = jaxreg.TreeRegularizer({"**": jaxreg.L2(1.0)})
    assert set(reg.assignment(network)) == {"linear/weight", "linear/bias"}
    w, b = np.asarray(network.linear.weight, float), np.asarray(network.linear.bias, float)
    np.testing.assert_allclose(reg(network), (w**2).sum() + (b**2).sum(), rtol=1e-6)
    moved = reg.prox(network, 0.5)
    assert moved.dropout.p == 0.5 and moved.penalty == jaxreg.L2(1.0) and moved.rates == (0.1, 0.2)
    np.testing.assert_allclose(moved.linear.weight, w / 2, rtol=1e-6)
    assert set(jaxreg.sparsity(network)) == {"linear/weight", "linear/bias"}
    assert "not a parameter: dropout/p" in str(jaxreg.summary(reg, network))


def test_numbers_in_plain_containers_are_parameters_as_jax_grad_takes_them() -> None:
    reg = jaxreg.TreeRegularizer({"**": jaxreg.L2(1.0)})
    tree = {"w": 2.0, "v": [3.0, jnp.ones(2)]}
    assert float(reg(tree)) == 15.0
    assert jax.tree.map(float, jax.grad(reg)(tree)["v"][0]) == 6.0


@pytest.mark.parametrize(
    ("optimizer", "metric"),
    [
        (optax.adam(0.1), jaxreg.adam_metric()),
        (optax.amsgrad(0.1), jaxreg.amsgrad_metric()),
        (optax.rmsprop(0.1), jaxreg.rmsprop_metric()),
        (optax.adagrad(0.1), jaxreg.adagrad_metric()),
        (optax.sgd(0.1), lambda state, params: jax.tree.map(jnp.ones_like, params)),
        (optax.sgd(0.1), None),
    ],
)
def test_a_model_that_can_be_called_has_every_metric(network: Network, optimizer: Any, metric: Any) -> None:
    params = eqx.filter(network, eqx.is_inexact_array)
    tx = jaxreg.proximal(optimizer, jaxreg.L1(100.0), 0.1, metric, max_step=1.0)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert not np.asarray(eqx.apply_updates(network, updates).linear.weight).any()


def test_batch_statistics_are_no_parameters() -> None:
    reg = jaxreg.TreeRegularizer({"**": jaxreg.L2(1.0)})
    layer = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    for tree in (layer, nnx.state(layer)):
        assert set(reg.assignment(tree)) == {"bias", "scale"}
    variables = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), jnp.ones((4, 3)))
    assert set(reg.assignment(variables)) == {"params/bias", "params/scale"}


def test_variables_that_somebody_chose_by_their_type_are_parameters() -> None:
    class Mine(nnx.Variable):
        pass

    class Module(nnx.Module):
        def __init__(self) -> None:
            self.mine, self.weight = Mine(jnp.ones(2)), nnx.Param(jnp.ones(3))

    reg = jaxreg.TreeRegularizer({"**": jaxreg.L2(1.0)})
    assert set(reg.assignment(Module())) == {"weight"}
    assert set(reg.assignment(nnx.state(Module(), Mine))) == {"mine"}


# ------------------------------------------------------------------------------------------------------------- complex


def test_complex_decay_is_that_of_optax() -> None:
    z = jnp.array([1 + 1j, -2 + 0.5j, 0j])
    decay, ours = optax.add_decayed_weights(1.0), jaxreg.add_regularization(jaxreg.L2(0.5))
    expected, _ = decay.update(jnp.zeros_like(z), decay.init(z), z)
    updates, _ = ours.update(jnp.zeros_like(z), ours.init(z), z)
    np.testing.assert_allclose(updates, expected)


def test_coupled_descent_on_complex_parameters_reaches_the_minimum() -> None:
    """|z − c|² + |z|² has its minimum at c/2; the gradient of descent is the conjugate of `jax.grad`."""
    c = jnp.array([2 + 4j, -1 - 3j])
    tx = optax.chain(jaxreg.add_regularization(jaxreg.L2(1.0)), optax.sgd(0.1))
    z, state = jnp.zeros_like(c), tx.init(c)
    update = jax.jit(tx.update)
    for _ in range(200):
        grads = jnp.conj(jax.grad(lambda z: jnp.sum(jnp.abs(z - c) ** 2))(z))
        updates, state = update(grads, state, z)
        z = optax.apply_updates(z, updates)
    np.testing.assert_allclose(z, c / 2, rtol=1e-5)


def test_cautious_decay_of_complex_parameters_asks_for_the_real_inner_product() -> None:
    z, updates = jnp.array([1 + 1j, 1 + 1j]), jnp.array([1j, -1j])
    ours = jaxreg.add_regularization(jaxreg.L2(0.5), cautious=True)
    new, _ = ours.update(updates, ours.init(z), z)
    np.testing.assert_allclose(new, [1 + 2j, -1j])  # Re(conj(i)(1 + i)) = 1; Re(conj(−i)(1 + i)) = −1


def test_complex_lasso_by_the_proximal_step() -> None:
    """Σ|z − c|² + λΣ|z|: the modulus shrinks by λ/2."""
    c = jnp.array([3 + 4j, 0.1 - 0.1j])
    tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(2.0), 0.1)
    z, state = jnp.zeros_like(c), tx.init(c)
    for _ in range(100):
        updates, state = tx.update(2 * (z - c), state, z)
        z = optax.apply_updates(z, updates)
    np.testing.assert_allclose(z, [4 / 5 * (3 + 4j), 0], rtol=1e-5)


# ---------------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", [jnp.float32, *HALF])
def test_map_params_takes_the_state_whatever_the_dtype(dtype: Any) -> None:
    params = {"a": jnp.ones((2, 2), dtype), "b": jnp.ones(2)}
    tx = jaxreg.proximal_adam(1e-3, jaxreg.TreeRegularizer({"a": jaxreg.L1(1.0)}))
    state = tx.init(params)
    doubled = optax.tree.map_params(
        tx, lambda leaf, name: leaf if name == "b" else leaf + 1, state, {"a": "a", "b": "b"}
    )
    assert jax.tree.structure(doubled) == jax.tree.structure(state)
    assert float(doubled.inner[0].mu["a"][0, 0]) == 1.0 and float(doubled.inner[0].mu["b"][0]) == 0.0


SETS = (
    jaxreg.Box(lower=1e-6),
    jaxreg.Box(lower=1e-9),
    jaxreg.Box(upper=-1e-6),
    jaxreg.Box(0.1, 0.3),
    jaxreg.NonNegative(),
    jaxreg.MaxNorm(0.7, axis=1),
    jaxreg.L1Ball(0.7),
    jaxreg.Simplex(1.0),
    jaxreg.UnitNorm(axis=1),
    jaxreg.SpectralBall(0.7),
    jaxreg.Rank(1),
    jaxreg.TopK(2),
    jaxreg.NofM(1, 2),
    2 * jaxreg.Box(lower=1e-6),
    jaxreg.Stacked(jaxreg.Box(lower=1e-6), 0),
)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("constraint", SETS, ids=str)
def test_what_is_rounded_is_still_in_the_set(constraint: Any, dtype: Any) -> None:
    z = jnp.array([[0.5, -3.0, 1e-7], [2.0, 0.2999, 0.0]], dtype)
    assert float(constraint(constraint.prox(z))) == 0.0
    tx = jaxreg.proximal(optax.sgd(1.0), constraint, 1.0)
    params, state, update = z, tx.init(z), jax.jit(tx.update)
    for grads in (z - 1e-3, -z / 3, 0.1 * jnp.ones_like(z)):
        updates, state = update(grads.astype(dtype), state, params)
        params = optax.apply_updates(params, updates)
        assert params.dtype == dtype
    assert float(constraint(params)) == 0.0, params


# --------------------------------------------------------------------------------------------- coefficients and sums


@pytest.mark.parametrize(
    "reg",
    [
        jaxreg.L1(jnp.ones(3)),
        jaxreg.L1(jnp.ones(3)) + jaxreg.L2(0.0),
        2 * jaxreg.L1(jnp.ones(3)),
        jaxreg.Stacked(jaxreg.L1(jnp.ones(3)), 0),
        jaxreg.Anchored(jaxreg.L1(jnp.ones(3)), 0.0),
        jaxreg.Group(jaxreg.L1(jnp.ones(3)), axis=0),
        jaxreg.Spectral(jaxreg.L1(jnp.ones(3))),
        jaxreg.L2(0.5) + 2 * jaxreg.Group(jaxreg.MCP(0.5, jnp.ones(3)), axis=0),
    ],
    ids=str,
)
def test_a_coefficient_that_is_an_array_is_refused_however_deep_it_is(reg: jaxreg.Regularizer) -> None:
    for call in (reg, reg.prox):
        with pytest.raises(
            ValueError, match=r"coefficient `\w+` of shape \(3,\).*jaxreg\.Weighted\(penalty, weights\).*vmap"
        ):
            call(jnp.ones((2, 3)))


def test_the_ways_out_of_an_array_of_coefficients() -> None:
    x, weights = jnp.array([[1.0, -2.0], [3.0, 4.0]]), jnp.array([[0.5, 1.0], [0.0, 2.0]])
    reg = jaxreg.Weighted(jaxreg.L1(1.0), weights)
    assert float(reg(x)) == 0.5 + 2.0 + 8.0
    np.testing.assert_allclose(reg.prox(x), [[0.5, -1.0], [3.0, 2.0]])
    np.testing.assert_allclose(jax.vmap(lambda reg: reg(x))(jaxreg.L1(jnp.array([0.5, 1.0, 2.0]))), [5, 10, 20])


def test_trees_of_penalties_add_up() -> None:
    params = {"kernel": jnp.array([[3.0, -4.0]]), "bias": jnp.array([2.0]), "free": jnp.ones(3)}
    decay = jaxreg.TreeRegularizer({"free": None, "**": jaxreg.L2(0.5)})
    sparse = jaxreg.TreeRegularizer({"kernel": jaxreg.L1(0.1)})
    both = decay + 2 * sparse
    assert float(both(params)) == pytest.approx(0.5 * 29 + 2 * 0.1 * 7)
    assert both.assignment(params)["kernel"] == jaxreg.L2(0.5) + 2 * jaxreg.L1(0.1)
    assert set(both.breakdown(params)) == {"kernel", "bias"}
    moved = both.prox(params)  # soft threshold by 0.2, then halved
    np.testing.assert_allclose(moved["kernel"], [[1.4, -1.9]], rtol=1e-6)
    np.testing.assert_allclose(moved["bias"], [1.0])
    assert moved["free"] is params["free"]
    assert sum([decay, sparse]) == decay + sparse and (decay + sparse + decay).terms == (decay, sparse, decay)
    assert float((2 * both)(params)) == pytest.approx(2 * float(both(params)))
    assert jaxreg.TreeSum.from_config(both.get_config()) == both
    assert jaxreg.deserialize(jaxreg.serialize(both)) == both
    assert jaxreg.summary(both, params).penalty == pytest.approx(float(both(params)))
    tx = jaxreg.proximal(optax.sgd(1.0), both, 1.0)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(params["kernel"] + updates["kernel"], [[1.4, -1.9]], rtol=1e-6)


def test_a_pattern_that_matches_nothing_raises_in_a_sum_too() -> None:
    both = jaxreg.TreeRegularizer({"kernel": jaxreg.L1(0.1)}) + jaxreg.TreeRegularizer({"kernle": jaxreg.L2(0.1)})
    with pytest.raises(ValueError, match="kernle"):
        both({"kernel": jnp.ones(2)})


def test_only_trees_add_to_trees() -> None:
    with pytest.raises(TypeError):
        operator.add(jaxreg.TreeRegularizer({"**": jaxreg.L1(0.1)}), jaxreg.L1(0.1))


def test_a_learning_rate_that_optax_holds_as_a_complex_number_is_read() -> None:
    w = jnp.array([3.0 + 4.0j, 0.03j])
    tx = jaxreg.proximal(optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), jaxreg.L1(1.0))
    updates, _ = tx.update(jnp.zeros_like(w), tx.init(w), w)
    np.testing.assert_allclose(w + updates, [(3 + 4j) * (1 - 0.1 / 5), 0], rtol=1e-6)  # the modulus shrinks by 0.1


FACTORIES: dict[str, Callable[[Any], Any]] = {
    "learning rate": lambda rate: jaxreg.proximal(optax.sgd(rate), jaxreg.L1(0.3), rate),
    "schedule": lambda rate: jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(0.3), lambda count: rate),
    "coefficient": lambda rate: jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(3 * rate), 0.1),
    "factor": lambda rate: jaxreg.proximal(optax.sgd(0.1), rate * jaxreg.L1(3.0), 0.1),
    "weight": lambda rate: jaxreg.proximal(optax.sgd(0.1), jaxreg.Weighted(jaxreg.L1(3.0), rate), 0.1),
    "max_step": lambda rate: jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(0.3), 0.1, max_step=rate),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", FACTORIES)
def test_what_optax_injects_as_a_complex_number_raises_and_the_way_out_runs(name: str, compiled: bool) -> None:
    def factory(rate: Any) -> Any:
        return FACTORIES[name](rate)

    def moved(make: Any) -> Any:
        def run(w: jax.Array) -> jax.Array:
            tx = make(rate=0.1)
            return w + tx.update(jnp.zeros_like(w), tx.init(w), w)[0]

        return (jax.jit(run) if compiled else run)(jnp.array([3.0 + 4.0j, 0.03j]))

    with pytest.raises(TypeError, match=r"real.*, got an array of dtype complex64") as error:
        moved(optax.inject_hyperparams(factory))
    advice = re.search(r"write `(optax.*?)`", str(error.value))
    assert advice is not None
    shrunk = moved(eval(advice[1], {"optax": optax, "jnp": jnp, "factory": factory}))
    np.testing.assert_allclose(shrunk, [(3 + 4j) * (1 - 0.03 / 5), 0], rtol=1e-6)


def test_a_complex_reference_of_a_real_array_is_refused() -> None:
    reg = jaxreg.Anchored(jaxreg.L2(0.5), np.array([1 + 1j, 2.0]))
    x = jnp.array([3.0, 2.0])
    for call in (reg, reg.prox):
        with pytest.raises(
            TypeError, match=r"`Anchored\(reference=\.\.\.\)` is complex.* real dtype float32.*reference\.real"
        ):
            call(x)
    assert float(reg(x.astype(complex))) == 2.5  # ½(2² + 1²)
    assert float(jaxreg.Anchored(jaxreg.L2(0.5), reg.reference.real)(x)) == 2.0
