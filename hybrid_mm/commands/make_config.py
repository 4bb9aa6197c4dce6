"""Write a config for a folder of your own: COCO's layout, or pictures and label maps.

It looks at what the folder holds, checks it as tools/datasets/check.py does, holds pictures out for validation where there are
none, and chooses sizes and the length of the training by the data and by steps that it times on this machine. What it makes
besides the config, such as mended copies and lists, lies in a folder beside it, whose name ends in _data. Run again, it leaves a
config of the same data and options as it is.
"""
import argparse
import copy
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Dict, List

import torch
from mmengine.config import Config
from mmengine.device import get_device

from hybrid_mm.data import faults as kinds
from hybrid_mm.data.coco_fix import mend, write_coco
from hybrid_mm.data.faults import ADVICE, Fault, by_kind
from hybrid_mm.data.folders import look_at
from hybrid_mm.data.inspection import Part, inspect
from hybrid_mm.data.own_config import BASES, NETWORK, Schedule, choose_batch, choose_schedule, config_text
from hybrid_mm.data.own_folder import MAPS, OwnFolder, fingerprint
from hybrid_mm.data.own_maps import write_new_values
from hybrid_mm.data.own_sizes import machine_here, measure
from hybrid_mm.engine.pace import seconds_per_step
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.output import whole_file
from hybrid_mm.paths import config_path

from .check import list_faults, usable_cpus
from .preflight import check_checkpoint
from .shared import check_writable, count, parser_of, read_config

_MOST_LOST = 0.05  # share of annotations that a mended copy may lack
_UNTIL_MEASURED = 1.  # seconds of a step


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='with the data')
    parser.add_argument('--out', type=Path, metavar='FILE', help='the config; by default <name of the folder>.py')
    parser.add_argument('--minutes', type=float, default=20., metavar='N',
                        help='to train for, on this machine (default: %(default)g)')
    parser.add_argument('--network', default=NETWORK, metavar='NAME',
                        help='as in the names of the configs in configs/real, such as transcnn_s (default: %(default)s)')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights to start from; by default random ones')
    return parser


def run(args: argparse.Namespace) -> None:
    if not args.minutes > 0:
        raise SetupError(f'--minutes {args.minutes:g} is not allowed; choose more than 0')
    check_checkpoint(args.checkpoint, '--checkpoint')
    root = args.folder.resolve()
    out = args.out or Path(re.sub(r'\W', '_', root.name) + '.py')
    if out.suffix != '.py' or out.is_dir():
        raise SetupError(f'--out {out} is not allowed; give a file that ends in .py')
    if root in out.resolve().parents:
        raise SetupError(f'--out {out} is in {root} itself, among the data; give a file elsewhere')
    folder = look_at(root)
    args.checkpoint = args.checkpoint and str(Path(args.checkpoint).resolve())
    options = dict(folder=str(root), data=fingerprint(root), minutes=args.minutes, network=args.network,
                   checkpoint=args.checkpoint)
    beside = out.with_name(f'{out.stem}_data')
    if out.exists():
        _compare(out, beside, options)
        print(f'{out} is there already, for the same data and options.')
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(out.parent, f'--out {out}')
    name = _base_name(folder.task, args.network)
    text = _make(folder, name, args, out, beside.resolve())
    _write(beside / 'made_from.json', json.dumps(options, indent=1))
    _write(out, text)
    print(f'{out}: the config; tools/train.py trains with it')


def _compare(out: Path, beside: Path, options: Dict[str, Any]) -> None:
    """Raise a SetupError where a config was made for other data, or with other options."""
    record = beside / 'made_from.json'
    try:
        before = json.loads(record.read_text())
    except (OSError, ValueError):
        raise SetupError(f'{out} exists, and {record} does not say for which data; give another --out, or remove it') from None
    for key, value in options.items():
        if before.get(key) != value:
            what = f'the files in {before["folder"]} have changed since' if key == 'data' else (
                f'{key} was {before.get(key)} then and is {value} now')
            raise SetupError(f'{out} was made before: {what}; give another --out, or remove it, and what was trained with it, to '
                             'begin anew')


def _make(folder: OwnFolder, name: str, args: argparse.Namespace, out: Path, beside: Path) -> str:
    """Everything up to the config, which is returned, telling the user what is found and chosen."""
    parts = ', '.join(f'{split} {part.number}' for split, part in folder.parts.items())
    print(f'{folder.root}: pictures with {folder.task}, {parts}; classes: {len(folder.classes)}, {shorten(folder.classes, 10)}')
    for note in folder.notes:
        print(note)
    lists = _write_parts(folder, beside)
    machine = machine_here(gpu=get_device() != 'cpu')
    base = Config.fromfile(config_path(name))
    batch = choose_batch(base, machine)
    cfg = copy.deepcopy(base)
    _set_data(cfg, folder, lists)
    _check(cfg, folder, beside)
    measures = measure(folder)

    def text(schedule: Schedule) -> str:
        return config_text(folder, base, name, measures, schedule, machine, str(out), lists, args.checkpoint)

    trial = beside / 'trial.py'
    while True:
        _write(trial, text(Schedule(100, batch, _UNTIL_MEASURED, args.minutes)))
        try:
            with redirect_stdout(io.StringIO()):  # pycocotools prints
                seconds = seconds_per_step(read_config(str(trial)))
            break
        except torch.cuda.OutOfMemoryError:
            if batch < 4:
                raise
            batch //= 2
    trial.unlink()
    schedule = choose_schedule(seconds, batch, args.minutes, folder.parts['train'].number)
    print(f'{name}, from {args.checkpoint or "random weights"}: a step of {batch} pictures takes {seconds:.2g} s '
          f'on {machine}, so that {schedule.steps} steps take about {schedule.steps * seconds / 60:.2g} minutes')
    return text(schedule)


def _base_name(task: str, network: str) -> str:
    """The config of ours to start from; on a GPU the full recipe, where there is one."""
    pattern = BASES[task]
    for full in ('_full', '') if get_device() != 'cpu' else ('', ):
        try:
            config_path(pattern.format(network, full))
            return pattern.format(network, full)
        except FileNotFoundError:
            pass
    start, end = Path(pattern).name.split('{}', 1)[0], Path(pattern).name.split('{}')[1]
    known = sorted(path.stem[len(start):-len(end)] for path in Path(config_path(pattern.format(NETWORK, ''))).parent.glob('*.py')
                   if path.stem.startswith(start) and path.stem.endswith(end))
    raise SetupError(f'--network {network} is not allowed; choose from {", ".join(known)}')


def _write_parts(folder: OwnFolder, beside: Path) -> Dict[str, Path]:
    """Write what is not in the folder itself: parts that were drawn, new label maps, and lists, which are returned."""
    if folder.new_values:
        write_new_values(folder, beside / 'label_maps')
    drawn = len({part.annotations for part in folder.parts.values()}) < len(folder.parts)
    lists = {}
    for split, part in folder.parts.items():
        if folder.task == MAPS and split in folder.listed:
            lists[split] = beside / f'{split}.txt'
            _write(lists[split], '\n'.join(part.names) + '\n')
        elif part.content is not None and drawn and split != 'test':
            folder.parts[split] = part._replace(annotations=beside / f'{split}.json')
            write_coco(part.content, folder.parts[split].annotations)
    return lists


def _set_data(cfg: Config, folder: OwnFolder, lists: Dict[str, Path]) -> None:
    """Let a config read a folder, for the check of the data."""
    for split in ('train', 'val', 'test'):
        part = folder.parts.get(split)
        if part is None:
            cfg[f'{split}_dataloader'] = None
            continue
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.update(data_root=None, metainfo=dict(classes=folder.classes, palette=[] if folder.task == MAPS else None))
        if folder.task == MAPS:
            dataset.update(ann_file=str(lists.get(split, '')), img_suffix=folder.picture_ending, seg_map_suffix=folder.map_ending,
                           reduce_zero_label=folder.reduce_zero_label,
                           data_prefix=dict(img_path=str(part.pictures), seg_map_path=str(part.annotations)))
        else:
            dataset.update(ann_file=str(part.annotations), data_prefix=dict(img=str(part.pictures)))
    if folder.task == MAPS:
        cfg.model.decode_head.num_classes = len(folder.classes)


def _check(cfg: Config, folder: OwnFolder, beside: Path) -> None:
    """Look for faults; COCO files with such as can be mended get a copy.

    Raises:
        SetupError: pictures or label maps cannot be used, or a copy would lack too much.
    """
    report = inspect(cfg, list(folder.parts), workers=usable_cpus())
    faults = [fault for fault in report.faults if fault.kind is not kinds.TINY]  # of sizes that are chosen later
    grave = [fault for fault in faults if fault.severity != ADVICE and not fault.kind.remedy]
    list_faults(faults, 3)
    if grave:
        raise SetupError(f'{folder.root} has {count(len(grave), "fault")} that only you can mend: {_told(grave)}; mend or remove '
                         'these files, and run this again')
    for part in report.parts:
        if any(fault.severity != ADVICE for fault in part.faults):
            _mend(part, folder, beside)


def _mend(part: Part, folder: OwnFolder, beside: Path) -> None:
    assert part.coco is not None
    mended, changes = mend(part.coco, part.file, part.masks, part.evaluated, part.stored)
    left, number = len(mended['annotations']), part.annotations or 0
    if number - left > _MOST_LOST * number or not left:
        raise SetupError(f'{part.file} has faults for which {number - left} of {number} annotations would be left out: '
                         f'{_told(changes)}; mend the file, and run this again')
    copied = beside / f'{part.splits[0]}_mended.json'
    write_coco(mended, copied)
    pictures = f'{len(mended["images"])} of {count(len(part.coco["images"]), "picture")}'
    print(f'{copied} takes the place of {part.file}, with {pictures} and {left} of {count(number, "annotation")}: ' +
          '; '.join(f'{len(found)} × {name}, {found[0].kind.remedy}' for name, found in by_kind(changes).items()))
    split = part.splits[0]
    folder.parts[split] = folder.parts[split]._replace(annotations=copied, content=mended, number=len(mended['images']))


def _told(faults: List[Fault]) -> str:
    return '; '.join(f'{len(found)} × {name}: {shorten(found, 3)}' for name, found in by_kind(faults).items())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(text, encoding='utf-8')
