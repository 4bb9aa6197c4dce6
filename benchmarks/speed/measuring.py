"""What a process of its own measures. Each sends tuples through a pipe: a kind, the key of an entry, and what was found.

============ ================================================================================================================
facts        what there is to know of an entry, before it is timed
left out     an entry that cannot run, or that time is too short for; with a sentence
round        the seconds of all entries, `MATMUL` and `TRIAD` in one round
end          nothing else comes
============ ================================================================================================================
"""
import ctypes
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from hybrid_mm.analysis.measurement import Step, in_turn, moved_bytes, peak_bytes, seconds
from hybrid_mm.analysis.speed import Settings, explained, step_of
from hybrid_mm.compat import flush_denormals, mend_torchvision
from hybrid_mm.errors import first_line

from .catalogue import BASE, Entry
from .forms import build, in_form, torch_dtype

MATMUL, TRIAD = 'matmul', 'triad'  # the machine's limits, measured in each round, too
_GPU_SECONDS = 0.1  # so long runs a step in each round on a GPU, where one is short
_COMPILING = 20.  # seconds that the first network is expected to take; others as long as the longest before


class Cell(NamedTuple):
    """What is equal for all that are compared in a run."""
    sizes: Tuple[Tuple[int, int, int], ...]  # batch, height and width; two for growth
    mode: str
    dtype: str
    device: str
    threads: int

    @property
    def size(self) -> str:
        return '+'.join(f'{height}x{width}' if height != width or len(self.sizes) > 1 else f'{height}'
                        for _, height, width in self.sizes)

    @property
    def name(self) -> str:
        return f'{self.size}, batch of {self.sizes[0][0]}, {self.mode}, {self.dtype}, {self.device}'

    @property
    def settings(self) -> Settings:
        return Settings(self.device, self.sizes[0][0], train=self.mode == 'training', backbone=True,
                        dtype=torch_dtype(self.dtype))


class Job(NamedTuple):
    """What a process is to do."""
    cell: Cell
    entries: Sequence[Entry]
    rounds: int
    deadline: Optional[float] = None  # in the time of `time.time`


def time_in_turn(pipe: Connection, job: Job) -> None:
    """Make all entries ready, then run them in turn."""
    cell, on_gpu = job.cell, _begin(job.cell)
    networks: Dict[str, nn.Module] = {}
    steps: Dict[str, Step] = {}
    of_a_round, compiling = 0., _COMPILING
    at_least = _GPU_SECONDS if on_gpu else 0.
    # what is compiled comes last, since it takes minutes; the base of the ratios comes first
    for entry in sorted(job.entries, key=lambda entry: (entry.form == 'compiled', entry.network != BASE)):
        try:
            begun = time.time()
            if _is_late(job, of_a_round, compiling if entry.form == 'compiled' else 0.):
                raise TimeoutError('no time was left')
            with explained(entry.key, cell.settings):
                if entry.network not in networks:
                    networks[entry.network] = _network(entry.network, cell)
                step = _step(networks[entry.network], entry, cell)
                step()  # what cannot run says so, and what is compiled gets compiled
                if entry.form == 'compiled':
                    compiling = max(compiling, time.time() - begun)
                taken = max(seconds(step), at_least)
                if _is_late(job, of_a_round + taken):
                    raise TimeoutError('no time was left')
                found: Dict[str, Any] = {}
                if entry.form in ('eager', 'plain') and not on_gpu:  # kernels of a GPU are not seen where they are fused
                    found['moved'] = moved_bytes(step)
                if on_gpu:
                    found['step_memory'] = peak_bytes(step, cell.device)
        except Exception as error:  # whatever it is, the others can be measured
            pipe.send(('left out', entry.key, first_line(error)))
            continue
        steps[entry.key], of_a_round = step, of_a_round + taken
        pipe.send(('facts', entry.key, found))
    limits = _limits(cell)
    pipe.send(('facts', MATMUL, dict(work=limits[MATMUL][1])))
    pipe.send(('facts', TRIAD, dict(work=limits[TRIAD][1])))
    if steps:
        in_turn({**{name: step for name, (step, _) in limits.items()}, **steps}, job.rounds, at_least,
                each_round=lambda taken: pipe.send(('round', '', taken)))
    pipe.send(('end', '', None))


def measure_memory(pipe: Connection, job: Job) -> None:
    """Most resident memory of one step beyond what there was before it: that of a process that runs nothing else."""
    entry, = job.entries
    _begin(job.cell)
    try:
        with explained(entry.key, job.cell.settings):
            step = _step(_network(entry.network, job.cell), entry, job.cell)
            if entry.form in ('compiled', 'optimised'):  # what is done once is not of the step
                step()
                ctypes.CDLL(None).malloc_trim(0)
            before = _reset_high_water()
            step()
            pipe.send(('facts', entry.key, dict(step_memory=_high_water() - before)))
    except Exception as error:
        pipe.send(('left out', entry.key, first_line(error)))
    pipe.send(('end', '', None))


def _begin(cell: Cell) -> bool:
    """Set the process up; whether it works on a GPU."""
    mend_torchvision()  # a process that is no fork has it to do
    torch.set_num_threads(cell.threads)
    if cell.device == 'cpu':
        torch.set_flush_denormal(True)
    else:
        flush_denormals()
        torch.cuda.set_device(cell.device)
    return cell.device != 'cpu'


def _is_late(job: Job, of_a_round: float, before: float = 0.) -> bool:
    """Whether rounds of so many seconds, and the first one, which does not count, would end behind the deadline."""
    return job.deadline is not None and time.time() + before + (job.rounds + 1) * of_a_round >= job.deadline


def _network(name: str, cell: Cell) -> nn.Module:
    network = build(name).to(cell.device)
    network.train(cell.mode == 'training')  # of some backbones it returns nothing
    return network


def _step(network: nn.Module, entry: Entry, cell: Cell) -> Step:
    batch, height, width = cell.sizes[entry.size]
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).to(cell.device)
    settings = cell.settings._replace(dtype=None) if entry.form == 'optimised' else cell.settings  # it needs no autocast
    return step_of(in_form(network, entry, cell.dtype), images, '', settings)


def _limits(cell: Cell) -> Dict[str, Tuple[Step, int]]:
    """Steps for the rates of the machine, with what they do: operations of a large product of matrices in the number format of
    the run, and bytes that a sum of two long vectors into a third moves."""
    side, length = (8192, 2**28) if cell.device != 'cpu' else (2048, 2**25)
    dtype = torch_dtype(cell.dtype) or torch.float32
    a, b = (torch.randn(side, side, device=cell.device, dtype=torch.float32).to(dtype) for _ in range(2))
    x, y, out = (torch.ones(length, device=cell.device) for _ in range(3))
    return {MATMUL: (lambda: a @ b, 2 * side**3), TRIAD: (lambda: torch.add(x, y, alpha=2, out=out), 3 * out.nbytes)}


def _reset_high_water() -> int:
    """Set the high-water mark to what is resident now, where the system allows it; returns the mark in bytes."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        pass
    return _high_water()


def _high_water() -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith('VmHWM:'))


Work = Callable[[Connection, Job], None]
