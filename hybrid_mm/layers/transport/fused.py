"""`transport` of `plain.py` in a few Triton kernels that store no (n, m) array, for CUDA tensors in float32.

A program takes a share of the tokens of one head, block by block, and computes the logits of a block and all references anew
from the keys wherever it needs them. Everything stays in the log domain, so no eps underflows. With C the logarithms of column
sums, 0 at first, one iteration is

.. code-block:: text

    f_i = -logsumexp_j(L_ij - C_j)     stays in registers; minus infinity for padding
    C_j =  logsumexp_i(L_ij + f_i)     a program stores the part of its share, those of a head are joined

which is Sinkhorn up to constants: the plan's columns are ``softmax_i(L + f) / m``. The kernels, for I iterations:

.. code-block:: text

    forward   iterate    I times; the last one also pools the values      reads keys (and values), writes parts of C (and cells)
              scatter    once                                             reads keys, writes the output
    backward  collect    once: gradient of the cells                      reads keys, output and its gradient, writes parts
              reverse    I times, last iteration first; the first time    reads and writes keys' gradient, reads keys (and
                         also through scatter and pool                    values, gradient of the output, writes that of values)

For the backward pass the inputs, the output, the cells and I + 1 times C are kept: beside what is there anyway, m (d + I + 1)
numbers a head. A head of n tokens and width d moves 4 n d (I + 3) bytes forward and 4 n d (3 I + 5) backward, and parts: a
program takes m tokens or more, so that its part of the cells is no larger than its values.

Parts are joined in a fixed order, without atomics: a run repeats bit by bit. Products are float32's own, never TF32: the logits
multiply an error of the similarity by 1/eps, and by 1/sigma^2 before. Blocks are small because such products fill registers.
"""
import contextlib
from typing import Optional

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from .definition import Prior, Similarity
from .kernels import collect, iterate, reverse, scatter

PROGRAMS = 1024  # of one launch, where tokens and heads give as many: several for each multiprocessor of a large GPU


def available(values: Tensor, references: Tensor) -> bool:
    """Whether the kernels take values (B, h, n, d) and references (h, m, k).

    They must be plain CUDA tensors in float32, d and k at most 128, m at most 256, and what a program keeps of the references
    must fit into shared memory: m = 64 with d = 128 or m = 256 with d = 32 on a data centre's GPU (A100, H100).
    """
    d, (m, k) = values.shape[-1], references.shape[-2:]
    if (type(values) is not Tensor or not values.is_cuda or not values.dtype == references.dtype == torch.float32
            or max(d, k) > 128 or m > 256):
        return False
    device = torch.cuda.get_device_properties(values.device)
    # bytes of four arrays: the references, the cells, the gradient of these, and blocks of tokens
    needed = 16 * max(64, _padded(m)) * _padded(max(d, k))
    return device.major >= 7 and needed <= getattr(device, 'shared_memory_per_block_optin', 65536)


def transport(values: Tensor, keys: Tensor, references: Tensor, similarity: Similarity, iterations: int,
              prior: Optional[Prior] = None, mask: Optional[Tensor] = None) -> Tensor:
    """What `transport` of `plain.py` computes, with its gradients, where it is `available`; all arguments as there."""
    real = None if mask is None else mask | ~mask.any(-1, keepdim=True)  # padding alone is balanced as if it were real
    p, q = (None, None) if prior is None else (prior.tokens.detach().contiguous(), prior.references.detach().contiguous())
    # tokens before heads: the layout in which linear layers write and read, (B, n, C)
    values, keys = values.transpose(1, 2).contiguous(), keys.transpose(1, 2).contiguous()
    out = _Transport.apply(values, keys, references.contiguous(), similarity, iterations, p, q, real).transpose(1, 2)
    return out if mask is None else out * mask[:, None, :, None]


class _Launcher:
    """Starts kernels, with what all those of one call share: `chunks` programs for each of the `pairs` of sequence and head."""

    def __init__(self, values, keys, references, similarity, p, q, real):
        B, n, h, d = values.shape
        m, k = references.shape[1:]
        block_m, block_k, block_d = _padded(m), _padded(k), _padded(d)
        block_n = min(64, max(16, 1024 // block_m))
        blocks = triton.cdiv(n, block_n)
        # blocks of one program: m tokens at least, so that its part of the cells is no larger than its values
        steps = max(triton.cdiv(blocks * B * h, PROGRAMS), block_m // block_n)
        self.device, self.pairs, self.chunks = values.device, B * h, triton.cdiv(blocks, steps)
        self.shared = dict(
            x=keys, y=references, p=p, q=q, real=None if real is None else real.to(torch.uint8),
            counts=None if real is None else real.sum(-1, dtype=torch.float32), n=n, heads=h, chunks=self.chunks,
            share=steps * block_n, p_stride=0 if p is None or p.ndim == 2 else 2 * n, inverse_eps=1 / similarity.eps,
            inverse_width=similarity.sigma**-2, GAUSSIAN=similarity.kind == 'gaussian', M=m, K=k, D=d, BLOCK_N=block_n,
            BLOCK_M=block_m, BLOCK_K=block_k, BLOCK_D=block_d, num_stages=1,
            num_warps=max(4, min(16, block_m * max(block_k, block_d) // 512)))

    def __call__(self, kernel, **arguments):
        # triton launches on the current device, whatever the tensors say
        with torch.cuda.device(self.device) if self.device.type == 'cuda' else contextlib.nullcontext():
            kernel[(self.pairs * self.chunks, )](**arguments, **self.shared)


def _padded(length: int) -> int:
    """The side of a block: a power of two, of 16 or more, which products ask for."""
    return max(16, triton.next_power_of_2(length))


class _Transport(torch.autograd.Function):
    """Values and keys (B, n, h, d) and (B, n, h, k) to the output (B, n, h, d); `_Launcher` says what else there is."""

    @staticmethod
    def forward(ctx, values, keys, references, similarity, iterations, p, q, real):
        launch = _Launcher(values, keys, references, similarity, p, q, real)
        parts = values.new_empty(launch.pairs, launch.chunks, references.shape[1])
        columns = [values.new_zeros(launch.pairs, references.shape[1])]
        for _ in range(iterations - 1):
            launch(iterate, v=None, before=columns[-1], after=parts, pool=None, cells=None)
            columns.append(torch.logsumexp(parts, 1))
        pool = parts if p is None else torch.empty_like(parts)  # column sums for pooling, with the prior
        cells = values.new_empty(*parts.shape, values.shape[-1])
        launch(iterate, v=values, before=columns[-1], after=parts, pool=pool, cells=cells)
        columns.append(torch.logsumexp(parts, 1))
        whole = columns[-1] if p is None else torch.logsumexp(pool, 1)
        cells = (torch.exp(pool - whole[:, None])[..., None] * cells).sum(1)  # a share's cells are means of its tokens
        out = torch.empty_like(values)
        launch(scatter, before=columns[-2], after=columns[-1], cells=cells, out=out)
        ctx.similarity = similarity
        ctx.save_for_backward(values, keys, references, p, q, real, out, cells, whole, *columns)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        values, keys, references, p, q, real, out, cells, whole, *columns = ctx.saved_tensors
        launch = _Launcher(values, keys, references, ctx.similarity, p, q, real)
        dout = dout.contiguous()
        h, m, k = references.shape
        parts = values.new_zeros(launch.pairs, launch.chunks, m)
        dcells = values.new_empty(*parts.shape, values.shape[-1])
        launch(collect, before=columns[-2], after=columns[-1], out=out, dout=dout, dcells=dcells, sums=parts)
        dcells = dcells.sum(1)
        inner = (dcells * cells).sum(-1)
        dafter = parts.sum(1) - inner

        dvalues, dkeys = torch.empty_like(values), torch.empty_like(keys)
        dreferences = values.new_empty(*parts.shape, k)
        last = dict(v=values, dv=dvalues, dout=dout, cells=cells, dcells=dcells, inner=inner, whole=whole)
        for before, after in zip(columns[-2::-1], columns[:0:-1]):
            launch(reverse, before=before, after=after, dafter=dafter, dx=dkeys, dy=dreferences, dbefore=parts, **last)
            dafter = parts.sum(1)
            last = dict.fromkeys(last)
        dreferences = dreferences.unflatten(0, (-1, h)).sum((0, 2))
        return dvalues, dkeys, dreferences, None, None, None, None, None
