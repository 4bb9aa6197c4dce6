"""Stands for ``mmcv.ops`` beside mmcv-lite, which has no compiled operators; `run.sh` puts it there.

MMSegmentation imports these four at its start, whatever the network; UperNet and FCN use none of them.
"""


def _missing(name):

    class Missing:

        def __init__(self, *args, **kwargs):
            raise RuntimeError(f'mmcv.ops.{name} is a compiled operator, which mmcv-lite does not have; install mmcv')

    Missing.__name__ = Missing.__qualname__ = name
    return Missing


CrissCrossAttention, PSAMask, point_sample, sigmoid_focal_loss = map(
    _missing, ('CrissCrossAttention', 'PSAMask', 'point_sample', 'sigmoid_focal_loss'))
