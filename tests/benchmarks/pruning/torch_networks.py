"""The networks of `networks.py` as PyTorch modules, with the same names of parameters."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.pruning.networks import SIZE, Network


def _conv(i: int, o: int, k: int = 3, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, stride, k // 2, bias=bias)


class Block(nn.Module):
    def __init__(self, i: int, inside: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(i, inside, stride=stride), nn.BatchNorm2d(inside)
        self.conv2, self.norm2 = _conv(inside, o), nn.BatchNorm2d(o)
        if i != o:
            self.conv3, self.norm3 = _conv(i, o, 1, stride), nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + (self.norm3(self.conv3(x)) if hasattr(self, "conv3") else x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = _conv(3, 8), nn.BatchNorm2d(8)
        self.block1, self.block2, self.block3 = Block(8, 6, 8), Block(8, 10, 12, 2), Block(12, 14, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(F.relu(self.norm(self.stem(x))))))
        return self.head(h.mean((2, 3)))


class RMSNorm(nn.Module):
    """Written out, as Hugging Face does: `nn.RMSNorm` keeps its width apart from its weight."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def _rotate(x: Tensor) -> Tensor:
    """Rotary positions of (batch, heads, positions, size)."""
    angles = np.outer(np.arange(x.shape[2]), 100.0 ** (-np.arange(SIZE // 2) / (SIZE // 2)))
    cos, sin = (torch.tensor(np.tile(f(angles), 2), dtype=x.dtype) for f in (np.cos, np.sin))
    a, b = x[..., : SIZE // 2], x[..., SIZE // 2 :]
    return x * cos + torch.cat([-b, a], dim=-1) * sin


def _repeat(x: Tensor, n: int) -> Tensor:
    """Each head n times; written, as all of the Llama here, as Hugging Face does."""
    shape = x.shape
    return x[:, :, None].expand(shape[0], shape[1], n, *shape[2:]).reshape(shape[0], n * shape[1], *shape[2:])


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2, self.norm3 = nn.Embedding(11, 16), RMSNorm(16), RMSNorm(16), RMSNorm(16)
        self.q, self.o = nn.Linear(16, 4 * SIZE, bias=False), nn.Linear(4 * SIZE, 16, bias=False)
        self.k, self.v = nn.Linear(16, 2 * SIZE, bias=False), nn.Linear(16, 2 * SIZE, bias=False)
        self.gate, self.up = nn.Linear(16, 20, bias=False), nn.Linear(16, 20, bias=False)
        self.down, self.head = nn.Linear(20, 16, bias=False), nn.Linear(16, 11, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        h = self.norm1(x)
        q, k = (y.view(*y.shape[:2], -1, SIZE).transpose(1, 2) for y in (self.q(h), self.k(h)))
        v = self.v(h).view(*h.shape[:2], k.shape[1], -1).transpose(1, 2)
        repeats = q.shape[1] // k.shape[1]
        q, k, v = _rotate(q), _repeat(_rotate(k), repeats), _repeat(v, repeats)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.o(mixed.reshape(*mixed.shape[:2], -1))
        h = self.norm2(x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.head(self.norm3(x))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 5, 16))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.o = nn.Linear(16, 3 * 4 * SIZE), nn.Linear(4 * SIZE, 16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 20), nn.Linear(20, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        h = self.qkv(self.norm1(x))
        q, k, v = h.reshape(*h.shape[:2], 3, -1, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.o(mixed.reshape(*mixed.shape[:2], -1))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = _conv(1, 6, bias=True), _conv(6, 8, bias=True)
        self.middle1, self.middle2 = _conv(8, 10, bias=True), _conv(10, 12, bias=True)
        self.up2, self.up1, self.head = _conv(20, 9, bias=True), _conv(15, 7, bias=True), _conv(7, 2, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down1(x))
        second = F.relu(self.down2(F.max_pool2d(first, 2)))
        h = F.relu(self.middle2(F.relu(self.middle1(F.max_pool2d(second, 2)))))
        h = F.relu(self.up2(torch.cat([second, F.interpolate(h, scale_factor=2)], dim=1)))
        h = F.relu(self.up1(torch.cat([first, F.interpolate(h, scale_factor=2)], dim=1)))
        return self.head(h)


MODULES: dict[str, Any] = {"ResNet": ResNet, "Llama-like block": Llama, "ViT": ViT, "U-Net": UNet}


def module(network: Network) -> nn.Module:
    """The module with the parameters of the network, in inference."""
    built = MODULES[network.name]().eval()
    params = {name: torch.from_numpy(array) for name, array in network.params().items()}
    lost = built.load_state_dict(params, strict=False)
    assert not lost.unexpected_keys and all("num_batches_tracked" in name for name in lost.missing_keys), lost
    return built
