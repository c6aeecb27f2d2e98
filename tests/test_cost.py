"""What holds on every machine: temporaries, bytes accessed, traces, compilations, collectives, the rounding of sums."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxreg
from jaxreg._core import compiler
from tests.benchmarks import programs
from tests.benchmarks.transformations import transformations

# Leaves of one shape are the hard case: the compiler may share, and then keep, what it computes for one of them.
PARAMS = {f"layer_{i}": {"kernel": jax.ShapeDtypeStruct((256, 512), jnp.float32)} for i in range(5)}
SIZE = 5 * 256 * 512 * 4
SMALL = 0.01 * SIZE
ONE_PASS = [
    jaxreg.L1L2(0.1, 0.2),
    jaxreg.L1(0.1) + jaxreg.L2(0.2),
    jaxreg.MCP(0.1, 3.0),
    jaxreg.SCAD(0.1),
    jaxreg.Huber(0.1),
    jaxreg.LogSum(0.1),
]
TWO_BRANCHES = [jaxreg.L1(0.1), jaxreg.L2(0.1)]  # one read, and a second one where the sum is out of range


def _tree(reg: jaxreg.Regularizer) -> jaxreg.TreeRegularizer:
    return jaxreg.TreeRegularizer({"**": reg})


@pytest.mark.parametrize("reg", ONE_PASS + TWO_BRANCHES, ids=str)
def test_the_penalty_of_a_tree_reads_each_weight_once(reg: jaxreg.Regularizer) -> None:
    program = programs.compile_(_tree(reg), PARAMS)
    reads = 2 if reg in TWO_BRANCHES else 1
    assert programs.temporaries(program) <= SMALL
    assert reads * SIZE <= programs.accessed(program) <= reads * SIZE + SMALL


@pytest.mark.parametrize("reg", [jaxreg.L1L2(0.1, 0.2), *TWO_BRANCHES], ids=str)
def test_a_loss_with_the_penalty_inside_has_no_temporary_but_the_gradient(reg: jaxreg.Regularizer) -> None:
    program = programs.compiled_gradient(_tree(reg), PARAMS)
    reads = 2 if reg in TWO_BRANCHES else 1
    assert programs.temporaries(program) <= SMALL
    assert programs.accessed(program) <= (reads + 2) * SIZE + SMALL  # the value, and the gradient read and written


# Bytes accessed beyond those of the plain step, in trees. The compiler computes Adam's two moments in two loops, each
# of which reads the parameters for a coupled penalty; a decoupled one joins the loop that reads them anyway.
EXTRA = {"coupled": 2, "decoupled": 0, "tracked": 3, "proximal L1": 0}


@pytest.mark.parametrize("name", EXTRA)
def test_a_step_of_adam_has_no_more_temporaries_and_reads_the_weights_at_most_so_often(name: str) -> None:
    plain, ours = (programs.compiled_step(transformations()[key], PARAMS) for key in ("plain", name))
    assert programs.temporaries(ours) <= programs.temporaries(plain) + SMALL
    assert programs.accessed(ours) <= programs.accessed(plain) + EXTRA[name] * SIZE + SMALL
    assert " copy(" not in ours.as_text()


@pytest.mark.parametrize("axis", [0, 1])
def test_the_group_lasso_in_the_metric_of_adam_keeps_three_arrays_of_one_leaf_at_a_time(axis: int) -> None:
    """The point and the steps, and the next leaf's point: memory is used again, whatever the number of leaves."""
    group = jaxreg.proximal_adam(1e-3, jaxreg.Group(jaxreg.L1(0.1), axis=axis))
    plain, ours = (programs.compiled_step(step, PARAMS) for step in (optax.adam(1e-3), group))
    assert programs.temporaries(ours) <= programs.temporaries(plain) + 3 * SIZE / len(PARAMS) + SMALL


@pytest.mark.parametrize("program", ["value", "gradient", "prox", "proximal_adam"])
def test_groups_across_leaves_cost_what_those_of_one_leaf_do(program: str) -> None:
    """The sums over the leaves add: nothing is copied into one matrix, and no axis is moved."""
    sizes = {"inputs": (512, 1024), "bias": (1024,), "outputs": (1024, 512)}
    several = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}
    one = {"all": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
    joint = jaxreg.JointGroup(jaxreg.L1(0.1), {"inputs": 1, "bias": 0, "outputs": 0})
    costs = []
    alone = jaxreg.TreeRegularizer({"all": jaxreg.Group(jaxreg.L1(0.1), axis=1)})
    for reg, params in ((joint, several), (alone, one)):
        if program == "proximal_adam":
            compiled = programs.compiled_step(jaxreg.proximal_adam(1e-3, reg), params)
        else:
            call = {"value": reg, "gradient": jax.grad(reg), "prox": functools.partial(reg.prox, step=0.1)}[program]
            compiled = programs.compile_(call, params)
        costs.append((programs.accessed(compiled), programs.temporaries(compiled)))
    (bytes_of_several, temporaries_of_several), (bytes_of_one, temporaries_of_one) = costs
    assert bytes_of_several <= 1.05 * bytes_of_one
    assert temporaries_of_several <= temporaries_of_one + SMALL + 16 * 1024 * 4  # and a few numbers for each unit


def test_the_penalty_of_many_leaves_has_no_computation_that_grows_with_them() -> None:
    """On a CPU: what is fused into one takes the compiler time in proportion to its square. A leaf has two sums."""
    leaves = [jax.ShapeDtypeStruct((4 + i % 5, 8), jnp.float32) for i in range(3 * compiler.MANY)]
    for function in (_tree(jaxreg.L1L2(0.1, 0.2)), jax.value_and_grad(_tree(jaxreg.L1L2(0.1, 0.2)))):
        computations = programs.compile_(function, leaves).as_text().split("\n}\n")
        assert max(text.count(" reduce(") for text in computations) <= 2 * compiler.MANY


def test_a_step_of_sgd_costs_what_the_plain_one_costs() -> None:
    regularized = optax.chain(jaxreg.add_regularization(jaxreg.L1L2(0.1, 0.2)), optax.sgd(0.1))
    plain, ours = (programs.compiled_step(tx, PARAMS) for tx in (optax.sgd(0.1), regularized))
    assert programs.temporaries(ours) <= programs.temporaries(plain) + SMALL
    assert programs.accessed(ours) <= programs.accessed(plain) + SMALL


def test_tracking_changes_no_update() -> None:
    params, grads = {"w": jnp.array([1.0, -2.0, 0.0, jnp.nan])}, {"w": jnp.array([0.5, 0.5, -0.0, 1.0])}
    updates = []
    for track in (False, True):
        tx = jaxreg.add_regularization(jaxreg.L1L2(0.1, 0.2), track=track)
        updates.append(jax.jit(tx.update)(grads, tx.init(params), params)[0]["w"])
    np.testing.assert_array_equal(*updates)


@pytest.mark.parametrize(
    ("reg", "shape", "side"),
    [
        (jaxreg.SoftOrthogonal(0.1), (256, 1024), 256),
        (jaxreg.SoftOrthogonal(0.1), (1024, 256), 256),
        (jaxreg.OrthogonalRegularizer(0.1), (256, 1024), 256),
        (jaxreg.OrthogonalRegularizer(0.1, mode="columns"), (1024, 256), 256),
    ],
    ids=str,
)
def test_a_gram_matrix_costs_one_product_and_its_gradient_one_more(
    reg: jaxreg.Regularizer, shape: tuple[int, int], side: int
) -> None:
    w = jax.ShapeDtypeStruct(shape, jnp.float32)
    product = 2 * side * shape[0] * shape[1]
    for loss, products in ((reg, 1), (jax.value_and_grad(reg), 2)):
        assert products * product <= programs.flops(programs.compile_(loss, w)) <= (products + 0.1) * product


@pytest.mark.parametrize("reg", [jaxreg.Spectral(jaxreg.L1(0.1)), jaxreg.SpectralNorm(0.1)], ids=str)
def test_a_penalty_of_singular_values_and_its_gradient_take_one_decomposition(reg: jaxreg.Regularizer) -> None:
    w = jax.ShapeDtypeStruct((20, 30), jnp.float32)
    for function in (reg, jax.value_and_grad(reg), reg.prox):
        assert programs.compile_(function, w).as_text().count("gesdd") == 1


def reductions(function: Any, platform: str, shape: tuple[int, ...]) -> int:
    """The sums over arrays of this shape in the program that is given to the compiler of a platform."""
    lowered = jax.jit(function).trace(jax.ShapeDtypeStruct(shape, jnp.float32)).lower(lowering_platforms=(platform,))
    whole = "x".join(map(str, shape))
    return sum(
        "stablehlo.reduce(" in line and f"(tensor<{whole}xf32>" in line for line in lowered.as_text().splitlines()
    )


def test_what_depends_on_the_device_is_decided_where_the_program_is_lowered() -> None:
    """Norms are three sums in one read on a TPU and a GPU, two reads on a CPU, and none of them has a branch."""
    group = jaxreg.Group(jaxreg.L1(0.1))
    assert {name: reductions(group, name, (64, 48)) for name in ("cpu", "tpu", "cuda")} == {
        "cpu": 2,
        "tpu": 3,
        "cuda": 3,
    }


@pytest.mark.parametrize(
    "function",
    [jaxreg.Spectral(jaxreg.L1(0.1)), jaxreg.Spectral(jaxreg.L1(0.1)).prox, jaxreg.SpectralBall(1.0).prox],
    ids=["Spectral", "Spectral.prox", "SpectralBall.prox"],
)
def test_large_spectra_on_a_tpu_are_products_of_matrices(function: Any) -> None:
    """However the process runs that lowers the program; below 256, and on a CPU, they are a decomposition."""

    def decomposed(size: int, platform: str) -> bool:
        x = jax.ShapeDtypeStruct((size, size), jnp.float32)
        return "svd" in jax.jit(function).trace(x).lower(lowering_platforms=(platform,)).as_text()

    assert [decomposed(256, "tpu"), decomposed(255, "tpu"), decomposed(256, "cpu")] == [False, True, True]


@pytest.mark.parametrize("reg", [jaxreg.TopK(0.3), jaxreg.TopK(3, axis=0), jaxreg.NofM(2, 4)], ids=repr)
def test_what_stays_is_found_without_a_sort(reg: jaxreg.Regularizer) -> None:
    x = jax.ShapeDtypeStruct((64, 48), jnp.float32)
    lowered = jax.jit(lambda x: reg.prox(x)).trace(x)
    for platform in ("cpu", "tpu", "cuda"):
        text = lowered.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.sort" not in text and "top_k" not in text
    if isinstance(reg, jaxreg.NofM):  # one read and one write
        assert programs.temporaries(programs.compile_(lambda x: reg.prox(x), jnp.ones((64, 48)))) == 0


# ------------------------------------------------------------------------------------------- traces and compilations


@pytest.mark.parametrize("reg", TWO_BRANCHES, ids=repr)
def test_a_large_sum_on_a_cpu_multiplies_by_the_coefficient_only_where_it_is_out_of_range(
    reg: jaxreg.Regularizer,
) -> None:
    def branches(size: int) -> int:
        return jax.jit(reg.__call__).lower(jnp.ones(size)).compile().as_text().count(" conditional(")

    assert (branches(1 << 15), branches(1 << 16)) == (0, 1)


@pytest.fixture
def counted() -> Any:
    """A class of this test alone, so that JAX has no trace of it yet, and the shapes it was traced with."""
    traces: list[tuple[int, ...]] = []

    class Counted(jaxreg.Regularizer):
        strength: float = 0.1

        def __call__(self, x):
            traces.append(jnp.shape(x))
            return self.strength * jnp.sum(x**2)

    return Counted, traces


def test_a_tree_is_traced_once_for_each_shape_of_a_leaf(counted: Any) -> None:
    Counted, traces = counted
    params = {str(i): jnp.ones((2 + i % 3, 4)) for i in range(60)}
    jax.jit(_tree(Counted()))(params)
    assert sorted(traces) == [(2, 4), (3, 4), (4, 4)]


def test_other_strengths_of_other_objects_trace_nothing_again(counted: Any) -> None:
    Counted, traces = counted
    x = jnp.ones((3, 3))
    loss = jax.jit(lambda reg, x: reg(x))
    for strength in (0.1, 2, np.float32(0.3)):
        Counted(strength)(x)
        _tree(Counted(strength))({"w": x})
        loss(Counted(float(strength)), x)
    assert traces == [(3, 3)]


def test_a_schedule_of_the_strength_traces_once(counted: Any) -> None:
    Counted, traces = counted
    tx = optax.chain(jaxreg.add_regularization(lambda step: Counted(0.1 * step)), optax.sgd(0.1))
    params = {"w": jnp.ones((3, 3))}
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(5):
        _, state = update(params, state, params)
    assert len(traces) == 1 and update._cache_size() == 1


def test_the_size_of_the_program_is_that_of_the_same_sums_written_by_hand() -> None:
    params = {str(i): jax.ShapeDtypeStruct((4, 4 + i % 5), jnp.float32) for i in range(50)}

    def by_hand(params):
        return sum(jnp.sum(0.1 * jnp.abs(x)) + jnp.sum(0.2 * jnp.square(x)) for x in params.values())

    ours, theirs = (
        sum(line.count("fusion(") for line in programs.compile_(loss, params).as_text().splitlines())
        for loss in (_tree(jaxreg.L1L2(0.1, 0.2)), by_hand)
    )
    assert ours <= theirs


# --------------------------------------------------------------------------------------------------------- collectives


@pytest.mark.parametrize(("reg", "count"), [(jaxreg.L1L2(0.1, 0.2), 1), (jaxreg.L2(0.1), 2)], ids=["L1L2", "L2"])
def test_a_sharded_leaf_costs_one_sum_of_scalars(reg: jaxreg.Regularizer, count: int) -> None:
    """L2 has a second one in the branch for sums that are out of range."""
    mesh = jax.make_mesh((8,), ("data",))
    x = jax.device_put(jnp.full((1024, 128), 2.0), NamedSharding(mesh, PartitionSpec("data")))
    program = programs.compile_(lambda x: jax.value_and_grad(reg)(x), x)
    text = program.as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == count
    assert not [name for name in ("all-gather", "all-to-all", "collective-permute") if name in text]
    assert float(program(x)[0]) == pytest.approx(float(reg(np.asarray(x))), rel=1e-6)


# ------------------------------------------------------------------------------------------------------ rounding, range

SUMS = [
    (jaxreg.L1(0.3), 0.3, 0.0),
    (jaxreg.L2(0.7), 0.0, 0.7),
    (jaxreg.L1L2(0.3, 0.7), 0.3, 0.7),
]


def _close_to_float64(size: int, dtype: jnp.dtype, rel: float) -> None:
    stored = np.random.default_rng(0).random(size, np.float32).astype(dtype)
    wide = stored.astype(np.float64)
    absolute, square = wide.sum(), np.dot(wide, wide)
    del wide
    x = jnp.asarray(stored)
    for reg, l1, l2 in SUMS:
        for value in (reg(x), jax.jit(lambda reg, x: jax.value_and_grad(reg)(x)[0])(reg, x)):
            assert value.dtype == jnp.float32
            assert float(value) == pytest.approx(l1 * absolute + l2 * square, rel=rel)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_sums_of_a_million_entries_are_those_of_float64(dtype: jnp.dtype) -> None:
    _close_to_float64(10**6, dtype, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_sums_of_a_hundred_million_entries_are_those_of_float64(dtype: jnp.dtype) -> None:
    _close_to_float64(10**8, dtype, 1e-6)


@pytest.mark.parametrize(
    ("reg", "entry", "value"),
    [
        (jaxreg.L2(1e-10), 1e20, 1e30),  # the sum of squares is more than float32 holds
        (jaxreg.L2(1e20), 1e-20, 1e-20),  # and here less
        (jaxreg.L2(0.0), 1e30, 0.0),
        (jaxreg.L1(1e-10), 3e38, 3e28),
        (jaxreg.L1L2(1e-10, 1e-10), 1e20, 1e30),
        (jaxreg.L1L2(1.0, 0.0), 1e30, 1e30),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [2**10, 2**17], ids=["small", "large"])
def test_a_large_leaf_neither_overflows_nor_vanishes_on_the_way(
    reg: jaxreg.Regularizer, entry: float, value: float, size: int
) -> None:
    x = jnp.full((4, size // 4), entry, jnp.float32)
    expected = pytest.approx(size * value, rel=1e-5)
    assert float(reg(x)) == expected
    np.testing.assert_allclose(jax.vmap(reg)(x), size / 4 * value, rtol=1e-5)
    assert float(jax.jit(jax.value_and_grad(reg))(x)[0]) == expected
    assert np.isnan(reg(x.at[0, 0].set(jnp.nan)))


# ------------------------------------------------------------------------------------------- structures in each other


class Counted(jaxreg.Regularizer):
    """Half the square, whose proximal operator counts how often a program runs it."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.sum(x**2) / 2

    def prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: RUNS.append(1))
        return z / (1 + step)


RUNS: list[int] = []


def _multiples(reg: jaxreg.Regularizer, depth: int) -> jaxreg.Regularizer:
    for _ in range(depth):
        reg = jaxreg.Scaled(2.0, reg)
    return reg


def test_multiples_of_multiples_run_the_operator_inside_once() -> None:
    reg, z = _multiples(Counted(), 6), jnp.array([65.0, -130.0])
    RUNS.clear()
    np.testing.assert_allclose(jax.jit(reg.prox)(z), [1.0, -2.0])
    jax.effects_barrier()
    assert len(RUNS) == 1


def test_the_gradient_of_multiples_of_multiples_is_one_loop_over_their_factors() -> None:
    x = jnp.array([0.5, -3.0])
    np.testing.assert_allclose(jax.grad(_multiples(jaxreg.L2(1.0), 3))(x), 16 * x)
    shallow, deep = (jax.jit(jax.grad(_multiples(jaxreg.L2(1.0), n))).lower(x).as_text() for n in (20, 60))
    assert deep.count("stablehlo.multiply") == shallow.count("stablehlo.multiply")
    assert deep.count("stablehlo.select") == shallow.count("stablehlo.select")
