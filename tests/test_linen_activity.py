"""with_losses(model, activity=rules): penalties of the outputs of modules that know nothing of jaxreg."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreg
from jaxreg.linen import Dense, GRUCell, with_losses

KEY = jax.random.key(0)
ONES = nn.initializers.ones
X = jnp.ones((2, 3))


def numbers(tree):
    return jax.tree.map(lambda x: round(float(x), 4), tree)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.Dense(3, kernel_init=ONES)(x)
        return nn.remat(nn.Dense)(1, kernel_init=ONES, name="head")(x)


def test_rules_for_modules_one_cannot_edit():
    variables = Plain().init(KEY, X)  # outputs 3, 9, 27
    rules = [("Dense_1", jaxreg.L2(1.0)), ("Dense_*", jaxreg.L1(1.0)), ("head", "l1"), ("", "l2")]
    _, losses = jax.jit(with_losses(Plain(), activity=rules))(variables, X)
    assert numbers(losses) == {
        "Dense_0/activity": 9.0,
        "Dense_1/activity": 243.0,
        "head/activity": 0.27,
        "activity": 7.29,
    }
    _, losses = with_losses(Plain(), activity={"*": None, "**": "l1"})(variables, X)
    assert numbers(losses) == {"activity": 0.27}
    with pytest.raises(ValueError, match=r"no module that ran matches the pattern 'Dense_7'; paths are \['Dense_"):
        with_losses(Plain(), activity=[("Dense_7", "l1")])(variables, X)
    assert numbers(with_losses(Plain())(variables, X)[1]) == {}


def test_rules_add_to_what_a_module_declares_itself():
    model = nn.Sequential([Dense(4, kernel_init=ONES, activity_regularizer=jaxreg.L1(1.0)), nn.relu])
    variables = model.init(KEY, X)
    _, losses = with_losses(model, activity=[("layers_0", jaxreg.L2(0.5))])(variables, X)
    assert numbers(losses) == {"layers_0/activity": 12.0 + 0.5 * 4 * 9}


def test_rules_under_lifted_transforms():
    x = jnp.ones((2, 5, 3))
    model = nn.RNN(nn.GRUCell(3))
    variables = model.init(KEY, x)
    y, losses = with_losses(model, activity=[("", jaxreg.L2(1.0))])(variables, x)
    np.testing.assert_allclose(losses["activity"], np.square(y).sum() / 2, rtol=1e-5)
    with pytest.raises(ValueError, match="cell would be lost"):
        with_losses(model, activity=[("cell", "l2")])(variables, x)
    with_losses_axis = nn.RNN(nn.GRUCell(3), variable_axes={"losses": 0})
    _, losses = with_losses(with_losses_axis, activity=[("cell", jaxreg.L2(1.0))])(variables, x)
    np.testing.assert_allclose(losses["cell/activity"], np.square(y).sum() / 2, rtol=1e-5)
    cell = GRUCell(3, activity_regularizer=jaxreg.L2(1.0))
    _, losses = with_losses(nn.RNN(cell, variable_axes={"losses": 0}))(variables, x)
    np.testing.assert_allclose(losses["cell/activity"], np.square(y).sum() / 2, rtol=1e-5)


def test_rules_and_nn_jit_share_no_wrong_trace():
    class Jitted(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = nn.jit(Wrapped)
            for _ in range(2):
                x = block()(x)
            return x

    variables = Jitted().init(KEY, X)
    for _ in range(2):
        assert numbers(with_losses(Jitted())(variables, X)[1]) == {}
        _, losses = with_losses(Jitted(), activity=[("**/Dense_0", "l1")])(variables, X)
        assert numbers(losses) == {"JitWrapped_0/Dense_0/activity": 0.09, "JitWrapped_1/Dense_0/activity": 0.27}
        with pytest.raises(ValueError, match="one trace"):
            with_losses(Jitted(), activity=[("JitWrapped_0/Dense_0", "l1")])(variables, X)


class Wrapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, kernel_init=ONES)(x)


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"with_losses\(model\)"):
        with_losses(jnp.sum)
    with pytest.raises(ValueError, match="Known names"):
        with_losses(Plain(), activity=[("head", "l9")])
