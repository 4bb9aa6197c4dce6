"""COCO's metric for pictures with more than 100 objects."""
from typing import Any, Optional, Sequence
from unittest import mock

import numpy as np
from mmdet.datasets.api_wrappers import COCOeval, COCOevalMP
from mmdet.evaluation.metrics import CocoMetric as StockCocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmengine.logging import print_log

from hybrid_mm.errors import SetupError
from hybrid_mm.registry import METRICS


class _Summary:
    """The summary of pycocotools with every average precision at the largest of ``maxDets``.

    The evaluation itself goes up to that one anyway. pycocotools summarises ``stats[0]``, the precision over all IoUs, at 100
    detections a picture, whatever ``maxDets`` says, and gives -1 where 100 is none of them.
    """

    def summarize(self: Any) -> None:
        most = self.params.maxDets  # `evaluate` has sorted them

        def mean(values: np.ndarray) -> float:
            values = values[values > -1]  # of categories and sizes that have objects
            return float(values.mean()) if values.size else -1.

        def precision(iou: Optional[float] = None, area: int = 0) -> float:  # [IoU, recall, category, area, number]
            values = self.eval['precision'][..., area, -1]
            return mean(values if iou is None else values[np.isclose(self.params.iouThrs, iou)])

        def recall(number: int, area: int = 0) -> float:  # [IoU, category, area, number]
            return mean(self.eval['recall'][..., area, number])

        self.stats = np.array([precision(), precision(.5), precision(.75), *(precision(area=area) for area in (1, 2, 3)),
                               *(recall(number) for number in range(3)), *(recall(-1, area) for area in (1, 2, 3))])
        names = ['AP', 'AP at IoU 0.5', 'AP at IoU 0.75', 'AP small', 'AP medium', 'AP large', *(f'AR@{k}' for k in most),
                 'AR small', 'AR medium', 'AR large']
        found = ', '.join(f'{name} {value:.3f}' for name, value in zip(names, self.stats))
        print_log(f'{self.params.iouType}, at most {most[-1]} detections a picture: {found}', logger='current')


class _Evaluation(_Summary, COCOeval):
    pass


class _EvaluationMP(_Summary, COCOevalMP):
    pass


@METRICS.register_module()
class CocoMetric(StockCocoMetric):
    """MMDetection's CocoMetric with every average precision at the largest of ``proposal_nums``.

    The stock one takes ``mAP`` at 100 detections a picture, and ``mAP_50`` and the others at the last of ``proposal_nums``. Where
    a picture has more than 100 objects its ``mAP`` cannot reach 1, and ``proposal_nums`` without 100 make it -1. Where no picture
    has more than 100 detections the two agree. It works with MMDetection's own ``tools/train.py``, too.

    Args:
        proposal_nums: three numbers of detections a picture, such as ``(1, 10, 500)``: average recall is at each of them, average
            precision at the largest. A detector also has to return as many, see ``model.test_cfg.rcnn.max_per_img``.
        args, kwargs: as MMDetection's CocoMetric.
    """

    def __init__(self, *args: Any, proposal_nums: Sequence[int] = (100, 300, 1000), **kwargs: Any) -> None:
        if len(proposal_nums) != 3 or not all(isinstance(number, int) and number > 0 for number in proposal_nums):
            raise SetupError(f'proposal_nums={proposal_nums} of hybrid_mm.CocoMetric is not allowed; give three whole numbers '
                             'above 0, of which the largest is that of all average precisions')
        super().__init__(*args, proposal_nums=proposal_nums, **kwargs)

    def compute_metrics(self, results: list) -> dict:
        # the stock one names the two classes, and leaves no other place to change the summary
        with mock.patch.multiple(coco_metric, COCOeval=_Evaluation, COCOevalMP=_EvaluationMP):
            return super().compute_metrics(results)
