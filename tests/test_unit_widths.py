"""jaxreg.units where a program makes numbers of its widths, in recurrent networks, and in slices that look alike.

The networks are written over a module `xp`: `jax.numpy` where `units` reads the program, NumPy in float64 where the
test computes. A number of a width that `units` did not see would make the cut network another one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxreg

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape)


# What a layer does with its n hidden units h
NUMBERS = {
    "a logarithm": lambda xp, h: h * np.log(h.shape[-1]),
    "a width and one": lambda xp, h: h / (h.shape[-1] + 1),
    "a square": lambda xp, h: h / h.shape[-1] ** 2,
    "a summand": lambda xp, h: h + h.shape[-1],
    "a power of a number": lambda xp, h: h * 0.5 ** h.shape[-1],
    "a power of the units": lambda xp, h: h ** h.shape[-1],
    "a limit": lambda xp, h: xp.minimum(h, 1.0 / h.shape[-1]),
    "a comparison": lambda xp, h: xp.where(h > 1 / h.shape[-1], h, 0.0),
    "an array": lambda xp, h: h * xp.asarray(np.array([3.0 / h.shape[-1] ** 2])),
    "in a program inside": lambda xp, h: (jax.jit if xp is jnp else lambda f: f)(lambda h: h - 0.1 * h.shape[-1])(h),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_made_of_a_width_pins_it(name):
    def network(xp, p, x):
        return xp.tanh(NUMBERS[name](xp, xp.tanh(x @ p["w0"])) @ p["w1"]) @ p["w2"]

    params = {"w0": normal(6, 5), "w1": normal(5, 4), "w2": normal(4, 3)}
    units = jaxreg.units(lambda p, x: network(jnp, p, x), params, jnp.ones((2, 6)))
    assert [[str(part) for part in family.parts] for family in units] == [["w1[1]", "w2[0]"]]
    assert "its length is a number" in str(units)
    params["w1"][2] = 0
    params["w2"][1] = 0
    small = jaxreg.shrink(params, lambda p, x: network(jnp, p, x), jnp.ones((2, 6)))
    assert small["w0"].shape == (6, 5) and small["w1"].shape == (5, 3)
    x = normal(7, 6)
    np.testing.assert_allclose(network(np, small, x), network(np, params, x), rtol=1e-12, atol=1e-12)


def test_widths_that_are_written_down_are_no_reason():
    """A network that refuses narrower arrays, and one of which a family alone can be traced narrower."""

    def strict(p, x):
        assert p["w0"].shape == (6, 5)
        return jnp.tanh(x @ p["w0"]) @ p["w1"]

    params = {"w0": normal(6, 5), "w1": normal(5, 4)}
    assert [len(family) for family in jaxreg.units(strict, params, jnp.ones((2, 6)))] == [5]

    def mixed(p, x):
        h = jnp.tanh(x @ p["v"].reshape(6, 5))  # as many units as are written down
        return h @ p["w"] @ p["w1"] + jnp.tanh(x @ p["w0"]) / (p["w0"].shape[1] + 1) @ p["w2"]

    params = {"v": normal(6, 5), "w": normal(5, 7), "w1": normal(7, 2), "w0": normal(6, 4), "w2": normal(4, 2)}
    assert sorted(len(family) for family in jaxreg.units(mixed, params, jnp.ones((2, 6)))) == [5, 7]


def lstm(xp, p, x):
    """From zeros; the NumPy version is the loop."""

    def step(h, c, x_t):
        i, f, g, o = xp.split(x_t @ p["in"] + h @ p["own"] + p["bias"], 4, axis=-1)
        i, f, o = (1 / (1 + xp.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * xp.tanh(g)
        return o * xp.tanh(c), c

    h = c = xp.zeros((x.shape[0], p["own"].shape[0]))
    if xp is np:
        for t in range(x.shape[1]):
            h, c = step(h, c, x[:, t])
    else:
        (h, c), _ = jax.lax.scan(lambda state, x_t: (step(*state, x_t), None), (h, c), x.swapaxes(0, 1))
    return h @ p["out"]


def test_units_of_a_recurrent_network_that_begins_at_zero():
    params = {"in": normal(6, 20), "own": normal(5, 20), "bias": normal(20), "out": normal(5, 3)}
    (family,) = jaxreg.units(lambda p, x: lstm(jnp, p, x), params, jnp.ones((2, 4, 6)))
    assert [str(part) for part in family.parts] == ["bias[0]", "in[1]", "out[0]", "own[0]", "own[1]"]
    assert len(family) == 5
    for name, index in (("out", 1), ("own", 1)):  # what reads unit 1
        params[name][index] = 0
    small = jaxreg.shrink(params, lambda p, x: lstm(jnp, p, x), jnp.ones((2, 4, 6)))
    assert small["own"].shape == (4, 16)
    x = normal(3, 4, 6)
    np.testing.assert_allclose(lstm(np, small, x), lstm(np, params, x), rtol=1e-12, atol=1e-12)


def test_a_state_that_no_input_reaches_is_a_constant():
    """Ones that a scan carries along: a product with them is a sum over units."""

    def apply(p, x):
        def step(carry, x_t):
            y, ones = carry
            return (y + jnp.tanh(x_t @ p["w0"]) @ ones, ones), None

        return jax.lax.scan(step, (jnp.zeros((2, 1)), jnp.ones((5, 1))), x)[0][0] * p["scale"]

    units = jaxreg.units(apply, {"w0": normal(6, 5), "scale": normal(1)}, jnp.ones((4, 2, 6)))
    assert not len(units) and "a sum or mean over it" in str(units)


class Recurrent(nnx.Module):
    def __init__(self, cell, features):
        self.rnn = nnx.RNN(cell(6, features, rngs=nnx.Rngs(0)))
        self.out = nnx.Linear(features, 3, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(self.rnn(x))


@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell])
def test_recurrent_cells_of_nnx_are_built_anew(cell):
    model, x = Recurrent(cell, 5), jnp.asarray(normal(2, 4, 6), jnp.float32)
    graphdef, state = nnx.split(model)
    units = jaxreg.units(lambda s, x: nnx.merge(graphdef, s)(x), state, x)
    assert [len(family) for family in units] == [5]
    leaves, treedef = jax.tree.flatten(state)
    for part in units[0].readers:  # nobody reads unit 2
        leaf = np.array(leaves[part.leaf])
        np.moveaxis(leaf, part.axis, 0)[part.labels == 2] = 0
        leaves[part.leaf] = jnp.asarray(leaf)
    zeroed = treedef.unflatten(leaves)
    small = Recurrent(cell, 4)
    nnx.update(small, jaxreg.shrink(zeroed, lambda s, x: nnx.merge(graphdef, s)(x), x))
    np.testing.assert_allclose(small(x), nnx.merge(graphdef, zeroed)(x), rtol=1e-5, atol=1e-6)


def test_slices_of_two_concatenations_with_the_same_ends():
    """The second one is cut inside of `d`, whose units stay."""

    def network(xp, p, x):
        a, b, c, d = (xp.tanh(x @ p[name]) for name in "abcd")
        one, other = xp.concatenate([a, b, c], -1), xp.concatenate([a, d, c], -1)
        return one[..., :5] @ p["u"] + one[..., 5:] @ p["v"] + other[..., :4] @ p["w"]

    sizes = {"a": (6, 2), "b": (6, 6), "c": (6, 2), "d": (6, 6), "u": (5, 2), "v": (5, 2), "w": (4, 2)}
    params = {name: normal(*shape) for name, shape in sizes.items()}
    units = jaxreg.units(lambda p, x: network(jnp, p, x), params, jnp.ones((2, 6)))
    assert not len(units) and "d[1]" in str(units) and "cut at a fixed place" in str(units)


def test_nothing_over_nothing_is_not_nothing():
    """0/0 in a weight normalization is nan in the network, and its unit no unit of zeros."""
    params = {"v": normal(6, 4), "scale": normal(4), "out": normal(4, 2)}
    params["v"][:, 1] = 0

    def network(xp, p, x):
        return x @ (p["scale"] * p["v"] / xp.sqrt((p["v"] ** 2).sum(axis=0))) @ p["out"]

    small = jaxreg.shrink(params, lambda p, x: network(jnp, p, x), jnp.ones((2, 6)))
    with np.errstate(invalid="ignore"):
        x = normal(3, 6)
        np.testing.assert_array_equal(np.isnan(network(np, small, x)), np.isnan(network(np, params, x)))
