"""Effective receptive fields of the backbones of several configs: heat maps side by side, and a table."""
import copy
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from hybrid_mm.backbones.base import BaseBackbone
from hybrid_mm.checkpoints import Released, backbone_part, load_released
from hybrid_mm.checkpoints.fit import load_fitting
from hybrid_mm.errors import SetupError
from hybrid_mm.inference.inputs import read_picture
from hybrid_mm.networks import build_model
from hybrid_mm.output import save_figure

from .cam_layers import out_indices
from .complexity import aligned
from .effective_receptive_field import ReceptiveField, area, square_side

FRACTIONS = (0.2, 0.5, 0.95, 0.99)  # of the gradient
_DRAWN = {0.5: 'solid', 0.95: 'dashed'}  # fractions whose squares are drawn, and the style of the line
_DARKEST = 1e-4  # of the heat map, over its largest value
_COLUMNS = 4


class Field(NamedTuple):
    """The field of one backbone."""
    config: str  # name of the config's file
    checkpoint: Optional[str]  # name of the file with the weights, None for random ones
    backbone: str  # name of the class
    stage: int  # counted from 1
    field: ReceptiveField  # gradient and centre

    @property
    def label(self) -> str:
        return f'{Path(self.config).stem}, stage {self.stage}, ' + (Path(self.checkpoint or '').stem or 'random weights')

    def areas(self) -> List[Tuple[float, float, int]]:
        """For each of `FRACTIONS`: itself, the share of the image that holds it, the side of the square in pixels."""
        gradient, centre = self.field
        return [(fraction, area(gradient, fraction), square_side(gradient, fraction, centre)) for fraction in FRACTIONS]

    def as_dict(self) -> Dict[str, Any]:
        """For JSON."""
        areas = [dict(gradient=fraction, share=share, side=side) for fraction, share, side in self.areas()]
        return dict(config=self.config, checkpoint=self.checkpoint, backbone=self.backbone, stage=self.stage,
                    centre=list(self.field.centre), areas=areas)


def build_backbone(cfg: Config, stage: Optional[int] = None, seed: int = 0, device: str = 'cpu') -> Tuple[nn.Module, int, int]:
    """The backbone of a config with random weights.

    Args:
        cfg: of a detector, segmentor or classifier. Files of weights that it names are not read.
        stage: the one whose map is wanted, counted from 1; by default the last that the backbone returns. One that the config
            does not ask for is added to ``out_indices``.
        seed: of the weights.
        device: where it goes.

    Returns:
        The backbone, the index of the map in its outputs, and the stage.

    Raises:
        SetupError: there is no backbone, or it has no such stage.
    """
    if not (cfg.get('model') or {}).get('backbone'):
        raise SetupError(f'{cfg.filename} has no model.backbone; give the config of a detector, segmentor or classifier')
    if stage is not None and stage < 1:
        raise SetupError(f'--stage {stage} is not allowed; stages count from 1')

    def build(cfg: Config) -> Tuple[nn.Module, List[int]]:
        torch.manual_seed(seed)
        backbone = build_model(cfg, device).backbone
        return backbone, out_indices(backbone)

    backbone, indices = build(cfg)
    if stage is None:
        return backbone, len(indices) - 1 if indices else -1, (indices[-1] + 1) if indices else 1
    if indices and stage - 1 not in indices:
        extended = copy.deepcopy(cfg)
        extended.model.backbone.out_indices = tuple(sorted((*indices, stage - 1)))
        try:
            backbone, indices = build(extended)
        except (AssertionError, IndexError, KeyError, ValueError) as error:
            raise SetupError(f'--stage {stage} is not allowed for {type(backbone).__name__} of {cfg.filename}'
                             f'{": " if str(error) else ""}{error}') from error
    return backbone, indices.index(stage - 1) if indices else stage - 1, stage


def load_weights(backbone: nn.Module, path: str) -> None:
    """Load a checkpoint of a whole network or of its backbone; for the families that have one the authors' file, too.

    Raises:
        ValueError: it is of another network; the message names what differs.
    """
    if isinstance(backbone, BaseBackbone):
        Released(path)(backbone)
    else:
        load_fitting(backbone, backbone_part(load_released(path)), path)


def prepare_picture(path: Path, size: int, preprocessor: Dict[str, Any]) -> Tensor:
    """A picture as the network takes it, (3, size, size): its short side resized, the middle cut out, normalised.

    Args:
        path: a file that OpenCV reads.
        size: side in pixels.
        preprocessor: ``data_preprocessor`` of the config.
    """
    image = read_picture(path)
    if image is None:
        raise SetupError(f'{path} is no picture that OpenCV reads; remove it from the folder')
    scale = size / min(image.shape[:2])
    height, width = (max(size, round(side * scale)) for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    rgb = bool(preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb'))
    mean, std = (np.array(preprocessor.get(key) or [default] * 3, np.float32) for key, default in (('mean', 0), ('std', 1)))
    image = mmcv.imnormalize(image[top:top + size, left:left + size], mean, std, to_rgb=rgb)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (H, W, 3) -> (3, H, W)


def draw_fields(path: Path, fields: Sequence[Field], title: str) -> None:
    """Draw heat maps side by side, with the squares that hold half and 95 % of the gradient.

    Args:
        path: PNG file to write.
        fields: of images of one size. A colour is the gradient over the largest of the same field.
        title: above all.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = min(_COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(4 * columns + 1, 4.3 * rows + 0.5), layout='constrained')
    for i, entry in enumerate(fields, 1):
        ax = figure.add_subplot(rows, columns, i)
        gradient, (row, column) = entry.field
        shown = (gradient / gradient.max()).clamp(min=_DARKEST).numpy()
        heat = ax.imshow(shown, cmap='inferno', norm=LogNorm(_DARKEST, 1), interpolation='nearest')
        for fraction, _, side in entry.areas():
            if fraction in _DRAWN:
                corner = column - side / 2, row - side / 2
                ax.add_patch(Rectangle(corner, side, side, fill=False, color='white', lw=1, ls=_DRAWN[fraction],
                                       label=f'{fraction:.0%}: {side} px'))
        # a square around a centre off the middle may stick out of the image
        ax.set(xlim=(-0.5, gradient.shape[1] - 0.5), ylim=(gradient.shape[0] - 0.5, -0.5))
        ax.set_title(entry.label.replace(', ', '\n', 1), fontsize='small')
        ax.legend(fontsize='x-small', facecolor='black', labelcolor='white', loc='lower right')
    figure.colorbar(heat, ax=figure.axes, label='gradient over its largest value', shrink=0.8)
    figure.suptitle(title, fontsize='medium')
    save_figure(figure, path)


def table(fields: Sequence[Field]) -> str:
    """A line a field: for each fraction the share of the image that holds it, and the side of the square."""
    lines = [['share of the gradient', *(f'{fraction:.0%}' for fraction in FRACTIONS)]]
    lines += [[entry.label, *(f'{share:.2%} / {side} px' for _, share, side in entry.areas())] for entry in fields]
    return '\n'.join(aligned(lines))
