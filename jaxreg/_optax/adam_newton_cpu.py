"""One Newton step for groups of any profile in Adam's own metric, on a CPU: its three sums in two passes.

The compiler for CPUs makes a loop of its own of each sum, and keeps what they have in common in the memory. Here each
pass makes z and τ anew of the moments: one for the two sums of the tangent, one for the pull on groups.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import compiler
from jaxreg._core.partition import Arrays
from jaxreg._core.sums_on_gpu import Three
from jaxreg._core.two_sums import Plans
from jaxreg._optax import adam_groups_cpu
from jaxreg._optax.groups import Grouped, SumsOf
from jaxreg._optax.metrics import PULL
from jaxreg._optax.newton_sums import OfGroups, inverse, share, terms


def sums(form: Grouped, how: Plans, numbers: Any, p: Arrays, r: jax.Array, m: Arrays, v: Arrays) -> SumsOf:
    """The sums that `Grouped.one_step` takes; r are the norms of p, `numbers` as in `adam_groups.py`."""
    bound = jnp.minimum(form.slope_over(r) * (1 / PULL), float(jnp.finfo(r.dtype).max))
    given = bound, r, numbers, adam_groups_cpu.beside(form, p), p, m, v
    bound, r, numbers, *of_arrays = jax.lax.stop_gradient(given)  # `one_step` has the derivatives, of the whole arrays
    second = jnp.broadcast_to(jnp.asarray(numbers.second, r.dtype), r.shape)

    def of_terms(beside: Any, p: Any, m: Any, v: Any, bound: Any, second: Any, *of_groups: Any) -> Three:
        z, divisor = adam_groups_cpu.metric(numbers._replace(second=second), beside, p, m, v, bound)
        per_tau = inverse(jnp.asarray(numbers.eta, p.dtype) / divisor)
        least = jnp.abs(z) * (per_tau * share(p.dtype))  # not of x: the compiler would keep that in the memory
        return terms(jnp.abs(z) * per_tau, least, per_tau, OfGroups(*of_groups))

    def tangent(*args: Any) -> tuple[jax.Array, jax.Array]:
        return of_terms(*args)[:2]

    def pull(*args: Any) -> tuple[jax.Array, jax.Array]:
        of_entries = of_terms(*args)[2]
        return of_entries, of_entries

    def three(of_groups: OfGroups) -> Three:
        def one_pass(pair: Any, after: jax.Array) -> Any:
            again = compiler.read_again(after, (bound, second))
            return adam_groups_cpu.sums(form.where, how, pair, (*again, *of_groups), of_arrays)

        third, weighted = one_pass(tangent, r)
        pull_of_groups, _ = one_pass(pull, third)
        return third, weighted, pull_of_groups

    return three
