"""Side by side with `keras.regularizers`, live on its JAX backend: where we agree, and why we differ where we do."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import jaxreg

pytestmark = pytest.mark.wide  # Keras is the same on all Pythons

OURS, KERAS = jaxreg, keras.regularizers
Array = np.ndarray

M = np.array([[1, 1, 1, 1], [2, 0, 0, 0], [0, 0, 3, 1]], np.float32)
ZERO_ROW = np.array([[0, 0, 0], [0, 1, 2], [0, 3, 4]], np.float32)
RANDOM = np.random.RandomState(0).randn(3, 4).astype(np.float32)


def pairs_of(name: str, *arguments: Any) -> tuple[Any, Any]:
    return getattr(OURS, name)(*arguments), getattr(KERAS, name)(*arguments)


REGULARIZERS = [
    ("L1", 0.1),
    ("L2", 0.1),
    ("L1L2", 0.1, 0.2),
    ("L1L2", 0.1, 0.0),
    ("L1L2", 0.0, 0.2),
    ("L1L2",),
    ("OrthogonalRegularizer", 0.1, "rows"),
    ("OrthogonalRegularizer", 0.1, "columns"),
]
ELEMENTWISE = REGULARIZERS[:3]
each_regularizer = pytest.mark.parametrize("arguments", REGULARIZERS, ids=str)


# ---------------------------------------------------------------------------------------------------- values, gradients

# What Keras 3.15.1 gives, to the digit (an independent record, beside the live comparison).
RECORDED = {
    "range": (np.arange(12).reshape(3, 4), [6.6, 50.6, 107.8, 0.09224748, 0.09885409]),
    "ones": (np.ones((2, 3)), [0.6, 0.6, 1.8, 0.1, 0.1]),
    "eye": (np.eye(3), [0.3, 0.3, 0.9, 0, 0]),
    "M": (M, [1.0, 1.8, 4.6, 0.03774852, 0.04704374]),
    "random": (RANDOM, [1.1442258, 1.6934866, 4.531199, 0.04729155, 0.05605659]),
    "minus two": (np.full((4, 4), -2), [3.2, 6.4, 16.0, 0.1, 0.1]),
    "zeros": (np.zeros((3, 3)), [0, 0, 0, 0, 0]),
    "orthogonal": (np.array([[1, -1], [1, 1]]), [0.4, 0.4, 1.2, 0, 0]),
    "antiparallel": (np.array([[1, 2], [-1, -2]]), [0.6, 1.0, 2.6, 0.1, 0.1]),  # -0.1 in Keras 2.9
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_values(name: str) -> None:
    x, expected = RECORDED[name]
    x = jnp.asarray(x, jnp.float32)
    selected = [("L1", 0.1), ("L2", 0.1), ("L1L2", 0.1, 0.2), *REGULARIZERS[6:]]
    for arguments, value in zip(selected, expected, strict=True):
        for reg in pairs_of(*arguments):
            np.testing.assert_allclose(jax.jit(reg)(x), value, rtol=2e-6, atol=1e-8)


@each_regularizer
@pytest.mark.parametrize("shape", [(4, 4), (8, 20)])
def test_values_and_gradients_of_random_matrices(arguments: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    ours, theirs = pairs_of(*arguments)
    both_ours, both_theirs = (jax.jit(jax.value_and_grad(reg)) for reg in (ours, theirs))
    for seed in range(5):
        x = jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
        (a, da), (b, db) = both_ours(x), both_theirs(x)
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        assert (da.shape, da.dtype) == (db.shape, db.dtype)
        np.testing.assert_allclose(a, b, rtol=5e-6)
        np.testing.assert_allclose(da, db, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(ours(x), a, rtol=5e-6)


@each_regularizer
def test_mapped_over_a_batch(arguments: tuple[Any, ...]) -> None:
    ours, theirs = (jax.jit(jax.vmap(reg)) for reg in pairs_of(*arguments))
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
    np.testing.assert_allclose(ours(batch), theirs(batch), rtol=5e-6)


@pytest.mark.parametrize("arguments", ELEMENTWISE, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 4), (2, 1, 3, 2), (0,), (0, 4), (4, 0), (0, 0)])
def test_every_rank_and_emptiness(arguments: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    ours, theirs = pairs_of(*arguments)
    (a, da), (b, db) = (jax.jit(jax.value_and_grad(reg))(x) for reg in (ours, theirs))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(da, db, rtol=1e-6)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("arguments", REGULARIZERS[:3] + REGULARIZERS[6:], ids=str)
def test_nan_and_inf_come_through(arguments: tuple[Any, ...], special: float) -> None:
    x = jnp.asarray(M).at[0, 0].set(special)
    ours, theirs = pairs_of(*arguments)
    if arguments[0] == "OrthogonalRegularizer" and math.isinf(special):  # nan in Keras; the limit of the cosines here
        assert np.isnan(theirs(x))
        np.testing.assert_allclose(ours(x), theirs(x.at[0, 0].set(math.copysign(1e18, special))), rtol=1e-6)
    else:
        np.testing.assert_array_equal(ours(x), theirs(x))


def test_hessian_of_l2() -> None:
    for reg in pairs_of("L2", 0.1):
        np.testing.assert_allclose(jax.jit(jax.hessian(reg))(jnp.ones(3)), 0.2 * np.eye(3), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@each_regularizer
def test_gradients_in_half_precision_have_its_dtype(arguments: tuple[Any, ...]) -> None:
    for dtype, rtol in ((jnp.float16, 5e-3), (jnp.bfloat16, 4e-2)):
        x = jnp.asarray(RANDOM, dtype)
        ours, theirs = pairs_of(*arguments)
        (a, da), (b, db) = (jax.jit(jax.value_and_grad(reg))(x) for reg in (ours, theirs))
        assert da.dtype == db.dtype == dtype
        np.testing.assert_allclose(np.asarray(da, np.float32), np.asarray(db, np.float32), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=rtol)


@each_regularizer
def test_numpy_arrays_and_keras_variables(arguments: tuple[Any, ...]) -> None:
    ours, theirs = pairs_of(*arguments)
    expected = theirs(jnp.asarray(RANDOM))
    for x in (RANDOM, RANDOM.astype(np.float64), keras.Variable(RANDOM), keras.ops.convert_to_tensor(RANDOM)):
        found = ours(x)
        assert isinstance(found, jax.Array) and found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=5e-6)


def test_prox_of_a_keras_variable() -> None:
    np.testing.assert_allclose(OURS.L2(0.1).prox(keras.Variable(RANDOM)), RANDOM / 1.2, rtol=1e-6)


# -------------------------------------------------------------------------------------- the tests of Keras and tf.keras


def formula_l1(x: Array) -> float:
    return 0.1 * np.abs(np.asarray(x, np.float64)).sum()


def formula_l2(x: Array) -> float:
    return 0.1 * (np.asarray(x, np.float64) ** 2).sum()


def formula_orthogonal(x: Array) -> float:
    x = np.asarray(x, np.float64)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    return 0.1 * 0.5 * np.abs(units @ units.T * (1 - np.eye(len(x)))).sum() / (len(x) * (len(x) - 1) / 2)


@pytest.mark.parametrize("family", [OURS, KERAS], ids=["jaxreg", "keras"])
def test_the_value_tests_of_keras(family: Any) -> None:
    x = np.random.default_rng(3).random((4, 4)).astype(np.float32)
    v = keras.Variable(x)
    zeros, ones = jnp.zeros((4, 4)), jnp.ones((4, 4))
    np.testing.assert_allclose(family.L1(0.1)(v), formula_l1(x), rtol=1e-6)
    np.testing.assert_allclose(family.L2(0.1)(v), formula_l2(x), rtol=1e-6)
    np.testing.assert_allclose(family.L1L2(0.1, 0.2)(v), formula_l1(x) + 2 * formula_l2(x), rtol=1e-6)
    np.testing.assert_allclose(family.OrthogonalRegularizer(0.1)(v), formula_orthogonal(x), rtol=1e-5)
    for reg in (family.L1(0.1), family.L2(0.1), family.L1L2(0.1, 0.2)):
        assert reg(zeros) == 0
    for reg in (family.L1(0.0), family.L2(0.0), family.L1L2(0.0, 0.0)):
        assert reg(v) == 0
    assert family.L1(0.1)(ones) == family.L1(0.1)(-ones)
    assert family.L2(1.0)(10 * ones) > family.L1(1.0)(10 * ones)
    assert family.L2(1.0)(0.1 * ones) < family.L1(1.0)(0.1 * ones)
    np.testing.assert_allclose(family.L1L2(0.1, 0.0)(v), family.L1(0.1)(v), rtol=1e-6)
    np.testing.assert_allclose(family.L1L2(0.0, 0.1)(v), family.L2(0.1)(v), rtol=1e-6)
    # tf.keras: rows = the mean of 3 products, columns = the mean of 6
    np.testing.assert_allclose(family.OrthogonalRegularizer(0.1, "rows")(jnp.asarray(M)), 0.0377485, rtol=1e-5)
    np.testing.assert_allclose(family.OrthogonalRegularizer(0.1, "columns")(jnp.asarray(M)), 0.0470437, rtol=1e-5)


@pytest.mark.parametrize("family", [OURS, KERAS], ids=["jaxreg", "keras"])
@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 4)])
def test_orthogonal_takes_matrices_only(family: Any, shape: tuple[int, ...]) -> None:
    text = f"Inputs to OrthogonalRegularizer must have rank 2. Received: inputs.shape={shape}"
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        family.OrthogonalRegularizer(0.1)(jnp.ones(shape))
    assert str(caught.value).startswith(text)  # ours goes on with the way out


@pytest.mark.parametrize("family", [OURS, KERAS], ids=["jaxreg", "keras"])
def test_the_config_tests_of_keras(family: Any) -> None:
    for reg in (family.L1(0.1), family.L2(0.1), family.L1L2(0.1, 0.2), family.OrthogonalRegularizer(0.1, "rows")):
        config = reg.get_config()
        again = type(reg).from_config(config)
        assert again.get_config() == config and type(again) is type(reg)
        revived = family.deserialize(family.serialize(reg))
        assert type(revived) is type(reg) and revived.get_config() == config
    config = family.L1L2(0.01, 0.02).get_config()
    assert config == {"l1": 0.01, "l2": 0.02}
    config = family.OrthogonalRegularizer(0.01, "columns").get_config()
    assert list(config) == ["factor", "mode"] and config["mode"] == "columns"
    assert config["factor"] == pytest.approx(0.01, abs=1e-7)


@pytest.mark.parametrize("family", [OURS, KERAS], ids=["jaxreg", "keras"])
def test_the_get_tests_of_keras(family: Any) -> None:
    for name, cls in (("l1", "L1"), ("L1", "L1"), ("l2", "L2"), ("L2", "L2"), ("l1l2", "L1L2"), ("L1L2", "L1L2"),
                      ("orthogonal_regularizer", "OrthogonalRegularizer"),
                      ("OrthogonalRegularizer", "OrthogonalRegularizer")):  # fmt: skip
        assert type(family.get(name)) is getattr(family, cls)
        assert type(family.get(getattr(family, cls))) is getattr(family, cls)
    assert family.get(None) is None and family.serialize(None) is None and family.deserialize(None) is None
    for wrong in ("typo", "", 0, 0.01, [], ()):
        with pytest.raises(ValueError, match="Could not interpret regularizer identifier"):
            family.get(wrong)
    assert family.get(abs) is abs
    reg = family.L2(0.3)
    assert family.get(reg) is reg
    for config in ({"class_name": "L1"}, {"class_name": "L1", "config": None}, {"class_name": "l1", "config": {}}):
        assert float(family.get(config).l1) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="non-negative"):
        family.get({"class_name": "L1", "config": {"l1": -1}})
    with pytest.raises((ValueError, TypeError)):
        family.get({"class_name": "L1", "config": {"unknown": 1}})


def test_the_names_are_those_of_keras() -> None:
    public = {name for name in vars(KERAS) if not name.startswith("_")}
    assert public == {"L1", "L2", "L1L2", "OrthogonalRegularizer", "Regularizer", "get", "serialize", "deserialize",
                      "l1", "l2", "l1_l2", "orthogonal_regularizer"}  # fmt: skip
    assert public <= set(vars(OURS))
    for family in (OURS, KERAS):
        assert family.l1 is family.L1 and family.l2 is family.L2 and family.l1_l2 is family.L1L2
        assert family.orthogonal_regularizer is family.OrthogonalRegularizer
    for name in ("L1", "L2", "L1L2", "OrthogonalRegularizer"):
        ours, theirs = pairs_of(name)
        assert list(ours.get_config()) == list(theirs.get_config())
        for key, value in theirs.get_config().items():
            assert ours.get_config()[key] == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize("family", [OURS, KERAS], ids=["jaxreg", "keras"])
def test_coefficients_that_both_accept_and_refuse(family: Any) -> None:
    for given, stored in (
        (1, 1.0),
        (1.0, 1.0),
        (0, 0.0),
        (0.0, 0.0),
        (1e-10, 1e-10),
        (1e6, 1e6),
        (np.float64(0.5), 0.5),
    ):
        reg = family.L2(given)
        assert type(reg.l2) is float and reg.l2 == stored
    assert math.copysign(1, family.L2(-0.0).get_config()["l2"]) == -1
    for wrong in ("not_a_number", math.nan, math.inf, -math.inf, -1, -0.001, [0.1]):
        for make in (family.L1, family.L2, lambda v: family.L1L2(0.1, v), family.OrthogonalRegularizer):
            with pytest.raises((ValueError, TypeError), match="non-negative"):
                make(wrong)
    with pytest.raises(ValueError, match=r"Invalid value for argument .*mode.*Expected one of .*Received"):
        family.OrthogonalRegularizer(0.1, mode="invalid_mode")


@pytest.mark.parametrize("which", ["kernel_regularizer", "bias_regularizer", "activity_regularizer"])
@pytest.mark.parametrize(
    "make",
    [lambda f: f.L1(0.1), lambda f: f.L2(0.1), lambda f: f.L1L2(0.1, 0.2), lambda f: f.L2(0.0), lambda f: f.L1],
    ids=["L1", "L2", "L1L2", "L2(0)", "a class"],
)
def test_the_layer_tests_of_tf_keras(which: str, make: Callable[[Any], Any]) -> None:
    layer = keras.layers.Dense(2, **{which: make(OURS)})
    model = keras.Sequential([keras.layers.Input((3,)), layer])
    model.compile("sgd", "mse")
    x = np.ones((4, 3), np.float32)
    model(x)
    assert len(model.losses) == 1
    assert np.isfinite(model.train_on_batch(x, np.zeros((4, 2), np.float32)))


# ----------------------------------------------------------------------------------------------- differences on purpose


@dataclasses.dataclass(frozen=True)
class Difference:
    """One call, made with each family: what Keras does, what we do, why."""

    call: Callable[[Any], Any]
    keras: Any  # a value, or an exception with the text to search for
    ours: Any
    why: str


def grad(make: Callable[[Any], Any], x: Any, dtype: Any = jnp.float32) -> Callable[[Any], Any]:
    return lambda family: jax.jit(jax.grad(make(family)))(jnp.asarray(x, dtype))


def value(make: Callable[[Any], Any], x: Any, dtype: Any = jnp.float32) -> Callable[[Any], Any]:
    return lambda family: jax.jit(make(family))(jnp.asarray(x, dtype))


def dtype_of(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda family: str(call(family).dtype)


def l1(f: Any) -> Any:
    return f.L1(0.1)


def l2(f: Any) -> Any:
    return f.L2(0.1)


def l1l2(f: Any) -> Any:
    return f.L1L2(0.1, 0.2)


def rows(f: Any) -> Any:
    return f.OrthogonalRegularizer(0.1)


def columns(f: Any) -> Any:
    return f.OrthogonalRegularizer(0.1, "columns")


def name_of(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda family: type(call(family)).__name__


@jaxreg.register("test_keras_parity")
class Other(jaxreg.Regularizer):
    """What somebody might put in the place of a built-in class."""

    l1: float = 0.01

    def __call__(self, x: jax.Array) -> jax.Array:
        return -self.l1 * jnp.sum(x)


def in_scope(family: Any) -> str:
    with keras.saving.custom_object_scope({"L1": Other}):
        return type(family.deserialize({"class_name": "L1", "config": {"l1": 0.5}})).__name__


def mutated(family: Any) -> float:
    reg = family.L2(0.1)
    reg.l2 = -5.0
    return reg.l2


TINY, HUGE, COSINES = [[1e-9, 1e-9], [1.0, 1.0]], [[1e20, 1e20], [1.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]
KINK = [-2.0, -0.0, 0.0, 3.0]
ODD = (TypeError, "real, finite, non-negative")
NO = math.nan

DIFFERENCES = {
    # the subgradient of least norm
    "L1 at 0": Difference(
        grad(l1, KINK),
        [-0.1, 0.1, 0.1, 0.1],
        [-0.1, 0, 0, 0.1],
        "the derivative of |w| at 0 is +1 in JAX; zeros run off",
    ),
    "L1L2 at 0": Difference(grad(l1l2, KINK), [-0.9, 0.1, 0.1, 1.3], [-0.9, 0, 0, 1.3], "as L1"),
    "Orthogonal at an orthogonal matrix": Difference(
        grad(rows, np.eye(2)), [[0, 0.1], [0.1, 0]], np.zeros((2, 2)), "a minimum has gradient 0"
    ),
    # orthogonality where a norm is 0, tiny or huge, or where there is no pair
    "Orthogonal, gradient at zeros": Difference(
        grad(rows, np.zeros((2, 3))), np.full((2, 3), NO), np.zeros((2, 3)), "NaN would destroy all weights in one step"
    ),
    "Orthogonal, gradient at a zero row": Difference(
        lambda f: grad(rows, ZERO_ROW)(f)[0], [NO, NO, NO], [0, 0, 0], "as above; other rows are alike"
    ),
    "Orthogonal, gradient at a zero column": Difference(
        lambda f: grad(columns, ZERO_ROW.T)(f)[:, 0], [NO, NO, NO], [0, 0, 0], "as above"
    ),
    "Orthogonal of one row": Difference(value(rows, [[1.0, 2.0, 3.0]]), NO, 0, "the mean over no pairs: 0, not 0/0"),
    "Orthogonal of one row, gradient": Difference(grad(rows, [[1.0, 2.0, 3.0]]), [[NO] * 3], [[0] * 3], "as above"),
    "Orthogonal of one column": Difference(value(columns, [[1.0], [2.0]]), NO, 0, "as above"),
    "Orthogonal of no rows": Difference(value(rows, np.zeros((0, 4))), NO, 0, "as above"),
    "Orthogonal of no columns": Difference(value(columns, np.zeros((4, 0))), NO, 0, "as above"),
    "Orthogonal of one entry": Difference(value(rows, [[2.0]]), NO, 0, "as above"),
    "Orthogonal, tiny row": Difference(value(rows, TINY), 0.00141421, 0.1, "the cosine does not depend on the length"),
    "Orthogonal, huge row": Difference(value(rows, HUGE), 0, 0.1, "the square overflows on the way"),
    "Orthogonal, float16 zero row": Difference(
        value(rows, ZERO_ROW, jnp.float16), NO, 0.1 * 11 / math.sqrt(125) / 3, "1/epsilon is inf in float16"
    ),
    "Orthogonal, float16 row of 300": Difference(
        value(rows, [[300.0, 300.0], [1.0, 1.0]], jnp.float16), 0, 0.1, "the square overflows on the way"
    ),
    "Orthogonal of a NumPy matrix, columns": Difference(
        lambda f: columns(f)(np.array(COSINES, np.float32)), 0.08, 0.09899495, "`axis or -1` normalizes the rows"
    ),
    "Orthogonal of a NumPy matrix that is not square, columns": Difference(
        lambda f: columns(f)(M), (ValueError, "broadcast"), 0.04704374, "as above"
    ),
    # integers, bool, half precision, complex
    "L1 of int32": Difference(value(l1, M, jnp.int32), 0, 1.0, "the coefficient becomes the integer 0"),
    "L1 of int8": Difference(value(l1, M, jnp.int8), 0, 1.0, "as above"),
    "L1 of uint8": Difference(value(l1, M, jnp.uint8), 0, 1.0, "as above"),
    "L2 of int32": Difference(value(l2, M, jnp.int32), 0, 1.8, "as above"),
    "L1L2 of int32": Difference(value(l1l2, M, jnp.int32), 0, 4.6, "as above"),
    "L1 of bool": Difference(value(l1, M > 0, jnp.bool_), 7, 0.7, "the coefficient becomes True"),
    "L2 of bool": Difference(value(l2, M > 0, jnp.bool_), 7, 0.7, "as above"),
    "Orthogonal of int32": Difference(
        value(rows, M, jnp.int32), (TypeError, "rsqrt"), 0.03774852, "integers are promoted to float"
    ),
    "dtype of L1 of int32": Difference(
        dtype_of(value(l1, M, jnp.int32)), "int32", "float32", "a penalty is no integer"
    ),
    "dtype of L1 of float16": Difference(
        dtype_of(value(l1, M, jnp.float16)), "float16", "float32", "half precision is summed in float32"
    ),
    "dtype of L2 of bfloat16": Difference(dtype_of(value(l2, M, jnp.bfloat16)), "bfloat16", "float32", "as above"),
    "dtype of Orthogonal of float16": Difference(
        dtype_of(value(rows, M, jnp.float16)), "float16", "float32", "as above"
    ),
    "L1, long float16 sum": Difference(
        value(lambda f: f.L1(1e-4), np.ones((1000, 1000)), jnp.float16), math.inf, 100, "the sum passes 65504"
    ),
    "L2, float16 squares": Difference(
        value(lambda f: f.L2(1e-4), np.full(10, 300.0), jnp.float16), math.inf, 90, "300² passes 65504"
    ),
    "L2, small coefficient in float16": Difference(
        value(lambda f: f.L2(1e-8), np.ones(10), jnp.float16), 0, 1e-7, "the coefficient becomes 0"
    ),
    "L2, bfloat16": Difference(value(l2, M, jnp.bfloat16), 1.8046875, 1.8, "8 bits of the sum are kept"),
    "L2, float8": Difference(value(l2, M, jnp.float8_e4m3fn), 1.625, 1.8, "3 bits of the sum are kept"),
    "L2, float32 squares": Difference(
        value(lambda f: f.L2(1e-30), np.full(10, 1e20)),
        math.inf,
        1e11,
        "1e40 overflows on the way, the penalty does not",
    ),
    "L2 of complex numbers": Difference(value(l2, [1j, 1.0], jnp.complex64), 0, 0.2, "Σ|z|², not Σz²"),
    "dtype of L1 of complex numbers": Difference(
        dtype_of(value(l1, M, jnp.complex64)), "complex64", "float32", "a penalty is real, and can be differentiated"
    ),
    "L1L2() of inf": Difference(
        value(lambda f: f.L1L2(), [math.inf]), 0, NO, "one program for every coefficient: 0·inf"
    ),
    # coefficients
    "L1(None)": Difference(
        lambda f: f.L1(None).get_config()["l1"], 0.01, ODD, "a default is written by leaving it out"
    ),
    "L1L2(None)": Difference(lambda f: f.L1L2(None).get_config()["l1"], 0.0, ODD, "as above"),
    "Orthogonal(None)": Difference(
        lambda f: f.OrthogonalRegularizer(None), (ValueError, "non-negative"), ODD, "a type"
    ),
    "L2(True)": Difference(lambda f: f.L2(True).l2, 1.0, ODD, "a slip, not a coefficient"),
    "L2('0.1')": Difference(lambda f: f.L2("0.1"), (ValueError, "non-negative"), ODD, "a type"),
    "L2(float32)": Difference(lambda f: f.L2(np.float32(0.5)).l2, (ValueError, "non-negative"), 0.5, "it is a number"),
    "L2(int64)": Difference(lambda f: f.L2(np.int64(2)).l2, (ValueError, "non-negative"), 2.0, "it is a number"),
    "L2(0-d array)": Difference(lambda f: f.L2(np.array(0.5)).l2, (ValueError, "non-negative"), 0.5, "it is a number"),
    "L2(jax scalar)": Difference(
        lambda f: float(f.L2(jnp.float32(0.5)).l2), (ValueError, "non-negative"), 0.5, "it is a number"
    ),
    "L2(10**400)": Difference(
        lambda f: f.L2(10**400), OverflowError, (ValueError, "finite"), "the same message as inf"
    ),
    "traced coefficient": Difference(
        lambda f: jax.grad(lambda c: f.L2(c)(jnp.ones(3)))(0.5), (ValueError, "non-negative"), 3.0, "tuning by gradient"
    ),
    "mapped coefficient": Difference(
        lambda f: jax.vmap(lambda c: f.L2(c)(jnp.ones(3)))(jnp.arange(2.0)),
        (ValueError, "non-negative"),
        [0, 3],
        "sweeps",
    ),
    "jitted with it as argument": Difference(
        lambda f: jax.jit(lambda reg, x: reg(x))(f.L2(0.5), jnp.ones(3)),
        (TypeError, "abstract array|JAX type"),
        1.5,
        "a pytree",
    ),
    "leaves": Difference(lambda f: isinstance(jax.tree.leaves(f.L2(0.5))[0], float), False, True, "a pytree"),
    "equality": Difference(lambda f: f.L2(0.5) == f.L2(0.5), False, True, "by value"),
    "mutation": Difference(mutated, -5.0, (AttributeError, "cannot assign"), "compiled programs do not see it"),
    "get_config of L1": Difference(
        lambda f: f.L1(0.1).get_config()["l1"] == 0.1, False, True, "exact, not rounded to float32"
    ),
    "get_config of Orthogonal": Difference(
        lambda f: rows(f).get_config()["factor"] == 0.1, False, True, "exact, not rounded to float32"
    ),
    "get_config of L1(1e308)": Difference(
        lambda f: f.L1(1e308).get_config()["l1"], math.inf, 1e308, "the config can be read again"
    ),
    "mode as a list": Difference(
        lambda f: f.OrthogonalRegularizer(0.1, ["rows"]),
        (TypeError, "unhashable"),
        (ValueError, "Expected one of"),
        "clear",
    ),
    # identifiers and configs
    "'l1_l2'": Difference(
        lambda f: [f.get("l1_l2").l1, f.get("l1_l2").l2],
        (ValueError, "interpret"),
        [0.01, 0.01],
        "as Keras documents it",
    ),
    "'l1l2'": Difference(lambda f: [f.get("l1l2").l1, f.get("l1l2").l2], [0, 0], [0.01, 0.01], "not a silent nothing"),
    "class_name 'l1_l2'": Difference(
        lambda f: f.get({"class_name": "l1_l2", "config": {"l1": 0.5}}).l2,
        (ValueError, "interpret"),
        0.01,
        "tf.keras wrote it",
    ),
    "the keyword l": Difference(
        lambda f: f.get({"class_name": "L1", "config": {"l": 0.5}}).l1,
        (TypeError, "unexpected keyword"),
        0.5,
        "as above",
    ),
    "the base class": Difference(
        lambda f: f.Regularizer()(jnp.ones(3)), 0.0, (TypeError, "abstract"), "it has no formula"
    ),
    "'Regularizer'": Difference(
        name_of(lambda f: f.get("Regularizer")), "Regularizer", (ValueError, "interpret"), "as above"
    ),
    "deserialize('unknown')": Difference(
        lambda f: f.deserialize("unknown"), "unknown", (ValueError, "interpret"), "returned unchanged it fails far away"
    ),
    "deserialize(0)": Difference(lambda f: f.deserialize(0), 0, (ValueError, "is a dict with"), "as above"),
    "deserialize of a list": Difference(
        lambda f: f.deserialize(["l1"]), ["l1"], (ValueError, "is a dict with"), "as above"
    ),
    "deserialize of an unknown class": Difference(
        lambda f: f.deserialize({"class_name": "Nope", "config": {}}), "Nope", (ValueError, "Unknown"), "as above"
    ),
    "a class of another module": Difference(
        name_of(lambda f: f.deserialize({"module": "mine", "class_name": "L1", "config": {}})),
        "L1",
        (ValueError, "is not the regularizer of that name"),
        "it is another class with the same name",
    ),
    "unknown field": Difference(
        lambda f: f.get({"class_name": "L1", "config": {"x": 1}}),
        (TypeError, "could not be deserialized"),
        (ValueError, "has the fields"),
        "the value is wrong, not a type",
    ),
    "a built-in name in a scope": Difference(in_scope, "Other", "L1", "a file must not choose what L1 means"),
    "a registered name as a string": Difference(
        name_of(lambda f: f.get("test_keras_parity>Other")), (ValueError, "interpret"), "Other", "names are for strings"
    ),
    "a list as argument": Difference(
        lambda f: f.L1(0.1)([1.0, 2.0]), (AttributeError, "dtype"), (TypeError, "takes one array"), "the error says so"
    ),
}


def check(call: Callable[[Any], Any], family: Any, expected: Any) -> None:
    if isinstance(expected, type):
        expected = (expected, "")
    if isinstance(expected, tuple):
        error, text = expected
        with pytest.raises(error) as caught:
            call(family)
        assert re.search(text, str(caught.value)), caught.value
        return
    found = call(family)
    if isinstance(expected, (str, bool)) or (isinstance(expected, list) and isinstance(expected[0], str)):
        assert found == expected
    else:
        found = np.asarray(found)
        found = found if np.iscomplexobj(found) else found.astype(np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences(name: str) -> None:
    """If Keras changes, the first line fails, and the reason tells whether the difference is still wanted."""
    difference = DIFFERENCES[name]
    check(difference.call, KERAS, difference.keras)
    check(difference.call, OURS, difference.ours)


def test_float64_keeps_every_digit() -> None:
    """Keras stores the coefficient of L1 in float32 unless x64 is on when it is built."""
    x = np.random.default_rng(0).normal(size=(3, 4))
    ours, theirs = pairs_of("L1", 0.1)
    with jax.enable_x64(True):
        exact = 0.1 * np.abs(x).sum()
        value_ours, value_theirs = ours(jnp.asarray(x)), theirs(jnp.asarray(x))
        assert value_ours.dtype == value_theirs.dtype == jnp.float64
        np.testing.assert_allclose(value_ours, exact, rtol=1e-15)
        np.testing.assert_allclose(value_theirs, exact, rtol=1e-7)
        assert abs(float(value_theirs) / exact - 1) > 1e-9
        for arguments in (("L1L2", 0.1, 0.2), ("OrthogonalRegularizer", 0.1, "columns")):
            ours, theirs = pairs_of(*arguments)
            a, b = jax.jit(ours)(jnp.asarray(x)), jax.jit(theirs)(jnp.asarray(x))
            np.testing.assert_allclose(a, b, rtol=1e-13)
