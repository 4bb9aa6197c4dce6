"""Another name of `hybrid_mm.layers.parc.crossovers`, that of version 0.1."""
from .parc.crossovers import choose_backend  # noqa: F401
