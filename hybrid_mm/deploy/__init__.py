"""Networks for other programs: ONNX."""
from .launch import export_onnx
from .networks import Network, build_network
from .onnx_file import TOLERANCE, write_onnx

__all__ = ['Network', 'TOLERANCE', 'build_network', 'export_onnx', 'write_onnx']
