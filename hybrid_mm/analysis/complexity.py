"""Parameters and multiply-accumulates (MACs) of the network of a config, in total and by part.

Nothing is computed: the network runs on tensors that have shapes and no values. No data and no weights are needed.

What counts, once a multiply-accumulate:

================ ============================================================================================================
conv + linear    convolutions, grouped and transposed ones too, linear layers, products of features with weights; ParC with
                 ``backend='auto'`` as it is defined, n products a position, whichever way runs; mmcv's deformable convolutions
attention        products of features with features: queries with keys, weights with values, however they are computed
                 (scaled_dot_product_attention, matmul, einsum); the transport of SeTformer, tokens with references included
norm, resize     as mmengine counts: 5 an element of LayerNorm and GroupNorm, 2 of BatchNorm; 4 an output of bilinear resizing
                 and sampling, 1 of nearest; 1 an input of adaptive average pooling
other            Sinkhorn's products with vectors; FFT at 5/4 n log2 n a real line, and what runs between two FFTs
================ ============================================================================================================

Published costs of Swin, ConvNeXt and their like are the sum of the first three. All else counts zero: activations, softmax,
sums, products by element, pooling, RoIAlign; and what depends on weights alone, which is the same for all images.

As in the published tables, a detector has 1000 boxes in its box heads and 100 in its mask heads, and a segmentor's auxiliary
head does not run, but its parameters count.
"""
from collections import Counter
from itertools import groupby
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from hybrid_mm.errors import SetupError
from hybrid_mm.networks import build_model

from .mac_counter import MacCounter, counting

COLUMNS = {
    'conv + linear': ('convolution', 'linear'),
    'attention': ('attention', ),
    'norm, resize': ('norm', 'resize', 'pool'),
    'other': ('Sinkhorn', 'FFT'),
}
_SHAPES = dict(mmdet=(800, 1280), mmseg=(512, 2048), mmpretrain=(224, 224))
NUM_BOXES, NUM_MASKS = 1000, 100  # of an image
_DIVIDED = ('backbone', 'roi_head')  # parts that are shown with the parts inside


class Part(NamedTuple):
    """A part of a network.

    Attributes:
        name: dotted name of the module, such as ``backbone.stages.2``; ``backbone.rest`` is what of the backbone is in none
            of its parts, and ``rest`` what of the network is in none.
        parameters: number of parameters.
        macs: kind of work -> MACs.
    """
    name: str
    parameters: int
    macs: Dict[str, int]

    def column(self, name: Optional[str] = None) -> int:
        """MACs of one of `COLUMNS`, or of all."""
        kinds = self.macs if name is None else COLUMNS[name]
        return sum(self.macs.get(kind, 0) for kind in kinds)

    def as_dict(self) -> Dict[str, Any]:
        """For JSON."""
        columns = {name: self.column(name) for name in COLUMNS}
        return dict(parameters=self.parameters, macs=self.column(), columns=columns, operators=dict(self.macs))


class Complexity(NamedTuple):
    """What a network costs for one image."""
    shape: Tuple[int, int]  # height and width of the image
    total: Part  # the network
    parts: List[Part]  # its parts, in the order in which they run; none is inside another
    uncounted: List[str]  # operators that ran and count zero

    def part(self, name: str) -> Part:
        """A part, or the sum of those inside: ``part('backbone')``; a KeyError if there is none of this name."""
        parts = [part for part in self.parts if part.name == name or part.name.startswith(f'{name}.')]
        if not parts:
            raise KeyError(name)
        return _sum(name, parts)

    def as_dict(self) -> Dict[str, Any]:
        """For JSON."""
        return dict(shape=list(self.shape), **self.total.as_dict(), parts={part.name: part.as_dict() for part in self.parts},
                    uncounted=self.uncounted)

    def table(self) -> str:
        """The parts and their sums, a line each."""
        rows = []
        for head, parts in groupby(self.parts, key=lambda part: part.name.partition('.')[0]):
            inside = list(parts)
            rows.append((head, _sum(head, inside)))
            rows += [(f'  {part.name[len(head) + 1:]}', part) for part in inside if part.name != head]
        lines = [['', 'params (M)', 'MACs (G)', *COLUMNS]]
        for name, part in [*rows, ('total', self.total)]:
            macs = [part.column(), *map(part.column, COLUMNS)]
            lines.append([name, f'{part.parameters / 1e6:.3f}', *(f'{number / 1e9:.3f}' for number in macs)])
        text = aligned(lines)
        rule = '-' * len(text[0])
        return '\n'.join([text[0], rule, *text[1:-1], rule, text[-1]])


def aligned(lines: Sequence[Sequence[str]]) -> List[str]:
    """Lines of a table: the first cell of each to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ['  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]


def complexity(cfg: Any, shape: Optional[Sequence[int]] = None) -> Complexity:
    """Count the network of a config.

    Args:
        cfg: config of a detector, segmentor or classifier, with ``default_scope`` and ``model``.
        shape: height and width of the image; by default see `default_shape`.

    Raises:
        SetupError: the shape is too small, or the network cannot be counted.
    """
    from mmengine.registry import DefaultScope
    image = torch.empty(image_shape(cfg, shape), device='meta')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg, 'meta')
        modules = dict(_divide(model))
        try:
            with counting(modules, image) as counter:
                run_network(model, image, cfg.default_scope, image.new_empty(NUM_BOXES, 5))
        except (NotImplementedError, RuntimeError) as error:
            if 'meta' not in str(error).lower():
                raise
            raise SetupError(f'{type(model).__name__} cannot be counted, as it needs values of features, which are not '
                             f'computed: {str(error).splitlines()[0]}') from error
    parts = _parts(model, modules, counter)
    return Complexity(tuple(image.shape[2:]), _sum('total', parts), parts, sorted(counter.uncounted))


def image_shape(cfg: Any, shape: Optional[Sequence[int]] = None) -> Tuple[int, int, int, int]:
    """Shape of one image as the network of a config takes it, (1, channels, height, width); by default see `default_shape`.

    Raises:
        SetupError: the config has no model, or the shape is too small.
    """
    if not cfg.get('model'):
        raise SetupError('the config has no model; give the config of a detector, segmentor or classifier')
    sides = tuple(default_shape(cfg) if shape is None else shape)
    if len(sides) != 2 or min(sides) < 32:
        raise SetupError(f'shape {" ".join(map(str, sides))} is not allowed; give height and width in pixels, each 32 or more')
    return (1, (cfg.model.get('backbone') or {}).get('in_channels', 3), *sides)


def default_shape(cfg: Any) -> Tuple[int, int]:
    """Height and width at which papers give costs.

    Detectors 800x1280, segmentors 512x2048; classifiers what the test pipeline cuts, or else 224x224.
    """
    pipeline = ((cfg.get('test_dataloader') or {}).get('dataset') or {}).get('pipeline') or []
    for transform in pipeline if cfg.default_scope == 'mmpretrain' else []:
        if transform['type'] == 'CenterCrop':
            size = transform['crop_size']
            return (size, size) if isinstance(size, int) else tuple(size)
    return _SHAPES[cfg.default_scope]


def _divide(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Parts of a model by name; an inner part comes before the one that it is in."""
    for name, child in model.named_children():
        if name not in _DIVIDED or not list(child.children()):
            yield name, child
            continue
        for inner, part in child.named_children():
            items = part.named_children() if isinstance(part, nn.ModuleList) else [('', part)]
            yield from ((f'{name}.{inner}.{i}'.rstrip('.'), item) for i, item in items)
        yield f'{name}.rest', child
    yield 'rest', model


def _parts(model: nn.Module, modules: Dict[str, nn.Module], counter: MacCounter) -> List[Part]:
    """The parts with their parameters, in the order in which they run; what two parts share belongs to the first."""
    rest = {id(p): p for p in model.parameters()}
    parts = []
    for name, module in modules.items():
        own = [rest.pop(id(p)) for p in module.parameters() if id(p) in rest]
        parts.append(Part(name, sum(p.numel() for p in own), dict(counter.counts.get(name, {}))))
    ran = list(counter.counts)
    heads = list(dict.fromkeys(name.partition('.')[0] for name in [*ran, *modules]))

    def place(part: Part) -> Tuple[bool, int, bool, int]:
        """Heads as they run, then what has none; in each the parts as they run, then those that do not, then the rest."""
        head, _, tail = part.name.partition('.')
        return head == 'rest', heads.index(head), tail == 'rest', ran.index(part.name) if part.name in ran else len(ran)

    return sorted((part for part in parts if part.parameters or part.column()), key=place)


def _sum(name: str, parts: Sequence[Part]) -> Part:
    macs = sum((Counter(part.macs) for part in parts), Counter())
    return Part(name, sum(part.parameters for part in parts), dict(macs))


def run_network(model: nn.Module, images: Tensor, scope: str, boxes: Tensor, verb: str = 'counted') -> None:
    """The forward pass that the published tables count, without what comes before and after the network.

    In a detector with RoI heads these take the same boxes whatever the RPN finds, which depends on the weights.

    Args:
        model: detector, segmentor or classifier in evaluation mode.
        images: (B, C, H, W).
        scope: library of the model.
        boxes: `NUM_BOXES` for each image, those of an image together: (n, 5), the index of the image, x1, y1, x2, y2. All go
            to the box heads, `NUM_MASKS` of each image to the mask heads.
        verb: for the message, what is done to the network.

    Raises:
        SetupError: the RoI heads are of a kind that is not known.
    """
    if scope != 'mmdet':
        model(images, mode='tensor')
    elif getattr(model, 'roi_head', None) is None:
        from mmdet.structures import DetDataSample
        model(images, data_samples(images, DetDataSample), mode='tensor')
    else:
        maps = model.extract_feat(images)
        if model.with_rpn:
            model.rpn_head(maps)
        if images.is_meta:
            maps = maps[:1]  # a box takes its features from one level; values decide which, and all cost the same
        _run_roi_head(model.roi_head, maps, boxes, verb)


def data_samples(images: Tensor, kind: type) -> list:
    """Samples of a library's kind for images (B, C, H, W), which say that these have no padding."""
    shape = tuple(images.shape[2:])
    metainfo = dict(batch_input_shape=shape, pad_shape=shape, img_shape=shape, ori_shape=shape, scale_factor=(1., 1.))
    return [kind(metainfo=metainfo) for _ in images]


def _run_roi_head(roi_head: nn.Module, maps: Sequence[Tensor], boxes: Tensor, verb: str) -> None:
    """The box and mask heads, stage by stage.

    MMDetection's own forward of a cascade sends all boxes to the mask heads, and where the boxes lie is decided by values.
    """
    from mmdet.models import CascadeRoIHead, StandardRoIHead
    if type(roi_head).forward not in (StandardRoIHead.forward, CascadeRoIHead.forward):
        raise SetupError(f'roi_head of type {type(roi_head).__name__} cannot be {verb}; known are StandardRoIHead, '
                         'CascadeRoIHead and what runs as they do')
    for stage in [(i, ) for i in range(roi_head.num_stages)] if isinstance(roi_head, CascadeRoIHead) else [()]:
        if roi_head.with_bbox:
            roi_head._bbox_forward(*stage, maps, boxes)
        if roi_head.with_mask:
            roi_head._mask_forward(*stage, maps, boxes[::NUM_BOXES // NUM_MASKS])
