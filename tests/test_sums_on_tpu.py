"""The sums of squares that programs for TPUs take, on a CPU: against NumPy, with derivatives, on several devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxreg
from jaxreg._core import sums_on_tpu
from jaxreg._core.partition import Labels, Unit, Units
from tests.accelerators import reading

COLUMNS, LINES, HALVES, CONVOLUTION = (1024, 96), (96, 1024), (16, 128, 40), (3, 3, 128, 64)
CASES = [(COLUMNS, (0,)), (LINES, (1,)), (LINES, (0,)), (COLUMNS, (0, 1)), (HALVES, (1,))]
CASES += [
    (HALVES, (0, 2)),
    (HALVES, (0, 1, 2)),
    (CONVOLUTION, (0, 1, 2)),
    (CONVOLUTION, (0, 1, 3)),
    (CONVOLUTION, (3,)),
]
CASES += [(HALVES, Unit(3, 1)), (COLUMNS, Unit(2, 1)), (LINES, Unit(2, 0)), ((67, 1000), (0,))]


def numbers(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    x = np.random.default_rng(0).standard_normal(shape)
    return (x + 1j * x[::-1] if np.dtype(dtype).kind == "c" else x).astype(dtype)


def squares(x: np.ndarray[Any, Any], of: tuple[int, ...] | Unit) -> np.ndarray[Any, Any]:
    axes = of.others if isinstance(of, Unit) else of
    return (np.abs(x).astype(np.float64) ** 2).sum(axes, keepdims=not isinstance(of, Unit))


def taken_by(of: Any) -> Any:
    return functools.partial(sums_on_tpu.squares, groups=of)


@pytest.mark.parametrize(("shape", "of"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_squares_are_those_of_numpy(on_tpu: list[Any], shape: tuple[int, ...], of: Any, dtype: Any) -> None:
    x = numbers(shape, dtype)
    found = jax.jit(taken_by(of))(x)
    assert on_tpu == [of]
    np.testing.assert_allclose(found, squares(x, of), rtol=3e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("shape", "of"), CASES, ids=str)
def test_derivatives_forwards_backwards_and_in_batches(on_tpu: list[Any], shape: tuple[int, ...], of: Any) -> None:
    x, total = numbers(shape), taken_by(of)
    expected = squares(x, of)
    np.testing.assert_allclose(jax.jit(lambda x: jax.jvp(total, (x,), (3 * x,))[1])(x), 6 * expected, rtol=3e-6)
    back = jax.jit(lambda x: jax.vjp(total, x)[1](jnp.ones(expected.shape, x.dtype))[0])(x)
    np.testing.assert_allclose(back, 2 * x, rtol=1e-6)
    once, twice = jax.jit(jax.vmap(total))(np.stack([x, 2 * x]))
    np.testing.assert_allclose(once, expected, rtol=3e-6)
    np.testing.assert_allclose(twice, 4 * expected, rtol=3e-6)
    assert on_tpu == 3 * [of]


def test_of_several_arrays_they_add(on_tpu: list[Any]) -> None:
    of, arrays = Units((Unit(2, 1), Unit(2, 0))), (numbers((1024, 80)), numbers((80, 2048)))
    np.testing.assert_allclose(
        jax.jit(taken_by(of))(arrays), squares(arrays[0], (0,))[0] + squares(arrays[1], (1,))[:, 0], rtol=3e-6
    )
    assert on_tpu == [*of.places]


def test_small_arrays_labels_and_other_dtypes_are_added_up(on_tpu: list[Any]) -> None:
    labels = Labels(((0,) * 500 + (1,) * 524,), 2)
    with jax.enable_x64(True):
        for x, of in ((numbers((64, 1000)), (0,)), (numbers((1 << 17,)), (0,)), (numbers(LINES, np.float64), (0,))):
            np.testing.assert_allclose(jax.jit(taken_by(of))(x), squares(x, of), rtol=3e-6)
    parts = np.split(squares(numbers(LINES), (0,)).ravel(), [500])
    np.testing.assert_allclose(jax.jit(taken_by(labels))(numbers(LINES)), [x.sum() for x in parts], rtol=3e-6)
    assert not on_tpu


def test_what_is_out_of_range_is_large_and_no_nan(on_tpu: list[Any]) -> None:
    """The units of a TPU would make nan of an infinite square."""
    x = numbers(COLUMNS)
    x[3, 0], x[4, 1], x[5, 2], x[6:8, 3] = 1e20, np.inf, np.nan, -1e25
    found = np.ravel(jax.jit(taken_by((0,)))(x))
    assert (found[[0, 1, 3]] > 1e38).all() and np.isnan(found[2]) and on_tpu
    np.testing.assert_allclose(found[4:], squares(x[:, 4:], (0,)).ravel(), rtol=3e-6)


def test_second_moments_by_group_are_those_of_numpy(on_tpu: list[Any]) -> None:
    """Six steps, against the formulas of `group_moments.py` in float64; columns and lines."""
    rng = np.random.default_rng(3)
    params = {"a": rng.standard_normal(COLUMNS).astype(np.float32), "b": rng.standard_normal(LINES).astype(np.float32)}
    axes = {"a": 0, "b": 1}
    reg = jaxreg.TreeRegularizer({name: jaxreg.Group(jaxreg.L1(0.02), axis=axis) for name, axis in axes.items()})
    tx = jaxreg.proximal_adam(0.1, reg, moments="group")
    step, p, state = jax.jit(tx.update), params, tx.init(params)
    w = {name: x.astype(np.float64) for name, x in params.items()}
    m, v = {name: 0 * x for name, x in w.items()}, dict.fromkeys(w, np.zeros(()))
    for i in range(1, 7):
        updates, state = step(jax.tree.map(lambda p: 0.5 * p, p), state, p)
        p = optax.apply_updates(p, updates)
        for name, axis in axes.items():
            g = 0.5 * w[name]
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * (g**2).mean(axis, keepdims=True)
            tau = 0.1 / (np.sqrt(v[name] / (1 - 0.999**i)) + 1e-8)
            z = w[name] - tau * m[name] / (1 - 0.9**i)
            w[name] = z * np.maximum(1 - 0.02 * tau / np.linalg.norm(z, axis=axis, keepdims=True), 0)
            np.testing.assert_allclose(p[name], w[name], rtol=1e-4, atol=2e-6)
    assert set(on_tpu) == {(0,), (1,)}


@pytest.mark.parametrize("divided", [0, 1])
@pytest.mark.parametrize("of", [(0,), (1,), (0, 1)], ids=str)
def test_on_several_devices(on_tpu: list[Any], of: tuple[int, ...], divided: int) -> None:
    """What each adds up is exchanged, and nothing else."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    x = jax.device_put(numbers((1024, 512)), jax.NamedSharding(mesh, PartitionSpec(*[None] * divided, "d")))
    program = jax.jit(taken_by(of)).lower(x).compile()
    sent = reading.collectives(program.as_text())
    assert on_tpu == [of] and not sent.keys() - {"all-reduce"} and bool(sent) == (divided in of)
    np.testing.assert_allclose(program(x), squares(np.asarray(x), of), rtol=3e-6)


def test_few_rows_are_added_up(on_tpu: list[Any]) -> None:
    """Of eight devices each has 32 of 256 rows, as the array knows; on Explicit axes all sums are sums."""
    x = numbers((256, 1024))
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            found = jax.jit(taken_by((0,)))(jax.device_put(x, jax.NamedSharding(mesh, PartitionSpec("d"))))
        np.testing.assert_allclose(found, squares(x, (0,)), rtol=3e-6)
    assert not on_tpu


def test_inside_of_a_shard_map(on_tpu: list[Any]) -> None:
    mesh, each = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,)), PartitionSpec("d")
    x = numbers((8 * 512, 128))
    found = jax.jit(jax.shard_map(taken_by((0,)), mesh=mesh, in_specs=(each,), out_specs=each))(x)
    np.testing.assert_allclose(np.ravel(found), squares(x.reshape(8, 512, 128), (1,)).ravel(), rtol=3e-6)
    assert on_tpu == [(0,)]  # no other device has a part of what is inside
