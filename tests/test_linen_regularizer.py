"""regularizer(model, variables): declared weight penalties as rules of a tree; stacks of layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg import Stacked
from jaxreg.linen import Dense, _declarations, regularizer, with_losses

KEY = jax.random.key(0)
X = jnp.ones((2, 4))
ORTHOGONAL = jaxreg.OrthogonalRegularizer(1.0)


class Net(nn.Module):
    width: int = 3
    layers: tuple = (1, 2)

    @nn.compact
    def __call__(self, x, train=False):
        x = Dense(self.width, kernel_regularizer=jaxreg.L1(0.1), bias_regularizer="l2")(x)
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(1)(x))


EXPECTED = {"Dense_0/bias": jaxreg.L2(0.01), "Dense_0/kernel": jaxreg.L1(0.1)}


@pytest.mark.parametrize(
    "init",
    [
        lambda model: model.init(KEY, X),
        lambda model: jax.jit(lambda *args: model.init(*args))(KEY, X),  # a function that JAX has not traced before
        lambda model: jax.eval_shape(lambda *args: model.init(*args), KEY, X),
        lambda model: model.init_with_output(KEY, X)[1],
    ],
)
def test_any_trace_of_an_equal_model_will_do(init):
    _declarations._declared_by.clear()
    variables = init(Net())
    assert regularizer(Net(), variables).assignment(variables["params"]) == EXPECTED
    assert regularizer(Net(), variables["params"]).assignment(variables["params"]) == EXPECTED


def test_a_model_that_was_never_traced():
    model = Net(width=5)
    dense = {
        name: {"kernel": jnp.ones(shape), "bias": jnp.ones(shape[1])} for name, shape in enumerate([(4, 5), (5, 1)])
    }
    params = {f"Dense_{name}": layer for name, layer in dense.items()}
    with pytest.raises(ValueError, match=r"regularizer\(model, variables, x\)"):
        regularizer(model, {"params": params})
    for inputs in [(X, True), (jax.ShapeDtypeStruct(X.shape, X.dtype), True)]:
        found = regularizer(model, {"params": params}, *inputs, rngs={"dropout": KEY})
        assert found.assignment(params) == EXPECTED
    assert regularizer(model, {"params": params}, X, method=lambda m, x: m(x)).assignment(params) == EXPECTED


def test_a_field_that_has_no_value_to_compare_by_asks_for_inputs():
    class Scaled(nn.Module):
        scale: object

        @nn.compact
        def __call__(self, x):
            return Dense(2, kernel_regularizer="l2")(x * self.scale)

    big = Scaled(np.ones((1 << 16, 4)))
    x = jnp.ones((1 << 16, 4))
    variables = jax.eval_shape(big.init, KEY, x)
    with pytest.raises(ValueError, match="Give example inputs"):
        regularizer(big, variables)
    assert list(regularizer(big, variables, x).assignment(variables["params"])) == ["Dense_0/kernel"]
    small = Scaled(np.ones(4))
    variables = small.init(KEY, X)
    assert list(regularizer(Scaled(np.ones(4)), variables).assignment(variables["params"])) == ["Dense_0/kernel"]


def test_in_an_optax_chain():
    model = Net()
    variables = model.init(KEY, X)
    params = variables["params"]
    reg = regularizer(model, variables)
    assert float(reg(params)) == pytest.approx(float(sum(with_losses(model)(variables, X)[1].values())))
    tx = optax.chain(jaxreg.add_regularization(reg), optax.sgd(1.0))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["Dense_0"]["kernel"], -0.1 * np.sign(params["Dense_0"]["kernel"]), rtol=1e-6)
    np.testing.assert_array_equal(updates["Dense_1"]["kernel"], np.zeros((3, 1)))
    assert jaxreg.deserialize(jaxreg.serialize(reg)) == reg


def test_the_record_is_bounded_and_holds_no_traced_values():
    for width in range(1, _declarations._MOST_MODELS + 10):
        _declarations.remember(Net(width=width), {"kernel": _declarations.Declared(jaxreg.L2(0.1), (1, 1), "")})
    assert len(_declarations._declared_by) == _declarations._MOST_MODELS
    assert _declarations.recall(Net(width=1)) is None
    assert set(_declarations.recall(Net(width=20))) == {"kernel"}

    @jax.jit
    def traced(lam):
        model = Dense(2, kernel_regularizer=jaxreg.L2(lam))
        with_losses(model)(model.init(KEY, X), X)
        return lam

    before = len(_declarations._declared_by)
    traced(0.5)
    assert len(_declarations._declared_by) == before


def test_a_model_without_penalties():
    model = nn.Dense(2)
    variables = model.init(KEY, X)
    assert regularizer(model, variables, X).assignment(variables["params"]) == {}


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"regularizer\(model\)"):
        regularizer("model", {})
    with pytest.raises(TypeError, match=r"what `model\.init` returns"):
        regularizer(Net(), None)


def _flip(tree):
    return jax.tree.map(jnp.transpose, tree)


class Layer(nn.Module):
    features: int = 4

    @nn.compact
    def __call__(self, x, _):
        return Dense(self.features, use_bias=False, kernel_regularizer=ORTHOGONAL)(x), None


def scan(axis, length, **kwargs):
    return nn.scan(Layer, variable_axes={"params": axis}, split_rngs={"params": True}, length=length)(**kwargs)


def mean_cosine(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.abs(unit @ unit.T)
    n = len(rows)
    return (cosines.sum() - np.trace(cosines)) / (n * (n - 1))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("length", [3, 4])  # 4 layers of 4x4: the shapes do not tell which axis is the stack
def test_a_penalty_of_matrices_goes_to_each_layer_of_a_stack(axis, length):
    model = scan(axis, length)
    variables = model.init(KEY, X, None)
    kernel = np.moveaxis(np.asarray(variables["params"]["Dense_0"]["kernel"]), axis, 0)
    expected = sum(mean_cosine(layer) for layer in kernel)
    _, losses = with_losses(model)(variables, X, None)
    np.testing.assert_allclose(losses["Dense_0/kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(regularizer(model, variables, X, None)(variables["params"]), expected, rtol=1e-5)
    if length == 4:
        with pytest.raises(ValueError, match="along an axis that the shapes do not tell"):
            regularizer(model, variables)
    else:
        np.testing.assert_allclose(regularizer(model, variables)(variables["params"]), expected, rtol=1e-5)
    grads = jax.grad(lambda v: sum(with_losses(model)(v, X, None)[1].values()))(variables)
    assert np.isfinite(grads["params"]["Dense_0"]["kernel"]).all()


def test_a_stack_of_stacks():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.vmap(
                lambda m, x: scan(1, 4, name="inner")(x, None)[0],
                variable_axes={"params": 2},
                split_rngs={"params": True},
                in_axes=None,
                axis_size=4,
            )(self, x)

    variables = Model().init(KEY, X)
    kernel = np.asarray(variables["params"]["inner"]["Dense_0"]["kernel"])
    assert kernel.shape == (4, 4, 4, 4)
    members = np.moveaxis(kernel, 2, 0)
    expected = sum(mean_cosine(member[:, layer]) for member in members for layer in range(4))
    _, losses = with_losses(Model())(variables, X)
    np.testing.assert_allclose(losses["inner/Dense_0/kernel"], expected, rtol=1e-5)


def test_a_stack_of_partitioned_parameters():
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, None))
            return Dense(4, use_bias=False, kernel_init=init, kernel_regularizer=ORTHOGONAL)(x), None

    lifted = nn.scan(
        Boxed,
        variable_axes={"params": 1},
        split_rngs={"params": True},
        length=4,
        metadata_params={nn.PARTITION_NAME: None},
    )
    variables = lifted().init(KEY, X, None)
    kernel = np.moveaxis(np.asarray(variables["params"]["Dense_0"]["kernel"].value), 1, 0)
    _, losses = with_losses(lifted())(variables, X, None)
    np.testing.assert_allclose(losses["Dense_0/kernel"], sum(map(mean_cosine, kernel)), rtol=1e-5)


def test_a_parameter_that_the_module_sees_in_another_shape():
    class Transposed(nn.Module):
        regularizer: object

        @nn.compact
        def __call__(self, x):
            flipped = nn.map_variables(Dense, "params", _flip, _flip, mutable=True)
            return flipped(2, use_bias=False, kernel_regularizer=self.regularizer, name="inner")(x)

    model = Transposed(jaxreg.L2(1.0))
    variables = model.init(KEY, X)
    _, losses = with_losses(model)(variables, X)
    np.testing.assert_allclose(
        losses["inner/kernel"], np.square(variables["params"]["inner"]["kernel"]).sum(), rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"stored with the shape \(2, 4\), its module sees \(4, 2\)"):
        with_losses(Transposed(ORTHOGONAL))(variables, X)


def test_messages_show_traced_coefficients_by_their_types():
    def fails(call):
        with pytest.raises((ValueError, TypeError)) as error:
            jax.jit(call)(jnp.float32(0.5))
        assert "Tracer" not in str(error.value) and "<traced float32[]>" in str(error.value)
        return str(error.value)

    def group(strength):
        return jaxreg.Group(jaxreg.L1(strength), axis=0)

    class Transposed(nn.Module):
        strength: object

        @nn.compact
        def __call__(self, x):
            flipped = nn.map_variables(Dense, "params", _flip, _flip, mutable=True)
            return flipped(2, use_bias=False, kernel_regularizer=group(self.strength), name="inner")(x)

    def seen_in_another_shape(strength):
        return with_losses(Transposed(strength))({"params": {"inner": {"kernel": jnp.ones((2, 4))}}}, X)[1]

    assert "Group(penalty=L1(l1=<traced float32[]>)" in fails(
        lambda c: Dense(2, use_bias=False, bias_regularizer=group(c)).init(KEY, X)
    )
    assert "not a stack of that" in fails(seen_in_another_shape)
    assert "takes a regularizer of one array" in fails(
        lambda c: Dense(2, kernel_regularizer=jaxreg.TreeRegularizer({"**": jaxreg.L2(c)}))
    )
    assert "takes a Flax Linen module" in fails(lambda c: with_losses(c))
    assert "takes what `model.init` returns" in fails(lambda c: regularizer(Net(), c))


def test_stacked():
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    reg = Stacked(jaxreg.OrthogonalRegularizer(0.5), axes=(-1,))
    np.testing.assert_allclose(reg(x), 0.5 * sum(mean_cosine(x[..., i]) for i in range(3)), rtol=1e-5)
    assert eval(repr(reg), {**vars(jaxreg), "Stacked": Stacked}) == reg
    assert jaxreg.deserialize(jaxreg.serialize(reg)) == reg
    assert float(Stacked(jaxreg.L2(1.0))(jnp.zeros((0, 3)))) == 0.0
    with pytest.raises(ValueError, match=r"axes=\(2,\).*shape \(3,\)"):
        Stacked(jaxreg.L2(1.0), axes=(2,))(jnp.ones(3))
    both = Stacked(jaxreg.L1(1.0), axes=(2, 0))
    np.testing.assert_allclose(both.prox(x, 0.3), jaxreg.L1(1.0).prox(x, 0.3), rtol=1e-6)
    np.testing.assert_allclose(both.prox(x, np.abs(x)), jaxreg.L1(1.0).prox(x, np.abs(x)), rtol=1e-6)
    assert both.prox(x[:0]).shape == (0, 5, 3)
