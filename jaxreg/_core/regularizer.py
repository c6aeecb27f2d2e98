"""Regularizer: the penalty of an array, its subgradient, its proximal operator, its config; sums and multiples."""

import abc
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Self, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, codec, composition, majorizer, multiples, numerics, sums
from jaxreg._core.entry import compiled_penalty, compiled_prox
from jaxreg._core.operators import Operators, adds
from jaxreg._core.struct import Struct, coefficient, static
from jaxreg._core.structure import Form, Groups, Parts, Reach, Scalar, ScalarSum, without_l2


class Regularizer(Operators, Form, Struct, abc.ABC):
    """Penalize an array: the base class of every regularizer, and of your own.

    Subclassing is enough: annotated fields become the constructor, the pytree and the config; `__call__` and `prox`
    are jitted. A field is a leaf (a number that is traced, differentiated, stacked) unless it is declared by
    `jaxreg.static`. Classes are immutable: write no `__init__`.

    `jax.jit` traces a regularizer among its arguments once for all strengths. `eqx.filter_jit` takes numbers of Python
    for constants and traces again for each: give it an array there, `jaxreg.L1(jnp.asarray(0.1))`.

    `__call__` sees its array in the dtype of accumulation (float32 for float16, bfloat16, float8, integers and bool;
    float32, float64 and complex as they are) and returns a scalar; gradients come back in the dtype of the argument.

    Raises:
        TypeError: the argument is not one numeric array, or a coefficient is not a number.
        ValueError: the result is not a scalar, or a coefficient is negative, nan or inf.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> class Quartic(jaxreg.Regularizer):
        ...     strength: float = 0.1
        ...
        ...     def __call__(self, x):
        ...         return self.strength * jnp.sum(x**4)
        >>> Quartic(0.5)
        Quartic(strength=0.5)
        >>> float(Quartic(0.5)(jnp.ones((2, 3))))
        3.0
        >>> jax.tree.leaves(Quartic(0.5))
        [0.5]
    """

    def __init_subclass__(cls, promoted: bool = True, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        methods: dict[str, Any] = {}
        if "__call__" in cls.__dict__:
            methods["__call__"] = compiled_penalty(cls, cls.__call__, promoted)
            owner = next(base for base in cls.__mro__ if "prox" in base.__dict__)
            if owner is not cls and not inspect.isabstract(owner):
                methods["prox"] = Regularizer.prox  # the inherited one is that of another penalty
        if "prox" in cls.__dict__ and cls.prox is not Regularizer.prox:
            methods["prox"] = compiled_prox(cls, cls.prox)
        for name, method in methods.items():
            setattr(cls, name, method)

    @abc.abstractmethod
    def __call__(self, x: ArrayLike) -> jax.Array:
        """Return the penalty of `x`, a scalar."""

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        """Return the proximal operator at `z`.

            argmin_w step·R(w) + ½‖w − z‖²                          for a scalar step
            argmin_w R(w) + ½ Σ_i (w_i − z_i)²/step_i               for a step of the shape of z

        Args:
            z: an array of any floating dtype; the result has the same.
            step: a non-negative number, or an array of the shape of `z` (a diagonal metric).

        Raises:
            NotImplementedError: there is no exact answer; the message says what to use instead.
        """
        del z, step
        raise NotImplementedError(
            f"`{checks.short(self)}` has no proximal operator in closed form. Put its gradient into the loss or into "
            "`jaxreg.add_regularization`, or give your class a `prox(self, z, step)` method."
        )

    def get_config(self) -> dict[str, Any]:
        """Return the fields as plain numbers, strings and lists, fit for JSON."""
        return {name: codec.encode(getattr(self, name)) for name in self._shown()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the regularizer whose `get_config` gave `config`."""
        codec.check_fields(cls, config, dataclasses.fields(cls))
        return cls(**codec.decode(dict(config), {}))

    def __add__(self, other: Any) -> "Regularizer":
        return Sum((*_terms(self), *_terms(as_regularizer(other)))) if adds(self, other, _is_penalty) else self

    def __radd__(self, other: Any) -> "Regularizer":
        return as_regularizer(other) + self if adds(other, self, _is_penalty) else self

    def __mul__(self, factor: Any) -> "Regularizer":
        return Scaled(self._factor(factor), self)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> "Regularizer":
        return self * self._inverse(divisor)

    def rounded_value(self, x: jax.Array, held: jax.Array) -> jax.Array:
        """Return R(x) of a promoted x made of `held`, the array in memory: its rounding breaks no constraint."""
        return self(x)

    def approximate_prox(self, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
        """Return the result of `count` steps from p towards argmin_w R(w) + ½ Σ (w_i − z_i)²/τ_i."""
        return majorizer.inner_steps(self, p, z, step, count)


def _terms(reg: Regularizer) -> tuple[Regularizer, ...]:
    return reg.terms if isinstance(reg, Sum) else (reg,)


def _is_penalty(value: Any) -> bool:
    return isinstance(value, Regularizer) or (callable(value) and not isinstance(value, (type, Struct)))


def as_regularizer(value: Any) -> Regularizer:
    """Return a regularizer for a regularizer or for a plain function `array -> scalar`."""
    if not _is_penalty(value):
        got = f"{checks.short(value)}.{checks.instead(value)}"
        raise TypeError(f"A regularizer or a function `array -> scalar` is wanted, got {got}")
    return value if isinstance(value, Regularizer) else Function(value)


@final
class Sum(Regularizer, promoted=False):
    """Add penalties: R(x) = Σ_k R_k(x). Written `a + b`; sums of sums are flattened.

    `prox` is exact for the sums below, in any order, nesting and factors, and raises for all others: one proximal
    operator after the other is in general not that of the sum (P is one penalty more):

        L1, L2, L1L2, NonNegative, Box    any number of them; the first three also with weights (`Weighted`)
        L2 + P                            for every P with a proximal operator: that of P at z/s with the step τ/s,
                                          s = 1 + 2·τ·l2
        L1, L2, NonNegative + P           the sign, the soft threshold, then P: for `Group` (the sparse group lasso),
                                          `MaxNorm`, `L1Ball`, `TopK` and `NofM`
        L2, NonNegative + P               the sign, then P: for an elementwise P
        L2, NonNegative, Box + P          the sign, P, then the box: for a convex elementwise P
        Group + Group                     any number with nested groups, from the finer to the coarser: all but the
                                          coarsest of L1 (tree-structured norms), with a scalar step
        L1, L2, NonNegative, Box + P      P, then the others: for `Difference(L1)` of order 1 (the fused lasso) and
                                          `Monotone`, with a scalar step and the same numbers for all entries

    Args:
        terms: the penalties (children of the pytree).

    Example:
        >>> import jaxreg
        >>> jaxreg.L1(0.1) + jaxreg.L2(0.2)
        Sum(terms=(L1(l1=0.1), L2(l2=0.2)))
        >>> (jaxreg.L1(1.0) + jaxreg.L2(0.5)).prox(3.0).item()
        1.0
    """

    terms: tuple[Regularizer, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.terms, (list, tuple)):
            raise TypeError(f"`Sum(terms=...)` takes a tuple, got {checks.short(self.terms)}. Write a sum as `a + b`.")
        object.__setattr__(self, "terms", tuple(map(as_regularizer, self.terms)))

    @property
    def reach(self) -> Reach:
        return max((term.reach for term in self.terms), default=Reach.ENTRY)

    def parts(self) -> Parts:
        return sum((term.parts() for term in self.terms), start=Parts())

    def scalar(self) -> Scalar | None:
        scalars = [term.scalar() for term in self.terms]
        return None if None in scalars else ScalarSum(tuple((1.0, rho) for rho in scalars))

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.rounded_value(numerics.promote(x), jnp.asarray(x))

    def rounded_value(self, x: jax.Array, held: jax.Array) -> jax.Array:
        parts = self.parts()
        if parts.is_elastic and parts.excluded is None and parts.l1 is not None and parts.l2 is not None:
            return sums.scaled_l1l2(parts.l1, parts.l2, x)
        return sum((term.rounded_value(x, held) for term in self.terms), start=jnp.zeros((), numerics.real_dtype(x)))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        parts, z, step = self.parts(), jnp.asarray(z), jnp.asarray(step)
        if (w := composition.prox(parts, z, step)) is not None:
            return w
        has_groups = len([term for term in parts.rest if term.by_groups(z)]) > 1
        names, has_box = map(_written, self.terms), bool(parts.intervals)
        raise NotImplementedError(sums.no_exact_form(names, has_box=has_box, has_groups=has_groups))

    def approximate_prox(self, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
        parts = self.parts()
        if not parts.is_l2_and_one_more:
            return super().approximate_prox(p, z, step, count)
        if parts.l2 is not None:
            z, step = without_l2(z, step, parts.l2)
        return parts.rest[0].approximate_prox(p, z, step, count)


def _written(term: Regularizer) -> str:
    """The term as it is written in a sum, without its numbers."""
    return f"factor * {_written(term.penalty)}" if isinstance(term, Scaled) else type(term).__name__


@final
class Scaled(Regularizer, promoted=False):
    """Multiply a penalty: R(x) = factor·P(x). Written `factor * penalty`; the factor is a leaf.

    With the factor 0 the value and the gradient are 0 and `prox` returns its argument, also for a constraint.

    Args:
        factor: real, finite, non-negative.
        penalty: a regularizer.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = 2.0 * jaxreg.L1(0.5)
        >>> reg
        Scaled(factor=2.0, penalty=L1(l1=0.5))
        >>> float(reg(jnp.ones(3)))
        3.0
    """

    factor: ArrayLike = coefficient()
    penalty: Regularizer

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "penalty", as_regularizer(self.penalty))

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.rounded_value(numerics.promote(x), jnp.asarray(x))

    def rounded_value(self, x: jax.Array, held: jax.Array) -> jax.Array:
        # With the factor 0 no gradient goes back through P: where that of P is infinite, 0·∞ would be nan.
        factors, penalty = multiples.unrolled(self, numerics.real_dtype(x))
        x = jnp.where(jnp.min(factors) == 0, jax.lax.stop_gradient(x), x)
        return multiples.times(factors, penalty.rounded_value(x, held))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        u = numerics.threshold(jnp.asarray(step), self.factor)
        return numerics.unless_zero(self.factor, lambda u, z: self.penalty.prox(z, u), u, jnp.asarray(z))

    @property
    def reach(self) -> Reach:
        return self.penalty.reach

    def parts(self) -> Parts:
        return self.penalty.parts() * self.factor

    def scalar(self) -> Scalar | None:
        rho = self.penalty.scalar()
        return None if rho is None else ScalarSum(((self.factor, rho),))

    def by_groups(self, x: Any) -> Groups | None:
        inside = self.penalty.by_groups(x)
        if inside is None:
            return None
        return dataclasses.replace(inside, weight=numerics.multiple(self.factor, jnp.asarray(inside.weight)))

    def approximate_prox(self, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
        u = numerics.threshold(step, self.factor)
        return numerics.unless_zero(self.factor, lambda u, z, p: self.penalty.approximate_prox(p, z, u, count), u, z, p)


@final
class Function(Regularizer):
    """Penalize by a plain function `array -> scalar`, so that it can stand in sums and trees.

    Args:
        function: static; two functions are equal if they are the same object. It goes into a config if it is
            registered with `jaxreg.register`.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.L1(1.0) + (lambda x: jnp.max(x))
        >>> float(reg(jnp.array([1.0, -3.0])))
        5.0
    """

    function: Callable[[jax.Array], Any] = static()

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"`Function(function=...)` takes a function, got {checks.short(self.function)}.")

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.function(jnp.asarray(x))
