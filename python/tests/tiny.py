"""A port of Gemma in plain torch, as people write them: Gemma 1's norms, grouped queries, and an activation and a
rotary embedding that are functions, not modules."""

import torch
from torch import Tensor, nn


def apply_rotary_emb(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `[B, T, heads, head_dim]`."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RMSNorm(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size) / 8)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight.float())).type_as(x)


class Attention(nn.Module):
    def __init__(self, size: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.q_proj = nn.Linear(size, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(size, head_dim, bias=False)
        self.v_proj = nn.Linear(size, head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        batch, length, _ = hidden_states.shape
        angles = torch.arange(length)[:, None] * 1e4 ** -torch.linspace(0, 1, self.head_dim // 2)
        cos, sin = (table[:, None].to(hidden_states.dtype) for table in (angles.cos(), angles.sin()))
        q, k, v = (
            project(hidden_states).view(batch, length, -1, self.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = apply_rotary_emb(q, cos, sin), apply_rotary_emb(k, cos, sin)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, size: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(size), RMSNorm(size)
        self.self_attn = Attention(size, heads=4, head_dim=8)
        self.mlp = Mlp(size, 2 * size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(hidden_states=self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    def __init__(self, size: int, layers: int):
        super().__init__()
        self.blocks = nn.ModuleList(Layer(size) for _ in range(layers))
        self.norm = RMSNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Port(nn.Module):
    """Returns logits `[B, T, 50]` of token ids `[B, T]`."""

    def __init__(self, size: int = 16, layers: int = 2):
        super().__init__()
        self.embedder = nn.Embedding(50, size)
        self.backbone = Backbone(size, layers)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedder(ids) * self.embedder.embedding_dim**0.5
        return self.backbone(x) @ self.embedder.weight.T
