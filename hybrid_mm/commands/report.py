"""The closing table of tools/quickstart.sh: what the last evaluation in a work folder found."""
import argparse
import json
import re
from pathlib import Path
from typing import Dict, List, Tuple

from hybrid_mm.errors import SetupError

Rows = List[Tuple[str, str]]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='such as work_dirs/quickstart')
    parser.add_argument('--details', action='store_true', help='AP at an IoU of 0.5, and the figures of each class, too')
    return parser


def run(args: argparse.Namespace) -> None:
    print(report(args.work_dir, args.details))


def report(work_dir: Path, details: bool = False) -> str:
    """Metrics, training time and place of the pictures, as text.

    Args:
        work_dir: a folder in which quickstart.sh has trained; its ``test`` subfolder holds one folder an evaluation.
        details: whether to tell AP at an IoU of 0.5, and the figures of each class, too.

    Raises:
        FileNotFoundError: no evaluation has finished there.
    """
    results = sorted(work_dir.glob('test/[0-9]*/*.json'))
    if not results:
        raise FileNotFoundError(f'no finished evaluation lies in {work_dir / "test"}; run tools/quickstart.sh')
    try:
        metrics = json.loads(results[-1].read_text())
        minutes, seconds = divmod(int((work_dir / 'trained').read_text()), 60)
        is_segmentor = 'mIoU' in metrics
        rows = _of_regions(metrics, results[-1].with_suffix('.log'), details) if is_segmentor else _of_objects(metrics, details)
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f'{results[-1]} or {work_dir / "trained"} is damaged: {type(error).__name__}: {error}; run '
                         'tools/quickstart.sh again') from error
    rows += [
        ('training time', f'{minutes} min {seconds} s'),
        ('checkpoint', str(work_dir / Path((work_dir / 'last_checkpoint').read_text().strip()).name)),
        ('pictures (left: truth, right: found)', str(_pictures(work_dir, results[-1].parent))),
    ]
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'{name:<{width}}  {value}' for name, value in rows)


def _of_objects(metrics: Dict[str, float], details: bool) -> Rows:
    """AP of a detector, which need not have masks."""
    rows = []
    for kind, name in (('bbox', 'box AP'), ('segm', 'mask AP')):
        if kind == 'bbox' or f'coco/{kind}_mAP' in metrics:
            rows.append((name, f'{metrics[f"coco/{kind}_mAP"]:.3f}'))
            rows += [(f'{name} at IoU 0.5', f'{metrics[f"coco/{kind}_mAP_50"]:.3f}')] if details else []
    if details:  # of masks, where there are any
        classes = {key[len('coco/'):-len('_precision')]: value for key, value in metrics.items() if key.endswith('_precision')}
        rows += [(f'{rows[-2][0]} of {name}', f'{value:.3f}') for name, value in classes.items()]
    return rows


def _of_regions(metrics: Dict[str, float], log: Path, details: bool) -> Rows:
    """IoU of a segmentor; that of each class stands in the log alone."""
    rows = [('mIoU', f'{metrics["mIoU"]:.1f}')]
    if details and log.is_file():
        table = log.read_text(errors='replace').rpartition('per class results')[2]
        rows += [(f'IoU of {name}', 'not in the data' if value == 'nan' else f'{float(value):.1f}')
                 for name, value in re.findall(r'^\|\s*(.+?)\s*\|\s*([\d.]+|nan)\s*\|', table, re.MULTILINE)]
    return rows


def _pictures(work_dir: Path, evaluation: Path) -> Path:
    """Their folder; MMSegmentation has some of its own inside of it."""
    folder = work_dir / 'pictures'
    inside = folder / 'vis_data' / 'vis_image'
    return inside if inside.is_dir() else folder if folder.is_dir() else evaluation / 'pictures'
