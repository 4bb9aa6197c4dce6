"""How long the full recipe of configs/real takes on this machine: CamVid with UperNet, on pictures of noise.

    python benchmarks/gpu/real.py [--device cuda] [--out FILE.json]

Of each network a few training steps with the batch and the crops of its config, in automatic mixed precision, without loading of
data and without an optimizer's step, and what that makes of all its steps; the memory that a step holds. The other two sets
need MMDetection. `TIME_LEFT` in the environment says how many seconds there are.
"""
import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

flush_denormals()
mend_torchvision()

import hybrid_mm.registry  # noqa: E402, F401  before configs are read
from hybrid_mm.analysis.speed import Settings, find_dtype, measure  # noqa: E402
from hybrid_mm.commands import one_sentence  # noqa: E402
from hybrid_mm.commands.shared import read_config  # noqa: E402
from hybrid_mm.errors import first_line  # noqa: E402
from hybrid_mm.output import whole_file  # noqa: E402

FIRST = 'parc_mbv2'  # what is measured where time is short


def recipes(small):
    names = sorted((path.stem for path in (ROOT / 'configs' / 'real').glob('upernet_*_camvid_full.py')),
                   key=lambda name: FIRST not in name)
    return names[:1] if small else names


def settings_of(cfg, device, small):
    """Batch and crops of the recipe."""
    if small:
        return Settings(device, 2, (64, 64), True, dtype=find_dtype(device), rounds=1)
    return Settings(device, cfg.train_dataloader.batch_size, tuple(cfg.crop_size), True, dtype=find_dtype(device), rounds=5)


def result(name, device, small):
    """What is known of one recipe, or why nothing is."""
    try:
        cfg = read_config(str(ROOT / 'configs' / 'real' / f'{name}.py'), None)
        settings = settings_of(cfg, device, small)
        speed, = measure({name: cfg}, settings)
    except Exception as error:  # the others can be measured
        return dict(config=name, failed=first_line(error))
    steps, seconds = cfg.train_cfg.max_iters, statistics.median(speed.seconds)
    return dict(config=name, batch_size=settings.batch_size, crop=list(settings.shape), dtype=str(settings.dtype), steps=steps,
                seconds_a_step=seconds, hours=steps * seconds / 3600, step_bytes=speed.step_bytes,
                weight_bytes=speed.weight_bytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--small', action='store_true', help='one network on small pictures')
    parser.add_argument('--out', type=Path, default=Path('real.json'))
    args = parser.parse_args()
    end, found = time.monotonic() + float(os.environ.get('TIME_LEFT', 1e6)) - 10, []
    with one_sentence():
        for name in recipes(args.small):
            found.append(result(name, args.device, args.small) if time.monotonic() < end
                         else dict(config=name, failed='no time was left'))
            with whole_file(args.out) as partial:
                partial.write_text(json.dumps(found, indent=1) + '\n')
            own = found[-1]
            print(f'{name}: ' + (own.get('failed') or f'{own["seconds_a_step"]:.4f} s a step, {own["hours"]:.2f} hours of '
                                 f'{own["steps"]} steps, {own["step_bytes"] / 2**20:.0f} MiB'), flush=True)
    return int(all('failed' in each for each in found))


if __name__ == '__main__':
    raise SystemExit(main())
