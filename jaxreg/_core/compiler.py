"""All that is written for the compiler and not for the mathematics; every function names the test that needs it.

Sums over groups in one pass are in files of their own: `two_sums.py` for CPUs, `sums_on_gpu.py`, `sums_on_tpu.py`.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

T = TypeVar("T")


def automatic(function: Callable[..., Any], x: jax.Array, *, replicated: bool) -> Callable[..., Any]:
    """Return `function` with the Explicit axes of the mesh of `x` made Auto inside; the result is typed as outside.

    Explicit axes want an output sharding for a Gram product and refuse the SVD or the sort of a sharded axis. Needed by
    the Explicit cases of `test_sharding.py::test_sharded_as_on_one_device`.

    Args:
        function: of arrays, `x` among them.
        x: the array whose mesh it is.
        replicated: True: the result is replicated on every device. False: it has shape and sharding of `x`.
    """
    sharding = jax.typeof(x).sharding
    if not is_explicit(x):
        return function
    out = NamedSharding(sharding.mesh, PartitionSpec()) if replicated else sharding
    return jax.sharding.auto_axes(function, out_sharding=out)


def is_explicit(x: jax.Array) -> bool:
    """Whether x lies on a mesh with Explicit axes.

    Needed by the Explicit cases of `test_sharding.py::test_sharded_as_on_one_device`.
    """
    return AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


def devices(x: jax.Array) -> int:
    """By how many devices an axis of x may be divided at most: those of the Auto axes of its mesh, or one.

    Of a program that is divided by `in_shardings` alone, the arrays do not know it. Held by
    `test_sums_on_gpu.py::test_no_window_lies_on_two_devices` and `test_sums_on_tpu.py::test_few_rows_are_added_up`.
    """
    mesh = jax.typeof(x).sharding.mesh
    sizes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in sizes if kind is AxisType.Auto)


def placed_like(x: jax.Array, result: jax.Array) -> jax.Array:
    """Give `result` the sharding of `x` also on Auto axes, which types do not carry; nan where `x` is nan.

    An operation that takes both arrays entry by entry is what hands an Auto sharding on. Needed by the Auto cases of
    `test_sharding.py::test_sharded_as_on_one_device` for singular values.
    """
    return jnp.where(jnp.isnan(x), x, result)


@jax.custom_jvp
def gradient_placed_like_itself(x: jax.Array) -> jax.Array:
    """Return `x`; a gradient that comes back through it gets the sharding of `x` also on Auto axes.

    A transposition and a reshape may lose it. Needed by the case `Matrix`, Auto, of
    `test_sharding.py::test_sharded_as_on_one_device`.
    """
    return x


gradient_placed_like_itself.defjvps(lambda dx, _, x: dx * jnp.where(jnp.isnan(x), jnp.nan, 1.0))


def unshared(operands: T) -> T:
    """A barrier: stops XLA from keeping one broadcast coefficient in memory for all leaves of a shape.

    Needed by `test_cost.py::test_the_penalty_of_a_tree_reads_each_weight_once` (MCP, SCAD, Huber, LogSum, L1L2).
    """
    return jax.lax.optimization_barrier(operands)


def only_after(value: jax.Array | None, arrays: T) -> T:
    """Make `arrays` depend on `value` on a CPU: XLA computes it before it reads them.

    The leaves of a tree take turns in one memory (`proximal`), and a sum over donated parameters needs no copy of them
    (`add_regularization(track=True)`), because it comes before they are overwritten. Needed by the case `tracked` of
    `test_cost.py::test_a_step_of_adam_has_no_more_temporaries_and_reads_the_weights_at_most_so_often`, and by
    `test_cost.py::test_the_group_lasso_in_the_metric_of_adam_keeps_three_arrays_of_one_leaf_at_a_time`.
    On a TPU and a GPU it does nothing: the maximum would be an all-reduce for each leaf that is divided, which
    `tests/accelerators/limits.py` would see.
    """
    if value is None:
        return arrays

    def on_cpu(value: jax.Array, arrays: T) -> T:
        never = jnp.max(jnp.abs(value), initial=0) < -jnp.inf
        return jax.tree.map(lambda x: jnp.where(never, 0, x), arrays)

    return by_device(on_cpu, lambda value, arrays: arrays, value, arrays)


def read_again(number: jax.Array, arrays: T) -> T:
    """Make `arrays` depend on a number that is not negative, which no compiler knows of it; entry by entry.

    What is made of the result is made anew, once the number is known, of what the memory has by then. Without this the
    compilers for TPUs, GPUs and CPUs keep what the number was made of, in arrays of its size. Needed by
    `test_group_moments.py::test_a_step_keeps_nothing_of_the_size_of_a_leaf` and by
    `tests/accelerators/limits.py::test_a_step_with_groups_that_are_whole`.
    """
    return jax.tree.map(lambda x: jnp.where(number < -1, 0, x), arrays)


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """Round `x` to the values of `dtype`. XLA may drop a cast to it and back, and with it the rounding.

    Needed by `test_proximal.py::test_the_rounding_is_an_operation_that_no_compiler_drops`.
    """
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=info.nmant)


def by_device(on_cpu: Callable[..., T], elsewhere: Callable[..., T], *operands: Any) -> T:
    """Call one of two functions with the same result: the one for the device that the program is lowered for.

    The compilers for TPUs and GPUs make one loop, and one read, of several sums over an array; that for CPUs makes as
    many loops, and is slow at sums of parts of the entries. Products of matrices stand likewise to decompositions. Held
    by `test_cost.py::test_what_depends_on_the_device_is_decided_where_the_program_is_lowered`.
    """
    return jax.lax.platform_dependent(*operands, cpu=on_cpu, default=elsewhere)


def on_tpu(there: Callable[..., T], elsewhere: Callable[..., T], *operands: Any) -> T:
    """Call one of two functions with the same result: `there` in programs that are lowered for a TPU.

    Its compiler needs minutes for some decompositions. Held by
    `test_products.py::test_large_matrices_are_not_decomposed_as_they_are`.
    """
    return jax.lax.platform_dependent(*operands, tpu=there, default=elsewhere)


def on_gpu(there: Callable[..., T], elsewhere: Callable[..., T], *operands: Any) -> T:
    """Call one of two functions with the same result: `there` in programs that are lowered for CUDA.

    Its compiler makes a kernel of each of several sums. Needed by
    `tests/accelerators/limits.py::test_a_step_with_groups_on_a_gpu`, held by
    `test_sums_on_gpu.py::test_sums_are_those_of_numpy`.
    """
    return jax.lax.platform_dependent(*operands, cuda=there, default=elsewhere)


PANEL = 256  # rows: as many as keep the units of a TPU busy for longer than they wait for the other matrix


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a·b at full precision; in programs for a TPU a panel of rows after the other.

    For a TPU the panels are as many cycles as the whole. Its compiler unrolls a product, and takes 10 to 20 s for one
    of matrices of 1024² that are on chip; a panel takes 4 s, and equal ones of several products are compiled once.
    Needed by `tests/accelerators/limits.py::test_spectra_compile_soon`, held by
    `test_products.py::test_panels_of_rows_are_the_whole_product`. The longer side of the result, by which a matrix that
    is shared by several devices is mostly divided, stays whole.
    """
    if isinstance(a.shape[0], int) and isinstance(b.shape[1], int) and a.shape[0] > b.shape[1]:
        return matmul(b.T, a.T).T
    return _on_tpu_by_panels(_product, (a,), b)


def multiply_add(u: Any, a: jax.Array, b: jax.Array, v: Any) -> jax.Array:
    """Return u·(a·b) + v·b for numbers u and v and a square a, by the same panels.

    Held by `test_products.py::test_panels_of_rows_are_the_whole_product`.
    """

    def of_rows(rows: jax.Array, of_b: jax.Array, u: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
        return u * _product(rows, b) + v * of_b

    return _on_tpu_by_panels(of_rows, (a, b), u, b, v)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _on_tpu_by_panels(of_rows: Callable[..., jax.Array], matrices: Any, *whole: Any) -> jax.Array:
    """of_rows(*matrices, *whole), for a TPU with panels of the matrices."""

    def at_once(matrices: Any, *whole: jax.Array) -> jax.Array:
        return of_rows(*matrices, *whole)

    def panels(matrices: Any, *whole: jax.Array) -> jax.Array:
        return by_panels(lambda *rows: of_rows(*rows, *whole), *matrices)

    rows = matrices[0].shape[0]
    is_long = isinstance(rows, int) and rows > PANEL and not jnp.iscomplexobj(matrices[0])
    return on_tpu(panels, at_once, matrices, *whole) if is_long else at_once(matrices, *whole)


def by_panels(of_rows: Callable[..., jax.Array], *matrices: jax.Array) -> jax.Array:
    """Call a function of rows for one panel of them after the other; what the last panel lacks are zeros.

    Needed by `matmul`, held by `test_products.py::test_panels_of_rows_are_the_whole_product`.
    """
    rows = len(matrices[0])
    count = -(-rows // PANEL)
    length = -(-rows // (8 * count)) * 8  # a TPU keeps rows by eight

    def panels(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, count * length - rows), (0, 0))).reshape(count, length, x.shape[1])

    with jax.named_scope("panels"):  # by which `tests/accelerators/reading.py` knows them
        found = jax.lax.map(lambda parts: of_rows(*parts), tuple(map(panels, matrices)))
    return found.reshape(count * length, found.shape[2])[:rows]


LARGE = 1 << 16  # from this size on, the time to read the memory is what a sum costs


def is_large(x: jax.Array) -> bool:
    """Whether an array is read from the memory and not from a cache; not if its size is symbolic.

    The second is needed by `test_saved.py::test_penalties_are_exported_for_arrays_of_any_size`.
    """
    return isinstance(x.size, int) and x.size >= LARGE


def factored_sum(c: jax.Array, x: jax.Array, term: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Return Σ term(c, x), for a term that is linear in c.

    On a CPU a large array is read at the speed of the memory only without the multiplication by c: c·Σ term(1, x), and
    once more with it where that sum is out of range: 0.9 times Σx² by hand for L2 and 1.2 for L1, without this 1.4 and
    1.4 (`python -m tests.benchmarks --only penalty` has a limit for it). Elsewhere the multiplication is free, and a
    branch is not. Held by
    `test_cost.py::test_a_large_sum_on_a_cpu_multiplies_by_the_coefficient_only_where_it_is_out_of_range`.
    """

    def inside(c: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(term(c, x))

    def outside(c: jax.Array, x: jax.Array) -> jax.Array:
        total = jnp.sum(term(jnp.ones_like(c), x))
        info = jnp.finfo(total.dtype)
        enough = x.size * float(info.tiny) / float(info.eps)  # what is flushed to 0 is below the rounding
        return jax.lax.cond((total > enough) & (total < info.max), lambda c, x: c * total, inside, c, x)

    return by_device(outside, inside, c, x) if is_large(x) else inside(c, x)


MANY = 64  # so many scalars are added in one loop


@jax.custom_jvp
def total(scalars: Sequence[jax.Array]) -> jax.Array:
    """Return the sum of at least one scalar, all of one dtype.

    XLA for a CPU fuses all that ends in one sum, and takes time in proportion to the square of the number of leaves for
    it. No fusion goes into a loop. Other compilers take linear time as it is. Held by
    `test_cost.py::test_the_penalty_of_many_leaves_has_no_computation_that_grows_with_them`.
    """

    def one_by_one(scalars: Sequence[jax.Array]) -> jax.Array:
        return functools.reduce(operator.add, scalars)

    def by_parts(scalars: Sequence[jax.Array]) -> jax.Array:
        parts = [jnp.stack(scalars[i : i + MANY]) for i in range(0, len(scalars), MANY)]
        return one_by_one([jax.lax.fori_loop(1, len(x), lambda i, y, x=x: y + x[i], x[0]) for x in parts])

    return by_device(by_parts, one_by_one, scalars) if len(scalars) > MANY else one_by_one(scalars)


total.defjvp(lambda primals, tangents: (total(*primals), functools.reduce(operator.add, *tangents)))
