"""Plain, slow definitions of both forms of H-MHSA: loops over grids, explicit attention matrices, no padding anywhere."""
import math

import torch
import torch.nn.functional as F


def attention(q, k, v, num_heads):
    """(N, C), (M, C), (M, C) -> (N, C), one softmax a head."""
    d = q.shape[1] // num_heads
    heads = []
    for h in range(num_heads):
        part = slice(h * d, (h + 1) * d)
        logits = q[:, part] @ k[:, part].T / math.sqrt(d)
        heads.append(torch.softmax(logits, dim=1) @ v[:, part])
    return torch.cat(heads, dim=1)


def attend_in_grids(q, k, v, num_heads, grid):
    """(B, C, H, W) three times -> (B, C, H, W); grids at the edge are simply smaller."""
    B, C, H, W = q.shape
    out = torch.empty_like(q)
    for b in range(B):
        for top in range(0, H, grid):
            for left in range(0, W, grid):
                rows, cols = slice(top, top + grid), slice(left, left + grid)
                tokens = [t[b, :, rows, cols].reshape(C, -1).T for t in (q, k, v)]
                shape = q[b, :, rows, cols].shape
                out[b, :, rows, cols] = attention(*tokens, num_heads).T.reshape(shape)
    return out


def attend_globally(q, k, v, num_heads):
    """(B, C, H, W), (B, C, h, w), (B, C, h, w) -> (B, C, H, W)."""
    tokens = [[t[b].flatten(1).T for t in (q, k, v)] for b in range(q.shape[0])]
    return torch.stack([attention(*t, num_heads).T.reshape(q.shape[1:]) for t in tokens])


def pool(x, ratio, reduce):
    """Reduce ratio x ratio blocks to one position each; blocks at the edge hold what is there."""
    rows = []
    for top in range(0, x.shape[2], ratio):
        row = []
        for left in range(0, x.shape[3], ratio):
            row.append(reduce(x[:, :, top:top + ratio, left:left + ratio]))
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def mean(block):
    return block.mean(dim=(2, 3))


def maximum(block):
    return block.amax(dim=(2, 3))


def two_step(layer, x):
    """What `hybrid_mm.layers.HMHSA` computes, from the weights of `layer`."""
    q, k, v = layer.qkv(layer.norm(x)).chunk(3, dim=1)
    if layer.grid_size == 1:
        return layer.proj(attend_globally(q, k, v, layer.num_heads))
    z = layer.grid_norm(x + attend_in_grids(q, k, v, layer.num_heads, layer.grid_size))
    k, v = layer.kv(layer.pool_norm(pool(z, layer.pool_ratio, mean))).chunk(2, dim=1)
    return layer.proj(attend_globally(layer.q(z), k, v, layer.num_heads) + z)


def iterative(layer, x):
    """What `hybrid_mm.layers.IterativeHMHSA` computes, from the weights of `layer`."""
    H, W = x.shape[2:]
    maps, cell = [], 1
    for i, grid in enumerate(layer.grid_sizes):
        qkv = layer.qkvs[0 if layer.share_qkv else i](layer.norms[i](x))
        a = x + attend_in_grids(*qkv.chunk(3, dim=1), layer.num_heads, grid)
        size = a.shape[2] * cell, a.shape[3] * cell
        maps.append(F.interpolate(a, size, mode='bilinear', align_corners=False)[:, :, :H, :W])
        x = pool(a, grid, maximum) + pool(a, grid, mean)
        cell *= grid
    return layer.proj(sum(maps))
