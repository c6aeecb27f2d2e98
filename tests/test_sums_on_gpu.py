"""The sums that programs for GPUs take, run on a CPU: against NumPy, with derivatives, on several devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxreg
from jaxreg._core import compiler, euclidean, sums_on_gpu
from jaxreg._core.partition import Unit, Units
from tests.accelerators import reading

COLUMNS, LINES, HALVES = (1024, 96), (96, 1024), (16, 128, 40)
CASES = [(COLUMNS, (0,)), (LINES, (1,)), (LINES, (0,)), (COLUMNS, (0, 1)), (HALVES, (1,)), (HALVES, (0, 1))]
CASES += [(HALVES, (0, 2)), ((70, 1000), (0,)), ((67, 1000), (0,)), ((3, 3, 128, 64), (0, 1, 2))]
CASES += [(HALVES, Unit(3, 1)), (COLUMNS, Unit(2, 1)), (LINES, Unit(2, 0))]


def terms(shape: tuple[int, ...], dtype: Any = np.float32) -> tuple[np.ndarray[Any, Any], ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.uniform(0.5, 1, shape).astype(dtype) * scale for scale in (1, 1e-3, 1e6))


def axes_of(of: tuple[int, ...] | Unit) -> tuple[int, ...]:
    return tuple(a for a in range(of.ndim) if a != of.axis) if isinstance(of, Unit) else of


@pytest.mark.parametrize(("shape", "of"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_are_those_of_numpy(on_gpu: list[Any], shape: tuple[int, ...], of: Any, dtype: Any) -> None:
    with jax.enable_x64(True):
        arrays = terms(shape, dtype)
        found = jax.jit(functools.partial(sums_on_gpu.three_sums, groups=of))(arrays)
        assert on_gpu == [of]
        for x, total in zip(arrays, found, strict=True):
            expected = x.astype(np.float64).sum(axes_of(of), keepdims=not isinstance(of, Unit))
            np.testing.assert_allclose(total, expected, rtol=1e-13 if dtype == np.float64 else 3e-5)
            assert total.dtype == dtype
            assert total.shape == expected.shape


def test_of_several_arrays_they_add(on_gpu: list[Any]) -> None:
    of = Units((Unit(2, 1), Unit(2, 0)))
    arrays = tuple(zip(terms((1024, 80)), terms((80, 2048)), strict=True))
    found = jax.jit(functools.partial(sums_on_gpu.three_sums, groups=of))(arrays)
    assert on_gpu == [*of.places]
    for (x, y), total in zip(arrays, found, strict=True):
        np.testing.assert_allclose(total, x.sum(0, np.float64) + y.sum(1, np.float64), rtol=2e-6)


@pytest.mark.parametrize(("shape", "of"), CASES, ids=str)
def test_derivatives_forwards_backwards_and_in_batches(on_gpu: list[Any], shape: tuple[int, ...], of: Any) -> None:
    """The sums are linear: forwards that of the changes, backwards each number beside all entries of its group."""
    arrays = terms(shape)
    sums = functools.partial(sums_on_gpu.three_sums, groups=of)
    back = jax.jit(lambda arrays, weights: jax.vjp(sums, arrays)[1](weights)[0])
    for x, total in zip(arrays, jax.jit(lambda x: jax.jvp(sums, (x,), (x,))[1])(arrays), strict=True):
        expected = x.sum(axes_of(of), np.float64, keepdims=not isinstance(of, Unit))
        np.testing.assert_allclose(total, expected, rtol=2e-6)
    weights = tuple(np.full(total.shape, c, np.float32) for c, total in zip((2, 3, 4), sums(arrays), strict=True))
    for change, c in zip(back(arrays, weights), (2, 3, 4), strict=True):
        np.testing.assert_array_equal(change, np.full(shape, c))
    batches = jax.jit(jax.vmap(sums))(tuple(np.stack([x, 2 * x]) for x in arrays))
    for total, twice in batches:
        np.testing.assert_array_equal(2 * total, twice)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norms_at_both_ends_of_the_range(on_gpu: list[Any], axis: int, scale: float) -> None:
    columns = 100 + int(np.log10(scale))  # traced anew
    x = np.random.default_rng(1).standard_normal((1024, columns)).astype(np.float32) * np.float32(scale)
    reg = jaxreg.Group(jaxreg.L1(0.5), axis=axis)
    norms = np.sqrt((x.astype(np.float64) ** 2).sum(axis, keepdims=True))
    found, gradient, point = jax.jit(lambda x: (reg(x), jax.grad(reg)(x), reg.prox(x, scale)))(x)
    assert bool(on_gpu) == (axis == 0)  # along lines three sums are one kernel as they are
    np.testing.assert_allclose(found, 0.5 * norms.sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, 0.5 * x / norms, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(point / scale, x * np.maximum(1 - 0.5 * scale / norms, 0) / scale, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("edge", [2.0**-48, 2.0**48])
def test_groups_on_both_sides_of_a_bound(on_gpu: list[Any], edge: float) -> None:
    """One entry in the range of large ones, or of usual ones, and all others just below: these count as well."""
    x = np.full((1024, 1000), edge * 0.95, np.float32)
    x[0], x[:, 0] = edge * 1.05, edge * 1.05
    for axis in (0, 1):
        norms = np.linalg.norm(x.astype(np.float64), axis=axis, keepdims=True)
        np.testing.assert_allclose(jax.jit(functools.partial(euclidean.norms, groups=(axis,)))(x), norms, rtol=3e-6)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,)], ids=str)
def test_norms_of_single_entries(shape: tuple[int, ...]) -> None:
    """Compilers square a constant factor by itself where an array has one entry."""
    axes = tuple(range(len(shape)))
    norms = jax.jit(lambda x: euclidean.three_sums(axes, x))
    for x in (0.0, 1e-37, 1e-30, 1e-15, 1.0, -1e15, 1e30, 1e38, np.inf, np.nan):
        scale, square = norms(np.full(shape, x, np.float32))
        np.testing.assert_allclose(np.sqrt(square) / scale, np.sqrt(np.prod(shape)) * abs(x), rtol=3e-7)


def test_what_is_no_number(on_gpu: list[Any]) -> None:
    """An infinite entry gives an infinite norm and is all of the direction; nan gives nan, zeros give zeros."""
    x = np.random.default_rng(3).standard_normal((1024, 96)).astype(np.float32)
    x[5, 0], x[7, 1], x[:, 2], x[9, 3], x[11, 3] = -np.inf, np.nan, 0, np.inf, np.nan
    norms, unit = jax.jit(lambda x: (euclidean.norms(x, (0,)), euclidean.directions(x, (0,))))(x)
    norms = np.ravel(norms)
    assert norms[0] == np.inf and norms[2] == 0 and np.isnan(norms[[1, 3]]).all() and np.isfinite(norms[4:]).all()
    np.testing.assert_array_equal(unit[:, 0], -1.0 * (np.arange(1024) == 5))
    assert np.isnan(unit[:, 1]).all() and not unit[:, 2].any()


@pytest.mark.parametrize("penalty", [jaxreg.L1(0.02), jaxreg.MCP(0.02, 3.0)], ids=["L1", "MCP"])
def test_steps_are_those_without_it(on_gpu: list[Any], penalty: jaxreg.Regularizer, monkeypatch: Any) -> None:
    """Six steps in Adam's metric, lines and columns, groups that vanish and groups that do not."""
    rng = np.random.default_rng(2)
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("a", COLUMNS), ("b", LINES))}
    targets = {name: p * (rng.random(p.shape[-1]) < 0.5) for name, p in params.items()}
    rules = {name: jaxreg.Group(penalty, axis=i) for i, name in enumerate(params)}
    tx = jaxreg.proximal_adam(0.1, jaxreg.TreeRegularizer(rules))

    def trained() -> Any:
        step = jax.jit(lambda state, p: tx.update(jax.tree.map(jnp.subtract, p, targets), state, p))
        p, state = params, tx.init(params)
        for _ in range(6):
            updates, state = step(state, p)
            p = optax.apply_updates(p, updates)
        return jax.tree.map(np.asarray, p)

    found = trained()
    assert set(on_gpu) == {(0,), (1,)}
    monkeypatch.setattr(compiler, "on_gpu", lambda there, elsewhere, *operands: elsewhere(*operands))
    jax.clear_caches()
    expected = trained()
    for name, p in found.items():
        np.testing.assert_allclose(p, expected[name], rtol=2e-4, atol=1e-6)
        np.testing.assert_array_equal(p == 0, expected[name] == 0)


@pytest.mark.parametrize("divided", [0, 1])
@pytest.mark.parametrize("of", [(0,), (1,), (0, 1)], ids=str)
def test_on_several_devices(on_gpu: list[Any], of: tuple[int, ...], divided: int) -> None:
    """No device has the whole of an array: what is divided along a sum is added up."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    where = jax.NamedSharding(mesh, PartitionSpec(*[None] * divided, "d"))
    arrays = tuple(jax.device_put(x, where) for x in terms((1024, 512)))
    program = jax.jit(functools.partial(sums_on_gpu.three_sums, groups=of)).lower(arrays).compile()
    assert on_gpu == [of] and not reading.collectives(program.as_text()).keys() - {"all-reduce"}
    for x, total in zip(arrays, program(arrays), strict=True):
        np.testing.assert_allclose(total, np.asarray(x, np.float64).sum(of, keepdims=True), rtol=3e-5)


@pytest.mark.parametrize("rows", [40, 64, 88, 176, 520, 1000, 1376, 4000])
def test_no_window_lies_on_two_devices(on_gpu: list[Any], rows: int) -> None:
    """Rows of which 8 devices have few, or no multiple of 8 or 64: the sums are exchanged, and no rows."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    x = jax.device_put(terms((rows, 2048 if rows < 500 else 192))[0], jax.NamedSharding(mesh, PartitionSpec("d")))
    reg = jaxreg.Group(jaxreg.L1(0.5), axis=0)
    program = jax.jit(reg).lower(x).compile()
    assert on_gpu == [(0,)]
    assert reading.collectives(program.as_text()) == {"all-reduce": 1}
    np.testing.assert_allclose(program(x), 0.5 * np.linalg.norm(x, axis=0).sum(), rtol=2e-6)


def test_on_explicit_axes(on_gpu: list[Any]) -> None:
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    x = terms((1024, 136))[0] - 0.75
    for spec in (PartitionSpec("d"), PartitionSpec(None, "d")):
        reg = jaxreg.Group(jaxreg.L1(0.5), axis=0)
        with jax.set_mesh(mesh):
            found = jax.jit(reg)(jax.device_put(x, jax.NamedSharding(mesh, spec)))
        np.testing.assert_allclose(found, 0.5 * np.linalg.norm(x, axis=0).sum(), rtol=2e-6)


def test_inside_of_a_shard_map(on_gpu: list[Any]) -> None:
    """Each device has groups of its own there, and what is added varies from device to device."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    arrays, each = terms((8 * 1024, 128)), PartitionSpec("d")
    for of in ((0,), (1,)):
        sums = functools.partial(sums_on_gpu.three_sums, groups=of)
        found = jax.jit(jax.shard_map(sums, mesh=mesh, in_specs=(each,), out_specs=each))(arrays)
        for x, total in zip(arrays, found, strict=True):
            expected = x.astype(np.float64).reshape(8, 1024, 128).sum(of[0] + 1, keepdims=True)
            np.testing.assert_allclose(np.ravel(total), np.ravel(expected), rtol=5e-6)
    assert on_gpu == [(0,), (1,)]
