"""`TreeBudget`: one threshold over leaves, by sorting in NumPy; ties, metrics, groups, dtypes, devices, training."""

import functools
import json
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxreg
from jaxreg import TreeBudget
from jaxreg._core import compiler
from jaxreg.penalties import _counts, _threshold
from tests.training import SOME_OPTIMIZATIONS

pytestmark = pytest.mark.wide  # a program for each kind of tree

SHAPES = {"a": {"kernel": (4, 3), "bias": (3,)}, "b": {"kernel": (3, 5)}}


def tree(seed: int = 0, digits: int = 9) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).round(digits).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def largest(leaves: list[Any], k: int) -> list[Any]:
    """Masks of the k largest numbers; of equal ones the first, leaf after leaf."""
    flat = np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])
    stay = np.zeros(flat.size, bool)
    stay[np.argsort(-flat, kind="stable")[:k]] = True
    return [
        m.reshape(np.shape(x))
        for m, x in zip(np.split(stay, np.cumsum([np.size(x) for x in leaves])[:-1]), leaves, strict=True)
    ]


prox = jax.jit(lambda budget, params, step=1.0: budget.prox(params, step))


@jax.jit
def look(budget: TreeBudget, params: Any) -> tuple[jax.Array, ...]:
    return budget(params), budget.violation(params), budget.breakdown(params)


def same(found: Any, expected: list[Any]) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(found), expected)


@pytest.mark.parametrize("digits", [9, 0], ids=["different", "many equal"])
def test_the_largest_of_all_leaves(digits: int) -> None:
    for seed in range(3):
        params = tree(seed, digits)
        leaves = jax.tree.leaves(params)
        for budget, k in ((TreeBudget(7), 7), (TreeBudget(0.5), 15), (TreeBudget(0.0), 0), (TreeBudget(99), 30)):
            pruned = prox(budget, params)
            masks = largest([abs(x) for x in leaves], k)
            same(pruned, [np.where(m, x, 0) for m, x in zip(masks, leaves, strict=True)])
            left = sum((x != 0).sum() for x in leaves)
            value, violation, parts = look(budget, params)
            assert value == (0 if left <= k else np.inf) and look(budget, pruned)[0] == 0
            gone = np.sqrt(sum((x[~m].astype(float) ** 2).sum() for m, x in zip(masks, leaves, strict=True)))
            np.testing.assert_allclose(violation, gone, rtol=1e-5)
            assert sum(map(float, parts.values())) == value


def test_each_rule_is_a_budget_of_its_own() -> None:
    params = tree()
    a, bias, b = params["a"]["kernel"], params["a"]["bias"], params["b"]["kernel"]
    for rules in ({"**/bias": None, "**": 0.25}, [("**/bias", None), ("**", 7)]):
        masks = largest([abs(a), abs(b)], 7)
        same(prox(TreeBudget(rules), params), [bias, np.where(masks[0], a, 0), np.where(masks[1], b, 0)])
    pruned = prox(TreeBudget({"a/*": 4, "b/*": 2}), params)
    assert [
        (pruned["a"]["kernel"] != 0).sum() + (pruned["a"]["bias"] != 0).sum(),
        (pruned["b"]["kernel"] != 0).sum(),
    ] == [4, 2]
    assert set(TreeBudget({"**/kernel": 3}).assignment(params)) == {"a/kernel", "b/kernel"}


def test_in_a_metric() -> None:
    """What it costs to remove an entry is |z|²/τ."""
    params, steps = tree(), jax.tree.map(np.exp, tree(1))
    leaves, taus = jax.tree.leaves(params), jax.tree.leaves(steps)
    masks = largest([x.astype(float) ** 2 / t for x, t in zip(leaves, taus, strict=True)], 9)
    same(prox(TreeBudget(9), params, steps), [np.where(m, x, 0) for m, x in zip(masks, leaves, strict=True)])
    scalars = {"a": {"kernel": 4.0, "bias": 1.0}, "b": {"kernel": 0.25}}
    cost = [x.astype(float) ** 2 / t for x, t in zip(leaves, jax.tree.leaves(scalars), strict=True)]
    masks = largest(cost, 9)
    same(prox(TreeBudget(9), params, scalars), [np.where(m, x, 0) for m, x in zip(masks, leaves, strict=True)])


@pytest.mark.parametrize("metric", [False, True], ids=["scalar", "metric"])
def test_groups(metric: bool) -> None:
    """The units of the kernels, by their norms."""
    params = {"a": tree()["a"]["kernel"], "b": tree()["b"]["kernel"]}
    steps = (
        {"a": np.exp(tree(1)["a"]["kernel"]), "b": np.exp(tree(1)["b"]["kernel"])} if metric else {"a": 1.0, "b": 1.0}
    )
    masks = largest([np.sum(params[n].astype(float) ** 2 / steps[n], 0, keepdims=True) for n in "ab"], 3)
    found = prox(TreeBudget(3, axis=-2), params, jax.tree.map(jnp.float32, steps) if metric else 1.0)
    same(found, [np.where(m, params[n], 0) for m, n in zip(masks, "ab", strict=True)])


def test_mixed_dtypes_and_what_is_no_parameter() -> None:
    params = {
        "half": jnp.array([1.0, -3.0], jnp.bfloat16), "whole": jnp.array([2.0, 0.5]), "complex": jnp.array([3j, 0.1]),
        "step": jnp.int32(7), "none": None, "nan": jnp.array([jnp.nan, 0.1]), "empty": jnp.zeros((0, 2)),
    }  # fmt: skip
    found = prox(TreeBudget(3), params)
    expected = {"half": [0, -3], "whole": [0, 0], "complex": [3j, 0], "nan": [np.nan, 0]}
    for name, value in expected.items():
        assert found[name].dtype == params[name].dtype
        np.testing.assert_array_equal(np.asarray(found[name], complex), np.asarray(value, complex))
    assert found["step"] == 7 and found["none"] is None and np.isnan(TreeBudget(3)(params))


@pytest.mark.parametrize("rule", [0.5, 2])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_tree_without_entries_keeps_to_every_budget(rule: float, axis: int | None) -> None:
    params, budget = {"a": jnp.zeros((0, 3)), "b": jnp.zeros((2, 0))}, TreeBudget(rule, axis=axis)
    value, violation, _ = look(budget, params)
    assert jax.tree.map(jnp.shape, prox(budget, params)) == {"a": (0, 3), "b": (2, 0)}
    assert value == 0 and violation == 0


def test_shares_are_leaves() -> None:
    params = tree()
    for share in (0.1, 0.3, 0.07):
        assert sum((x != 0).sum() for x in jax.tree.leaves(prox(TreeBudget(share), params))) == np.ceil(
            share * 30 - 1e-9
        )
    left = jax.jit(jax.vmap(lambda s: sum(jnp.sum(x != 0) for x in jax.tree.leaves(TreeBudget(s).prox(params)))))
    counts = left(jnp.array([0.1, 0.5]))
    assert counts.tolist() == [3, 15]
    assert jax.grad(lambda p: TreeBudget(0.5)(p))(jnp.ones(3)).tolist() == [0, 0, 0]


def test_json_equality_and_pickles() -> None:
    for budget in (TreeBudget(0.1), TreeBudget(3, axis=-2), TreeBudget({"**/bias": None, "**": 0.25}, axis=(0, 1))):
        config = json.loads(json.dumps(jaxreg.serialize(budget)))
        for again in (jaxreg.deserialize(config), eval(repr(budget), vars(jaxreg)), pickle.loads(pickle.dumps(budget))):
            assert again == budget and hash(again) == hash(budget) and repr(again) == repr(budget)
    assert TreeBudget(1) != TreeBudget(1.0) and 2.0 * TreeBudget(0.1) == TreeBudget(0.1)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_sharded(kind: AxisType) -> None:
    """As on one device; what devices send each other are counts, no leaf."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    values = {
        name: np.random.default_rng(i).normal(size=(16, 3)).astype(np.float32).round(1) for i, name in enumerate("ab")
    }
    params = jax.device_put(values, NamedSharding(mesh, PartitionSpec("x")))
    with jax.set_mesh(mesh):
        compiled = prox.lower(TreeBudget(20), params).compile()
        found = compiled(TreeBudget(20), params)
    same(found, jax.tree.leaves(prox(TreeBudget(20), values)))
    assert all(x.sharding.is_equivalent_to(params["a"].sharding, 2) for x in jax.tree.leaves(found))
    assert "all-gather" not in compiled.as_text()


# ----------------------------------------------------------------------------------------------------------- training


A = {"a": np.array([3.0, 0.4, -1.0]), "b": np.array([[0.5, -2.0]])}


@pytest.mark.parametrize("options", [{}, {"latent": True}, {"every": 2}], ids=str)
@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
def test_training_keeps_the_budget(adam: bool, options: Any) -> None:
    """½‖w − a‖² over two leaves: three entries stay, along the cubic ramp of shares, and one trace."""
    share = optax.polynomial_schedule(1.0, 0.6, power=3, transition_steps=50)
    if adam:
        tx = jaxreg.proximal_adam(0.05, lambda step: TreeBudget(share(step)), **options)
    else:
        tx = jaxreg.proximal(optax.sgd(0.1), lambda step: TreeBudget(share(step)), 0.1, **options)
    w = jax.tree.map(lambda a: jnp.float32(np.sign(a)), A)
    state, update = tx.init(w), jax.jit(tx.update)
    for _ in range(200):
        updates, state = update(jax.tree.map(jnp.subtract, w, A), state, w)
        w = optax.apply_updates(w, updates)
    assert update._cache_size() == 1
    assert TreeBudget(3)(w) == 0
    if not adam and not options.get(
        "latent"
    ):  # Adam's metric has no mercy on what is at rest; straight through it swings
        np.testing.assert_allclose(w["a"], [3, 0, -1], atol=2e-2)
        np.testing.assert_allclose(w["b"], [[0, -2]], atol=2e-2)


def test_half_precision_and_frozen_leaves() -> None:
    w = {"a": jnp.array([1.0, 0.5], jnp.bfloat16), "b": jnp.array([0.75, 2.0])}
    tx = jaxreg.proximal(optax.sgd(0.1), TreeBudget(2), 0.1)
    new = jax.jit(lambda w: optax.apply_updates(w, tx.update(jax.tree.map(jnp.zeros_like, w), tx.init(w), w)[0]))(w)
    assert new["a"].dtype == jnp.bfloat16 and new["a"].tolist() == [1, 0] and new["b"].tolist() == [0, 2]
    inner = optax.masked(optax.adam(0.1), {"a": True, "b": False})
    for budget in (TreeBudget(2), TreeBudget({"b": None, "**": 2})):
        tx = jaxreg.proximal(
            optax.chain(inner, optax.masked(optax.set_to_zero(), {"a": False, "b": True})),
            budget,
            0.1,
            jaxreg.adam_metric(),
        )
        step = functools.partial(jax.jit(lambda w, tx=tx: tx.update(w, tx.init(w), w)), w)
        if budget == TreeBudget(2):
            with pytest.raises(
                ValueError, match=r"does not step a leaf of shape \(2,\).*Leave it out by a rule `None`"
            ):
                step()
        else:
            step()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TreeBudget(1.5), ValueError, r"`TreeBudget\(share=...\)` must be a share between 0 and 1, or a count"),
        (lambda: TreeBudget(-1), ValueError, "non-negative number, got -1"),
        (lambda: TreeBudget(True), TypeError, "got True of type bool"),
        (lambda: TreeBudget("**/kernel"), TypeError, r"`jaxreg.TreeBudget\({'\*\*/kernel': 0.1}\)`"),
        (lambda: TreeBudget([0.1, 0.2]), TypeError, r"a rule is a pair \(pattern, share\), got 0.1"),
        (lambda: TreeBudget({"a/*": jaxreg.TopK(0.1)}), TypeError, "got TopK.*Write the number"),
        (lambda: TreeBudget({"c/*": 0.1})(tree()), ValueError, "`TreeBudget`: No leaf matches the pattern 'c/"),
        (lambda: TreeBudget(2, axis="a"), TypeError, r"`TreeBudget\(axis=...\)` must be an int"),
        (lambda: TreeBudget(2, axis=-2).prox(tree()), ValueError, r"`TreeBudget\(axis=...\)` must name different axes"),
        (lambda: 0.0 * TreeBudget(2), NotImplementedError, "every positive multiple is the set itself"),
        (lambda: TreeBudget(2) + TreeBudget(1), NotImplementedError, "Ask the tree"),
        (
            lambda: jaxreg.coefficient_max(TreeBudget(2), tree()),
            NotImplementedError,
            r"of `TreeBudget\(\[\('\*\*', 2\)\]\)`.*lambda c: jaxreg.TreeBudget\(1 - c\)",
        ),
        (lambda: jaxreg.TreeBudget.from_config({"rules": [["**"]], "axis": None}), ValueError, "takes {'rules'"),
    ],
    ids=["above one", "negative", "bool", "string", "numbers", "penalty", "pattern", "axis", "rank", "nothing", "sum",
         "top", "config"],
)  # fmt: skip
def test_what_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_positive_multiple_is_the_set_itself_and_tied_arrays_stay_tied() -> None:
    assert all(factor * TreeBudget(2) == TreeBudget(2) for factor in (2, np.float32(2), jnp.float32(2)))
    w = jnp.array([3.0, 2.0])
    pruned = TreeBudget(1).prox({"a": w, "b": w})  # one entry, which stands in two places
    np.testing.assert_array_equal([pruned["a"], pruned["b"]], [[3.0, 0.0]] * 2)


def test_more_entries_than_a_uint32_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack of layers in parts, and counts in two limbs; the same with parts of a few entries."""
    big = {name: jax.ShapeDtypeStruct((5, 2**16, 2**14), "float32") for name in "ab"}
    assert jax.eval_shape(TreeBudget(0.1).prox, big) == big
    monkeypatch.setattr(_threshold, "_MOST", 12)
    rng = np.random.default_rng(0)
    for digits, k in ((9, 21), (0, 21), (0, 50)):
        leaves = [rng.normal(size=shape).round(digits).astype(np.float32) for shape in ((4, 3, 4), (2, 2, 6), (5,))]
        masks = largest([abs(x) for x in leaves], k)
        same(prox(TreeBudget(k), leaves), [np.where(m, x, 0) for m, x in zip(masks, leaves, strict=True)])
    million = jnp.full(60_000, 2**31 + 3, jnp.uint32)
    count = _counts.total(million)
    assert int(count.high) * 65536 + int(count.low) == 60_000 * (2**31 + 3)
    less = count.minus(_counts.total(million[:-1]))
    assert int(less.clipped()) == 2**31 + 3 and bool(count.reaches(less)) and not bool(less.reaches(count))
    k = _counts.allowed_of_all(0.5, 7 * 10**10)
    np.testing.assert_allclose(int(k.high) * 65536 + int(k.low), 3.5e10, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------- the search


def kinds(rng: np.random.Generator, n: int) -> dict[str, Any]:
    one = np.float32(1).view(np.uint32)
    return {
        "normal": rng.normal(size=n),
        "ties": rng.integers(-3, 4, size=n),
        "equal": np.full(n, -1.5),
        "half zero": np.where(rng.random(n) < 0.5, 0, rng.normal(size=n)),
        "scales": rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, size=n),
        "special": rng.choice([0, -0.0, 1e-40, -1e-45, 1e-38, 3e38, np.inf, -np.inf, np.nan, 1, -1], size=n),
        "subnormal": rng.integers(0, 50, size=n) * 1e-45,
        "neighbours": (one + rng.integers(0, 9, size=n).astype(np.uint32)).view(np.float32),
    }


@pytest.mark.parametrize("dtypes", ["float32", "float64", "bfloat16", "float32 bfloat16 float16 float32"])
def test_the_search_by_brute_force(dtypes: str) -> None:
    """Which entries stay, for all counts: nan above inf, of equal ones the first, and 0 does not matter."""
    rng, shapes = np.random.default_rng(0), ((13, 7), (5,), (), (2, 3, 4))
    names = dtypes.split() * (4 // len(dtypes.split()))
    with jax.enable_x64("float64" in names):
        dtype = jnp.result_type(*names)
        stay = jax.jit(lambda leaves, k: _threshold.stay(leaves, dtype, _counts.total(k[None]))[0])
        for values in kinds(rng, 121).values():
            split = np.split(values.astype(np.float64), np.cumsum([np.prod(s, dtype=int) for s in shapes])[:-1])
            leaves = [jnp.asarray(x.reshape(s)).astype(d) for x, s, d in zip(split, shapes, names, strict=True)]
            flat = np.concatenate([np.abs(np.asarray(x).astype(np.float64)).ravel() for x in leaves])
            order = np.lexsort((np.arange(121), -np.nan_to_num(flat, nan=0, posinf=np.inf), ~np.isnan(flat)))
            for k in (0, 1, 17, 60, 120, 121, 130):
                found = np.concatenate([np.asarray(m).ravel() for m in stay(leaves, jnp.uint32(k))])
                expected = np.zeros(121, bool)
                expected[order[:k]] = True
                np.testing.assert_array_equal(found & (flat != 0), expected & (flat != 0))


def test_how_many_reads_the_search_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few for weights as they are, and a bound for all: with seven pivots, as on a TPU and a GPU."""
    monkeypatch.setattr(compiler, "by_device", lambda on_cpu, elsewhere, *operands: elsewhere(*operands))
    rng, shape = np.random.default_rng(0), (2, 400, 400)
    normal = rng.normal(size=shape)
    dead = np.where(abs(normal) > 1.6, normal, 0)
    few = {
        "normal": normal,
        "Laplace": rng.laplace(size=shape),
        "heavy tails": rng.standard_t(2, size=shape),
        "scales": normal * np.array([1, 1e-3])[:, None, None],
        "columns": normal * np.where(np.arange(400) % 16, 1, 100),
        "after a step of Adam": dead + 1e-3 * np.sign(rng.normal(size=shape)),
    }

    @functools.partial(jax.jit, compiler_options=SOME_OPTIMIZATIONS)
    def reads(x: jax.Array, k: jax.Array) -> jax.Array:
        return _threshold.stay(list(x), x.dtype, _counts.total(k[None]))[1]

    counts = [int(share * normal.size) for share in (0.7, 0.3, 0.1, 0.01)]
    for name, values in few.items():
        taken = [int(reads(jnp.float32(values), jnp.uint32(k))) for k in counts]
        assert max(taken) <= 6 and np.mean(taken) <= 4.5, (name, taken)
    nonzero = np.count_nonzero(dead)
    for values in (dead, np.sort(dead.ravel()).reshape(shape), 10.0 ** rng.integers(-38, 38, size=shape)):
        for k in (nonzero - 1, nonzero - 100, 1):
            assert reads(jnp.float32(values), jnp.uint32(k)) <= 17


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_a_sample_of_what_is_divided_is_not_gathered(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    value = np.random.default_rng(0).normal(size=(1040, 300)).astype(np.float32)
    with jax.set_mesh(mesh):
        leaf = jax.device_put(value, NamedSharding(mesh, PartitionSpec("x")))
        compiled = prox.lower(TreeBudget(0.1), leaf).compile()
        kept = compiled(TreeBudget(0.1), leaf) != 0
    assert kept.sum() == 31_200 and abs(value[kept]).min() > abs(value[~np.asarray(kept)]).max()
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-to-all"))
