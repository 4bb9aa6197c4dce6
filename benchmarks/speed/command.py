"""Measure backbones alone: time, memory, multiply-adds a second, and shares of what the machine reaches.

All networks of a run are in one process and run in turn, so that ratios hold on a busy machine, too; Swin-T is in every run. The
memory of each is that of a process of its own. What is in the results with the same settings, machine and code isn't measured
again, and after a kill the same command goes on behind the last whole round. docs/speed.md says what the figures mean.
"""
import argparse
import re
import time
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from hybrid_mm.commands import one_sentence
from hybrid_mm.compat import flush_denormals, mend_torchvision
from hybrid_mm.errors import SetupError

flush_denormals()
mend_torchvision()

import torch  # noqa: E402

import hybrid_mm.registry  # noqa: E402, F401  before configs are read
from benchmarks.shared.results import ROOT  # noqa: E402
from hybrid_mm.commands.shared import check_least, find_device  # noqa: E402

from . import figures, records  # noqa: E402
from .catalogue import BASE, DTYPES, GROWTH_SIZES, MODES, NETWORKS, Entry  # noqa: E402
from .forms import build, forms_of, has_mmdet  # noqa: E402
from .measuring import Cell  # noqa: E402
from .page import cell_table, title, write_page  # noqa: E402
from .running import Settings, measure, plan  # noqa: E402

_SIZES = '224:8', '512x512', '768x1280', '800x1333'


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='speed.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--networks', nargs='+', choices=list(NETWORKS), default=list(NETWORKS), metavar='NETWORK',
                        help=', '.join(NETWORKS))
    parser.add_argument('--sizes', nargs='+', default=list(_SIZES), metavar='HxW[:BATCH]',
                        help=f'of the images, by default one at a time (default: {" ".join(_SIZES)})')
    parser.add_argument('--modes', nargs='+', choices=list(MODES), default=list(MODES), metavar='MODE', help=', '.join(MODES))
    parser.add_argument('--dtypes', nargs='+', choices=list(DTYPES), default=['fp32', 'bf16'], metavar='DTYPE',
                        help=f'{", ".join(DTYPES)}; those below fp32 by automatic mixed precision (default: fp32 bf16)')
    parser.add_argument('--rounds', type=int, default=9, help='runs of each network (default: %(default)s)')
    parser.add_argument('--threads', type=int, help="of the CPU (default: torch's choice, or OMP_NUM_THREADS)")
    parser.add_argument('--device', help='such as cpu or cuda:0; by default a GPU if there is one')
    parser.add_argument('--compile', action='store_true', help='each network through torch.compile as well')
    parser.add_argument('--optimise', action='store_true', help='ours through hybrid_mm.deploy.optimise as well, in inference')
    parser.add_argument('--no-plain', dest='plain', action='store_false', help='leave out the plain forms of ours')
    parser.add_argument('--no-memory', dest='memory', action='store_false', help='leave out the memory, a process for each')
    parser.add_argument('--growth', action='store_true', help=f'measure from {" to ".join(GROWTH_SIZES)} instead, eager alone: '
                        'whether time grows as the multiply-adds do')
    parser.add_argument('--minutes', type=float, help='begin nothing that would end later')
    parser.add_argument('--again', action='store_true', help='measure what is in the results, too')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'speed.json', metavar='FILE.json',
                        help='where the results go (default: benchmarks/speed.json)')
    parser.add_argument('--plan', action='store_true', help='only list what would be measured')
    parser.add_argument('--add', type=Path, nargs='+', default=[], metavar='FILE.json',
                        help='only put the results of other files, from other machines, into that of --out')
    parser.add_argument('--write', action='store_true', help='only write the tables and plots of docs/speed.md')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command; exits with 1 where something was left out, with 130 where it was stopped."""
    args = parser().parse_args(argv)
    with one_sentence():
        status = run(args)
    if status:
        raise SystemExit(status)


def run(args: argparse.Namespace) -> int:
    for path in args.add:
        if not path.exists():
            raise SetupError(f'--add {path} is not there; give a file that --out wrote')
        for record in records.read(path):
            records.write(args.out, record)
        print(f'{path} added to {args.out}')
    if args.add and not args.write:
        return 0
    if args.write:
        for path in write_page(ROOT, records.read(args.out)):
            print(f'{path} written')
        return 0
    check_least(args, rounds=1, threads=1)
    threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(1)  # here nothing is computed, and processes that are forked start threads of their own
    cells = cells_of(args, threads)
    networks = _there(args.networks)
    deadline = None if args.minutes is None else time.time() + 60 * args.minutes
    settings = Settings(args.out.resolve(), args.rounds, args.again, args.memory, deadline)
    todo = []
    for cell in cells:
        entries = entries_of(args, cell, networks)
        left, record = plan(cell, entries, settings)
        if args.plan or not left:
            print(f'{cell.name}: ' + (', '.join(entry.key for entry in left) or 'done before'), flush=True)
        if left:
            todo.append((cell, left, record))
    if args.plan:
        return 0
    try:
        return _measure(todo, settings)
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here', flush=True)
        return 130


def cells_of(args: argparse.Namespace, threads: int) -> List[Cell]:
    """The runs that the options ask for.

    Raises:
        SetupError: a size or a number format is not allowed.
    """
    device = find_device(args.device)
    if device.partition(':')[0] not in ('cpu', 'cuda'):
        raise SetupError(f'--device {device} cannot be measured; choose cpu or cuda')
    device = 'cuda:0' if device == 'cuda' else device
    if device == 'cpu' and 'fp16' in args.dtypes:
        raise SetupError('--dtypes fp16 is not there on device cpu; choose from fp32, bf16')
    sizes = [tuple(map(_size, GROWTH_SIZES))] if args.growth else [(_size(text), ) for text in args.sizes]
    return [Cell(each, mode, dtype, device, threads) for each in sizes for dtype in args.dtypes for mode in args.modes]


def _size(text: str) -> Tuple[int, int, int]:
    """Batch, height and width."""
    found = re.fullmatch(r'(\d+)(?:x(\d+))?(?::(\d+))?', text)
    height, width, batch = (int(part) if part else None for part in found.groups()) if found else (0, 0, 0)
    if not height or height < 32 or (width or height) < 32 or batch == 0:
        raise SetupError(f'--sizes {text} is not allowed; give height and width in pixels, each 32 or more, and behind a colon '
                         'the images at a time, such as 768x1280 or 224:8')
    return batch or 1, height, width or height


def _there(names: Sequence[str]) -> List[str]:
    """The networks whose libraries are there; says which are not, or not as they are named.

    Raises:
        SetupError: none is there.
    """
    found = []
    for name in dict.fromkeys([BASE, *names]):
        try:
            build(name)
            found.append(name)
        except SetupError as error:
            print(f'left out: {error}', flush=True)
    if not set(found) & set(names):
        raise SetupError(f'--networks {" ".join(names)} cannot be built; see above')
    if not has_mmdet():
        print('MMDetection cannot be imported: Swin-T and ResNet-50 are those of MMPreTrain', flush=True)
    return found


def entries_of(args: argparse.Namespace, cell: Cell, networks: Sequence[str]) -> List[Entry]:
    """What is to be timed in a cell."""
    if args.growth:
        return [Entry(name, size=size) for name in networks for size in range(len(cell.sizes))]
    wanted = [name for name in networks if name in args.networks]
    own = [entry for name in wanted for entry in forms_of(name, args.compile, args.optimise, args.plain, cell.mode)]
    return own if BASE in wanted or BASE not in networks else [Entry(BASE), *own]


def _measure(todo: list, settings: Settings) -> int:
    status = 0
    for i, (cell, entries, record) in enumerate(todo):
        deadline = settings.deadline
        if deadline is not None:
            if time.time() >= deadline:
                print(f'{cell.name}: no time was left', flush=True)
                status = 1
                continue
            deadline = time.time() + (deadline - time.time()) / (len(todo) - i)  # as much for each
        print(f'{cell.name}: {", ".join(entry.key for entry in entries)}', flush=True)
        found = measure(cell, entries, record, settings, deadline, lambda text: print(text, flush=True))
        status |= bool(found['left_out'])
        for own, measured in figures.newest([found]).items():
            print(f'\n{title(own)}\n\n{cell_table(measured)}\n', flush=True)
    return status
