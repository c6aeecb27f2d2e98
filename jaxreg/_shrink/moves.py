"""Operations that move, repeat, merge, cut or drop the indices of axes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxreg._shrink.nodes import Ids, Nodes
from jaxreg._shrink.reshapes import blocks

POSITIONS = "positions of an image"


class Moves:
    """The nodes of the results, given those of the operands."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._cuts: dict[bytes, list[Ids]] = {}
        self._copies: set[int] = set()  # the first nodes of axes along which entries of an array were repeated

    def broadcast(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        shape = eqn.params["shape"]
        nodes = [self._nodes.new(n) for n in shape]
        fresh = {int(ids[0]) for ids in nodes if len(ids)}
        for ids, axis in zip(operands[0], eqn.params["broadcast_dimensions"], strict=True):
            nodes[axis] = ids if len(ids) == shape[axis] else nodes[axis]
        if any(len(ids) > 1 and int(ids[0]) not in fresh for ids in nodes):
            self._copies |= fresh
        return [tuple(nodes)]

    def reshape(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        shape = eqn.outvars[0].aval.shape
        if eqn.params["dimensions"] is not None or 0 in shape:
            for ids in operands[0]:
                self._nodes.pin(ids, "its order counts")
            return [tuple(self._nodes.pinned("its order counts", n) for n in shape)]
        nodes = [self._nodes.new(n) for n in shape]
        for before, after in blocks([len(ids) for ids in operands[0]], shape):
            flat = self._flat([operands[0][i] for i in before])
            if len(after) == 1:
                nodes[after[0]] = flat
            else:
                self._nodes.multiply(flat, [nodes[i] for i in after])
        return [tuple(nodes)]

    def _flat(self, factors: list[Ids]) -> Ids:
        """The flat axis of several ones. Where the first repeats the others it is `tile`, as JAX 0.8 writes it."""
        first, *others = factors
        if others and int(first[0]) in self._copies and not all(int(ids[0]) in self._copies for ids in others):
            return np.tile(self._flat(others), len(first))
        return self._nodes.product(factors)

    def reduced(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        axes = eqn.params["axes"]
        why = {"reduce_sum": "a sum or mean over it", "reduce_max": "a maximum over it"}
        for operand in operands:
            for axis in axes:
                self._nodes.pin(operand[axis], why.get(eqn.primitive.name, "reduced"))
        return [tuple(ids for i, ids in enumerate(operands[0]) if i not in axes)] * len(eqn.outvars)

    def along(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        axis = eqn.params.get("axis", eqn.params.get("dimension"))
        for operand in operands:
            self._nodes.pin(operand[axis], "its order counts")
            for one, other in zip(operands[0], operand, strict=True):
                self._nodes.unite(one, other)
        return [tuple(operands[0])] * len(eqn.outvars)

    def concatenate(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        axis, nodes = eqn.params["dimension"], list(operands[0])
        for operand in operands[1:]:
            for i, ids in enumerate(operand):
                if i != axis:
                    self._nodes.unite(nodes[i], ids)
        nodes[axis] = np.concatenate([operand[axis] for operand in operands])
        return [tuple(nodes)]

    def stacked(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        for operand in operands[1:]:
            for one, other in zip(operands[0], operand, strict=True):
                self._nodes.unite(one, other)
        axis, nodes = eqn.params["axis"], list(operands[0])
        return [(*nodes[:axis], self._nodes.new(len(operands)), *nodes[axis:])]

    def pieces(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        """Of `split`: pieces of one length go on together, since code that says "in three" cuts a narrower axis so."""
        axis, found, start = eqn.params["axis"], [], 0
        for size in eqn.params["sizes"]:
            nodes = list(operands[0])
            nodes[axis] = nodes[axis][start : (start := start + size)]
            found.append(tuple(nodes))
        self._cut(operands[0][axis], [nodes[axis] for nodes in found])
        return found

    def unstacked(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        """Of `unstack`: the pieces of an axis, which each of them is without."""
        axis, nodes = eqn.params["axis"], operands[0]
        self._cut(nodes[axis], [nodes[axis][i : i + 1] for i in range(len(nodes[axis]))])
        return [tuple(ids for i, ids in enumerate(nodes) if i != axis)] * len(eqn.outvars)

    def sliced(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        strides = eqn.params["strides"] or (1,) * len(operands[0])
        bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], strides, strict=True)
        nodes = []
        for ids, (start, stop, stride) in zip(operands[0], bounds, strict=True):
            piece = ids[start:stop:stride]
            if len(piece) < len(ids):
                self._cuts.setdefault(ids.tobytes(), [ids]).append(piece)
            nodes.append(piece)
        return [tuple(nodes)]

    def _cut(self, whole: Ids, pieces: Sequence[Ids]) -> None:
        found = {piece.tobytes(): piece for piece in pieces}  # a slice that is taken twice is one piece
        distinct = list(found.values())
        sizes = {len(piece) for piece in distinct}
        if len(sizes) == 1 and sorted(np.concatenate(distinct).tolist()) == sorted(whole.tolist()):
            for piece in distinct[1:]:
                self._nodes.unite(distinct[0], piece)
        else:
            self._nodes.pin(whole, "cut at a fixed place")

    def finish(self) -> None:
        """Say of each axis that was sliced what its slices are, when all of them are known."""
        for whole, *pieces in self._cuts.values():
            self._cut(whole, pieces)

    def part(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        """Of `dynamic_slice` and `dynamic_update_slice`: axes taken whole stay, others have no fixed place."""
        whole, shape = operands[0], eqn.outvars[0].aval.shape
        is_update = eqn.primitive.name == "dynamic_update_slice"
        other = operands[1] if is_update else [self._nodes.new(n) for n in shape]
        nodes = []
        for ids, beside in zip(whole, other, strict=True):
            if len(ids) == len(beside):
                self._nodes.unite(ids, beside)
            else:
                self._nodes.pin(np.concatenate([ids, beside]), "looked up by an index")
            nodes.append(ids if is_update else beside)
        return [tuple(nodes)]

    def gather(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
        operand, indices = operands
        dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        kept = iter(
            [ids if size == len(ids) else None for i, (ids, size) in enumerate(zip(operand, sizes, strict=True))
             if i not in dropped]
        )  # fmt: skip
        for i, (ids, size) in enumerate(zip(operand, sizes, strict=True)):
            if size != len(ids) or i in dropped:
                self._nodes.pin(ids, "looked up by an index")
        batch = iter(indices[:-1])
        nodes = []
        for axis, n in enumerate(eqn.outvars[0].aval.shape):
            found = next(kept) if axis in numbers.offset_dims else next(batch)
            nodes.append(self._nodes.pinned("looked up by an index", n) if found is None else found)
        return [tuple(nodes)]

    def pad(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        nodes = []
        for ids, (low, high, inner) in zip(operands[0], eqn.params["padding_config"], strict=True):
            if min(low, high) < 0 or inner:
                self._nodes.pin(ids, "padded")
                nodes.append(self._nodes.pinned("padded", len(ids) + low + high + inner * max(len(ids) - 1, 0)))
            else:
                around = (self._nodes.pinned("padded", low), ids, self._nodes.pinned("padded", high))
                nodes.append(np.concatenate(around) if low or high else ids)
        return [tuple(nodes)]

    def windows(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        params, nodes = eqn.params, []
        for axis, (ids, n) in enumerate(zip(operands[0], eqn.outvars[0].aval.shape, strict=True)):
            if params["window_dimensions"][axis] == 1 and n == len(ids):
                nodes.append(ids)
            else:
                self._nodes.pin(ids, POSITIONS)
                nodes.append(self._nodes.pinned(POSITIONS, n))
        return [tuple(nodes)]

    def drawn(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        """Of random bits: a narrower network draws fewer."""
        del operands
        return [tuple(self._nodes.new(n) for n in out.aval.shape) for out in eqn.outvars]

    def counted(self, eqn: Any, operands: list[Any]) -> list[tuple[Ids, ...]]:
        """Of `iota`: numbers of positions."""
        del operands
        nodes = [self._nodes.new(n) for n in eqn.outvars[0].aval.shape]
        self._nodes.pin(nodes[eqn.params["dimension"]], "its order counts")
        return [tuple(nodes)]


RULES: dict[str, Callable[[Moves, Any, list[Any]], list[tuple[Ids, ...]]]] = {
    "broadcast_in_dim": Moves.broadcast,
    "reshape": Moves.reshape,
    "iota": Moves.counted,
    **dict.fromkeys(["random_bits", "random_wrap", "random_unwrap", "random_fold_in", "random_split"], Moves.drawn),
    "concatenate": Moves.concatenate,
    "stack": Moves.stacked,
    "tile": lambda _, eqn, o: [tuple(np.tile(ids, n) for ids, n in zip(o[0], eqn.params["reps"], strict=True))],
    "split": Moves.pieces,
    "unstack": Moves.unstacked,
    "slice": Moves.sliced,
    "gather": Moves.gather,
    "pad": Moves.pad,
    "transpose": lambda _, eqn, operands: [tuple(operands[0][i] for i in eqn.params["permutation"])],
    "rev": lambda _, eqn, o: [tuple(d[::-1] if i in eqn.params["dimensions"] else d for i, d in enumerate(o[0]))],
    "squeeze": lambda _, eqn, o: [tuple(d for i, d in enumerate(o[0]) if i not in eqn.params["dimensions"])],
    **dict.fromkeys(["dynamic_slice", "dynamic_update_slice"], Moves.part),
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort"], Moves.along),
    **dict.fromkeys(["reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"], Moves.windows),
    **dict.fromkeys(
        ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"],
        Moves.reduced,
    ),
}
