"""The global-local module by its definition: explicit attention matrices, one tap at a time, no padding anywhere."""
import math

import torch


def on_tokens(layer, x):
    """What `hybrid_mm.layers.GlobalLocal` computes of one sequence: (B, N, C) -> (B, N, C), from the weights of `layer`."""
    everywhere = [list(range(x.shape[1]))]
    return _global_local(layer, x, everywhere, lambda t, offset: t + offset)


def on_map(layer, x, window_size, attend_globally):
    """The same of a map, (B, C, H, W) -> (B, C, H, W): convolution in windows read row by row, attention in windows or not."""
    H, W = x.shape[2:]
    windows = {}
    for t in range(H * W):
        windows.setdefault((t // W // window_size, t % W // window_size), []).append(t)
    everywhere = [list(range(H * W))]

    def neighbour(t, offset):
        """The position `offset` behind t in its window, or None where that is not on the map."""
        top, left = (t // W) // window_size * window_size, (t % W) // window_size * window_size
        place = (t // W - top) * window_size + (t % W - left) + offset
        row, col = top + place // window_size, left + place % window_size
        inside = 0 <= place < window_size**2 and row < H and col < W
        return row * W + col if inside else None

    tokens = x.flatten(2).transpose(1, 2)
    out = _global_local(layer, tokens, everywhere if attend_globally else list(windows.values()), neighbour)
    return out.transpose(1, 2).reshape(x.shape)


def _global_local(layer, x, groups, neighbour):
    parts = []
    if layer.attn is not None:
        parts.append(attention(layer.attn, x[:, :, :layer.global_channels], groups))
    if layer.conv is not None:
        parts.append(convolution(layer.conv, x[:, :, x.shape[2] - layer.local_channels:], neighbour))
    return torch.cat(parts, dim=2)


def attention(layer, x, groups):
    """(B, N, C) -> (B, N, C): the tokens of each group attend to one another."""
    qkv = x @ layer.qkv.weight.T + layer.qkv.bias
    q, k, v = qkv.split(qkv.shape[2] // 3, dim=2)
    d = q.shape[2] // layer.num_heads
    out = torch.zeros_like(q)
    for group in groups:
        for h in range(layer.num_heads):
            part = slice(h * d, (h + 1) * d)
            logits = q[:, group, part] @ k[:, group, part].transpose(1, 2) / math.sqrt(d)
            out[:, group, part] = logits.softmax(2) @ v[:, group, part]
    return out @ layer.proj.weight.T + layer.proj.bias


def convolution(layer, x, neighbour):
    """(B, N, C) -> (B, N, C): `neighbour` says which token stands under which tap, if any."""
    N = x.shape[1]
    a, b = (x @ layer.expand.weight[:, :, 0].T + layer.expand.bias).chunk(2, dim=2)
    gated = a * torch.sigmoid(b)
    kernel = layer.depthwise.weight[:, 0]
    reach = kernel.shape[1] // 2
    y = layer.depthwise.bias.expand_as(gated)
    for tap in range(kernel.shape[1]):
        pairs = [(t, neighbour(t, tap - reach)) for t in range(N)]
        pairs = [(t, source) for t, source in pairs if source is not None and 0 <= source < N]
        targets, sources = zip(*pairs) if pairs else ((), ())
        taken = torch.zeros(N, N, dtype=x.dtype)
        taken[list(targets), list(sources)] = 1.
        y = y + (taken @ gated) * kernel[:, tap]
    y = batch_norm(layer.norm, y)
    return (y * torch.sigmoid(y)) @ layer.project.weight[:, :, 0].T + layer.project.bias


def batch_norm(norm, y):
    """(B, N, C) -> (B, N, C), with the statistics of these B * N tokens in training; the running ones are left alone."""
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        mean, var = y.mean((0, 1)), y.var((0, 1), unbiased=False)
    return (y - mean) / torch.sqrt(var + norm.eps) * norm.weight + norm.bias
