"""The text of a config for a user's own folder: a base, the data, and what was chosen, each with its reason."""
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from mmengine.config import Config

from .own_folder import BOXES, MAPS, MASKS, OwnFolder
from .own_sizes import Machine, Measures, Sizes, choose_sizes, crop_within

NETWORK = 'parc_mbv2'
BASES = {MAPS: 'real/upernet_{}_camvid{}.py', MASKS: 'real/maskrcnn_{}_dsb2018{}.py', BOXES: 'real/fasterrcnn_{}_bccd{}.py'}
_FEW = 100  # objects found in a picture at least; what COCO's metric counts
_LITTLE_MEMORY = 4.  # GiB
_PASSES, _STEPS = 300, 2000  # over the pictures at most, but for so many steps
_SAVING = 300.  # seconds between checkpoints
_LARGEST = 10.  # weight of a class
_DRAWN = 30  # pictures of regions that were found
_COLOURS = 80  # of COCO's classes, for pictures of what was found
_WIDTH = 126


class Schedule(NamedTuple):
    """How long to train.

    Attributes:
        steps: number of them.
        batch: pictures in each.
        seconds: of one on this machine.
        minutes: that were given.
    """
    steps: int
    batch: int
    seconds: float
    minutes: float


def choose_batch(base: Config, machine: Machine) -> int:
    """Pictures in a step: those of the base, at least four; fewer where memory is short."""
    batch = max(4, base.train_dataloader.batch_size)
    return min(batch, 2) if machine.memory is not None and machine.memory < _LITTLE_MEMORY and not machine.gpu else batch


def choose_schedule(seconds: float, batch: int, minutes: float, pictures: int) -> Schedule:
    """Steps that fit into the time, to two digits; no more than 300 passes over the pictures, or 2000 steps."""
    steps = min(60 * minutes / seconds, max(_STEPS, _PASSES * pictures / batch))
    digits = 10 ** max(0, len(str(int(steps))) - 2)
    return Schedule(max(2, int(steps) // digits * digits), batch, seconds, minutes)


def class_weights(pixels: Sequence[int]) -> List[float]:
    """A weight of each class for the loss: one by the square root of its share of the pixels, for a mean of 1 over all pixels.

    At most `_LARGEST`, so that a handful of pixels does not rule a training; a class without pixels has 1.
    """
    shares = [number / max(1, sum(pixels)) for number in pixels]
    mean = sum(share ** 0.5 for share in shares)
    return [min(_LARGEST, 1 / (share ** 0.5 * mean)) if share else 1. for share in shares]


def config_text(folder: OwnFolder, base: Config, name: str, measures: Measures, schedule: Schedule, machine: Machine,
                out: str, lists: Dict[str, Path], checkpoint: Optional[str] = None) -> str:
    """The config.

    Args:
        folder: the data.
        base: the config of ours to start from.
        name: of it, as `hybrid_mm.config_path` takes it.
        measures, schedule: of training.
        machine: where it was measured.
        out: name of the file, for its comment.
        lists: lists of the pictures of parts, where there are any.
        checkpoint: file to start from.
    """
    sizes = choose_sizes(measures, folder.task == MAPS, machine.gpu)
    passes = schedule.steps * schedule.batch / folder.parts['train'].number
    head = [
        f'# Made by tools/datasets/make_config.py for the {folder.task} in {folder.root.name}; change it as you like:',
        f'# python tools/train.py {out}',
        f"_base_ = [__import__('hybrid_mm').config_path({name!r})]",
        f'data_root = {str(folder.root)!r}',
        *_filled('classes = [', [*map(repr, folder.classes)], ']'),
        f'# A step of {schedule.batch} pictures takes {schedule.seconds:.2g} s on {machine}, and {schedule.minutes:g} minutes '
        f'were given: {passes:.2g} passes over {folder.parts["train"].number} pictures.',
        f'steps = {schedule.steps}',
    ]
    loader = [f'batch_size={schedule.batch}, '] if schedule.batch != base.train_dataloader.batch_size else []
    loader += ['num_workers=2, persistent_workers=True, '] if machine.cores >= 4 and not base.train_dataloader.num_workers else []
    body = _segmentor(folder, base, sizes, measures, lists) if folder.task == MAPS else _detector(folder, base, sizes, measures)
    body = [line.replace('train_dataloader = dict(', f'train_dataloader = dict({"".join(loader)}') for line in body]
    return '\n'.join([*head, *body, *_training(folder, base, schedule, checkpoint)]) + '\n'


def _detector(folder: OwnFolder, base: Config, sizes: Sizes, measures: Measures) -> List[str]:
    has_test = 'test' in folder.parts
    most = max(_FEW, -(-int(measures.most * 1.3) // 50) * 50)
    names = ['bbox_head', 'mask_head'] if folder.task == MASKS else ['bbox_head']
    heads = ', '.join(f'{name}=dict(num_classes=len(classes))' for name in names)
    metric = "type='hybrid_mm.CocoMetric', proposal_nums=(1, 10, most)" + ', classwise=True' * (len(folder.classes) > 1)
    train, found = _training_sizes(base, sizes), _testing_sizes(base, sizes)
    rpn = ['    rpn_head=dict(anchor_generator=dict(ratios=[0.5, 1.0, 2.0])),  # many objects are long and thin'
           ] if measures.long_objects else []
    pairs = list(folder.parts.items())
    data = [line for split, part in pairs for line in (
        f'{split}_dataloader = dict(dataset=dict(',
        f'    data, ann_file={_place(folder.root, part.annotations)}, '
        f'data_prefix=dict(img={_place(folder.root, part.pictures)}), '
        f'pipeline={"train" if split == "train" else "test"}_pipeline))')]
    metrics = [f'{split}_evaluator = dict(metric, ann_file={_path(folder.root, part.annotations)})' for split, part in pairs[1:]]
    same = [] if has_test else ['test_dataloader = val_dataloader', 'test_evaluator = val_evaluator']
    palette = ', palette=None' if len(folder.classes) > _COLOURS else ''
    return [
        f'most = {most}  # objects that are looked for in a picture; the fullest one for training has {measures.most}',
        f'# Pictures are resized by about {sizes.factor:g}: {sizes.reason}.',
        *train, *found,
        f'data = dict(data_root=data_root, metainfo=dict(classes=classes{palette}))',
        *data, f'metric = dict({metric})', *metrics, *same,
        'model = dict(',
        *rpn,
        f'    roi_head=dict({heads}),',
        '    test_cfg=dict(rpn=dict(nms_pre=max(500, 2 * most), max_per_img=max(200, 2 * most)), rcnn=dict(max_per_img=most)))',
    ]


def _segmentor(folder: OwnFolder, base: Config, sizes: Sizes, measures: Measures, lists: Dict[str, Path]) -> List[str]:
    crop = crop_within(base.model.data_preprocessor.size, sizes.scale)
    test = 'test' if 'test' in folder.parts else 'val'
    resize = [] if sizes.factor == 1 and measures.same else [
        "test_pipeline.insert(1, dict(type='Resize', scale=size, keep_ratio=True))"]
    lines = [
        f'# Pictures {f"are resized by about {sizes.factor:g}" if resize else "stay as they are"}: {sizes.reason}.',
        f'size = {sizes.scale}  # most width and height',
        f'crop = {crop}  # height and width that the network sees in training',
        'sizes = dict(RandomResize=dict(scale=size), RandomCrop=dict(crop_size=crop))',
        'train_pipeline = [dict(step, **sizes.get(step.type, {})) for step in _base_.train_pipeline]',
        'test_pipeline = [*_base_.test_pipeline]', *resize,
        'data = dict(data_root=data_root, metainfo=dict(classes=classes, palette=[]),',
        f'            reduce_zero_label={folder.reduce_zero_label},',
        f'            img_suffix={folder.picture_ending!r}, seg_map_suffix={folder.map_ending!r})',
    ]
    for split, of in (('train', 'train'), ('val', 'val'), ('test', test)):
        part, pipeline = folder.parts[of], 'train_pipeline' if split == 'train' else 'test_pipeline'
        names = [f'    ann_file={str(lists[of])!r},'] if of in lists else []
        lines += [f'{split}_dataloader = dict(dataset=dict(',
                  '    data,', *names, f'    data_prefix=dict(img_path={_place(folder.root, part.pictures)}, '
                  f'seg_map_path={_place(folder.root, part.annotations)}),', f'    pipeline={pipeline}))']
    lines += ["# One by the square root of a class's share of the pixels for training: rare classes count more.",
              *_filled('class_weight = [', [f'{weight:.3g}' for weight in class_weights(folder.pixels)], ']')]
    heads = [f'    {name}=dict(num_classes=len(classes), loss_decode=dict(class_weight=class_weight)),'
             for name in ('decode_head', 'auxiliary_head') if base.model.get(name)]
    return [*lines, 'model = dict(', *heads, '    data_preprocessor=dict(size=crop))']


def _training_sizes(base: Config, sizes: Sizes) -> List[str]:
    """The pipeline of a detector: crops before a resize are in pixels of the picture, those behind it in those of the network."""
    changes: List[str] = []
    for step in base.train_pipeline:
        kind = step.type.rpartition('.')[2]
        if kind == 'RandomResize' or kind == 'Resize' and 'RandomCrop' not in ''.join(changes):
            changes.append(f'{kind}=dict(scale={sizes.scale})')
        elif kind == 'RandomCrop' and step.get('crop_type') == 'absolute_range':
            least, largest = (round(side * _factor(base, sizes) / sizes.factor) for side in step.crop_size)
            changes.append(f'RandomCrop=dict(crop_size=({least}, {largest}))')
        elif kind == 'RandomCrop':
            changes.append(f'RandomCrop=dict(crop_size={crop_within(step.crop_size, sizes.scale)})')
    return [*_filled('sizes = dict(', changes, ')'),
            'train_pipeline = [dict(step, **sizes.get(step.type, {})) for step in _base_.train_pipeline]']


def _testing_sizes(base: Config, sizes: Sizes) -> List[str]:
    factor = any(step.get('scale_factor') for step in base.test_pipeline)
    change = f'scale_factor={sizes.factor:g}' if factor else f'scale={sizes.scale}'
    return [f'resize = dict(Resize=dict({change}))',
            'test_pipeline = [dict(step, **resize.get(step.type, {})) for step in _base_.test_pipeline]']


def _factor(base: Config, sizes: Sizes) -> float:
    """By which the base resizes pictures when it tests."""
    return next((step.scale_factor for step in base.test_pipeline if step.get('scale_factor')), sizes.factor)


def _training(folder: OwnFolder, base: Config, schedule: Schedule, checkpoint: Optional[str]) -> List[str]:
    schedulers = []
    for i, scheduler in enumerate(base.param_scheduler):
        warm_up = min(scheduler.end, max(1, schedule.steps // 5))
        end = 'steps' if scheduler.end >= base.train_cfg.max_iters else warm_up
        schedulers.append(f'dict(_base_.param_scheduler[{i}], end={end})')
    hooks = [f'checkpoint=dict(interval={max(1, round(_SAVING / schedule.seconds))})',
             f'logger=dict(interval={min(20, max(1, schedule.steps // 10))})']
    if folder.task == MAPS:  # each takes seconds
        number = folder.parts.get('test', folder.parts['val']).number
        hooks.append(f'visualization=dict(interval={max(1, number // _DRAWN)})')
    return [
        'train_cfg = dict(max_iters=steps, val_interval=steps)',
        *_filled('param_scheduler = [', schedulers, ']'),
        *_filled('default_hooks = dict(', hooks, ')'),
        *([f'load_from = {checkpoint!r}'] if checkpoint else []),
    ]


def _place(root: Path, path: Path) -> str:
    """A path from the root, or a whole one, as text of a config."""
    return repr(str(path.relative_to(root))) if root in (path, *path.parents) else repr(str(path))


def _path(root: Path, path: Path) -> str:
    return f"data_root + {'/' + str(path.relative_to(root))!r}" if root in path.parents else repr(str(path))


def _filled(start: str, words: Sequence[str], end: str) -> List[str]:
    """``start word, word end`` in lines that are not too long."""
    lines, line = [], start
    for i, word in enumerate(words):
        text = f'{word}, ' if i < len(words) - 1 else f'{word}{end}'
        if len(line + text) > _WIDTH and line.strip():
            lines.append(line.rstrip())
            line = '    '
        line += text
    return [*lines, line]
