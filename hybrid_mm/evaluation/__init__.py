"""Metrics. MMDetection's are the base of ours, so that without it there are none."""
from importlib.util import find_spec

__all__ = []
if find_spec('mmdet') is not None:
    from .coco_metric import CocoMetric  # noqa: F401
    __all__ += ['CocoMetric']
