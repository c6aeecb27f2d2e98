"""Groups of any profile in Adam's metric on a CPU: large leaves, whose sums take two passes, beside parts of them.

Groups do not know of each other: a part of a large leaf, too small for the two passes, has the same iterates.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreg
from jaxreg._optax import adam_newton_cpu
from tests.benchmarks import programs

MCP, L2 = jaxreg.MCP(20.0, 3.0), jaxreg.L2(0.01)
REGS: dict[str, Any] = {
    "columns": jaxreg.Group(MCP, axis=0),
    "rows": jaxreg.Group(MCP, axis=1),
    "SCAD": jaxreg.Group(jaxreg.SCAD(20.0, 3.7), axis=0),
    "LogSum": jaxreg.Group(jaxreg.LogSum(20.0, 1.0), axis=0),
    "L0": jaxreg.Group(jaxreg.L0(300.0), axis=0),
    "Lq": jaxreg.Group(jaxreg.Lq(40.0, 0.5), axis=0),
    "Huber": jaxreg.Group(jaxreg.Huber(20.0, 0.5), axis=0),
    "sparse": jaxreg.Group(MCP, axis=0) + jaxreg.L1(0.02),
    "elastic": jaxreg.Group(MCP, axis=1) + L2,
    "weighted": jaxreg.Group(MCP, axis=0, weight="sqrt_size") * 0.03,
    "units": jaxreg.JointGroup(jaxreg.MCP(30.0, 3.0), {"a": 1, "b": 0}),
}


def tree(name: str, part: bool) -> Any:
    """A leaf of (1024, 96) or (96, 1024), whose every third group is pulled to 0; or eight of its groups."""
    rng = np.random.default_rng(0)
    large = {"a": rng.normal(0, 0.3, (1024, 96)).astype(np.float32)}
    if name in ("rows", "elastic"):
        large = {"a": np.ascontiguousarray(large["a"].T)}
    if name == "units":
        large["b"] = rng.normal(0, 0.3, (96, 800)).astype(np.float32)
    return taken(name, large) if part else large


def taken(name: str, leaves: Any) -> Any:
    of_rows = {"a": name in ("rows", "elastic"), "b": True}
    return {leaf: x[:8] if of_rows[leaf] else x[:, :8] for leaf, x in leaves.items()}


def trained(name: str, part: bool, strength: Any = 1.0, rate: Any = 0.03, steps: int = 30, **options: Any) -> Any:
    params = tree(name, part)
    pulled = {"a": 1 if name in ("rows", "elastic") else 0, "b": 1}

    def gradient(p: Any) -> Any:
        """Of ½|p − t|², t small for each third group, with a curvature that differs from entry to entry."""

        def of_leaf(leaf: str, p: jax.Array) -> jax.Array:
            groups = jnp.arange(p.shape[1 - pulled[leaf]]) % 3 == 0
            target = params[leaf] * jnp.expand_dims(jnp.where(groups, 0.002, 1.5), pulled[leaf])
            return (p - target) * (1 + jnp.abs(params[leaf]))

        return {leaf: of_leaf(leaf, x) for leaf, x in p.items()}

    tx = jaxreg.proximal_adam(rate, strength * REGS[name], **options)

    def step(carry: Any, _: Any) -> Any:
        p, state = carry
        updates, state = tx.update(gradient(p), state, p)
        return (optax.apply_updates(p, updates), state), None

    params = jax.tree.map(jnp.asarray, params)
    # JAX differentiates a scan again and again, until no more of what it carries depends on the strength.
    carry = jax.tree.map(lambda x: x + 0 * strength if x.dtype == jnp.float32 else x, (params, tx.init(params)))
    return jax.lax.scan(step, carry, length=steps)[0]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    jax.clear_caches()  # nothing traced before is used

    def sums(*args: Any, own: Any = adam_newton_cpu.sums) -> Any:
        found.append(args)
        return own(*args)

    monkeypatch.setattr(adam_newton_cpu, "sums", sums)
    return found


def close(found: Any, expected: Any) -> None:
    for leaf, x in expected.items():
        np.testing.assert_allclose(found[leaf], x, rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(np.asarray(found[leaf]) == 0, np.asarray(x) == 0)


@pytest.mark.parametrize("name", REGS)
def test_iterates_are_those_of_a_part(name: str, calls: list[Any]) -> None:
    params, state = jax.jit(lambda: trained(name, part=False))()
    assert calls
    calls.clear()
    of_part, its_state = jax.jit(lambda: trained(name, part=True))()
    assert not calls
    close(taken(name, params), of_part)
    norms = np.asarray(jax.tree.leaves(state.norms)[0]).ravel()
    np.testing.assert_allclose(norms[:8], np.ravel(jax.tree.leaves(its_state.norms)[0]), rtol=2e-4, atol=1e-5)
    if name not in ("Huber", "elastic"):
        assert 0 < (norms == 0).sum() < norms.size


def test_with_a_largest_step_and_with_none(calls: list[Any]) -> None:
    for largest in (0.05, 0.0):
        (params, _), (of_part, _) = (
            jax.jit(lambda part=part, largest=largest: trained("columns", part, max_step=largest))()
            for part in (False, True)
        )
        close(taken("columns", params), of_part)
    assert calls


def test_a_rate_of_0_moves_nothing() -> None:
    params, _ = jax.jit(lambda: trained("columns", part=False, rate=0.0))()
    np.testing.assert_array_equal(params["a"], tree("columns", part=False)["a"])


@pytest.mark.parametrize(("name", "forwards"), [("columns", False), ("rows", True)])
def test_derivatives_in_the_strength(name: str, forwards: bool) -> None:
    """Through two steps; each beside a part, forwards."""

    def loss(strength: Any, part: bool = False) -> jax.Array:
        params, _ = trained(name, part, strength, steps=2)
        return jnp.sum(taken(name, params)["a"] ** 2)

    expected = jax.jit(jax.jacfwd(lambda strength: loss(strength, part=True)))(1.0)
    found = jax.jit(jax.jacfwd(loss) if forwards else jax.grad(loss))(1.0)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert expected < -1e-2


@pytest.mark.parametrize("name", ["columns", "rows"])
def test_a_derivative_is_no_program_of_sixteen_slices(name: str) -> None:
    """5.4 times as long, and six times as long to compile, where each of the sixteen slices has derivatives; now 3."""

    def lines(part: bool) -> int:
        def loss(strength: Any) -> jax.Array:
            tx = jaxreg.proximal_adam(0.03, strength * REGS[name])
            params = tree(name, part)
            return jnp.sum(tx.update(params, tx.init(params), params)[0]["a"] ** 2)

        return len(jax.jit(jax.grad(loss)).lower(1.0).as_text().splitlines())

    assert lines(part=False) < 4 * lines(part=True)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_step_keeps_little_beside_a_copy_of_what_is_donated(axis: int) -> None:
    """The moments are donated; the sums of windows, two floats for sixteen entries, and one array."""
    params = {"a": jnp.ones((1024, 1024))}
    tx = jaxreg.proximal_adam(0.1, jaxreg.Group(MCP, axis=axis))
    program = programs.compiled_step(tx, params)
    assert programs.temporaries(program) <= 1.3 * params["a"].nbytes
