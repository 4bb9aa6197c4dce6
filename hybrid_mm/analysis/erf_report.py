"""Effective receptive fields of the backbones of several configs: heat maps side by side, a table, a file of numbers."""
import argparse
import copy
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from hybrid_mm.backbones.base import BaseBackbone
from hybrid_mm.checkpoints import Released, backbone_part, load_released
from hybrid_mm.checkpoints.key_maps import KEY_MAPS
from hybrid_mm.engine.check_setup_hook import differences
from hybrid_mm.errors import SetupError
from hybrid_mm.engine.launch import one_sentence, read_config
from hybrid_mm.engine.output import check_out_file, whole_file
from hybrid_mm.engine.preflight import check_checkpoint
from hybrid_mm.engine.progress import Progress
from hybrid_mm.inference.inputs import Video, find_inputs, read_picture
from hybrid_mm.inference.launch import find_device

from .browse import spread
from .complexity import build_model
from .effective_receptive_field import ReceptiveField, area, effective_receptive_field, random_images, square_side

FRACTIONS = (0.2, 0.5, 0.95, 0.99)  # of the gradient
_RANDOM = 'none'  # in the place of a checkpoint
_DRAWN = {0.5: 'solid', 0.95: 'dashed'}  # fractions whose squares are drawn, and the style of the line
_DARKEST = 1e-4  # of the heat map, over its largest value
_COLUMNS = 4


class Field(NamedTuple):
    """The field of one backbone.

    Attributes:
        config: name of the config's file.
        checkpoint: name of the file with the weights, None for random ones.
        backbone: name of the class.
        stage: counted from 1.
        field: gradient and centre.
    """
    config: str
    checkpoint: Optional[str]
    backbone: str
    stage: int
    field: ReceptiveField

    @property
    def label(self) -> str:
        return f'{Path(self.config).stem}, stage {self.stage}, ' + (Path(self.checkpoint or '').stem or 'random weights')

    def areas(self) -> List[Tuple[float, float, int]]:
        """For each of `FRACTIONS`: itself, the share of the image that holds it, the side of the square in pixels."""
        gradient, centre = self.field
        return [(fraction, area(gradient, fraction), square_side(gradient, fraction, centre)) for fraction in FRACTIONS]


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
    backbone = _build(cfg, seed, device)
    indices = _out_indices(backbone)
    if stage is None:
        return backbone, len(indices) - 1 if indices else -1, (indices[-1] + 1) if indices else 1
    if indices and stage - 1 not in indices:
        extended = copy.deepcopy(cfg)
        extended.model.backbone.out_indices = tuple(sorted((*indices, stage - 1)))
        try:
            backbone = _build(extended, seed, device)
        except (AssertionError, IndexError, KeyError, ValueError) as error:
            raise SetupError(f'--stage {stage} is not allowed for {type(backbone).__name__} of {cfg.filename}'
                             f'{": " if str(error) else ""}{error}') from error
        indices = _out_indices(backbone)
    return backbone, indices.index(stage - 1) if indices else stage - 1, stage


def load_weights(backbone: nn.Module, path: str) -> None:
    """Load the weights of a backbone.

    Args:
        backbone: any.
        path: checkpoint of a whole network or of its backbone; for the families that have one the authors' file, too.

    Raises:
        ValueError: it is of another network; the message names what differs.
    """
    if isinstance(backbone, BaseBackbone) and type(backbone).__name__ in KEY_MAPS:
        Released(path)(backbone)
        return
    tensors = backbone_part(load_released(path))
    wanted = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    faults = differences({key: tuple(value.shape) for key, value in tensors.items()}, wanted)
    if faults:
        raise SetupError(f'{path} does not fit {type(backbone).__name__}: {faults}; give one that was saved with the backbone '
                         'of this config')
    backbone.load_state_dict(tensors, strict=False)  # only counters that nothing uses are absent, as checked above


def prepare_picture(path: Path, size: int, preprocessor: Dict[str, Any]) -> Tensor:
    """A picture as the network takes it: its short side resized, the middle cut out, normalised.

    Args:
        path: the file.
        size: side in pixels of what is cut out.
        preprocessor: ``data_preprocessor`` of the config.

    Returns:
        (3, size, size).

    Raises:
        SetupError: the file cannot be read.
    """
    image = read_picture(path)
    if image is None:
        raise SetupError(f'{path} is no picture that OpenCV reads; remove it from the folder')
    height, width = image.shape[:2]
    scale = size / min(height, width)
    height, width = max(size, round(height * scale)), max(size, round(width * scale))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    image = image[top:top + size, left:left + size]
    if preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb'):
        image = image[..., ::-1]
    mean, std = (np.array(preprocessor.get(key) or default, np.float32) for key, default in (('mean', 0), ('std', 1)))
    return torch.from_numpy(np.ascontiguousarray(((image - mean) / std).transpose(2, 0, 1)))  # (H, W, 3) -> (3, H, W)


def draw_fields(path: Path, fields: Sequence[Field], title: str) -> None:
    """Draw heat maps side by side, with the squares that hold half and 95 % of the gradient.

    Args:
        path: PNG file to write.
        fields: of images of one size. A colour is the gradient over the largest of the same field.
        title: above all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, whatever the user's settings
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = min(_COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(4 * columns + 1, 4.3 * rows + 0.5), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, entry in zip(axes, fields):
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
    for ax in axes[len(fields):]:
        ax.set_axis_off()
    figure.colorbar(heat, ax=list(axes), label='gradient over its largest value', shrink=0.8)
    figure.suptitle(title, fontsize='medium')
    with whole_file(path) as partial:
        figure.savefig(partial, format='png', dpi=120, metadata={'Software': None})


def table(fields: Sequence[Field]) -> str:
    """A line a field: for each fraction the share of the image that holds it, and the side of the square."""
    rows = [['share of the gradient', *(f'{fraction:.0%}' for fraction in FRACTIONS)]]
    rows += [[entry.label, *(f'{share:.2%} / {side} px' for _, share, side in entry.areas())] for entry in fields]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """`tools/analysis/erf.py`.

    Args:
        argv: arguments of the command line, by default those of this process.

    Raises:
        SystemExit: a fault that the user can mend, as one sentence.
    """
    args = parse_args(argv)
    with one_sentence():
        run(args)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Effective receptive fields of backbones: how much each pixel moves the middle of the map of a stage, '
        'the sum of its positive channels. Writes heat maps side by side and a JSON file of the same name, and prints the '
        'smallest share of the pixels, and the side of the smallest square around the centre, that hold 20, 50, 95 and 99 %% '
        'of the gradient.')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config of a detector, segmentor or classifier')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings that replace those of each config, as in tools/train.py')
    parser.add_argument('--checkpoints', nargs='+', metavar='FILE',
                        help=f'weights, a file for each config, or "{_RANDOM}" for random ones; by default all are random')
    parser.add_argument('--stage', type=int, help='which stage, counted from 1; by default the last that a backbone returns')
    parser.add_argument('--images', type=Path, metavar='FOLDER',
                        help='pictures to average over, resized and cut to a square; by default normal noise')
    parser.add_argument('--size', type=int, default=224, help='side of an image in pixels (default: %(default)s)')
    parser.add_argument('--number', type=int, default=8,
                        help='images to average over, evenly spread over the folder (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of random weights and images (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('erf.png'), help='file to write (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:1; by default a GPU if there is one')
    parser.add_argument('--force', action='store_true', help='overwrite the files')
    parser.set_defaults(launcher='none', work_dir=None)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Check, compute, print, write.

    Raises:
        ValueError, OSError: see `hybrid_mm.engine.launch.one_sentence`; the message names the value and what is allowed.
    """
    _check_options(args)
    device = find_device(args.device)
    checkpoints = [None if path == _RANDOM else path for path in args.checkpoints or [_RANDOM] * len(args.configs)]
    for path in checkpoints:
        check_checkpoint(path, '--checkpoints')
    files = _pictures(args)
    number = args.number if files is None else len(files)
    backbones = []
    for path, checkpoint in zip(args.configs, checkpoints):
        cfg = read_config(argparse.Namespace(**dict(vars(args), config=path)))
        backbone, index, stage = build_backbone(cfg, args.stage, args.seed, device)
        if checkpoint is not None:
            load_weights(backbone, checkpoint)
        backbones.append((cfg, checkpoint, backbone, index, stage))

    fields = []
    with Progress('images', number * len(backbones)) as progress:
        for path, (cfg, checkpoint, backbone, index, stage) in zip(args.configs, backbones):
            images = _counted(_images(args, cfg, files), progress)
            field = effective_receptive_field(backbone, args.size, index, images=images, positive=True)
            fields.append(Field(Path(path).name, checkpoint and Path(checkpoint).name, type(backbone).__name__, stage, field))
    source = 'normal noise' if files is None else f'pictures of {args.images}'
    title = f'effective receptive field at {args.size}x{args.size} pixels, {number} images, {source}'
    draw_fields(args.out, fields, title)
    numbers = dict(size=args.size, number=number, images=source, seed=args.seed, backbones=[_as_dict(f) for f in fields])
    with whole_file(args.out.with_suffix('.json')) as partial:
        partial.write_text(json.dumps(numbers, indent=2) + '\n')
    print(f'{title}\nshare of the pixels / side of the square around the centre\n\n{table(fields)}\n')
    if None in checkpoints:
        print('Random weights: the fields are those of networks at the start of a training.')
    print(f'{args.out}, {args.out.with_suffix(".json")}: {len(fields)} {"field" if len(fields) == 1 else "fields"}')


def _check_options(args: argparse.Namespace) -> None:
    check_out_file(args.out, ('.png', ), args.force)
    check_out_file(args.out.with_suffix('.json'), ('.json', ), args.force)
    for name, least in (('size', 32), ('number', 1), ('seed', 0)):
        if getattr(args, name) < least:
            raise SetupError(f'--{name} {getattr(args, name)} is not allowed; choose {least} or more')
    if args.checkpoints is not None and len(args.checkpoints) != len(args.configs):
        raise SetupError(f'--checkpoints has {len(args.checkpoints)} files for {len(args.configs)} configs; give one for each, '
                         f'or "{_RANDOM}" in the place of one')


def _pictures(args: argparse.Namespace) -> Optional[List[Path]]:
    if args.images is None:
        return None
    files = find_inputs(args.images)
    if isinstance(files, Video):
        raise SetupError(f'--images {args.images} is a video; give a folder of pictures')
    return [files[i] for i in spread(len(files), args.number)]


def _images(args: argparse.Namespace, cfg: Config, files: Optional[List[Path]]) -> Iterator[Tensor]:
    channels = cfg.model.backbone.get('in_channels', 3)
    if files is None:
        yield from random_images((args.size, args.size), args.number, channels, args.seed)
        return
    if channels != 3:
        raise SetupError(f'in_channels={channels} of {cfg.filename}: pictures have 3 channels; leave --images out')
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    for file in files:
        yield prepare_picture(file, args.size, preprocessor)


def _counted(images: Iterator[Tensor], progress: Progress) -> Iterator[Tensor]:
    for image in images:
        yield image
        progress.advance()


def _build(cfg: Config, seed: int, device: str) -> nn.Module:
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return build_model(cfg, device).backbone


def _out_indices(backbone: nn.Module) -> List[int]:
    """Stages of the outputs, counted from 0; empty where the backbone does not say."""
    indices = getattr(backbone, 'out_indices', ())
    return [indices] if isinstance(indices, int) else list(indices)


def _as_dict(entry: Field) -> Dict[str, Any]:
    areas = [dict(gradient=fraction, share=share, side=side) for fraction, share, side in entry.areas()]
    return dict(config=entry.config, checkpoint=entry.checkpoint, backbone=entry.backbone, stage=entry.stage,
                centre=list(entry.field.centre), areas=areas)
