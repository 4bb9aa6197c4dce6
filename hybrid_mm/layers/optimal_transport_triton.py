"""`transport` of `optimal_transport.py` in a few Triton kernels that store no (n, m) array, for CUDA tensors in float32.

A program takes a share of the tokens of one head, block by block, and computes the logits of a block and all references anew
from the keys wherever it needs them. Everything stays in the log domain, so no eps underflows. With C the logarithms of column
sums, 0 at first, one iteration is

.. code-block:: text

    f_i = -logsumexp_j(L_ij - C_j)     stays in registers; minus infinity for padding
    C_j =  logsumexp_i(L_ij + f_i)     a program stores the part of its share, `_combine` joins the parts of a head

which is Sinkhorn up to constants: the plan's columns are ``softmax_i(L + f) / m``. The kernels, for I iterations:

.. code-block:: text

    forward   _iterate   I times; the last one also pools the values      reads keys (and values), writes parts of C (and cells)
              _scatter   once                                             reads keys, writes the output
    backward  _collect   once: gradient of the cells                      reads keys, output and its gradient, writes parts
              _reverse   I times, last iteration first; the first time    reads and writes keys' gradient, reads keys (and
                         also through scatter and pool                    values, gradient of the output, writes that of values)

For the backward pass the inputs, the output, the cells and I + 1 times C are kept: beside what is there anyway, m (d + I + 1)
numbers a head. A head of n tokens and width d moves 4 n d (I + 3) bytes forward and 4 n d (3 I + 5) backward, and parts: a
program takes m tokens or more, so that its part of the cells is no larger than its values. The plain path moves arrays of 4 n m
bytes, some 2 I + 15 times forward where Sinkhorn needs no exponentials, more often where it does, and more again backward.

Parts are joined in a fixed order, without atomics: a run repeats bit by bit. Products are float32's own, never TF32: the logits
multiply an error of the similarity by 1/eps, and by 1/sigma^2 before. Blocks are small because such products fill registers.

Importing this file needs triton.
"""
import contextlib
from typing import NamedTuple, Optional

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

PROGRAMS = 1024  # of one launch, where tokens and heads give as many: several for each multiprocessor of a large GPU
PRECISION = tl.constexpr('ieee')
NOTHING = tl.constexpr(-1e30)  # in place of minus infinity, whose differences are not numbers


def available(values: Tensor, references: Tensor) -> bool:
    """Whether the kernels take values (B, h, n, d) and references (h, m, k).

    They must be plain CUDA tensors in float32, d and k at most 128, m at most 256, and what a program keeps of the references
    must fit into shared memory: m = 64 with d = 128 or m = 256 with d = 32 on a data centre's GPU (A100, H100).
    """
    d, (m, k) = values.shape[-1], references.shape[-2:]
    if (type(values) is not Tensor or not values.is_cuda or not values.dtype == references.dtype == torch.float32
            or max(d, k) > 128 or m > 256 or values.numel() == 0):
        return False
    device = torch.cuda.get_device_properties(values.device)
    # bytes of four arrays: the references, the cells, the gradient of these, and blocks of tokens
    needed = 16 * max(64, _padded(m)) * _padded(max(d, k))
    return device.major >= 7 and needed <= getattr(device, 'shared_memory_per_block_optin', 65536)


def transport_triton(values: Tensor,
                     keys: Tensor,
                     references: Tensor,
                     similarity,
                     iterations: int,
                     prior=None,
                     mask: Optional[Tensor] = None) -> Tensor:
    """What `optimal_transport.transport` computes, with gradients of values, keys and references, for float32.

    Arguments, result and the treatment of padding as there. Where `available` is false the kernels may not compile.
    """
    real = None if mask is None else mask | ~mask.any(-1, keepdim=True)  # padding alone is balanced as if it were real
    p, q = (None, None) if prior is None else (prior.tokens.detach().contiguous(), prior.references.detach().contiguous())
    # tokens before heads: the layout in which linear layers write and read, (B, n, C)
    values, keys = values.transpose(1, 2).contiguous(), keys.transpose(1, 2).contiguous()
    out = _Transport.apply(values, keys, references.contiguous(), similarity, iterations, p, q, real).transpose(1, 2)
    return out if mask is None else out * mask[:, None, :, None]


class _Launcher(NamedTuple):
    """What all kernels of one call share."""
    device: torch.device
    pairs: int  # of sequence and head
    chunks: int  # programs that share the tokens of one pair
    shared: dict

    @classmethod
    def of(cls, values, keys, references, similarity, p, q, real):
        B, n, h, d = values.shape
        m, k = references.shape[1:]
        block_m, block_k, block_d = _padded(m), _padded(k), _padded(d)
        block_n = min(64, max(16, 1024 // block_m))
        blocks = triton.cdiv(n, block_n)
        # blocks of one program: m tokens at least, so that its part of the cells is no larger than its values
        steps = max(triton.cdiv(blocks * B * h, PROGRAMS), block_m // block_n)
        chunks = triton.cdiv(blocks, steps)
        shared = dict(
            x=keys, y=references, p=p, q=q, real=None if real is None else real.to(torch.uint8),
            counts=None if real is None else real.sum(-1, dtype=torch.float32), n=n, heads=h, chunks=chunks,
            share=steps * block_n, p_stride=0 if p is None or p.ndim == 2 else 2 * n, inverse_eps=1 / similarity.eps,
            inverse_width=similarity.sigma**-2, GAUSSIAN=similarity.kind == 'gaussian', M=m, K=k, D=d, BLOCK_N=block_n,
            BLOCK_M=block_m, BLOCK_K=block_k, BLOCK_D=block_d, num_stages=1,
            num_warps=max(4, min(16, block_m * max(block_k, block_d) // 512)))
        return cls(values.device, B * h, chunks, shared)

    def __call__(self, kernel, **arguments):
        self.run(kernel, self.pairs * self.chunks, **arguments, **self.shared)

    def combine(self, parts):
        """logsumexp of parts (pairs, chunks, m) over the chunks."""
        whole = parts.new_empty(self.pairs, parts.shape[2])
        self.run(_combine, self.pairs, parts=parts, whole=whole, chunks=self.chunks, M=parts.shape[2], BLOCK_S=16,
                 BLOCK_M=self.shared['BLOCK_M'])
        return whole

    def run(self, kernel, programs, **arguments):
        # triton launches on the current device, whatever the tensors say
        with torch.cuda.device(self.device) if self.device.type == 'cuda' else contextlib.nullcontext():
            kernel[(programs, )](**arguments)


def _padded(length: int) -> int:
    """The side of a block: a power of two, of 16 or more, which products ask for."""
    return max(16, triton.next_power_of_2(length))


class _Transport(torch.autograd.Function):
    """Values and keys (B, n, h, d) and (B, n, h, k) to the output (B, n, h, d); `_Launcher` says what else there is."""

    @staticmethod
    def forward(ctx, values, keys, references, similarity, iterations, p, q, real):
        launch = _Launcher.of(values, keys, references, similarity, p, q, real)
        m, d = references.shape[1], values.shape[-1]
        parts = values.new_empty(launch.pairs, launch.chunks, m)
        columns = [values.new_zeros(launch.pairs, m)]
        for _ in range(iterations - 1):
            launch(_iterate, v=None, before=columns[-1], after=parts, pool=None, cells=None)
            columns.append(launch.combine(parts))
        pool = parts if p is None else torch.empty_like(parts)  # column sums for pooling, with the prior
        cells = values.new_empty(launch.pairs, launch.chunks, m, d)
        launch(_iterate, v=values, before=columns[-1], after=parts, pool=pool, cells=cells)
        columns.append(launch.combine(parts))
        whole = columns[-1] if p is None else launch.combine(pool)
        cells = (torch.exp(pool - whole[:, None])[..., None] * cells).sum(1)  # a share's cells are means of its tokens
        out = torch.empty_like(values)
        launch(_scatter, before=columns[-2], after=columns[-1], cells=cells, out=out)
        ctx.similarity = similarity
        ctx.save_for_backward(values, keys, references, p, q, real, out, cells, whole, *columns)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        values, keys, references, p, q, real, out, cells, whole, *columns = ctx.saved_tensors
        launch = _Launcher.of(values, keys, references, ctx.similarity, p, q, real)
        dout = dout.contiguous()
        (h, m, k), d = references.shape, values.shape[-1]
        dcells = values.new_empty(launch.pairs, launch.chunks, m, d)
        parts = values.new_zeros(launch.pairs, launch.chunks, m)
        launch(_collect, before=columns[-2], after=columns[-1], out=out, dout=dout, dcells=dcells, sums=parts)
        dcells = dcells.sum(1)
        inner = (dcells * cells).sum(-1)
        dafter = parts.sum(1) - inner

        dvalues, dkeys = torch.empty_like(values), torch.empty_like(keys)
        dreferences = values.new_empty(launch.pairs, launch.chunks, m, k)
        last = dict(v=values, dv=dvalues, dout=dout, cells=cells, dcells=dcells, inner=inner, whole=whole)
        for before, after in zip(columns[-2::-1], columns[:0:-1]):
            launch(_reverse, before=before, after=after, dafter=dafter, dx=dkeys, dy=dreferences, dbefore=parts, **last)
            dafter = parts.sum(1)
            last = dict.fromkeys(last)
        dreferences = dreferences.unflatten(0, (-1, h)).sum((0, 2))
        return dvalues, dkeys, dreferences, None, None, None, None, None


@triton.jit
def _place(n, heads, chunks, share):
    """The work of this program: its number, its pair, the sequence and head of that, and its tokens."""
    program = tl.program_id(0).to(tl.int64)
    pair = program // chunks
    start = (program % chunks) * share
    return program, pair, pair // heads, pair % heads, start, tl.minimum(start + share, n)


@triton.jit
def _of_tokens(pointer, rows, n, heads, sequence, head, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Addresses of a block of tokens in (B, n, h, WIDTH), and which exist."""
    columns = tl.arange(0, BLOCK)
    offsets = ((sequence * n + rows) * heads + head) * WIDTH
    return pointer + offsets[:, None] + columns[None, :], (rows < n)[:, None] & (columns < WIDTH)[None, :]


@triton.jit
def _load_tokens(pointer, rows, n, heads, sequence, head, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    pointers, exist = _of_tokens(pointer, rows, n, heads, sequence, head, WIDTH, BLOCK)
    return tl.load(pointers, mask=exist, other=0.)


@triton.jit
def _store_tokens(pointer, numbers, rows, n, heads, sequence, head, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    pointers, exist = _of_tokens(pointer, rows, n, heads, sequence, head, WIDTH, BLOCK)
    tl.store(pointers, numbers, mask=exist)


@triton.jit
def _of_references(pointer, index, M: tl.constexpr, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr):
    """Addresses of entry `index` of (-1, M, WIDTH), and which exist."""
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK)
    return (pointer + index * (M * WIDTH) + rows[:, None] * WIDTH + columns[None, :],
            (rows < M)[:, None] & (columns < WIDTH)[None, :])


@triton.jit
def _load_references(pointer, index, M: tl.constexpr, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr):
    pointers, exist = _of_references(pointer, index, M, WIDTH, BLOCK_M, BLOCK)
    return tl.load(pointers, mask=exist, other=0.)


@triton.jit
def _store_references(pointer, index, numbers, M: tl.constexpr, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr,
                      BLOCK: tl.constexpr):
    pointers, exist = _of_references(pointer, index, M, WIDTH, BLOCK_M, BLOCK)
    tl.store(pointers, numbers, mask=exist)


@triton.jit
def _load_columns(pointer, index, M: tl.constexpr, BLOCK_M: tl.constexpr):
    columns = tl.arange(0, BLOCK_M)
    return tl.load(pointer + index * M + columns, mask=columns < M, other=0.)


@triton.jit
def _store_columns(pointer, index, numbers, M: tl.constexpr, BLOCK_M: tl.constexpr):
    columns = tl.arange(0, BLOCK_M)
    tl.store(pointer + index * M + columns, numbers, mask=columns < M)


@triton.jit
def _logits(x, y, inverse_eps, inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr, BLOCK_M: tl.constexpr):
    """Logits of a block, and their derivative by the product of key and reference."""
    dot = tl.dot(x, tl.trans(y), input_precision=PRECISION)
    if GAUSSIAN:
        likeness = tl.exp((dot - 1) * inverse_width)
        slope = likeness * (inverse_width * inverse_eps)
    else:
        likeness = dot
        slope = tl.full(dot.shape, 1, tl.float32) * inverse_eps
    logits = tl.where((tl.arange(0, BLOCK_M) < M)[None, :], (likeness - 1) * inverse_eps, NOTHING)
    return logits, slope


@triton.jit
def _log_prior(p, q, p_stride, rows, n, sequence, M: tl.constexpr, BLOCK_M: tl.constexpr):
    columns = tl.arange(0, BLOCK_M)
    tokens = p + sequence * p_stride + rows * 2
    down = tl.load(tokens, mask=rows < n, other=0.)[:, None] - tl.load(q + columns * 2, mask=columns < M, other=0.)[None, :]
    right = tl.load(tokens + 1, mask=rows < n,
                    other=0.)[:, None] - tl.load(q + columns * 2 + 1, mask=columns < M, other=0.)[None, :]
    return -(down * down + right * right)


@triton.jit
def _softmax(logits):
    """Softmax of each row, and the logarithm of its denominator."""
    top = tl.max(logits, 1)
    weights = tl.exp(logits - top[:, None])
    total = tl.sum(weights, 1)
    return weights / total[:, None], top + tl.log(total)


@triton.jit
def _half_step(logits, before, real, rows, n, sequence):
    """f of a block of tokens, and the row softmax that it comes from."""
    weights, log_total = _softmax(logits - before[None, :])
    takes_part = rows < n
    if real is not None:
        takes_part = takes_part & (tl.load(real + sequence * n + rows, mask=rows < n, other=0) != 0)
    return tl.where(takes_part, -log_total, NOTHING), weights


@triton.jit
def _add_to_columns(logits, top, total):
    """Columns' exp(logits) in units of exp(top); top and the totals in it with this block; what older numbers lose by that."""
    higher = tl.maximum(top, tl.max(logits, 0))
    weights = tl.exp(logits - higher[None, :])
    older = tl.exp(top - higher)
    return weights, higher, total * older + tl.sum(weights, 0), older


@triton.jit
def _combine(parts, whole, chunks, M: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr):
    """logsumexp over the chunks, (pairs, chunks, M) -> (pairs, M)."""
    pair = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_M)
    top = tl.full((BLOCK_M, ), NOTHING, tl.float32)
    total = tl.zeros((BLOCK_M, ), tl.float32)
    for start in range(0, chunks, BLOCK_S):
        rows = start + tl.arange(0, BLOCK_S)
        block = tl.load(parts + (pair * chunks + rows)[:, None] * M + columns[None, :],
                        mask=(rows < chunks)[:, None] & (columns < M)[None, :], other=NOTHING)
        _, top, total, _ = _add_to_columns(block, top, total)
    _store_columns(whole, pair, top + tl.log(total), M, BLOCK_M)


@triton.jit
def _iterate(x, y, p, q, real, counts, v, before, after, pool, cells, n, heads, chunks, share, p_stride, inverse_eps,
             inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    """One iteration; with values also what the references collect from this share, as means, and the weight of these."""
    program, pair, sequence, head, start, stop = _place(n, heads, chunks, share)
    y_all = _load_references(y, head, M, K, BLOCK_M, BLOCK_K)
    c = _load_columns(before, pair, M, BLOCK_M)
    top = tl.full((BLOCK_M, ), NOTHING, tl.float32)
    total = tl.zeros((BLOCK_M, ), tl.float32)
    pool_top = tl.full((BLOCK_M, ), NOTHING, tl.float32)
    pool_total = tl.zeros((BLOCK_M, ), tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        x_rows = _load_tokens(x, rows, n, heads, sequence, head, K, BLOCK_K)
        logits, _ = _logits(x_rows, y_all, inverse_eps, inverse_width, GAUSSIAN, M, BLOCK_M)
        f, _ = _half_step(logits, c, real, rows, n, sequence)
        logits += f[:, None]
        weights, top, total, older = _add_to_columns(logits, top, total)
        if v is not None:
            if p is not None:
                logits += _log_prior(p, q, p_stride, rows, n, sequence, M, BLOCK_M)
                weights, pool_top, pool_total, older = _add_to_columns(logits, pool_top, pool_total)
            v_rows = _load_tokens(v, rows, n, heads, sequence, head, D, BLOCK_D)
            sums = sums * older[:, None] + tl.dot(tl.trans(weights), v_rows, input_precision=PRECISION)
    _store_columns(after, program, top + tl.log(total), M, BLOCK_M)
    if v is not None:
        if p is not None:
            _store_columns(pool, program, pool_top + tl.log(pool_total), M, BLOCK_M)
            total = pool_total
        _store_references(cells, program, sums / total[:, None], M, D, BLOCK_M, BLOCK_D)


@triton.jit
def _ways_back(logits, f, after, p, q, counts, p_stride, rows, n, sequence, M: tl.constexpr, BLOCK_M: tl.constexpr):
    """Weights along which a block of tokens takes back the cells."""
    if p is not None:
        weights, _ = _softmax(logits + _log_prior(p, q, p_stride, rows, n, sequence, M, BLOCK_M) - after[None, :])
    else:
        count = n if counts is None else tl.load(counts + sequence)
        weights = tl.exp(logits + f[:, None] - after[None, :]) * (count / M)
    return weights


@triton.jit
def _scatter(x, y, p, q, real, counts, before, after, cells, out, n, heads, chunks, share, p_stride, inverse_eps,
             inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    program, pair, sequence, head, start, stop = _place(n, heads, chunks, share)
    y_all = _load_references(y, head, M, K, BLOCK_M, BLOCK_K)
    a = _load_references(cells, pair, M, D, BLOCK_M, BLOCK_D)
    c, c_last = _load_columns(before, pair, M, BLOCK_M), _load_columns(after, pair, M, BLOCK_M)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        x_rows = _load_tokens(x, rows, n, heads, sequence, head, K, BLOCK_K)
        logits, _ = _logits(x_rows, y_all, inverse_eps, inverse_width, GAUSSIAN, M, BLOCK_M)
        f, _ = _half_step(logits, c, real, rows, n, sequence)
        weights = _ways_back(logits, f, c_last, p, q, counts, p_stride, rows, n, sequence, M, BLOCK_M)
        out_rows = tl.dot(weights, a, input_precision=PRECISION)
        _store_tokens(out, out_rows, rows, n, heads, sequence, head, D, BLOCK_D)


@triton.jit
def _collect(x, y, p, q, real, counts, before, after, out, dout, dcells, sums, n, heads, chunks, share, p_stride, inverse_eps,
             inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    """Gradient of the cells; with a prior also what the denominators of the rows add to the gradient of C."""
    program, pair, sequence, head, start, stop = _place(n, heads, chunks, share)
    y_all = _load_references(y, head, M, K, BLOCK_M, BLOCK_K)
    c, c_last = _load_columns(before, pair, M, BLOCK_M), _load_columns(after, pair, M, BLOCK_M)
    da = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    denominators = tl.zeros((BLOCK_M, ), tl.float32)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        x_rows = _load_tokens(x, rows, n, heads, sequence, head, K, BLOCK_K)
        logits, _ = _logits(x_rows, y_all, inverse_eps, inverse_width, GAUSSIAN, M, BLOCK_M)
        f, _ = _half_step(logits, c, real, rows, n, sequence)
        weights = _ways_back(logits, f, c_last, p, q, counts, p_stride, rows, n, sequence, M, BLOCK_M)
        do = _load_tokens(dout, rows, n, heads, sequence, head, D, BLOCK_D)
        da += tl.dot(tl.trans(weights), do, input_precision=PRECISION)
        if p is not None:
            inner = tl.sum(do * _load_tokens(out, rows, n, heads, sequence, head, D, BLOCK_D), 1)
            denominators += tl.sum(weights * inner[:, None], 0)
    _store_references(dcells, program, da, M, D, BLOCK_M, BLOCK_D)
    _store_columns(sums, program, denominators, M, BLOCK_M)


@triton.jit
def _reverse(x, y, p, q, real, counts, v, dv, dout, cells, dcells, inner, whole, before, after, dafter, dx, dy, dbefore, n,
             heads, chunks, share, p_stride, inverse_eps, inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr,
             K: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
             BLOCK_D: tl.constexpr):
    """Reverse of ``before -> f -> after``, C of one iteration and the next; with values, of scatter and pool too.

    With values it writes their gradient and starts the gradients of keys and references, else it adds to these two.
    """
    program, pair, sequence, head, start, stop = _place(n, heads, chunks, share)
    y_all = _load_references(y, head, M, K, BLOCK_M, BLOCK_K)
    c, c_next = _load_columns(before, pair, M, BLOCK_M), _load_columns(after, pair, M, BLOCK_M)
    dc_next = _load_columns(dafter, pair, M, BLOCK_M)
    dc = tl.zeros((BLOCK_M, ), tl.float32)
    if v is not None:
        a = _load_references(cells, pair, M, D, BLOCK_M, BLOCK_D)
        da = _load_references(dcells, pair, M, D, BLOCK_M, BLOCK_D)
        a_da = _load_columns(inner, pair, M, BLOCK_M)
        c_pool = _load_columns(whole, pair, M, BLOCK_M)
        dy_all = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    else:
        dy_all = _load_references(dy, program, M, K, BLOCK_M, BLOCK_K)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        x_rows = _load_tokens(x, rows, n, heads, sequence, head, K, BLOCK_K)
        logits, slope = _logits(x_rows, y_all, inverse_eps, inverse_width, GAUSSIAN, M, BLOCK_M)
        f, row_weights = _half_step(logits, c, real, rows, n, sequence)
        column_weights = tl.exp(logits + f[:, None] - c_next[None, :])
        through_f = column_weights * dc_next[None, :]  # gradient of L + f, from all that uses the two as a sum
        if v is not None:
            do = _load_tokens(dout, rows, n, heads, sequence, head, D, BLOCK_D)
            ways_back = _ways_back(logits, f, c_next, p, q, counts, p_stride, rows, n, sequence, M, BLOCK_M)
            dback = ways_back * tl.dot(do, tl.trans(a), input_precision=PRECISION)
            if p is not None:
                dback -= ways_back * tl.sum(dback, 1)[:, None]
                prior = _log_prior(p, q, p_stride, rows, n, sequence, M, BLOCK_M)
                column_weights = tl.exp(logits + prior + f[:, None] - c_pool[None, :])
            else:
                through_f += dback
            v_rows = _load_tokens(v, rows, n, heads, sequence, head, D, BLOCK_D)
            through_f += column_weights * (tl.dot(v_rows, tl.trans(da), input_precision=PRECISION) - a_da[None, :])
            dv_rows = tl.dot(column_weights, da, input_precision=PRECISION)
            _store_tokens(dv, dv_rows, rows, n, heads, sequence, head, D, BLOCK_D)
        through_row = row_weights * tl.sum(through_f, 1)[:, None]
        dc += tl.sum(through_row, 0)
        dlogits = through_f - through_row
        if v is not None:
            if p is not None:  # the way back does not use f
                dlogits += dback
        dlogits *= slope
        dx_rows = tl.dot(dlogits, y_all, input_precision=PRECISION)
        if v is None:
            dx_rows += _load_tokens(dx, rows, n, heads, sequence, head, K, BLOCK_K)
        _store_tokens(dx, dx_rows, rows, n, heads, sequence, head, K, BLOCK_K)
        dy_all += tl.dot(tl.trans(dlogits), x_rows, input_precision=PRECISION)
    _store_columns(dbefore, program, dc, M, BLOCK_M)
    _store_references(dy, program, dy_all, M, K, BLOCK_M, BLOCK_K)
