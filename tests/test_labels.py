"""Groups by labels and sums of nested groups, against skglm, Clarabel, NumPy and the definition of the prox."""

import re
from collections.abc import Callable
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from skglm.penalties import block_separable

import jaxreg
from jaxreg import L0, L1, L1L2, L2, MCP, Group, Matrix, NonNegative, Stacked, Weighted

pytestmark = pytest.mark.wide

RNG = np.random.default_rng(0)
X, STEPS = RNG.normal(size=(4, 3)), RNG.uniform(0.2, 2, (4, 3))
LABELS = np.array([[0, 0, 1], [1, 2, -1], [2, 2, 2], [-1, 0, 3]])
FINE = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 3], [2, -1, 3]])
COARSE = np.array([[0], [0], [1], [1]])


@pytest.fixture(autouse=True)
def double() -> Any:
    with jax.enable_x64(True):
        yield


def members(labels: Any, shape: tuple[int, ...] = (4, 3)) -> list[Any]:
    labels = np.broadcast_to(labels, shape)
    return [labels == g for g in range(labels.max() + 1)]


# ------------------------------------------------------------------------------------------------ value, gradient, prox


@pytest.mark.core
@pytest.mark.parametrize("weight", ["none", "sqrt_size"])
def test_each_group_is_penalized_by_its_norm_and_entries_in_none_stay(weight: str) -> None:
    """By a loop over the groups, with penalties of one number; the gradient by the rule of the chain."""
    for rho in (L1(0.7), L1L2(0.3, 0.2), MCP(0.5, 2.0), L0(0.3)):
        reg = Group(rho, groups=LABELS, weight=weight)
        value, prox, gradient = 0.0, X.copy(), np.zeros_like(X)
        for inside in members(LABELS):
            norm, omega = np.linalg.norm(X[inside]), np.sqrt(inside.sum()) if weight == "sqrt_size" else 1.0
            value += omega * float(rho(norm))
            prox[inside] *= float(rho.prox(norm, 0.9 * omega)) / norm
            slope = 0 if isinstance(rho, L0) else float(jax.grad(rho)(norm))
            gradient[inside] = omega * slope * X[inside] / norm
        assert float(reg(X)) == pytest.approx(value, rel=1e-14)
        np.testing.assert_allclose(reg.prox(X, 0.9), prox, rtol=1e-13, err_msg=repr(rho))
        if not isinstance(rho, L0):
            np.testing.assert_allclose(jax.grad(reg)(jnp.asarray(X)), gradient, rtol=1e-13, err_msg=repr(rho))


@pytest.mark.parametrize("weights", [None, np.array([1.0, 2.0, 0.0, np.inf])], ids=["plain", "weighted"])
def test_in_a_metric_the_groups_are_stationary_or_zero(weights: Any) -> None:
    """0 ∈ c_g·∂‖w_g‖ + (w − z)/τ: for a zero group ‖z_g/τ_g‖ ≤ c_g, for entries in no group w = z."""
    group = Group(L1(0.5), groups=LABELS)
    reg, c = (group, np.full(4, 0.5)) if weights is None else (Weighted(group, weights), 0.5 * weights)
    z = np.where(LABELS == 1, 0.1 * X, X)
    w = np.asarray(reg.prox(z, STEPS))
    np.testing.assert_array_equal(w[LABELS == -1], z[LABELS == -1])
    zeros = 0
    for inside, strength in zip(members(LABELS), c, strict=True):
        pull = (z[inside] - w[inside]) / STEPS[inside]
        if (w[inside] == 0).all():
            zeros += 1
            assert np.linalg.norm(pull) <= strength
        else:
            np.testing.assert_allclose(pull, strength * w[inside] / np.linalg.norm(w[inside]), atol=1e-14)
    assert 0 < zeros < 4


def test_as_skglm_has_them() -> None:
    """Groups of 4, 1 and 2 entries, with weights."""
    indices, pointers = np.array([0, 2, 3, 6, 1, 4, 5], np.int32), np.array([0, 4, 5, 7], np.int32)
    labels, x, weights = np.array([0, 1, 0, 0, 2, 2, 0]), RNG.normal(size=7), np.array([0.3, 2.0, 1.0])
    peer = block_separable.WeightedGroupL2(0.4, weights, pointers, indices)
    ours = Weighted(Group(L1(0.4), groups=labels), weights)
    assert float(ours(x)) == pytest.approx(peer.value(x))
    for g in range(3):
        expected = peer.prox_1group(x[labels == g].copy(), 0.7, g)
        np.testing.assert_allclose(np.asarray(ours.prox(x, 0.7))[labels == g], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("axis", "labels", "rho", "step"),
    [
        (0, np.arange(3), L1(0.4), STEPS),
        (1, np.arange(4)[:, None], MCP(0.5, 2.0), 0.7),
        (None, np.zeros((1, 1), int), L1(0.4), 0.7),
    ],
    ids=["columns", "rows", "all"],
)
def test_labels_that_follow_an_axis_are_the_axis(axis: Any, labels: Any, rho: Any, step: Any) -> None:
    """Labels of smaller rank broadcast; derivatives of the operators, in the strength too."""

    @jax.jit
    def moved(reg: Any) -> Any:
        along = jax.tree.map(lambda c: 1.0, reg), X[::-1]
        return jax.jvp(lambda reg, z: reg.prox(z, step), (reg, X), along)

    both = moved(Group(rho, axis=axis)), moved(Group(rho, groups=labels))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), *both)


def test_norms_keep_their_digits_at_both_ends_of_the_range_and_in_half_precision() -> None:
    x, reg = np.array([3.0, 4.0, 5.0, 12.0]), Group(L1(1.0), groups=[0, 0, 1, 1])
    for scale in (1e-30, 1e30):
        found = reg.norms((scale * x).astype(np.float32))
        np.testing.assert_allclose(found, [5 * scale, 13 * scale], rtol=2e-7)
    half = jnp.asarray(x, jnp.bfloat16)
    assert (reg(half).dtype, float(reg(half)), reg.prox(half).dtype) == (jnp.float32, 18.0, jnp.bfloat16)


# -------------------------------------------------------------------------------------------------------- nested groups


def tree_norm(terms: list[tuple[Any, Any]], z: Any, step: float, signs: bool) -> Any:
    """argmin step·Σ c_g‖w_g‖ + ½‖w − z‖² by Clarabel."""
    w = cvxpy.Variable(12)
    norms = []
    for labels, strengths in terms:
        for inside, c in zip(members(labels), np.broadcast_to(strengths, (12,)), strict=False):
            norms.append(c * cvxpy.norm2(w[np.flatnonzero(inside)]))
    objective = step * cvxpy.sum(norms) + 0.5 * cvxpy.sum_squares(w - z.ravel())
    problem = cvxpy.Problem(cvxpy.Minimize(objective), [w >= 0] if signs else [])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return w.value.reshape(4, 3)


ALL, ENTRIES, COLUMNS = np.zeros((4, 3), int), np.arange(12).reshape(4, 3), np.broadcast_to(np.arange(3), (4, 3))
NESTED: dict[str, tuple[Any, list[tuple[Any, Any]]]] = {
    "axes": (Group(L1(0.5), axis=None) + Group(L1(0.7), axis=0), [(ALL, 0.5), (COLUMNS, 0.7)]),
    "three levels and entries": (
        Group(L1(0.4), groups=COARSE) + L1(0.1) + Group(L1(0.2), axis=None) + Group(L1(0.5), groups=FINE),
        [(COARSE, 0.4), (ENTRIES, 0.1), (ALL, 0.2), (FINE, 0.5)],
    ),
    "weights and factors": (
        2 * (Weighted(Group(L1(0.3), groups=FINE), np.array([1.0, 2.0, 0.0, 1.0])) + Group(L1(0.25), groups=COARSE)),
        [(FINE, np.array([0.6, 1.2, 0.0, 0.6, *[0] * 8])), (COARSE, 0.5)],
    ),
    "the same groups twice": (Group(L1(0.5), axis=0) + Group(L1(0.4), groups=COLUMNS), [(COLUMNS, 0.9)]),
    "signs": (NonNegative() + Group(L1(0.5), axis=0) + Group(L1(0.5), axis=(0, 1)), [(COLUMNS, 0.5), (ALL, 0.5)]),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_sum_of_nested_groups_is_exact(name: str) -> None:
    reg, terms = NESTED[name]
    found = np.asarray(reg.prox(X, 0.9))
    np.testing.assert_allclose(found, tree_norm(terms, X, 0.9, name == "signs"), atol=1e-5)
    assert (found == 0).any() == (name not in ("axes", "the same groups twice"))
    stacked = Stacked(reg).prox(np.stack([X, 0.5 * X]), 0.9)
    np.testing.assert_allclose(stacked, [reg.prox(X, 0.9), reg.prox(0.5 * X, 0.9)], atol=1e-15)


def test_the_coarsest_may_have_any_profile() -> None:
    """No point nearby, or scaled, has a lower objective."""
    reg = Group(L1(0.3), groups=FINE) + Group(MCP(0.6, 3.0), groups=COARSE) + L2(0.1)
    w = np.asarray(reg.prox(X, 0.7))

    @jax.jit
    @jax.vmap
    def objective(w: Any) -> Any:
        return 0.7 * reg(w) + 0.5 * jnp.sum((w - X) ** 2)

    near = w + RNG.normal(size=(300, 4, 3)) * 10 ** RNG.uniform(-5, 0, (300, 1, 1))
    scaled = w * np.linspace(0, 2, 41)[:, None, None]
    assert objective(np.concatenate([near, scaled])).min() >= objective(w[None])[0] - 1e-15


@pytest.mark.parametrize(
    ("reg", "step"),
    [
        (Group(L1(0.3), axis=0) + Group(L1(0.3), axis=1), 1.0),
        (Group(L1(0.3), groups=FINE) + Group(L1(0.3), groups=LABELS), 1.0),
        (Group(MCP(0.3, 3.0), axis=0) + Group(L1(0.3), axis=None), 1.0),
        (Group(L1(0.3), axis=0) + Group(L1(0.3), axis=None), STEPS),
    ],
    ids=["crossing axes", "crossing labels", "a profile inside", "a metric"],
)
def test_other_sums_of_groups_say_when_they_are_exact(reg: Any, step: Any) -> None:
    with pytest.raises(
        NotImplementedError, match=r"A sum of groups is exact where they are nested, all but the coarsest"
    ):
        reg.prox(X, step)


# ------------------------------------------------------------------------------------------------------- around groups


def test_in_optimizers_the_minimum_is_that_of_proximal_gradients() -> None:
    """Logistic of unequal groups: SGD and Adam meet at one point, at which 0 is a subgradient."""
    design, labels = RNG.normal(size=(30, 6)), np.array([0, 0, 0, 1, 1, -1])
    y = (design @ np.array([2.0, 0, 0, 0, 0, 1]) > 0) * 1.0

    def loss(w: Any) -> Any:
        return jnp.mean(jnp.logaddexp(0, design @ w) - y * (design @ w))

    reg = Group(L1(0.1), groups=labels)
    for tx in (jaxreg.proximal(optax.sgd(2.0), reg, 2.0), jaxreg.proximal_adam(0.05, reg)):

        def step(carry: Any, _: Any, tx: Any = tx) -> Any:
            w, state = carry
            updates, state = tx.update(jax.grad(loss)(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        start = jnp.full(6, 0.1)
        w = np.asarray(jax.jit(lambda c, step=step: jax.lax.scan(step, c, length=3000)[0])((start, tx.init(start)))[0])
        pull = -np.asarray(jax.grad(loss)(jnp.asarray(w)))
        assert not w[3:5].any()
        assert np.linalg.norm(pull[3:5]) <= 0.1
        np.testing.assert_allclose(pull[:3], 0.1 * w[:3] / np.linalg.norm(w[:3]), atol=1e-8)
        assert abs(pull[5]) < 1e-8


def test_other_profiles_by_labels_take_inner_steps_in_a_metric() -> None:
    """As the error says; where it comes to rest, the pull is the slope of MCP, or below that at 0."""
    target, reg = np.array([3.0, 0.5, 0.2, 0.1]), Group(MCP(0.6, 3.0), groups=[0, 0, 1, 1])
    without = jaxreg.proximal_adam(0.02, reg)
    state = without.init(jnp.ones(4))
    with pytest.raises(NotImplementedError, match=r"by labels or inside `Anchored` with `inner_steps`"):
        without.update(jnp.ones(4), state, jnp.ones(4))
    tx = jaxreg.proximal_adam(0.02, reg, inner_steps=10)

    def step(carry: Any, _: Any) -> Any:
        w, state = carry
        updates, state = tx.update(w - target, state, w)
        return (optax.apply_updates(w, updates), state), None

    start = jnp.full(4, 1.0)
    w = np.asarray(jax.jit(lambda c: jax.lax.scan(step, c, length=3000)[0])((start, tx.init(start)))[0])
    np.testing.assert_allclose(w, [3.0, 0.5, 0, 0], atol=1e-6)  # beyond γ·strength MCP pulls no more


def test_matrices_and_stacks_and_strengths() -> None:
    kernel = RNG.normal(size=(2, 3, 4))  # as the matrix (2·3, 4) of its last axis
    labels = np.arange(6)[:, None] // 3
    rows = Group(L1(0.4), axis=(1, 2))
    np.testing.assert_allclose(Matrix(Group(L1(0.4), groups=labels)).prox(kernel), rows.prox(kernel), rtol=1e-14)
    layers = np.stack([X, -2 * X])
    group = Group(L1(0.4), groups=LABELS)
    np.testing.assert_allclose(Stacked(group)(layers), group(X) + group(-2 * X), rtol=1e-14)
    most = max(np.linalg.norm(X[inside]) for inside in members(LABELS))
    assert float(jaxreg.coefficient_max(Group(L1(1.0), groups=LABELS), jnp.asarray(X))) == pytest.approx(most)


def test_the_summary_counts_groups_that_are_zero() -> None:
    """Of labels and of axes, weighted and stacked; an entry in no group is in none."""
    kernel = np.where(LABELS == 1, 0, np.where(LABELS == -1, 0, X))
    group = Group(L1(0.4), groups=LABELS)
    for reg, leaf, counts in (
        (group, kernel, (4, 1)),
        (2 * Weighted(group, np.ones(4)) + L1(0.1), kernel, (4, 1)),
        (Stacked(Group(L1(0.4), axis=1)), np.stack([kernel, 0 * kernel]), (8, 4)),
        (L1(0.1), kernel, (None, None)),
    ):
        summary = jaxreg.summary(reg, {"kernel": jnp.asarray(leaf)})
        assert (summary.leaves[0].groups, summary.leaves[0].zero_groups) == counts
        assert (f", {counts[1]} of {counts[0]} groups are zero" in " ".join(str(summary).split())) == (
            counts[0] is not None
        )


def test_labels_are_static_and_saved_as_lists() -> None:
    given: tuple[Any, ...] = (LABELS, jnp.asarray(LABELS), LABELS.tolist(), LABELS.astype(np.int8))
    regs = [Group(L1(0.4), groups=labels) for labels in given]
    assert len({hash(reg) for reg in regs}) == 1
    assert all(reg == regs[0] for reg in regs)
    assert jax.tree.leaves(regs[0]) == [0.4]
    assert regs[0].get_config()["groups"] == LABELS.tolist()
    assert jaxreg.deserialize(jaxreg.serialize(regs[0])) == regs[0]
    assert "groups" not in {**Group(L1(0.4)).get_config()}
    assert repr(Group(L1(0.4))) == "Group(penalty=L1(l1=0.4), axis=0, weight='none')"
    exported = jax.export.export(jax.jit(lambda reg, x: reg(x)))(regs[0], jax.ShapeDtypeStruct((4, 3), X.dtype))
    assert float(jax.export.deserialize(exported.serialize()).call(regs[1], X)) == float(regs[0](X))


Call = Callable[[], Any]
WRONG: dict[str, tuple[Call, type[Exception], str, Call | None]] = {
    "names": (
        lambda: Group(L1(0.1), groups=["a", "b", "a"]),
        TypeError,
        "`Group(groups=...)` must be an array of integers, got ['a', 'b', 'a'].",
        lambda: Group(L1(0.1), groups=np.unique(["a", "b", "a"], return_inverse=True)[1]),
    ),
    "floats": (lambda: Group(L1(0.1), groups=[0.0, 1.0]), TypeError, "must be an array of integers", None),
    "a number": (lambda: Group(L1(0.1), groups=3), TypeError, "must be an array of integers, got 3.", None),
    "rows of different lengths": (lambda: Group(L1(0.1), groups=[[0], [0, 1]]), TypeError, "array of integers", None),
    "far numbers": (
        lambda: Group(L1(0.1), groups=[10**9, 5]),
        ValueError,
        "must number the groups from 0, with -1 for entries in no group, got labels from 5 to 1000000000 for 2",
        lambda: Group(L1(0.1), groups=np.unique([10**9, 5], return_inverse=True)[1]),
    ),
    "negative": (lambda: Group(L1(0.1), groups=[0, -2]), ValueError, "got labels from -2 to 0", None),
    "axes too": (
        lambda: Group(L1(0.1), axis=1, groups=[0]),
        ValueError,
        "takes either axes or labels, got axis=1",
        None,
    ),
    "another shape": (
        lambda: Group(L1(0.1), groups=LABELS)(np.ones((4, 4))),
        ValueError,
        "takes an array of the shape of its labels, (4, 3), or one against which they broadcast, got the shape (4, 4)",
        None,
    ),
    "traced": (
        lambda: jax.jit(lambda labels: Group(L1(0.1), groups=labels)(X))(LABELS),
        TypeError,
        "the labels must be known when the program is compiled, got a traced array.",
        None,
    ),
    "weights": (
        lambda: Weighted(Group(L1(0.1), groups=LABELS), np.ones(3))(X),
        ValueError,
        "must broadcast against the norms of the groups, here of shape (4,), got the shape (3,)",
        lambda: Weighted(Group(L1(0.1), groups=LABELS), np.ones(4))(X),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_says_so(name: str) -> None:
    wrong, error, message, way_out = WRONG[name]
    with pytest.raises(error, match=re.escape(message)):
        wrong()
    if way_out is not None:
        way_out()
