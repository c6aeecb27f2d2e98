"""Anchored: a penalty of the distance from a reference point."""

import hashlib
from collections.abc import Mapping
from typing import Any, Self, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, codec, numerics
from jaxreg._core.elementwise import weighted_prox, weighted_value
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.structure import Parts, Reach


@final
class Anchored(Regularizer, promoted=False):
    """Pull an array towards a reference: fine-tuning, federated learning, continual learning.

        R(x) = P(x − reference),            or Σ_i weights_i · ρ(|x_i − reference_i|) with weights
        ∇R(x) = ∇P(x − reference)
        prox(z, τ) = reference + prox_P(z − reference, τ·weights)

    `Anchored(L2(c), θ₀)` is L2-SP and FedProx; with `weights` the Fisher information it is EWC (½·F·(θ − θ₀)² is
    `Anchored(L2(0.5), θ₀, weights=F)`); `Anchored(L1(c), θ₀)` leaves most weights exactly as they were (by `prox`);
    `Anchored(Group(...), θ₀)` whole groups of them. The reference and the weights are leaves of the pytree: they are
    saved and sharded with it, and no gradient flows into them. For all leaves of a tree at once see
    `TreeRegularizer.anchored`. A config holds their shapes and digests; `from_config` takes the arrays.

    Args:
        penalty: any regularizer; with weights an elementwise class such as L1, L2, MCP.
        reference: an array of the shape of `x`, or a number. Do not donate its buffer. Of a variable (NNX, Keras) the
            value that it has now, of a NumPy array a copy: what training changes later does not move the reference.
        weights: an array of the shape of `x` of non-negative numbers, or None; 0 leaves an entry free.

    Raises:
        ValueError: the shapes differ.
        TypeError: the reference is complex and the array real.
        TypeError: weights with a penalty that is not elementwise.
        ValueError: a weight is negative, nan or inf.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Anchored(jaxreg.L1(1.0), reference=jnp.array([1.0, 2.0]))
        >>> float(reg(jnp.array([1.0, 5.0])))
        3.0
        >>> reg.prox(jnp.array([1.5, 5.0]))
        Array([1., 4.], dtype=float32)

    References:
        Li, Grandvalet and Davoine, *Explicit inductive bias for transfer learning with convolutional networks*,
        arXiv:1802.01483. Kirkpatrick et al., *Overcoming catastrophic forgetting in neural networks*, arXiv:1612.00796.
    """

    penalty: Regularizer
    reference: ArrayLike
    weights: ArrayLike | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", as_regularizer(self.penalty))
        for name in ("reference", "weights"):
            value = getattr(self, name)
            if isinstance(value, (str, bytes, bool, list, tuple, dict)) or (value is None and name == "reference"):
                raise TypeError(f"`Anchored({name}=...)` must be an array or a number, got {checks.short(value)}.")
            object.__setattr__(self, name, _as_it_is_now(f"Anchored({name}=...)", value))
        if self.weights is None:
            return
        object.__setattr__(self, "weights", checks.number("Anchored(weights=...)", self.weights, above=None))
        if self.penalty.scalar() is None:
            raise TypeError(
                f"`Anchored({type(self.penalty).__name__}, weights=...)`: weights need an elementwise penalty such as "
                "L1 or L2, or a sum or multiple of such. Leave them out, or anchor a sum term by term; groups have "
                "weights by `jaxreg.Anchored(jaxreg.Weighted(group, weights), reference)`."
            )

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.rounded_value(numerics.promote(x), jnp.asarray(x))

    def rounded_value(self, x: jax.Array, held: jax.Array) -> jax.Array:
        difference = x - self._array("reference", x)
        if self.weights is None:
            return self.penalty.rounded_value(difference, held)
        return weighted_value(self.penalty, self._weights(x), difference)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        difference = z - self._array("reference", z)
        if self.weights is None:
            return self._back(z, difference, self.penalty.prox(difference, step))
        return self._back(z, difference, weighted_prox(self.penalty, self._weights(z), difference, step))

    def approximate_prox(self, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
        reference = self._array("reference", z)
        start, difference = p - reference, z - reference
        moved = self.penalty.approximate_prox(start, difference, self._weighted(step, z), count)
        back = self._back(z, difference, moved)
        return numerics.exact(jnp.where(moved == start, p, back), back)

    def parts(self) -> Parts:
        return Parts(intervals=(self,)) if self.penalty.parts().is_interval else Parts(rest=(self,))

    def get_config(self) -> dict[str, Any]:
        """Return the config, in which the arrays stand with their shapes, dtypes and digests."""
        return {
            "penalty": codec.encode(self.penalty),
            "reference": _describe(self.reference),
            "weights": None if self.weights is None else _describe(self.weights),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], reference: ArrayLike | None = None, weights: ArrayLike | None = None
    ) -> Self:
        """Return the regularizer of a config and of the arrays that it describes.

        Raises:
            ValueError: an array is missing, or is not the one that the config was made from.
        """
        if not isinstance(config, Mapping) or set(config) != {"penalty", "reference", "weights"}:
            raise ValueError(
                f"`Anchored.from_config` takes a dict with penalty, reference, weights, got {checks.short(config)}."
            )
        penalty = codec.decode({"penalty": config["penalty"]}, {})["penalty"]  # first: what it lacks can be written in
        arrays: dict[str, Any] = {"reference": reference, "weights": weights}
        described = {name: config[name] for name in arrays if config[name] is not None}
        if any(arrays[name] is None or _describe(arrays[name]) != described[name] for name in described):
            raise codec.MissingArrays(cls, described)
        return cls(penalty, **arrays)

    @property
    def reach(self) -> Reach:
        return self.penalty.reach if self.penalty.reach is Reach.ENTRY else Reach.ARRAY

    def _weights(self, x: jax.Array) -> jax.Array:
        return jnp.real(self._array("weights", x))

    def _weighted(self, step: jax.Array, z: jax.Array) -> jax.Array:
        return step if self.weights is None else numerics.threshold(step, self._weights(z))

    def _back(self, x: jax.Array, difference: jax.Array, moved: jax.Array) -> jax.Array:
        """reference + moved, and x itself where nothing moved: reference + (x − reference) may round."""
        back = self._array("reference", x) + moved
        return numerics.exact(jnp.where(moved == difference, x, back), back)

    def _array(self, name: str, x: jax.Array) -> jax.Array:
        value = getattr(self, name)
        if jnp.iscomplexobj(value) and not jnp.iscomplexobj(x):
            raise TypeError(
                f"`Anchored({name}=...)` is complex, and the array has the real dtype {x.dtype}. Give "
                "`reference.real`, or the array as complex numbers."
            )
        value = jax.lax.stop_gradient(jnp.asarray(value, x.dtype))
        if value.shape not in ((), x.shape):
            raise ValueError(f"`Anchored({name}=...)` has the shape {value.shape}, the array has {x.shape}.")
        return value


def _as_it_is_now(call: str, value: Any) -> Any:
    """The value of a variable (NNX, Keras, `jax.Ref`), a copy of a NumPy array: a reference stays where it was."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, jax.Ref):
        return value[...]
    if isinstance(value, (jax.Array, type)) or not hasattr(value, "__jax_array__"):
        return value
    value = value.__jax_array__()
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, float, int, complex)):
        raise TypeError(f"`{call}` must be an array or a number, got a variable that holds {checks.short(value)}.")
    return _as_it_is_now(call, value)


def _describe(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}
