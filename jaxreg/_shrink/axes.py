"""Which indices of which axes belong together, operation by operation. What is not understood is pinned."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxreg._shrink.moves import POSITIONS, RULES, Moves
from jaxreg._shrink.nodes import Ids, Nodes
from jaxreg._shrink.walk import Place, Visitor, reached, scanned


class Axes(NamedTuple):
    """What is known of a value."""

    nodes: tuple[Ids, ...]  # of the indices of each axis
    data: bool = False  # whether it depends on the inputs, or on chance
    leaves: frozenset[int] = frozenset()  # the parameters that it is made of, as long as these alone do
    value: float | None = None  # of a number that the program holds, or of all entries of a repeated one
    summed: tuple[tuple[Ids, ...], ...] = ()  # the axes of each sum of products that it comes from, entry by entry
    divided: tuple[Ids, ...] = ()  # axes by whose lengths it was divided: a sum over them would be a mean


class Contraction(NamedTuple):
    """A sum of products: where a unit is read."""

    axes: tuple[Ids, ...]
    of_weights: tuple[Ids, ...]  # the same axes, of the operand that is made of parameters
    leaves: frozenset[int]  # which they are


class Tracer(Visitor[Axes]):
    """Unite the nodes of axes; `contractions` are the places where units are read."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.contractions: dict[Place, Contraction] = {}
        self.moves = Moves(nodes)
        self.written: list[tuple[frozenset[int], tuple[Ids, ...]]] = []

    def constant(self, value: Any) -> Axes:
        number = (
            float(np.ravel(value)[0]) if np.size(value) == 1 and np.isrealobj(value) and _is_numeric(value) else None
        )
        return Axes(tuple(self.nodes.pinned("a constant's axis", n) for n in np.shape(value)), value=number)

    def meet(self, a: Axes, b: Axes) -> Axes:
        for one, other in zip(a.nodes, b.nodes, strict=True):
            self.nodes.unite(one, other)
        summed, divided = _once((*a.summed, *b.summed)), _once((*a.divided, *b.divided))
        return Axes(a.nodes, a.data or b.data, a.leaves | b.leaves, summed=summed, divided=divided)

    def unknown(self, eqn: Any, values: list[Axes]) -> list[Axes]:
        why = eqn.primitive.name if len(eqn.primitive.name) < 16 else "an unknown operation"
        for value in values:
            self._pin(value, why)
        data, summed = any(v.data for v in values), _once(axes for v in values for axes in v.summed)
        nodes = [tuple(self.nodes.pinned(why, n) for n in out.aval.shape) for out in eqn.outvars]
        return [Axes(own, data, _leaves(values), summed=summed) for own in nodes]

    def scan(self, eqn: Any, values: list[Axes], place: Place) -> list[Axes]:
        fixed, carried = scanned(eqn)
        for value in values[carried:]:
            self.nodes.pin(value.nodes[0], "layers of a `scan`")
        carry, body = values[fixed:carried], eqn.params["jaxpr"]
        each = [value._replace(nodes=value.nodes[1:]) for value in values[carried:]]
        is_data = [value.data for value in (*values[:fixed], *carry, *each)]
        while True:  # zeros that begin a recurrent state are no constant of its later steps
            after = [a or b for a, b in zip(is_data[fixed:carried], reached(body, is_data, _CHANCE), strict=False)]
            if after == is_data[fixed:carried]:
                break
            is_data[fixed:carried] = after
        carry = [value._replace(data=data, value=None) for value, data in zip(carry, after, strict=True)]
        out = self.inside(body, [*values[:fixed], *carry, *each], place)
        if any(o.divided for o, _ in zip(out, carry, strict=False)):
            carry = [c._replace(divided=_once((*c.divided, *o.divided))) for c, o in zip(carry, out, strict=False)]
            out = self.inside(body, [*values[:fixed], *carry, *each], place)
        last = [self.meet(a, b) for a, b in zip(carry, out, strict=False)]
        steps = self.nodes.pinned("steps of a `scan`", eqn.params["length"])
        return [*last, *(value._replace(nodes=(steps, *value.nodes)) for value in out[len(carry) :])]

    def operation(self, eqn: Any, values: list[Axes], place: Place) -> list[Axes]:
        name = eqn.primitive.name
        data = any(v.data for v in values) or name in _CHANCE
        leaves = frozenset[int]() if data else _leaves(values)
        if data and name not in ("dot_general", "conv_general_dilated"):
            self.written += [(v.leaves, v.nodes) for v in values if v.leaves]
        if name in ("dot_general", "conv_general_dilated"):
            rule = self._dot if name == "dot_general" else self._convolution
            nodes, summed = rule(eqn, values, place)
            return [Axes(nodes, data, leaves, summed=(summed,), divided=self._free(values, nodes))]
        if name in ELEMENTWISE or (name == "bitcast_convert_type" and len(values[0].nodes) == eqn.outvars[0].aval.ndim):
            return self._elementwise(eqn, values)
        found = RULES.get(name)
        if found is None:
            return self.unknown(eqn, values)
        results = found(self.moves, eqn, [v.nodes for v in values])
        divided = self._free(values, [ids for nodes in results for ids in nodes], pin=True)
        sums = () if name.startswith(("reduce", "cum")) else _once(axes for v in values for axes in v.summed)
        value = values[0].value if name in _REPEATS else None
        return [Axes(nodes, data, leaves, value, sums, divided) for nodes in results]

    def _free(self, values: Sequence[Axes], axes: Sequence[Ids], pin: bool = False) -> tuple[Ids, ...]:
        """The axes whose lengths values were divided by, as far as a result has them; `pin` those that it changed."""
        kept = []
        for ids in _once(ids for v in values for ids in v.divided):
            if any(self._is_same(ids, axis) for axis in axes):
                kept.append(ids)
            elif pin:
                self.nodes.pin(ids, "scaled by its length")
        return tuple(kept)

    def _is_same(self, one: Ids, other: Ids) -> bool:
        return len(one) == len(other) and bool((self.nodes.root(one) == self.nodes.root(other)).all())

    # ------------------------------------------------------------------------------------------------ sums of products

    def _dot(self, eqn: Any, values: list[Axes], place: Place) -> tuple[tuple[Ids, ...], tuple[Ids, ...]]:
        (one, other), (one_batch, other_batch) = eqn.params["dimension_numbers"]
        a, b = values
        for i, k in zip((*one, *one_batch), (*other, *other_batch), strict=True):
            self.nodes.unite(a.nodes[i], b.nodes[k])
        summed = tuple(a.nodes[i] for i in one)
        self._pin_means(summed, values)
        for ids in summed:
            if a.data and b.data:
                self.nodes.pin(ids, _MEET)
            if self._is_plain(a) or self._is_plain(b):
                self.nodes.pin(ids, "a sum or mean over it")
        weights, of_weights = (a, one) if b.data else (b, other)
        self.contractions[place] = Contraction(summed, tuple(weights.nodes[i] for i in of_weights), weights.leaves)
        self.written.append((weights.leaves, tuple(ids for i, ids in enumerate(weights.nodes) if i not in of_weights)))
        free = [ids for i, ids in enumerate(a.nodes) if i not in (*one, *one_batch)]
        free += [ids for i, ids in enumerate(b.nodes) if i not in (*other, *other_batch)]
        return (*(a.nodes[i] for i in one_batch), *free), summed

    def _convolution(self, eqn: Any, values: list[Axes], place: Place) -> tuple[tuple[Ids, ...], tuple[Ids, ...]]:
        numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
        if eqn.params["batch_group_count"] != 1:
            return self.unknown(eqn, values)[0].nodes, ()
        x, kernel = values
        batch, features, *_ = (x.nodes[i] for i in numbers.lhs_spec)
        outputs, inputs, *window = (kernel.nodes[i] for i in numbers.rhs_spec)
        for ids in (*window, *(x.nodes[i] for i in numbers.lhs_spec[2:])):
            self.nodes.pin(ids, POSITIONS)
        if x.data and kernel.data:
            self._pin(kernel, _MEET)
        if self._is_plain(kernel):
            self._pin(kernel, "a sum or mean over it")
        if groups == 1:
            self.nodes.unite(features, inputs)
        else:  # one kernel for each group of features
            group = self.nodes.new(groups)
            for flat, inner in ((features, inputs), (outputs, self.nodes.new(len(outputs) // groups))):
                if len(inner) == 1:
                    self.nodes.unite(flat, group)
                else:
                    self.nodes.multiply(flat, [group, inner])
        self._pin_means((inputs,), values)
        # A group reads itself alone, so what is read of others is an index inside of the groups.
        self.contractions[place] = Contraction((inputs,), (inputs,), kernel.leaves)
        self.written.append((kernel.leaves, (outputs,)))
        shape = eqn.outvars[0].aval.shape
        out = [self.nodes.pinned(POSITIONS, n) for n in shape]
        out[numbers.out_spec[0]], out[numbers.out_spec[1]] = batch, outputs
        return tuple(out), (inputs, *window)

    def _pin_means(self, summed: Sequence[Ids], values: Sequence[Axes]) -> None:
        for ids in summed:
            if any(self._is_same(ids, n) for v in values for n in v.divided):
                self.nodes.pin(ids, "scaled by its length")

    # -------------------------------------------------------------------------------------------------- entry by entry

    def _elementwise(self, eqn: Any, values: list[Axes]) -> list[Axes]:
        shape = eqn.outvars[0].aval.shape
        nodes = []
        for axis, n in enumerate(shape):
            beside = [v.nodes[axis] for v in values if v.nodes and len(v.nodes[axis]) == n]
            for ids in beside[1:]:
                self.nodes.unite(beside[0], ids)
            nodes.append(beside[0] if beside else self.nodes.new(n))
        numbers = [v.value for v in values]
        divided = _once((*self._scaled(eqn, values, numbers), *(ids for v in values for ids in v.divided)))
        value = _number(eqn.primitive.name, eqn.params, numbers)
        summed = _once(axes for v in values for axes in v.summed)
        data = any(v.data for v in values)
        out = Axes(tuple(nodes), data, frozenset() if data else _leaves(values), value, summed, divided)
        return [out] * len(eqn.outvars)

    def _scaled(self, eqn: Any, values: list[Axes], numbers: list[float | None]) -> list[Ids]:
        """Pin a width n where √n, 1/√n or, behind a sum over it, 1/n is multiplied with: the program holds a number.

        Return the axes of whose lengths n a factor is n or 1/n; those become means if they are summed over. Of weights
        and of sums, n may be the product of some axes: a fan-in is that of a window and its channels. A number that is
        the root of a width beside them is that alone: 1/8 in attention with 8 heads of size 64.
        """
        if eqn.primitive.name not in ("mul", "div") or numbers.count(None) != 1:
            return []
        (factor,) = (n for n in numbers if n is not None)
        (scaled,) = (v for v, n in zip(values, numbers, strict=True) if n is None)
        precise = 4 * float(np.finfo(np.float32).eps if eqn.outvars[0].aval.dtype.itemsize >= 4 else 2.0**-9)

        def is_power(axes: Sequence[Ids], power: float) -> bool:
            n = math.prod(map(len, axes))
            return n > 1 and factor > 0 and abs(abs(math.log(factor)) - power * math.log(n)) < precise

        own = [(ids,) for ids in scaled.nodes] if scaled.data else _subsets(scaled.nodes)
        sums = [axes for sum_of in scaled.summed for axes in _subsets(sum_of)]
        roots = [(axes, "") for axes in own if is_power(axes, 0.5)]
        roots += [(axes, _MEET) for axes in sums if is_power(axes, 0.5)]
        is_root = any(self.nodes.said(ids) == {why} for axes, why in roots for ids in axes)
        for axes in (*own, *sums):
            if is_power(axes, 0.5) or (is_power(axes, 1.0) and any(axes is of for of in sums)):
                for ids in axes:
                    self.nodes.pin(ids, "scaled by its length")
        return [] if is_root else [ids for axes in own if is_power(axes, 1.0) for ids in axes]

    def _is_plain(self, value: Axes) -> bool:
        """Whether it is made of numbers that the program holds alone."""
        return not value.data and not value.leaves

    def _pin(self, value: Axes, why: str) -> None:
        for ids in value.nodes:
            self.nodes.pin(ids, why)


T = TypeVar("T")


def _once(found: Iterable[T]) -> tuple[T, ...]:
    """Each of these objects once."""
    return tuple({id(one): one for one in found}.values())


def _subsets(axes: Sequence[Ids]) -> list[tuple[Ids, ...]]:
    longer = [ids for ids in axes if len(ids) > 1]
    return [part for k in range(1, len(longer) + 1) for part in itertools.combinations(longer, k)]


def _leaves(values: Sequence[Axes]) -> frozenset[int]:
    return frozenset[int]().union(*(v.leaves for v in values if not v.data))


def _is_numeric(value: Any) -> bool:
    return bool(np.issubdtype(getattr(value, "dtype", type(value)), np.number))


def _number(name: str, params: Any, numbers: list[float | None]) -> float | None:
    """The number that an operation makes of numbers: how a program writes 1/√n."""
    if None in numbers or name not in _OF_NUMBERS:
        return None
    with np.errstate(all="ignore"):
        found = float(_OF_NUMBERS[name](*map(np.float64, numbers), **{k: params[k] for k in ("y",) if k in params}))
    return found if math.isfinite(found) else None


_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "mul": np.multiply, "div": np.divide, "pow": np.power,
    "integer_pow": lambda x, y: x**y, "square": np.square, "convert_element_type": lambda x: x, "copy": lambda x: x,
}  # fmt: skip

_MEET = "two activations meet"
_REPEATS = ("broadcast_in_dim", "reshape", "squeeze", "tile", "transpose")
_CHANCE = ("random_bits", "rng_bit_generator", "rng_uniform")

ELEMENTWISE = frozenset([
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil",
    "clamp", "complex", "conj", "convert_element_type", "copy", "copy_p", "cos", "cosh", "digamma", "div", "eq",
    "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac", "imag",
    "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne",
    "neg", "nextafter", "not", "or", "pow", "real", "rem", "round", "rsqrt", "select_n",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square",
    "stop_gradient", "sub", "tan", "tanh", "xor",
])  # fmt: skip
