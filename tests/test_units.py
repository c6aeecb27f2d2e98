"""jaxreg.units and shrink on what it finds: each unit is zeroed and cut out of small networks, which stay the same.

The networks are written over a module `xp`: `jax.numpy` where `units` reads the program, NumPy in float64 where the
test computes. Their widths are those of the parameters.
"""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxreg

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape)


def softmax(xp, x):
    x = xp.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def silu(xp, x):
    return x / (1 + xp.exp(-x))


def mlp(xp, p, x):
    return xp.tanh(xp.exp(-(x @ p["w0"])) + p["b0"]) @ p["w1"]  # 0 does not stay 0 on the way


def gated(xp, p, x):
    return (silu(xp, x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def fused(xp, p, x):
    gate, up = xp.split(x @ p["both"], 2, axis=-1)
    return (silu(xp, gate) * up) @ p["down"]


def halves(xp, p, x):
    h = x @ p["w0"]
    n = h.shape[-1] // 2
    return h[..., :n] @ p["w1"] + xp.tanh(h[..., n:]) @ p["w2"]


def unequal(xp, p, x):
    h = x @ p["w0"]
    return h[..., :2] @ p["w1"] + xp.tanh(h[..., 2:]) @ p["w2"]


def residual(xp, p, x):
    h = x @ p["embed"]
    for w, v in zip(p["w"], p["v"], strict=True):
        h = h + xp.maximum(h @ w, 0) @ v
    return h @ p["out"]


def rms(xp, p, x):
    h = x @ p["embed"]
    h = h / xp.sqrt((h * h).mean(axis=-1, keepdims=True) + 1e-3) * p["scale"]
    return xp.maximum(h @ p["w"], 0) @ p["out"]


def standardized(xp, p, x):
    h = x @ p["w0"]
    h = (h - h.mean(axis=0)) / xp.sqrt(h.var(axis=0) + 1e-3) * p["scale"] + p["bias"]
    return xp.maximum(h, 0) @ p["w1"]


def concatenated(xp, p, x):
    a, b = xp.tanh(x @ p["a"]), x @ p["b"]
    return xp.concatenate([a, b, a], axis=-1) @ p["out"]


def tied(xp, p, x):
    h = xp.tanh(x @ p["w"])
    return (h @ p["w"].T) @ p["out"] + h @ p["v"]


def heads(xp, p, x):
    q, k, v = (xp.einsum("td,dhk->htk", x, p[name]) for name in ("q", "k", "v"))
    a = softmax(xp, xp.einsum("htk,hsk->hts", q, k) / np.sqrt(q.shape[-1]))
    return xp.einsum("htk,hkd->td", xp.einsum("hts,hsk->htk", a, v), p["out"])


def grouped_query(xp, p, x, size=4):
    """Flat kernels, heads merged and split by reshapes; each head of keys serves several of queries."""
    t = len(x)
    kv_heads = p["k"].shape[1] // size
    q = (x @ p["q"]).reshape(t, -1, size)
    k, v = (x @ p["k"]).reshape(t, kv_heads, size), (x @ p["v"]).reshape(t, kv_heads, -1)
    repeats = q.shape[1] // kv_heads
    k, v = (xp.repeat(y, repeats, axis=1) for y in (k, v))
    a = softmax(xp, xp.einsum("thk,shk->hts", q, k))
    return xp.einsum("hts,shk->thk", a, v).reshape(t, -1) @ p["out"]


def fused_heads(xp, p, x, size=4):
    t = len(x)
    q, k, v = (y.reshape(t, -1, size) for y in xp.split(x @ p["qkv"], 3, axis=-1))
    a = softmax(xp, xp.einsum("thk,shk->hts", q, k) / 2.0)
    return xp.einsum("hts,shk->thk", a, v).reshape(t, -1) @ p["out"]


def flattened(xp, p, x):
    h = x.reshape(5, 3, 2) @ p["w0"]  # three positions of one kernel
    return xp.maximum(h, 0).reshape(5, -1) @ p["w1"]


def low_rank(xp, p, x):
    return x @ (p["w"] + p["a"] @ p["b"])


def scaled(xp, p, x):
    return xp.maximum(x @ p["w0"], 0) @ p["w1"] / np.sqrt(p["w1"].shape[0])


def mean_field(xp, p, x):
    return (xp.maximum(x @ p["w0"], 0) / p["w1"].shape[0]) @ p["w1"]


def mean_by_product(xp, p, x):
    h = x @ p["w0"]
    return (h - h @ (xp.ones((h.shape[1], 1)) / h.shape[1])) @ p["w1"]


def padded(xp, p, x):
    """A wider second block, the first one's channels padded by zeros."""
    h = x @ p["w0"]
    return (xp.pad(h, ((0, 0), (1, 2))) + xp.tanh(h @ p["w1"])) @ p["out"]


def sorted_units(xp, p, x):
    return xp.sort(x @ p["w0"], axis=-1) @ p["w1"]


def embedding(xp, p, x):
    tokens = np.array([2, 0, 1, 1, 4])
    return xp.tanh(p["table"][tokens]) @ p["w"] + x @ p["v"]


def stacked(xp, p, x):
    pair = xp.stack([x @ p["a"], x @ p["b"]], axis=1)
    return (pair[:, 0] * xp.tanh(pair[:, 1])) @ p["out"]


def tiled(xp, p, x):
    return xp.tanh(xp.tile(x @ p["w"], (2, 1))) @ p["out"]


def tiled_units(xp, p, x):
    return xp.tanh(xp.tile(x @ p["w"], (1, 2))) @ p["out"]


def broadcast_units(xp, p, x):
    """`tile` as JAX 0.8 writes it: how often is a number in the program, and no copy can go alone."""
    t, n = len(x), p["w"].shape[1]
    h = xp.broadcast_to((x @ p["w"]).reshape(1, t, 1, n), (1, t, 2, n))
    return xp.tanh(h.reshape(t, 2 * n)) @ p["out"]


# network, its parameters, and the numbers of units of the families that can be removed
NETWORKS = [
    (mlp, {"w0": normal(6, 5), "b0": normal(5), "w1": normal(5, 3)}, [5]),
    (gated, {"gate": normal(6, 5), "up": normal(6, 5), "down": normal(5, 3)}, [5]),
    (fused, {"both": normal(6, 10), "down": normal(5, 3)}, [5]),
    (halves, {"w0": normal(6, 10), "w1": normal(5, 3), "w2": normal(5, 3)}, [5]),
    (unequal, {"w0": normal(6, 7), "w1": normal(2, 3), "w2": normal(5, 3)}, []),
    (
        residual,
        {
            "embed": normal(6, 7),
            "w": [normal(7, 3), normal(7, 5)],
            "v": [normal(3, 7), normal(5, 7)],
            "out": normal(7, 2),
        },
        [3, 5, 7],
    ),
    (rms, {"embed": normal(6, 7), "scale": normal(7), "w": normal(7, 5), "out": normal(5, 2)}, [5]),
    (standardized, {"w0": normal(6, 7), "scale": normal(7), "bias": normal(7), "w1": normal(7, 3)}, [7]),
    (concatenated, {"a": normal(6, 3), "b": normal(6, 5), "out": normal(11, 2)}, [3, 5]),
    (tied, {"w": normal(6, 5), "out": normal(6, 2), "v": normal(5, 2)}, [5]),
    (heads, {**{name: normal(6, 3, 5) for name in "qkv"}, "out": normal(3, 5, 2)}, [3, 5]),
    (grouped_query, {"q": normal(6, 24), "k": normal(6, 8), "v": normal(6, 8), "out": normal(24, 3)}, [2, 3, 4]),
    (fused_heads, {"qkv": normal(6, 36), "out": normal(12, 2)}, [3]),
    (flattened, {"w0": normal(2, 5), "w1": normal(15, 3)}, [5]),
    (low_rank, {"w": normal(6, 3), "a": normal(6, 4), "b": normal(4, 3)}, [4]),
    (scaled, {"w0": normal(6, 7), "w1": normal(7, 3)}, []),
    (mean_field, {"w0": normal(6, 7), "w1": normal(7, 3)}, []),
    (mean_by_product, {"w0": normal(6, 7), "w1": normal(7, 3)}, []),
    (padded, {"w0": normal(6, 4), "w1": normal(4, 7), "out": normal(7, 2)}, [4]),
    (sorted_units, {"w0": normal(6, 5), "w1": normal(5, 3)}, []),
    (stacked, {"a": normal(6, 5), "b": normal(6, 5), "out": normal(5, 3)}, [5]),
    (tiled, {"w": normal(6, 5), "out": normal(5, 3)}, [5]),
    (tiled_units, {"w": normal(6, 5), "out": normal(10, 3)}, [5]),
    (broadcast_units, {"w": normal(6, 5), "out": normal(10, 3)}, [5]),
    (embedding, {"table": normal(6, 5), "w": normal(5, 3), "v": normal(6, 3)}, [5]),
]


STAY = (
    (mlp, "b0[0], w0[1], w1[0]", False),  # the constant tanh(1 + 0), and there is no second bias to put it in
    (tied, "v[0], w[1]", True),  # also read by `w` itself
    (grouped_query, "out[0], q[1]", False),  # queries of 0 attend to everything
)


def cut(params, family, units, zero=False):
    """The parameters without some units of a family, by its labels alone; or with zeros in their places."""
    leaves, treedef = jax.tree.flatten(params)
    leaves = [np.array(leaf) for leaf in leaves]
    if zero:
        for part in family.parts:
            np.moveaxis(leaves[part.leaf], part.axis, 0)[np.isin(part.labels, units)] = 0
    else:
        for part in family.parts:
            leaves[part.leaf] = leaves[part.leaf].compress(~np.isin(part.labels, units), part.axis)
    return treedef.unflatten(leaves)


def found(network, params):
    x = jax.ShapeDtypeStruct((5, 6), jnp.float32)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), params)
    return jaxreg.units(lambda p, x: network(jnp, p, x), shapes, x)


@pytest.mark.parametrize(("network", "params", "sizes"), NETWORKS, ids=[n.__name__ for n, _, _ in NETWORKS])
def test_each_unit_can_be_cut_out_once_it_is_zero(network, params, sizes):
    units, x = found(network, params), normal(5, 6)
    assert sorted(map(len, units)) == sizes
    for family in units:
        removed = sorted({0, family.size - 1})[: family.size - 1]
        for gone in (removed[:1], removed):
            whole = network(np, cut(params, family, gone, zero=True), x)
            np.testing.assert_allclose(network(np, cut(params, family, gone), x), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("network", "params"), [(n, p) for n, p, s in NETWORKS if s], ids=[n.__name__ for n, _, s in NETWORKS if s]
)
def test_shrink_keeps_the_function(network, params):
    """All that makes one unit, or reads it, is 0: it is gone, and what else was left without readers."""
    x = normal(5, 6)
    for family, of_readers in itertools.product(found(network, params), (True, False)):
        leaves, treedef = jax.tree.flatten(params)
        leaves = [np.array(leaf) for leaf in leaves]
        for part in family.parts:
            if part.is_read == of_readers:
                np.moveaxis(leaves[part.leaf], part.axis, 0)[part.labels == 1] = 0
        zeroed = treedef.unflatten(leaves)
        small = jaxreg.shrink(zeroed, lambda p, x: network(jnp, p, x), jnp.asarray(x, jnp.float32))
        part = family.parts[0]
        n = {len(jax.tree.leaves(tree)[part.leaf].ravel()) for tree in (small, params)}
        np.testing.assert_allclose(network(np, small, x), network(np, zeroed, x), rtol=1e-6, atol=1e-6)
        stays = (network, str(family), of_readers) in STAY
        assert len(n) == (1 if stays else 2), (str(family), of_readers)


def test_a_unit_that_is_repeated_goes_from_all_places():
    params = {"w": normal(6, 5), "out": normal(10, 3)}
    params["w"][:, 1] = 0

    def network(xp, p, x):
        return xp.tanh(xp.tile(x @ p["w"], (1, 2))) @ p["out"]

    x = normal(5, 6)
    small = jaxreg.shrink(params, lambda p, x: network(jnp, p, x), jnp.asarray(x, jnp.float32))
    assert small["w"].shape == (6, 4)
    np.testing.assert_array_equal(small["out"], np.delete(params["out"], [1, 6], axis=0))
    np.testing.assert_allclose(network(np, small, x), network(np, params, x), rtol=1e-6, atol=1e-6)


def test_the_table_says_what_belongs_together_and_why_not():
    network, params, _ = NETWORKS[6]
    text = str(found(network, params))
    assert "embed[1], scale[0], w[0]" in text and "a sum or mean over it" in text and "1 kind of units" in text
    network, params, _ = next(case for case in NETWORKS if case[0] is scaled)
    assert "scaled by its length" in str(found(network, params))
    network, params, _ = next(case for case in NETWORKS if case[0] is unequal)
    assert "cut at a fixed place" in str(found(network, params))


def convolved(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x[None, None, :, :], kernel, (1, 1), "SAME", dimension_numbers=numbers)


def by_rows(h, w1):
    return jax.lax.scan(lambda carry, row: (carry, row @ w1), 0.0, h)[1]


MEANS = {
    "of a kernel transposed": lambda h, w1: h @ (w1.T / len(w1)).T,
    "by an array": lambda h, w1: (h * jnp.full(len(w1), 1 / len(w1))) @ w1,
    "with a new axis": lambda h, w1: (h / len(w1))[:, None] @ w1,
    "behind a product": lambda h, w1: jnp.tri(5) @ (h / len(w1)) @ w1,
    "behind a concatenation": lambda h, w1: jnp.concatenate([h / len(w1), h / len(w1)], -1) @ jnp.repeat(w1, 2, 0),
    "in two factors": lambda h, w1: jnp.einsum("bij,ijo->bo", (h / len(w1)).reshape(5, 2, -1), w1.reshape(2, -1, 3)),
    "behind a sum over examples": lambda h, w1: jnp.sum(h / len(w1), 0) @ w1,
    "after a reshape": lambda h, w1: (h @ w1).reshape(5, 3, 1) / len(w1),
    "after a bias": lambda h, w1: (h @ w1 + w1[0] * 0) / len(w1),
    "after a branch": lambda h, w1: jax.lax.cond(h[0, 0] > 0, lambda: h @ w1, lambda: -h @ w1) / len(w1),
    "after a scan": lambda h, w1: by_rows(h, w1)[None] * jax.lax.rsqrt(jnp.float32(len(w1))),
    "before a convolution": lambda h, w1: convolved(h / len(w1), w1[None, None]),
    "of a fan-in": lambda h, w1: convolved(h, jnp.concatenate([w1[None]] * 3)[None] / np.sqrt(3 * len(w1))),
    "after a convolution": lambda h, w1: -convolved(h, jnp.concatenate([w1[None]] * 3)[None]) / (3 * len(w1)),
}


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_pins_its_axis_however_it_is_written(name):
    """A narrower network would divide by another number."""
    params = {"w0": normal(6, 8), "w1": normal(8, 3)}
    units = found(lambda _, p, x: MEANS[name](jnp.tanh(x @ p["w0"]), p["w1"]), params)
    assert not len(units) and "scaled by its length" in str(units)


def test_heads_go_unless_their_number_is_divided_by():
    """Two heads of size 4: 1/√4 in front of the softmax is no mean over heads, 1/3 behind the sum over three is."""
    params = {**{name: normal(6, 2, 4) for name in "qkv"}, "out": normal(2, 4, 2)}
    assert sorted(map(len, found(heads, params))) == [2, 4]
    params = {**{name: normal(6, 3, 5) for name in "qkv"}, "out": normal(3, 5, 2)}
    assert sorted(map(len, found(lambda xp, p, x: heads(xp, p, x) / len(p["out"]), params))) == [5]


def test_an_array_that_the_function_holds_pins():
    params = {"w0": normal(6, 5), "w1": normal(5, 3)}
    mean = jnp.ones(5)
    units = jaxreg.units(lambda p, x: (x @ p["w0"] - mean) @ p["w1"], params, jnp.ones((2, 6)))
    assert not len(units) and "a constant's axis" in str(units)
    params["mean"] = mean
    units = jaxreg.units(lambda p, x: (x @ p["w0"] - p["mean"]) @ p["w1"], params, jnp.ones((2, 6)))
    assert [len(family) for family in units] == [5]


def layers(p, x, how):
    def layer(h, w):
        return h + jax.nn.relu(h @ w["a"]) @ w["b"], None

    if how == "scan":
        h, _ = jax.lax.scan(layer, x @ p["embed"], p["layers"])
    elif how == "while":
        h = jax.lax.while_loop(lambda h: jnp.sum(h) < 0, lambda h: layer(h, p["layer"])[0], x @ p["embed"])
    elif how == "cond":
        h = jax.lax.cond(x[0, 0] > 0, lambda h: layer(h, p["layer"])[0], lambda h: h, x @ p["embed"])
    else:
        h = how(lambda h, w: layer(h, w)[0])(x @ p["embed"], p["layer"])
    return h @ p["out"]


@pytest.mark.parametrize(
    ("how", "sizes"),
    [("scan", [3, 5]), ("while", []), ("cond", [3, 5]), (jax.jit, [3, 5]), (jax.checkpoint, [3, 5])],
    ids=["scan", "while", "cond", "jit", "checkpoint"],
)
def test_programs_inside_of_programs(how, sizes):
    stack = (2,) if how == "scan" else ()
    layer = {"a": normal(*stack, 5, 3), "b": normal(*stack, 3, 5)}
    params = {"embed": normal(6, 5), "layers" if stack else "layer": layer, "out": normal(5, 2)}
    params = jax.tree.map(lambda a: a.astype(np.float32), params)
    x = normal(4, 6).astype(np.float32)
    assert sorted(map(len, jaxreg.units(lambda p, x: layers(p, x, how), params, x))) == sizes
    layer["b"] = layer["b"].copy()
    layer = params["layers" if stack else "layer"]
    layer["b"][..., 1, :] = 0
    small = jaxreg.shrink(params, lambda p, x: layers(p, x, how), x)
    assert jax.tree.leaves(small)[1].shape == (*stack, 5, 2 if sizes else 3)
    np.testing.assert_allclose(layers(small, x, how), layers(params, x, how), rtol=1e-5, atol=1e-5)


def test_a_bias_that_another_branch_reads_takes_nothing_up():
    params = {"w": normal(6, 5), "v": normal(5, 3), "b": normal(3)}
    params = jax.tree.map(lambda a: a.astype(np.float32), params)
    params["w"][:, 1] = 0  # a constant, sigmoid(0) = ½

    def apply(p, x):
        def one(p):
            return jax.nn.sigmoid(x @ p["w"]) @ p["v"] + p["b"]

        return jax.lax.cond(x[0, 0] > 0, one, lambda p: x[:, :3] * p["b"], p)

    x = np.ones((2, 6), np.float32)
    small = jaxreg.shrink(params, apply, x)
    for sign in (1, -1):
        np.testing.assert_allclose(apply(small, sign * x), apply(params, sign * x), rtol=1e-5, atol=1e-5)


def test_dropout_and_custom_derivatives():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))

    def apply(p, x, key):
        h = square(x @ p["w0"])
        return jnp.where(jax.random.bernoulli(key, 0.9, h.shape), h / 0.9, 0) @ p["w1"]

    params = {"w0": jnp.ones((6, 5)), "w1": jnp.ones((5, 3))}
    assert [len(f) for f in jaxreg.units(apply, params, jnp.ones((2, 6)), jax.random.key(0))] == [5]


def test_joint_groups_and_dead_units():
    params = {"w0": normal(6, 5), "b0": normal(5), "w1": normal(5, 4), "b1": normal(4), "w2": normal(4, 3)}
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)

    def apply(p, x):
        return jnp.tanh(jax.nn.sigmoid(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]) @ p["w2"]

    units = jaxreg.units(apply, params, jnp.ones((2, 6)))
    reg = units.joint_groups(jaxreg.L1(1.0))
    squares = [(params[w] ** 2).sum(axis=0) + params[b] ** 2 for w, b in (("w0", "b0"), ("w1", "b1"))]
    norms = [np.sqrt(squares[0]), np.sqrt(squares[1] + (params["w2"] ** 2).sum(axis=1))]  # w1 makes what is behind it
    np.testing.assert_allclose(reg(params), sum(n.sum() for n in norms), rtol=1e-6)
    step = (np.sort(norms[0])[0] + np.sort(norms[0])[1]) / 2
    dead = [n <= step for n in norms]
    pruned = reg.prox(params, step)
    report = jaxreg.sparsity(pruned, units=units)
    for found, expected in zip(report.units.values(), dead, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert "dead units: 1 of 5 of b0[0], w0[1], w1[0]" in str(report)
    small = jaxreg.shrink(pruned, apply, jnp.ones((2, 6)))
    assert small["w1"].shape == (4, max(1, 4 - dead[1].sum()))
    x = normal(2, 6).astype(np.float32)
    np.testing.assert_allclose(apply(small, x), apply(pruned, x), rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match=r"takes `jaxreg.units"):
        jaxreg.sparsity(params, units=[("a", "b")])


def test_joint_groups_of_families_that_share_entries():
    network, params, _ = next(case for case in NETWORKS if case[0] is heads)
    units = found(network, params)
    reg = units.joint_groups(jaxreg.L1(1.0))  # the heads; the entries inside of heads have the same values
    assert isinstance(reg, jaxreg.JointGroup) and "'v', 1" in str(reg)
    squares = sum((params[name] ** 2).sum(axis=(0, 2)) for name in "qkv") + (params["out"] ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(reg(params), np.sqrt(squares).sum(), rtol=1e-6)
    inside = units[1].joint_group(jaxreg.L1(1.0))
    squares = (params["v"] ** 2).sum(axis=(0, 1)) + (params["out"] ** 2).sum(axis=(0, 2))
    np.testing.assert_allclose(inside(params), np.sqrt(squares).sum(), rtol=1e-6)
    network, params, _ = next(case for case in NETWORKS if case[0] is scaled)
    with pytest.raises(ValueError, match="there is no unit that could go"):
        found(network, params).joint_groups(jaxreg.L1(1.0))


def beside_inputs(xp, p, x):
    """Columns of `w` make units where they meet those of `b`; where they meet an input they do not."""
    beside = xp.concatenate([x @ p["b"], x[:, :2]], axis=-1)
    return (xp.tanh(x @ p["a"]) @ p["w"] + beside) @ p["v"]


# of each group the entries of its units: an array (units, entries of each)
GROUPS = {
    gated: lambda p: [[p["gate"].T, p["up"].T, p["down"]]],
    fused: lambda p: [[p["both"][:, :5].T, p["both"][:, 5:].T, p["down"]]],
    tied: lambda p: [[p["w"].T, p["v"]]],
    residual: lambda p: [[p["w"][0].T], [p["w"][1].T], [p["embed"].T, p["v"][0].T, p["v"][1].T, p["out"]]],
    concatenated: lambda p: [[p["a"].T, p["out"][:3], p["out"][8:]], [p["b"].T, p["out"][3:8]]],
    low_rank: lambda p: [[p["a"].T, p["b"]]],
    padded: lambda p: [[p["w0"].T, p["w1"][:, 1:5].T, p["out"][1:5]]],
    beside_inputs: lambda p: [[p["a"].T], [p["b"].T, p["w"][:, :3].T, p["v"][:3]]],
}
BESIDE_INPUTS = {"a": normal(6, 5), "b": normal(6, 3), "w": normal(5, 5), "v": normal(5, 2)}


@pytest.mark.parametrize("network", GROUPS, ids=lambda network: network.__name__)
def test_what_reads_a_unit_belongs_to_it_where_no_other_unit_is_made_of_it(network):
    params = {n: p for n, p, _ in NETWORKS}.get(network, BESIDE_INPUTS)
    units = found(network, params)
    groups = [np.concatenate(parts, axis=1) for parts in GROUPS[network](params)]
    expected = sum(np.linalg.norm(group, axis=1).sum() for group in groups)
    np.testing.assert_allclose(units.joint_groups(jaxreg.L1(1.0))(params), expected, rtol=1e-5)


def test_one_family_alone_has_all_that_reads_it_but_its_own_makers():
    def network(p, x):
        h = x @ p["embed"]
        return (h + h @ p["square"]) @ p["out"]  # each column of `square` makes a unit, each row reads one

    params = {"embed": normal(6, 5), "square": normal(5, 5), "out": normal(5, 2)}
    (family,) = jaxreg.units(network, params, jnp.ones((2, 6)))
    rows = np.concatenate([params["embed"].T, params["square"].T, params["out"]], axis=1)
    value = family.joint_group(jaxreg.L1(1.0))(params)
    np.testing.assert_allclose(value, np.linalg.norm(rows, axis=1).sum(), rtol=1e-5)
    residual_params = next(p for n, p, _ in NETWORKS if n is residual)
    stream, *_ = found(residual, residual_params)
    makers, readers = (residual_params["embed"], *residual_params["v"]), (*residual_params["w"], residual_params["out"])
    rows = np.concatenate([*(leaf.T for leaf in makers), *readers], axis=1)
    value = stream.joint_group(jaxreg.L1(1.0))(residual_params)
    np.testing.assert_allclose(value, np.linalg.norm(rows, axis=1).sum(), rtol=1e-5)


def test_an_array_in_two_places_is_one():
    table = jnp.asarray(normal(7, 4), jnp.float32)
    params = {"in": table, "w": jnp.asarray(normal(4, 4), jnp.float32), "out": table}

    def network(p, tokens):
        return jnp.tanh(p["in"][tokens] @ p["w"]) @ p["out"].T

    reg = jaxreg.units(network, params, jnp.array([1, 2])).joint_groups(jaxreg.L1(1.0))
    rows = np.concatenate([table.T, params["w"].T], axis=1)
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(reg(params), norms.sum(), rtol=1e-6)
    after = reg.prox(params, float(norms.min()) / 2)
    np.testing.assert_allclose(after["in"], table * (1 - norms.min() / 2 / norms), rtol=1e-5)
    np.testing.assert_array_equal(after["in"], after["out"])


# -------------------------------------------------------------------------------------------------------- Flax, Equinox


class Block(nn.Module):
    heads: int = 3
    features: int = 12
    hidden: int = 5

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, qkv_features=self.features, out_features=6)(y)
        return x + nn.Dense(6)(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x))))


def test_a_transformer_block_of_linen_is_built_anew():
    model, x = Block(), jnp.asarray(normal(1, 4, 6), jnp.float32)
    params = jax.tree.map(np.array, model.init(jax.random.key(0), x)["params"])
    attention = params["MultiHeadDotProductAttention_0"]
    for name in ("kernel", "bias"):
        attention["value"][name][..., 1, :] = 0
    params["Dense_1"]["kernel"][:, 2] = 0
    params["Dense_1"]["bias"][2] = 0.7  # gelu(0.7) goes into the next bias
    small = jaxreg.shrink(params, lambda p, x: model.apply({"params": p}, x), x)
    heads, size = small["MultiHeadDotProductAttention_0"]["query"]["kernel"].shape[1:]
    assert (heads, size, small["Dense_1"]["bias"].shape) == (2, 4, (4,))
    smaller = Block(heads, heads * size, 4)
    np.testing.assert_allclose(
        smaller.apply({"params": small}, x), model.apply({"params": params}, x), rtol=1e-5, atol=1e-5
    )


class ConvNet(nnx.Module):
    def __init__(self, first, second, rngs):
        self.first = nnx.Conv(1, first, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(first, use_running_average=True, rngs=rngs)
        self.depthwise = nnx.Conv(first, first, (3, 3), feature_group_count=first, rngs=rngs)
        self.second = nnx.Conv(first, second, (3, 3), rngs=rngs)
        self.groups = nnx.GroupNorm(second, num_groups=None, group_size=2, rngs=rngs)
        self.output = nnx.Linear(4 * second, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.depthwise(self.norm(self.first(x))))
        x = nnx.avg_pool(self.groups(self.second(x)), (2, 2), (2, 2))
        return self.output(x.reshape(len(x), -1))


def test_channels_of_nnx_behind_norms():
    model = ConvNet(4, 6, nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    x = jnp.asarray(normal(2, 4, 4, 1), jnp.float32)

    def apply(state, x):
        return nnx.merge(graphdef, state)(x)

    assert [(str(f.parts[0]), len(f)) for f in jaxreg.units(apply, state, x)] == [
        ("depthwise/bias[0]", 4),
        ("groups/bias[0]", 3),
    ]
    model.second.kernel[...] = model.second.kernel[...].at[:, :, 1].set(0)
    model.output.kernel[...] = model.output.kernel[...].reshape(4, 6, 3).at[:, 4:].set(0).reshape(24, 3)
    small = jaxreg.shrink(nnx.state(model), apply, x)
    smaller = ConvNet(small["first"]["kernel"].shape[-1], small["second"]["kernel"].shape[-1], nnx.Rngs(1))
    nnx.update(smaller, small)
    assert smaller.second.kernel.shape == (3, 3, 3, 4)
    np.testing.assert_allclose(smaller(x), model(x), rtol=1e-5, atol=1e-5)


def test_an_equinox_module():
    def build(width):
        return eqx.nn.MLP(4, 2, width, 1, key=jax.random.key(0))

    model = build(5)
    model = eqx.tree_at(lambda m: m.layers[0].weight, model, model.layers[0].weight.at[1].set(0))
    arrays, static = eqx.partition(model, eqx.is_array)
    x = jnp.asarray(normal(3, 4), jnp.float32)
    small = jaxreg.shrink(arrays, lambda a, x: jax.vmap(eqx.combine(a, static))(x), x)
    arrays, static = eqx.partition(build(4), eqx.is_array)
    smaller = eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), jax.tree.leaves(small)), static)
    assert small.layers[0].weight.shape == (4, 4)
    np.testing.assert_allclose(jax.vmap(smaller)(x), jax.vmap(model)(x), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- messages


def test_what_is_refused():
    params, x = {"w0": jnp.ones((6, 5)), "w1": jnp.ones((5, 3))}, jnp.ones((2, 6))

    def apply(p, x):
        return x @ p["w0"] @ p["w1"]

    with pytest.raises(TypeError, match="takes the function of the network first, got"):
        jaxreg.units(params, apply, x)
    with pytest.raises(TypeError, match=r"takes a tree of arrays, got .* at 'act'"):
        jaxreg.units(apply, {**params, "act": jnp.tanh}, x)
    with pytest.raises(TypeError, match="reads activations and the axes of kernels in the program: leave out"):
        jaxreg.shrink(params, apply, x, activation=jnp.tanh)
    with pytest.raises(TypeError, match="takes no inputs"):
        jaxreg.shrink(params, [("a", "b")], x)
    with pytest.raises(TypeError, match="needs numbers, got ShapeDtypeStruct"):
        jaxreg.shrink(jax.eval_shape(lambda: params), apply, x)
    with pytest.raises(TypeError, match=r"outside of `jax.jit`"):
        jax.jit(lambda p: jaxreg.shrink(p, apply, x))(params)
