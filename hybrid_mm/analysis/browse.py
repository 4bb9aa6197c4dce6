"""Pictures of a data set as the network gets them: behind the pipeline, before normalisation, with what is annotated."""
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.runner import set_random_seed
from mmengine.visualization import Visualizer
from torch import Tensor

from hybrid_mm.data.datasets import leaf_datasets
from hybrid_mm.errors import SetupError
from hybrid_mm.inference import PREDICTORS
from hybrid_mm.networks import preprocessor_of

_OPACITY = 0.5  # of masks and label maps


class Picture(NamedTuple):
    """An image of a data set.

    Attributes:
        index: in the data set.
        name: of its file, without the ending; empty if it has none.
        image: uint8 (H, W, 3), BGR, in the size that the network gets.
        drawn: the same with boxes and masks, the label map or the class.
    """
    index: int
    name: str
    image: np.ndarray
    drawn: np.ndarray


def browse(cfg: Config, split: str, number: int, seed: int = 0) -> Iterator[Picture]:
    """Run images through the pipeline and draw their annotations.

    What a pipeline loads behind its resize, as evaluation wants it, is loaded before it here: annotations go through all
    transforms, as the image. Mixup and CutMix, which work on batches in the data preprocessor, are not seen.

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
    visualizer = _build_visualizer(cfg, dataset.metainfo)
    set_random_seed(seed)
    for index in spread(len(dataset), number):
        item = dataset[index]
        image = to_picture(item['inputs'], rgb=bool(preprocessor_of(cfg).get('rgb_to_bgr')))
        sample = item['data_samples']
        path = getattr(sample, 'img_path', None)
        yield Picture(index, Path(path).stem if path else '', image, draw_annotations(visualizer, image, sample))


def annotations_first(pipeline: Sequence[Any]) -> List[Any]:
    """A pipeline whose annotations are loaded directly behind the image.

    Args:
        pipeline: configs of transforms.
    """
    names = [_type_name(transform).rsplit('.', 1)[-1] for transform in pipeline]
    loaders = [transform for transform, name in zip(pipeline, names) if name.startswith('Load') and 'Annotation' in name]
    image = next((i for i, name in enumerate(names) if name.startswith('LoadImage')), None)
    if image is None:
        return list(pipeline)
    rest = [transform for transform in pipeline if not any(transform is loader for loader in loaders)]
    image = next(i for i, transform in enumerate(rest) if transform is pipeline[image])
    return [*rest[:image + 1], *loaders, *rest[image + 1:]]


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
    image = inputs.float().round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)
    image = image if image.shape[2] == 3 else image.repeat(3, axis=2)
    return np.ascontiguousarray(image[..., ::-1] if rgb else image)


def draw_annotations(visualizer: Visualizer, image: np.ndarray, sample: Any) -> np.ndarray:
    """Draw the ground truth of a data sample of MMDetection, MMSegmentation or MMPreTrain.

    Args:
        visualizer: of the same library.
        image: uint8 (H, W, 3), BGR.
        sample: a data sample of an image of this size.

    Returns:
        A picture of the same form; the image as it is where nothing is annotated.
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


def _type_name(transform: Dict[str, Any]) -> str:
    kind = transform.get('type') if isinstance(transform, dict) else type(transform)
    return kind if isinstance(kind, str) else getattr(kind, '__name__', '')


def _build_visualizer(cfg: Config, metainfo: Dict[str, Any]) -> Visualizer:
    kind = (cfg.get('visualizer') or {}).get('type', PREDICTORS[cfg.default_scope].visualizer_type)
    visualizer = VISUALIZERS.build(dict(type=kind, name=f'browse-{id(cfg)}', vis_backends=[]))
    visualizer.dataset_meta = metainfo
    visualizer.alpha = _OPACITY
    return visualizer
