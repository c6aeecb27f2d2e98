"""shrink: remove the units of a network that contribute nothing."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxreg._core import checks
from jaxreg._rules.paths import flatten_with_paths, is_hidden
from jaxreg._shrink.layer import Layer, Mask
from jaxreg._shrink.remove import without_dead
from jaxreg._shrink.units import units

Activation = Callable[[Any], Any]


def shrink(
    params: Any,
    graph: Sequence[tuple[str, str]] | Callable[..., Any],
    *inputs: Any,
    activation: Activation | None = None,
    transposed: Sequence[str] | None = None,
) -> Any:
    """Remove the units that contribute nothing; the function computed stays the same, to rounding.

    `shrink(params, apply, *inputs)` finds the units in the program of `apply(params, *inputs)`, by `jaxreg.units`:
    heads, channels, residual streams, tied and concatenated layers, whatever the activation. A unit goes if in every
    sum that reads it each summand is exactly 0, because of the weights or of the unit, or is the same for every input
    and goes into the bias that is added to that sum (not through convolutions, see below). A module that
    keeps its shapes is built anew with the widths of the new arrays:

        Linen     smaller = jaxreg.shrink(params, lambda p, x: model.apply({"params": p}, x), x)
                  MLP(features=smaller["Dense_0"]["kernel"].shape[1]).apply({"params": smaller}, x)
                  of `nn.MultiHeadDotProductAttention`: heads, size = smaller[...]["query"]["kernel"].shape[1:]; then
                  num_heads=heads, qkv_features=heads * size (it has one size for keys and values: where values lost
                  some of theirs, write the attention out); of `nn.GroupNorm` with as many groups fewer
        NNX       graphdef, state = nnx.split(model)
                  smaller = jaxreg.shrink(state, lambda s, x: nnx.merge(graphdef, s)(x), x)
                  nnx.update(MLP(smaller["hidden"]["kernel"].shape[1], rngs), smaller)
        Equinox   arrays, static = eqx.partition(model, eqx.is_array)
                  smaller = jaxreg.shrink(arrays, lambda a, x: jax.vmap(eqx.combine(a, static))(x), x)
                  arrays, static = eqx.partition(MLP(smaller.hidden.weight.shape[0], key), eqx.is_array)
                  eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), jax.tree.leaves(smaller)), static)

    `shrink(params, graph)` is told which layer reads which, for trees without their program. Then a unit (an
    output of a dense layer, a channel of a convolution) goes if, for every layer that reads it,

    - all weights of that layer for it are exactly 0, or
    - it is always 0: its incoming weights and its bias are exactly 0 (in a batch normalization: scale and bias, or all
      before it with mean and bias), and the activation of 0 is 0. Without `activation` that is assumed: it holds for
      relu, gelu, silu, tanh, not for sigmoid and softplus; or
    - `activation` is given, the unit has no incoming weights, and its constant output activation(bias) is 0, or can be
      added to the bias of the dense layers that read it (from dense to dense layers only: zero padding at borders makes
      a constant channel of a convolution no constant).

    In both, any other unit with a constant output stays. Removing units can leave others without readers, so this is
    repeated until nothing goes; the last unit of a layer always stays.

    The layers of a network of these sizes are built with the widths of the new arrays: Linen modules with smaller
    `features`; for NNX construct the smaller model and `nnx.update(model, smaller_state)`.

    Args:
        params: Linen parameters, or all variables with their collections (`{"params": ..., "batch_stats": ...}`); an
            NNX state; any tree with leaves called kernel, bias, scale, embedding, mean, var at the paths of modules.
        graph: pairs (producer, consumer) of module paths, such as `("Dense_0", "Dense_1")`: who reads whose units.
            A batch normalization stands between: `("Conv_0", "BatchNorm_0"), ("BatchNorm_0", "Conv_1")`. Producers with
            a common consumer are added up before it (residual connections) and shrink together. A dense layer may read
            a flattened convolution (channels last, as in Flax). Name all that write and all that read a unit; units
            that are added to the input or are the output of the network must not be named as those of a producer.
            Or the function `apply(params, *inputs)` of the network.
        *inputs: behind a function, its other arguments: arrays, or `jax.ShapeDtypeStruct`s of their shapes.
        activation: with a graph, the function between producers and consumers, elementwise.
        transposed: the modules whose kernels are (..., out, in): `ConvTranspose(transpose_kernel=True)`. It is asked
            for where the arrays do not tell, as for a convolution of as many inputs as outputs that Linen did not name
            (`Conv_0`); `[]` says that there is none.

    Raises:
        ValueError: there is no such module, or numbers of units do not fit, or a layer cannot shrink: one with several
            feature axes, stacked layers, a norm over the units (LayerNorm, GroupNorm, RMSNorm), a grouped convolution
            behind a producer (of one as the first producer arrays tell nothing, so name none); or a kernel may be
            (..., in, out) or (..., out, in), and `transposed` does not say which.
        TypeError: `graph` is no function and no sequence of pairs of paths, `transposed` none of paths, or `params`
            holds tracers; `inputs` stand beside a graph, or `activation` and `transposed` beside a function.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> params = {
        ...     "Dense_0": {"kernel": jnp.array([[1.0, 0.0, 3.0]]), "bias": jnp.zeros(3)},
        ...     "Dense_1": {"kernel": jnp.array([[4.0], [5.0], [0.0]]), "bias": jnp.ones(1)},
        ... }
        >>> smaller = jaxreg.shrink(params, [("Dense_0", "Dense_1")])
        >>> smaller["Dense_0"]["kernel"], smaller["Dense_1"]["kernel"]
        (Array([[1.]], dtype=float32), Array([[4.]], dtype=float32))

        The same from the program. A sigmoid of 0 is ½, and ½·5 goes into the bias:

        >>> def apply(params, x):
        ...     hidden, output = params["Dense_0"], params["Dense_1"]
        ...     return jax.nn.sigmoid(x @ hidden["kernel"] + hidden["bias"]) @ output["kernel"] + output["bias"]
        >>> smaller = jaxreg.shrink(params, apply, jnp.ones((1, 1)))
        >>> smaller["Dense_0"]["kernel"], smaller["Dense_1"]["bias"]
        (Array([[1.]], dtype=float32), Array([3.5], dtype=float32))
    """
    if callable(graph):
        return _by_program(params, graph, inputs, activation, transposed)
    if inputs:
        raise TypeError(
            f"`shrink(params, graph)` takes no inputs, got {checks.short(inputs)}. They belong to a function, "
            "`shrink(params, apply, *inputs)`; write `activation=` and `transposed=` with their names."
        )
    edges = _edges(graph)
    paths, leaves, _, treedef = flatten_with_paths(params)
    _check_numbers(leaves)
    by_path = {path: leaf for path, leaf in zip(paths, leaves, strict=True) if not is_hidden(leaf)}
    if len(by_path) < sum(not is_hidden(leaf) for leaf in leaves):
        raise ValueError("`shrink`: two leaves have the same path; no key may contain '/'.")
    names = dict.fromkeys(name for edge in edges for name in edge)
    turned = _transposed(transposed, names)
    layers = {name: Layer(name, by_path, None if turned is None else name in turned) for name in names}
    spaces = _spaces(edges, layers)
    while any(space.remove(activation) for space in spaces):
        pass
    smaller = {path: array for layer in layers.values() for path, array in layer.leaves().items()}
    return treedef.unflatten([_smaller_leaf(leaf, smaller.get(path)) for path, leaf in zip(paths, leaves, strict=True)])


def _check_numbers(leaves: Iterable[Any]) -> None:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise TypeError("`shrink` needs numbers, for they decide the new shapes: call it outside of `jax.jit`.")


def _by_program(params: Any, apply: Callable[..., Any], inputs: tuple[Any, ...], activation: Any, kernels: Any) -> Any:
    if activation is not None or kernels is not None:
        raise TypeError(
            "`shrink(params, apply, *inputs)` reads activations and the axes of kernels in the program: leave out "
            "`activation=` and `transposed=`."
        )
    flat = flatten_with_paths(params)
    _check_numbers(flat.leaves)
    for path, leaf in zip(flat.paths, flat.leaves, strict=True):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(f"`shrink` needs numbers, got {checks.short(leaf)} at {checks.short(path)}.")
    smaller = without_dead(units(apply, params, *inputs))
    return flat.treedef.unflatten([_smaller_leaf(leaf, smaller.get(i)) for i, leaf in enumerate(flat.leaves)])


class _Space:
    """Units that shrink together: the layers that have them, and the layers that read them."""

    def __init__(self, members: list[Layer], readers: list[Layer], before: dict[str, list[Layer]]) -> None:
        self.members, self.readers, self.before = members, readers, before
        if not readers:
            raise ValueError(
                f"`shrink(graph=...)` does not say which layer reads the units of {checks.short(members[0].name)}."
            )
        for member in members:
            if member.units != self.units:
                raise ValueError(
                    f"`shrink(graph=...)`: {checks.short(members[0].name)} has {self.units} units and "
                    f"{checks.short(member.name)} {member.units}, but they are read, or normalized, together; "
                    "concatenation cannot shrink."
                )
            if member.is_norm and member.name not in before:
                raise ValueError(
                    f"`shrink(graph=...)` does not say whose units {checks.short(member.name)} normalizes."
                )
        for reader in readers:
            reader.check_inputs(self.units, members[0].name)
            reader.check_orientation([], alone=False)
        for member in members:
            member.check_orientation(readers, alone=len(members) == 1)

    @property
    def units(self) -> int:
        return self.members[0].units

    def remove(self, activation: Activation | None) -> bool:
        """Remove what contributes nothing; return whether there was any."""
        dead, folded = np.full(self.units, True), []
        for reader in self.readers:
            writers = self.before[reader.name]
            gone = reader.ignores(self.units) | self._is_zero(writers, activation)
            constant, output = self._constant_output(reader, writers, activation)
            folded.append((reader, constant & ~gone, output))
            dead &= gone | constant
        if dead.all():
            dead[np.flatnonzero(dead)[0]] = False
        for reader, constant, output in folded:
            if (constant & dead).any():
                reader.add_to_bias(constant & dead, output)
        for member in self.members:
            member.drop(~dead)
        for reader in self.readers:
            reader.drop_inputs(~dead)
        return bool(dead.any())

    def _is_zero(self, writers: list[Layer], activation: Activation | None) -> Mask:
        """Which units are always 0, wherever the activation stands."""
        if activation is not None and np.any(_apply(activation, np.zeros(1, np.float32))):
            return np.full(self.units, False)
        zero = np.full(self.units, True)
        for writer in writers:
            constant, value = writer.constant()
            always = constant & (value == 0)
            if writer.is_norm:
                always |= writer.keeps_zero() & self._is_zero(self.before[writer.name], activation)
            zero &= always
        return zero

    def _constant_output(
        self, reader: Layer, writers: list[Layer], activation: Activation | None
    ) -> tuple[Mask, NDArray[Any]]:
        """Which units reach a reader with a constant that is 0 or can go into its bias, and the constant."""
        if activation is None or len(writers) > 1:  # of a sum it is not known whether the activation is before or after
            return np.full(self.units, False), np.zeros(self.units)
        constant, value = writers[0].constant()
        output = _apply(activation, value)
        dense = all(member.is_norm or member.arrays[str(member.weights)].ndim == 2 for member in self.members)
        into_bias = dense and "bias" in reader.arrays and reader.reads_each_once(self.units)
        return constant & np.isfinite(output) & (into_bias | (output == 0)), output


def _edges(graph: Any) -> list[tuple[str, str]]:
    edges = [tuple(edge) if isinstance(edge, (tuple, list)) else edge for edge in _sequence(graph)]
    for edge in edges:
        if not isinstance(edge, tuple) or len(edge) != 2 or not all(isinstance(name, str) for name in edge):
            raise TypeError(f"`shrink(graph=...)`: an edge is a pair of module paths, got {checks.short(edge)}.")
    return list(dict.fromkeys(edges))


def _sequence(graph: Any) -> Sequence[Any]:
    if not isinstance(graph, (tuple, list)) or not graph:
        raise TypeError(f"`shrink(graph=...)` takes a list of (producer, consumer), got {checks.short(graph)}.")
    return graph


def _transposed(transposed: Any, names: Collection[str]) -> set[str] | None:
    if transposed is None:
        return None
    if isinstance(transposed, str) or not isinstance(transposed, Iterable):
        raise TypeError(f"`shrink(transposed=...)` takes a list of module paths, got {checks.short(transposed)}.")
    found = list(transposed)
    for name in found:
        if not isinstance(name, str) or name not in names:
            raise ValueError(
                f"`shrink(transposed=...)` names modules of the graph, {checks.short(list(names))}, got "
                f"{checks.short(name)}."
            )
    return set(found)


def _spaces(edges: list[tuple[str, str]], layers: dict[str, Layer]) -> list[_Space]:
    before: dict[str, list[str]] = {}
    for producer, consumer in edges:
        before.setdefault(consumer, []).append(producer)
    group = {name: {name} for name in layers}
    for consumer, producers in before.items():
        together = producers + [consumer] * layers[consumer].is_norm
        union = set().union(*(group[name] for name in together))
        group |= dict.fromkeys(union, union)
    writers = {consumer: [layers[name] for name in producers] for consumer, producers in before.items()}
    spaces = {id(group[producer]): group[producer] for producer, _ in edges}
    return [
        _Space(
            [layers[name] for name in layers if name in space],
            [layers[c] for c in before if not layers[c].is_norm and before[c][0] in space],
            writers,
        )
        for space in spaces.values()
    ]


def _apply(activation: Activation, values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(activation(jnp.asarray(values)))


def _smaller_leaf(leaf: Any, smaller: NDArray[Any] | None) -> Any:
    if smaller is None:
        return leaf
    return jnp.asarray(smaller) if isinstance(leaf, jax.Array) else smaller
