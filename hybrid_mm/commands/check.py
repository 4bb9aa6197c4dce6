"""Look for faults in the data sets of a config.

Every picture, label map and annotation is read. Exit status: 0 if there are no faults, where advice on what costs accuracy does
not count, and 1 if there are; with --fix, 0 if the copy has none.
"""
import argparse
import json
import os
from pathlib import Path
from typing import List

from mmengine.config import Config

from hybrid_mm.data.coco_faults import find_faults
from hybrid_mm.data.coco_fix import mend, write_coco
from hybrid_mm.data.faults import ADVICE, Fault, by_kind
from hybrid_mm.data.inspection import Part, Report, inspect
from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file

from .preflight import check_data
from .shared import add_config, check_least, check_out_file, count, parser_of, read_config

SPLITS = ('train', 'val', 'test')


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser, data=True)
    parser.add_argument('--split', choices=[*SPLITS, 'all'], default='all', help='data to look at (default: %(default)s)')
    parser.add_argument('--fix', type=Path, metavar='FILE',
                        help="write a copy of the split's COCO file without its faults: these are left out, clipped or computed, "
                        'and each change is listed; needs --split')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the whole report to a file')
    parser.add_argument('--show', type=int, default=3, metavar='N', help='list the first N of each kind (default: %(default)s)')
    parser.add_argument('--workers', type=int, default=min(8, usable_cpus()),
                        help='processes that read pictures, 0 or 1 for none beside this one (default: %(default)s)')
    parser.add_argument('--no-pictures', action='store_true', help='look at annotation files and lists alone')
    return parser


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def run(args: argparse.Namespace) -> int:
    check_least(args, workers=0, show=0)
    for path, option in ((args.fix, '--fix '), (args.json, '--json ')):
        if path is not None:
            check_out_file(path, ('.json', ), force=option == '--json ', option=option)
    cfg = read_config(args.config, args.cfg_options, data_root=args.data_root)
    splits = [split for split in (SPLITS if args.split == 'all' else [args.split]) if cfg.get(f'{split}_dataloader') is not None]
    if not splits:
        loader = f'{args.split}_dataloader' if args.split != 'all' else 'data sets'
        raise SetupError(f'the config has no {loader}; choose another --split, or another config')
    if args.fix and args.split == 'all':
        raise SetupError('--fix writes a copy of one annotation file; say which by --split train, val or test')
    check_data(cfg, splits, annotations=False)
    report = inspect(cfg, splits, not args.no_pictures, args.workers)
    _show(report, args.show)
    if args.json:
        _write(report, args.json)
    if args.fix:
        return _fix(report, args, cfg)
    return int(any(fault.severity != ADVICE for fault in report.faults))


def _show(report: Report, number: int) -> None:
    for part in report.parts:
        sizes = [count(len(part.entries), 'picture')]
        if part.annotations is not None:
            sizes.append(count(part.annotations, 'annotation'))
        maps = sum(entry.label_map is not None for entry in part.entries)
        sizes += [count(maps, 'label map')] if maps else []
        print(f'{", ".join(part.splits)}: {part.file}: {", ".join(sizes)}' + ('' if part.facts else '; pictures not read'))
    for note in report.notes:
        print(note)
    list_faults(report.faults, number)
    faults = sum(fault.severity != ADVICE for fault in report.faults)
    print(f'{count(faults, "fault")}, {count(len(report.faults) - faults, "piece")} of advice')


def list_faults(faults: List[Fault], number: int) -> None:
    for name, found in by_kind(faults).items():
        print(f'\n{found[0].severity}: {name}: {len(found)}')
        for fault in found[:number]:
            print(f'  {fault}')
        if len(found) > number > 0:
            print(f'  and {len(found) - number} more')
    print()


def _write(report: Report, path: Path) -> None:
    content = dict(
        data=[dict(splits=part.splits, name=part.name, file=part.file, pictures=len(part.entries),
                   pictures_read=bool(part.facts), annotations=part.annotations) for part in report.parts],
        counts={name: len(found) for name, found in by_kind(report.faults).items()},
        faults=[fault.to_dict() for fault in report.faults], not_looked_at=report.notes)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, default=str))


def _fix(report: Report, args: argparse.Namespace, cfg: Config) -> int:
    files = [part for part in report.parts if part.coco is not None]
    if len(files) != 1:
        raise SetupError(f'--fix needs one COCO file in the {args.split} data, and there are {len(files)}')
    part: Part = files[0]
    assert part.coco is not None
    mended, changes = mend(part.coco, part.file, part.masks, part.evaluated, part.stored)
    write_coco(mended, args.fix)
    annotations = f'{len(mended.get("annotations", []))} of {count(part.annotations or 0, "annotation")}'
    print(f'{args.fix}: {len(mended["images"])} of {count(len(part.coco["images"]), "image")}, {annotations}; '
          f'{count(len(changes), "change")}:')
    list_faults(changes, len(changes))
    print(f'To train with it: --cfg-options {part.name}.ann_file={args.fix.resolve()}')
    if part.evaluated:
        print(f'and {part.splits[0]}_evaluator.ann_file={args.fix.resolve()}')
    left = [fault for fault in find_faults(mended, str(args.fix), part.masks, part.evaluated) if fault.severity != ADVICE]
    others = [fault for fault in report.faults if fault.severity != ADVICE and fault.file != part.file]
    if others:
        print(f'{count(len(others), "fault")} of pictures stay')
    return int(bool(left or others))
