"""Operations that move, repeat, merge, cut or drop what is known of a value; see `known.py`."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxreg._shrink.reshapes import blocks
from jaxreg._shrink.walk import Place

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Known:
    """Numbers, and where they are known."""

    value: Array  # 0 where it is not known
    known: Mask
    leaf: int | None = None  # the parameter that it is, in the same order
    part: tuple[Place, Callable[[Mask], Array]] | None = None  # of a product: what some of its summands add up to

    @property
    def may_differ_from_zero(self) -> Mask:
        return ~self.known | (self.value != 0)

    def bare(self) -> "Known":
        return Known(self.value, self.known)

    def moved(self, move: Callable[[Array], Array]) -> "Known":
        return Known(move(self.value), move(self.known))


def nothing(shape: Sequence[int], dtype: Any = np.float32) -> Known:
    """Nothing is known of an array of this shape."""
    is_plain = isinstance(dtype, (np.dtype, type))
    ones = [min(n, 1) for n in shape]
    return Known(np.zeros(ones, dtype if is_plain else np.float32), np.full(ones, False))


def same_along(x: Known, axes: Sequence[int]) -> Known:
    """What is known of every index of some axes together; they get length 1."""
    for axis in axes:
        if x.value.shape[axis] > 1:
            first = x.value.take([0], axis)
            known = (x.known & (x.value == first)).all(axis, keepdims=True)
            x = Known(np.where(known, first, np.zeros_like(first)), known)
    return x.bare()


def zeros_along(x: Known, axes: Sequence[int]) -> Known:
    """The same of zeros alone, for operations that no other constant passes."""
    x = same_along(x, axes)
    return Known(np.zeros_like(x.value), x.known & (x.value == 0))


def _full(x: Known, axis: int, n: int) -> Known:
    shape = tuple(n if i == axis else m for i, m in enumerate(x.value.shape))
    return x.moved(lambda array: np.broadcast_to(array, shape))


def _in_order(move: Callable[[Any, Known], Callable[[Array], Array]], keeps_order: bool = True) -> Any:
    """A rule for one operand, whose entries are neither dropped nor repeated: a bias stays one, a sum too."""

    def rule(eqn: Any, values: list[Known]) -> list[Known]:
        x, function = values[0], move(eqn, values[0])
        result = x.moved(function)
        if result.value.size != x.value.size:
            return [result]
        part = None
        if x.part is not None:
            place, of = x.part
            part = (place, lambda mask: function(of(mask)))
        return [dataclasses.replace(result, leaf=x.leaf if keeps_order else None, part=part)]

    return rule


def _broadcast(eqn: Any, x: Known) -> Callable[[Array], Array]:
    shape = [1] * len(eqn.params["shape"])
    for axis, n in zip(eqn.params["broadcast_dimensions"], x.value.shape, strict=True):
        shape[axis] = n
    return lambda array: array.reshape(shape)


def _reshape(eqn: Any, x: Known) -> Callable[[Array], Array]:
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    inner, shape = list(x.value.shape), [1] * len(after)
    for one, other in blocks(before, after):
        if any(inner[i] > 1 for i in one):
            for i in one:
                inner[i] = before[i]
            for i in other:
                shape[i] = after[i]
    return lambda array: np.broadcast_to(array, inner).reshape(shape)


def _concatenate(eqn: Any, values: list[Known]) -> list[Known]:
    axis = eqn.params["dimension"]
    return _joined([_full(v, axis, var.aval.shape[axis]) for v, var in zip(values, eqn.invars, strict=True)], axis)


def _stack(eqn: Any, values: list[Known]) -> list[Known]:
    axis = eqn.params["axis"]
    return _joined([v.moved(functools.partial(np.expand_dims, axis=axis)) for v in values], axis)


def _tile(eqn: Any, values: list[Known]) -> list[Known]:
    (x,) = values
    times = [n if size > 1 else 1 for n, size in zip(eqn.params["reps"], x.value.shape, strict=True)]
    return [x.moved(lambda array: np.tile(array, times))]


def _joined(whole: list[Known], axis: int) -> list[Known]:
    shape = np.broadcast_shapes(*(v.value.take([0], axis).shape for v in whole))

    def joined(arrays: list[Array]) -> Array:
        full = [np.broadcast_to(a, [a.shape[axis] if i == axis else n for i, n in enumerate(shape)]) for a in arrays]
        return np.concatenate(full, axis)

    return [Known(joined([v.value for v in whole]), joined([v.known for v in whole]))]


def _split(eqn: Any, values: list[Known]) -> list[Known]:
    (x,), axis, found, start = values, eqn.params["axis"], [], 0
    for size in eqn.params["sizes"]:
        at = np.arange(start, start := start + size)
        found.append(
            x.moved(functools.partial(np.take, indices=at, axis=axis)) if x.value.shape[axis] > 1 else x.bare()
        )
    return found


def _unstack(eqn: Any, values: list[Known]) -> list[Known]:
    (x,), axis = values, eqn.params["axis"]
    places = range(len(eqn.outvars)) if x.value.shape[axis] > 1 else [0] * len(eqn.outvars)
    return [x.moved(functools.partial(np.take, indices=i, axis=axis)) for i in places]


def _slice(eqn: Any, values: list[Known]) -> list[Known]:
    (x,), p = values, eqn.params
    bounds = zip(p["start_indices"], p["limit_indices"], p["strides"] or [None] * x.value.ndim, strict=True)
    index = tuple(slice(*b) if n > 1 else slice(None) for b, n in zip(bounds, x.value.shape, strict=True))
    return [x.moved(lambda array: array[index])]


def _dynamic_slice(eqn: Any, values: list[Known]) -> list[Known]:
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return [same_along(values[0], [i for i, (m, n) in enumerate(zip(before, after, strict=True)) if m != n])]


def _dynamic_update(eqn: Any, values: list[Known]) -> list[Known]:
    whole, part = (eqn.invars[i].aval.shape for i in (0, 1))
    cut = [i for i, (m, n) in enumerate(zip(whole, part, strict=True)) if m != n]
    a, b = (same_along(v, cut) for v in values[:2])
    known = a.known & b.known & (a.value == b.value)
    return [Known(np.where(known, a.value, np.zeros_like(a.value)), known)]


def _gather(eqn: Any, values: list[Known]) -> list[Known]:
    """What is known of all rows is known of those that are looked up, unless one outside is filled with something."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, aval = eqn.invars[0].aval.shape, eqn.outvars[0].aval
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    x = same_along(values[0], [i for i, n in enumerate(sizes) if n != shape[i] or i in dropped])
    if "FILL" in str(eqn.params.get("mode")) and (eqn.params.get("fill_value") or 0) != 0:
        return [nothing(aval.shape, aval.dtype)]
    kept = iter([n for i, n in enumerate(x.value.shape) if i not in dropped])
    out = [next(kept) if axis in numbers.offset_dims else 1 for axis in range(len(aval.shape))]
    return [x.moved(lambda array: array.reshape(out))]


def _pad(eqn: Any, values: list[Known]) -> list[Known]:
    x, filling = values
    config = eqn.params["padding_config"]
    if any(min(low, high) < 0 or inner for low, high, inner in config):
        aval = eqn.outvars[0].aval
        return [nothing(aval.shape, aval.dtype)]
    for axis, (low, high, _) in enumerate(config):
        if low or high:
            if x.value.shape[axis] == 1:
                known = x.known & filling.known & (x.value == filling.value)
                x = Known(np.where(known, x.value, np.zeros_like(x.value)), known)
            else:
                widths = [(low, high) if i == axis else (0, 0) for i in range(x.value.ndim)]
                value = np.pad(x.value, widths, constant_values=filling.value.item())
                x = Known(value, np.pad(x.known, widths, constant_values=bool(filling.known.all())))
    return [x.bare()]


def _reduce_sum(eqn: Any, values: list[Known]) -> list[Known]:
    (x,), axes = values, tuple(eqn.params["axes"])
    repeated = math.prod(eqn.invars[0].aval.shape[i] for i in axes if x.value.shape[i] == 1)
    known = np.asarray(x.known.all(axis=axes))
    value = np.asarray(x.value.sum(axis=axes, dtype=np.result_type(x.value.dtype, np.float32)) * repeated)
    return [Known(np.where(known, value, 0).astype(x.value.dtype), known)]


def _reduce(function: Any) -> Any:
    def rule(eqn: Any, values: list[Known]) -> list[Known]:
        (x,), axes = values, tuple(eqn.params["axes"])
        known = np.asarray(x.known.all(axis=axes))
        return [Known(np.where(known, function(x.value, axis=axes), 0).astype(x.value.dtype), known)]

    return rule


def _windows(eqn: Any, values: list[Known]) -> list[Known]:
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    sizes = eqn.params["window_dimensions"]
    return [zeros_along(values[0], [i for i, n in enumerate(sizes) if n > 1 or before[i] != after[i]])]


def _along(eqn: Any, values: list[Known]) -> list[Known]:
    return [zeros_along(values[0], [eqn.params["axis"]])]


def _flip(eqn: Any, x: Known) -> Callable[[Array], Array]:
    return functools.partial(np.flip, axis=tuple(eqn.params["dimensions"]))


RULES: dict[str, Callable[[Any, list[Known]], list[Known]]] = {
    "broadcast_in_dim": _in_order(_broadcast),
    "reshape": _in_order(_reshape),
    "squeeze": _in_order(lambda eqn, x: functools.partial(np.squeeze, axis=tuple(eqn.params["dimensions"]))),
    "transpose": _in_order(lambda eqn, x: functools.partial(np.transpose, axes=eqn.params["permutation"]), False),
    "rev": _in_order(_flip, False),
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "split": _split,
    "unstack": _unstack,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "gather": _gather,
    "pad": _pad,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    **dict.fromkeys(["cumsum", "cumprod"], _along),
    **dict.fromkeys(["reduce_window_sum", "reduce_window_max"], _windows),
}
