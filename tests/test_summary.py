"""The summary: its numbers against NumPy, its words, and how it looks at 80 columns and at 1 000 leaves."""

import io
import json
import math
import re
import time
import unicodedata

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

import jaxreg

KERNEL = np.array([[3.0, 0.0, -1.0], [0.0, 4.0, 0.0]], np.float32)
PARAMS = {
    "Dense_0": {"kernel": jnp.asarray(KERNEL), "bias": jnp.array([0.0, 1.0, 2.0], jnp.bfloat16)},
    "Dense_1": {"kernel": jnp.full((3, 2), 0.5, jnp.float16)},
    "step": jnp.array(7),
}
RULES = jaxreg.TreeRegularizer(
    [("**/bias", None), ("Dense_0/*", jaxreg.L1(0.5)), ("**/kernle", "l2"), (re.compile("^Dense"), jaxreg.L2(2.0))]
)


def by_path(summary):
    return {leaf.path: leaf for leaf in summary.leaves}


@pytest.mark.parametrize(
    "report", [lambda tree: jaxreg.summary(jaxreg.TreeRegularizer({"b": None}), tree), jaxreg.sparsity]
)
def test_names_move_no_cursor_and_forge_no_row(report):
    """Whatever is no character that a terminal shows, from the table of Unicode, is an escape in every form."""
    hostile = "a\n99 leaves\r\x1b[2J\x9b31m\x00\u202e\u2028\ud800"
    one = report({hostile: jnp.zeros(2)})
    plain = report({"a": jnp.zeros(2)})
    assert len(str(one).splitlines()) == len(str(plain).splitlines()) + 1  # a long name has a line of its own
    shown = str(one) + one._repr_html_()
    assert r"a\n99 leaves\r\x1b[2J\x9b31m\x00\u202e\u2028\ud800" in shown
    assert not any(unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" for c in shown.replace("\n", ""))
    assert list(jaxreg.sparsity({hostile: jnp.zeros(2)})) == [hostile]  # the data keep the name


def test_the_numbers_are_those_of_the_formulas():
    summary = jaxreg.summary(RULES, PARAMS)
    first, second = by_path(summary)["Dense_0/kernel"], by_path(summary)["Dense_1/kernel"]
    assert (first.shape, first.dtype, first.size, first.zeros) == ((2, 3), "f32", 6, 3)
    assert first.penalty == 0.5 * 8
    assert first.gradient_norm == pytest.approx(0.5 * math.sqrt(3), rel=1e-6)  # 0 where the weight is 0
    assert (second.shape, second.dtype, second.penalty) == ((3, 2), "f16", 2 * 6 * 0.25)
    assert second.gradient_norm == pytest.approx(2 * 2 * math.sqrt(6 * 0.25), rel=1e-6)
    assert summary.penalty == 7.0
    assert summary.gradient_norm == pytest.approx(math.sqrt(0.25 * 3 + 16 * 1.5), rel=1e-6)
    assert (summary.size, summary.zeros) == (15, 4)


def test_the_total_is_that_of_the_regularizer():
    rules = jaxreg.TreeRegularizer({"**/kernel": jaxreg.L1L2(0.1, 0.3) + jaxreg.Group(jaxreg.L1(0.2), axis=0)})
    summary = jaxreg.summary(rules, PARAMS)
    assert summary.penalty == pytest.approx(float(rules(PARAMS)), rel=1e-6)
    found = {leaf.path: leaf.regularizer for leaf in summary.leaves if leaf.regularizer is not None}
    assert found == rules.assignment(PARAMS)


def test_what_is_left_out_is_there_with_the_reason():
    shared = jnp.ones((2, 2))
    params = {"bias": jnp.ones(2), "kernel": shared, "tied": shared, "key": jax.random.key(0), "scale": jnp.ones(2)}
    rules = jaxreg.TreeRegularizer({"bias": None, "[kt]*": jaxreg.L2(1.0)})
    leaves = by_path(jaxreg.summary(rules, params))
    assert {path: leaf.left_out for path, leaf in leaves.items()} == {
        "bias": "by the rule 'bias'",
        "kernel": "",
        "key": "not a float or complex array",
        "scale": "no rule matches",
        "tied": "the same array as kernel",
    }
    text = str(jaxreg.summary(rules, params))
    for line in (
        "rule 'bias', None, leaves out 1 leaf",
        "left out, no rule matches: scale",
        "left out, not a float or complex array: key",
        "left out, the same array as kernel: tied",
    ):
        assert line in text.splitlines()


def test_a_rule_that_matches_nothing_is_shown_where_the_call_raises():
    with pytest.raises(ValueError, match="kernle"):
        RULES(PARAMS)
    summary = jaxreg.summary(RULES, PARAMS)
    assert summary.unmatched == ("**/kernle",)
    assert "rule '**/kernle', L2(l2=0.01): NO LEAF MATCHES" in str(summary)


def test_a_plain_regularizer_is_for_all_floating_leaves():
    summary = jaxreg.summary(jaxreg.L1(1.0), PARAMS)
    assert summary.penalty == 8 + 3 + 3
    assert summary.unmatched == ()


def test_penalties_without_a_useful_gradient_do_not_warn():
    summary = jaxreg.summary(jaxreg.L0(1.0), PARAMS)
    assert (summary.penalty, summary.gradient_norm) == (11.0, 0.0)


def test_frozen_leaves_boxes_and_modules():
    masked = {"a": jnp.ones(2), "b": optax.MaskedNode(), "c": None}
    assert list(by_path(jaxreg.summary(jaxreg.L1(1.0), masked))) == ["a"]
    init = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
    linen = nn.Dense(3, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 2)))
    model = nnx.Linear(2, 3, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    for tree, path in ((linen, "params/kernel"), (nnx.state(model, nnx.Param), "kernel"), (model, "kernel")):
        leaf = by_path(jaxreg.summary(jaxreg.L1(1.0), tree))[path]
        assert (leaf.penalty, leaf.shape) == (6.0, (2, 3))


def test_sharded_leaves_stay_where_they_are():
    mesh = Mesh(np.array(jax.devices()[:8]), ("x",))
    kernel = jax.device_put(np.ones((16, 4), np.float32), NamedSharding(mesh, PartitionSpec("x")))
    assert jaxreg.summary(jaxreg.L1(0.5), {"kernel": kernel}).penalty == 32.0


def test_without_values_it_raises():
    with pytest.raises(TypeError, match=r"`jaxreg\.summary` counts in arrays that have values"):
        jaxreg.summary(jaxreg.L1(1.0), {"w": jax.ShapeDtypeStruct((2,), jnp.float32)})


def test_overflow_and_nan_are_shown_as_they_are():
    summary = jaxreg.summary(jaxreg.L2(1.0), {"a": jnp.full(2, 1e30), "b": jnp.array([jnp.nan])})
    assert summary.leaves[0].penalty == math.inf
    assert math.isnan(summary.leaves[1].penalty)
    assert "nan" in str(summary) and "inf" in str(summary)


def test_a_share_of_infinity_is_none():
    assert "nan" not in str(jaxreg.summary(jaxreg.Box(0.0, 1.0), {"w": jnp.array([3.0])}))


def test_arrays_in_a_regularizer_are_shown_by_their_shapes():
    params = {f"w{i}": jnp.zeros((20, 30)) for i in range(3)}
    rules = jaxreg.TreeRegularizer({"w*": jaxreg.L1(0.5)}).anchored(jax.tree.map(jnp.ones_like, params))
    summary = jaxreg.summary(rules, params)
    assert summary.penalty == 0.5 * 1800
    assert summary.as_dict()["leaves"][0]["regularizer"] == (
        "Anchored(penalty=L1(l1=0.5), reference=<20×30 f32>, weights=None)"
    )


def test_functions_in_a_module_are_no_leaves():
    model = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))
    summary = jaxreg.summary(jaxreg.L2(0.1), model)
    assert len(summary.leaves) == 4
    assert summary.penalty == pytest.approx(
        sum(0.1 * float((w**2).sum()) for w in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    )


def test_an_empty_tree():
    assert "0 leaves" in str(jaxreg.summary(jaxreg.TreeRegularizer({}), {}))


def test_sets_say_how_much_of_a_leaf_is_within():
    """Counted by hand; a rank with the rounding of the dtype that holds the matrix."""
    rng = np.random.default_rng(0)
    low = rng.normal(size=(6, 3)) @ rng.normal(size=(3, 5))
    blocks = np.float32([[1, 0, 1, 0, 1], [1, 1, 0, 0, 1], [np.nan, 0, 0, 0, 0]])
    params = {
        "blocks": blocks,  # the short last column is a block too
        "rows": blocks.copy(),
        "low": np.float32(low),
        "conv": np.float32(low).reshape(2, 3, 5),
        "stack": np.float32([np.eye(2), np.ones((2, 2)), np.zeros((2, 2))]),
        "half": jnp.asarray(low, jnp.bfloat16),
        "bad": np.full((2, 2), np.inf, np.float32),
        "free": blocks.copy(),
    }
    rules = {
        "blocks": 2.0 * jaxreg.NofM(1, 2, axis=1) + jaxreg.L2(0.1),
        "rows": jaxreg.TopK(0.4, axis=-1),
        "conv": jaxreg.Matrix(jaxreg.Rank(2)),
        "stack": jaxreg.Stacked(jaxreg.Rank(1)),
        "free": jaxreg.L1(0.1),
        "**": jaxreg.Rank(2),
    }
    summary = jaxreg.summary(jaxreg.TreeRegularizer(rules), params)
    found = {path: (leaf.conforming, leaf.blocks, leaf.rank) for path, leaf in by_path(summary).items()}
    assert found == {
        "blocks": (8, 9, None), "rows": (1, 3, None), "low": (None, None, 3), "conv": (None, None, 3),
        "stack": (None, None, 2), "half": (None, None, 3), "bad": (None,) * 3, "free": (None,) * 3,
    }  # fmt: skip
    text = " ".join(str(summary).split())
    assert "penalty nan, 8 of 9 blocks conform" in text and "1 of 3 blocks conform" in text
    assert "3 leaves, penalty inf, rank 3" in text or "3 leaves, penalty nan, rank 3" in text


def transformer(layers):
    """10 leaves a layer, and names as long as they are in life."""
    ones = np.ones
    block = {
        "self_attention": {name: {"kernel": ones((8, 8), np.float32)} for name in ("query", "key", "value", "out")},
        "mlp": {"Dense_0": {"kernel": ones((8, 32), np.float32), "bias": ones(32, np.float32)}},
        "LayerNorm_0": {"scale": ones(8, np.float32), "bias": ones(8, np.float32)},
        "LayerNorm_1": {"scale": ones(8, np.float32), "bias": ones(8, np.float32)},
    }
    return {"params": {"encoder": {f"encoder_block_{i}": jax.tree.map(np.copy, block) for i in range(layers)}}}


def test_the_work_grows_with_the_number_of_leaves_and_of_rules_and_not_with_their_product(calls):
    def work(n):
        params = {f"block_{i}": {"kernel": np.ones((2, 3), np.float32)} for i in range(n)}
        each = jaxreg.TreeRegularizer([(f"block_{i}/*", jaxreg.L2(0.5)) for i in range(n)])
        summary = jaxreg.summary(each + jaxreg.TreeRegularizer({"**": jaxreg.L1(0.1)}), params)
        assert summary.penalty == pytest.approx(3.6 * n)
        return lambda: (jaxreg.summary(each, params), jaxreg.summary(jaxreg.L1(0.1), params), str(summary))

    work(2)()  # which compiles
    few, many = work(50), work(200)
    assert calls(many) < 6 * calls(few)


def test_small_leaves_are_measured_together_and_each_by_itself():
    """Values of NumPy for leaves of several sizes, dtypes and penalties, more of one kind than fit into one program."""
    rng = np.random.default_rng(0)
    sizes = [0, 1, 7, 1024, 1025, 70000, *range(1, 70)]
    params = {f"{i}": rng.normal(size=n).astype(np.float32) for i, n in enumerate(sizes)}
    params |= {f"half_{n}": rng.normal(size=n).astype(np.float16) for n in (3, 5)}
    rules = jaxreg.TreeRegularizer({"half*": jaxreg.L1(0.5), "[1-3]*": jaxreg.L2(0.5), "**": jaxreg.Huber(2.0, 0.5)})
    for path, leaf in by_path(jaxreg.summary(rules, params)).items():
        x, size = params[path].astype(np.float64), np.abs(params[path].astype(np.float64))
        if path.startswith("half"):
            penalty, gradient = size.sum() / 2, np.sign(x) / 2
        elif path[0] in "123":
            penalty, gradient = (x**2).sum() / 2, x
        else:
            inside = size < 0.5
            penalty, gradient = 2 * np.where(inside, x**2, size - 0.25).sum(), 2 * np.where(inside, 2 * x, np.sign(x))
        assert (leaf.penalty, leaf.gradient_norm) == pytest.approx((penalty, np.linalg.norm(gradient)), rel=1e-5), path


def test_a_thousand_leaves_are_fast_and_readable():
    params = transformer(100)
    rules = jaxreg.TreeRegularizer.for_weights(jaxreg.L1(0.001))
    start = time.process_time()
    summary = jaxreg.summary(rules, params)
    text = str(summary)
    assert time.process_time() - start < 5.0
    assert len(summary.leaves) == 1000
    assert summary.penalty == pytest.approx(0.001 * 100 * (4 * 64 + 256), rel=1e-5)
    lines = text.splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= 80
    assert "params/encoder/encoder_block_{0..99}/self_attention/query/kernel ×100" in lines


@pytest.mark.parametrize(
    "reg",
    [
        jaxreg.L1L2(0.0012345, 0.00012345),
        jaxreg.TreeRegularizer({"**": jaxreg.L1(0.1) + jaxreg.Group(jaxreg.MCP(0.5, 3.0), axis=0)}),
    ],
    ids=["long numbers", "nested"],
)
def test_80_columns_hold_it(reg):
    params = {**transformer(1), "Conv_0": {"kernel": np.ones((3, 3, 256, 512), np.float32)}}
    lines = str(jaxreg.summary(reg, params)).splitlines()
    assert max(map(len, lines)) <= 80
    stripped = [line.strip() for line in lines]
    assert "params/encoder/encoder_block_0/self_attention/query/kernel" in stripped


@pytest.mark.parametrize("width", [30, 40, 60, 79, 80, 120])
def test_a_narrow_terminal_shows_a_number_whole_or_says_that_it_does_not(width):
    """What rich cuts off at the edge of a terminal would be another number: 0.0 for 0.0173."""
    summary = jaxreg.summary(RULES, PARAMS)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary)
    shown = console.export_text()
    header, _, body = shown.partition("─")
    columns = header.split()
    hidden = shown.partition("in a wider terminal: ")[2].partition("rule ")[0].replace(",", " ").split()
    assert columns + hidden == str(summary).splitlines()[0].split()
    assert bool(hidden) == (width < 80 and len(str(summary).splitlines()[1]) > width)
    kernel = next(leaf for leaf in summary.leaves if leaf.path == "Dense_0/kernel")
    numbers = {"penalty": f"{kernel.penalty:.3g}", "‖∇R‖": f"{kernel.gradient_norm:.3g}"}
    assert all(number in body.split() for name, number in numbers.items() if name in columns)


def test_json_is_exact_and_plain():
    summary = jaxreg.summary(RULES, PARAMS)
    read = json.loads(json.dumps(summary.as_dict()))
    assert read == json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    leaf = next(leaf for leaf in read["leaves"] if leaf["path"] == "Dense_0/kernel")
    assert (leaf["shape"], leaf["penalty"], leaf["regularizer"]) == ([2, 3], 4.0, "L1(l1=0.5)")
    assert read["total"]["penalty"] == 7.0
    assert read["unmatched"] == ["**/kernle"]


def test_html_escapes_and_rich_shows_the_same_words():
    params = {"<script>": jnp.ones(2)}
    html = jaxreg.summary(jaxreg.L1(1.0), params)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    console = Console(width=80, record=True, file=io.StringIO())
    summary = jaxreg.summary(RULES, PARAMS)
    console.print(summary)
    assert [line.rstrip() for line in console.export_text().splitlines()] == str(summary).splitlines()
