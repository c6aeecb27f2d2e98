"""`TreeBudget`: one threshold over leaves, by sorting in NumPy; ties, metrics, groups, dtypes, devices, training."""

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
            assert budget(params) == (0 if left <= k else np.inf) and budget(pruned) == 0
            gone = np.sqrt(sum((x[~m].astype(float) ** 2).sum() for m, x in zip(masks, leaves, strict=True)))
            np.testing.assert_allclose(budget.violation(params), gone, rtol=1e-5)
            assert sum(map(float, budget.breakdown(params).values())) == budget(params)


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
    new = optax.apply_updates(w, tx.update(jax.tree.map(jnp.zeros_like, w), tx.init(w), w)[0])
    assert new["a"].dtype == jnp.bfloat16 and new["a"].tolist() == [1, 0] and new["b"].tolist() == [0, 2]
    inner = optax.masked(optax.adam(0.1), {"a": True, "b": False})
    for budget in (TreeBudget(2), TreeBudget({"b": None, "**": 2})):
        tx = jaxreg.proximal(
            optax.chain(inner, optax.masked(optax.set_to_zero(), {"a": False, "b": True})),
            budget,
            0.1,
            jaxreg.adam_metric(),
        )
        if budget == TreeBudget(2):
            with pytest.raises(
                ValueError, match=r"does not step a leaf of shape \(2,\).*Leave it out by a rule `None`"
            ):
                tx.update(w, tx.init(w), w)
        else:
            tx.update(w, tx.init(w), w)


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


def test_too_many_entries_to_count() -> None:
    big = {name: jax.ShapeDtypeStruct((2**16, 2**15), "float32") for name in "ab"}
    with pytest.raises(
        NotImplementedError, match=r"less than 2³² entries or groups, got 4294967296.*count groups, `axis=...`"
    ):
        jax.eval_shape(TreeBudget(2).prox, big)
    assert jax.eval_shape(TreeBudget(2, axis=0).prox, big) == big
    rules = {"a": 2, "b": 2}
    assert jax.eval_shape(TreeBudget(rules).prox, big) == big
