"""One unit of every kind is set to 0 and removed: does the network still run, and compute what it did?"""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxreg
from tests.benchmarks import peers
from tests.benchmarks.pruning.networks import SIZE, Network

OURS, DEPGRAPH, TOLD = "jaxreg", "Torch-Pruning", "Torch-Pruning, told the heads"
SECONDS, TOLERANCE = 5, 1e-5
# What Torch-Pruning is told, as in its example for language models: how many heads each layer has.
HEADS = {"ViT": {"qkv": 4}, "Llama-like block": {"q": 4, "k": 2, "v": 2}}


@dataclasses.dataclass(frozen=True)
class Removal:
    """What came of removing a dead unit: the change of the output over its greatest entry, or an error."""

    network: str
    library: str
    unit: str
    units: int | None
    change: float | None = None
    error: str | None = None

    @property
    def same(self) -> bool:
        return self.change is not None and self.change <= TOLERANCE


def ours(network: Network) -> list[Removal]:
    params = network.params()
    found, inputs = [], jnp.asarray(network.inputs)
    for family in jaxreg.units(network.apply, params, inputs):
        dead = {name: array.copy() for name, array in params.items()}
        for part in family.parts:
            np.moveaxis(dead[part.path], part.axis, 0)[part.labels == 0] = 0
        small = jaxreg.shrink(dead, network.apply, inputs)
        row = Removal(network.name, OURS, str(family), family.size)
        if all(small[part.path].shape == dead[part.path].shape for part in family.parts):
            found.append(dataclasses.replace(row, error="the unit stays"))
        else:
            change = _change(network.apply(dead, inputs), network.apply(small, inputs))
            found.append(dataclasses.replace(row, change=change))
    return found


def theirs(network: Network) -> list[Removal]:
    """Every group of the dependency graph, index 0 of it; then a head, where the pruner is told of them."""
    from tests.benchmarks.pruning.torch_networks import module

    groups: dict[str, int] = {}
    found = []
    both = network.apply(network.params(), network.inputs), _output(module(network), network)
    if not _change(*both) <= TOLERANCE:
        raise AssertionError(f"{network.name} is not the same network in JAX and in PyTorch")
    model, graph = _graph(network)
    names = {layer: name for name, layer in model.named_modules()}
    try:
        with _asked(), _limited():
            for group in graph.get_all_groups(ignored_layers=[model.head]):
                groups[names[group[0].dep.target.module]] = len(group[0].idxs)
    except PeerError as error:
        found.append(Removal(network.name, DEPGRAPH, "search for groups", None, error=str(error)))
    found = [_removed(network, name, size) for name, size in groups.items()] + found
    return found + ([_told(network)] if network.name in HEADS else [])


def _removed(network: Network, name: str, size: int) -> Removal:
    row = Removal(network.name, DEPGRAPH, name, size)
    model, graph = _graph(network)
    layer = model.get_submodule(name)
    try:
        with _asked():
            group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, idxs=[0])
        for dep, indices in group:
            _zero(
                dep.target.module, [getattr(i, "idx", i) for i in indices], graph.is_in_channel_pruning_fn(dep.handler)
            )
        before = _output(model, network)
        with _asked():
            group.prune()
            after = _output(model, network)
    except PeerError as error:
        return dataclasses.replace(row, error=str(error))
    return dataclasses.replace(row, change=_change(before, after))


def _told(network: Network) -> Removal:
    """The first head is 0 (of each head of keys its first query), so it is the least important one; that is to go."""
    import torch_pruning

    heads = HEADS[network.name]
    most, shared = max(heads.values()), min(heads.values()) if len(heads) > 1 else 1
    row = Removal(network.name, TOLD, ", ".join(heads), most)
    model, _ = _graph(network)
    writer = model.get_submodule(next(iter(heads)))
    thirds = 3 if len(heads) == 1 else 1
    with peers.torch.no_grad():
        for parameter in writer.parameters():
            parameter.unflatten(0, (thirds, shared, most // shared, SIZE))[:, :, 0] = 0
        model.o.weight.unflatten(1, (shared, most // shared, SIZE))[:, :, 0] = 0
    before = _output(model, network)
    layers = [layer for layer in model.modules() if isinstance(layer, (peers.torch.nn.Linear, peers.torch.nn.Conv2d))]
    num_heads = {model.get_submodule(name): n for name, n in heads.items()}
    try:
        with _asked(), _limited():
            pruner = torch_pruning.pruner.BasePruner(
                model,
                peers.torch.from_numpy(network.inputs),
                importance=torch_pruning.importance.GroupMagnitudeImportance(),
                pruning_ratio=shared / most,  # with 0 it removes no heads either
                head_pruning_ratio=shared / most,
                ignored_layers=[layer for layer in layers if layer not in num_heads],
                num_heads=num_heads,
                prune_num_heads=True,
                prune_head_dims=False,
            )
            pruner.step()
            after = _output(model, network)
    except PeerError as error:
        return dataclasses.replace(row, error=str(error))
    went = model.o.in_features == (most - shared) * SIZE
    return dataclasses.replace(
        row, change=_change(before, after) if went else None, error=None if went else "no head went"
    )


def _graph(network: Network) -> tuple[Any, Any]:
    import torch_pruning

    from tests.benchmarks.pruning.torch_networks import module

    model = module(network)
    graph = torch_pruning.DependencyGraph()
    return model, graph.build_dependency(model, peers.torch.from_numpy(network.inputs), verbose=False)


def _zero(layer: Any, indices: list[int], reads: bool) -> None:
    """Set to 0 what a layer has of the units: rows of what makes them, columns of what reads them."""
    nn = peers.torch.nn
    with peers.torch.no_grad():
        if isinstance(layer, nn.Parameter):
            layer[..., indices] = 0
        elif isinstance(layer, nn.Embedding) or (reads and isinstance(layer, (nn.Linear, nn.Conv2d))):
            layer.weight[:, indices] = 0
        else:
            for parameter in layer.parameters():  # operations without parameters are nodes of the graph too
                parameter[indices] = 0


def _output(model: Any, network: Network) -> Any:
    with peers.torch.no_grad():
        return model(peers.torch.from_numpy(network.inputs)).numpy()


def _change(before: Any, after: Any) -> float:
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return float(np.abs(after - before).max() / np.abs(before).max())


class PeerError(Exception):
    """What the other library raised, in one line."""


@contextlib.contextmanager
def _asked() -> Iterator[None]:
    """Around what the other library does, and nothing else: what goes wrong there is what is measured."""
    try:
        yield
    except Exception as error:  # of whatever type: a row of the table says it
        raise PeerError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Seconds of processor time, for a search that may not end."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
