"""What is the same for every input: exact zeros and constants of units, followed through a program in numbers.

A value is an array of its shape in which axes along which nothing differs, or nothing is known, have length 1.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._shrink.axes import ELEMENTWISE
from jaxreg._shrink.known_moves import RULES, Array, Known, Mask, nothing, same_along
from jaxreg._shrink.walk import Place, Visitor, scanned


@dataclasses.dataclass(frozen=True)
class Reading:
    """A sum of products, by the indices that it goes over."""

    is_live: Mask  # whether a summand may differ from 0
    is_constant: Mask  # whether it is the same for every input


class Numbers(Visitor[Known]):
    """Follow numbers; `readings` says which units a sum needs, `biases` where their constants can go instead."""

    def __init__(self) -> None:
        self.readings: dict[Place, Reading] = {}
        self.biases: dict[Place, tuple[int, Callable[[Mask], Array]]] = {}
        self._uses: Counter[int] = Counter()
        self._counted: set[int] = set()

    def walk(self, jaxpr: Any, consts: Sequence[Known], values: Sequence[Known], place: Place = ()) -> list[Known]:
        if id(jaxpr) not in self._counted:
            self._counted.add(id(jaxpr))
            self._uses.update(id(v) for eqn in jaxpr.eqns for v in eqn.invars)
            self._uses.update(id(v) for v in jaxpr.outvars)
        return super().walk(jaxpr, consts, values, place)

    def _results(self, eqn: Any, values: list[Known], place: Place) -> list[Known]:
        """A bias can take something up only if nobody else reads it, or the sum that it is added to."""
        alone = [v if self._uses[id(var)] == 1 else v.bare() for var, v in zip(eqn.invars, values, strict=True)]
        if eqn.primitive.name == "cond":  # another branch may read it too
            alone = [value.bare() for value in alone]
        return super()._results(eqn, alone, place)

    def constant(self, value: Any) -> Known:
        if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended):  # keys
            return nothing(np.shape(value))
        return Known(np.asarray(value), np.full(np.shape(value), True))

    def meet(self, a: Known, b: Known) -> Known:
        known = a.known & b.known & (a.value == b.value)
        return Known(np.where(known, a.value, np.zeros_like(a.value)), known)

    def unknown(self, eqn: Any, values: list[Known]) -> list[Known]:
        del values
        return [nothing(out.aval.shape, out.aval.dtype) for out in eqn.outvars]

    def scan(self, eqn: Any, values: list[Known], place: Place) -> list[Known]:
        fixed, carried = scanned(eqn)
        values = [value.bare() for value in values]
        carry = values[fixed:carried]
        each = [same_along(value, (0,)).moved(lambda x: x[0]) for value in values[carried:]]
        while True:
            out = self.inside(eqn.params["jaxpr"], [*values[:fixed], *carry, *each], place)
            met = [self.meet(a, b) for a, b in zip(carry, out, strict=False)]
            if not any((a.known & ~m.known).any() for a, m in zip(carry, met, strict=True)):
                return [*met, *(value.bare().moved(lambda x: x[None]) for value in out[len(carry) :])]
            carry = met

    def operation(self, eqn: Any, values: list[Known], place: Place) -> list[Known]:
        name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
        if name == "dot_general":
            return [self._dot(eqn, values[0], values[1], place)]
        if name == "conv_general_dilated":
            return [self._convolution(eqn, values[0], values[1], place)]
        if name in ELEMENTWISE:
            return [self._elementwise(eqn, values)]
        if name not in RULES or 0 in shape or jnp.issubdtype(eqn.outvars[0].aval.dtype, jax.dtypes.extended):
            return self.unknown(eqn, values)
        return RULES[name](eqn, values)

    def _elementwise(self, eqn: Any, values: list[Known]) -> Known:
        name, aval = eqn.primitive.name, eqn.outvars[0].aval
        rank = len(aval.shape)
        values = [v if v.value.ndim == rank else v.moved(lambda x: x.reshape((1,) * rank)) for v in values]
        shape = np.broadcast_shapes(*(v.value.shape for v in values)) if values else ()
        known = np.broadcast_to(np.all([np.broadcast_to(v.known, shape) for v in values], axis=0), shape)
        zero = np.full(shape, False)
        if name in ("mul", "and", "div"):
            for value in values[: 1 if name == "div" else None]:
                zero = zero | ~value.may_differ_from_zero
        if name == "select_n":  # whatever is chosen
            alike = np.all([np.broadcast_to(v.known & values[1].known, shape) for v in values[1:]], axis=0)
            for value in values[2:]:
                alike = alike & (value.value == values[1].value)
            if (alike & ~known).any():
                chosen = np.broadcast_to(values[1].value, shape)
                return Known(np.where(alike, chosen, np.zeros_like(chosen)), alike)
        if name == "add":
            self._find_bias(*values)
            self._find_bias(*values[::-1])
        if not (known | zero).any() and name != "convert_element_type":
            return nothing(aval.shape, aval.dtype)
        arrays = [np.broadcast_to(v.value, shape) for v in values]
        found = np.asarray(eqn.primitive.bind(*map(jnp.asarray, arrays), **eqn.params))
        found = np.where(known, found, np.zeros_like(found))  # 0/0 is not 0
        result = Known(found, known | zero)
        if name == "convert_element_type":
            return dataclasses.replace(result, leaf=values[0].leaf, part=values[0].part)
        return result

    def _find_bias(self, product: Known, bias: Known) -> None:
        if product.part is None or bias.leaf is None:
            return
        (place, of), shape = product.part, bias.value.shape
        if all(n in (1, m) for n, m in zip(product.value.shape, shape, strict=True)):
            self.biases[place] = (bias.leaf, lambda mask: np.broadcast_to(of(mask), shape))

    def _dot(self, eqn: Any, a: Known, b: Known, place: Place) -> Known:
        (one, other), (one_batch, other_batch) = eqn.params["dimension_numbers"]
        widths = [eqn.invars[0].aval.shape[i] for i in one]
        x, free, batch = _as_matrices(a, one_batch, one, widths, summed_last=True)
        y, free_y, batch_y = _as_matrices(b, other_batch, other, widths, summed_last=False)
        batch = list(np.broadcast_shapes(tuple(batch), tuple(batch_y)))
        dtype = np.result_type(np.float32, a.value.dtype, b.value.dtype) if _is_float(a, b) else np.float64
        may = x.may_differ_from_zero, y.may_differ_from_zero
        live: Any = (may[0].any(axis=-2) & may[1].any(axis=-1)).reshape(-1, math.prod(widths)).any(axis=0)
        unsure = [m.astype(np.float32) for m in (~x.known, ~y.known)]
        sure = (may[0] & x.known).astype(np.float32)
        missing = unsure[0] @ may[1].astype(np.float32) + sure @ unsure[1]
        value = x.value.astype(dtype) @ y.value.astype(dtype)
        shape = (*batch, *free, *free_y)
        constant = x.known.all(axis=-2) & y.known.all(axis=-1)
        constant = constant.reshape(-1, math.prod(widths)).all(axis=0)
        self.readings[place] = Reading(live.reshape(widths), constant.reshape(widths))

        def part(mask: Mask) -> Array:
            """What the summands at some indices add up to."""
            return np.asarray((x.value.astype(dtype) * mask.reshape(-1)) @ y.value.astype(dtype)).reshape(shape)

        known = (missing == 0).reshape(shape)
        result = np.where(known, value.reshape(shape), 0).astype(eqn.outvars[0].aval.dtype)
        return Known(result, known, part=(place, part))

    def _convolution(self, eqn: Any, x: Known, kernel: Known, place: Place) -> Known:
        """Only zeros go through: zero padding makes a constant channel no constant at borders."""
        numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
        aval = eqn.outvars[0].aval
        if eqn.params["batch_group_count"] != 1:
            return nothing(aval.shape, aval.dtype)
        spatial = tuple(i for i in range(x.value.ndim) if i != numbers.lhs_spec[1])
        features = x.may_differ_from_zero.any(axis=spatial)
        of_kernel: Any = np.moveaxis(kernel.may_differ_from_zero, numbers.rhs_spec[:2], (0, 1))
        of_kernel = of_kernel.reshape(*of_kernel.shape[:2], -1).any(axis=2)  # (outputs, inputs of a group)
        (outputs, inputs), total = of_kernel.shape, eqn.invars[0].aval.shape[numbers.lhs_spec[1]]
        features = np.broadcast_to(features, (total,)).reshape(groups, 1, inputs)
        pairs: Any = features & of_kernel.reshape(groups, outputs // groups, inputs)
        live = pairs.any(axis=(0, 1))
        self.readings[place] = Reading(live, np.full(inputs, False))
        shape = [1] * x.value.ndim
        shape[numbers.out_spec[1]] = outputs
        return Known(np.zeros(shape, aval.dtype), np.logical_not(pairs.any(axis=2)).reshape(shape))


def _is_float(a: Known, b: Known) -> bool:
    return all(jnp.issubdtype(x.value.dtype, np.inexact) for x in (a, b))


def _as_matrices(
    x: Known, batch: Sequence[int], summed: Sequence[int], widths: Sequence[int], summed_last: bool
) -> tuple[Known, list[int], list[int]]:
    """(batch, free, summed) or (batch, summed, free), and the lengths of the free and the batch axes."""
    free = [i for i in range(x.value.ndim) if i not in (*batch, *summed)]
    order = (*batch, *free, *summed) if summed_last else (*batch, *summed, *free)
    lengths, batches = [x.value.shape[i] for i in free], [x.value.shape[i] for i in batch]
    inner = (*lengths, *widths) if summed_last else (*widths, *lengths)
    sizes = (math.prod(lengths), math.prod(widths))

    def move(array: Array) -> Array:
        full = np.broadcast_to(array.transpose(order), (*batches, *inner))
        return full.reshape(*batches, *(sizes if summed_last else sizes[::-1]))

    return x.moved(move), lengths, batches
