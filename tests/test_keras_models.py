"""Our regularizers inside real Keras layers and models, on Keras' JAX backend."""

import json
import os
import subprocess
import sys
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
from jaxreg import L1, L1L2, L2, Function, OrthogonalRegularizer
from tests.cases import ALL_CASES, Quartic, log_cosh

pytestmark = [
    pytest.mark.wide,  # fits of many models; Keras is the same on all Pythons
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

LAYERS = keras.layers
ROOT = Path(__file__).parent.parent
each_case = pytest.mark.parametrize("case", ALL_CASES, ids=str)


class Unregistered(jaxreg.Regularizer):
    """A class that neither `jaxreg.register` nor Keras knows."""

    strength: float = 0.1

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.strength * jnp.sum(x**2)


def dense(units: int = 2, **arguments: Any) -> keras.layers.Dense:
    return LAYERS.Dense(units, kernel_initializer=keras.initializers.RandomNormal(seed=0), **arguments)


def model_of(*layers: keras.layers.Layer, features: int = 3) -> keras.Model:
    return keras.Sequential([LAYERS.Input((features,)), *layers])


def batch(rows: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 3)).astype(np.float32), rng.normal(size=(rows, 2)).astype(np.float32)


def losses_of(layer: keras.layers.Layer) -> list[float]:
    return [float(loss) for loss in layer.losses]


def weights_of(layer: keras.layers.Layer) -> np.ndarray:
    return np.asarray(layer.kernel.value, np.float64)


# ----------------------------------------------------------------------------------------------------------- the losses


def test_the_documented_example_of_keras_gives_5_25() -> None:
    layer = LAYERS.Dense(5, kernel_initializer="ones", kernel_regularizer=L1(0.01), activity_regularizer=L2(0.01))
    layer(2 * np.ones((5, 5), np.float32))
    np.testing.assert_allclose(losses_of(layer), [5.0, 0.25], rtol=1e-6)


@each_case
def test_losses_of_a_layer(case: Any) -> None:
    """[activity / batch size, kernel]: the order and the division are Keras', the numbers those of the oracle."""
    layer = dense(kernel_regularizer=case.regularizer, activity_regularizer=case.regularizer)
    outputs = layer(batch()[0])
    expected = [case.value(np.asarray(outputs, np.float64)) / 8, case.value(weights_of(layer))]
    np.testing.assert_allclose(losses_of(layer), expected, rtol=1e-5)


def side_by_side(layers: list[keras.layers.Layer]) -> list[keras.Model]:
    """One model of all layers, each with an output of its own, so that Keras compiles one step; and a model a layer."""
    inputs = LAYERS.Input((3,))
    outputs = [layer(inputs) for layer in layers]
    return [keras.Model(inputs, outputs), *(keras.Model(inputs, output) for output in outputs)]


def test_fit_follows_the_gradient() -> None:
    """With no other loss, one step of SGD is `w − rate·∇R(w)`."""
    layers = [dense(kernel_regularizer=case.regularizer) for case in ALL_CASES]
    model = side_by_side(layers)[0]
    model.compile(keras.optimizers.SGD(0.1))
    before = [weights_of(layer) for layer in layers]
    history = model.fit(batch()[0], verbose=0, batch_size=8)
    values = [case.value(w) for case, w in zip(ALL_CASES, before, strict=True)]
    np.testing.assert_allclose(history.history["loss"], [sum(values)], rtol=1e-6)
    for case, layer, w, value in zip(ALL_CASES, layers, before, values, strict=True):
        expected = w - 0.1 * case.subgradient(w)
        np.testing.assert_allclose(weights_of(layer), expected, rtol=1e-4, atol=1e-6, err_msg=str(case))
        layer.kernel.assign(w)
        np.testing.assert_allclose(losses_of(layer), [value], rtol=1e-5, err_msg=str(case))


FITTED: list[keras.Model] = []


@pytest.fixture
def fitted() -> list[keras.Model]:
    """A model for each case, trained together, once a process."""
    if not FITTED:
        together, *models = side_by_side([layer_for_fit(case) for case in ALL_CASES])
        together.compile("sgd", "mse")
        x, y = batch()
        losses = together.fit(x, [y] * len(models), verbose=0, batch_size=4, epochs=2).history["loss"]
        assert np.isfinite(losses).all()
        FITTED.extend(models)
    return FITTED


def layer_for_fit(case: Any) -> keras.layers.Layer:
    return dense(kernel_regularizer=case.regularizer, bias_regularizer=L2(0.1), activity_regularizer=case.regularizer)


def test_fit_eagerly() -> None:
    model = model_of(layer_for_fit(ALL_CASES[0]))
    model.compile("sgd", "mse", run_eagerly=True)
    assert np.isfinite(model.fit(*batch(), verbose=0, batch_size=4, epochs=2).history["loss"]).all()
    check_evaluation(ALL_CASES[0], model)


@pytest.mark.parametrize("i", range(len(ALL_CASES)), ids=map(str, ALL_CASES))
def test_evaluate_after_fit(i: int, fitted: list[keras.Model]) -> None:
    fitted[i].compile("sgd", "mse")
    check_evaluation(ALL_CASES[i], fitted[i])


def check_evaluation(case: Any, model: keras.Model) -> None:
    layer, (x, y) = model.layers[-1], batch()
    outputs = np.asarray(model(x))
    expected = np.mean((outputs - y) ** 2) + case.value(weights_of(layer))
    expected += 0.1 * np.sum(np.asarray(layer.bias.value) ** 2)
    expected += case.value(np.asarray(outputs, np.float64)) / 8
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0, batch_size=8), expected, rtol=1e-5)


def test_zeros_stay_zero_where_those_of_keras_do_not() -> None:
    """The subgradient at 0: +l1 for Keras on JAX, so that weights without any data jump about 0; 0 for us."""
    paths = {}
    for regularizer in (L1(1.0), keras.regularizers.L1(1.0)):
        layer = LAYERS.Dense(2, kernel_initializer="zeros", kernel_regularizer=regularizer)
        model = model_of(layer)
        model.compile(keras.optimizers.SGD(0.1))
        path = []
        for _ in range(3):
            model.train_on_batch(batch()[0])
            path.append(float(layer.kernel.value[0, 0]))
        paths[type(regularizer).__module__.partition(".")[0]] = path
    np.testing.assert_allclose(paths["jaxreg"], [0, 0, 0], atol=0)
    np.testing.assert_allclose(paths["keras"], [-0.1, 0, -0.1], atol=1e-6)


def test_a_zero_kernel_trains_under_orthogonality_where_keras_gives_nan() -> None:
    for regularizer, finite in (
        (OrthogonalRegularizer(0.1), True),
        (keras.regularizers.OrthogonalRegularizer(0.1), False),
    ):
        layer = LAYERS.Dense(2, kernel_initializer="zeros", kernel_regularizer=regularizer)
        model = model_of(layer)
        model.compile("sgd", "mse")
        model.train_on_batch(*batch())
        assert np.isfinite(weights_of(layer)).all() == finite


@pytest.mark.parametrize(
    ("layer", "shape", "count"),
    [
        (lambda r: LAYERS.Dense(2, kernel_regularizer=r, bias_regularizer=r), (4, 3), 2),
        (lambda r: LAYERS.EinsumDense("ab,bc->ac", 2, None, "c", kernel_regularizer=r, bias_regularizer=r), (4, 3), 2),
        (lambda r: LAYERS.Conv1D(2, 2, kernel_regularizer=r, bias_regularizer=r), (4, 5, 3), 2),
        (lambda r: LAYERS.Conv2DTranspose(2, 2, kernel_regularizer=r, bias_regularizer=r), (4, 5, 5, 3), 2),
        (lambda r: LAYERS.SeparableConv2D(2, 2, depthwise_regularizer=r, pointwise_regularizer=r, bias_regularizer=r,
                                          activity_regularizer=r), (4, 5, 5, 3), 4),
        (lambda r: LAYERS.LSTM(2, kernel_regularizer=r, recurrent_regularizer=r, bias_regularizer=r), (4, 5, 3), 3),
        (lambda r: LAYERS.GRU(2, kernel_regularizer=r, recurrent_regularizer=r, activity_regularizer=r), (4, 5, 3), 3),
        (lambda r: LAYERS.BatchNormalization(beta_regularizer=r, gamma_regularizer=r), (4, 3), 2),
        (lambda r: LAYERS.LayerNormalization(beta_regularizer=r, gamma_regularizer=r), (4, 3), 2),
        (lambda r: LAYERS.GroupNormalization(3, beta_regularizer=r, gamma_regularizer=r), (4, 3), 2),
        (lambda r: LAYERS.PReLU(alpha_regularizer=r), (4, 3), 1),
        (lambda r: LAYERS.TimeDistributed(LAYERS.Dense(2, kernel_regularizer=r), activity_regularizer=r), (4, 5, 3), 2),
        (lambda r: LAYERS.Bidirectional(LAYERS.LSTM(2, kernel_regularizer=r), merge_mode="concat"), (4, 5, 3), 2),
        (lambda r: LAYERS.Activation("relu", activity_regularizer=r), (4, 3), 1),
    ],
)  # fmt: skip
def test_every_kind_of_layer(layer: Callable[[Any], Any], shape: tuple[int, ...], count: int) -> None:
    """As many losses, and of the same values, as with Keras' own regularizer."""
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    losses = {}
    for regularizer in (L1L2(0.1, 0.2), keras.regularizers.L1L2(0.1, 0.2)):
        keras.utils.set_random_seed(0)
        one = layer(regularizer)
        if one.activity_regularizer is None:
            one.build(shape)
        else:
            one(x)
        losses[type(regularizer)] = losses_of(one)
        text = json.dumps(one.get_config())
        again = json.dumps(type(one).from_config(json.loads(text)).get_config())
        assert again.count('"L1L2"') == text.count('"L1L2"') > 0
    ours, theirs = losses.values()
    assert len(ours) == len(theirs) == count
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_embedding_and_attention() -> None:
    table = LAYERS.Embedding(
        10, 4, embeddings_initializer="ones", embeddings_regularizer=L2(1.0), activity_regularizer=L2(1.0)
    )
    table(np.array([[1, 2], [3, 1]]))
    np.testing.assert_allclose(losses_of(table), [8.0, 40.0])
    attention = LAYERS.MultiHeadAttention(
        2, 2, kernel_regularizer=L2(0.1), bias_regularizer=L2(0.1), activity_regularizer=L2(0.1)
    )
    x = np.ones((2, 3, 4), np.float32)
    attention(x, x)
    assert len(attention.losses) == 12


class Scale(LAYERS.Layer):
    """A layer with a weight of its own."""

    def __init__(self, weight_regularizer: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.scale = self.add_weight(shape=(3,), initializer="ones", regularizer=weight_regularizer)

    def call(self, x: Any) -> Any:
        return x * self.scale


@pytest.mark.parametrize("family", [jaxreg, keras.regularizers], ids=lambda family: family.__name__)
def test_add_weight_shared_layers_frozen_layers_and_stateless_calls(family: Any) -> None:
    layer = Scale(family.L1(0.5), activity_regularizer=family.L2(0.5))
    inputs = LAYERS.Input((3,))
    model = keras.Model(inputs, layer(layer(inputs)))
    x = np.ones((4, 3), np.float32)
    assert losses_of(model) == [1.5]  # no activity penalty of symbols
    model(x)
    assert losses_of(model) == [1.5, 1.5, 1.5]  # the weight once, the activity once a call
    state = [[v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)]
    losses = jax.jit(lambda *state: model.stateless_call(*state, x, return_losses=True)[2])(*state)
    assert [float(loss) for loss in losses] == [1.5, 1.5]  # Keras keeps one activity penalty of a layer here
    layer.scale.regularizer = family.L1(2.0)
    model(x)
    assert losses_of(model) == [1.5, 1.5, 6.0]
    layer.trainable = False
    model(x)
    assert losses_of(model) == [1.5, 1.5]  # Keras drops the penalties of frozen weights


def test_the_regularizer_of_a_variable() -> None:
    variable = keras.Variable(np.ones(3, np.float32), regularizer=L1(0.1))
    for regularizer in (L1(0.2), L1(0.1) + L2(0.1), Function(log_cosh), None):
        variable.regularizer = regularizer
        assert variable.regularizer == regularizer
    np.testing.assert_allclose(L1(0.2)(variable), 0.6, rtol=1e-6)


def test_batch_sizes_of_activity_penalties() -> None:
    for rows in (0, 1, 5, 10):
        layer = LAYERS.Activation("linear", activity_regularizer=L2(0.01))
        layer(2 * np.ones((rows, 5), np.float32))
        np.testing.assert_allclose(losses_of(layer), [0.2 if rows else 0.0], rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float32"])
def test_penalties_are_float32_under_every_policy(policy: str) -> None:
    """Keras' own activity penalty is inf here in mixed_float16 (true value 270 000)."""
    layer = LAYERS.Dense(
        300, kernel_initializer="ones", kernel_regularizer=L2(0.01), activity_regularizer=L2(0.01), dtype=policy
    )
    layer(np.full((2, 300), 1.0, np.float32))
    activity, kernel = layer.losses
    assert kernel.dtype == jnp.float32
    np.testing.assert_allclose([float(activity), float(kernel)], [270_000, 900], rtol=5e-3)


def test_mixed_float16_with_an_activity_penalty_trains() -> None:
    layer = LAYERS.Dense(2, kernel_regularizer=L2(0.01), activity_regularizer=L2(0.01), dtype="mixed_float16")
    model = model_of(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = batch()
    history = model.fit(x, y, epochs=30, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]


# ------------------------------------------------------------------------------------------------------ saved and back

COMPOSED = [
    Quartic(0.5) + L1(0.1),
    3 * Quartic(0.5),
    2 * (L1(0.1) + 3 * L2(0.2)),
    L1(0.1) + log_cosh,
    L2(5e-324),
    L2(1e38),
    L1L2(1 / 3, -0.0),
]
REGULARIZERS = [*(case.regularizer for case in ALL_CASES), *COMPOSED]


def reloaded(model: keras.Model, path: Path, **arguments: Any) -> dict[str, keras.Model]:
    model.save(path / "model.keras")
    return {
        "file": keras.saving.load_model(path / "model.keras", **arguments),
        "json": keras.models.model_from_json(model.to_json(), **arguments),
        "config": type(model).from_config(json.loads(json.dumps(model.get_config())), **arguments),
    }


def same_regularizer(found: Any, given: Any) -> bool:
    return type(found) is type(given) and found == given and repr(found) == repr(given)


@pytest.mark.parametrize("reg", REGULARIZERS, ids=repr)
def test_models_come_back_with_equal_regularizers(reg: Any, tmp_path: Path) -> None:
    model = model_of(dense(name="d", kernel_regularizer=reg, activity_regularizer=reg))
    models = {**reloaded(model, tmp_path), "clone": keras.models.clone_model(model)}
    for way, again in models.items():
        layer = again.get_layer("d")
        assert same_regularizer(layer.kernel_regularizer, reg), way
        assert same_regularizer(layer.activity_regularizer, reg), way
        assert layer.bias_regularizer is None
    x = batch()[0]
    models["file"](x)
    model(x)
    np.testing.assert_array_equal(losses_of(models["file"]), losses_of(model))


def test_a_trained_model_comes_back_and_trains_on(tmp_path: Path) -> None:
    model = model_of(dense(name="d", kernel_regularizer=Quartic(0.5) + L1(0.1), activity_regularizer=2 * L2(0.1)))
    model.compile("adam", "mse")
    model.fit(*batch(), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.evaluate(*batch(), verbose=0) == model.evaluate(*batch(), verbose=0)
    for one in (model, again):
        one.fit(*batch(), verbose=0, shuffle=False)
    np.testing.assert_allclose(weights_of(again.get_layer("d")), weights_of(model.get_layer("d")), rtol=1e-6)


def test_nested_and_functional_models_come_back(tmp_path: Path) -> None:
    shared = L1(0.1) + L2(0.2)  # one object at two places: Keras notes that in the file
    inputs = LAYERS.Input((3,))
    inner = model_of(dense(name="inner", kernel_regularizer=shared))
    outputs = dense(name="outer", kernel_regularizer=shared)(inner(inputs))
    model = keras.Model(inputs, outputs)
    for again in reloaded(model, tmp_path).values():
        assert same_regularizer(again.get_layer("outer").kernel_regularizer, shared)
        assert same_regularizer(again.layers[1].get_layer("inner").kernel_regularizer, shared)


def test_h5_files_come_back(tmp_path: Path) -> None:
    reg = Quartic(0.5) + L1(0.1)
    model_of(dense(name="d", kernel_regularizer=reg)).save(tmp_path / "model.h5")
    again = keras.saving.load_model(tmp_path / "model.h5", compile=False)
    assert same_regularizer(again.get_layer("d").kernel_regularizer, reg)


@pytest.mark.parametrize("reg", [Unregistered(0.5), Unregistered(0.5) + L1(0.1), 2 * Unregistered(0.5)], ids=repr)
def test_unregistered_classes_load_by_custom_objects(reg: Any, tmp_path: Path) -> None:
    model = model_of(dense(name="d", kernel_regularizer=reg))
    for again in reloaded(model, tmp_path, custom_objects={"Unregistered": Unregistered}).values():
        assert same_regularizer(again.get_layer("d").kernel_regularizer, reg)
    with pytest.raises((ValueError, TypeError), match="Unregistered"):
        keras.saving.load_model(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"Unregistered": Unregistered}):
        assert same_regularizer(keras.models.clone_model(model).get_layer("d").kernel_regularizer, reg)


def test_files_of_keras_own_regularizers_stay_keras_own(tmp_path: Path) -> None:
    model = model_of(dense(name="d", kernel_regularizer=keras.regularizers.L1(0.5), bias_regularizer="l2"))
    for again in reloaded(model, tmp_path).values():
        assert type(again.get_layer("d").kernel_regularizer) is keras.regularizers.L1
        assert type(again.get_layer("d").bias_regularizer) is keras.regularizers.L2


def test_safe_mode_and_lambdas(tmp_path: Path) -> None:
    """Keras writes a lambda as code that nobody may load; inside one of our sums it is refused at once."""
    model = model_of(dense(kernel_regularizer=L1(0.1) + (lambda w: jnp.sum(w))))
    with pytest.raises(TypeError, match=r"Cannot write the function.*jaxreg\.register"):
        model.save(tmp_path / "model.keras")


def test_stacked_coefficients_are_refused_at_the_loss() -> None:
    layer = dense(kernel_regularizer=L1(jnp.arange(3.0)))
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"`L1` has a coefficient `l1` of shape \(3,\)"):
        _ = layer.losses


# ---------------------------------------------------------------------------------------------- registration with Keras


def test_classes_and_functions_registered_later_are_known_to_keras(tmp_path: Path) -> None:
    @jaxreg.register("test_keras_models", "renamed")
    class Later(jaxreg.Regularizer):
        strength: float = 0.1

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.strength * jnp.sum(x**4)

    @jaxreg.register("test_keras_models")
    def later(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.asarray(x) ** 6)

    assert keras.saving.get_registered_object("test_keras_models>renamed") is Later
    for reg in (Later(0.5), Function(later), later):
        model = model_of(dense(name="d", kernel_regularizer=reg))
        for again in reloaded(model, tmp_path).values():
            assert same_regularizer(again.get_layer("d").kernel_regularizer, reg)


def test_names_that_keras_has_for_something_else_are_refused() -> None:
    @keras.saving.register_keras_serializable("test_keras_models", "taken")
    def theirs(x: Any) -> Any:
        return x

    def ours(x: Any) -> Any:
        return x

    with pytest.raises(ValueError, match=r"Cannot register <function.*by the name 'test_keras_models>taken'"):
        jaxreg.register("test_keras_models", "taken")(ours)
    assert keras.saving.get_registered_object("test_keras_models>taken") is theirs
    with pytest.raises(ValueError, match="Could not interpret"):  # not half registered
        jaxreg.get("ours")


def test_a_class_that_keras_knows_keeps_its_name_there() -> None:
    @jaxreg.register("test_keras_models")
    @keras.saving.register_keras_serializable("theirs", "name")
    class Both(jaxreg.Regularizer):
        strength: float = 0.1

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.strength * jnp.sum(x)

    config = keras.regularizers.serialize(Both(0.5))
    assert config["registered_name"] == "theirs>name"
    assert keras.regularizers.deserialize(config) == Both(0.5) == jaxreg.deserialize(config)
    assert jaxreg.serialize(Both(0.5))["registered_name"] == "test_keras_models>Both"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_importing_leaves_keras_own_names_alone() -> None:
    code = """
import keras
from keras import regularizers as R
names = ["l1", "L1", "l2", "L2", "l1l2", "L1L2", "orthogonal_regularizer", "OrthogonalRegularizer"]
def meaning():
    found = [type(R.get(name)) for name in names]
    found += [type(R.deserialize({"class_name": name, "config": {}})) for name in names]
    found += [type(keras.layers.Dense(1, kernel_regularizer=name).kernel_regularizer) for name in names]
    return found, {k: v for k, v in vars(R).items()}, [R.serialize(R.L2(0.1)), R.serialize(R.L1L2(0.1, 0.2))]
before, custom = meaning(), dict(keras.saving.get_custom_objects())
import jaxreg.keras
assert meaning() == before
new = {k: v for k, v in keras.saving.get_custom_objects().items() if k not in custom}
ours = [name.startswith("jaxreg>") and obj.__module__.split(".")[0] == "jaxreg" for name, obj in new.items()]
print(custom == {}, all(ours), len(ours) >= 7)
"""
    assert run(code).stdout == "True True True\n"


@pytest.mark.parametrize("backend", ["numpy", "tensorflow"])
def test_another_backend_is_refused(backend: str) -> None:
    """With the way out; for a backend that is not installed, keras itself cannot be imported."""
    if backend == "numpy":
        code = "import keras, sys; sys.modules['keras'].config.backend = lambda: 'numpy'; import jaxreg.keras"
        result = run(code)
        assert (
            "ImportError: `import jaxreg.keras` needs Keras on its JAX backend, got the backend 'numpy'"
            in result.stderr
        )
    else:
        code = "import sys; sys.modules['keras'] = None; import jaxreg.keras"
        result = run(code)
        assert "ImportError: `import jaxreg.keras` needs Keras on its JAX backend: `pip install" in result.stderr
    assert "KERAS_BACKEND=jax before keras is imported" in result.stderr


def test_the_core_does_not_need_keras() -> None:
    code = "import sys; sys.modules['keras'] = None; import jaxreg; print(jaxreg.deserialize(jaxreg.serialize('l1')))"
    assert run(code).stdout == "L1(l1=0.01)\n"
