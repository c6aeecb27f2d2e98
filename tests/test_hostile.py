"""Bad input, by hypothesis: every shape, dtype and value gives the right answer or one clear error, and no new nan."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import jaxreg
from tests import constraint_cases
from tests.cases import ALL_CASES, Case, gradient, label

pytestmark = pytest.mark.wide

L1 = jaxreg.L1(0.3)
OTHERS = (
    jaxreg.Spectral(L1, method="polar"),
    jaxreg.Stacked(jaxreg.Group(L1, axis=0), axes=(0,)),
    jaxreg.Matrix(jaxreg.SpectralNorm(0.3), outputs=(-1, 0)),
    jaxreg.Matrix(jaxreg.Group(L1, axis=0), outputs=()),
    jaxreg.Matrix(jaxreg.SpectralBall(1.0)),
    jaxreg.Anchored(L1, 0.5),
    *(case.constraint for case in constraint_cases.CASES),
)
CASES: tuple[Any, ...] = (*ALL_CASES, *OTHERS)
SHAPES = ((), (0,), (1,), (5,), (0, 3), (1, 1), (4, 3), (3, 1), (2, 3, 2), (2, 0, 2), (1, 2, 1, 2), (1, 2, 1, 2, 1))
DTYPES = (
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int32",
    "int8",
    "uint8",
    "bool",
    "complex64",
)
EXTREMES = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-38, -1e-30, 1e-7, 300.0, 7e4, 1e19, -1e30, 1e38, 3.4e38)
TINY = float(np.finfo(np.float32).tiny)
numbers = st.one_of(st.sampled_from(EXTREMES), st.floats(width=32, allow_nan=False, allow_infinity=False))

# From which size of the entries on squares, cubes or singular values cannot be held, so that infinities meet.
LIMITS: dict[type, float] = {
    jaxreg.SoftOrthogonal: 1e9,
    jaxreg.Spectral: 1e36,
    jaxreg.SpectralNorm: 1e36,
    jaxreg.SpectralBall: 1e36,
    jaxreg.Rank: 1e36,
    jaxreg.Difference: 1e37,
    jaxreg.LogSum: 1e37,  # |x|/eps overflows; a way around it costs a second pass over the weights
    jaxreg.Function: 1e37,
}


def limit(reg: Any, dtype: str) -> float:
    inner = [reg.penalty if isinstance(reg, jaxreg.Matrix) else reg, *getattr(reg, "terms", ())]
    return min([1e18 if dtype == "complex64" else math.inf, *(LIMITS.get(type(r), math.inf) for r in inner)])


@st.composite
def arrays(draw: Any) -> tuple[np.ndarray, str]:
    """Numbers that the dtype holds, often with extremes, repeated rows and rows of zeros."""
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    size = math.prod(shape)
    flat = np.array(draw(st.lists(numbers, min_size=size, max_size=size)), np.float64)
    x = flat.reshape(shape)
    if len(shape) > 1 and shape[0] > 1 and draw(st.booleans()):
        x[-1] = x[0] * draw(st.sampled_from([0.0, 1.0, -1.0]))
    if dtype.startswith(("float", "bfloat")):
        info = ml_dtypes.finfo(dtype)
        x = np.clip(x, float(info.min), float(info.max))
    elif dtype == "complex64":
        x = np.clip(x, -1e18, 1e18) * (1 + 0.5j)
    else:
        x = np.clip(x, -100, 100) if dtype != "uint8" else np.clip(x, 0, 100)
    return x.astype(dtype), dtype


def attempt(function: Any, *args: Any) -> Any:
    """The result, or None after an error that says something and not too much."""
    try:
        return jax.tree.map(np.asarray, function(*args))
    except (TypeError, ValueError, NotImplementedError) as error:
        message = str(error)
    assert 20 < len(message) < 2000
    return None


def check(case: Any, x: np.ndarray, dtype: str, factor: float, step: float) -> None:
    reg = case.regularizer if isinstance(case, Case) else case
    largest = float(np.max(np.abs(x.astype(complex)), initial=0))
    if largest > limit(reg, dtype):
        return
    with np.errstate(all="ignore"):
        check_value(case, factor * reg, x, factor)
        if dtype in ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"):
            check_results(case, factor * reg, x, step)


def check_value(case: Any, reg: Any, x: np.ndarray, factor: float) -> None:
    value = attempt(reg, x)
    if value is None:
        return
    assert value.shape == () and not np.isnan(value)
    assert value.dtype == np.float32
    if isinstance(case, Case) and case.scalar is not None and not np.iscomplexobj(x):
        flushed = np.where(abs(x.astype(np.float64)) < TINY, 0, x.astype(np.float64))  # XLA takes subnormals for 0
        expected = factor * np.sum(case.scalar(flushed))
        if expected < 3e38:
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-36)


def check_results(case: Any, reg: Any, x: np.ndarray, step: float) -> None:
    slope, prox = attempt(gradient, reg, jnp.asarray(x)), attempt(reg.prox, jnp.asarray(x), step)
    for result in (slope, prox):
        if result is not None:
            assert result.shape == x.shape and result.dtype == x.dtype
            overflows = result is slope and x.dtype == "float8_e4m3fn"  # it has no infinity: what is too large is nan
            assert overflows or not np.isnan(result.astype(complex)).any()
    if prox is not None and isinstance(case, Case) and case.scalar is not None:
        size = np.abs(x.astype(complex))
        assert (np.abs(prox.astype(complex)) <= size * (1 + 1e-5) + 1e-37).all()  # towards 0, never beyond


strategy = {
    "case": st.sampled_from(CASES),
    "array": arrays(),
    "factor": st.sampled_from([0.0, 1e-30, 0.3, 1.0, 1e10]),
    "step": st.sampled_from([0.0, 1e-30, 0.1, 1.0, 1e30]),
}


@pytest.mark.parametrize("count", [100, pytest.param(250, marks=pytest.mark.slow)])
def test_the_right_answer_or_one_clear_error(count: int) -> None:
    @seed(count)
    @settings(max_examples=count, deadline=None, database=None)
    @given(**strategy)
    def run(case: Any, array: tuple[np.ndarray, str], factor: float, step: float) -> None:
        check(case, *array, factor, step)

    run()


F32_MAX = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("reg", "z", "step", "expected"),
    [
        (jaxreg.Lq(0.3, q=2 / 3), [1e30, -3e38, 8.0], 0.1, [1e30, -3e38, 7.98998]),
        (jaxreg.Lq(0.3, q=0.8), [np.inf, 0.0], 0.1, [np.inf, 0.0]),
        (jaxreg.Group(L1), [F32_MAX, -F32_MAX], 0.1, [F32_MAX, -F32_MAX]),  # the norm is not representable
        (jaxreg.Group(jaxreg.L2(0.5)), [F32_MAX, F32_MAX], 1.0, [F32_MAX / 2, F32_MAX / 2]),
        (jaxreg.Group(L1), [1e19, -1e30, 1e30], np.float32([0.1, 0.1, 0.1]), [1e19, -1e30, 1e30]),
        (jaxreg.Group(L1), [3e-20, -4e-20], np.float32([1e-20, 1e-20]), [2.82e-20, -3.76e-20]),
        (jaxreg.SoftOrthogonal(1.0), [[2.0, 0.0], [0.0, 0.5]], 1e38, [[1.0, 0.0], [0.0, 1.0]]),
        (jaxreg.SoftOrthogonal(0.25), [[1e36, 0.0], [0.0, 0.0]], 1.0, [[1e12, 0.0], [0.0, 0.0]]),
    ],
    ids=label,
)  # fmt: skip
def test_proximal_operators_at_the_ends_of_the_range(reg: Any, z: Any, step: Any, expected: Any) -> None:
    np.testing.assert_allclose(reg.prox(np.float32(z), step), np.float32(expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("reg", "x", "value", "gradient"),
    [
        (jaxreg.L0(0.5), [np.inf, 0.0, 1.0], 1.0, [0.0, 0.0, 0.0]),
        (jaxreg.Group(jaxreg.L1(0.5)), [-np.inf, 1.0], np.inf, [-0.5, 0.0]),
        (jaxreg.Box(-1.0, 1.0), [np.inf, 0.0], np.inf, [0.0, 0.0]),
        (0.0 * jaxreg.Box(-1.0, 1.0), [5.0, 0.0], 0.0, [0.0, 0.0]),
        (0.0 * jaxreg.L2(1.0), [1e30, 0.0], 0.0, [0.0, 0.0]),
        (0.0 * jaxreg.L2(0.7), [3.4e38, 0.0], 0.0, [0.0, 0.0]),  # 2·0.7·x, the gradient of L2, overflows too
        (jaxreg.Group(0.0 * jaxreg.L2(0.7)), [3.4e38, 0.0], 0.0, [0.0, 0.0]),
        (jaxreg.Anchored(0.0 * jaxreg.L2(0.7), 0.0, weights=1.0), [3.4e38, 0.0], 0.0, [0.0, 0.0]),
        (0.0 * jaxreg.Function(lambda x: jnp.sum(x**4)), [1e30, 0.0], 0.0, [0.0, 0.0]),
    ],
    ids=label,
)
def test_infinities_and_zero_factors(reg: Any, x: Any, value: float, gradient: Any) -> None:
    found = jax.value_and_grad(reg)(jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(found[0], value)
    np.testing.assert_allclose(found[1], gradient)


def test_a_complex_penalty_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`Function\.__call__` must return a real number, got dtype complex64"):
        (L1 + (lambda x: jnp.sum(x**2)))(jnp.ones(3, complex))


MATRICES = (
    jaxreg.Spectral(L1),
    jaxreg.SpectralNorm(0.3),
    jaxreg.OrthogonalRegularizer(0.3),
    jaxreg.SoftOrthogonal(0.3),
    jaxreg.SpectralBall(0.1),
    jaxreg.Rank(1),
)


@pytest.mark.parametrize("reg", MATRICES, ids=label)
def test_a_stack_of_matrices_is_refused_and_summed_by_matrix_where_it_is_called_one(reg: Any) -> None:
    layers = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(jaxreg.Stacked(reg)(layers), np.sum([reg(layer) for layer in layers]), rtol=1e-5)
    assert attempt(reg, layers) is None
    assert all(name in (type(reg).__doc__ or "") for name in ("Stacked", "Matrix"))


def test_what_may_mean_something_else_by_a_stack_says_so() -> None:
    reg = jaxreg.Group(L1, axis=0)
    layers = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(jaxreg.Stacked(reg)(layers), np.sum([reg(layer) for layer in layers]), rtol=1e-5)
    assert "Stacked" in (type(reg).__doc__ or "")


@pytest.mark.parametrize("bad", [[-1.0, 1.0], [np.nan, 1.0], [[1.0, 1.0]], -1.0, np.nan], ids=str)
@pytest.mark.parametrize("reg", [jaxreg.L1(0.1), jaxreg.Box(-1.0, 1.0), 2 * jaxreg.MaxNorm(1.0)], ids=repr)
def test_a_step_that_is_negative_or_nan_is_refused_whatever_its_shape(reg: Any, bad: Any) -> None:
    rule = "takes a non-negative step, got" if np.ndim(bad) < 2 else "takes a scalar step or one of the shape"
    for step in (np.asarray(bad), jnp.asarray(bad), jnp.asarray(bad, jnp.bfloat16)):
        with pytest.raises(ValueError, match=rf"`{type(reg).__name__}\.prox` {rule}"):
            reg.prox(jnp.ones(2), step)
        with pytest.raises(ValueError, match=rule):
            jaxreg.TreeRegularizer({"a": reg}).prox({"a": jnp.ones(2)}, {"a": step})
    for good in (np.array([0.0, np.inf]), jnp.array([0, 1])):
        assert reg.prox(jnp.ones(2), good).shape == (2,)
