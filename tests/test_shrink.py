"""jaxreg.shrink: the function stays, the widths fall, in both Flax APIs; what is kept, and what is refused."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxreg
import jaxreg.nnx

RNG = np.random.default_rng(0)


def same(a, b, tolerance=2e-6):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(jnp.abs(b).max()))


def widths(params):
    """The shapes of all kernels, by the path of their module."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


# ----------------------------------------------------------------------------------------------- multilayer perceptrons


class MLP(nn.Module):
    features: tuple[int, ...] = (6, 5, 3)
    activation: object = nn.relu

    @nn.compact
    def __call__(self, x):
        for n in self.features[:-1]:
            x = self.activation(nn.Dense(n, bias_init=nn.initializers.normal(1.0))(x))
        return nn.Dense(self.features[-1])(x)


MLP_GRAPH = [("Dense_0", "Dense_1"), ("Dense_1", "Dense_2")]


def linen_mlp(**kwargs):
    model = MLP(**kwargs)
    return model, jax.tree.map(np.array, model.init(jax.random.key(0), jnp.zeros((1, 4)))["params"])


def test_units_without_inputs_and_without_readers():
    model, params = linen_mlp()
    params["Dense_0"]["kernel"][:, 1] = 0  # with its bias: always 0
    params["Dense_0"]["bias"][1] = 0
    params["Dense_0"]["kernel"][:, 2] = 0  # its bias is left: a constant, which stays
    params["Dense_1"]["kernel"][4, :] = 0  # read by nobody
    x = RNG.normal(size=(20, 4))
    small = jaxreg.shrink(params, MLP_GRAPH)
    kept = [0, 2, 3, 5]
    np.testing.assert_array_equal(small["Dense_0"]["kernel"], params["Dense_0"]["kernel"][:, kept])
    np.testing.assert_array_equal(small["Dense_0"]["bias"], params["Dense_0"]["bias"][kept])
    np.testing.assert_array_equal(small["Dense_1"]["kernel"], params["Dense_1"]["kernel"][kept])
    assert small["Dense_2"] is not params["Dense_2"]
    smaller_model = MLP((4, 5, 3))
    same(smaller_model.apply({"params": small}, x), model.apply({"params": params}, x))
    assert isinstance(small["Dense_0"]["kernel"], np.ndarray)
    on_device = jaxreg.shrink(jax.tree.map(jnp.asarray, params), MLP_GRAPH)
    assert isinstance(on_device["Dense_0"]["kernel"], jax.Array)


def test_a_removal_that_leaves_others_without_readers():
    model, params = linen_mlp()
    params["Dense_2"]["kernel"][1:, :] = 0  # of the five units of Dense_1 only the first is read
    params["Dense_1"]["kernel"][2:, 0] = 0  # and it reads two of the six before it
    small = jaxreg.shrink(params, MLP_GRAPH)
    assert [small[f"Dense_{i}"]["kernel"].shape for i in range(3)] == [(4, 2), (2, 1), (1, 3)]
    x = RNG.normal(size=(20, 4))
    same(MLP((2, 1, 3)).apply({"params": small}, x), model.apply({"params": params}, x))


def test_nothing_dead_nothing_changed():
    _, params = linen_mlp()
    small = jaxreg.shrink(params, MLP_GRAPH)
    jax.tree.map(np.testing.assert_array_equal, small, params)


def test_the_last_unit_stays():
    model, params = linen_mlp()
    params["Dense_1"]["kernel"][...] = 0
    params["Dense_1"]["bias"][...] = 0
    small = jaxreg.shrink(params, MLP_GRAPH)
    assert [small[f"Dense_{i}"]["kernel"].shape for i in range(3)] == [(4, 1), (1, 1), (1, 3)]
    x = RNG.normal(size=(20, 4))
    same(MLP((1, 1, 3)).apply({"params": small}, x), model.apply({"params": params}, x))


@pytest.mark.parametrize(
    "activation", [nn.relu, nn.tanh, nn.gelu, nn.sigmoid, jax.nn.softplus], ids=lambda f: f.__name__
)
def test_a_given_activation_folds_constants_into_the_bias(activation):
    model, params = linen_mlp(activation=activation)
    params["Dense_0"]["kernel"][:, [1, 2, 3]] = 0
    params["Dense_0"]["bias"][[1, 2, 3]] = [0.0, -2.0, 1.5]
    params["Dense_1"]["kernel"][:, 4] = 0
    x = RNG.normal(size=(20, 4))
    small = jaxreg.shrink(params, MLP_GRAPH, activation=activation)
    assert small["Dense_0"]["kernel"].shape == (4, 3)
    assert small["Dense_1"]["kernel"].shape == (3, 4)
    same(MLP((3, 4, 3), activation).apply({"params": small}, x), model.apply({"params": params}, x))


def test_a_sigmoid_of_nothing_is_not_nothing():
    _, params = linen_mlp()
    params["Dense_0"]["kernel"][:, 1] = 0
    params["Dense_0"]["bias"][1] = 0
    del params["Dense_1"]["bias"]  # so that there is no place for the constant
    assert jaxreg.shrink(params, MLP_GRAPH, activation=jax.nn.sigmoid)["Dense_0"]["kernel"].shape == (4, 6)
    assert jaxreg.shrink(params, MLP_GRAPH, activation=jax.nn.relu)["Dense_0"]["kernel"].shape == (4, 5)
    assert jaxreg.shrink(params, MLP_GRAPH)["Dense_0"]["kernel"].shape == (4, 5)


class NNXMLP(nnx.Module):
    def __init__(self, sizes, rngs, linear=nnx.Linear):
        self.layers = nnx.List([linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


@pytest.mark.parametrize("linear", [nnx.Linear, jaxreg.nnx.Linear], ids=["nnx", "jaxreg"])
def test_an_nnx_perceptron(linear):
    model = NNXMLP((4, 6, 5, 3), nnx.Rngs(0), linear)
    model.layers[0].kernel[...] = model.layers[0].kernel[...].at[:, 3].set(0)
    model.layers[2].kernel[...] = model.layers[2].kernel[...].at[0].set(0)
    state = nnx.state(model)
    small = jaxreg.shrink(state, [("layers/0", "layers/1"), ("layers/1", "layers/2")])
    assert isinstance(small, nnx.State)
    assert small["layers"][0]["kernel"].shape == (4, 5)
    x = jnp.asarray(RNG.normal(size=(20, 4)))
    smaller_model = NNXMLP((4, 5, 4, 3), nnx.Rngs(1), linear)
    assert jax.tree.map(jnp.shape, nnx.state(smaller_model)) == jax.tree.map(jnp.shape, small)
    nnx.update(smaller_model, small)
    same(smaller_model(x), model(x))
    assert nnx.state(model)["layers"][0]["kernel"].shape == (4, 6)  # the model itself is as it was


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, "relu", "tanh", "sigmoid", "softplus"]))
def test_the_function_of_any_perceptron_stays(seed, name):
    rng = np.random.default_rng(seed)
    activation = getattr(jax.nn, name or "relu")
    sizes = [3, *rng.integers(1, 6, size=rng.integers(1, 4)), 2]
    params = {}
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        kernel = rng.normal(size=(a, b)) * (rng.random((a, b)) < 0.5) * (rng.random(b) < 0.7)
        bias = rng.normal(size=b) * (rng.random(b) < 0.5)
        params[str(i)] = {"kernel": kernel, "bias": bias}

    def apply(params, x):
        for i in range(len(params) - 1):
            x = np.asarray(activation(x @ params[str(i)]["kernel"] + params[str(i)]["bias"]), np.float64)
        last = params[str(len(params) - 1)]
        return x @ last["kernel"] + last["bias"]

    graph = [(str(i), str(i + 1)) for i in range(len(params) - 1)]
    with jax.enable_x64(True):
        small = jaxreg.shrink(params, graph, activation=None if name is None else activation)
        x = rng.normal(size=(7, 3))
        np.testing.assert_allclose(apply(small, x), apply(params, x), atol=1e-12)
        again = jaxreg.shrink(small, graph, activation=None if name is None else activation)
    assert widths(again) == widths(small)
    for i in range(len(params) - 1):  # what is left has a reader, or is the last of its layer
        reader = small[str(i + 1)]["kernel"]
        assert len(reader) == 1 or (reader != 0).any(axis=1).all()


# ----------------------------------------------------------------------------------------------- convolutional networks


class ConvNet(nn.Module):
    channels: tuple[int, int] = (6, 5)
    hidden: int = 7

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.channels[0], (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(self.channels[1], (3, 3))(x))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(self.hidden)(x))
        return nn.Dense(3)(x)


CONV_GRAPH = [("Conv_0", "BatchNorm_0"), ("BatchNorm_0", "Conv_1"), ("Conv_1", "Dense_0"), ("Dense_0", "Dense_1")]


def filled(variables):
    """Biases, scales and running statistics as after training, not as at the start."""
    values = iter(RNG.normal(size=(1000,)))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.array([abs(next(values)) + 0.1 for _ in leaf]) if leaf.ndim == 1 else np.array(leaf),
        variables,
    )


def test_a_linen_convolutional_network_with_batch_normalization():
    model = ConvNet()
    x = jnp.asarray(RNG.normal(size=(5, 8, 8, 2)), jnp.float32)
    variables = filled(model.init(jax.random.key(0), x))
    params, statistics = variables["params"], variables["batch_stats"]
    params["BatchNorm_0"]["scale"][1] = 0  # dead by the norm, as in network slimming
    params["BatchNorm_0"]["bias"][1] = 0
    params["BatchNorm_0"]["scale"][2] = 0  # a constant channel: it stays, because of the borders
    params["Conv_0"]["kernel"][..., 3] = 0  # dead before the norm, which keeps it so
    params["BatchNorm_0"]["bias"][3] = 0
    statistics["BatchNorm_0"]["mean"][3] = 0
    params["Conv_0"]["kernel"][..., 4] = 0  # the running mean is left: it stays
    params["BatchNorm_0"]["bias"][4] = 0
    params["Conv_1"]["kernel"][:, :, 5, :] = 0  # read by nobody
    params["Conv_1"]["kernel"][..., 0] = 0
    params["Conv_1"]["bias"][0] = 0
    params["Dense_0"]["kernel"].reshape(16, 5, 7)[:, 4] = 0  # a channel that no position of the dense layer reads
    params["Dense_0"]["kernel"].reshape(16, 5, 7)[3:, 3] = 0  # one that some read
    params["Dense_1"]["kernel"][2] = 0
    expected = model.apply(variables, x)
    for activation in (None, nn.relu):
        small = jaxreg.shrink(variables, CONV_GRAPH, activation=activation)
        same(ConvNet((3, 3), 6).apply(small, x), expected)
        assert small["batch_stats"]["BatchNorm_0"]["mean"].shape == (3,)


class NNXConvNet(nnx.Module):
    def __init__(self, channels, hidden, rngs):
        self.first = nnx.Conv(2, channels[0], (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(channels[0], use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(channels[0], channels[1], (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(16 * channels[1], hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.output = nnx.Linear(hidden, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        x = nnx.relu(self.second(nnx.max_pool(x, (2, 2), (2, 2))))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.output(self.dropout(x))


def test_an_nnx_convolutional_network_with_batch_normalization():
    model = NNXConvNet((6, 5), 7, nnx.Rngs(0))

    def set_zero(variable, index):
        variable[...] = variable[...].at[index].set(0)

    model.norm.bias[...] = jnp.asarray(RNG.normal(size=6), jnp.float32)
    model.norm.mean[...] = jnp.asarray(RNG.normal(size=6), jnp.float32)
    set_zero(model.norm.scale, 1)
    set_zero(model.norm.bias, 1)
    set_zero(model.second.kernel, (slice(None), slice(None), 2))
    set_zero(model.second.kernel, (..., 4))
    set_zero(model.output.kernel, slice(0, 3))
    x = jnp.asarray(RNG.normal(size=(5, 8, 8, 2)), jnp.float32)
    graph = [("first", "norm"), ("norm", "second"), ("second", "hidden"), ("hidden", "output")]
    small = jaxreg.shrink(nnx.state(model), graph)
    smaller_model = NNXConvNet((4, 4), 4, nnx.Rngs(1))
    nnx.update(smaller_model, small)
    same(smaller_model(x), model(x))


# ----------------------------------------------------------------------------------------------- kernels (..., out, in)


class Decoder(nn.Module):
    widths: tuple[int, int] = (4, 4)
    transpose_kernel: bool = True
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        first, second = self.widths
        options = {"transpose_kernel": self.transpose_kernel, "use_bias": self.use_bias}
        x = nn.relu(nn.ConvTranspose(first, (3,), strides=(2,), name="first", **options)(x))
        x = nn.relu(nn.ConvTranspose(second, (3,), name="second", **options)(x))
        return nn.Dense(2, name="output")(x.reshape(len(x), -1))


DECODER = [("first", "second"), ("second", "output")]


@pytest.mark.parametrize("widths", [(4, 4), (4, 8)], ids=["equal", "unequal"])
@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("transpose_kernel", [True, False])
def test_kernels_whose_inputs_come_last_are_asked_for(widths, use_bias, transpose_kernel):
    """Without the answer there is an error, and its advice gives the network: most numbers of units fit both forms."""
    model = Decoder(widths, transpose_kernel, use_bias)
    x = jnp.asarray(RNG.normal(size=(3, 5, 4)), jnp.float32)
    params = filled(model.init(jax.random.key(0), x))["params"]
    dead = (slice(None), 1) if transpose_kernel else (..., 1)
    unread = (..., 2) if transpose_kernel else (slice(None), 2)
    params["first"]["kernel"][dead] = 0
    params["second"]["kernel"][unread] = 0
    if use_bias:
        params["first"]["bias"][1] = 0
    answer = ["first", "second"] if transpose_kernel else []
    with pytest.raises(ValueError, match=r"`transposed=\['(first|second)'\]`"):
        jaxreg.shrink(params, DECODER)
    small = jaxreg.shrink(params, DECODER, transposed=answer)
    smaller = Decoder((2, widths[1]), transpose_kernel, use_bias)
    same(smaller.apply({"params": small}, x), model.apply({"params": params}, x))


def test_where_the_arrays_or_the_name_tell_nothing_is_asked():
    turned = {"kernel": np.ones((3, 5, 2)), "bias": np.ones(5)}  # two inputs, five units
    params = {"a": turned, "b": {"kernel": np.ones((5, 2))}}
    with pytest.raises(ValueError, match=r"of this form: `transposed=\['a'\]`"):
        jaxreg.shrink(params, [("a", "b")])
    assert jaxreg.shrink(params, [("a", "b")], transposed=["a"])["a"]["kernel"].shape == (3, 5, 2)
    square = {"kernel": np.ones((3, 3, 4, 4))}
    names = {"Conv_0": square, "up/Conv_1": square, "b": {"kernel": np.ones((4, 2))}}
    jaxreg.shrink(names, [("Conv_0", "up/Conv_1"), ("up/Conv_1", "b")])  # so Linen names a `Conv`
    several = {"a": {"kernel": np.ones((3, 2, 4)), "bias": np.ones(4)}, "b": {"kernel": np.ones((3, 8, 2))}}
    with pytest.raises(ValueError, match="8 inputs, and reads each channel once"):
        jaxreg.shrink(several, [("a", "b")])


@pytest.mark.parametrize(
    ("transposed", "error", "message"),
    [
        ("a", TypeError, "takes a list of module paths, got 'a'"),
        (["c"], ValueError, r"modules of the graph, \['a', 'b'\], got 'c'"),
        ([0], ValueError, "got 0"),
    ],
    ids=range(3),
)
def test_what_transposed_refuses(transposed, error, message):
    with pytest.raises(error, match=message):
        jaxreg.shrink({"a": DENSE, "b": NEXT}, [("a", "b")], transposed=transposed)


# ------------------------------------------------------------------------------------- several readers, several writers


class Residual(nn.Module):
    width: int = 6

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width, name="stem")(x))
        x = x + nn.relu(nn.Dense(self.width, name="block")(x))
        return nn.Dense(2, name="a")(x), nn.Dense(3, name="b")(x)


RESIDUAL = [("stem", "block"), ("stem", "a"), ("stem", "b"), ("block", "a"), ("block", "b")]


def test_residual_connections_and_several_readers():
    model = Residual()
    x = jnp.asarray(RNG.normal(size=(9, 4)), jnp.float32)
    params = filled(model.init(jax.random.key(0), x))["params"]
    for name in ("stem", "block"):
        params[name]["kernel"][:, 1] = 0  # dead in both
        params[name]["bias"][1] = 0
    params["block"]["kernel"][:, 2] = 0  # dead in one: it stays
    params["block"]["bias"][2] = 0
    for name in ("block", "a", "b"):
        params[name]["kernel"][3] = 0  # read by none
    params["a"]["kernel"][4] = 0  # read by one
    params["block"]["kernel"][4] = 0
    params["stem"]["kernel"][:, 5] = 0  # a constant in a sum: it stays, with or without the activation
    params["stem"]["bias"][5] = 2.0
    params["block"]["kernel"][:, 5] = 0
    for activation in (None, nn.relu):
        small = jaxreg.shrink(params, RESIDUAL, activation=activation)
        assert small["stem"]["kernel"].shape == (4, 4)
        assert small["block"]["kernel"].shape == (4, 4)
        for got, expected in zip(
            Residual(4).apply({"params": small}, x), model.apply({"params": params}, x), strict=True
        ):
            same(got, expected)


def test_embeddings_are_producers():
    params = {
        "embed": {"embedding": np.array([[1.0, 0.0, 2.0], [3.0, 0.0, 4.0]])},
        "out": {"kernel": np.ones((3, 2)), "bias": np.zeros(2)},
    }
    small = jaxreg.shrink(params, [("embed", "out")])
    np.testing.assert_array_equal(small["embed"]["embedding"], [[1.0, 2.0], [3.0, 4.0]])
    assert small["out"]["kernel"].shape == (2, 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64, jnp.float32])
def test_dtypes_stay(dtype):
    params = {
        "a": {"kernel": jnp.array([[1.0, 0.0]], dtype), "bias": jnp.array([1.0, 1.0], dtype)},
        "b": {"kernel": jnp.array([[1.0], [2.0]], dtype), "bias": jnp.zeros(1, dtype)},
    }
    small = jaxreg.shrink(params, [("a", "b")], activation=lambda x: x)
    assert jax.tree.map(lambda leaf: leaf.dtype, small) == jax.tree.map(lambda leaf: leaf.dtype, params)
    assert small["b"]["bias"].tolist() == [2.0]


def test_nan_is_no_zero():
    params = {"a": {"kernel": np.array([[np.nan, 0.0]])}, "b": {"kernel": np.ones((2, 1))}}
    np.testing.assert_array_equal(jaxreg.shrink(params, [("a", "b")])["a"]["kernel"], [[np.nan]])


def test_what_group_lasso_leaves_can_be_removed():
    """From the penalty to the smaller network: units that the proximal operator of a group lasso kills go."""
    _, params = linen_mlp()
    joint = np.vstack([params["Dense_0"]["kernel"], params["Dense_0"]["bias"]])
    reg = jaxreg.Group(jaxreg.L1(float(np.median(np.linalg.norm(joint, axis=0)))), axis=0)
    joint = np.asarray(reg.prox(joint))
    params["Dense_0"] = {"kernel": joint[:-1], "bias": joint[-1]}
    assert jaxreg.shrink(params, MLP_GRAPH)["Dense_0"]["kernel"].shape == (4, 3)


# -------------------------------------------------------------------------------------------------------------- refused

DENSE = {"kernel": np.ones((3, 4)), "bias": np.ones(4)}
NEXT = {"kernel": np.ones((4, 2)), "bias": np.ones(2)}
STATISTICS = {"mean": np.zeros(4), "var": np.ones(4)}


@pytest.mark.parametrize(
    ("params", "graph", "error", "message"),
    [
        ({"a": DENSE, "b": NEXT}, [("a", "c")], ValueError, r"no module 'c'; modules are \['a', 'b'\]"),
        (
            {"a": DENSE, "b": {"kernel": np.ones((6, 2))}},
            [("a", "b")],
            ValueError,
            "'a' has 4 units, but 'b'.*6 inputs",
        ),
        ({"a": DENSE, "b": {"scale": np.ones(4)}}, [("a", "b")], ValueError, "mixes its units"),
        ({"a": DENSE, "b": {"embedding": np.ones((9, 4))}}, [("a", "b")], ValueError, "cannot be a consumer"),
        ({"a": {"w": np.ones((3, 4))}, "b": NEXT}, [("a", "b")], ValueError, r"it holds \['w'\]"),
        ({"a": {"kernel": np.ones(4)}, "b": NEXT}, [("a", "b")], ValueError, r"weights of shape \(4,\)"),
        (
            {"a": {"kernel": np.ones((5, 3, 4)), "bias": np.ones((5, 4))}, "b": NEXT},
            [("a", "b")],
            ValueError,
            "stacked layers",
        ),
        ({"a": DENSE, "n": STATISTICS}, [("a", "n")], ValueError, "which layer reads the units of 'a'"),
        ({"n": STATISTICS, "b": NEXT}, [("n", "b")], ValueError, "whose units 'n' normalizes"),
        (
            {"a": DENSE, "c": {"kernel": np.ones((3, 2))}, "b": {"kernel": np.ones((6, 2))}},
            [("a", "b"), ("c", "b")],
            ValueError,
            "concatenation",
        ),
        ({"a": DENSE, "b": NEXT}, [("a",)], TypeError, r"a pair of module paths, got \('a',\)"),
        ({"a": DENSE, "b": NEXT}, ["ab"], TypeError, "a pair of module paths, got 'ab'"),
        ({"a": DENSE, "b": NEXT}, [], TypeError, r"takes a list of \(producer, consumer\), got \[\]"),
        ({"a": DENSE, "b": NEXT}, "ab", TypeError, "takes a list of"),
        ({"params": {"a": DENSE, "b": NEXT}, "ema": {"a": DENSE}}, [("a", "b")], ValueError, "two collections"),
        ({"a": DENSE, "b": NEXT, "a/kernel": np.ones(1)}, [("a", "b")], ValueError, "the same path"),
    ],
    ids=range(16),
)
def test_what_is_refused(params, graph, error, message):
    with pytest.raises(error, match=message):
        jaxreg.shrink(params, graph)


def test_tracers_are_refused():
    with pytest.raises(TypeError, match=r"outside of `jax.jit`"):
        jax.jit(lambda params: jaxreg.shrink(params, [("a", "b")]))({"a": DENSE, "b": NEXT})
