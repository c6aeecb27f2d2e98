"""The traps of Linen's collections and lifted transforms. A 3x3 kernel of ones with L2(0.1) has the penalty 0.9."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg.linen import Dense, LSTMCell, SimpleCell, regularizer, with_losses

ONES = nn.initializers.ones
X = jnp.ones((2, 3))
L2 = jaxreg.L2(0.1)


def dense(**kwargs):
    """Kernel 0.9; on ones((2, 3)) the output is 3s, so that L2(0.1) of it is 0.1 * 6 * 9 / 2 = 2.7."""
    defaults = {"kernel_init": ONES, "kernel_regularizer": L2, "activity_regularizer": L2}
    return Dense(3, use_bias=False, **(defaults | kwargs))


def numbers(tree):
    return jax.tree.map(lambda x: round(float(x), 4), tree)


def run(model, *args, variables=None, **kwargs):
    variables = model.init(jax.random.key(0), *args) if variables is None else variables
    return numbers(with_losses(model)(variables, *args, **kwargs)[1])


def plain(model, variables, *args):
    return model.apply(variables, *args, mutable=["losses"])[1].get("losses", {})


class Repeat(nn.Module):
    times: int = 2

    @nn.compact
    def __call__(self, x):
        layer = dense(name="layer")
        return jnp.concatenate([layer(x) for _ in range(self.times)], axis=-1)


def test_init_leaves_no_losses_behind():
    for model, twin in [(dense(), nn.Dense(3, use_bias=False)), (Repeat(), Repeat())]:
        variables = model.init(jax.random.key(0), X)
        assert set(variables) == {"params"}
        assert jax.tree.structure(variables) == jax.tree.structure(twin.init(jax.random.key(0), X))


@pytest.mark.parametrize("model", [dense(), Repeat(1), nn.remat(Repeat)(1), nn.jit(Repeat)(1)])
def test_nothing_accumulates_over_steps_that_feed_the_collection_back(model):
    variables = dict(model.init(jax.random.key(0), X))
    expected = [0.9, 2.7]
    for _ in range(4):
        losses = plain(model, variables, X)
        assert sorted(numbers(jax.tree.leaves(losses))) == expected
        assert sorted(run(model, X, variables=variables).values()) == expected
        variables["losses"] = losses


def test_feeding_back_keeps_both_calls_of_a_shared_module():
    model = Repeat(2)
    variables = dict(model.init(jax.random.key(0), X))
    for _ in range(3):
        variables["losses"] = plain(model, variables, X)
        assert numbers(variables["losses"]) == {"layer": {"kernel": 0.9, "activity": 5.4}}


def test_a_module_called_twice_has_one_weight_penalty_and_two_of_activity():
    assert run(Repeat(2), X) == {"layer/kernel": 0.9, "layer/activity": 5.4}


def test_a_module_shared_by_two_heads():
    class Head(nn.Module):
        trunk: nn.Module

        def __call__(self, x):
            return self.trunk(x)

    class Two(nn.Module):
        def setup(self):
            self.trunk = dense()
            self.a, self.b = Head(self.trunk), Head(self.trunk)

        def __call__(self, x):
            return self.a(x) + self.b(2 * x)

    assert run(Two(), X) == {"trunk/kernel": 0.9, "trunk/activity": 13.5}


def test_bind_twice():
    model = dense()
    variables = model.init(jax.random.key(0), X)
    for _ in range(2):
        bound = model.bind(variables, mutable=["losses"])
        bound(X)
        bound(X)
        assert numbers(bound.variables["losses"]) == {"kernel": 0.9, "activity": 5.4}


@pytest.mark.parametrize("lift", [nn.remat, nn.jit, lambda cls: nn.jit(nn.remat(cls))])
def test_remat_and_jit_count_once_and_keep_the_gradient(lift):
    model, twin = lift(Repeat)(1), Repeat(1)
    variables = model.init(jax.random.key(0), X)

    def loss(model, variables):
        y, losses = with_losses(model)(variables, X)
        return jnp.sum(y) + sum(losses.values())

    assert run(model, X) == run(twin, X) == {"layer/kernel": 0.9, "layer/activity": 2.7}
    wanted = jax.grad(lambda v: loss(twin, v))(variables)
    jax.tree.map(np.testing.assert_allclose, jax.grad(lambda v: loss(model, v))(variables), wanted)


def test_nn_jit_runs_equal_modules_from_one_trace_and_none_is_lost():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = nn.jit(Repeat)
            for _ in range(3):
                x = block(1)(x) / 3
            return x

    model = Model()
    for _ in range(3):  # the second call finds everything in the cache of nn.jit
        found = run(model, X)
        assert found == {
            f"JitRepeat_{i}/layer/{name}": v for i in range(3) for name, v in {"kernel": 0.9, "activity": 2.7}.items()
        }
    variables = model.init(jax.random.key(0), X)
    assert set(regularizer(model, variables, X).assignment(variables["params"])) == {
        f"JitRepeat_{i}/layer/kernel" for i in range(3)
    }


def test_vmap_without_losses_keeps_weights_and_refuses_to_drop_activities():
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "in_axes": None, "axis_size": 4}
    ensemble = nn.vmap(Dense, **axes)
    assert run(ensemble(3, use_bias=False, kernel_init=ONES, kernel_regularizer=L2), X) == {"kernel": 3.6}
    with pytest.raises(ValueError, match=r"variable_axes=.*'losses': 0"):
        run(ensemble(3, activity_regularizer=L2), X)
    axes["variable_axes"] = {"params": 0, "losses": 0}
    model = nn.vmap(Dense, **axes)(3, use_bias=False, kernel_init=ONES, kernel_regularizer=L2, activity_regularizer=L2)
    assert run(model, X) == {"kernel": 3.6, "activity": 10.8}


@pytest.mark.parametrize("axis", [0, None])
def test_vmap_over_a_batch_counts_shared_weights_once(axis):
    lifted = nn.vmap(Dense, variable_axes={"params": None, "losses": 0}, split_rngs={"params": False})
    model = lifted(
        3, use_bias=False, kernel_init=ONES, kernel_regularizer=L2, activity_regularizer=L2 if axis == 0 else None
    )
    # each row by itself: 0.1 * 3 * 9 / 3
    assert run(model, X) == {"kernel": 0.9} | ({"activity": 1.8} if axis == 0 else {})


def scanned(variable_axes, **kwargs):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return dense(**kwargs)(x) / 3, None

    split = {"params": variable_axes.get("params") is not None}
    broadcast = False if split["params"] else "params"
    axes = {name: axis for name, axis in variable_axes.items() if axis is not None}
    return nn.scan(Layer, variable_axes=axes, variable_broadcast=broadcast, split_rngs=split, length=4)()


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_scan_over_layers(axis):
    kernel = {"Dense_0/kernel": 3.6}
    assert run(scanned({"params": axis}, activity_regularizer=None), X, None) == kernel
    assert run(scanned({"params": axis, "losses": 0}), X, None) == kernel | {"Dense_0/activity": 10.8}
    with pytest.raises(ValueError, match="Dense_0 would be lost"):
        run(scanned({"params": axis}), X, None)


def test_scan_with_tied_parameters_counts_them_once():
    assert run(scanned({"params": None, "losses": 0}), X, None) == {"Dense_0/kernel": 0.9, "Dense_0/activity": 10.8}


def test_scan_feeding_the_collection_back_into_plain_apply():
    model = scanned({"params": 0, "losses": 0})
    variables = dict(model.init(jax.random.key(0), X, None))
    for _ in range(3):
        variables["losses"] = plain(model, variables, X, None)
        np.testing.assert_allclose(variables["losses"]["Dense_0"]["kernel"], 0.9 * np.ones(4), rtol=1e-6)
        np.testing.assert_allclose(variables["losses"]["Dense_0"]["activity"], 2.7 * np.ones(4), rtol=1e-6)


def test_remat_scan():
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.remat_scan(Third, lengths=(2, 2))(name="stack")(x)

    assert run(Stack(), X) == {"stack/Dense_0/kernel": 3.6, "stack/Dense_0/activity": 10.8}


class Third(nn.Module):
    @nn.compact
    def __call__(self, x):
        return dense()(x) / 3


def test_rnn_counts_weights_once_and_activities_per_step():
    x = jnp.ones((2, 5, 3))
    cell = SimpleCell(3, kernel_init=ONES, kernel_regularizer=L2, recurrent_regularizer=jaxreg.L2(1.0))
    assert run(nn.RNN(cell), x) == {"cell/i/kernel": 0.9, "cell/h/kernel": 3.0}  # the recurrent kernel is orthogonal
    cell = LSTMCell(3, activity_regularizer=L2)
    with pytest.raises(ValueError, match=r"nn\.RNN"):
        run(nn.RNN(cell), x)
    model = nn.RNN(cell, variable_axes={"losses": 0})
    variables = model.init(jax.random.key(0), x)
    y, losses = with_losses(model)(variables, x)
    np.testing.assert_allclose(losses["cell/activity"], 0.1 * np.sum(np.square(y)) / 2, rtol=1e-5)


def test_cond_takes_weight_penalties_in_one_branch():
    class Model(nn.Module):
        branch: nn.Module

        @nn.compact
        def __call__(self, x, flag):
            if self.is_initializing():
                self.branch(x)
            return nn.cond(flag, lambda m, x: m.branch(x), lambda m, x: x, self, x)

    for flag in (True, False):
        assert run(Model(dense(activity_regularizer=None)), X, flag) == {"branch/kernel": 0.9}


def test_evaluation_computes_nothing():
    calls = []

    def count(x):
        calls.append(x.shape)
        return jnp.sum(x)

    model = dense(kernel_regularizer=count, activity_regularizer=count)
    variables = model.init(jax.random.key(0), X)
    model.apply(variables, X)
    assert calls == []


def test_partitioned_parameters_are_seen_through():
    model = dense(kernel_init=nn.with_partitioning(ONES, (None, None)))
    variables = model.init(jax.random.key(0), X)
    assert isinstance(variables["params"]["kernel"], nn.Partitioned)
    assert run(model, X, variables=variables) == {"kernel": 0.9, "activity": 2.7}
    assert numbers(plain(model, variables, X)) == {"kernel": 0.9, "activity": 2.7}
    assert list(regularizer(model, variables).assignment(variables["params"])) == ["kernel"]


def test_a_submodule_named_as_an_entry():
    class Outer(jaxreg.linen.Regularized, nn.Module):
        @nn.compact
        def __call__(self, x):
            return dense(name="activity")(x)

    assert run(Outer(), X) == {"activity/kernel": 0.9, "activity/activity": 2.7}
    with pytest.raises(ValueError, match="Rename the submodule"):
        run(Outer(activity_regularizer=L2), X)


def test_sharded_parameters_have_the_penalty_of_the_whole():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    model = Dense(3, kernel_init=ONES, kernel_regularizer=lambda k: jnp.sqrt(jnp.sum(k**2)), activity_regularizer=L2)
    x = jax.device_put(jnp.ones((8, 4)), sharding)
    variables = jax.device_put(
        model.init(jax.random.key(0), x), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )
    variables["params"]["kernel"] = jax.device_put(variables["params"]["kernel"], sharding)
    losses = numbers(jax.jit(with_losses(model))(variables, x)[1])
    assert losses == {"activity": 4.8, "kernel": round(12**0.5, 4)}
