"""Resident memory of a training over many steps, with all hooks of its config: does anything pile up?

    python benchmarks/reliability_memory.py [--steps 2000]

A Mask R-CNN with a backbone of a few channels trains on small pictures of shapes, one a step, on a CPU; it validates and writes
a checkpoint every 50 steps. What is printed is the resident memory of the process every 100 steps, and how much the last hundred
steps hold more than those around step 200, in their medians.

oneDNN keeps the last 1024 convolutions that it has compiled, one for each number of boxes in a validation; until there are so
many, memory grows: 24 % from step 200 to 2000, nearly all of it before step 1200. The measurement is without this cache, so that
it shows what else piles up; with ONEDNN_PRIMITIVE_CACHE_CAPACITY=1024, its default, it shows both.
"""
import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', '0')  # before torch reads it

from hybrid_mm.compat import flush_denormals, keep_freed_memory, mend_torchvision  # noqa: E402

flush_denormals()
keep_freed_memory()
mend_torchvision()

from mmengine.config import Config  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS  # noqa: E402

from hybrid_mm.commands.runner import runner_of  # noqa: E402
from hybrid_mm.data.shapes import make_shapes  # noqa: E402

CHANNELS = [16, 32, 32, 64]
PICTURES = 50  # and steps in an epoch
MEBIBYTE = 2**20


@HOOKS.register_module()
class RecordMemory(Hook):
    """Resident memory behind each step, in MiB."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, **kwargs):
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        self.seen.append(pages * os.sysconf('SC_PAGE_SIZE') / MEBIBYTE)
        if len(self.seen) % 100 == 0:
            print(f'step {len(self.seen)}: {self.seen[-1]:.1f} MiB', flush=True)


def settings(folder, steps):
    """The config with a small backbone and a few small pictures."""
    data_root = f'{folder}/shapes/coco/'
    cfg = Config.fromfile(ROOT / 'configs' / 'shapes' / 'maskrcnn_transcnn_s_shapes.py')
    loader = dict(num_workers=0, persistent_workers=False)
    cfg.merge_from_dict(dict(
        model=dict(
            backbone=dict(
                arch=dict(
                    _delete_=True, channels=CHANNELS, depths=[1] * 4, expansions=[2] * 4, kernel_sizes=[3] * 4,
                    grid_sizes=[8, 8, 8, 1], pool_ratios=[8, 4, 2, 1], grid_lists=[[2, 2]] * 4),
                head_dim=16),
            neck=dict(in_channels=CHANNELS),
            train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20), rcnn=dict(sampler=dict(num=8)))),
        train_dataloader=dict(loader, batch_size=1, dataset=dict(data_root=data_root)),
        val_dataloader=dict(loader, dataset=dict(data_root=data_root)),
        test_dataloader=dict(loader, dataset=dict(data_root=data_root)),
        val_evaluator=dict(ann_file=data_root + 'annotations/instances_val2017.json'),
        test_evaluator=dict(ann_file=data_root + 'annotations/instances_val2017.json'),
        train_cfg=dict(max_epochs=-(-steps // PICTURES), val_interval=1)))
    cfg.train_dataloader.dataset.filter_cfg = None  # keeps the pictures without objects, so that an epoch has all
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='RecordMemory')]
    cfg.work_dir, cfg.launcher = f'{folder}/work', 'none'
    return cfg


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=2000)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        make_shapes(Path(folder) / 'shapes', train=PICTURES, val=4, size=(64, 64))
        with runner_of(settings(folder, args.steps)) as runner:
            print('hooks:', ', '.join(sorted(type(hook).__name__ for hook in runner.hooks)))
            runner.train()
        seen = next(hook.seen for hook in runner.hooks if isinstance(hook, RecordMemory))
    before, after = statistics.median(seen[150:250]), statistics.median(seen[-100:])
    growth, most = 100 * (after / before - 1), 100 * (max(seen[200:]) / before - 1)
    print(f'around step 200: {before:.1f} MiB; the last 100 of {len(seen)} steps: {after:.1f} MiB, {growth:+.2f} %; most behind '
          f'step 200: {most:+.2f} %')


if __name__ == '__main__':
    main()
