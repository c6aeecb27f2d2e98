"""The mixin and the ready layers of jaxreg.nnx: which parameters they penalize, by which names, when."""

import inspect
import pickle
import pickletools
import typing
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
KERNEL = {"kernel_regularizer": SQUARES, "bias_regularizer": SQUARES}
NORM = {"scale_regularizer": SQUARES, "bias_regularizer": SQUARES}
ONES = {"kernel_init": nnx.initializers.ones, "bias_init": nnx.initializers.ones}


def squares(model: nnx.Module) -> dict[str, float]:
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"/".join(map(str, path)): float(np.sum(np.square(v.get_value(), dtype=np.float64))) for path, v in state}


# name: (constructor's arguments, input, names of the regularizers)
LAYERS: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {
    "Linear": ((3, 2), KERNEL, X),
    "LinearGeneral": ((3, (2, 2)), KERNEL, X),
    "Einsum": (("bi,io->bo", (3, 2), (2,)), KERNEL, X),
    "Conv": ((3, 2, (2,)), KERNEL, X[None]),
    "ConvTranspose": ((3, 2, (2,)), KERNEL, X[None]),
    "Embed": ((5, 2), {"embedding_regularizer": SQUARES}, np.arange(4)),
    "BatchNorm": ((3,), NORM, X),
    "LayerNorm": ((3,), NORM, X),
    "GroupNorm": ((3,), NORM | {"num_groups": 1}, X),
    "InstanceNorm": ((3,), NORM, X[None]),
    "RMSNorm": ((3,), {"scale_regularizer": SQUARES}, X),
    "PReLU": ((), {"negative_slope_regularizer": SQUARES}, X),
    "LoRA": ((3, 2, 4), {"lora_a_regularizer": SQUARES, "lora_b_regularizer": SQUARES}, X),
    "LoRALinear": (
        (3, 2),
        KERNEL | {"lora_rank": 2, "lora_a_regularizer": SQUARES, "lora_b_regularizer": SQUARES},
        X,
    ),
    "MultiHeadAttention": (
        (2, 4),
        KERNEL | {"decode": False, "normalize_qk": True, "scale_regularizer": SQUARES},
        np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    ),
}


def build(name: str, **more: Any) -> Any:
    args, kwargs, _ = LAYERS[name]
    rngs = {} if name == "PReLU" else {"rngs": nnx.Rngs(0)}
    return getattr(jaxreg.nnx, name)(*args, **kwargs, **rngs, **more)


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer(name: str) -> None:
    model, x = build(name, activity_regularizer=SQUARES), LAYERS[name][2]
    twin_args = {k: v for k, v in LAYERS[name][1].items() if not k.endswith("_regularizer")}
    rngs = {} if name == "PReLU" else {"rngs": nnx.Rngs(0)}
    twin = getattr(nnx, name)(*LAYERS[name][0], **twin_args, **rngs)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), nnx.to_pure_dict(nnx.state(twin)))
    y, losses = with_losses(model)(x)
    np.testing.assert_allclose(y, twin(x), rtol=1e-6)
    expected = squares(twin) | {"activity": float(np.sum(np.square(y, dtype=np.float64))) / len(x)}
    if name == "MultiHeadAttention":  # the norms of the queries and keys have no bias regularizer
        expected = {path: value for path, value in expected.items() if not path.endswith("_ln/bias")}
    assert losses.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(losses[path], value, rtol=1e-5, err_msg=path)


def test_every_layer_of_flax_with_parameters_is_here() -> None:
    without = {"RNN", "Bidirectional", "SpectralNorm", "WeightNorm", "Dropout", "Module", "RNNCellBase", "Sequential"}
    flax = {
        name
        for name, value in vars(nnx).items()
        if isinstance(value, type) and issubclass(value, nnx.Module) and "flax.nnx.nn" in value.__module__
    }
    ours = set(LAYERS) | set(CELLS)
    assert flax - without - ours <= {"RoPE"}  # RoPE has no parameters
    assert ours <= flax and all(issubclass(getattr(jaxreg.nnx, name), getattr(nnx, name)) for name in ours)


CELLS = {
    "LSTMCell": (("ii", "if_", "ig", "io"), ("hi", "hf", "hg", "ho")),
    "OptimizedLSTMCell": (("dense_i",), ("dense_h",)),
    "GRUCell": (("dense_i",), ("dense_h",)),
    "SimpleCell": (("dense_i",), ("dense_h",)),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str) -> None:
    inputs, hidden = CELLS[name]
    penalties = {"kernel": jaxreg.L2(1.0), "recurrent": jaxreg.L2(2.0), "bias": jaxreg.L2(3.0)}
    given = {f"{key}_regularizer": value for key, value in penalties.items()}
    cell = getattr(jaxreg.nnx, name)(3, 2, **given, activity_regularizer=SQUARES, rngs=nnx.Rngs(0))
    for _, parameter in nnx.to_flat_state(nnx.state(cell, nnx.Param)):
        parameter.set_value(parameter.get_value() + 0.5)  # zero biases would hide a wrong assignment
    twin = squares(cell)
    expected = {}
    for path, value in twin.items():
        layer, kind = path.split("/")
        expected[path] = value * (3.0 if kind == "bias" else 1.0 if layer in inputs else 2.0)
        assert layer in inputs or layer in hidden
    (_, y), losses = with_losses(cell)(cell.initialize_carry((4, 3), nnx.Rngs(1)), X)
    expected["activity"] = float(np.sum(np.square(y))) / 4
    assert losses.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(losses[path], value, rtol=1e-5, err_msg=path)


def test_attention_counts_its_output_once() -> None:
    layer = build("MultiHeadAttention", activity_regularizer=SQUARES)
    _, losses = with_losses(layer)(LAYERS["MultiHeadAttention"][2])
    assert [path for path in losses if path.endswith("activity")] == ["activity"]
    assert sum(path.endswith("kernel") for path in losses) == 4


@pytest.mark.parametrize(
    "identifier", ["l2", "L2", jaxreg.L2, jaxreg.L2(0.01), {"class_name": "L2", "config": {"l2": 0.01}}]
)
def test_identifiers(identifier: Any) -> None:
    layer = jaxreg.nnx.Linear(3, 2, kernel_regularizer=identifier, rngs=nnx.Rngs(0), **ONES)
    assert layer.kernel_regularizer == jaxreg.L2(0.01)
    np.testing.assert_allclose(with_losses(layer)(X)[1]["kernel"], 0.06, rtol=1e-6)


def test_functions_and_none() -> None:
    layer = jaxreg.nnx.Linear(3, 2, kernel_regularizer=jnp.max, bias_regularizer=None, rngs=nnx.Rngs(0), **ONES)
    assert jax.tree.map(float, with_losses(layer)(X)[1]) == {"kernel": 1.0}


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no bias": (
        lambda: jaxreg.nnx.Linear(3, 2, use_bias=False, bias_regularizer="l2", rngs=nnx.Rngs(0)),
        ValueError,
        r"`Linear\(bias_regularizer=L2\(l2=0.01\)\)` fits no parameter of the module: .* it has \['kernel'\]",
    ),
    "no such parameter": (
        lambda: jaxreg.nnx.Linear(3, 2, scale_regularizer="l2", rngs=nnx.Rngs(0)),
        ValueError,
        "fits no parameter",
    ),
    "unknown name": (
        lambda: jaxreg.nnx.Linear(3, 2, kernel_regularizer="l3", rngs=nnx.Rngs(0)),
        ValueError,
        "Could not interpret",
    ),
    "a number": (lambda: jaxreg.nnx.Linear(3, 2, kernel_regularizer=0.01, rngs=nnx.Rngs(0)), ValueError, "Could not"),
    "rules": (
        lambda: jaxreg.nnx.Linear(3, 2, kernel_regularizer=jaxreg.TreeRegularizer(()), rngs=nnx.Rngs(0)),
        TypeError,
        "Rules for a whole tree",
    ),
    "another keyword": (lambda: jaxreg.nnx.Linear(3, 2, regularizer="l2", rngs=nnx.Rngs(0)), TypeError, "regularizer"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_regularizers(case: str) -> None:
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make()


def test_attributes_of_a_finished_module() -> None:
    layer = jaxreg.nnx.Linear(3, 2, rngs=nnx.Rngs(0), **ONES)
    call = nnx.jit(lambda layer, x: with_losses(layer)(x)[1])
    assert call(layer, X) == {}
    layer.kernel_regularizer = "l2"
    assert layer.kernel_regularizer == jaxreg.L2(0.01)
    np.testing.assert_allclose(call(layer, X)["kernel"], 0.06, rtol=1e-6)
    layer.kernel_regularizer = jaxreg.L2(1.0)
    np.testing.assert_allclose(call(layer, X)["kernel"], 6.0, rtol=1e-6)
    layer.activity_regularizer, layer.kernel_regularizer = jaxreg.L1(1.0), None
    np.testing.assert_allclose(call(layer, X)["activity"], np.abs(X.sum(1, keepdims=True) + 1).sum() * 2 / 4, 1e-6)
    assert sorted(call(layer, X)) == ["activity"]
    with pytest.raises(ValueError, match="fits no parameter"):
        layer.gain_regularizer = "l2"
    layer.bias_regularizer = "l2"
    layer.bias = nnx.data(None)
    with pytest.raises(ValueError, match=r"fits no parameter"):
        with_losses(layer)(X)
    with pytest.raises(ValueError, match=r"fits no parameter"):
        jaxreg.nnx.regularizer(layer)


class Scale(jaxreg.nnx.Regularized, nnx.Module):
    def __init__(self, features: int) -> None:
        self.gain = nnx.Param(jnp.full(features, 2.0))
        self.shifts = nnx.List([nnx.Param(jnp.full(features, 3.0)), nnx.Param(jnp.full(features, 4.0))])
        self.inner = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return x * self.gain + self.shifts[0] + self.shifts[1]


class Named(jaxreg.nnx.Linear):
    kernel_regularizer = "l2"  # a default of the class

    def __init__(self, features: int, **kwargs: Any) -> None:
        super().__init__(features, features, rngs=nnx.Rngs(0), **ONES, **kwargs)


def test_own_modules() -> None:
    model = Scale(3, gain_regularizer=SQUARES, shifts_regularizer=jaxreg.L1(1.0))
    assert jax.tree.map(float, with_losses(model)(X)[1]) == {"gain": 12.0, "shifts/0": 9.0, "shifts/1": 12.0}
    with pytest.raises(ValueError, match="fits no parameter"):
        Scale(3, inner_regularizer="l2")  # a module is no parameter
    np.testing.assert_allclose(with_losses(Named(3))(X)[1]["kernel"], 0.09, rtol=1e-6)
    assert sorted(with_losses(Named(3, bias_regularizer="l1"))(X)[1]) == ["bias", "kernel"]
    assert with_losses(Named(3, kernel_regularizer=None))(X)[1] == {}


class Twice(jaxreg.nnx.Linear):
    def __call__(self, x: Any) -> Any:
        return 2.0 * super().__call__(x)


def test_a_call_of_the_parent_class_is_no_other_call() -> None:
    model = Twice(3, 2, activity_regularizer=jaxreg.L1(1.0), rngs=nnx.Rngs(0), **ONES)
    _, losses = with_losses(model)(np.ones((5, 3), np.float32))
    assert float(losses["activity"]) == 16.0  # 2 outputs of 2 * (3 + 1) an example


def test_array_coefficients_are_data() -> None:
    traces = []
    layer = jaxreg.nnx.Linear(3, 2, kernel_regularizer=jaxreg.L2(jnp.array(0.5)), rngs=nnx.Rngs(0), **ONES)

    @nnx.jit
    def penalty(layer: Any) -> Any:
        traces.append(None)
        return with_losses(layer)(X)[1]["kernel"]

    assert float(penalty(layer)) == 3.0
    layer.kernel_regularizer = jaxreg.L2(jnp.array(2.0))
    assert float(penalty(layer)) == 12.0
    assert len(traces) == 1
    assert sorted(nnx.state(layer, nnx.Param)) == ["bias", "kernel"]
    layer.kernel_regularizer = "l2"  # and back to a static one
    np.testing.assert_allclose(penalty(layer), 0.06, rtol=1e-6)
    layer.kernel_regularizer = nnx.data(jaxreg.L2(jnp.array(1.0)))
    assert float(penalty(nnx.clone(layer))) == 6.0
    grads = jax.grad(lambda value: _with(layer, value))(0.5)
    assert float(grads) == 6.0


def test_arrays_of_numpy_are_data() -> None:
    reference = np.full((3, 2), 0.5, np.float32)
    layer = jaxreg.nnx.Linear(3, 2, kernel_regularizer=jaxreg.Anchored(SQUARES, reference), rngs=nnx.Rngs(0), **ONES)
    assert hash(nnx.graphdef(layer)) == hash(nnx.graphdef(nnx.clone(layer)))
    for transform in (lambda f: f, nnx.jit):
        assert float(transform(lambda layer: with_losses(layer)(X)[1]["kernel"])(layer)) == 1.5


def _with(layer: Any, coefficient: Any) -> Any:
    layer = nnx.clone(layer)
    layer.kernel_regularizer = jaxreg.L2(coefficient)
    return with_losses(layer)(X)[1]["kernel"]


def test_split_merge_clone_and_graphdef() -> None:
    def make(strength: float) -> Any:
        return jaxreg.nnx.Linear(3, 2, kernel_regularizer=jaxreg.L2(strength), rngs=nnx.Rngs(0))

    assert nnx.graphdef(make(0.5)) == nnx.graphdef(make(0.5)) != nnx.graphdef(make(0.25))
    assert hash(nnx.graphdef(make(0.5))) == hash(nnx.graphdef(make(0.5)))
    model = make(0.5)
    again = nnx.merge(*nnx.split(model))
    assert again.kernel_regularizer == nnx.clone(model).kernel_regularizer == jaxreg.L2(0.5)
    np.testing.assert_array_equal(with_losses(again)(X)[1]["kernel"], with_losses(model)(X)[1]["kernel"])
    abstract = nnx.eval_shape(lambda: make(0.5))
    assert list(jaxreg.nnx.regularizer(abstract).assignment(nnx.state(abstract, nnx.Param))) == ["kernel"]


# -------------------------------------------------------------------------------------------------- names and addresses


def test_public_classes_have_the_address_of_the_package() -> None:
    public = {name: value for name, value in vars(jaxreg.nnx).items() if isinstance(value, type)}
    assert {*LAYERS, *CELLS, "Regularized", "ActivityLoss"} == set(public)
    for name, cls in public.items():
        assert (cls.__module__, cls.__qualname__) == ("jaxreg.nnx", name)
        assert pickle.loads(pickle.dumps(cls)) is cls
        assert inspect.getmodule(cls) is jaxreg.nnx and inspect.getdoc(cls) and inspect.signature(cls)
        typing.get_type_hints(cls)
    assert Twice.__module__ == __name__  # a class of a user keeps its own


def test_pickles_name_the_package_and_no_file() -> None:
    model = jaxreg.nnx.Linear(3, 2, kernel_regularizer=SQUARES, rngs=nnx.Rngs(0))
    for value in (model, nnx.graphdef(model)):
        texts = [text for _, text, _ in pickletools.genops(pickle.dumps(value)) if isinstance(text, str)]
        assert {text for text in texts if text.startswith("jaxreg")} == {"jaxreg", "jaxreg.nnx"}
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(with_losses(again)(X)[1]["kernel"], with_losses(model)(X)[1]["kernel"])
