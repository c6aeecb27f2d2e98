"""`moments="group"` for groups across leaves: one second moment a unit, on paper, and beside that of one leaf."""

import math
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from tests.benchmarks import programs
from tests.test_joint_group import AXES, rows, secular
from tests.training import after_updates, trained

pytestmark = pytest.mark.wide  # every iterate of every profile

LR = 0.1
L1_HERE, L2_HERE = 0.2, 0.3


def tree(scale: float = 1.0, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"a": {"kernel": (4, 3), "bias": (3,)}, "b": {"kernel": (7, 2), "bias": (2,)}}
    return {
        name: {leaf: (scale * rng.normal(size=shape)).astype(np.float32) for leaf, shape in leaves.items()}
        for name, leaves in shapes.items()
    }


def by_group(reg: Any, rate: Any = LR, **options: Any) -> Any:
    return jaxreg.proximal_adam(rate, reg, moments="group", **options)


def soft(t: Any, u: Any) -> Any:
    return np.sign(t) * np.maximum(np.abs(t) - u, 0)


def mcp(a: Any, u: Any) -> Any:
    """For 0.4 and γ = 30, u < γ."""
    return np.where(a > 12, a, soft(a, 0.4 * u) / (1 - u / 30))


def of_norm(rho: Any) -> Any:
    """The proximal operator of a unit with one step, from that of its norm."""
    return lambda z, tau: z * rho(np.linalg.norm(z), tau[0]) / max(np.linalg.norm(z), 1e-300)


L1 = jaxreg.JointGroup(jaxreg.L1(0.4), AXES)
BESIDE = jaxreg.TreeRegularizer({"a/*": jaxreg.L1(L1_HERE), "b/*": None})
DECAY = jaxreg.TreeRegularizer({"b/kernel": jaxreg.L1L2(L1_HERE, L2_HERE), "**": None})
# The regularizer, (z, τ) of the entries of a unit -> its entries, and the numbers of L1 and L2 of b/kernel.
FORMS: dict[str, Any] = {
    "L1": (L1, of_norm(lambda a, u: soft(a, 0.4 * u)), 0, 0),
    "L0": (jaxreg.JointGroup(jaxreg.L0(2.0), AXES), of_norm(lambda a, u: a * (a**2 > 4.0 * u)), 0, 0),
    "MCP": (jaxreg.JointGroup(jaxreg.MCP(0.4, 30.0), AXES), of_norm(mcp), 0, 0),
    "√size": (jaxreg.JointGroup(jaxreg.L1(0.1), AXES, "sqrt_size"), of_norm(lambda a, u: soft(a, 0.3 * u)), 0, 0),
    "L1 beside": (
        L1 + BESIDE,
        lambda z, u: of_norm(lambda a, u: soft(a, 0.4 * u))(soft(z, L1_HERE * u * (np.arange(9) < 5)), u),
        0,
        0,
    ),
    "L2 beside": (L1 + DECAY, lambda z, u: with_decay(z, u), L1_HERE, L2_HERE),
}


def with_decay(z: Any, u: Any) -> Any:
    """L1 and L2 of the last four entries alone: then the steps of a unit differ."""
    here = np.arange(9) >= 5
    z = soft(z, u * L1_HERE * here)
    return secular(z / (1 + 2 * u * L2_HERE * here), u / (1 + 2 * u * L2_HERE * here), 0.4)


@pytest.mark.parametrize("name", FORMS)
def test_every_iterate_is_that_of_the_formula(name: str) -> None:
    """In NumPy float64; an index in no unit has a second moment of its own, a leaf without units one an entry."""
    reg, prox, l1, l2 = FORMS[name]
    rng, b1, b2, eps, eps_root = np.random.default_rng(0), 0.8, 0.95, 1e-3, 1e-4
    tx = by_group(reg, lambda step: LR / (1 + step), b1=b1, b2=b2, eps=eps, eps_root=eps_root, max_step=math.inf)
    t = jax.tree.map(lambda leaf: leaf.astype(np.float64), tree())
    units, index, free = rows(t), t["b"]["kernel"][3], t["b"]["bias"]
    moments = [(np.zeros_like(x), 0.0) for x in (units, index, free)]
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, t)
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(1, 13):
            grads = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), t)
            for u, scale in enumerate((1e-2, 1.0, 10.0)):
                for leaf, at in ((grads["a"]["kernel"].T, u), (grads["a"]["bias"], u)):
                    leaf[at] *= scale
                grads["b"]["kernel"][np.array(AXES["b/kernel"][1]) == u] *= scale
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            found = []
            for x, g, mean, (m, v) in zip(
                (units, index, free),
                (rows(grads), grads["b"]["kernel"][3], grads["b"]["bias"]),
                (lambda x: x.mean(axis=1, keepdims=True), np.mean, lambda x: x),
                moments,
                strict=True,
            ):
                m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * mean(g**2)
                tau = LR / step / (np.sqrt(v / (1 - b2**step) + eps_root) + eps)
                found.append((x - tau * m / (1 - b1**step), tau, (m, v)))
            moments = [moment for *_, moment in found]
            z, tau = found[0][0], np.broadcast_to(found[0][1], units.shape)
            units = np.array([prox(*unit) for unit in zip(z, tau, strict=True)])
            index = soft(found[1][0], l1 * found[1][1]) / (1 + 2 * l2 * found[1][1])
            free = found[2][0]
            for ours, theirs in ((rows(params), units), (params["b"]["kernel"][3], index), (params["b"]["bias"], free)):
                np.testing.assert_allclose(ours, theirs, rtol=1e-7 if "beside" in name else 1e-9, atol=1e-12)
            np.testing.assert_array_equal((rows(params) == 0).all(axis=1), (units == 0).all(axis=1))
    if name in ("L1", "L0"):
        assert 0 < (units == 0).all(axis=1).sum() < 3


SCALES = np.array([0.01, 100.0, 1.0, 10.0, 0.1])  # curvatures of the units, and so gradients, that differ by 10⁴
C, DECAY_HERE = 0.6, 0.25
WIDE = {"in": 1, "bias": 0, "out": (0, [0, 1, 2, 3, 4, 4, 3, 2, 1, 0])}


def wide(units: Any) -> Any:
    """The leaves whose unit u is `units[u]`, of 3 + 1 + 2·2 entries."""
    down = units[:, 4:].reshape(-1, 2, 2)
    return {"in": units[:, :3].T, "bias": units[:, 3], "out": np.concatenate([down[:, 0], down[::-1, 1]])}


@pytest.mark.parametrize("max_step", [None, math.inf])
def test_it_comes_to_rest_at_the_minimum_of_a_rescaled_group_lasso(max_step: float | None) -> None:
    """½ Σ_u h_u‖w_u − t_u‖² + c Σ_u ‖w_u‖: on paper w_u = t_u·max(1 − c/(h_u‖t_u‖), 0). The bound is not active."""
    target = np.random.default_rng(1).normal(size=(5, 8))
    lengths = np.linalg.norm(target, axis=1)
    tx = by_group(jaxreg.JointGroup(jaxreg.L1(C), WIDE), 0.03, max_step=max_step)
    t, h = wide(target), wide(np.repeat(SCALES[:, None], 8, axis=1))

    def gradient(params: Any) -> Any:
        return jax.tree.map(lambda w, t, h: h * (w - t), params, t, h)

    with jax.enable_x64(True):
        params, _ = trained(tx, gradient, jax.tree.map(lambda leaf: jnp.ones(leaf.shape), t), 4000)
    expected = target * np.maximum(1 - C / (SCALES * lengths), 0)[:, None]
    for name, leaf in wide(expected).items():
        np.testing.assert_allclose(params[name], leaf, rtol=1e-8, atol=1e-14)
        np.testing.assert_array_equal(np.asarray(params[name]) == 0, leaf == 0)
    assert 0 < (expected == 0).all(axis=1).sum() < 5


@pytest.mark.parametrize("penalty", [jaxreg.L1(0.4), jaxreg.MCP(0.4, 30.0), jaxreg.L2(0.4)], ids=["L1", "MCP", "L2"])
@pytest.mark.parametrize("every", [None, 2])
def test_in_one_leaf_it_steps_as_a_group_of_that_leaf(penalty: Any, every: int | None) -> None:
    rng = np.random.default_rng(0)
    params, grads = ({"k": jnp.asarray(rng.normal(size=(4, 3, 5)).astype(np.float32))} for _ in range(2))
    beside = jaxreg.TreeRegularizer({"k": jaxreg.L1(0.1)})
    joint = by_group(jaxreg.JointGroup(penalty, {"k": 1}) + beside, every=every)
    alone = by_group(jaxreg.TreeRegularizer({"k": jaxreg.Group(penalty, axis=(0, 2)) + jaxreg.L1(0.1)}), every=every)
    ours, theirs = (after_updates(tx, params, grads, 4) for tx in (joint, alone))
    np.testing.assert_allclose(ours[0]["k"], theirs[0]["k"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours[0]["k"] == 0, theirs[0]["k"] == 0)
    if not isinstance(penalty, jaxreg.L2):  # whose norms no group needs: `Group(L2)` has a moment for each entry
        np.testing.assert_allclose(ours[1].inner[0].nu["k"], theirs[1].inner[0].nu["k"], rtol=1e-5)


@pytest.mark.parametrize("beside", [jaxreg.TreeRegularizer({}), jaxreg.TreeRegularizer({"**": jaxreg.L1L2(1.0, 2.0)})])
def test_the_pull_on_a_unit_without_gradient_is_four_learning_rates(beside: Any) -> None:
    """In the root mean square over all of its entries; a unit that is 0 has no bound, so that none is taken away."""
    t = tree()
    t["a"]["kernel"][:, 1] = t["a"]["bias"][1] = 0
    t["b"]["kernel"][[2, 4]] = 0
    reg = jaxreg.JointGroup(jaxreg.L1(5.0), AXES) + beside
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), t)
        after, state = after_updates(by_group(reg, 1e-3), params, jax.tree.map(jnp.zeros_like, params))
        silent = optax.tree.set(state, count=jnp.int32(100_000))
        small = jax.tree.map(lambda p: jnp.full_like(p, 0.01), params)
        still = rows(jax.jit(by_group(reg).update)(small, silent, params)[0])[1]
    pull = np.sqrt(((rows(t) - rows(after)) ** 2).mean(axis=1))[[0, 2]]
    assert (pull > 2e-3).all() and (pull <= 4e-3 * (1 + 1e-5)).all() and not still.any()
    if not beside.rules:
        np.testing.assert_allclose(pull, 4e-3, rtol=1e-6)


@pytest.mark.parametrize("max_step", [None, 0.5])
def test_leaves_of_units_may_have_penalties_of_their_own(max_step: float | None) -> None:
    """With the bound and with a number for it, also where an index is in no unit."""
    params = tree()
    after, _ = after_updates(by_group(L1 + DECAY, 1e-3, max_step=max_step), params, jax.tree.map(np.zeros_like, params))
    index = params["b"]["kernel"][3]
    tau = 4e-3 / (L1_HERE + 2 * L2_HERE * np.abs(index)) if max_step is None else max_step  # τ·slope = 4η
    np.testing.assert_allclose(after["b"]["kernel"][3], soft(index, tau * L1_HERE) / (1 + 2 * tau * L2_HERE), rtol=1e-5)


def test_the_state_has_one_number_a_unit_in_each_of_its_leaves() -> None:
    """And one for each index that is in no unit; `nu` of the other leaves is Adam's."""
    state = after_updates(by_group(L1), tree(), tree(seed=1))[1].inner[0]
    kernel, numbers = state.nu["b"]["kernel"][:, 0], state.nu["a"]["bias"]
    shapes = jax.tree.map(jnp.shape, state.nu)
    assert shapes == {"a": {"kernel": (1, 3), "bias": (3,)}, "b": {"kernel": (7, 1), "bias": (2,)}}
    for of_leaf in (state.nu["a"]["kernel"][0], kernel[np.array([1, 2, 0])], kernel[np.array([6, 4, 5])]):
        np.testing.assert_allclose(of_leaf, numbers, rtol=1e-6)


def test_a_step_keeps_nothing_but_a_copy_of_what_is_donated() -> None:
    """XLA sees a reshape between the parameters and what takes their memory. With a moment for each entry it keeps more
    and reads more; the state here is half as large as Adam's."""
    shapes = {"in": (512, 256), "bias": (256,), "out": (256, 512)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    size = 4 * sum(math.prod(shape) for shape in shapes.values())
    reg = jaxreg.JointGroup(jaxreg.L1(0.1), {"in": 1, "bias": 0, "out": 0})
    program, of_entries = (programs.compiled_step(tx, params) for tx in (by_group(reg), jaxreg.proximal_adam(LR, reg)))
    assert programs.temporaries(program) < 1.05 * size < programs.temporaries(of_entries)
    assert programs.accessed(program) < programs.accessed(of_entries)
    state = jax.tree.leaves(jax.eval_shape(by_group(reg).init, params))
    assert 4 * sum(leaf.size for leaf in state) < 1.02 * size


# --------------------------------------------------------------------------------------------- dtypes, wrappers, states


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_dtypes_and_what_map_params_sees(dtype: str) -> None:
    params = {"k": jnp.ones((2, 3), dtype), "b": jnp.ones(3), "free": jnp.ones(2)}
    tx = by_group(jaxreg.JointGroup(jaxreg.L1(1e-3), {"k": 1, "b": 0}))
    state = tx.init(params)
    assert {name: (v.shape, v.dtype) for name, v in state.inner[0].nu.items()} == {
        "k": ((1, 3), jnp.float32),
        "b": ((3,), jnp.float32),
        "free": ((2,), jnp.float32),
    }
    updates, new = jax.jit(tx.update)(params, state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for name, leaf in optax.apply_updates(params, updates).items():
        assert leaf.dtype == params[name].dtype
        np.testing.assert_allclose(leaf.astype("complex64"), 0.9, atol=6e-3)
    seen: list[Any] = []
    optax.tree.map_params(tx, lambda leaf, like: seen.append((leaf.shape, like.shape)), new, params)
    assert seen and all(shape == like for shape, like in seen)  # a sharding of a parameter fits all that is mapped


def test_inside_wrappers_of_optax_it_takes_the_same_step() -> None:
    params, grads = tree(), tree(0.3, seed=1)
    plain, _ = after_updates(by_group(L1), params, grads, 2)
    injected = optax.inject_hyperparams(jaxreg.proximal_adam, static_args=("reg",))
    whole = {"a": True, "b": {"kernel": True, "bias": False}}
    for tx in (
        injected(learning_rate=LR, reg=L1, moments="group"),
        optax.apply_if_finite(by_group(L1), 3),
        by_group(lambda step: (1 + 0 * step) * L1, optax.constant_schedule(LR)),
        optax.masked(by_group(L1), whole),
        optax.partition({True: by_group(L1), False: optax.set_to_zero()}, whole),
    ):
        ours, _ = after_updates(tx, params, grads, 2)
        np.testing.assert_allclose(rows(ours), rows(plain), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(rows(ours) == 0, rows(plain) == 0)
        np.testing.assert_allclose(ours["b"]["kernel"][3], plain["b"]["kernel"][3], rtol=1e-5)


def test_a_checkpoint_goes_on_bit_for_bit() -> None:
    tx, params, grads = by_group(L1), tree(), tree(seed=1)
    update = jax.jit(tx.update)
    _, state = update(grads, tx.init(params), params)
    again = flax.serialization.from_bytes(tx.init(tree(seed=2)), flax.serialization.to_bytes(state))
    jax.tree.map(np.testing.assert_array_equal, update(grads, again, params), update(grads, state, params))


def test_a_state_of_the_other_moments_is_refused() -> None:
    """It would go on as what it was, or as neither."""
    params, both = tree(), L1 + DECAY
    group, entry = by_group(both), jaxreg.proximal_adam(LR, both)
    wrapper = jaxreg.proximal(optax.adam(LR), both, LR, jaxreg.adam_metric())
    other = by_group(jaxreg.JointGroup(jaxreg.L1(0.4), {"a/kernel": 0}) + DECAY)
    has = r"a leaf of shape \(4, 3\) has second moments of the shape "
    for tx, made_by, message in (
        (entry, group, r'`proximal_adam\(moments="entry"\)`: in the state .*has .*, as `.*moments="group"\)` makes'),
        (wrapper, group, '`proximal`: in the state .*has .*, as `.*moments="group"\\)` makes'),
        (group, entry, has + r'\(4, 3\), as `moments="entry"` makes them.*JointGroup.*`tx\.init\(params\)`'),
        (group, other, has + r"\(4, 1\), and now it has the penalty JointGroup.*`tx\.init\(params\)`"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(tx.update, params, made_by.init(params), params)
        jax.eval_shape(tx.update, params, tx.init(params), params)  # the way out: a new state


def test_what_has_no_closed_form_is_refused_at_once() -> None:
    params = tree()
    spectral = jaxreg.TreeRegularizer({"a/kernel": jaxreg.Spectral(jaxreg.L1(0.3))})
    for reg, message in (
        (L1 + spectral, "has also the penalty"),
        (L1 + jaxreg.JointGroup(jaxreg.L1(), {"a/kernel": 0}), "overlapping groups"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            by_group(reg).init(params)
