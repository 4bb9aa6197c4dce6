"""Self-optimal transport: entropic optimal transport between tokens and a few references in the place of attention.

`definition.py` and `sinkhorn.py` hold the mathematics, `plain.py`, `blocks.py` and `fused.py` the ways to compute it, the last
by the kernels in `kernels.py`, for which these two need triton. `choice.py` chooses among the ways, and `layer.py` makes modules
of them. No file imports one that stands behind it in this list.
"""
from .layer import SelfOptimalTransport, SelfOptimalTransport2d

__all__ = ['SelfOptimalTransport', 'SelfOptimalTransport2d']
