"""The operators, as torch modules that map (B, C, H, W) to (B, C, H, W). They need torch alone; kernels, where taken, triton."""
from .downsampling import ConvDownsampling, TwoBranchDownsampling
from .drop_path import DropPath
from .global_local import GlobalLocal, GlobalLocalBlock
from .h_mhsa import HMHSA, IterativeHMHSA
from .inverted_residual import InvertedResidual, MobileInvertedResidual
from .layer_norm import LayerNorm2d
from .mobile_vit import MobileViTBlock
from .parc import ParC2d, ParCHW, replace_with_parc
from .tracing import plain
from .transport import SelfOptimalTransport, SelfOptimalTransport2d

__all__ = [
    'ConvDownsampling', 'DropPath', 'GlobalLocal', 'GlobalLocalBlock', 'HMHSA', 'InvertedResidual', 'IterativeHMHSA',
    'LayerNorm2d', 'MobileInvertedResidual', 'MobileViTBlock', 'ParC2d', 'ParCHW', 'SelfOptimalTransport',
    'SelfOptimalTransport2d', 'TwoBranchDownsampling', 'plain', 'replace_with_parc'
]
