"""Sharded parameters on eight devices, Auto and Explicit axes: the numbers and the shardings of one device."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxreg
import jaxreg.linen
import jaxreg.nnx
from jaxreg import activity
from jaxreg.penalties import PENALTIES
from tests import constraint_cases
from tests.cases import ALL_CASES, label

pytestmark = pytest.mark.wide

X = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
REFERENCE = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
L1 = jaxreg.L1(0.3)
REGULARIZERS = (
    *(case.regularizer for case in ALL_CASES),
    *constraint_cases.INSTANCES.values(),
    jaxreg.Group(L1, axis=1),
    jaxreg.Spectral(L1, method="polar"),
    jaxreg.Anchored(L1, REFERENCE, weights=abs(REFERENCE)),
    jaxreg.Weighted(L1, abs(REFERENCE)) + jaxreg.Weighted(jaxreg.Group(L1), abs(REFERENCE[0])),
    jaxreg.SLOPE.bh(0.3, 0.5, X.size),
    jaxreg.Difference(L1, axis=0),
    jaxreg.Stacked(jaxreg.Spectral(L1), axes=(0,)),
    jaxreg.Stacked(jaxreg.Group(L1, axis=0), axes=(1,)),
    jaxreg.Matrix(jaxreg.Spectral(L1), outputs=(-1, 0)),
    jaxreg.Matrix(jaxreg.Group(L1, axis=0) + jaxreg.L2(0.2), outputs=0),
)
MESHES = {
    kind: jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    for kind in (AxisType.Auto, AxisType.Explicit)
}
each_regularizer = pytest.mark.parametrize("reg", REGULARIZERS, ids=label)
each_kind = pytest.mark.parametrize("mesh", MESHES.values(), ids=[kind.name for kind in MESHES], indirect=True)


@pytest.fixture
def mesh(request: pytest.FixtureRequest) -> Iterator[jax.sharding.Mesh]:
    """A mesh of 2 by 4 devices, set as the context: JAX wants that for eager gradients on Explicit axes."""
    with jax.set_mesh(request.param):
        yield request.param


def test_every_penalty_is_here() -> None:
    flat = [inner for reg in REGULARIZERS for inner in _inside(reg)]
    assert {type(reg) for reg in flat} >= set(PENALTIES)


def _inside(reg: Any) -> list[Any]:
    children = [getattr(reg, name) for name in ("penalty", "terms") if hasattr(reg, name)]
    flat = [child for item in children for child in (item if isinstance(item, tuple) else (item,))]
    return [reg, *(found for child in flat for found in _inside(child))]


# Shardings are settled before LLVM begins, and its optimizations take half of the time of these tests.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def everything(reg: Any, x: jax.Array) -> dict[str, jax.Array]:
    """The value, the gradient, and the proximal operators with one step and with a step per entry, where there are."""
    results = dict(zip(("value", "gradient"), jax.value_and_grad(reg)(x), strict=True))
    for name, step in (("prox", 0.1), ("metric prox", 0.1 + jnp.abs(x))):
        try:
            results[name] = reg.prox(x, step)
        except NotImplementedError:
            continue
    return results


def point(reg: Any) -> np.ndarray:
    return X.reshape(8, 4, 4) if isinstance(getattr(reg, "penalty", None), jaxreg.Spectral) else X


@functools.cache
def _one_device(i: int) -> dict[str, np.ndarray]:
    reg = REGULARIZERS[i]
    return jax.tree.map(np.asarray, jit(functools.partial(everything, reg))(point(reg)))


def check(i: int, mesh: jax.sharding.Mesh, spec: P) -> None:
    sharding = NamedSharding(mesh, spec)
    reg = REGULARIZERS[i]
    results = jit(functools.partial(everything, reg))(jax.device_put(point(reg), sharding))
    for name, expected in _one_device(i).items():
        np.testing.assert_allclose(results[name], expected, rtol=2e-5, atol=2e-6, err_msg=name)
        if expected.ndim and expected.any():  # a gradient that is 0 by definition is a constant that stands nowhere
            assert results[name].sharding.is_equivalent_to(sharding, expected.ndim), name


@each_kind
@each_regularizer
def test_sharded_as_on_one_device(reg: Any, mesh: jax.sharding.Mesh) -> None:
    check(REGULARIZERS.index(reg), mesh, P("data", "model"))


@pytest.mark.slow
@each_regularizer
@pytest.mark.parametrize(
    ("mesh", "spec"),
    [(MESHES[AxisType.Explicit], P("data")), (MESHES[AxisType.Auto], P(None, "model"))],
    indirect=["mesh"],
    ids=["Explicit rows", "Auto columns"],
)
def test_other_shardings(reg: Any, mesh: jax.sharding.Mesh, spec: P) -> None:
    check(REGULARIZERS.index(reg), mesh, spec)


# ---------------------------------------------------------------------------------------------------- trees and steps

RULES = jaxreg.TreeRegularizer(
    {
        "**/bias": None,
        "**/attention/*": jaxreg.Spectral(L1),
        "**/out/kernel": jaxreg.L1(0.3) + jaxreg.Group(jaxreg.L1(0.5), axis=1),
        "**": jaxreg.L1L2(0.3, 0.1),
    }
)
METRIC_RULES = jaxreg.TreeRegularizer({"**/out/kernel": jaxreg.Group(L1, axis=0), "**": jaxreg.L1L2(0.3, 0.1)})
SPECS = {
    "embed": P("model", "data"),
    "layers": {"attention": {"q": P("data", "model")}, "out": {"kernel": P("data", "model"), "bias": P("model")}},
}


def tree(seed: int) -> Any:
    numbers = np.random.default_rng(seed)
    shapes = {"embed": (8, 4), "layers": {"attention": {"q": (4, 8)}, "out": {"kernel": (8, 16), "bias": (16,)}}}
    return jax.tree.map(
        lambda shape: numbers.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def place(mesh: jax.sharding.Mesh, arrays: Any) -> Any:
    specs = jax.tree.leaves(SPECS, is_leaf=lambda x: isinstance(x, P))
    leaves, treedef = jax.tree.flatten(arrays)
    pairs = zip(leaves, specs, strict=True)
    return treedef.unflatten([jax.device_put(leaf, NamedSharding(mesh, spec)) for leaf, spec in pairs])


def assert_same(results: Any, expected: Any, like: Any) -> None:
    chex.assert_trees_all_close(results, expected, rtol=2e-5, atol=2e-6)
    for result, leaf in zip(jax.tree.leaves(results), jax.tree.leaves(like), strict=True):
        assert result.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


@each_kind
def test_trees(mesh: jax.sharding.Mesh) -> None:
    params, sharded = tree(0), place(mesh, tree(0))
    np.testing.assert_allclose(RULES(sharded), RULES(params), rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(RULES.breakdown)(sharded), RULES.breakdown(params), rtol=1e-6)

    def prox(tree: Any) -> Any:
        return RULES.prox(tree, 0.2)

    assert_same(prox(sharded), prox(params), sharded)
    assert_same(jax.jit(prox)(sharded), prox(params), sharded)
    for kernel in (prox(sharded)["embed"], prox(sharded)["layers"]["out"]["kernel"]):
        assert (kernel == 0).any() and not (kernel == 0).all()


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "add_regularization": lambda: optax.chain(jaxreg.add_regularization(RULES, track=True), optax.adam(0.1)),
    "proximal": lambda: jaxreg.proximal(optax.adam(0.1), RULES, 0.1),
    "proximal_adam": lambda: jaxreg.proximal_adam(0.1, METRIC_RULES),
    "moments by group": lambda: jaxreg.proximal_adam(0.1, METRIC_RULES, moments="group"),
    "inner steps": lambda: jaxreg.proximal_adam(0.1, RULES, inner_steps=2),
    "anchored": lambda: jaxreg.proximal(optax.sgd(0.1), RULES.anchored(tree(2)), 0.1),
}


@each_kind
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_three_steps_of_an_optimizer(make: Callable[[], Any], mesh: jax.sharding.Mesh) -> None:
    tx = make()

    @functools.partial(jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any) -> Any:
        gradients = jax.grad(lambda p: sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(p)))(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    results = []
    for params in (jax.tree.map(jnp.asarray, tree(0)), place(mesh, tree(0))):
        state = tx.init(params)
        for _ in range(3):
            params, state = step(params, state)
        results.append(params)
    assert_same(results[1], results[0], place(mesh, tree(0)))


ACTIVITIES = (
    functools.partial(activity.penalty, jaxreg.L1L2(0.3, 0.1)),
    activity.activation_l2,
    activity.covariance,
    activity.decorrelation,
    activity.variance,
    activity.entropy,
    activity.z_loss,
    lambda x: activity.kl_sparsity(jax.nn.sigmoid(x)),
)


@each_kind
def test_penalties_of_activations(mesh: jax.sharding.Mesh) -> None:
    def total(x: jax.Array) -> jax.Array:
        return sum(penalty(x) for penalty in ACTIVITIES)

    x = jax.device_put(X, NamedSharding(mesh, P("data", "model")))
    expected, results = (jax.jit(jax.value_and_grad(total))(at) for at in (X, x))
    chex.assert_trees_all_close(results, expected, rtol=1e-5, atol=1e-6)
    assert results[1].sharding.is_equivalent_to(x.sharding, 2)


# ---------------------------------------------------------------------------------------------------------------- Flax


KERNEL = jaxreg.Group(L1, axis=0) + jaxreg.OrthogonalRegularizer(0.1) + jaxreg.Spectral(L1)
AXES = (None, "model")  # what Flax's own product of inputs and kernel allows on Explicit axes


def check_step(mesh: jax.sharding.Mesh, loss: Callable[[Any, Any], Any], params: Any, rules: Any) -> None:
    """The penalty in a loss, its gradient, and a proximal step, with boxed or plain parameters."""
    sharded = jax.tree.map(lambda p: jax.device_put(p, NamedSharding(mesh, P(*AXES[-p.ndim :]))), params)
    tx = jaxreg.proximal(optax.sgd(0.1), rules, 0.1)

    def step(params: Any, x: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, x)
        return value, gradients, tx.update(gradients, tx.init(params), params)[0]

    expected = jax.jit(step)(params, X)
    with jax.set_mesh(mesh):
        results = jax.jit(step)(sharded, jax.device_put(X, NamedSharding(mesh, P("data"))))
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-6)
    for result, other in zip(results[1:], expected[1:], strict=True):
        assert_same(result, other, sharded)


@pytest.mark.parametrize("mesh", MESHES.values(), ids=[kind.name for kind in MESHES])
def test_linen_with_partitioned_parameters(mesh: jax.sharding.Mesh) -> None:
    layer = jaxreg.linen.Dense(
        16, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), AXES), kernel_regularizer=KERNEL
    )
    params = layer.init(jax.random.key(0), X)["params"]
    assert isinstance(params["kernel"], nn.Partitioned)

    def loss(params: Any, x: Any) -> jax.Array:
        y, losses = jaxreg.linen.with_losses(layer)({"params": params}, x)
        return jnp.mean(y**2) + losses["kernel"]

    check_step(mesh, loss, params, jaxreg.TreeRegularizer({"kernel": jaxreg.Group(L1, axis=0)}))


@pytest.mark.parametrize("mesh", MESHES.values(), ids=[kind.name for kind in MESHES])
def test_nnx_with_partitioned_parameters(mesh: jax.sharding.Mesh) -> None:
    layer = jaxreg.nnx.Linear(8, 16, kernel_regularizer=KERNEL, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)

    def loss(params: Any, x: Any) -> jax.Array:
        y, losses = jaxreg.nnx.with_losses(nnx.merge(graph, params))(x)
        return jnp.mean(y**2) + losses["kernel"]

    check_step(mesh, loss, params, jaxreg.TreeRegularizer({"kernel": jaxreg.Group(L1, axis=0)}))


# ----------------------------------------------------------------------------------------------------------- shard_map

DATA = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
WHOLE = jaxreg.TreeRegularizer({"**": jaxreg.L1(0.3) + jaxreg.Group(jaxreg.L1(0.5), axis=0) + jaxreg.Spectral(L1)})
W = jnp.asarray(REFERENCE[:8, :4])
BATCH = jnp.asarray(X)


def task(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.tanh(x @ w) ** 2)


def mapped(function: Callable[..., Any], **options: Any) -> Any:
    return jax.jit(jax.shard_map(function, mesh=DATA, in_specs=(P(), P("data")), out_specs=P(), **options))


def outside(w: jax.Array, x: jax.Array) -> jax.Array:
    loss = mapped(lambda w, x: jax.lax.pmean(task(w, x), "data"))
    return jax.grad(lambda w: loss(w, x) + WHOLE(w))(w)


def after_the_mean(w: jax.Array, x: jax.Array) -> jax.Array:
    return mapped(lambda w, x: jax.grad(lambda w: jax.lax.pmean(task(w, x), "data") + WHOLE(w))(w))(w, x)


def in_the_optimizer(w: jax.Array, x: jax.Array) -> jax.Array:
    tx = jaxreg.add_regularization(WHOLE)

    def gradient(w: jax.Array, x: jax.Array) -> jax.Array:
        mean = jax.lax.pmean(jax.grad(task)(w, x), "data")
        return tx.update(mean, tx.init(w), w)[0]

    return mapped(gradient, check_vma=False)(w, x)


def in_pmap(w: jax.Array, x: jax.Array) -> jax.Array:
    def gradient(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.pmean(jax.grad(lambda w: task(w, x) + WHOLE(w))(w), "data")

    return jax.pmap(gradient, axis_name="data", in_axes=(None, 0))(w, x.reshape(8, 2, 8))[0]


@pytest.mark.parametrize("way", [outside, after_the_mean, in_the_optimizer, in_pmap], ids=lambda way: way.__name__)
def test_counted_once_not_once_a_device(way: Callable[..., jax.Array]) -> None:
    expected = jax.grad(lambda w: task(w, BATCH) + WHOLE(w))(W)
    np.testing.assert_allclose(way(W, BATCH), expected, rtol=1e-5, atol=1e-6)


def test_the_trap_that_the_docs_name() -> None:
    """Added to the loss of each device, whose gradients JAX sums, the penalty counts once a device."""
    summed = mapped(lambda w, x: jax.grad(lambda w: task(w, x) + WHOLE(w))(w))(W, BATCH)
    expected = jax.grad(lambda w: 8 * task(w, BATCH) + 8 * WHOLE(w))(W)
    np.testing.assert_allclose(summed, expected, rtol=1e-5, atol=1e-6)


def test_the_proximal_step_inside_shard_map() -> None:
    tx = jaxreg.proximal(optax.sgd(0.1), WHOLE.rules[0].regularizer.terms[0], 0.1)

    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        mean = jax.grad(lambda w: jax.lax.pmean(task(w, x), "data"))(w)
        return optax.apply_updates(w, tx.update(mean, tx.init(w), w)[0])

    new = mapped(step)(W, BATCH)
    moved = W - 0.1 * jax.grad(task)(W, BATCH)
    np.testing.assert_allclose(new, np.sign(moved) * np.maximum(abs(moved) - 0.03, 0), atol=1e-6)
    assert 0 < (new == 0).sum() < new.size
