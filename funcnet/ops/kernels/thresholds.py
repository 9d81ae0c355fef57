"""Every size at which one form of a rule takes over from another, with what was measured.

On two cores of an AVX-512 processor, jaxlib 0.10.2, in loops inside one program, as in training.
"""

NARROW = 64
"""Widest layer whose products are computed features by rows (linear.py).

With batches of 100 rows: 1.6 times as fast at width 25, no gain above 64.
"""

TALL = 512
"""From so many rows on, and twice as many outputs as inputs, dW is computed turned (linear.py).

On one core of an AVX-512 processor, of the time of the plain product: 0.57 for 1,024 rows of 128
inputs and 512 outputs or 8,192 of 256 and 1,024, 0.78 for 3,072 of 384 and 1,536, 0.80 for 512 of
512 and 2,048; but 1.2 for 100 of 512 and 512, and 1.3 for 3,072 of 1,536 and 384.
"""

STRETCH = 16
"""How many steps a stretch of backpropagation through time has (recurrent.py).

Of PyTorch's time for an LSTM, batch 64, 128 to 256: 0.89 with 4 steps, 0.91 with 8, 0.87 with 16,
0.91 with 32, 0.97 with 128, which is all of them.
"""

LONG = 2**20
"""From so many entries of dz, of all steps together, on, it is taken in stretches (recurrent.py).

Of the plain form's time for an LSTM: 0.55 for 2.1 million of them (batch 64, 128 steps, 64 units),
1.0 for 1.05 million (32, 64, 128), 1.13 for 0.8 million (100, 32, 64).
"""

FEW = 3
"""Contracted over so few, a product is a sum of outer ones, which XLA fuses (fence.py)."""

EIGEN_ROWS = 8
EIGEN_FEATURES = 8
"""From so many rows, and features on one side, Eigen computes a product in any case (fence.py).

Not a measurement: XLA's loops of its own take what has a side of 1, or of at most 3 on both sides
of the contraction; these two are on the safe side of that.
"""

BLOCK = 2**17
"""How many values of dY a block of a kernel's cotangent has at most, unless one image has more
(conv.py).

Moving the batch axis behind the channels is slow for arrays larger than the cache: all of 128
images at once take 3 times as long.
"""

DIVIDED_CHANNELS = 128
"""From so many output channels on, a block is twice as large (conv.py).

jaxlib 0.10.2 divides them among the cores only then.
"""

SUMMED_BY_A_PRODUCT = 64
"""From so many columns on, rows are summed by a product with ones (sums.py).

Twice as fast at 512 and 1,000 columns, slower below 25.
"""

QUERIES = 128
"""How many queries a block of attention has, twice as many behind MANY_QUERIES (attention.py)."""

MANY_QUERIES = 512

BLOCKS = 16
"""At most so many blocks: a program holds each of them."""

SCORES = 160 * 160
"""From so many pairs of a query and a key in a head on, heads are taken one after the other.

Of the plain form's time, on one core, heads of 32 features: 1.1 for 128 queries and keys, 0.95 for
160, 0.7 for 192, 0.4 for 256.
"""
