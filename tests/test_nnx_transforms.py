"""with_losses under and around transforms: nothing is dropped, nothing is counted twice, or it is said."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxreg
import jaxreg.nnx
from jaxreg.nnx import with_losses

SQUARES = jaxreg.L2(1.0)
X = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)
LAYERS = 5


def layer(rngs: nnx.Rngs | None = None, *, regularized: bool = True) -> Any:
    kind, given = nnx.Linear, {}
    if regularized:
        kind, given = jaxreg.nnx.Linear, {"activity_regularizer": SQUARES, "kernel_regularizer": SQUARES}
    return kind(3, 3, use_bias=False, rngs=rngs or nnx.Rngs(0), **given)


def stack(*, regularized: bool = True) -> Any:
    @nnx.split_rngs(splits=LAYERS)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs: nnx.Rngs) -> Any:
        return layer(rngs, regularized=regularized)

    return make(nnx.Rngs(0))


def batched(model: Any) -> float:
    return float(np.sum(np.square(X @ np.asarray(model.kernel)))) / 4


def by_example(model: Any) -> float:  # a vector's leading dimension is its length
    return float(np.sum(np.square(X @ np.asarray(model.kernel)))) / 3


def in_turn(model: Any) -> float:
    total, x = 0.0, X
    for kernel in np.broadcast_to(np.asarray(model.kernel), (LAYERS, 3, 3)):
        x = x @ kernel
        total += float(np.sum(np.square(x))) / 4
    return total


def side_by_side(model: Any) -> float:
    return float(np.sum(np.square(np.einsum("bi,lio->lbo", X, np.asarray(model.kernel))))) / 4


def apply(model: Any, x: Any) -> Any:
    return model(x)


def carried(model: Any, total: Any, x: Any) -> Any:
    return total, model(x)


CARRY = nnx.StateAxes({...: nnx.Carry})
ONLY_LOSS = nnx.StateAxes({jaxreg.nnx.ActivityLoss: nnx.Carry, ...: None})
PARAMS_0 = nnx.StateAxes({nnx.Param: 0, ...: nnx.Carry})

# how the model is called inside of `with_losses`: (makes the model, calls it, its activity penalty)
INSIDE: dict[str, tuple[Callable[..., Any], Callable[[Any], Any], Callable[[Any], float]]] = {
    "plain": (layer, lambda m: m(X), batched),
    "nnx.jit": (layer, lambda m: nnx.jit(apply)(m, X), batched),
    "nnx.jit of the method": (layer, lambda m: nnx.jit(type(m).__call__)(m, X), batched),
    "nnx.remat": (layer, lambda m: nnx.remat(apply)(m, X), batched),
    "nnx.remat of the method": (layer, lambda m: nnx.remat(type(m).__call__)(m, X), batched),
    "nnx.grad": (layer, lambda m: nnx.grad(lambda m, x: jnp.sum(m(x)))(m, X), batched),
    "nnx.cond": (layer, lambda m: nnx.cond(True, apply, lambda m, x: x, m, X), batched),
    "nnx.cond not taken": (layer, lambda m: nnx.cond(False, apply, lambda m, x: x, m, X), lambda m: 0.0),
    "nnx.fori_loop": (
        layer,
        lambda m: nnx.fori_loop(0, LAYERS, lambda i, c: (c[0], c[0](c[1])), (m, jnp.asarray(X))),
        in_turn,
    ),
    "nnx.vmap over layers": (stack, lambda m: nnx.vmap(apply, in_axes=(0, None))(m, X), side_by_side),
    "nnx.vmap over examples": (layer, lambda m: nnx.vmap(apply, in_axes=(None, 0))(m, X), by_example),
    "nnx.vmap of nnx.remat": (layer, lambda m: nnx.vmap(nnx.remat(apply), in_axes=(None, 0))(m, X), by_example),
    "nnx.scan over layers": (
        stack,
        lambda m: nnx.scan(apply, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(m, X),
        in_turn,
    ),
    "nnx.scan of nnx.remat": (
        stack,
        lambda m: nnx.scan(nnx.remat(apply), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(m, X),
        in_turn,
    ),
    "nnx.scan, parameters mapped, the rest carried": (
        stack,
        lambda m: nnx.scan(apply, in_axes=(PARAMS_0, nnx.Carry), out_axes=nnx.Carry)(m, X),
        in_turn,
    ),
    "nnx.scan over steps, carried": (
        layer,
        lambda m: nnx.scan(carried, in_axes=(CARRY, nnx.Carry, 0), out_axes=(nnx.Carry, 0))(m, 0.0, X),
        by_example,
    ),
    "nnx.scan over steps, module carried": (
        layer,
        lambda m: nnx.scan(lambda m, x: (m, m(x)), in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))(m, X),
        by_example,
    ),
    "nnx.scan over steps, parameters broadcast": (
        layer,
        lambda m: nnx.scan(carried, in_axes=(ONLY_LOSS, nnx.Carry, 0), out_axes=(nnx.Carry, 0))(m, 0.0, X),
        by_example,
    ),
}
OUTSIDE: dict[str, Callable[[Callable[[Any], Any]], Callable[[Any], Any]]] = {
    "eager": lambda f: f,
    "nnx.jit": nnx.jit,
    "jax.jit": jax.jit,
    "nnx.remat": nnx.remat,
}


@pytest.mark.parametrize("regularized", [True, False], ids=["declared", "by rule"])
@pytest.mark.parametrize("inside", INSIDE)
def test_calls_inside(inside: str, regularized: bool) -> None:
    make, call, expected = INSIDE[inside]
    model = make(regularized=regularized)
    graphdef = nnx.graphdef(model)
    rules = () if regularized else [("", SQUARES)]
    weights = {"kernel": np.sum(np.square(model.kernel[...]))} if regularized else {}
    for outside, transform in OUTSIDE.items():
        losses = transform(lambda m: with_losses(m, activity=rules, method=call)()[1])(model)
        assert losses.keys() == {"activity", *weights}
        np.testing.assert_allclose(losses["activity"], expected(model), rtol=1e-5, err_msg=outside)
        if weights:
            np.testing.assert_allclose(losses["kernel"], weights["kernel"], rtol=1e-5, err_msg=outside)
        assert nnx.graphdef(model) == graphdef


@pytest.mark.parametrize("inside", ["nnx.remat", "nnx.vmap over examples", "nnx.scan over layers"])
def test_gradients(inside: str) -> None:
    make, call, expected = INSIDE[inside]
    model = make()

    def loss(model: Any) -> Any:
        return with_losses(model, method=call)()[1]["activity"]

    before, kernel = expected(model), np.array(model.kernel[...])
    for value_and_grad in (nnx.value_and_grad, jax.value_and_grad):
        value, grads = value_and_grad(loss)(model)
        np.testing.assert_allclose(value, before, rtol=1e-5)
        grad = np.asarray(grads["kernel"].get_value() if isinstance(grads, nnx.State) else grads.kernel.get_value())
        step = np.linspace(-1e-2, 1e-2, kernel.size, dtype=np.float32).reshape(kernel.shape)
        ends = []
        for sign in (-1, 1):
            moved = nnx.clone(model)
            moved.kernel.set_value(jnp.asarray(kernel + sign * step))
            ends.append(expected(moved))
        np.testing.assert_allclose(np.sum(grad * step), (ends[1] - ends[0]) / 2, rtol=1e-2)


LOST: dict[str, Callable[[Any], Any]] = {
    "jax.jit": lambda m: jax.jit(apply)(m, X),
    "jax.vmap": lambda m: jax.vmap(apply, in_axes=(None, 0))(m, X),
    "nnx.jit of the module": lambda m: nnx.jit(m)(X),
    "a closure in jax.jit": lambda m: jax.jit(lambda x: m(x))(X),
    "a closure in jax.checkpoint": lambda m: jax.checkpoint(lambda x: m(x))(X),
    "a closure in nnx.vmap": lambda m: nnx.vmap(lambda x: m(x))(X),
    "nnx.scan, module broadcast": lambda m: nnx.scan(carried, in_axes=(None, nnx.Carry, 0), out_axes=(nnx.Carry, 0))(
        m, 0.0, X
    ),
}


@pytest.mark.parametrize("case", LOST)
def test_what_would_be_lost_raises(case: str) -> None:
    model = layer()
    LOST[case](model)  # without `with_losses` nothing is in the way
    kept = nnx.jit(apply)
    for transform in (lambda f: f, nnx.jit):
        for _ in range(2):  # also when JAX has the trace in its cache
            with pytest.raises(ValueError, match=r"the activity penalty of the module \(root\) would be lost"):
                transform(lambda m: with_losses(m, method=LOST[case])())(model)
    with pytest.raises(ValueError, match="would be lost"):
        with_losses(model, method=lambda m: (kept(m, X), LOST[case](m)))()
    np.testing.assert_allclose(with_losses(model)(X)[1]["activity"], batched(model), rtol=1e-5)
    model.activity_regularizer = None
    assert sorted(with_losses(model, method=LOST[case])()[1]) == ["kernel"]


def test_vmap_around_keeps_its_axis() -> None:
    models = stack()
    each = nnx.vmap(lambda m, x: with_losses(m)(x)[1], in_axes=(0, None))(models, X)
    kernels = np.asarray(models.kernel)
    np.testing.assert_allclose(each["activity"], np.sum((X @ kernels) ** 2, (1, 2)) / 4, rtol=1e-5)
    np.testing.assert_allclose(each["kernel"], np.sum(kernels**2, (1, 2)), rtol=1e-5)
    model = layer()
    expected = np.sum((X @ np.asarray(model.kernel)) ** 2, 1) / 3
    slope = 2 * X @ np.asarray(model.kernel) @ np.asarray(model.kernel).T / 3
    for method in (
        "__call__",
        nnx.remat(apply),
        nnx.jit(apply),
        lambda m, x: nnx.vmap(apply, in_axes=(None, 0))(m, x[None]),
    ):
        for jit in (lambda f: f, jax.jit):
            call = jit(lambda m, x, method=method: with_losses(m, method=method)(x)[1]["activity"])
            np.testing.assert_allclose(jax.vmap(call, (None, 0))(model, X), expected, rtol=1e-5)
            gradient = jax.vmap(jax.grad(call, argnums=(0, 1)), (None, 0))(model, X)[1]
            np.testing.assert_allclose(gradient, slope, rtol=1e-4)


def test_a_model_that_a_trace_closes_over() -> None:
    model = layer()
    gradient = jax.grad(lambda x: with_losses(model)(x)[1]["activity"])(X)
    np.testing.assert_allclose(gradient, 2 * X @ np.asarray(model.kernel) @ np.asarray(model.kernel).T / 4, rtol=1e-5)
    hessian = jax.hessian(lambda x: with_losses(model)(x)[1]["activity"])(X[:1])
    np.testing.assert_allclose(hessian[0, :, 0], 2 * np.asarray(model.kernel) @ np.asarray(model.kernel).T, rtol=1e-5)


def test_recurrent_network() -> None:
    cell = jaxreg.nnx.SimpleCell(3, 2, activity_regularizer=SQUARES, kernel_regularizer=SQUARES, rngs=nnx.Rngs(0))
    model = nnx.RNN(cell)
    x = np.stack([X, -X, 2 * X], 1)
    for call in (lambda m, x: with_losses(m)(x), nnx.jit(lambda m, x: with_losses(m)(x))):
        y, losses = call(model, x)
        np.testing.assert_allclose(losses["cell/activity"], np.sum(np.square(y)) / 4, rtol=1e-5)
        np.testing.assert_allclose(
            losses["cell/dense_i/kernel"], np.sum(np.square(cell.dense_i.kernel[...])), rtol=1e-5
        )


def test_training_step() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layer, self.norm = layer(rngs), nnx.BatchNorm(3, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.drop(self.norm(self.layer(x)))

    model = Net(nnx.Rngs(0))

    @nnx.jit
    def step(model: Any, x: Any) -> Any:
        def loss(model: Any) -> Any:
            y, losses = with_losses(model)(x)
            return 0.0 * jnp.sum(y) + sum(losses.values()), losses

        return nnx.value_and_grad(loss, has_aux=True)(model)

    for count in (1, 2, 3):
        (value, losses), grads = step(model, X)
        assert int(model.drop.rngs.count[...]) == count
        np.testing.assert_allclose(value, batched(model.layer) + np.sum(np.square(model.layer.kernel[...])), rtol=1e-5)
        assert sorted(losses) == ["layer/activity", "layer/kernel"]
    kernel = np.asarray(model.layer.kernel)
    np.testing.assert_allclose(grads["layer"]["kernel"].get_value(), 2 * kernel + 2 * X.T @ X @ kernel / 4, rtol=1e-4)
    assert float(jnp.sum(jnp.abs(model.norm.mean[...]))) > 0


# ------------------------------------------------------------------------------------------------------- stacked layers


def stacked_orthogonal(layers: int, shape: tuple[int, int], axis: int = 0) -> Any:
    regularizer = jaxreg.OrthogonalRegularizer(1.0)

    @nnx.split_rngs(splits=layers)
    @nnx.vmap(in_axes=0, out_axes=axis)
    def make(rngs: nnx.Rngs) -> Any:
        return jaxreg.nnx.Linear(*shape, use_bias=False, kernel_regularizer=regularizer, rngs=rngs)

    return make(nnx.Rngs(0))


def orthogonal(kernel: Any) -> float:
    """Σ over pairs of rows of |cos|, as Keras: half the off-diagonal of the Gram matrix of the normalized rows."""
    rows = kernel / np.linalg.norm(kernel, axis=1, keepdims=True)
    gram = np.abs(rows @ rows.T)
    count = len(rows) * (len(rows) - 1) / 2
    return float((gram.sum() - np.trace(gram)) / 2 / count)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_matrix_penalties_of_stacks_are_those_of_the_layers(axis: int) -> None:
    model = stacked_orthogonal(5, (3, 4), axis)
    kernels = np.moveaxis(np.asarray(model.kernel), axis, 0)
    expected = sum(orthogonal(kernel) for kernel in kernels)
    reg = jaxreg.nnx.regularizer(model)
    np.testing.assert_allclose(reg(nnx.state(model, nnx.Param)), expected, rtol=1e-5)
    losses = with_losses(model, method=lambda m: None)()[1]
    np.testing.assert_allclose(losses["kernel"], expected, rtol=1e-5)
    one = stacked_orthogonal(1, (3, 4))
    np.testing.assert_allclose(
        jaxreg.nnx.regularizer(one)(nnx.state(one, nnx.Param)), orthogonal(np.asarray(one.kernel)[0]), rtol=1e-5
    )


class Tower(jaxreg.nnx.Regularized, nnx.Module):
    """A stack inside of a module that is regularized itself."""

    def __init__(self) -> None:
        self.layers = stacked_orthogonal(5, (4, 4))

    def __call__(self, x: Any) -> Any:
        return nnx.scan(apply, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.layers, x)


def test_a_stack_inside_of_a_regularized_module() -> None:
    model = Tower(activity_regularizer=SQUARES)
    model.layers.activity_regularizer = jaxreg.L1(1.0)
    x = np.ones((2, 4), np.float32)
    kernels = np.asarray(model.layers.kernel)
    for transform in (lambda f: f, nnx.jit):
        y, losses = transform(lambda m, x: with_losses(m)(x))(model, x)
        np.testing.assert_allclose(losses["layers/kernel"], sum(map(orthogonal, kernels)), rtol=1e-5)
        np.testing.assert_allclose(losses["activity"], np.sum(np.square(y)) / 2, rtol=1e-5)
        hidden, total = x, 0.0
        for kernel in kernels:
            hidden = hidden @ kernel
            total += np.abs(hidden).sum() / 2
        np.testing.assert_allclose(losses["layers/activity"], total, rtol=1e-5)


def test_a_stack_that_the_shapes_do_not_tell_raises() -> None:
    model = stacked_orthogonal(3, (3, 3))
    with pytest.raises(
        ValueError, match=r"stack of layers of shape \(3, 3\), along an axis that the shapes do not tell"
    ):
        jaxreg.nnx.regularizer(model)
    model.kernel_regularizer = jaxreg.Stacked(jaxreg.OrthogonalRegularizer(1.0), axes=(0,))
    expected = sum(map(orthogonal, np.asarray(model.kernel)))
    np.testing.assert_allclose(jaxreg.nnx.regularizer(model)(nnx.state(model, nnx.Param)), expected, rtol=1e-5)
    model.kernel_regularizer = jaxreg.L1L2(0.5, 0.25)  # elementwise: no axis to know
    kernel = np.asarray(model.kernel)
    np.testing.assert_allclose(
        jaxreg.nnx.regularizer(model)(nnx.state(model, nnx.Param)),
        0.5 * np.abs(kernel).sum() + 0.25 * np.square(kernel).sum(),
        rtol=1e-5,
    )


def test_a_stack_by_metadata() -> None:
    @nnx.split_rngs(splits=5)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs: nnx.Rngs) -> Any:
        metadata = {"regularizer": jaxreg.OrthogonalRegularizer(1.0)}
        return nnx.Linear(3, 4, use_bias=False, kernel_metadata=metadata, rngs=rngs)

    model = make(nnx.Rngs(0))
    expected = sum(map(orthogonal, np.asarray(model.kernel)))
    np.testing.assert_allclose(jaxreg.nnx.regularizer(model)(nnx.state(model, nnx.Param)), expected, rtol=1e-5)


def test_sharded_batches() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    model = layer()
    sharded = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec))
    losses = nnx.jit(lambda m, x: with_losses(m)(x)[1])(model, sharded)
    np.testing.assert_allclose(losses["activity"], batched(model), rtol=1e-5)
    each = jax.shard_map(lambda x: with_losses(model)(x)[1]["activity"][None], mesh=mesh, in_specs=spec, out_specs=spec)
    for call in (each, jax.jit(each)):  # each device has one example
        np.testing.assert_allclose(call(X).mean(), batched(model), rtol=1e-5)


def test_ensemble_with_its_own_random_streams() -> None:
    class Dropped(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.drop, self.layer = nnx.Dropout(0.5, rngs=rngs), layer(rngs)

        def __call__(self, x: Any) -> Any:
            return self.layer(self.drop(x))

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(nnx.StateAxes({nnx.RngState: 0, ...: None}), None))
    def run(model: Any, x: Any) -> Any:
        y, losses = with_losses(model)(x)
        return y, losses["layer/activity"]

    y, losses = run(Dropped(nnx.Rngs(0)), X)
    np.testing.assert_allclose(losses, np.sum(np.square(y), (1, 2)) / 4, rtol=1e-5)
    assert len(set(np.asarray(losses).tolist())) == 3
