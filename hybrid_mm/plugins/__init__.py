"""Our layers as plugins of other libraries' backbones, mmcv's PLUGIN style."""
from .h_mhsa import HMHSAPlugin, IterativeHMHSAPlugin
from .parc import ParCPlugin

__all__ = ['HMHSAPlugin', 'IterativeHMHSAPlugin', 'ParCPlugin']
