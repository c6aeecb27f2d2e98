"""Regularizer: the penalty of an array, its subgradient, its proximal operator, its config; sums and multiples."""

import abc
import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Self, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import _checks, _json, _numerics
from jaxreg._compiled import compiled_penalty, compiled_prox
from jaxreg._pytree import Struct, coefficient, static


class Regularizer(Struct, abc.ABC):
    """Penalize an array: the base class of every regularizer, and of your own.

    Subclassing is enough: annotated fields become the constructor, the pytree and the config; `__call__` and `prox`
    are jitted. A field is a leaf (a number that is traced, differentiated, stacked) unless it is declared by
    `jaxreg.static`. Classes are immutable: write no `__init__`.

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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in cls.__dict__:
            cls.__call__ = compiled_penalty(cls, cls.__call__)  # type: ignore[method-assign]
            owner = next(base for base in cls.__mro__ if "prox" in base.__dict__)
            if owner is not cls and not inspect.isabstract(owner):
                cls.prox = Regularizer.prox  # type: ignore[method-assign]  # a parent's is that of another penalty
        if "prox" in cls.__dict__ and cls.prox is not Regularizer.prox:
            cls.prox = compiled_prox(cls, cls.prox)  # type: ignore[method-assign]

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
            f"`{self!r}` has no proximal operator in closed form. Put its gradient into the loss or into "
            "`jaxreg.add_regularization`, or give your class a `prox(self, z, step)` method."
        )

    def get_config(self) -> dict[str, Any]:
        """Return the fields as plain numbers, strings and lists, fit for JSON."""
        return {field.name: _json.encode(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the regularizer whose `get_config` gave `config`."""
        _json.check_fields(cls, config, dataclasses.fields(cls))
        return cls(**_json.decode(dict(config), {}))

    def __add__(self, other: Any) -> "Regularizer":
        if isinstance(other, (int, float)) and other == 0:  # so that the built-in `sum` works
            return self
        if not callable(other) or isinstance(other, type):
            return NotImplemented
        return Sum((*_terms(self), *_terms(as_regularizer(other))))

    def __radd__(self, other: Any) -> "Regularizer":
        if isinstance(other, (int, float)) and other == 0:
            return self
        return as_regularizer(other) + self if callable(other) and not isinstance(other, type) else NotImplemented

    def __mul__(self, factor: Any) -> "Regularizer":
        return NotImplemented if callable(factor) else Scaled(factor, self)

    __rmul__ = __mul__

    def _elastic(self) -> tuple[Any, Any] | None:
        """(l1, l2) if R = l1·Σ|w| + l2·Σ|w|², each None where the term is absent: what `Sum.prox` can merge."""
        return None

    def _is_elementwise(self) -> bool:
        """Whether R(w) = Σ ρ(|w_i|) with ρ(0) = 0 the least: what a structure can apply to norms or singular values."""
        return False

    def _is_separable(self) -> bool:
        """Whether the penalty, and so its prox, treats each entry alone."""
        return self._is_elementwise()

    def _is_nonnegativity(self) -> bool:
        """Whether R is the constraint w ≥ 0."""
        return False

    def _follows_thresholds(self) -> bool:
        """Whether the prox of l1·Σ|w| + [w ≥ 0] + R is that of R after the thresholds: true of norms of groups."""
        return False


def _terms(reg: Regularizer) -> tuple[Regularizer, ...]:
    return reg.terms if isinstance(reg, Sum) else (reg,)


def as_regularizer(value: Any) -> Regularizer:
    """Return a regularizer for a regularizer or for a plain function `array -> scalar`."""
    if isinstance(value, Regularizer):
        return value
    if callable(value) and not isinstance(value, (type, Struct)):
        return Function(value)
    raise TypeError(f"A regularizer or a function `array -> scalar` is wanted, got {_checks.short(value)}.")


def as_elementwise(call: str, penalty: Any) -> Regularizer:
    """Return an elementwise penalty, the kind that can act on norms and singular values."""
    penalty = as_regularizer(penalty)
    if not penalty._is_elementwise():
        raise TypeError(
            f"`{call}(penalty=...)` takes an elementwise penalty such as L1, MCP or L0, or a sum or multiple of such, "
            f"got {type(penalty).__name__}."
        )
    return penalty


@final
class Sum(Regularizer):
    """Add penalties: R(x) = Σ_k R_k(x). Written `a + b`; sums of sums are flattened.

    `prox` is there exactly where it is exact: any mix of L1, L2 and L1L2; L2 plus anything that has a prox R, by
    prox_τR(z/(1 + 2·step·l2)) with τ = step/(1 + 2·step·l2); L1 and non-negativity before a `Group` of any penalty (the
    sparse group lasso: soft threshold, then the group); non-negativity before any elementwise penalty. In general, one
    proximal operator after the other is not that of the sum, so everything else raises.

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
            raise TypeError(f"`Sum(terms=...)` takes regularizers, got {_checks.short(self.terms)}.")
        object.__setattr__(self, "terms", tuple(map(as_regularizer, self.terms)))

    def __call__(self, x: ArrayLike) -> jax.Array:
        l1, l2 = self._elastic() or (None, None)
        if l1 is not None and l2 is not None:
            return _numerics.scaled_l1l2(l1, l2, jnp.asarray(x))
        return sum((term(x) for term in self.terms), start=jnp.zeros((), _numerics.real_dtype(jnp.asarray(x))))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        elastic = [parts for parts in (term._elastic() for term in self.terms) if parts is not None]
        nonnegative = any(term._is_nonnegativity() for term in self.terms)
        others = [term for term in self.terms if term._elastic() is None and not term._is_nonnegativity()]
        l1 = _total(l1 for l1, _ in elastic)
        l2 = _total(l2 for _, l2 in elastic)
        after_sign = l1 is None and all(term._is_elementwise() or not nonnegative for term in others)
        if len(others) <= 1 and (after_sign or all(term._follows_thresholds() for term in others)):
            w = jnp.maximum(z, 0) if nonnegative else z
            w = w if l1 is None else _numerics.soft_threshold(w, _numerics.threshold(step, l1))
            if l2 is not None:  # the thresholds of z/s with the step τ/s are those of z with τ, over s
                w, step = w / (1 + 2 * _numerics.threshold(step, l2)), _numerics.shrunk_step(step, l2)
            return others[0].prox(w, step) if others else w
        names = " + ".join(type(term).__name__ for term in self.terms)
        raise NotImplementedError(
            f"`({names}).prox` has no exact form: the proximal operators of the terms, one "
            "after the other, are not that of their sum. Put all terms but one into the loss or into "
            "`jaxreg.add_regularization`, and give the remaining one to `jaxreg.proximal`."
        )

    def _elastic(self) -> tuple[Any, Any] | None:
        parts = [term._elastic() for term in self.terms]
        known = [part for part in parts if part is not None]
        return (_total(l1 for l1, _ in known), _total(l2 for _, l2 in known)) if len(known) == len(parts) else None

    def _is_elementwise(self) -> bool:
        return all(term._is_elementwise() for term in self.terms)

    def _is_separable(self) -> bool:
        return all(term._is_separable() for term in self.terms)


def _total(parts: Iterable[Any]) -> Any:
    """The sum of the parts that are there, None if there is none."""
    present = [part for part in parts if part is not None]
    return sum(present[1:], start=present[0]) if present else None


@final
class Scaled(Regularizer):
    """Multiply a penalty: R(x) = factor·P(x). Written `factor * penalty`; the factor is a leaf.

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
        value = self.penalty(x)
        factor = jnp.asarray(self.factor, value.dtype)
        return jnp.where((factor == 0) & jnp.isinf(value), 0, factor * value)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        return self.penalty.prox(z, _numerics.threshold(jnp.asarray(step), self.factor))

    def _elastic(self) -> tuple[Any, Any] | None:
        parts = self.penalty._elastic()
        if parts is None:
            return None
        l1, l2 = (None if part is None else self.factor * part for part in parts)
        return l1, l2

    def _is_elementwise(self) -> bool:
        return self.penalty._is_elementwise()

    def _is_separable(self) -> bool:
        return self.penalty._is_separable()

    def _is_nonnegativity(self) -> bool:
        return self.penalty._is_nonnegativity()

    def _follows_thresholds(self) -> bool:
        return self.penalty._follows_thresholds()


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
            raise TypeError(f"`Function(function=...)` takes a function, got {_checks.short(self.function)}.")

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.function(jnp.asarray(x))
