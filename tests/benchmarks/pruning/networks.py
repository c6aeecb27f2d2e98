"""Four small networks over dictionaries with the names and layouts of PyTorch; `torch_networks.py` has them again."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = Mapping[str, Any]
SIZE = 6  # of an attention head


@dataclasses.dataclass(frozen=True)
class Network:
    """A network; `kinds` has the units that can go on paper: what they are, and how many there are."""

    name: str
    apply: Callable[[Params, Any], Any]
    shapes: Mapping[str, tuple[int, ...]]
    inputs: Any
    kinds: Mapping[str, int]

    def params(self) -> dict[str, np.ndarray]:
        """Random numbers: weights keep the size of what comes in, scales and variances are about 1."""
        rng, found = np.random.default_rng(0), {}
        for name, shape in self.shapes.items():
            if len(shape) > 1:
                found[name] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
            else:
                found[name] = rng.uniform(0.5, 1.5, shape) * (1 if name.endswith(("weight", "var")) else 0.2)
        return {name: array.astype(np.float32) for name, array in found.items()}


def _conv(name: str, i: int, o: int, k: int = 3, bias: bool = False) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (o, i, k, k)} | ({f"{name}.bias": (o,)} if bias else {})


def _dense(name: str, i: int, o: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (o, i)} | ({f"{name}.bias": (o,)} if bias else {})


def _norm(name: str, n: int, running: bool = False) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{leaf}": (n,) for leaf in ["weight", "bias", *["running_mean", "running_var"] * running]}


def conv(p: Params, name: str, x: Any, stride: int = 1) -> Any:
    w = p[f"{name}.weight"]
    pad = [(w.shape[2] // 2,) * 2] * 2
    y = jax.lax.conv_general_dilated(x, w, (stride, stride), pad, dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return y + p[f"{name}.bias"][:, None, None] if f"{name}.bias" in p else y


def dense(p: Params, name: str, x: Any) -> Any:
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def batch_norm(p: Params, name: str, x: Any) -> Any:
    weight, bias, mean, var = (
        p[f"{name}.{a}"][:, None, None] for a in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * weight + bias


def layer_norm(p: Params, name: str, x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def rms_norm(p: Params, name: str, x: Any) -> Any:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"]


def block(p: Params, name: str, x: Any, stride: int = 1) -> Any:
    h = jax.nn.relu(batch_norm(p, f"{name}.norm1", conv(p, f"{name}.conv1", x, stride)))
    h = batch_norm(p, f"{name}.norm2", conv(p, f"{name}.conv2", h))
    if f"{name}.conv3.weight" in p:
        x = batch_norm(p, f"{name}.norm3", conv(p, f"{name}.conv3", x, stride))
    return jax.nn.relu(h + x)


def resnet(p: Params, x: Any) -> Any:
    h = jax.nn.relu(batch_norm(p, "norm", conv(p, "stem", x)))
    h = block(p, "block3", block(p, "block2", block(p, "block1", h), 2))
    return dense(p, "head", h.mean((2, 3)))


def _block(name: str, i: int, inside: int, o: int) -> dict[str, tuple[int, ...]]:
    both = _conv(f"{name}.conv1", i, inside) | _norm(f"{name}.norm1", inside, True)
    both |= _conv(f"{name}.conv2", inside, o) | _norm(f"{name}.norm2", o, True)
    return both | (_conv(f"{name}.conv3", i, o, 1) | _norm(f"{name}.norm3", o, True) if i != o else {})


def rotate(x: Any) -> Any:
    """Rotary positions of (batch, positions, heads, size): pairs are an index and the one half a size after it."""
    angles = np.outer(np.arange(x.shape[1]), 100.0 ** (-np.arange(SIZE // 2) / (SIZE // 2))).astype(np.float32)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def llama(p: Params, tokens: Any) -> Any:
    x = p["embed.weight"][tokens]
    h = rms_norm(p, "norm1", x)
    q, k, v = (dense(p, name, h) for name in ("q", "k", "v"))
    q, k = (rotate(y.reshape(*y.shape[:2], -1, SIZE)) for y in (q, k))
    v = v.reshape(*k.shape[:3], -1)
    k, v = (jnp.repeat(y, q.shape[2] // k.shape[2], axis=2) for y in (k, v))
    scores = jnp.einsum("bthk,bshk->bhts", q, k) / np.sqrt(SIZE).astype(np.float32)
    scores = jnp.where(np.tril(np.ones(scores.shape[2:], bool)), scores, -jnp.inf)
    mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v)
    x = x + dense(p, "o", mixed.reshape(*mixed.shape[:2], -1))
    h = rms_norm(p, "norm2", x)
    x = x + dense(p, "down", jax.nn.silu(dense(p, "gate", h)) * dense(p, "up", h))
    return dense(p, "head", rms_norm(p, "norm3", x))


def vit(p: Params, x: Any) -> Any:
    w = p["patch.weight"]
    x = jax.lax.conv_general_dilated(x, w, w.shape[2:], "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1) + p["patch.bias"]
    x = jnp.concatenate([jnp.broadcast_to(p["token"], (len(x), 1, x.shape[2])), x], axis=1) + p["positions"]
    h = dense(p, "qkv", layer_norm(p, "norm1", x))
    q, k, v = jnp.moveaxis(h.reshape(*h.shape[:2], 3, -1, SIZE), 2, 0)
    scores = jnp.einsum("bthk,bshk->bhts", q, k) / np.sqrt(SIZE).astype(np.float32)
    mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v)
    x = x + dense(p, "o", mixed.reshape(*mixed.shape[:2], -1))
    x = x + dense(p, "fc2", jax.nn.gelu(dense(p, "fc1", layer_norm(p, "norm2", x)), approximate=False))
    return dense(p, "head", layer_norm(p, "norm3", x)[:, 0])


def unet(p: Params, x: Any) -> Any:
    def down(h: Any) -> Any:
        return h.reshape(*h.shape[:2], h.shape[2] // 2, 2, h.shape[3] // 2, 2).max((3, 5))

    def up(h: Any) -> Any:
        return jnp.repeat(jnp.repeat(h, 2, axis=2), 2, axis=3)

    first = jax.nn.relu(conv(p, "down1", x))
    second = jax.nn.relu(conv(p, "down2", down(first)))
    h = jax.nn.relu(conv(p, "middle2", jax.nn.relu(conv(p, "middle1", down(second)))))
    h = jax.nn.relu(conv(p, "up2", jnp.concatenate([second, up(h)], axis=1)))
    h = jax.nn.relu(conv(p, "up1", jnp.concatenate([first, up(h)], axis=1)))
    return conv(p, "head", h)


def _images(channels: int, side: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, channels, side, side)).astype(np.float32)


NETWORKS = (
    Network(
        "ResNet",
        resnet,
        _conv("stem", 3, 8) | _norm("norm", 8, True) | _block("block1", 8, 6, 8) | _block("block2", 8, 10, 12)
        | _block("block3", 12, 14, 12) | _dense("head", 12, 5),
        _images(3, 8),
        {"first stream": 8, "second stream": 12, "in block1": 6, "in block2": 10, "in block3": 14},
    ),
    Network(
        "Llama-like block",
        llama,
        {"embed.weight": (11, 16), "norm1.weight": (16,), "norm2.weight": (16,), "norm3.weight": (16,)}
        | _dense("q", 16, 4 * SIZE, False) | _dense("k", 16, 2 * SIZE, False) | _dense("v", 16, 2 * SIZE, False)
        | _dense("o", 4 * SIZE, 16, False) | _dense("gate", 16, 20, False) | _dense("up", 16, 20, False)
        | _dense("down", 20, 16, False) | _dense("head", 16, 11, False),
        np.array([[1, 5, 3, 10, 0], [2, 2, 7, 4, 9]]),
        {"hidden": 20, "heads of keys": 2, "queries of each": 2, "size of values": SIZE},
    ),
    Network(
        "ViT",
        vit,
        {"token": (1, 1, 16), "positions": (1, 5, 16)} | _conv("patch", 3, 16, 4, True)
        | _dense("qkv", 16, 3 * 4 * SIZE) | _dense("o", 4 * SIZE, 16) | _dense("fc1", 16, 20) | _dense("fc2", 20, 16)
        | _norm("norm1", 16) | _norm("norm2", 16) | _norm("norm3", 16) | _dense("head", 16, 5),
        _images(3, 8),
        {"heads": 4, "hidden": 20},
    ),
    Network(
        "U-Net",
        unet,
        _conv("down1", 1, 6, bias=True) | _conv("down2", 6, 8, bias=True) | _conv("middle1", 8, 10, bias=True)
        | _conv("middle2", 10, 12, bias=True) | _conv("up2", 20, 9, bias=True) | _conv("up1", 15, 7, bias=True)
        | _conv("head", 7, 2, 1, True),
        _images(1, 8),
        {"first skip": 6, "second skip": 8, "middle": 10, "deepest": 12, "up": 9, "last": 7},
    ),
)  # fmt: skip
