"""palm-tiny in PyTorch eager, as a PyTorch user would write it: the reference of the model
benchmark.

The same equations and sizes as model/palm.py; nothing is trained with it. Needs torch, which is no
dependency of the project: pip install torch.
"""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.nn import functional

from model.config import ModelConfig


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, h, k, f = config.model_dim, config.num_heads, config.head_dim, config.mlp_dim
        self.heads, self.head_dim = h, k
        self.norm = nn.LayerNorm(d, bias=False)
        self.query = nn.Linear(d, h * k, bias=False)
        self.key = nn.Linear(d, k, bias=False)
        self.value = nn.Linear(d, k, bias=False)
        self.out = nn.Linear(h * k, d, bias=False)
        self.gate = nn.Linear(d, f, bias=False)
        self.up = nn.Linear(d, f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        normal = self.norm(x)
        batch, length, _ = x.shape
        query = self.query(normal).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        key = self.key(normal).view(batch, length, 1, self.head_dim).transpose(1, 2)
        value = self.value(normal).view(batch, length, 1, self.head_dim).transpose(1, 2)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        shape = (batch, self.heads, length, self.head_dim)
        mixed = functional.scaled_dot_product_attention(
            query, key.expand(shape), value.expand(shape), is_causal=True
        )
        attention = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        mlp = self.down(functional.silu(self.gate(normal)) * self.up(normal))
        return x + mlp + attention


class Palm(nn.Module):
    def __init__(self, config: ModelConfig, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.model_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.model_dim, bias=False)
        frequency = 10_000.0 ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        angle = torch.arange(length)[:, None] * frequency
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of a slot, nats per token, z-loss included."""
        x = self.embedding(inputs)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        scaled = self.norm(x) * x.shape[-1] ** -0.5
        logits = functional.linear(scaled, self.embedding.weight)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss + 1e-4 * logits.logsumexp(-1).square().mean()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Slot:
    """Forward and backward of one slot of random tokens."""

    def __init__(self, config: ModelConfig, batch: int, length: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._model = Palm(config, length)
        self._inputs = torch.randint(0, 256, (batch, length))
        self._targets = torch.randint(0, 256, (batch, length))

    def seconds(self) -> float:
        start = time.perf_counter()
        self._model.zero_grad(set_to_none=True)
        self._model(self._inputs, self._targets).backward()
        return time.perf_counter() - start
