"""What a sharded penalty may cost: the collectives of the compiled program, read from its text."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxreg
from tests.benchmarks import programs
from tests.cases import label

pytestmark = pytest.mark.wide  # every penalty on every mesh

_COLLECTIVE = re.compile(
    r" = (\([^)]*\)|\S+) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)"
    r"(?:-start)?\("
)
_SHAPE = re.compile(r"\w+\[([\d,]*)\]")


def collectives(function: Callable[..., Any], *args: Any) -> list[tuple[str, list[int]]]:
    """The collectives of the compiled program, each with the sizes of the arrays that one device gets from it."""
    text = programs.compile_(function, *args).as_text()
    return [
        (name, [math.prod(int(n) for n in dims.split(",") if n) for dims in _SHAPE.findall(shapes)])
        for shapes, name in _COLLECTIVE.findall(text)
    ]


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def mesh(request: pytest.FixtureRequest) -> Iterator[jax.sharding.Mesh]:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(request.param,) * 2)
    with jax.set_mesh(mesh):
        yield mesh


ELEMENTWISE = (
    jaxreg.L1(0.3),
    jaxreg.L2(0.3),
    jaxreg.L1L2(0.3, 0.2),
    jaxreg.L0(0.3),
    jaxreg.Lq(0.3),
    jaxreg.LogSum(0.3, 0.2),
    jaxreg.MCP(0.5, 2.0),
    jaxreg.SCAD(0.5, 3.0),
    jaxreg.Huber(0.3, 0.5),
    2 * jaxreg.L1(0.3) + jaxreg.L2(0.1),
)
RULES = jaxreg.TreeRegularizer([(f"{i}/*", reg) for i, reg in enumerate(ELEMENTWISE)])


def tree(mesh: jax.sharding.Mesh, size: int = 1, layers: int = len(ELEMENTWISE)) -> Any:
    kernel, bias = NamedSharding(mesh, P("data", "model")), NamedSharding(mesh, P("model"))
    return {
        str(i): {
            "kernel": jax.device_put(jnp.full((16 * size, 8 * size), i + 1.0), kernel),
            "bias": jax.device_put(jnp.full(16 * size, i + 1.0), bias),
        }
        for i in range(layers)
    }


def test_the_reader_sees_collectives(mesh: jax.sharding.Mesh) -> None:
    x = tree(mesh)["0"]["kernel"]
    gathered = jax.jit(lambda x: 2 * x, out_shardings=NamedSharding(mesh, P()))
    assert {name for name, _ in collectives(gathered, x)} == {"all-gather"}
    assert collectives(lambda x: x.sum(0), x) == [("all-reduce", [2])]


def test_a_tree_of_elementwise_penalties_costs_scalars(mesh: jax.sharding.Mesh) -> None:
    """One combined all-reduce of scalars for each axis of the mesh, whatever the leaves' sizes and their number."""
    for size, layers in ((1, 10), (4, 10)):
        found = collectives(jax.value_and_grad(RULES), tree(mesh, size, layers))
        assert {name for name, _ in found} == {"all-reduce"} and len(found) <= 2
        assert all(set(sizes) == {1} for _, sizes in found)
        assert sum(len(sizes) for _, sizes in found) <= 2 * 2 * layers + 4  # a kernel counts for both axes
    assert collectives(jax.grad(RULES), tree(mesh)) == []


def test_a_tree_ten_times_as_long_has_as_many_collectives(mesh: jax.sharding.Mesh) -> None:
    reg = jaxreg.TreeRegularizer({"**": jaxreg.L1L2(0.3, 0.1)})
    few, many = (collectives(reg, tree(mesh, layers=layers)) for layers in (2, 20))
    assert len(few) == len(many) <= 2


@pytest.mark.parametrize(
    "reg", [RULES, RULES.anchored({str(i): {"kernel": jnp.ones((16, 8)), "bias": jnp.ones(16)} for i in range(10)})],
    ids=["penalties", "anchored"],
)  # fmt: skip
def test_steps_of_elementwise_penalties_cost_nothing(reg: Any, mesh: jax.sharding.Mesh) -> None:
    params = tree(mesh)
    assert collectives(lambda tree: reg.prox(tree, 0.1), params) == []
    for tx in (
        optax.chain(jaxreg.add_regularization(reg), optax.adam(0.1)),
        jaxreg.proximal(optax.adam(0.1), reg, 0.1),
    ):
        assert collectives(tx.update, params, tx.init(params), params) == []


def test_steps_in_the_metric_of_adam_cost_nothing(mesh: jax.sharding.Mesh) -> None:
    params = tree(mesh, layers=2)
    tx = jaxreg.proximal_adam(0.1, jaxreg.TreeRegularizer({"0/*": jaxreg.L1(0.3), "1/*": jaxreg.LogSum(0.3, 0.2)}))
    assert collectives(tx.update, params, tx.init(params), params) == []


GROUPS = {0: 4, 1: 16}  # groups by axis: those of one device, of (32, 16) entries on 2 by 4 devices


@pytest.mark.parametrize("axis", GROUPS)
@pytest.mark.parametrize("profile", [jaxreg.L1(0.3), jaxreg.MCP(0.5, 2.0)], ids=label)
def test_groups_cost_their_norms(profile: Any, axis: int, mesh: jax.sharding.Mesh) -> None:
    """The norms of this device's groups: the largest entries (so that no square overflows) and the sums of squares."""
    x = jax.device_put(jnp.ones((32, 16)), NamedSharding(mesh, P("data", "model")))
    reg = jaxreg.L1(0.1) + jaxreg.Group(profile, axis=axis)
    for function, times in ((reg, 2), (jax.grad(reg), 4), (lambda x: reg.prox(x, 0.1), 2)):
        found = collectives(function, x)
        assert {name for name, _ in found} == {"all-reduce"}
        sizes = [size for _, sizes in found for size in sizes]
        assert set(sizes) <= {1, GROUPS[axis]} and sizes.count(GROUPS[axis]) <= times
    whole = jax.device_put(jnp.ones((32, 16)), NamedSharding(mesh, P("data") if axis else P(None, "model")))
    assert collectives(lambda x: reg.prox(x, 0.1), whole) == []  # no group is divided


def test_groups_in_the_metric_of_adam(mesh: jax.sharding.Mesh) -> None:
    """Two Newton steps in the program, each one all-reduce of two sums, the second one in a loop that runs on while it
    must, and one bit whether it does; what the figures of notebook 08 are worked out with."""
    x = jax.device_put(jnp.ones((32, 16)), NamedSharding(mesh, P("data", "model")))
    params, tx = {"kernel": x}, jaxreg.proximal_adam(0.1, jaxreg.Group(jaxreg.L1(0.3), axis=0))
    found = collectives(tx.update, params, tx.init(params), params)
    assert {name for name, _ in found} == {"all-reduce"} and len(found) <= 7
    assert sum(sum(sizes) for _, sizes in found) <= 11 * GROUPS[0] + 1


M, N = 32, 16
GATHERS = (
    (jaxreg.Spectral(jaxreg.L1(0.3)), 2),
    (jaxreg.SpectralNorm(0.3), 2),
    (jaxreg.SpectralBall(1.0), 2),
    (jaxreg.Rank(3), 2),
    (jaxreg.SoftOrthogonal(0.3), 2),
)


@pytest.mark.parametrize(("reg", "times"), GATHERS, ids=label)
def test_what_gathers_says_so_and_gathers_no_more(reg: Any, times: int, mesh: jax.sharding.Mesh) -> None:
    """Twice the matrix at most: one axis of the mesh after the other."""
    x = jax.device_put(jnp.ones((M, N)), NamedSharding(mesh, P("data", "model")))
    received = sum(sum(sizes) for _, sizes in collectives(lambda x: reg.prox(x, 0.1), x))
    assert M * N <= received <= times * M * N
    assert re.search(r"sharded.*gather.*bytes", type(reg).__doc__ or "", re.DOTALL)


@pytest.mark.parametrize("axis", [None, 0], ids=["whole", "columns"])
def test_projections_by_a_threshold_reduce_numbers_of_groups(axis: int | None, mesh: jax.sharding.Mesh) -> None:
    x = jax.device_put(jnp.ones((M, N)), NamedSharding(mesh, P("data", "model")))
    for reg in (jaxreg.Simplex(axis=axis), jaxreg.L1Ball(3.0, axis=axis), jaxreg.TopK(0.3, axis=axis)):
        found = collectives(lambda x, reg=reg: reg.prox(x, 0.1), x)
        assert {name for name, _ in found} == {"all-reduce"}
        assert {size for _, sizes in found for size in sizes} <= {1, N // 4}
        assert re.search(r"sharded.*all-reduce", type(reg).__doc__ or "", re.DOTALL)


@pytest.mark.parametrize("mode", ["rows", "columns"])
def test_orthogonality_gathers_one_factor_and_reduces_the_gram_matrix(mode: str, mesh: jax.sharding.Mesh) -> None:
    reg = jaxreg.OrthogonalRegularizer(0.3, mode)
    x = jax.device_put(jnp.ones((M, N)), NamedSharding(mesh, P("data", "model")))
    n = M if mode == "rows" else N
    assert sum(sum(sizes) for _, sizes in collectives(reg, x)) <= M * N + n * n + 4 * n
    assert "sharded" in (jaxreg.OrthogonalRegularizer.__doc__ or "")


def test_layers_of_a_stack_stay_where_they_are(mesh: jax.sharding.Mesh) -> None:
    """Sharded by layer, even the singular values need no gather: one scalar at the end."""
    x = jax.device_put(jnp.ones((8, 4, 4)), NamedSharding(mesh, P(("data", "model"))))
    spectral = jaxreg.Stacked(jaxreg.Spectral(jaxreg.L1(0.3)), axes=(0,))
    for reg in (spectral, jaxreg.Stacked(jaxreg.OrthogonalRegularizer(0.3), axes=(0,))):
        found = collectives(reg, x)
        assert [name for name, _ in found] == ["all-reduce"] * len(found)
        assert all(set(sizes) == {1} for _, sizes in found)
    assert collectives(lambda x: spectral.prox(x, 0.1), x) == []


def test_blocks_exchange_what_is_at_the_edges(mesh: jax.sharding.Mesh) -> None:
    """m − 1 rows up and as many down, in one shift for each distance."""
    x = jax.device_put(jnp.ones((M, N)), NamedSharding(mesh, P("data", "model")))
    found = collectives(lambda x: jaxreg.NofM(2, 4).prox(x), x)
    assert {name for name, _ in found} == {"collective-permute"}
    assert sum(sum(sizes) for _, sizes in found) <= 2 * (1 + 2 + 3) * N // 4
    whole = jax.device_put(jnp.ones((M, N)), NamedSharding(mesh, P(None, "model")))
    assert collectives(lambda x: jaxreg.NofM(2, 4).prox(x), whole) == []


def test_differences_exchange_one_row(mesh: jax.sharding.Mesh) -> None:
    x = jax.device_put(jnp.ones((M, N)), NamedSharding(mesh, P("data", "model")))
    found = collectives(jaxreg.Difference(jaxreg.L1(0.3), axis=0), x)
    assert sum(sum(sizes) for name, sizes in found if name == "collective-permute") == N // 4
    assert all(set(sizes) == {1} for name, sizes in found if name != "collective-permute")
