"""Position-aware circular convolution (ParC), arXiv 2203.03952, and its exact fast forms (Fast-ParC, arXiv 2210.04020).

A kernel as long as the map runs along one axis and wraps around its end, so that every output sees its whole line. A learned
position embedding gives back the position that wrapping loses. `ParC2d` is the operator along one axis; `ParCHW` puts one along H
and one along W side by side, each on half of the channels, as the papers' blocks do; `replace_with_parc` puts that into models.

The files, from below, each of which imports from those above it alone: `lines` (a map as lines), `fft` and `gemm` (ways of
computing), `correlation` (the definition, its direct form, derivatives), `crossovers` (which way is chosen), `kept` (kernels that
an evaluation keeps), `modules`, `host_attention`, `stand_ins`, `replacement`. They need torch and `hybrid_mm.layers.tracing`.
"""
from .modules import ParC2d, ParCHW, resize
from .replacement import Replacement, Resolution, Select, replace_with_parc

__all__ = ['ParC2d', 'ParCHW', 'Replacement', 'Resolution', 'Select', 'replace_with_parc', 'resize']
