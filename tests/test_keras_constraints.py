"""Constraints in Keras: projections after every step, saved and back; what is refused; regularizers that change."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import jaxreg
import jaxreg.keras
from jaxreg import L1, L2, Box, Matrix, MaxNorm, NonNegative, SpectralBall
from jaxreg.keras import constraint

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LAYERS = keras.layers
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)


def model_of(loss: str | None = "mse", **arguments: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([LAYERS.Input((3,)), LAYERS.Dense(2, name="d", **arguments)])
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def kernel_of(model: Any) -> np.ndarray:
    return np.asarray(model.get_layer("d").kernel.value, np.float64)


# ----------------------------------------------------------------------------------------------------- the projections

BY_KIND: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "Dense": (lambda c: LAYERS.Dense(2, kernel_constraint=c, bias_constraint=c), (4, 3)),
    "EinsumDense": (lambda c: LAYERS.EinsumDense("ab,bc->ac", 2, bias_axes="c", kernel_constraint=c, bias_constraint=c),
                    (4, 3)),
    "Conv2D": (lambda c: LAYERS.Conv2D(2, 2, kernel_constraint=c, bias_constraint=c), (1, 3, 3, 2)),
    "SeparableConv1D": (lambda c: LAYERS.SeparableConv1D(2, 2, depthwise_constraint=c, pointwise_constraint=c,
                                                         bias_constraint=c), (1, 3, 2)),
    "Embedding": (lambda c: LAYERS.Embedding(5, 2, embeddings_constraint=c), (2, 3)),
    "LSTM": (lambda c: LAYERS.LSTM(2, kernel_constraint=c, recurrent_constraint=c, bias_constraint=c), (1, 3, 2)),
    "BatchNormalization": (lambda c: LAYERS.BatchNormalization(beta_constraint=c, gamma_constraint=c), (4, 3)),
    "LayerNormalization": (lambda c: LAYERS.LayerNormalization(beta_constraint=c, gamma_constraint=c), (4, 3)),
    "PReLU": (lambda c: LAYERS.PReLU(alpha_constraint=c), (4, 3)),
    "MultiHeadAttention": (lambda c: LAYERS.MultiHeadAttention(1, 2, kernel_constraint=c, bias_constraint=c),
                           (1, 3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_KIND)
def test_every_kind_of_layer(name: str) -> None:
    """One step of SGD with known gradients, then the projection, variable by variable; and the config comes back."""
    make, shape = BY_KIND[name]
    layer = make(constraint(Box(-0.05, 0.1)))
    layer.build(*[shape] * (2 if name == "MultiHeadAttention" else 1))
    before = [np.array(variable.value) for variable in layer.trainable_variables]
    gradients = [np.full(w.shape, 0.5, np.float32) for w in before]
    keras.optimizers.SGD(0.2).apply(gradients, layer.trainable_variables)
    assert before
    for variable, w in zip(layer.trainable_variables, before, strict=True):
        np.testing.assert_allclose(variable.value, np.clip(w - 0.1, -0.05, 0.1), atol=1e-7, err_msg=variable.path)
    config = json.loads(json.dumps(layer.get_config()))
    assert json.dumps(type(layer).from_config(config).get_config()) == json.dumps(config)


def max_norm(w: np.ndarray, radius: float) -> np.ndarray:
    return w * np.minimum(1, radius / np.linalg.norm(w, axis=0))


def test_fit_projects_after_every_step_and_a_saved_model_goes_on(tmp_path: Path) -> None:
    """Two steps of SGD on the squared error, by NumPy; each followed by the projection."""
    model = model_of(kernel_constraint=constraint(MaxNorm(0.3, axis=0)), kernel_regularizer=L2(0.1), use_bias=False)
    w = kernel_of(model)

    def step(w: np.ndarray) -> np.ndarray:
        gradient = 2 * X.T @ (X @ w - Y) / Y.size + 0.2 * w
        return max_norm(w - 0.1 * gradient, 0.3)

    for _ in range(2):
        w = step(w)
    assert not np.allclose(np.linalg.norm(w, axis=0), np.linalg.norm(step(w) / 2, axis=0))
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    np.testing.assert_allclose(kernel_of(model), w, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_layer("d").kernel_constraint.regularizer == MaxNorm(0.3, axis=0)
    again.train_on_batch(X, Y)
    np.testing.assert_allclose(kernel_of(again), step(w), rtol=1e-5)


@pytest.mark.parametrize(
    "reg", [NonNegative() + MaxNorm(1.0, axis=0), 2 * NonNegative(), Matrix(SpectralBall(0.5))], ids=repr
)
def test_structures_of_constraints(reg: Any) -> None:
    w = np.random.default_rng(2).normal(size=(4, 2)).astype(np.float32)
    np.testing.assert_array_equal(constraint(reg)(keras.Variable(w)), reg.prox(w))
    config = json.loads(json.dumps(keras.constraints.serialize(constraint(reg))))
    for again in (keras.constraints.deserialize(config), pickle.loads(pickle.dumps(constraint(reg)))):
        assert again.regularizer == reg


def test_identifiers_and_half_precision() -> None:
    assert repr(constraint("NonNegative")) == repr(constraint(NonNegative)) == "constraint(NonNegative())"
    variable = keras.Variable(np.array([-1.0, 2.0]), dtype="bfloat16", trainable=True)
    projected = constraint(NonNegative())(variable)
    assert projected.dtype == "bfloat16"
    np.testing.assert_array_equal(np.asarray(projected, np.float32), [0, 2])


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "value", [L1(0.1), L1(0.1) + NonNegative(), "l1", None, np.sum], ids=["penalty", "sum", "name", "None", "function"]
)
def test_a_penalty_is_no_constraint(value: Any) -> None:
    with pytest.raises(TypeError, match=r"`jaxreg\.keras\.constraint\(.*\)` takes a constraint.*`kernel_regularizer="):
        constraint(value)


SETS = {"MaxNorm": MaxNorm(0.1), "a sum": L1(0.1) + NonNegative(), "Matrix": Matrix(SpectralBall(0.5))}


def own_loop(model: Any, compiled: bool = False) -> Any:
    """A loss of one's own, as a training loop differentiates it: Keras gives the regularizers arrays."""

    def loss(weights: Any) -> Any:
        y, _, losses = model.stateless_call(weights, model.non_trainable_variables, X, return_losses=True)
        return jnp.mean(jnp.square(y - Y)) + sum(losses)

    weights = [variable.value for variable in model.trainable_variables]
    return (jax.jit(loss) if compiled else loss)(weights)


USES: dict[str, Callable[[Any], Any]] = {
    "own loop": own_loop,
    "own compiled loop": lambda model: own_loop(model, compiled=True),
    "losses": lambda model: model.losses,
    "fit": lambda model: model.fit(X, Y, verbose=0),
    "evaluate": lambda model: model.evaluate(X, Y, verbose=0),
}


def way_out(error: Exception) -> dict[str, Any]:
    """The arguments that the message tells to write."""
    found = re.search(r"Write `(\w+)=(.*?)`[,.]", str(error))
    assert found is not None
    return {found[1]: eval(found[2], {"jaxreg": jaxreg, **vars(jaxreg)})}


@pytest.mark.parametrize(
    ("name", "use"), [*((name, "losses") for name in SETS), *(("MaxNorm", use) for use in USES if use != "losses")]
)
def test_a_set_as_a_regularizer_raises_and_the_way_out_runs(name: str, use: str) -> None:
    with pytest.raises(TypeError, match=r"`kernel_regularizer=.*/d/kernel\): a constraint is 0 in its set") as error:
        USES[use](model_of(kernel_regularizer=SETS[name]))
    USES[use](model_of(**way_out(error.value)))


@pytest.mark.parametrize("use", [lambda model: model(X), own_loop], ids=["call", "own loop"])
@pytest.mark.parametrize("name", SETS)
def test_a_set_of_outputs_raises_and_the_way_out_runs(name: str, use: Any) -> None:
    """In a matrix 8 × 2 all of whose singular values, norms or signs are projected."""
    reg = SETS[name]
    with pytest.raises(TypeError, match=r"`activity_regularizer=.*/d\): a constraint is 0 in its set") as error:
        use(model_of(activity_regularizer=reg))
    found = re.search(r"after it, `(.*?)`\.", str(error.value))
    assert found is not None
    model = model_of()
    model.add(eval(found[1], {**vars(jaxreg), "keras": keras, "jaxreg": jaxreg}))
    y = np.asarray(model(X), np.float64)
    if name == "a sum":
        assert y.min() == 0 and "The other terms belong to `activity_regularizer=`." in str(error.value)
    else:
        size, radius = (np.linalg.norm(y), 0.1) if name == "MaxNorm" else (np.linalg.norm(y, 2), 0.5)
        assert size == pytest.approx(radius, rel=1e-5)
    assert np.isfinite(own_loop(model))


@pytest.mark.parametrize("reg", [MaxNorm(0.1), L1(0.1), L1(0.1) + NonNegative()], ids=repr)
def test_a_regularizer_as_a_constraint_raises_and_the_way_out_runs(reg: Any) -> None:
    with pytest.raises(TypeError, match=r"`kernel_constraint=.*/d/kernel\): Keras takes a projection") as error:
        model_of(kernel_constraint=reg).fit(X, Y, verbose=0)
    arguments = way_out(error.value)
    assert ("kernel_regularizer" in arguments) == (reg == L1(0.1))
    model_of(**arguments).train_on_batch(X, Y)


def test_a_scalar_weight_does_not_become_its_penalty() -> None:
    """The shape of a scalar is that of a penalty, so that Keras would assign it."""
    gain = keras.Variable(np.float32(3.0), trainable=True, name="gain")
    gain.constraint = L1(0.5)
    with pytest.raises(TypeError, match="Keras takes a projection"):
        keras.optimizers.SGD(0.1).apply([np.float32(0.0)], [gain])


def test_a_call_by_hand_asks_whether_a_variable_is_inside() -> None:
    variable = keras.Variable(np.array([3.0, 4.0], np.float32))
    variable.regularizer, variable.constraint = L2(0.1), constraint(MaxNorm(5.0))
    assert [float(MaxNorm(radius)(variable)) for radius in (5.0, 4.9)] == [0, np.inf]
    assert float(MaxNorm(4.0).violation(variable)) == pytest.approx(1)


# --------------------------------------------------------------------------------------------- regularizers that change


class Warmup(keras.callbacks.Callback):
    """As the docstring of `jaxreg.keras` has it."""

    def __init__(self, traced_anew: bool) -> None:
        super().__init__()
        self.traced_anew = traced_anew

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        layer = self.model.get_layer("d")
        layer.kernel.regularizer = layer.kernel_regularizer = L2(0.5 * epoch)
        if self.traced_anew:
            self.model.make_train_function(force=True)


@pytest.mark.parametrize("traced_anew", [True, False])
def test_a_callback_replaces_a_regularizer(traced_anew: bool) -> None:
    """Without another loss, a step of SGD is w ← (1 − 0.1·2·0.5·epoch)·w: if the step is compiled again."""
    model = model_of(loss=None, kernel_regularizer=L2(1.0))
    w = kernel_of(model)
    model.fit(X, batch_size=8, epochs=3, verbose=0, callbacks=[Warmup(traced_anew)])
    factor = (1 - 0.1) * (1 - 0.2) if traced_anew else 1.0  # the trace of epoch 0 goes on
    np.testing.assert_allclose(kernel_of(model), factor * w, rtol=1e-5)
    assert model.get_layer("d").get_config()["kernel_regularizer"]["config"] == {"l2": 1.0}
