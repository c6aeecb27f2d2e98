"""Every ready layer: its parameters against NumPy, its likeness to the Flax layer, and Keras for three of them."""

import copy
import dataclasses
import inspect
import pickle
import pickletools
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import jaxreg
import jaxreg.linen as jl
from jaxreg.linen import with_losses

pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")

KEY = jax.random.key(0)


def sequence(shape=(2, 5, 4)):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def cell_args(features=4, shape=(2, 3), carry=(2, 4), pair=False):
    state = sequence(carry)
    return ((state, 0.5 * state) if pair else state, sequence(shape))


# name: (positional arguments, keyword arguments, inputs, {field: the parameters it is of})
PAIR = {"kernel": ["kernel"], "bias": ["bias"]}
NORM = {"scale": ["scale"], "bias": ["bias"]}
ATTENTION = {
    "kernel": [f"{p}/kernel" for p in ("query", "key", "value", "out")],
    "bias": [f"{p}/bias" for p in ("query", "key", "value", "out")],
    "scale": ["query_ln/scale", "key_ln/scale"],
}


def gates(inputs, hidden, bias):
    return {
        "kernel": [f"{name}/kernel" for name in inputs.split()],
        "recurrent": [f"{name}/kernel" for name in hidden.split()],
        "bias": [f"{name}/bias" for name in bias.split()],
    }


LAYERS = {
    "Dense": ((3,), {}, (sequence(),), PAIR),
    "DenseGeneral": (((3, 2),), {}, (sequence(),), PAIR),
    "Einsum": (((4, 6), "bsf,fo->bso"), {}, (sequence(),), PAIR),
    "Conv": ((3, (2,)), {}, (sequence(),), PAIR),
    "ConvLocal": ((3, (2,)), {}, (sequence(),), PAIR),
    "ConvTranspose": ((3, (2,)), {}, (sequence(),), PAIR),
    "Embed": ((7, 3), {}, (jnp.array([[1, 2], [1, 6]]),), {"embedding": ["embedding"]}),
    "BatchNorm": ((True,), {}, (sequence(),), NORM),
    "LayerNorm": ((), {}, (sequence(),), NORM),
    "GroupNorm": ((2,), {}, (sequence(),), NORM),
    "InstanceNorm": ((), {}, (sequence(),), NORM),
    "RMSNorm": ((), {}, (sequence(),), {"scale": ["scale"]}),
    "PReLU": ((), {}, (sequence(),), {"negative_slope": ["negative_slope"]}),
    "MultiHeadDotProductAttention": ((2,), {"normalize_qk": True}, (sequence(),), ATTENTION),
    "MultiHeadAttention": ((2,), {"normalize_qk": True}, (sequence(),), ATTENTION),
    "SelfAttention": ((2,), {"normalize_qk": True}, (sequence(),), ATTENTION),
    "LSTMCell": ((4,), {}, cell_args(pair=True), gates("ii if ig io", "hi hf hg ho", "hi hf hg ho")),
    "OptimizedLSTMCell": ((4,), {}, cell_args(pair=True), gates("ii if ig io", "hi hf hg ho", "hi hf hg ho")),
    "GRUCell": ((4,), {}, cell_args(), gates("ir iz in", "hr hz hn", "ir iz in hn")),
    "SimpleCell": ((4,), {}, cell_args(), gates("i", "h", "i")),
    "MGUCell": ((4,), {}, cell_args(), gates("if in", "hf hn", "if in hn")),
    "ConvLSTMCell": ((4, (2,)), {}, cell_args(shape=(2, 5, 3), carry=(2, 5, 4), pair=True), gates("ih", "hh", "ih hh")),
}


def nonzero(params):
    """Biases start at 0 and scales at 1; random values tell parameters apart."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return treedef.unflatten([jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def leaf_at(params, path):
    for name in path.split("/"):
        params = params[name]
    return np.asarray(params)


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_penalizes_its_parameters_and_its_output(name):
    args, kwargs, inputs, fields = LAYERS[name]
    regularizers = {f"{field}_regularizer": jaxreg.L2(0.1 * (i + 1)) for i, field in enumerate(fields)}
    model = getattr(jl, name)(*args, **kwargs, **regularizers, activity_regularizer=jaxreg.L1(0.5))
    twin = getattr(nn, name)(*args, **kwargs)
    variables = model.init(KEY, *inputs)
    jax.tree.map(np.testing.assert_array_equal, variables, twin.init(KEY, *inputs))

    variables = {**variables, "params": nonzero(variables["params"])}
    y, losses = with_losses(model)(variables, *inputs)
    jax.tree.map(np.testing.assert_array_equal, y, twin.apply(variables, *inputs))
    output = np.asarray(y[1] if name.endswith("Cell") else y)
    expected = {"activity": 0.5 * np.abs(output).sum() / output.shape[0]}
    for i, paths in enumerate(fields.values()):
        for path in paths:
            expected[path] = 0.1 * (i + 1) * np.square(leaf_at(variables["params"], path)).sum()
    assert list(losses) == sorted(expected)
    for path, value in expected.items():
        np.testing.assert_allclose(losses[path], value, rtol=2e-5, err_msg=path)


def test_every_layer_of_flax_with_a_parameter_is_there():
    ours = {name for name, value in vars(jl).items() if isinstance(value, type) and issubclass(value, nn.Module)}
    assert ours == {*LAYERS, "WeightNorm", "Regularized"}
    layers = {n for n, v in vars(nn).items() if isinstance(v, type) and issubclass(v, nn.Module)}
    assert set(LAYERS) <= layers
    # containers and transforms; SpectralNorm has a state and no parameter
    without = {"Module", "Sequential", "RNN", "Bidirectional", "Dropout", "SpectralNorm", "BatchApply", "RNNCellBase"}
    fp8 = {name for name in layers if name.lower().startswith(("fp8", "nanoofp8"))}
    assert layers - without - fp8 - set(LAYERS) == {"WeightNorm"}


@pytest.mark.parametrize("name", LAYERS)
def test_fields_of_flax_come_first_and_regularizers_by_keyword(name):
    flax_fields = [f.name for f in dataclasses.fields(getattr(nn, name)) if not f.kw_only]
    assert [f.name for f in dataclasses.fields(getattr(jl, name)) if not f.kw_only] == flax_fields


def test_weight_norm_and_the_layer_inside_it():
    layer = jl.Dense(3, kernel_regularizer=jaxreg.L2(0.1))
    model = jl.WeightNorm(layer, scale_regularizer=jaxreg.L1(2.0))
    x = sequence((2, 4))
    variables = model.init(KEY, x)
    _, losses = with_losses(model)(variables, x)
    kernel = np.asarray(variables["params"]["layer_instance"]["kernel"])
    np.testing.assert_allclose(losses["layer_instance/kernel"], 0.1 * np.square(kernel).sum(), rtol=1e-5)
    assert float(losses["layer_instance/kernel/scale"]) == 6.0


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (jl.Dense(2, use_bias=False, bias_regularizer="l2"), (sequence(),), r"Dense\(bias_regularizer=.*\['kernel'\]"),
        (jl.Embed(7, 3, kernel_regularizer="l2"), (jnp.array([1]),), r"Embed\(kernel_regularizer"),
        (jl.RMSNorm(bias_regularizer="l2"), (sequence(),), "bias_regularizer"),
        (jl.SelfAttention(2, scale_regularizer="l2"), (sequence(),), "scale_regularizer"),
    ],
)
def test_a_regularizer_that_fits_no_parameter(model, inputs, message):
    with pytest.raises(ValueError, match=message):
        model.init(KEY, *inputs)


def test_identifiers():
    config = jaxreg.serialize(jaxreg.L1L2(0.1, 0.2))
    for identifier, value in [
        ("l2", jaxreg.L2()),
        (jaxreg.L2, jaxreg.L2()),
        (config, jaxreg.L1L2(0.1, 0.2)),
        (None, None),
    ]:
        assert jl.Dense(2, kernel_regularizer=identifier).kernel_regularizer == value
    assert jl.Dense(2, kernel_regularizer=jnp.sum).kernel_regularizer is jnp.sum
    with pytest.raises(ValueError, match="Known names"):
        jl.Dense(2, kernel_regularizer="l3")
    with pytest.raises(TypeError, match=r"Dense\(kernel_regularizer=\.\.\.\)"):
        jl.Dense(2, kernel_regularizer=jaxreg.TreeRegularizer([("**", "l2")]))


def test_modules_hash_compare_copy_and_print():
    a, b = (jl.Dense(2, kernel_regularizer=r) for r in ("l2", jaxreg.L2(0.01)))
    assert a == b
    assert hash(a) == hash(b)
    assert a != jl.Dense(2, kernel_regularizer="l1")
    assert copy.deepcopy(a) == a.clone() == a
    assert a.copy(features=3).kernel_regularizer == jaxreg.L2(0.01)
    assert "kernel_regularizer = L2(l2=0.01)" in repr(a)
    assert "kernel" in nn.tabulate(a, KEY)(sequence())


def test_public_classes_have_the_address_of_the_package():
    public = {name: value for name, value in vars(jl).items() if isinstance(value, type)}
    assert {*LAYERS, "WeightNorm", "Regularized"} == set(public)
    for name, cls in public.items():
        assert (cls.__module__, cls.__qualname__) == ("jaxreg.linen", name)
        assert pickle.loads(pickle.dumps(cls)) is cls
        assert inspect.getmodule(cls) is jl and inspect.getdoc(cls) and inspect.signature(cls)
        typing.get_type_hints(cls)
        if cls is not jl.Regularized:
            assert nn.remat(cls).__module__ != "jaxreg.linen"  # a lifted class is not the public one

    class Mine(jl.Dense):
        """A class of a user."""

    assert Mine.__module__ == __name__


def test_pickles_name_the_package_and_no_file():
    model = nn.Sequential([jl.Dense(2, kernel_init=nn.initializers.ones, kernel_regularizer="l1"), jl.PReLU()])
    texts = [text for _, text, _ in pickletools.genops(pickle.dumps(model)) if isinstance(text, str)]
    assert {text for text in texts if text.startswith("jaxreg")} == {"jaxreg", "jaxreg.linen"}
    again = pickle.loads(pickle.dumps(model))
    assert again == model and again.layers[0].kernel_regularizer == jaxreg.L1(0.01)
    variables = again.init(KEY, sequence())
    np.testing.assert_allclose(with_losses(again)(variables, sequence())[1]["layers_0/kernel"], 0.01 * 8, rtol=1e-6)


@pytest.mark.parametrize("penalty", ["L1", "L2", "OrthogonalRegularizer"])
def test_dense_conv_and_embed_have_the_losses_of_keras(penalty):
    ours, theirs = getattr(jaxreg, penalty)(0.1), getattr(keras.regularizers, penalty)(0.1)
    activity = {"activity_regularizer": jaxreg.L2(0.3)}, {"activity_regularizer": keras.regularizers.L2(0.3)}
    tokens = jnp.array([[1, 2], [0, 6]])
    cases = [
        (
            jl.Dense(3, kernel_regularizer=ours, **activity[0]),
            keras.layers.Dense(3, kernel_regularizer=theirs, **activity[1]),
            sequence((2, 4)),
            "kernel",
        ),
        (
            jl.Embed(7, 3, embedding_regularizer=ours, **activity[0]),
            keras.layers.Embedding(7, 3, embeddings_regularizer=theirs, **activity[1]),
            tokens,
            "embedding",
        ),
        (
            jl.Conv(3, (2,), padding="SAME", kernel_regularizer=ours, **activity[0]),
            keras.layers.Conv1D(3, 2, padding="same", kernel_regularizer=theirs, **activity[1]),
            sequence(),
            "kernel",
        ),
    ]
    for model, layer, x, name in cases[: 2 if penalty == "OrthogonalRegularizer" else 3]:
        variables = model.init(KEY, x)
        layer.build(x.shape)
        layer.set_weights([np.asarray(variables["params"][n]) for n in (name, "bias") if n in variables["params"]])
        y, losses = with_losses(model)(variables, x)
        np.testing.assert_allclose(y, layer(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose([losses["activity"], losses[name]], layer.losses, rtol=1e-5)
