"""Compare the speed and the memory of networks.

No data set and no weights are needed. The networks run one after the other in each round, so that their ratios hold on a busy
machine, too.

  inference   the forward pass that get_flops.py counts: with the heads, without non-maximum suppression and the like; a
              detector has 1000 boxes an image in its box heads and 100 in its mask heads
  --train     forward pass, the losses of the config on made-up annotations, and backward pass, without a step of the optimizer
  --backbone  the backbone alone; with --train the backward pass starts from the mean square of its maps

images/s is the batch over the median latency. ratio compares it with the first config: the median over the rounds. p50, p90 and
p99 are percentiles of the latency of a batch. peak is the memory of parameters and buffers, and the most that torch held beside
these in a step. Images have the size at which papers give costs, see get_flops.py.
"""
import argparse
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch

from hybrid_mm.analysis.speed import Settings, find_dtype, measure, table
from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file
from hybrid_mm.progress import Progress

from . import shared

LIBRARIES = 'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'hybrid_mm'


def parser() -> argparse.ArgumentParser:
    parser = shared.parser_of(__doc__)
    shared.add_config(parser, several=True)
    shared.add_shape(parser, help='height and width of the images, or one number for both')
    parser.add_argument('--batch-size', type=int, metavar='IMAGES', help='images at a time (default: 1, in training 2)')
    parser.add_argument('--train', action='store_true', help='forward and backward pass')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone')
    parser.add_argument('--amp', action='store_true',
                        help='automatic mixed precision; with bfloat16 the heads of a detector stay in float32, as mmcv has no '
                        'operators for it')
    parser.add_argument('--amp-dtype', choices=['float16', 'bfloat16'],
                        help='number format for --amp (default: bfloat16 on a CPU, float16 on a GPU)')
    parser.add_argument('--compile', action='store_true', help='send the backbone through torch.compile')
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument('--memory-format', choices=['auto', 'channels_last', 'contiguous'],
                        help='how maps lie in memory inside of the backbone (default: what the config says). Ours take it as '
                        'their argument; others take channels_last alone, for their images and weights. The maps that leave are '
                        'contiguous')
    memory.add_argument('--channels-last', dest='memory_format', action='store_const', const='channels_last',
                        help='the same as --memory-format channels_last')
    shared.add_device(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--rounds', type=int, help='how often each network is measured')
    length.add_argument('--seconds', type=float, default=10.,
                        help='how long each network is measured, 5 to 1000 rounds (default: %(default)s)')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='also write the numbers to this file')
    shared.add_force(parser, 'overwrite the file')
    return parser


def run(args: argparse.Namespace) -> None:
    settings = read_settings(args)
    if args.out is not None:
        shared.check_out_file(args.out, ('.json', ), args.force)
    cfgs = {name: shared.read_config(path, args.cfg_options) for name, path in zip(distinct_names(args.configs), args.configs)}
    speeds = measure(cfgs, settings, Progress)
    how = describe(settings, rounds=len(speeds[0].seconds))
    print(f'\n{sentence(how)}\n\n{table(speeds)}')
    if args.out is not None:
        with whole_file(args.out) as partial:
            partial.write_text(json.dumps(dict(how, networks=[speed.as_dict() for speed in speeds]), indent=2) + '\n')
        print(f'\nwritten to {args.out}')


def read_settings(args: argparse.Namespace) -> Settings:
    """The settings of a command line, as far as they are allowed."""
    if args.batch_size is None:
        args.batch_size = 2 if args.train else 1
    shared.check_least(args, batch_size=1, **({} if args.rounds is None else dict(rounds=1)))
    if not 0 < args.seconds < math.inf:
        raise SetupError(f'--seconds {args.seconds} is not allowed; choose more than 0')
    if args.amp_dtype and not args.amp:
        raise SetupError(f'--amp-dtype {args.amp_dtype} is for --amp, which is missing; add it, or leave this out')
    device = shared.find_device(args.device)
    if device.partition(':')[0] not in ('cpu', 'cuda'):
        raise SetupError(f'--device {device} cannot be measured; choose cpu or cuda')
    return Settings(device, args.batch_size, shared.both_sides(args.shape), args.train, args.backbone,
                    find_dtype(device, args.amp_dtype) if args.amp else None, args.compile, args.memory_format, args.rounds,
                    args.seconds)


def distinct_names(paths: Sequence[str]) -> List[str]:
    """Names of config files, with as many folders as tell them apart; one that is there twice gets a number."""
    parts = [Path(path).resolve().parts for path in paths]
    depth = next(depth for depth in range(1, max(map(len, parts)) + 1)
                 if len({part[-depth:] for part in parts}) == len(set(parts)))
    names = ['/'.join(part[-depth:]) for part in parts]
    return [f'{name} ({names[:i].count(name) + 1})' if names.count(name) > 1 else name for i, name in enumerate(names)]


def describe(settings: Settings, rounds: int) -> Dict[str, Any]:
    """How and where it was measured, for JSON."""
    dtype = 'float32' if settings.dtype is None else f'{str(settings.dtype).partition(".")[2]} (autocast)'
    hardware = cpu_name() if settings.device == 'cpu' else torch.cuda.get_device_name(settings.device)
    versions = {name: sys.modules[name].__version__ for name in LIBRARIES if hasattr(sys.modules.get(name), '__version__')}
    return dict(
        mode='training' if settings.train else 'inference', part='backbone' if settings.backbone else 'network',
        batch_size=settings.batch_size, dtype=dtype, compile=settings.compile, memory_format=settings.memory_format,
        channels_last=settings.memory_format == 'channels_last', rounds=rounds, device=settings.device, hardware=hardware,
        threads=torch.get_num_threads(), versions=dict(python=platform.python_version(), **versions))


def cpu_name() -> str:
    """The processor, as well as Python knows it."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    named = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return named[0] if named else platform.processor() or platform.machine()


def sentence(how: Dict[str, Any]) -> str:
    """What is printed above the table."""
    part = {'network': 'whole network', 'backbone': 'backbone alone'}[how['part']]
    options = ', compile' if how['compile'] else ''
    if how['memory_format']:
        options += ', channels last' if how['channels_last'] else f', memory format {how["memory_format"]}'
    threads = f', {shared.count(how["threads"], "thread")}' if how['device'] == 'cpu' else ''
    return (f'{how["mode"]}, {part}, batch of {how["batch_size"]}, {how["dtype"]}{options}; '
            f'{shared.count(how["rounds"], "round")} on {how["device"]} ({how["hardware"]}{threads}), '
            f'torch {how["versions"]["torch"]}')

