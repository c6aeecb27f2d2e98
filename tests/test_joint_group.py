"""jaxreg.JointGroup: groups across leaves, against one matrix put together by NumPy, on paper, and by bisection."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxreg
from tests.training import after_updates, trained

pytestmark = pytest.mark.wide  # every step and wrapper

RNG = np.random.default_rng(0)
AXES = {"a/kernel": 1, "a/bias": 0, "b/kernel": (0, [2, 0, 1, -1, 1, 2, 0])}


def tree(scale=1.0):
    shapes = {"a": {"kernel": (4, 3), "bias": (3,)}, "b": {"kernel": (7, 2), "bias": (2,)}}
    return jax.tree.map(
        lambda s: (scale * RNG.normal(size=s)).astype(np.float32), shapes, is_leaf=lambda s: type(s) is tuple
    )


def rows(t):
    """The entries of each of the three units, written out."""
    labels = np.array(AXES["b/kernel"][1])
    return np.array(
        [
            np.concatenate([t["a"]["kernel"][:, u], t["a"]["bias"][u : u + 1], t["b"]["kernel"][labels == u].ravel()])
            for u in range(3)
        ],
        np.float64,
    )


def same(a, b, tolerance=2e-6):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_value_and_gradient_are_those_of_the_norms():
    params, reg = tree(), jaxreg.JointGroup(jaxreg.L1(0.3), AXES)
    norms = np.linalg.norm(rows(params), axis=1)
    same(reg(params), 0.3 * norms.sum())
    grads = jax.grad(reg)(params)
    same(rows(grads), 0.3 * rows(params) / norms[:, None])
    assert not np.any(grads["b"]["bias"]) and not np.any(grads["b"]["kernel"][3])
    same(jaxreg.JointGroup(jaxreg.L1(0.3), AXES, "sqrt_size")(params), 0.3 * 3.0 * norms.sum())  # 4 + 1 + 4 entries
    (paths, value), *rest = reg.breakdown(params).items()
    assert paths == "a/bias, a/kernel, b/kernel" and value == reg(params) and not rest
    at_zero = jax.grad(reg)(jax.tree.map(np.zeros_like, params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(at_zero))


@pytest.mark.parametrize(
    "penalty", [jaxreg.L1(1.5), jaxreg.MCP(1.5, gamma=3.0), jaxreg.L0(2.0)], ids=["L1", "MCP", "L0"]
)
def test_prox_is_that_of_the_norms(penalty):
    params = tree(0.8)
    got = jaxreg.JointGroup(penalty, AXES).prox(params, 0.9)
    norms = np.linalg.norm(rows(params), axis=1)
    new = np.array([minimizer(penalty, a, 0.9) for a in norms])
    same(rows(got), rows(params) * (new / norms)[:, None], 1e-4)
    np.testing.assert_array_equal(got["b"]["kernel"][3], params["b"]["kernel"][3])
    np.testing.assert_array_equal(got["b"]["bias"], params["b"]["bias"])


def minimizer(penalty, a, step):
    """argmin_r step·ρ(r) + (r − a)²/2 on a fine grid, ρ from the formulas."""
    r = np.linspace(0, a, 200_001)
    match penalty:
        case jaxreg.L1(l1=c):
            rho = c * r
        case jaxreg.L0(l0=c):
            rho = c * (r > 0)
        case _:
            c, gamma = penalty.strength, penalty.gamma
            rho = np.where(r <= gamma * c, c * r - r**2 / (2 * gamma), gamma * c**2 / 2)
    return r[np.argmin(step * rho + (r - a) ** 2 / 2)]


def test_beside_penalties_of_leaves_the_prox_is_that_of_sparse_groups():
    params, tau = tree(), 0.7
    reg = jaxreg.JointGroup(jaxreg.L1(0.5), AXES) + jaxreg.TreeRegularizer({"a/*": jaxreg.L1(0.2), "b/*": None})
    got = rows(reg.prox(params, tau))
    z = rows(params)
    z[:, :5] = np.sign(z[:, :5]) * np.maximum(abs(z[:, :5]) - tau * 0.2, 0)
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    same(got, z * np.maximum(1 - tau * 0.5 / norms, 0))
    same(reg(params), 0.5 * np.linalg.norm(rows(params), axis=1).sum() + 0.2 * abs(rows(params)[:, :5]).sum())


def secular(z, tau, c):
    """argmin_w c‖w‖ + ½ Σ (w_i − z_i)²/τ_i by bisection: w = z/(1 + κτ), κ = c/‖w‖."""
    if np.linalg.norm(z / tau) <= c:
        return 0 * z
    low, high = 0.0, np.linalg.norm(z)
    for _ in range(200):
        r = (low + high) / 2
        low, high = (r, high) if np.linalg.norm(z / (r + c * tau)) > 1 else (low, r)
    return z * r / (r + c * tau)


def test_a_step_for_each_entry_is_one_equation_over_the_leaves():
    params, c = tree(), 0.6
    steps = jax.tree.map(lambda leaf: (0.1 + abs(RNG.normal(size=leaf.shape))).astype(np.float32), params)
    got = jaxreg.JointGroup(jaxreg.L1(c), AXES).prox(params, steps)
    expected = [secular(z, tau, c) for z, tau in zip(rows(params), rows(steps), strict=True)]
    same(rows(got), np.array(expected), 1e-5)
    leaf_steps = {"a": {"kernel": 0.3, "bias": 0.6}, "b": {"kernel": 0.9, "bias": 1.0}}
    got = jaxreg.JointGroup(jaxreg.L1(c), AXES).prox(params, leaf_steps)
    tau = np.array([0.3] * 4 + [0.6] + [0.9] * 4)
    same(rows(got), np.array([secular(z, tau, c) for z in rows(params)]), 1e-5)
    tau[4] = 0.3
    for bias in (0.3, np.float32(0.3), jnp.full(3, 0.3)):  # numbers beside arrays, in either order
        leaf_steps["a"] = {"kernel": np.full((4, 3), 0.3, np.float32), "bias": bias}
        got = jaxreg.JointGroup(jaxreg.L1(c), AXES).prox(params, leaf_steps)
        same(rows(got), np.array([secular(z, tau, c) for z in rows(params)]), 1e-5)


def test_heads_lie_on_axes_in_the_middle_and_in_flat_ones():
    """Units behind one another need no index; those of each second one do; both are the same groups."""
    t = {"q": RNG.normal(size=(5, 3, 2)), "out": RNG.normal(size=(6, 4))}
    t = {name: leaf.astype(np.float32) for name, leaf in t.items()}
    for labels in ([0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2]):
        reg = jaxreg.JointGroup(jaxreg.L1(1.0), {"q": 1, "out": (0, labels)})
        inside = [[t["q"][:, u].ravel(), t["out"][np.array(labels) == u].ravel()] for u in range(3)]
        norms = np.array([np.linalg.norm(np.concatenate(parts)) for parts in inside])
        same(reg(t), norms.sum())
        after = reg.prox(t, 1.5)
        same(after["q"], t["q"] * np.maximum(1 - 1.5 / norms, 0)[:, None])
        same(after["out"], t["out"] * np.maximum(1 - 1.5 / norms, 0)[labels, None])


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_norms_are_right_at_both_ends_of_the_range(scale):
    """Leaves of very different size: no square is out of range, and a small leaf counts only where it does."""
    params = tree(scale)
    params["a"]["bias"] = params["a"]["bias"] * np.float32(1e-5)
    reg = jaxreg.JointGroup(jaxreg.L1(1.0), AXES)
    norms = np.linalg.norm(rows(params), axis=1)
    np.testing.assert_allclose(reg(params), norms.sum(), rtol=1e-6)
    np.testing.assert_allclose(rows(jax.grad(reg)(params)), rows(params) / norms[:, None], rtol=2e-6)
    step = float(np.float32(norms.min() / 2))
    kept = np.maximum(1 - step / norms, 0)[:, None]
    np.testing.assert_allclose(rows(reg.prox(params, step)), rows(params) * kept, rtol=2e-6)


def test_curvature_also_where_a_unit_is_zero():
    """R = ½Σ‖w_u‖² is a sum of squares, whatever the groups: its second derivative is the identity, at 0 too."""
    params, reg = tree(), jaxreg.JointGroup(jaxreg.L2(0.5), AXES)
    params["a"]["kernel"][:, 1] = params["a"]["bias"][1] = 0
    params["b"]["kernel"][[2, 4]] = 0
    direction = tree()
    _, along = jax.jvp(jax.grad(reg), (params,), (direction,))
    same(rows(along), rows(direction))
    _, along = jax.jvp(lambda p: reg.prox(p, 0.3), (params,), (direction,))
    same(rows(along), rows(direction) / 1.3)


def test_complex_leaves_beside_real_ones():
    numbers = RNG.normal(size=(4, 3)) + 1j * RNG.normal(size=(4, 3))
    t = {"a": numbers.astype(np.complex64), "b": np.ones(3, np.float32)}
    reg = jaxreg.JointGroup(jaxreg.L1(1.0), {"a": 1, "b": 0})
    norms = np.sqrt((abs(t["a"]) ** 2).sum(axis=0) + 1)
    same(reg(t), norms.sum())
    after = reg.prox(t, 0.9)
    same(after["a"], t["a"] * (1 - 0.9 / norms))
    same(after["b"], 1 - 0.9 / norms)
    assert after["a"].dtype == np.complex64 and after["b"].dtype == np.float32


def run(tx, params, grads, steps=3):
    return after_updates(tx, params, grads, steps)[0]


def test_proximal_around_gradient_descent():
    params, grads, c = tree(), tree(0.3), 0.8
    reg = jaxreg.JointGroup(jaxreg.L1(c), AXES)
    got = run(jaxreg.proximal(optax.sgd(0.2), reg, 0.2), params, grads)
    w, g = rows(params), rows(grads)
    for _ in range(3):
        z = w - 0.2 * g
        w = z * np.maximum(1 - 0.2 * c / np.linalg.norm(z, axis=1, keepdims=True), 0)
    same(rows(got), w, 1e-5)
    same(got["b"]["bias"], params["b"]["bias"] - 3 * 0.2 * grads["b"]["bias"], 1e-5)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "proximal_adam", "function"])
def test_two_of_them_step_as_each_alone(name):
    """Groups that lie in other leaves, and penalties of single ones beside them, do not see each other."""
    params, grads = tree(), tree(0.3)
    a = jaxreg.JointGroup(jaxreg.L1(0.4), {"a/kernel": 1, "a/bias": 0})
    b = jaxreg.JointGroup(jaxreg.L1(0.4), {"b/kernel": 1, "b/bias": 0})

    def stepped(reg):
        if name == "proximal_adam":
            return run(jaxreg.proximal_adam(0.2, reg), params, grads)
        if name == "rmsprop":
            return run(jaxreg.proximal(optax.rmsprop(0.2), reg, 0.2, jaxreg.rmsprop_metric()), params, grads)
        metric = None if name == "sgd" else lambda state, params: jax.tree.map(lambda p: 1.0, params)
        return run(jaxreg.proximal(optax.sgd(0.2), reg, 0.2, metric), params, grads)

    both, alone = stepped(a + b), {"a": stepped(a)["a"], "b": stepped(b)["b"]}
    jax.tree.map(same, both, alone)


@pytest.mark.parametrize(
    "make",
    [
        lambda reg: jaxreg.proximal_adam(0.1, reg),
        lambda reg: jaxreg.proximal(optax.rmsprop(0.1), reg, 0.1, jaxreg.rmsprop_metric()),
    ],
    ids=["proximal_adam", "rmsprop"],
)
def test_in_a_metric_another_profile_steps_as_in_one_matrix(make):
    """Newton steps on one number a group, whose sums add over the leaves; `Group` of one leaf has its own oracles."""
    params, grads, mcp, l1 = tree(), tree(0.3), jaxreg.MCP(0.8, gamma=4.0), jaxreg.L1(0.1)
    got = run(make(jaxreg.JointGroup(mcp, AXES) + jaxreg.TreeRegularizer({"a/*": l1, "b/*": None})), params, grads)
    weights = np.broadcast_to(np.arange(9) < 5, (3, 9)).astype(np.float32)
    whole = jaxreg.Group(mcp, axis=1) + jaxreg.Weighted(l1, weights)
    expected = run(make(whole), rows(params).astype(np.float32), rows(grads).astype(np.float32))
    same(rows(got), expected, 1e-5)
    assert 0 < np.count_nonzero(np.asarray(expected) == 0)


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("latent", [True, False])
def test_with_a_latent_point_and_in_each_nth_step(latent, every):
    """Latent: z = w0 − t·η·g, and w its image by the sum of the steps. Each second one: two steps, then one of 2η."""
    params, grads, c, eta = tree(), tree(0.3), 0.8, 0.1
    reg = jaxreg.JointGroup(jaxreg.MCP(c, gamma=50.0), AXES) + jaxreg.TreeRegularizer({"a/bias": jaxreg.L1(0.5)})
    tx = jaxreg.proximal(optax.sgd(eta), reg, eta, latent=latent, every=every)

    def image(z, tau):  # of MCP, r = (a − τc)/(1 − τ/γ) between its two edges
        z = z.copy()
        z[:, 4] = np.sign(z[:, 4]) * np.maximum(abs(z[:, 4]) - tau * 0.5, 0)
        a = np.linalg.norm(z, axis=1, keepdims=True)
        assert (a < 50.0 * c).all()
        return z * np.maximum(a - tau * c, 0) / (1 - tau / 50.0) / a

    w, z, g = rows(params), rows(params), rows(grads)
    for t in range(1, 5):
        z = (z if latent else w) - eta * g
        if t % (every or 1) == 0:
            w = image(z, eta * (t if latent else every or 1))
        elif not latent:
            w = z
    got = run(tx, params, grads, steps=4)
    same(rows(got), w, 1e-5)
    same(got["b"]["bias"], params["b"]["bias"] - 4 * eta * grads["b"]["bias"], 1e-5)
    same(got["b"]["kernel"][3], params["b"]["kernel"][3] - 4 * eta * grads["b"]["kernel"][3], 1e-5)


def test_a_latent_point_in_a_metric_rests_at_the_minimum():
    """w = z − Σ τ·∇R(w), so that at rest ∇loss = −∇R, whatever the steps; by the bisection for one step each entry."""
    t, c = tree(), 1.0
    h = jax.tree.map(lambda leaf: (0.5 + abs(RNG.normal(size=leaf.shape))).astype(np.float32), t)
    reg = jaxreg.JointGroup(jaxreg.L1(c), AXES)
    tx = jaxreg.proximal(optax.adam(0.1), reg, 0.1, jaxreg.adam_metric(), latent=True)

    def gradient(params):
        return jax.tree.map(lambda w, t, h: h * (w - t), params, t, h)

    got = rows(trained(tx, gradient, jax.tree.map(jnp.ones_like, t), 1000)[0])
    same(got, np.array([secular(z, 1 / hu, c) for z, hu in zip(rows(t), rows(h), strict=True)]), 2e-3)


def test_proximal_adam_rests_where_the_gradients_balance():
    """The minimum of ½ Σ h_i (w_i − t_i)² + c Σ‖w_u‖, found by bisection for each unit; in Adam's metric the same."""
    target, c = rows(tree()), 1.0
    h = jax.tree.map(lambda leaf: (0.5 + abs(RNG.normal(size=leaf.shape))).astype(np.float32), tree())
    t = tree()
    target, curvature = rows(t), rows(h)
    tx = jaxreg.proximal_adam(optax.exponential_decay(0.1, 100, 0.5), jaxreg.JointGroup(jaxreg.L1(c), AXES))

    def gradient(params):
        return jax.tree.map(lambda w, t, h: h * (w - t), params, t, h)

    got = rows(trained(tx, gradient, jax.tree.map(jnp.ones_like, t), 1000)[0])
    expected = np.array([secular(z, 1 / hu, c) for z, hu in zip(target, curvature, strict=True)])
    same(got, expected, 2e-3)
    np.testing.assert_array_equal((got == 0).all(axis=1), (expected == 0).all(axis=1))


def test_add_regularization_and_track():
    params, grads = tree(), tree()
    reg = jaxreg.JointGroup(jaxreg.L1(0.3), AXES) + jaxreg.TreeRegularizer({"**": jaxreg.L2(0.1)})
    tx = jaxreg.add_regularization(reg, track=True)
    updates, state = tx.update(grads, tx.init(params), params)
    slope = 0.3 * rows(params) / np.linalg.norm(rows(params), axis=1, keepdims=True) + 0.2 * rows(params)
    same(rows(updates), rows(grads) + slope)
    same(state.penalty, reg(params))
    top = jaxreg.coefficient_max(jaxreg.JointGroup(jaxreg.L1(), AXES), grads)
    same(top, np.linalg.norm(rows(grads), axis=1).max())


def test_no_units_have_no_penalty_and_take_every_step():
    """As layers of width 0 have them, and leaves without entries beside others."""
    none = {"a": np.zeros((4, 0), np.float32), "b": np.zeros(0, np.float32)}
    reg, alone = (jaxreg.JointGroup(jaxreg.L1(0.3), axes) for axes in ({"a": 1, "b": 0}, {"a": 1}))
    assert reg(none) == 0 and jaxreg.coefficient_max(reg, none) == 0
    empty = {"a": np.ones((4, 3), np.float32), "b": np.zeros((3, 0), np.float32)}
    same(jaxreg.coefficient_max(reg, empty), 2.0)
    for moments in ("entry", "group"):
        run(jaxreg.proximal_adam(0.1, reg, moments=moments), none, none)
        got, expected = (run(jaxreg.proximal_adam(0.1, r, moments=moments), empty, empty) for r in (reg, alone))
        jax.tree.map(same, got, expected)


def test_summary_has_a_line_for_the_groups():
    params = tree()
    params["a"]["kernel"][:, 1] = params["a"]["bias"][1] = 0
    params["b"]["kernel"][[2, 4]] = 0
    decay = jaxreg.TreeRegularizer({"a/*": jaxreg.L2(0.1), "b/*": None})
    summary = jaxreg.summary(jaxreg.JointGroup(jaxreg.L1(0.3), AXES) + decay, params)
    norms = np.linalg.norm(rows(params), axis=1)
    slope = 0.3 * rows(params) / np.where(norms > 0, norms, 1)[:, None]
    (groups,) = summary.groups
    assert (groups.groups, groups.zero_groups, groups.size, groups.zeros) == (3, 1, 27, 9)
    same([groups.penalty, groups.gradient_norm], [0.3 * norms.sum(), np.linalg.norm(slope)])
    slope[:, :5] += 0.2 * rows(params)[:, :5]
    same(summary.gradient_norm, np.linalg.norm(slope))
    same(summary.penalty, 0.3 * norms.sum() + 0.1 * (rows(params)[:, :5] ** 2).sum())
    text = " ".join(str(summary).split())
    assert "groups in a/bias, a/kernel, b/kernel, L1(l1=0.3)" in text and "1 of 3 groups are zero" in text
    assert "left out, no rule matches: b/bias" in text
    assert summary.as_dict()["groups"][0]["zero_groups"] == 1


def test_bounded_finds_one_strength_for_all_groups():
    """min ½‖w − t‖² with Σ‖w_u‖ ≤ κ: each norm is less by λ, so that κ = Σ‖t_u‖ − 3λ where none is 0."""
    t = tree()
    norms = np.linalg.norm(rows(t), axis=1)
    c = norms.min() / 2
    kappa = float(norms.sum() - 3 * c)
    tx = optax.chain(jaxreg.bounded(jaxreg.JointGroup(jaxreg.L1(1.0), AXES), kappa, 0.05), optax.sgd(0.1))
    got, state = trained(tx, lambda w: jax.tree.map(jnp.subtract, w, t), t, 1000)
    same(rows(got), rows(t) * np.maximum(1 - c / norms, 0)[:, None], 1e-3)
    (strength,) = jax.tree.leaves(state[0].strength)
    same(strength, c, 1e-3)


def test_half_precision_keeps_what_it_cannot_hold():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree(4.0))
    params["a"]["bias"] = params["a"]["bias"].astype(jnp.float32)
    zeros = jax.tree.map(jnp.zeros_like, params)
    got = run(jaxreg.proximal(optax.sgd(1e-3), jaxreg.JointGroup(jaxreg.L1(1.0), AXES), 1e-3), params, zeros, 200)
    z = rows(params)
    expected = z * np.maximum(1 - 0.2 / np.linalg.norm(z, axis=1, keepdims=True), 0)
    same(rows(got), expected, 2**-8)
    assert got["a"]["kernel"].dtype == jnp.bfloat16 and got["a"]["bias"].dtype == jnp.float32


def test_as_an_object():
    reg = jaxreg.JointGroup(jaxreg.L1(0.3), AXES)
    again = jaxreg.deserialize(jaxreg.serialize(reg))
    assert again == reg and hash(again) == hash(reg) and jax.tree.leaves(reg) == [0.3]
    assert eval(repr(reg), {"JointGroup": jaxreg.JointGroup, "L1": jaxreg.L1}) == reg
    params = tree()
    same((2.0 * reg)(params), 2.0 * reg(params))
    both = reg + jaxreg.TreeRegularizer({"b/bias": jaxreg.L1(1.0)})
    assert jaxreg.deserialize(jaxreg.serialize(both)) == both and list(both.assignment(params)) == ["b/bias"]
    tied = jnp.ones((3, 2))
    same(jaxreg.JointGroup(jaxreg.L1(1.0), {"*": 0})({"x": tied, "y": tied}), 3 * np.sqrt(2))
    out = jaxreg.JointGroup(jaxreg.L1(1.0), {"*": 0}).prox({"x": tied, "y": tied})
    same(out["x"], np.ones((3, 2)) * (1 - 1 / np.sqrt(2)))
    same(out["y"], out["x"])


def test_what_is_refused():
    params, l1 = tree(), jaxreg.L1(0.3)
    reg = jaxreg.JointGroup(l1, AXES)
    spectral = jaxreg.TreeRegularizer({"a/kernel": jaxreg.Spectral(l1)})
    inputs = jaxreg.JointGroup(l1, {"a/kernel": 0})
    sparse = jaxreg.TreeRegularizer({"a/*": l1})
    everywhere = jaxreg.TreeRegularizer({"**": l1})
    masked = optax.masked(jaxreg.add_regularization(reg), {"a": {"kernel": True, "bias": False}, "b": True})
    for error, match, call in (
        (TypeError, "elementwise", lambda: jaxreg.JointGroup(jaxreg.Spectral(l1), AXES)),
        (TypeError, "takes a mapping of patterns to axes", lambda: jaxreg.JointGroup(l1, "a")),
        (TypeError, "an axis is an int", lambda: jaxreg.JointGroup(l1, {"a": 1.0})),
        (ValueError, "as many indices as the others", lambda: jaxreg.JointGroup(l1, {"a": (0, [0, 0, 1])})),
        (ValueError, "No leaf matches the pattern 'c'", lambda: jaxreg.JointGroup(l1, {"c": 0})(params)),
        (ValueError, "has no axis 2", lambda: jaxreg.JointGroup(l1, {"a/kernel": 2})(params)),
        (ValueError, "one number of units, got", lambda: jaxreg.JointGroup(l1, {"a/kernel": 0, "a/bias": 0})(params)),
        (NotImplementedError, "has also the penalty", lambda: (reg + spectral).prox(params)),
        (NotImplementedError, "overlapping groups", lambda: (reg + inputs).prox(params)),
        (NotImplementedError, "`bounded` each", lambda: jaxreg.bounded(reg + everywhere, 1.0, 0.1).init(params)),
        (NotImplementedError, "has a penalty of its own", lambda: jaxreg.coefficient_max(reg + sparse, params)),
        (ValueError, "Mask all leaves of a group", lambda: masked.update(params, masked.init(params), params)),
    ):
        with pytest.raises(error, match=match):
            call()
    twice = optax.chain(jaxreg.bounded(reg, 1.0, 0.1), jaxreg.bounded(everywhere, 1.0, 0.1))  # the way out
    twice.update(params, twice.init(params), params)
    for other in (spectral, inputs):  # the way out: gradients of both
        slopes = jaxreg.add_regularization(reg + other)
        slopes.update(params, slopes.init(params), params)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
@pytest.mark.parametrize("by", ["units", "entries"])
@pytest.mark.parametrize("moments", ["entry", "group"])
def test_sharded_as_on_one_device(kind: AxisType, by: str, moments: str) -> None:
    """Leaves stay where they are: where units are divided, alike in all leaves, and where their entries are."""
    rng = np.random.default_rng(0)
    shapes = {"up": (16, 8), "bias": (8,), "down": (8, 24)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    along = {"up": (None, "x"), "bias": ("x",), "down": ("x", None)}
    if by == "entries":
        along = {"up": ("x", None), "bias": (None,), "down": (None, "x")}
    reg = jaxreg.JointGroup(jaxreg.L1(4.0), {"up": 1, "bias": 0, "down": 0})
    tx = jaxreg.proximal_adam(0.3, reg, moments=moments)

    def work(params: Any) -> Any:
        state = tx.init(params)
        updates, state = tx.update(jax.tree.map(jnp.square, params), state, params)
        after = optax.apply_updates(params, updates)
        return reg(params), jax.grad(reg)(params), reg.prox(params, 0.2), after, state.inner[0].nu

    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        places = {name: NamedSharding(mesh, PartitionSpec(*axes)) for name, axes in along.items()}
        compiled = jax.jit(work).lower(divided := jax.device_put(params, places)).compile()
        value, *trees = compiled(divided)
    for found, expected in zip(jax.tree.leaves((value, trees)), jax.tree.leaves(jax.jit(work)(params)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    for tree in trees:
        for name, leaf in tree.items():
            spec = PartitionSpec(*(x if n > 1 else None for n, x in zip(leaf.shape, along[name], strict=True)))
            assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-to-all"))


def test_units_that_lie_otherwise_in_one_leaf_are_refused_where_types_say_so() -> None:
    reg = jaxreg.JointGroup(jaxreg.L1(4.0), {"up": 1, "down": 0})
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        leaf = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
        params = {name: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(None, "x"))) for name in ("up", "down")}
        message = (
            r"got None for axis 0 of 'down' and 'x' for axis 1 of 'up'. Move one of them by `jax.sharding.reshard`"
        )
        for call in (reg, jax.grad(reg), reg.prox):
            with pytest.raises(ValueError, match=message):
                call(params)
        moved = {**params, "down": jax.sharding.reshard(params["down"], PartitionSpec("x", None))}  # the way out
        squares = leaf.astype(float) ** 2
        np.testing.assert_allclose(reg(moved), 4 * np.sqrt(squares.sum(0) + squares.sum(1)).sum(), rtol=1e-6)
