"""What hooks cost in training: a config with them and without, step by step in turn, in one process.

    python benchmarks/guards.py [CONFIG] [--off NumericsGuardHook ...] [--steps 40] [--cfg-options KEY=VALUE ...]

Two trainings of the config, one without the hooks of these types, make a step each, and change their order from pair to pair. A
step is all that the loop does: the next batch, forward, backward, the optimizer, and hooks. The first pairs warm up. By default
the config is that of the shapes (data by `tools/datasets/make_shapes.py`), and the hooks are all guards of its default_hooks.
The last line is JSON: seconds and processor seconds of a step, the median, and the medians of the ratios, with their quartiles.
"""
import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid_mm.compat import flush_denormals, keep_freed_memory, mend_torchvision  # noqa: E402

flush_denormals()
keep_freed_memory()
mend_torchvision()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.config import DictAction  # noqa: E402
from mmengine.registry import LOOPS  # noqa: E402
from mmengine.runner import EpochBasedTrainLoop  # noqa: E402

from hybrid_mm.commands.runner import runner_of  # noqa: E402
from hybrid_mm.commands.shared import read_config  # noqa: E402

WARM_UP = 3
GUARDS = ['DataGuardHook', 'HangGuardHook', 'NumericsGuardHook', 'PreemptionHook', 'RandomStateHook', 'ResumeScheduleHook']
SHAPES = str(Path(__file__).resolve().parents[1] / 'configs' / 'shapes' / 'maskrcnn_transcnn_s_shapes.py')


@LOOPS.register_module()
class SteppedLoop(EpochBasedTrainLoop):
    """A training that stands ready, runs ``inside`` and ends; steps are made one by one from there."""

    inside = staticmethod(lambda loop: None)

    def run(self):
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self._batches = self._endless()
        self.inside(self)
        self.runner.call_hook('after_train')
        return self.runner.model

    def step(self):
        """Seconds, and seconds of the processors, of one step."""
        start = time.perf_counter(), time.process_time()
        self.run_iter(self.iter, next(self._batches))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start[0], time.process_time() - start[1]

    def _endless(self):
        while True:
            yield from self.dataloader


def train(args, work_dir, without, inside):
    """Start a training, ``without`` hooks of some types, and call ``inside`` with its loop."""
    cfg = read_config(args.config, args.cfg_options, work_dir)
    cfg.experiment_name = Path(work_dir).name
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.train_cfg = dict(type='SteppedLoop', max_epochs=10**6)
    cfg.randomness = dict(seed=0)
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks', []) if hook['type'].rpartition('.')[2] not in without]
    for name, hook in list((cfg.get('default_hooks') or {}).items()):
        if hook and hook['type'].rpartition('.')[2] in without:
            del cfg.default_hooks[name]
    with runner_of(cfg) as runner:
        loop = runner.build_train_loop(cfg.train_cfg)
        loop.inside = inside
        runner._train_loop = loop
        runner.train()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', default=SHAPES, metavar='CONFIG')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    parser.add_argument('--off', nargs='+', default=GUARDS, metavar='TYPE', help='hooks that the second one lacks')
    parser.add_argument('--steps', type=int, default=40, help='pairs of steps')
    args = parser.parse_args()

    def measure(loops):
        """Seconds, (pairs, with or without, kind of seconds)."""
        pairs = []
        for number in range(WARM_UP + args.steps):
            order = (0, 1) if number % 2 else (1, 0)
            seconds = {i: loops[i].step() for i in order}
            pairs.append((seconds[0], seconds[1]))
        return np.array(pairs[WARM_UP:])

    results = []
    with tempfile.TemporaryDirectory() as folder:
        train(args, f'{folder}/with', (), lambda first: train(
            args, f'{folder}/without', args.off, lambda second: results.append(measure((first, second)))))
    seconds = results[0]
    ratios = np.quantile(seconds[:, 0] / seconds[:, 1], [0.25, 0.5, 0.75], axis=0)  # (quartile, kind)
    print(json.dumps(dict(
        config=Path(args.config).name, off=args.off, pairs=args.steps,
        seconds=np.median(seconds, 0)[:, 0].round(4).tolist(), processor_seconds=np.median(seconds, 0)[:, 1].round(4).tolist(),
        ratio=ratios[:, 0].round(4).tolist(), processor_ratio=ratios[:, 1].round(4).tolist(),
        ratio_of_sums=(seconds[:, 0].sum(0) / seconds[:, 1].sum(0)).round(4).tolist())))


if __name__ == '__main__':
    main()
