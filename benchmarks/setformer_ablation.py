"""What each choice in self-optimal transport is worth on the synthetic shapes: one change at a time, several seeds.

    python tools/datasets/make_shapes.py
    python benchmarks/setformer_ablation.py [--seeds 0 1 2] [--epochs 4] [--processes 2]
        [--work-dir work_dirs/setformer_ablation]

UperNet with SeTformer mini at half its width, two blocks in stage 3 and one in the others, is trained from random
weights by `tools/train.py`, `--processes` trainings side by side with one thread each. What has ended is kept, so the
command can be interrupted and repeated. The table gives the mIoU of each seed and their mean.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'shapes' / 'upernet_setformer_m_shapes.py'
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


def write_config(name, seed, epochs, folder):
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(VARIANTS[name], arch=ARCH)
    channels = ARCH['channels']
    cfg.model.decode_head.update(in_channels=channels, channels=32)
    cfg.model.auxiliary_head.update(in_channels=channels[2], channels=32)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].update(end=epochs)
    cfg.val_dataloader.batch_size = 10
    cfg.randomness = dict(seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'config.py'
    cfg.dump(path)
    return path


def train(name, seed, epochs, work_dir):
    folder = work_dir / f'{name.replace(" ", "_").replace(",", "")}_{seed}'
    result = folder / 'result.json'
    if not result.exists():
        config = write_config(name, seed, epochs, folder)
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
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'setformer_ablation')
    parser.add_argument('--processes', type=int, default=2)
    args = parser.parse_args()

    with ThreadPoolExecutor(args.processes) as pool:  # seed by seed, so that an interrupted run has all variants
        runs = {(name, seed): pool.submit(train, name, seed, args.epochs, args.work_dir.resolve())
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
