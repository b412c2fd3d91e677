"""Matrix times vector inside kernels: the linear half of every cell."""

from rnndsp._jit import inline, kernel
from rnndsp._vectors import accumulate, fma, fold, keep, lane, load, load_each, put, store, widen

__all__ = [
    "CHAINS",
    "add_product",
    "affine",
    "all_finite",
    "dot",
    "load_some",
    "put_out",
]


# A sum of products runs in so many registers at once, as each waits for its last term; it is part of the rounding.
CHAINS = (None,) * 2


@inline
def affine(weights, at, width, x, start, n, entry, lanes, outputs):
    """b + W x for a block of outputs: from ``at`` on b, then the weights of each of n entries of x from ``start`` on.

    A tuple as long as ``outputs`` of vectors of ``lanes``; ``width`` and ``entry`` are how wide a weight and an entry
    of x is, the one or the other being the same for all lanes.
    """
    step = len(outputs) * len(width)
    sums = load_each(weights, at, len(width), width, lanes, outputs)
    at += step
    for _ in range(n % len(CHAINS)):
        sums = accumulate(sums, outputs, weights, at, width, x, start, entry)
        at += step
        start += len(entry)
    chains = widen(sums, CHAINS)
    for _ in range(n // len(CHAINS)):
        chains = accumulate(chains, outputs, weights, at, width, x, start, entry)
        at += step * len(CHAINS)
        start += len(entry) * len(CHAINS)
    return fold(chains, outputs)


@inline
def load_some(x, at, count, lanes):
    """``count`` numbers of x, or as many as there are lanes, from the flat index ``at`` on; then zeros."""
    if at + len(lanes) <= x.size:
        return keep(load(x, at, lanes, lanes), count)
    value = keep(load(x, at, (None,), lanes), 1)
    for j in range(1, min(count, len(lanes))):
        value = put(value, j, load(x, at + j, (None,), (None,)))
    return value


@inline
def put_out(y, at, stop, value, count, lanes):
    """``y[at : at + count] = value``, flat; what lies between there and ``stop`` is still to be written.

    So a whole vector may go there, whose further lanes will be written over.
    """
    if at + len(lanes) <= stop:
        store(y, at, value, lanes)
    else:
        for j in range(count):
            store(y, at + j, lane(value, j), (None,))


@inline
def add_product(out, matrix, x):
    """``out += x @ matrix``, eight rows at a time, every sum in the same order whatever the block."""
    n_columns = out.size
    n_rows = x.size
    i = 0
    while i + 8 <= n_rows:
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        x4, x5, x6, x7 = x[i + 4], x[i + 5], x[i + 6], x[i + 7]
        for j in range(n_columns):
            total = fma(matrix[i + 1, j], x1, fma(matrix[i, j], x0, out[j]))
            total = fma(matrix[i + 3, j], x3, fma(matrix[i + 2, j], x2, total))
            total = fma(matrix[i + 5, j], x5, fma(matrix[i + 4, j], x4, total))
            out[j] = fma(matrix[i + 7, j], x7, fma(matrix[i + 6, j], x6, total))
        i += 8
    while i < n_rows:
        x0 = x[i]
        for j in range(n_columns):
            out[j] = fma(matrix[i, j], x0, out[j])
        i += 1


@inline
def dot(x, y):
    """``x @ y`` in eight partial sums, which is what a vector register holds."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = x.dtype.type(0)
    i = 0
    while i + 8 <= x.size:
        s0 = fma(x[i], y[i], s0)
        s1 = fma(x[i + 1], y[i + 1], s1)
        s2 = fma(x[i + 2], y[i + 2], s2)
        s3 = fma(x[i + 3], y[i + 3], s3)
        s4 = fma(x[i + 4], y[i + 4], s4)
        s5 = fma(x[i + 5], y[i + 5], s5)
        s6 = fma(x[i + 6], y[i + 6], s6)
        s7 = fma(x[i + 7], y[i + 7], s7)
        i += 8
    while i < x.size:
        s0 = fma(x[i], y[i], s0)
        i += 1
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@kernel
def all_finite(x):
    """Whether a contiguous array holds neither NaN nor infinity."""
    bad = 0  # counted to the end and over all axes at once, so that the loop becomes vector code
    for i in range(x.size):
        number = load(x, i, (None,), (None,))
        bad += number - number != 0
    return bad == 0
