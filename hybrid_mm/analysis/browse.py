"""Pictures of a data set as the network gets them: behind the pipeline, before normalisation, with what is annotated."""
import re
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.runner import set_random_seed
from mmengine.visualization import Visualizer
from torch import Tensor

from hybrid_mm.data.datasets import leaf_datasets
from hybrid_mm.data.guarded_pipeline import guard
from hybrid_mm.errors import SetupError
from hybrid_mm.inference import PREDICTORS
from hybrid_mm.networks import preprocessor_of

_OPACITY = 0.5  # of masks and label maps


class Picture(NamedTuple):
    """An image of a data set."""
    number: int  # its place in the data set, from 0
    name: str  # of its file, without the ending; empty if it has none
    image: np.ndarray  # uint8 (H, W, 3), BGR, in the size that the network gets
    drawn: np.ndarray  # the same with boxes and masks, the label map or the class


def browse(cfg: Config, split: str, number: int, seed: int = 0) -> Iterator[Picture]:
    """Run images through the pipeline and draw their annotations.

    What a pipeline loads behind its resize, as evaluation wants it, is loaded before it here: annotations go through all
    transforms, as the image does. Mixup and CutMix, which work on batches in the data preprocessor, are not seen.

    Args:
        cfg: config of a detector, segmentor or classifier.
        split: ``'train'`` or ``'val'``.
        number: images, evenly spread over the data set; a smaller data set gives all.
        seed: of the augmentation.

    Yields:
        One entry an image.
    """
    init_default_scope(cfg.default_scope)
    dataset_cfg = cfg[f'{split}_dataloader'].dataset
    for _, leaf in leaf_datasets(dataset_cfg, ''):
        if leaf.get('pipeline'):
            leaf.pipeline = annotations_first(leaf.pipeline)
    dataset = DATASETS.build(dataset_cfg)
    if len(dataset) == 0:
        raise SetupError(f'{split}_dataloader.dataset is empty; check its ann_file, data_prefix and filter_cfg')
    guard(dataset, f'{split}_dataloader.dataset')
    kind = (cfg.get('visualizer') or {}).get('type', PREDICTORS[cfg.default_scope].visualizer_type)
    visualizer = VISUALIZERS.build(dict(type=kind, name=f'browse-{id(cfg)}', vis_backends=[]))
    visualizer.dataset_meta = dataset.metainfo
    visualizer.alpha = _OPACITY
    set_random_seed(seed)
    for i in spread(len(dataset), number):
        item = dataset[i]
        if not {'inputs', 'data_samples'} <= item.keys():
            raise SetupError(f'the pipeline of the {split} data ends without inputs and data_samples; its last transform has to '
                             'pack them, such as PackDetInputs, PackSegInputs or PackInputs')
        sample = item['data_samples']
        image = to_picture(item['inputs'], rgb=bool(preprocessor_of(cfg).get('rgb_to_bgr')))
        path = getattr(sample, 'img_path', None)
        yield Picture(i, Path(path).stem if path else '', image, draw_annotations(visualizer, image, sample))


def annotations_first(pipeline: Sequence[Any]) -> List[Any]:
    """Configs of transforms, with those that load annotations directly behind the one that loads the image."""
    loaders = [transform for transform in pipeline if re.match('Load.*Annotation', _type_name(transform))]
    rest = [transform for transform in pipeline if transform not in loaders]
    for i, transform in enumerate(rest, 1):
        if _type_name(transform).startswith('LoadImage'):
            return [*rest[:i], *loaders, *rest[i:]]
    return list(pipeline)


def spread(total: int, number: int) -> List[int]:
    """Evenly spread indices below `total`; all if there are no more than `number`."""
    return [i * total // number for i in range(number)] if number < total else list(range(total))


def to_picture(inputs: Tensor, rgb: bool = False) -> np.ndarray:
    """The image in a packed tensor.

    Args:
        inputs: (3, H, W), or (1, H, W) in grey, with values of 0 to 255.
        rgb: whether the channels are in this order, otherwise BGR.

    Returns:
        uint8 (H, W, 3), BGR.
    """
    if inputs.ndim != 3 or inputs.shape[0] not in (1, 3):
        raise SetupError(f'the pipeline gives inputs of shape {tuple(inputs.shape)}; they have to be pictures, (3, H, W)')
    image = inputs.float().round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(image[..., ::-1] if rgb else image)


def draw_annotations(visualizer: Visualizer, image: np.ndarray, sample: Any) -> np.ndarray:
    """An image, uint8 (H, W, 3), BGR, with the ground truth of its data sample; as it is where nothing is annotated.

    Visualizer and sample are of the same library, MMDetection, MMSegmentation or MMPreTrain.
    """
    if not any(key.startswith('gt_') for key in sample.keys()):
        return image
    sample = sample.numpy()
    if hasattr(visualizer, 'visualize_cls'):
        drawn = visualizer.visualize_cls(image[..., ::-1], sample, draw_pred=False)
        return np.ascontiguousarray(drawn[..., ::-1])
    instances = sample.get('gt_instances')
    if instances is not None:
        # as MMDetection's own tool: boxes and masks are objects that NumPy does not know
        if hasattr(instances.get('bboxes'), 'tensor'):
            instances.bboxes = instances.bboxes.tensor
        if hasattr(instances.get('masks'), 'to_ndarray'):
            instances.masks = instances.masks.to_ndarray().astype(bool)
    visualizer.add_datasample('', image[..., ::-1], sample, draw_pred=False)
    return np.ascontiguousarray(visualizer.get_image()[..., ::-1])


def _type_name(transform: Any) -> str:
    kind = transform.get('type') if isinstance(transform, dict) else type(transform)
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')[2]
