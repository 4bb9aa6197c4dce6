"""The operators, as torch modules that map (B, C, H, W) to (B, C, H, W). Nothing here imports an OpenMMLab library."""
from .downsampling import ConvDownsampling, TwoBranchDownsampling
from .h_mhsa import HMHSA, IterativeHMHSA
from .inverted_residual import InvertedResidual

__all__ = ['ConvDownsampling', 'HMHSA', 'InvertedResidual', 'IterativeHMHSA', 'TwoBranchDownsampling']
