"""The kernels of `fused.py`, which says what each of them does, and their parts."""
import triton
import triton.language as tl

PRECISION = tl.constexpr('ieee')
NOTHING = tl.constexpr(-1e30)  # in place of minus infinity, whose differences are not numbers


@triton.jit
def _place(n, heads, chunks, share):
    """The work of this program: its number, its pair, the sequence and head of that, and the share of tokens from start to stop.

    Tokens are (B, n, h, WIDTH): before the first one of this sequence and head lie `tokens` rows of WIDTH numbers.
    """
    program = tl.program_id(0).to(tl.int64)
    pair = program // chunks
    sequence, head = pair // heads, pair % heads
    start = (program % chunks) * share
    return program, pair, sequence, head, sequence * n * heads + head, start, tl.minimum(start + share, n)


@triton.jit
def _addresses(pointer, rows, stride, end, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Addresses of rows of WIDTH numbers that lie `stride` apart, and which of them exist."""
    columns = tl.arange(0, BLOCK)
    return pointer + rows[:, None] * stride + columns[None, :], (rows < end)[:, None] & (columns < WIDTH)[None, :]


@triton.jit
def _load(pointer, rows, stride, end, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    pointers, exist = _addresses(pointer, rows, stride, end, WIDTH, BLOCK)
    return tl.load(pointers, mask=exist, other=0.)


@triton.jit
def _store(pointer, numbers, rows, stride, end, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    pointers, exist = _addresses(pointer, rows, stride, end, WIDTH, BLOCK)
    tl.store(pointers, numbers, mask=exist)


@triton.jit
def _half_step(x_rows, y_all, before, real, rows, n, sequence, inverse_eps, inverse_width, GAUSSIAN: tl.constexpr,
               M: tl.constexpr, BLOCK_M: tl.constexpr):
    """Logits of a block, their derivative by the product of key and reference, f, and the row softmax that f comes from."""
    dot = tl.dot(x_rows, tl.trans(y_all), input_precision=PRECISION)
    if GAUSSIAN:
        likeness = tl.exp((dot - 1) * inverse_width)
        slope = likeness * (inverse_width * inverse_eps)
    else:
        likeness = dot
        slope = tl.full(dot.shape, 1, tl.float32) * inverse_eps
    logits = tl.where((tl.arange(0, BLOCK_M) < M)[None, :], (likeness - 1) * inverse_eps, NOTHING)
    weights, log_total = _softmax(logits - before[None, :])
    takes_part = rows < n
    if real is not None:
        takes_part = takes_part & (tl.load(real + sequence * n + rows, mask=rows < n, other=0) != 0)
    return logits, slope, tl.where(takes_part, -log_total, NOTHING), weights


@triton.jit
def _log_prior(p, q, p_stride, rows, n, sequence, M: tl.constexpr, BLOCK_M: tl.constexpr):
    columns = tl.arange(0, BLOCK_M)
    tokens = p + sequence * p_stride + rows * 2
    real, exist = rows < n, columns < M
    down = tl.load(tokens, mask=real, other=0.)[:, None] - tl.load(q + columns * 2, mask=exist, other=0.)[None, :]
    right = tl.load(tokens + 1, mask=real, other=0.)[:, None] - tl.load(q + columns * 2 + 1, mask=exist, other=0.)[None, :]
    return -(down * down + right * right)


@triton.jit
def _softmax(logits):
    """Softmax of each row, and the logarithm of its denominator."""
    top = tl.max(logits, 1)
    weights = tl.exp(logits - top[:, None])
    total = tl.sum(weights, 1)
    return weights / total[:, None], top + tl.log(total)


@triton.jit
def _add_to_columns(logits, top, total):
    """Columns' exp(logits) in units of exp(top); top and the totals in it with this block; what older numbers lose by that."""
    higher = tl.maximum(top, tl.max(logits, 0))
    weights = tl.exp(logits - higher[None, :])
    older = tl.exp(top - higher)
    return weights, higher, total * older + tl.sum(weights, 0), older


@triton.jit
def iterate(x, y, p, q, real, counts, v, before, after, pool, cells, n, heads, chunks, share, p_stride, inverse_eps,
             inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    """One iteration; with values also what the references collect from this share, as means, and the weight of these."""
    program, pair, sequence, head, tokens, start, stop = _place(n, heads, chunks, share)
    all_m = tl.arange(0, BLOCK_M)
    exist = all_m < M
    y_all = _load(y + head * (M * K), all_m, K, M, K, BLOCK_K)
    c = tl.load(before + pair * M + all_m, mask=exist, other=0.)
    top = tl.full((BLOCK_M, ), NOTHING, tl.float32)
    total = tl.zeros((BLOCK_M, ), tl.float32)
    pool_top = tl.full((BLOCK_M, ), NOTHING, tl.float32)
    pool_total = tl.zeros((BLOCK_M, ), tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        x_rows = _load(x + tokens * K, rows, heads * K, n, K, BLOCK_K)
        logits, _, f, _ = _half_step(x_rows, y_all, c, real, rows, n, sequence, inverse_eps, inverse_width, GAUSSIAN, M, BLOCK_M)
        logits += f[:, None]
        weights, top, total, older = _add_to_columns(logits, top, total)
        if v is not None:
            if p is not None:
                logits += _log_prior(p, q, p_stride, rows, n, sequence, M, BLOCK_M)
                weights, pool_top, pool_total, older = _add_to_columns(logits, pool_top, pool_total)
            v_rows = _load(v + tokens * D, rows, heads * D, n, D, BLOCK_D)
            sums = sums * older[:, None] + tl.dot(tl.trans(weights), v_rows, input_precision=PRECISION)
    tl.store(after + program * M + all_m, top + tl.log(total), mask=exist)
    if v is not None:
        if p is not None:
            tl.store(pool + program * M + all_m, pool_top + tl.log(pool_total), mask=exist)
            total = pool_total
        _store(cells + program * (M * D), sums / total[:, None], all_m, D, M, D, BLOCK_D)


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
def scatter(x, y, p, q, real, counts, before, after, cells, out, n, heads, chunks, share, p_stride, inverse_eps,
             inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    program, pair, sequence, head, tokens, start, stop = _place(n, heads, chunks, share)
    all_m = tl.arange(0, BLOCK_M)
    exist = all_m < M
    y_all = _load(y + head * (M * K), all_m, K, M, K, BLOCK_K)
    a = _load(cells + pair * (M * D), all_m, D, M, D, BLOCK_D)
    c = tl.load(before + pair * M + all_m, mask=exist, other=0.)
    c_last = tl.load(after + pair * M + all_m, mask=exist, other=0.)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        x_rows = _load(x + tokens * K, rows, heads * K, n, K, BLOCK_K)
        logits, _, f, _ = _half_step(x_rows, y_all, c, real, rows, n, sequence, inverse_eps, inverse_width, GAUSSIAN, M, BLOCK_M)
        weights = _ways_back(logits, f, c_last, p, q, counts, p_stride, rows, n, sequence, M, BLOCK_M)
        out_rows = tl.dot(weights, a, input_precision=PRECISION)
        _store(out + tokens * D, out_rows, rows, heads * D, n, D, BLOCK_D)


@triton.jit
def collect(x, y, p, q, real, counts, before, after, out, dout, dcells, sums, n, heads, chunks, share, p_stride, inverse_eps,
             inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    """Gradient of the cells; with a prior also what the denominators of the rows add to the gradient of C."""
    program, pair, sequence, head, tokens, start, stop = _place(n, heads, chunks, share)
    all_m = tl.arange(0, BLOCK_M)
    exist = all_m < M
    y_all = _load(y + head * (M * K), all_m, K, M, K, BLOCK_K)
    c = tl.load(before + pair * M + all_m, mask=exist, other=0.)
    c_last = tl.load(after + pair * M + all_m, mask=exist, other=0.)
    da = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    denominators = tl.zeros((BLOCK_M, ), tl.float32)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        x_rows = _load(x + tokens * K, rows, heads * K, n, K, BLOCK_K)
        logits, _, f, _ = _half_step(x_rows, y_all, c, real, rows, n, sequence, inverse_eps, inverse_width, GAUSSIAN, M, BLOCK_M)
        weights = _ways_back(logits, f, c_last, p, q, counts, p_stride, rows, n, sequence, M, BLOCK_M)
        do = _load(dout + tokens * D, rows, heads * D, n, D, BLOCK_D)
        da += tl.dot(tl.trans(weights), do, input_precision=PRECISION)
        if p is not None:
            inner = tl.sum(do * _load(out + tokens * D, rows, heads * D, n, D, BLOCK_D), 1)
            denominators += tl.sum(weights * inner[:, None], 0)
    _store(dcells + program * (M * D), da, all_m, D, M, D, BLOCK_D)
    tl.store(sums + program * M + all_m, denominators, mask=exist)


@triton.jit
def reverse(x, y, p, q, real, counts, v, dv, dout, cells, dcells, inner, whole, before, after, dafter, dx, dy, dbefore, n,
             heads, chunks, share, p_stride, inverse_eps, inverse_width, GAUSSIAN: tl.constexpr, M: tl.constexpr,
             K: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
             BLOCK_D: tl.constexpr):
    """Reverse of ``before -> f -> after``, C of one iteration and the next; with values, of scatter and pool too.

    With values it writes their gradient and starts the gradients of keys and references, else it adds to these two.
    """
    program, pair, sequence, head, tokens, start, stop = _place(n, heads, chunks, share)
    all_m = tl.arange(0, BLOCK_M)
    exist = all_m < M
    y_all = _load(y + head * (M * K), all_m, K, M, K, BLOCK_K)
    c = tl.load(before + pair * M + all_m, mask=exist, other=0.)
    c_next = tl.load(after + pair * M + all_m, mask=exist, other=0.)
    dc_next = tl.load(dafter + pair * M + all_m, mask=exist, other=0.)
    dc = tl.zeros((BLOCK_M, ), tl.float32)
    if v is not None:
        a = _load(cells + pair * (M * D), all_m, D, M, D, BLOCK_D)
        da = _load(dcells + pair * (M * D), all_m, D, M, D, BLOCK_D)
        a_da = tl.load(inner + pair * M + all_m, mask=exist, other=0.)
        c_pool = tl.load(whole + pair * M + all_m, mask=exist, other=0.)
        dy_all = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    else:
        dy_all = _load(dy + program * (M * K), all_m, K, M, K, BLOCK_K)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        x_rows = _load(x + tokens * K, rows, heads * K, n, K, BLOCK_K)
        logits, slope, f, row_weights = _half_step(x_rows, y_all, c, real, rows, n, sequence, inverse_eps, inverse_width,
                                                   GAUSSIAN, M, BLOCK_M)
        column_weights = tl.exp(logits + f[:, None] - c_next[None, :])
        through_f = column_weights * dc_next[None, :]  # gradient of L + f, from all that uses the two as a sum
        if v is not None:
            do = _load(dout + tokens * D, rows, heads * D, n, D, BLOCK_D)
            ways_back = _ways_back(logits, f, c_next, p, q, counts, p_stride, rows, n, sequence, M, BLOCK_M)
            dback = ways_back * tl.dot(do, tl.trans(a), input_precision=PRECISION)
            if p is not None:
                dback -= ways_back * tl.sum(dback, 1)[:, None]
                prior = _log_prior(p, q, p_stride, rows, n, sequence, M, BLOCK_M)
                column_weights = tl.exp(logits + prior + f[:, None] - c_pool[None, :])
            else:
                through_f += dback
            v_rows = _load(v + tokens * D, rows, heads * D, n, D, BLOCK_D)
            through_f += column_weights * (tl.dot(v_rows, tl.trans(da), input_precision=PRECISION) - a_da[None, :])
            dv_rows = tl.dot(column_weights, da, input_precision=PRECISION)
            _store(dv + tokens * D, dv_rows, rows, heads * D, n, D, BLOCK_D)
        through_row = row_weights * tl.sum(through_f, 1)[:, None]
        dc += tl.sum(through_row, 0)
        dlogits = through_f - through_row
        if v is not None:
            if p is not None:  # the way back does not use f
                dlogits += dback
        dlogits *= slope
        dx_rows = tl.dot(dlogits, y_all, input_precision=PRECISION)
        if v is None:
            dx_rows += _load(dx + tokens * K, rows, heads * K, n, K, BLOCK_K)
        _store(dx + tokens * K, dx_rows, rows, heads * K, n, K, BLOCK_K)
        dy_all += tl.dot(tl.trans(dlogits), x_rows, input_precision=PRECISION)
    tl.store(dbefore + program * M + all_m, dc, mask=exist)
    _store(dy + program * (M * K), dy_all, all_m, K, M, K, BLOCK_K)
