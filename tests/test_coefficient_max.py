"""The top of a path: zero is the minimum at it, and no longer just below."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import enet_path, lasso_path

import jaxreg
from jaxreg import L1, L1L2, L2, Group

RNG = np.random.default_rng(0)
GRADS = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)

LABELS = np.array([[0, 0, 1, 1, 1, 1], [2, 2, 2, 1, 1, 1], [1] * 6, [0, 0, 2, 2, 2, 2]])  # of 4, 13 and 7 entries

MAKERS: dict[str, Any] = {
    "L1": L1,
    "L1L2": lambda c: L1L2(c, 0.7),
    "2 * L1": lambda c: 2 * L1(c),
    "L1 + L2": lambda c: L1(c) + L2(0.3),
    "Group axis 0": lambda c: Group(L1(c), axis=0),
    "Group axis 1": lambda c: Group(L1L2(c, 0.1), axis=1),
    "Group all": lambda c: Group(L1(c), axis=None),
    "Group sqrt_size": lambda c: 0.5 * Group(3 * L1(c), axis=0, weight="sqrt_size"),
    "L1 + 2 * L2": lambda c: L1(c) + 2 * L2(0.3),
    "2 * (L1 + L2) + L2": lambda c: 2 * (L1(c) + L2(0.1)) + L2(0.3),
    "NonNegative + L1": lambda c: jaxreg.NonNegative() + L1(c),
    "2 * NonNegative + L2 + Group": lambda c: 2 * jaxreg.NonNegative() + L2(0.1) + Group(L1(c), axis=1),
    "Stacked L1": lambda c: jaxreg.Stacked(L1(c)),
    "Stacked Group": lambda c: 2 * jaxreg.Stacked(Group(L1(c) + L2(0.1), axis=0), axes=(1,)),
    "Matrix": lambda c: 2 * jaxreg.Matrix(Group(L1(c), axis=0), outputs=0),
    "Stacked Matrix": lambda c: jaxreg.Stacked(jaxreg.Matrix(L1(c) + L2(0.1), outputs=()), axes=(1,)),
    "Anchored at 0": lambda c: jaxreg.Anchored(2 * L1(c), 0.0),
    "weights": lambda c: jaxreg.Anchored(L1(c) + L2(0.1), 0.0, weights=np.arange(1.0, 25).reshape(4, 6)),
    "labels": lambda c: Group(L1(c), groups=LABELS),
    "labels sqrt_size": lambda c: 2 * Group(L1(c), groups=LABELS, weight="sqrt_size") + L2(0.1),
    "weights of labels sqrt_size": lambda c: jaxreg.Weighted(
        Group(L1(c), groups=LABELS, weight="sqrt_size"), np.array([3.0, 1.0, 2.0])
    ),
    "labels in a tree": lambda c: jaxreg.TreeRegularizer({"**": Group(L1(c), groups=LABELS, weight="sqrt_size")}),
    "a tree": lambda c: jaxreg.TreeRegularizer({"**": L1(c)}),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_zero_is_stationary_at_the_top_and_not_below(make: Any) -> None:
    # 0 is the minimum of ⟨g, w⟩ + ½‖w‖² + R(w) exactly if prox_R(−g) = 0
    top = float(jaxreg.coefficient_max(make(123.0), GRADS))
    assert not np.any(make(top * (1 + 1e-5)).prox(-GRADS))
    assert np.any(make(top * (1 - 1e-5)).prox(-GRADS))


@pytest.mark.parametrize(("reg", "path", "ratio"), [(L1(), lasso_path, 1.0), (L1L2(), enet_path, 0.5)])
def test_the_first_strength_of_scikit_learns_paths(reg: Any, path: Any, ratio: float) -> None:
    X, y = load_diabetes(return_X_y=True)
    alphas = path(X, y, **({} if ratio == 1 else {"l1_ratio": ratio}))[0]
    with jax.enable_x64(True):
        grads = jax.grad(lambda w: jnp.mean((X @ w - y) ** 2) / 2)(jnp.zeros(X.shape[1]))
        assert float(jaxreg.coefficient_max(reg, grads)) == pytest.approx(ratio * alphas[0], rel=1e-12)


def test_trees_take_the_largest_of_the_penalized_leaves() -> None:
    rules = jaxreg.TreeRegularizer({"kernel": Group(L1(), axis=0), "scale": 2 * L1(), "bias": None})
    grads = {"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.array([100.0]), "scale": jnp.array([-11.0])}
    assert float(jaxreg.coefficient_max(rules, grads)) == 5.5
    assert float(jax.jit(jaxreg.coefficient_max)(rules, grads)) == 5.5


def test_groups_of_other_sizes_beside_other_leaves() -> None:
    rules = jaxreg.TreeRegularizer({"a": Group(L1(), groups=[0, 0, 1, 1, 1], weight="sqrt_size"), "b": L1()})
    grads = {"a": jnp.array([1.0, 0, 0, 0, 1.1]), "b": jnp.array([0.5])}
    assert float(jaxreg.coefficient_max(rules, grads)) == pytest.approx(1 / np.sqrt(2))  # 1.1/√3 is less


def test_empty_and_zero() -> None:
    for reg in (L1(), 0.0 * L1(), Group(L1(), axis=0, weight="sqrt_size")):
        assert float(jaxreg.coefficient_max(reg, jnp.zeros((0, 3)))) == 0
        assert float(jaxreg.coefficient_max(reg, jnp.zeros((2, 3)))) == 0


def test_an_anchor_away_from_zero_stays_there_from_the_coefficient_of_the_penalty_inside() -> None:
    anchored = jaxreg.Anchored(Group(L1(), axis=0), 0.5)
    with pytest.raises(NotImplementedError, match=r"go to a reference, got 0\.5") as raised:
        jaxreg.coefficient_max(anchored, GRADS)
    call = re.findall("`([^`]+)`", str(raised.value))[-1]
    top = float(eval(call, {"jaxreg": jaxreg, "anchored": anchored, "grads_at_reference": GRADS}))
    for factor in (1 + 1e-5, 1 - 1e-5):  # ⟨g, w⟩ + ½‖w − reference‖² + R(w)
        found = jaxreg.Anchored(Group(L1(top * factor), axis=0), 0.5).prox(0.5 - GRADS)
        assert np.all(np.asarray(found) == 0.5) == (factor > 1)


def test_what_has_no_answer_raises() -> None:
    for reg in (L2(), Group(L2()), jaxreg.Lq(), L1() + Group(L1()), jaxreg.Spectral(L1())):
        with pytest.raises(NotImplementedError, match="`coefficient_max` knows L1"):
            jaxreg.coefficient_max(reg, GRADS)
    for reg in (jaxreg.Difference(L1()), jaxreg.Matrix(L2()), jaxreg.Stacked(L1() + jaxreg.Box(-1.0, 1.0))):
        with pytest.raises(NotImplementedError, match="`coefficient_max` knows L1"):
            jaxreg.coefficient_max(reg, GRADS)
    with pytest.raises(TypeError, match="takes a regularizer"):
        jaxreg.coefficient_max("l1", GRADS)
    with pytest.raises(ValueError, match="no leaf"):
        jaxreg.coefficient_max(jaxreg.TreeRegularizer({"**": None}), GRADS)
