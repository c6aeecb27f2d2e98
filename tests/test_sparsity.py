"""Exact zeros and dead units, against loops over the entries."""

import itertools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxreg

FIELDS = ("size", "zeros", "inputs", "dead_inputs", "outputs", "dead_outputs")


def counted(w):
    """The same numbers entry by entry, in plain Python."""
    entries = list(itertools.product(*map(range, w.shape)))
    zeros = sum(float(w[i]) == 0 for i in entries)
    if w.ndim < 2:
        return (len(entries), zeros, 0, 0, 0, 0)
    alive = [{i[axis] for i in entries if float(w[i]) != 0} for axis in (-2, -1)]
    inputs, outputs = w.shape[-2:]
    dead = (inputs - len(alive[0]), outputs - len(alive[1])) if entries else (0, 0)
    return (len(entries), zeros, inputs, dead[0], outputs, dead[1])


def fields(zeros):
    return tuple(getattr(zeros, name) for name in FIELDS)


@settings(max_examples=60, deadline=None, database=None)
@given(
    arrays(
        st.sampled_from([np.float32, np.float64, np.float16, ml_dtypes.bfloat16]),
        st.lists(st.integers(0, 4), max_size=4).map(tuple),
        elements=st.sampled_from([0.0, 0.0, 0.0, -0.0, 1.0, np.nan, 1e-7]),
    )
)
def test_the_counts_are_those_of_a_loop(w):
    assert fields(jaxreg.sparsity({"w": w})["w"]) == counted(w)


def test_a_subnormal_is_no_zero():
    assert jaxreg.sparsity([np.array([5e-324, 0.0])]).total.zeros == 1


def test_a_convolution_counts_over_the_window():
    kernel = np.ones((3, 3, 4, 5), np.float32)
    kernel[:, :, 1, :] = 0
    kernel[:, :, :, 3] = 0
    kernel[0, 0, 2, :] = 0  # in one place of the window only: alive
    found = jaxreg.sparsity({"Conv_0": {"kernel": jnp.asarray(kernel)}})["Conv_0/kernel"]
    assert (found.inputs, found.dead_inputs, found.outputs, found.dead_outputs) == (4, 1, 5, 1)
    assert found.share == np.mean(kernel == 0)


def attention(layers=(), heads=4, size=2, features=8):
    ones = np.ones(layers, np.float32)
    into, out = (features, heads, size), (heads, size, features)
    kernels = {name: np.multiply.outer(ones, np.ones(into)) for name in ("query", "key", "value")}
    kernels["out"] = np.multiply.outer(ones, np.ones(out))
    return {name: {"kernel": kernel, "bias": np.zeros((*layers, heads, size))} for name, kernel in kernels.items()}


def test_heads_of_attention():
    """Query, key and value write to heads·size units, which out reads."""
    params = attention()
    params["out"]["kernel"][1] = 0  # one head
    params["query"]["kernel"][:, 2:] = 0  # two heads
    params["key"]["kernel"][:, 0, 1] = 0  # half of one
    params["value"]["kernel"][5] = 0  # a feature
    for tree, at in ((params, ""), ({"block": {"attn": params}}, "block/attn/")):
        s = jaxreg.sparsity(tree)
        found = {name: s[f"{at}{name}/kernel"] for name in params}
        dead = {name: (zeros.dead_inputs, zeros.dead_outputs, zeros.dead_heads) for name, zeros in found.items()}
        assert dead == {"out": (2, 0, 1), "query": (0, 4, 2), "key": (0, 1, 0), "value": (1, 0, 0)}
        assert all((zeros.inputs, zeros.outputs, zeros.heads) == (8, 8, 4) for zeros in found.values())
        assert s[f"{at}query/bias"].inputs == 0 and (s.total.heads, s.total.dead_heads) == (16, 3)
        assert str(s).splitlines()[0].endswith("dead heads") and str(s).endswith("3 of 16")
    stack = attention((3,))
    stack["out"]["kernel"][0, 1] = stack["out"]["kernel"][2, 3] = 0
    assert jaxreg.sparsity(stack)["out/kernel"].heads == 12 and jaxreg.sparsity(stack).total.dead_heads == 2


def test_what_only_looks_like_attention_has_no_heads():
    """A convolution in one dimension that is called `out`; kernels of attention that are matrices already."""
    conv = {"out": {"kernel": np.zeros((3, 4, 5), np.float32)}, "query": {"kernel": np.zeros((4, 5), np.float32)}}
    flat = {name: {"kernel": np.zeros((4, 4), np.float32)} for name in ("query", "key", "value", "out")}
    for params in (conv, flat):
        assert jaxreg.sparsity(params).total.heads == 0 and "heads" not in str(jaxreg.sparsity(params))
    assert fields(jaxreg.sparsity(conv)["out/kernel"])[2:] == (4, 4, 5, 5)


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_the_attention_of_flax_has_its_heads(api):
    if api == "linen":
        layer = nn.MultiHeadDotProductAttention(num_heads=4)
        params = layer.init(jax.random.key(0), jnp.ones((1, 3, 8)))
    else:
        params = nnx.MultiHeadAttention(4, 8, decode=False, rngs=nnx.Rngs(0))
    assert jaxreg.sparsity(params).total.heads == 16


def test_the_total_is_the_sum_and_tied_leaves_count_once():
    shared = jnp.zeros((2, 3))
    s = jaxreg.sparsity(
        {"a": shared, "b": jnp.ones(4), "c": shared, "step": jnp.zeros((), int), "key": jax.random.key(0)}
    )
    assert list(s) == ["a", "b"]
    assert fields(s.total) == (10, 6, 2, 2, 3, 3)
    assert s.total.share == 0.6


def test_boxes_and_modules_are_seen_through():
    init = nn.with_partitioning(nn.initializers.zeros, ("in", "out"))
    linen = nn.Dense(3, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 2)))
    assert fields(jaxreg.sparsity(linen)["params/kernel"]) == (6, 6, 2, 2, 3, 3)
    model = nnx.Linear(2, 3, kernel_init=nnx.initializers.zeros, bias_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    for tree in (nnx.state(model), nnx.state(model, nnx.Param), model):
        s = jaxreg.sparsity(tree)
        assert dict(s) == {"kernel": s["kernel"], "bias": s["bias"]}
        assert fields(s["kernel"]) == (6, 6, 2, 2, 3, 3)
        assert s["bias"].zeros == 0


def test_sharded_leaves_count_whole():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("x", "y"))
    kernel = np.ones((8, 4), np.float32)
    kernel[2] = 0
    sharded = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec("x", "y")))
    assert fields(jaxreg.sparsity({"w": sharded})["w"]) == counted(kernel)


def test_what_has_no_entries_or_no_leaves():
    assert jaxreg.sparsity({}).total.share == 0
    assert fields(jaxreg.sparsity([np.zeros((3, 0))]).total) == (0, 0, 3, 0, 0, 0)
    assert len(jaxreg.sparsity({"a": None, "b": "text"})) == 0
    assert jaxreg.sparsity(0.0).total.zeros == 1


def test_of_many_leaves_those_that_differ_in_numbers_share_a_row():
    params = {f"layer_{i}": {"kernel": np.eye(2, dtype=np.float32), "scale": np.zeros(i % 2 + 1)} for i in range(60)}
    lines = str(jaxreg.sparsity(params)).splitlines()
    assert [line.split()[:3] for line in lines[2:-2]] == [
        ["layer_{0..59}/kernel", "×60", "240"],
        ["layer_{0..58}/scale", "×30", "30"],
        ["layer_{1..59}/scale", "×30", "60"],
    ]
    assert "0 of 120" in lines[2]


@pytest.mark.parametrize("leaf", [jax.ShapeDtypeStruct((2,), jnp.float32)], ids=["placeholder"])
def test_what_has_no_values_raises(leaf):
    with pytest.raises(TypeError, match=r"`jaxreg\.sparsity` counts in arrays that have values.*at 'w'.*outside `jit`"):
        jaxreg.sparsity({"w": leaf})


def test_under_jit_it_raises():
    with pytest.raises(TypeError, match="outside `jit`"):
        jax.jit(lambda w: jaxreg.sparsity({"w": w}).total.zeros)(jnp.ones(2))


def test_a_thousand_leaves_of_different_shapes_are_fast():
    params = {
        chr(97 + i % 26) * (1 + i // 26): jax.device_put(np.zeros((i % 40 + 1, i // 40 + 1), np.float32))
        for i in range(1000)
    }
    jaxreg.sparsity(params)
    start = time.process_time()
    s = jaxreg.sparsity(params)
    text = str(s)
    assert time.process_time() - start < 0.5
    assert s.total.zeros == s.total.size == sum(w.size for w in params.values())
    assert max(map(len, text.splitlines())) <= 80


def test_the_table_is_at_most_80_columns_and_paths_stay_whole():
    path = "/".join(["transformer", "encoder", "layers_0", "self_attention", "query", "kernel"])
    s = jaxreg.sparsity({path: np.zeros((1000, 2000), np.float32), "bias": np.ones(3)})
    lines = str(s).splitlines()
    assert max(map(len, lines)) <= 80
    assert path in [line.strip() for line in lines]
    assert "1000 of 1000" in str(s) and "2 000 000" in str(s) and "<0.1%" not in str(s)
    assert "<td" in s._repr_html_() and path in s._repr_html_()


def test_rules_say_which_structures_are_counted():
    """By hand: blocks of two down the rows, labels, the rank of a sum of two products."""
    blocks = np.float32([[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    outer = np.float32(np.outer([1, 2, 3], [1, 1]) + np.outer([0, 1, 0], [1, 0]))
    params = {"blocks": blocks, "factors": np.float32([0, 0, 1, 5]), "low": outer, "free": blocks.copy()}
    rules = jaxreg.TreeRegularizer({
        "blocks": jaxreg.NofM(1, 2),
        "factors": jaxreg.Group(jaxreg.L1(0.1), groups=[0, 0, 1, -1]),
        "low": jaxreg.Rank(1),
    })  # fmt: skip
    found = jaxreg.sparsity(params, rules)
    counted = {path: (s.blocks, s.conforming, s.groups, s.zero_groups, s.rank) for path, s in structures(found)}
    assert counted == {
        "blocks": (6, 5, None, None, None), "factors": (None, None, 2, 1, None),
        "low": (None, None, None, None, 2), "free": (None,) * 5,
    }  # fmt: skip
    assert [str(found).count(header) for header in ("conforming", "zero groups", "rank")] == [1, 1, 1]
    total = str(found).splitlines()[-1].split()
    assert total[-7:] == ["5", "of", "6", "1", "of", "2", "2"]
    assert "conforming" not in str(jaxreg.sparsity(params)) and jaxreg.sparsity(params)["low"] != found["low"]
    with pytest.raises(ValueError, match="No leaf matches the pattern"):
        jaxreg.sparsity(params, jaxreg.TreeRegularizer({"kernels": jaxreg.NofM(1, 2)}))


def structures(found):
    return [(path, zeros.structure) for path, zeros in found.items()]
