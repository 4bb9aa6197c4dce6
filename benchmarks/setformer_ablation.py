"""What each choice in self-optimal transport is worth on the synthetic shapes: one change at a time, several seeds.

    python tools/datasets/make_shapes.py
    python benchmarks/setformer_ablation.py [--seeds 0 1 2] [--epochs 6] [--processes 2]
        [--work-dir work_dirs/setformer_ablation]

The data are windows of 64x64 pixels around the objects of the shapes, each object as large as the window allows: in whole
pictures, mostly background, a network of this size takes a thousand steps to tell the classes apart, here a hundred. UperNet
with SeTformer mini at half its width, two blocks in stage 3 and one in the others, is trained from random weights by
`tools/train.py`, `--processes` trainings side by side with one thread each. What has ended is kept, so the command can be
interrupted and repeated. The table gives the mIoU of each seed and their mean.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'shapes' / 'upernet_setformer_m_shapes.py'
SHAPES = ROOT / 'data' / 'shapes' / 'ade' / 'ADEChallengeData2016'
SIZE, MARGIN, SMALLEST = 64, 1.5, 20  # of a window in pixels; window over object; window in the picture, in pixels
ARCH = dict(channels=(32, 64, 128, 256), depths=(1, 1, 2, 1), mlp_ratio=3, head_dim=32)
VARIANTS = {
    'default': {},
    'references 196': dict(num_references=196),
    'no prior': dict(prior=None),
    'similarity dot': dict(similarity='dot', eps=0.1),  # about the entropy of the default
    'eps 0.02': dict(eps=0.02),
    'eps 0.1': dict(eps=0.1),
    'references frozen': dict(references='frozen'),
    'references K-means': {},
}


def write_windows(folder):
    """Windows around the objects of all pictures, in the layout of the shapes; objects that touch count as one."""
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        images, labels = folder / 'images' / split, folder / 'annotations' / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for path in sorted((SHAPES / 'images' / split).iterdir()):
            image, label = cv2.imread(str(path)), cv2.imread(str(SHAPES / 'annotations' / split / f'{path.stem}.png'), 0)
            count, _, boxes, _ = cv2.connectedComponentsWithStats((label > 1).astype(np.uint8))  # 1 is the background
            for i, (x, y, w, h, _) in enumerate(boxes[1:count]):
                side = MARGIN * max(w, h)
                if side < SMALLEST:
                    continue
                left, top = np.array([x + w / 2, y + h / 2]) + side * (rng.uniform(-0.15, 0.15, 2) - 0.5)
                to_window = np.array([[1, 0, -left], [0, 1, -top]]) * SIZE / side
                for picture, target, flags in ((image, images, cv2.INTER_LINEAR), (label, labels, cv2.INTER_NEAREST)):
                    window = cv2.warpAffine(picture, to_window, (SIZE, SIZE), flags=flags, borderMode=cv2.BORDER_REFLECT)
                    suffix = path.suffix if target is images else '.png'
                    cv2.imwrite(str(target / f'{path.stem}_{i}{suffix}'), window)


def write_config(name, seed, epochs, folder, windows):
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(VARIANTS[name], arch=ARCH)
    channels = ARCH['channels']
    cfg.model.decode_head.update(in_channels=channels, channels=32)
    cfg.model.auxiliary_head.update(in_channels=channels[2], channels=32)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.loss_decode = head.loss_decode[0]  # objects fill the windows, so cross entropy will do
        # with the usual 0.01 all classes are alike for the first hundred steps, and some stay so
        head.init_cfg = dict(type='Normal', std=0.2, override=dict(name='conv_seg'))
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].update(end=epochs)
    cfg.model.data_preprocessor.size = (SIZE, SIZE)
    cfg.train_dataloader.batch_size, cfg.val_dataloader.batch_size = 32, 50
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(windows)
    cfg.randomness = dict(seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'config.py'
    cfg.dump(path)
    return path


def train(name, seed, epochs, work_dir, windows):
    folder = work_dir / f'{name.replace(" ", "_").replace(",", "")}_{seed}'
    result = folder / 'result.json'
    if not result.exists():
        config = write_config(name, seed, epochs, folder, windows)
        environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
        options = ['--work-dir', str(folder)]
        with open(folder / 'output.txt', 'w') as output:
            if 'K-means' in name:
                start = folder / 'kmeans.pth'
                start.unlink(missing_ok=True)
                call([ROOT / 'tools' / 'kmeans_references.py', config, start, '--seed', str(seed)], environment, output)
                options += ['--cfg-options', f'load_from={start}']
            call([ROOT / 'tools' / 'train.py', config, *options], environment, output)
        scalars = sorted(folder.glob('*/vis_data/scalars.json'))[-1].read_text().splitlines()
        result.write_text(json.dumps(dict(mIoU=json.loads(scalars[-1])['mIoU'])))
        for checkpoint in folder.glob('*.pth'):
            checkpoint.unlink()
    return json.loads(result.read_text())['mIoU']


def call(command, environment, output):
    subprocess.run([sys.executable, *map(str, command)], env=environment, cwd=ROOT, stdout=output,
                   stderr=subprocess.STDOUT, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=(0, 1, 2))
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'setformer_ablation')
    parser.add_argument('--processes', type=int, default=2)
    args = parser.parse_args()

    work_dir = args.work_dir.resolve()
    windows = work_dir / 'windows'
    if not windows.exists():
        unfinished = work_dir / 'windows.unfinished'
        shutil.rmtree(unfinished, ignore_errors=True)
        write_windows(unfinished)
        unfinished.rename(windows)
    with ThreadPoolExecutor(args.processes) as pool:  # seed by seed, so that an interrupted run has all variants
        runs = {(name, seed): pool.submit(train, name, seed, args.epochs, work_dir, windows)
                for seed in args.seeds for name in args.variants}
        for (name, seed), run in runs.items():
            print(f'{name}, seed {seed}: mIoU {run.result():.2f}', flush=True)
    print(f'\n| variant | {" | ".join(f"seed {seed}" for seed in args.seeds)} | mean |')
    print('|---' * (len(args.seeds) + 2) + '|')
    for name in args.variants:
        values = [runs[name, seed].result() for seed in args.seeds]
        print(f'| {name} | {" | ".join(f"{value:.1f}" for value in values)} | {sum(values) / len(values):.1f} |')


if __name__ == '__main__':
    main()
