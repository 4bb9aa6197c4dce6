"""The closing table of tools/quickstart.sh: what the last evaluation in a work folder found."""
import argparse
import json
from pathlib import Path

from hybrid_mm.errors import SetupError


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='such as work_dirs/quickstart')
    return parser


def run(args: argparse.Namespace) -> None:
    print(report(args.work_dir))


def report(work_dir: Path) -> str:
    """Metrics, training time and place of the pictures, as text.

    Args:
        work_dir: a folder in which quickstart.sh has trained; its ``test`` subfolder holds one folder an evaluation.

    Raises:
        FileNotFoundError: no evaluation has finished there.
    """
    results = sorted(work_dir.glob('test/[0-9]*/*.json'))
    if not results:
        raise FileNotFoundError(f'no finished evaluation lies in {work_dir / "test"}; run tools/quickstart.sh')
    try:
        metrics = json.loads(results[-1].read_text())
        minutes, seconds = divmod(int((work_dir / 'trained').read_text()), 60)
        box_ap, mask_ap = (f'{metrics[f"coco/{kind}_mAP"]:.3f}' for kind in ('bbox', 'segm'))
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f'{results[-1]} or {work_dir / "trained"} is damaged: {type(error).__name__}: {error}; run '
                         'tools/quickstart.sh again') from error
    rows = [
        ('box AP', box_ap),
        ('mask AP', mask_ap),
        ('training time', f'{minutes} min {seconds} s'),
        ('checkpoint', str(work_dir / Path((work_dir / 'last_checkpoint').read_text().strip()).name)),
        ('pictures (left: truth, right: found)', str(results[-1].parent / 'pictures')),
    ]
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'{name:<{width}}  {value}' for name, value in rows)

