"""Attributes `<parameter>_regularizer` set on modules that know nothing of jaxreg: counted, or refused."""

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

X = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
L2 = jaxreg.L2(0.5)


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def squares(array: Any) -> float:
    return float(0.5 * np.sum(np.asarray(array, np.float64) ** 2))


class Own(nnx.Module):
    """A plain module of the user's: an array, a list of arrays, layers in a list and in a dict, one of them twice."""

    def __init__(self) -> None:
        self.kernel = nnx.Param(jnp.arange(9.0).reshape(3, 3) / 10)
        self.gains = nnx.List([nnx.Param(jnp.full(3, 2.0)), nnx.Param(jnp.full(3, 3.0))])
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs()), nnx.Linear(3, 3, rngs=nnx.Rngs(1))])
        self.named = nnx.Dict(out=self.layers[0])

    def __call__(self, x: Any) -> Any:
        x = x @ self.kernel * self.gains[0] * self.gains[1]
        for layer in self.layers:
            x = layer(x)
        return self.named["out"](x)


LAYERS: dict[str, tuple[Callable[[], Any], dict[str, str]]] = {
    "Linear": (lambda: nnx.Linear(3, 2, rngs=rngs()), {"kernel": "kernel", "bias": "bias"}),
    "LinearGeneral": (lambda: nnx.LinearGeneral(3, (2, 2), rngs=rngs()), {"kernel": "kernel"}),
    "Einsum": (lambda: nnx.Einsum("ab,bc->ac", (3, 2), (2,), rngs=rngs()), {"kernel": "kernel", "bias": "bias"}),
    "Conv": (lambda: nnx.Conv(3, 2, (3,), rngs=rngs()), {"kernel": "kernel", "bias": "bias"}),
    "ConvTranspose": (lambda: nnx.ConvTranspose(3, 2, (3,), rngs=rngs()), {"kernel": "kernel"}),
    "Embed": (lambda: nnx.Embed(5, 3, rngs=rngs()), {"embedding": "embedding"}),
    "BatchNorm": (lambda: nnx.BatchNorm(3, rngs=rngs()), {"scale": "scale", "bias": "bias"}),
    "LayerNorm": (lambda: nnx.LayerNorm(3, rngs=rngs()), {"scale": "scale"}),
    "RMSNorm": (lambda: nnx.RMSNorm(3, rngs=rngs()), {"scale": "scale"}),
    "GroupNorm": (lambda: nnx.GroupNorm(3, num_groups=3, rngs=rngs()), {"scale": "scale"}),
    "InstanceNorm": (lambda: nnx.InstanceNorm(3, rngs=rngs()), {"scale": "scale"}),
    "PReLU": (nnx.PReLU, {"negative_slope": "negative_slope"}),
    "LoRA": (lambda: nnx.LoRA(3, 2, 4, rngs=rngs()), {"lora_a": "lora_a", "lora_b": "lora_b"}),
    "LoRALinear": (
        lambda: nnx.LoRALinear(3, 2, lora_rank=2, rngs=rngs()),
        {"kernel": "kernel", "lora_a": "lora/lora_a"},
    ),
    "MultiHeadAttention": (
        lambda: nnx.MultiHeadAttention(2, 4, rngs=rngs(), decode=False),
        {
            "kernel": "query/kernel key/kernel value/kernel out/kernel",
            "bias": "query/bias key/bias value/bias out/bias",
        },
    ),
    "LSTMCell": (
        lambda: nnx.LSTMCell(3, 2, rngs=rngs()),
        {"recurrent": "hf/kernel hg/kernel hi/kernel ho/kernel", "bias": "hf/bias hg/bias hi/bias ho/bias"},
    ),
    "OptimizedLSTMCell": (lambda: nnx.OptimizedLSTMCell(3, 2, rngs=rngs()), {"kernel": "dense_i/kernel"}),
    "GRUCell": (lambda: nnx.GRUCell(3, 2, rngs=rngs()), {"recurrent": "dense_h/kernel"}),
    "SimpleCell": (
        lambda: nnx.SimpleCell(3, 2, rngs=rngs()),
        {"kernel": "dense_i/kernel", "recurrent": "dense_h/kernel"},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_plain_layer_of_flax(name: str) -> None:
    """The weights alone: the model of the call is a list that is not run."""
    make, places = LAYERS[name]
    layer = make()
    for parameter in places:
        setattr(layer, f"{parameter}_regularizer", L2)
    arrays = {
        "/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(layer, nnx.Param))
    }
    expected = {f"0/{path}": squares(arrays[path]) for paths in places.values() for path in paths.split()}
    _, losses = with_losses(nnx.List([layer]), method=lambda model: None)()
    assert set(losses) == set(expected)
    for path, value in expected.items():
        np.testing.assert_allclose(losses[path], value, rtol=1e-6)


def test_a_layer_inside_a_model() -> None:
    model = nnx.Sequential(nnx.Linear(3, 2, rngs=rngs()), nnx.relu)
    model.layers[0].kernel_regularizer = L2
    y, losses = with_losses(model)(X)
    np.testing.assert_array_equal(y, model(X))
    np.testing.assert_allclose(losses["layers/0/kernel"], squares(model.layers[0].kernel), rtol=1e-6)
    assert jaxreg.nnx.regularizer(model) == jaxreg.TreeRegularizer([("layers/0/kernel", L2)])
    model.layers[0].kernel_regularizer = "l1"  # counts from the next call on
    _, losses = with_losses(model)(X)
    np.testing.assert_allclose(losses["layers/0/kernel"], 0.01 * np.abs(model.layers[0].kernel).sum(), rtol=1e-5)
    model.layers[0].kernel_regularizer = None
    assert with_losses(model)(X)[1] == {}


def test_modules_of_the_users_own_with_lists_dicts_and_a_shared_layer() -> None:
    model = Own()
    model.kernel_regularizer, model.gains_regularizer = L2, L2
    model.named["out"].kernel_regularizer = L2  # layers[0] by another name
    model.layers[1].bias_regularizer = jaxreg.L1(1.0)
    expected = {
        "kernel": squares(model.kernel),
        "gains/0": 6.0,
        "gains/1": 13.5,
        "layers/0/kernel": squares(model.layers[0].kernel),
        "layers/1/bias": 0.0,
    }
    _, losses = with_losses(model)(X)
    assert set(losses) == set(expected)
    for path, value in expected.items():
        np.testing.assert_allclose(losses[path], value, rtol=1e-6)


def test_an_attribute_of_the_class() -> None:
    class Penalized(nnx.Linear):
        kernel_regularizer = L2

    model = Penalized(3, 2, rngs=rngs())
    np.testing.assert_allclose(with_losses(model)(X)[1]["kernel"], squares(model.kernel), rtol=1e-6)


def test_outputs_of_plain_modules_once_a_call() -> None:
    model = Own()
    model.activity_regularizer = L2
    model.layers[0].activity_regularizer = L2
    hidden: list[Any] = [X @ model.kernel.get_value() * 6.0]
    for layer in (model.layers[0], model.layers[1], model.layers[0]):
        hidden.append(np.asarray(hidden[-1]) @ layer.kernel.get_value() + layer.bias.get_value())
    expected = {"activity": squares(hidden[3]) / 4, "layers/0/activity": (squares(hidden[1]) + squares(hidden[3])) / 4}
    own_call = nnx.Linear.__call__
    for call in (with_losses(model), lambda x: nnx.jit(lambda m, x: with_losses(m)(x))(model, x)):
        _, losses = call(X)
        assert set(losses) == set(expected)
        for path, value in expected.items():
            np.testing.assert_allclose(losses[path], value, rtol=1e-5)
    assert nnx.Linear.__call__ is own_call
    _, losses = with_losses(model, activity=[("layers/0", L2)])(X)  # a rule adds to what is declared
    np.testing.assert_allclose(losses["layers/0/activity"], 2 * expected["layers/0/activity"], rtol=1e-5)


def test_a_plain_cell_inside_rnn() -> None:
    model = nnx.RNN(nnx.SimpleCell(3, 2, rngs=rngs()))
    model.cell.activity_regularizer, model.cell.recurrent_regularizer = L2, L2
    y, losses = with_losses(model)(np.ones((4, 5, 3), np.float32))
    np.testing.assert_allclose(losses["cell/activity"], squares(y) / 4, rtol=1e-5)
    np.testing.assert_allclose(losses["cell/dense_h/kernel"], squares(model.cell.dense_h.kernel), rtol=1e-6)


def test_gradients_and_compilation() -> None:
    model = nnx.Linear(3, 2, rngs=rngs())
    model.kernel_regularizer = nnx.data(jaxreg.L2(jnp.asarray(0.5)))
    grads = nnx.jit(nnx.grad(lambda m: sum(with_losses(m)(X)[1].values())))(model)
    np.testing.assert_allclose(grads["kernel"].get_value(), model.kernel.get_value(), rtol=1e-6)


def test_a_stack_of_plain_layers() -> None:
    @nnx.split_rngs(splits=5)
    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(rngs: nnx.Rngs) -> nnx.Linear:
        return nnx.Linear(3, 2, rngs=rngs)

    model = stack(rngs())
    model.kernel_regularizer = jaxreg.Spectral(jaxreg.L1(1.0))
    _, losses = with_losses(nnx.List([model]), method=lambda m: None)()
    singular = [np.linalg.svd(kernel, compute_uv=False).sum() for kernel in np.asarray(model.kernel.get_value())]
    np.testing.assert_allclose(losses["0/kernel"], sum(singular), rtol=1e-5)


def stacked(make: Callable[[nnx.Rngs], Any], layers: int) -> Any:
    return nnx.split_rngs(splits=layers)(nnx.vmap(make))(rngs())


MAXIMUM = jaxreg.Function(lambda w: jnp.max(jnp.abs(w)))


@pytest.mark.parametrize(
    ("make", "attribute"),
    [
        (lambda rngs: nnx.LoRA(3, 2, 4, rngs=rngs), "lora_a"),
        (lambda rngs: jaxreg.nnx.LoRA(3, 2, 4, rngs=rngs, b_initializer=nnx.initializers.normal()), "lora_b"),
        (lambda rngs: nnx.Einsum("ab,bc->ac", (3, 2), (2,), rngs=rngs, bias_init=nnx.initializers.normal()), "bias"),
    ],
)
def test_the_maximum_of_a_stack_is_that_of_each_layer(make: Any, attribute: str) -> None:
    model = stacked(make, 7)
    setattr(model, f"{attribute}_regularizer", MAXIMUM)
    _, losses = with_losses(nnx.List([model]), method=lambda m: None)()
    layers = np.abs(np.asarray(getattr(model, attribute).get_value())).reshape(7, -1)
    np.testing.assert_allclose(losses[f"0/{attribute}"], layers.max(1).sum(), rtol=1e-6)


class Matmul(nnx.Module):
    """A layer of the user's own, in whose fields no shapes stand; with a penalty as metadata."""

    def __init__(self, rngs: nnx.Rngs, metadata: Any = None) -> None:
        self.w = nnx.Param(jax.random.normal(rngs.params(), (3, 3)), regularizer=metadata)

    def __call__(self, x: Any) -> Any:
        return x @ self.w


class Noted(jaxreg.nnx.Regularized, Matmul):
    """The same, which notes its shapes."""


COLUMNS = jaxreg.Group(jaxreg.L1(1.0), axis=0)
RUNS: dict[str, Callable[[Any, Any], Any]] = {
    "scan": nnx.scan(lambda m, x: m(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry),
    "vmap": nnx.vmap(lambda m, x: m(x), in_axes=(0, None)),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("declared", ["attribute", "metadata"])
def test_a_stack_that_only_the_call_tells_raises_and_the_ways_out_run(run: str, declared: str) -> None:
    def make(cls: Any, regularizer: Any) -> Any:
        metadata = regularizer if declared == "metadata" else None
        model = stacked(lambda rngs: cls(rngs, metadata), 5)
        if declared == "attribute":
            model.w_regularizer = regularizer
        return model

    def losses(cls: Any, regularizer: Any) -> Any:
        model = make(cls, regularizer)
        return with_losses(model, method=RUNS[run])(X)[1], np.asarray(model.w.get_value(), np.float64)

    with pytest.raises(ValueError, match=r"w of shape \(5, 3, 3\) is a stack of layers of shape \(3, 3\).*`Matmul`"):
        losses(Matmul, COLUMNS)
    for cls, regularizer in ((Matmul, jaxreg.Stacked(COLUMNS)), (Noted, COLUMNS)):
        found, w = losses(cls, regularizer)
        np.testing.assert_allclose(found["w"], np.linalg.norm(w, axis=1).sum(), rtol=1e-6)
    found, w = losses(Matmul, L2)  # a sum over entries needs no axes
    np.testing.assert_allclose(found["w"], squares(w), rtol=1e-6)
    model = Matmul(rngs())  # no stack
    model.w_regularizer = COLUMNS
    np.testing.assert_allclose(
        with_losses(model)(X)[1]["w"], np.linalg.norm(model.w.get_value(), axis=0).sum(), rtol=1e-6
    )


def test_a_name_that_fits_no_parameter_raises_and_the_way_out_runs() -> None:
    model = nnx.Sequential(nnx.Linear(3, 2, rngs=rngs()))
    model.kernel_regularizer = L2
    for call in (lambda: with_losses(model)(X), lambda: jaxreg.nnx.regularizer(model)):
        with pytest.raises(
            ValueError, match=r"Sequential\(kernel_regularizer=L2.*has \['layers/0/bias', 'layers/0/kernel'\]"
        ):
            call()
    model.layers[0].kernel_regularizer = model.kernel_regularizer
    del model.kernel_regularizer
    assert set(with_losses(model)(X)[1]) == {"layers/0/kernel"}


def test_an_output_that_does_not_exist_raises() -> None:
    model = Own()
    model.layers.activity_regularizer = L2
    with pytest.raises(ValueError, match=r"List\(activity_regularizer=L2.*the module layers has no `__call__`"):
        with_losses(model)(X)
    del model.layers.activity_regularizer
    model.layers[0].activity_regularizer = L2
    assert set(with_losses(model)(X)[1]) == {"layers/0/activity"}


@pytest.mark.parametrize("value", [0.5, "l3", jaxreg.TreeRegularizer([("**", L2)]), {"a": 1}])
def test_what_is_no_regularizer_raises(value: Any) -> None:
    model = nnx.Linear(3, 2, rngs=rngs())
    model.kernel_regularizer = value
    with pytest.raises((TypeError, ValueError)):
        with_losses(model)(X)


class ByChance(nnx.Module):
    """A method and a layer whose names end like those of regularizers."""

    def __init__(self) -> None:
        self.kernel = nnx.Param(jnp.ones((3, 2)))
        self.noise_regularizer = nnx.Dropout(0.5)

    def weight_regularizer(self) -> Any:
        return jnp.sum(self.kernel**2)

    def __call__(self, x: Any) -> Any:
        return x @ self.kernel


def test_methods_and_layers_named_by_chance_are_left_alone() -> None:
    assert with_losses(ByChance())(X)[1] == {}


def test_a_layer_in_the_place_of_a_regularizer_raises() -> None:
    model = ByChance()
    model.kernel_regularizer = nnx.Dropout(0.5)
    with pytest.raises(TypeError, match=r"(?s)ByChance.kernel_regularizer = Dropout\(...\)`.*Rename"):
        with_losses(model)(X)


def test_a_method_that_has_its_parameter_counts() -> None:
    class Penalizes(ByChance):
        def kernel_regularizer(self, w: Any) -> Any:
            return jnp.max(w)

    assert {path: float(loss) for path, loss in with_losses(Penalizes())(X)[1].items()} == {"kernel": 1.0}


def test_under_jax_transformations() -> None:
    model = nnx.Linear(3, 2, rngs=rngs())
    model.kernel_regularizer, model.activity_regularizer = L2, L2
    graph, state = nnx.split(model)
    _, losses = jax.jit(lambda state, x: with_losses(nnx.merge(graph, state))(x))(state, X)
    np.testing.assert_allclose(losses["kernel"], squares(model.kernel), rtol=1e-6)
    np.testing.assert_allclose(losses["activity"], squares(model(X)) / 4, rtol=1e-5)
