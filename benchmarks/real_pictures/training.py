"""One training and its evaluation, in processes of tools/train.py and tools/test.py, which may be killed at any time."""
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, Dict, NamedTuple, Sequence, Set

import torch

from benchmarks.shared.results import ROOT, Record, machine
from hybrid_mm.errors import SetupError
from hybrid_mm.networks import build_model
from hybrid_mm.output import whole_file

from . import meter, records
from .catalogue import ALL_TASKS, NETWORKS, SHAPES, Task
from .runs import Prepared, Run, cost_of, prepare

TOOLS = ROOT / 'tools'
_one_at_a_time = threading.Lock()  # a default scope of mmengine's holds for all threads


class Settings(NamedTuple):
    """What holds for all runs."""
    data: Path  # with the folders of the tasks
    out: Path  # work folder
    results: Path
    threads: int = 1
    jobs: int = 1
    options: Sequence[str] = ()  # KEY=VALUE for the tools
    keep: bool = False  # the checkpoints


class Failed(Exception):
    """A process of a run ended with an error."""


class Stopped(Exception):
    """The benchmark was asked to end; what ran has saved its state."""


class Workers:
    """The processes that run, which a signal to the benchmark ends with their state saved."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._running: Set[subprocess.Popen] = set()

    def __enter__(self) -> 'Workers':
        self._former = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        self.stopping.set()
        for process in list(self._running):
            process.terminate()

    def run(self, words: Sequence[Any], log: Path, threads: int, lock: int) -> None:
        """Run a command behind what the log has; it inherits the lock, so that it holds it when this process is killed.

        Raises:
            Failed: with the last line that it printed.
            Stopped: the benchmark is to end.
        """
        environ = {**os.environ, **dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), str(threads))}
        with log.open('ab') as file:
            process = subprocess.Popen(
                [sys.executable, *map(str, words)], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environ,
                cwd=ROOT, pass_fds=[lock], start_new_session=True)  # a Ctrl+C is for this process, which passes on SIGTERM
            self._running.add(process)
            if self.stopping.is_set():
                process.terminate()
            status = process.wait()
            self._running.discard(process)
        if self.stopping.is_set():
            raise Stopped
        if status:
            lines = log.read_text(errors='replace').split('\n')
            raise Failed(next((line.strip() for line in reversed(lines) if line.strip()), f'status {status}')[:300]
                         if status > 0 else f'ended by {signal.Signals(-status).name}')


def run_all(runs: Sequence[Run], needed: Set[Run], settings: Settings) -> Dict[Run, str]:
    """Run what is not done, several at once; ``needed`` are those whose weights others start from.

    Returns:
        Run -> why it failed.

    Raises:
        Stopped: a signal came.
    """
    failed: Dict[Run, str] = {}
    for run in runs:  # what cannot work is said before anything runs
        prepare(run, settings.options)
        if not ALL_TASKS[run.task].folder.startswith('shapes/'):
            _data_of(ALL_TASKS[run.task], settings)

    def one(run: Run) -> None:
        if workers.stopping.is_set():
            return
        try:
            if run.source in failed:
                raise Failed(f'{run.source.name} failed, from which it starts')
            print(f'{run.name}: {_execute(run, settings, workers, run in needed)}', flush=True)
        except Stopped:
            pass
        except (Failed, SetupError, OSError) as error:
            failed[run] = str(error)
            print(f'{run.name}: failed: {error}', flush=True)

    with Workers() as workers:
        for stage in ([run for run in runs if run in needed], [run for run in runs if run not in needed]):
            with ThreadPoolExecutor(settings.jobs) as pool:
                list(pool.map(one, stage))
        if workers.stopping.is_set():
            raise Stopped
    return failed


def state_of(run: Run, settings: Settings, needed: bool = False) -> str:
    """``'done'``, ``'changed'`` since it was done, ``'begun'`` or ``'new'``."""
    prepared = prepare(run, settings.options)
    key = records.key_of(_known_by(run, prepared))
    record = next((each for each in records.read(settings.results) if records.key_of(each) == key), None)
    if record is not None and record['fingerprint'] != prepared.fingerprint:
        return 'changed'
    if record is not None and not (needed and not weights_of(run, settings, prepared).is_file()):
        return 'done'
    return 'begun' if any((settings.out / run.name).glob('train/*.pth')) else 'new'


def weights_of(run: Run, settings: Settings, prepared: Prepared) -> Path:
    return settings.out / 'weights' / f'{run.name}_{prepared.fingerprint}.pth'


def _known_by(run: Run, prepared: Prepared) -> Record:
    return dict(task=run.task, network=run.network, recipe=run.recipe, steps=prepared.steps, seed=run.seed,
                pretraining=run.pretraining)


def _execute(run: Run, settings: Settings, workers: Workers, needed: bool) -> str:
    """Train and evaluate; returns a sentence about it."""
    if state_of(run, settings, needed) == 'done':
        return 'done before'
    task, prepared, folder = ALL_TASKS[run.task], prepare(run, settings.options), settings.out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f'another process works in {folder}; wait for it, or end it') from None
        data_root = _data_of(task, settings)
        config, work = folder / 'config.py', folder / 'train'
        _begin(run, settings, prepared, folder)
        # where the code stands, which may go on while this trains
        facts = machine('benchmarks/real_pictures')
        common = ['--data-root', data_root, '--cfg-options', f'randomness.seed={run.seed}', *settings.options]
        checkpoint = work / f'iter_{prepared.steps}.pth'
        if not (work / meter.FILE).is_file() or not checkpoint.is_file():
            start = [f'load_from={folder / "start.pth"}'] if run.source is not None else []
            workers.run([TOOLS / 'train.py', config, '--work-dir', work, '--resume', 'auto', *common, *start],
                        folder / 'train.log', settings.threads, lock)
        measured = json.loads((work / meter.FILE).read_text())
        began = time.monotonic()
        shutil.rmtree(folder / 'test', ignore_errors=True)
        workers.run([TOOLS / 'test.py', config, checkpoint, '--work-dir', folder / 'test', *common], folder / 'test.log',
                    settings.threads, lock)
        facts['test_seconds'] = round(time.monotonic() - began, 1)
        if needed:
            _keep_weights(checkpoint, weights_of(run, settings, prepared))
        record = _record(run, settings, prepared, measured, _metrics(folder / 'test'), facts)
        records.add(settings.results, record)
        if not settings.keep:  # the logs stay
            for path in (work / meter.FILE, *work.glob('*.pth')):
                path.unlink()
    finally:
        os.close(lock)
    name = next(iter(task.metrics))
    return (f'{name} {record["metrics"][task.metrics[name]]:.{task.digits}f} after {record["training_seconds"] / 60:.1f} minutes '
            f'of training')


def _data_of(task: Task, settings: Settings) -> Path:
    """The folder with the pictures of a task; drawn ones are made."""
    if task.folder.startswith('shapes/'):
        from hybrid_mm.data.shapes import make_shapes
        with _one_at_a_time:
            make_shapes(settings.out / 'shapes', **SHAPES)
        return settings.out / task.folder
    folder = settings.data / task.folder
    if not folder.is_dir():
        raise SetupError(f'--data {settings.data} has no folder {task.folder}; docs/real_pictures.md says where {task.title} is '
                         'from and how it is laid out')
    return folder.resolve()


def _begin(run: Run, settings: Settings, prepared: Prepared, folder: Path) -> None:
    """The config of the run; what another config has left is removed."""
    mark = folder / 'fingerprint'
    if not mark.is_file() or mark.read_text() != prepared.fingerprint:
        for name in ('train', 'test'):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ('train.log', 'test.log', 'start.pth'):
            (folder / name).unlink(missing_ok=True)
        with whole_file(mark) as partial:
            partial.write_text(prepared.fingerprint)
    prepared.write(folder / 'config.py')
    if run.source is not None:
        source = prepare(run.source, settings.options)
        weights = torch.load(weights_of(run.source, settings, source), map_location='cpu', weights_only=True)
        with _one_at_a_time:
            fitting = _fitting(weights, prepared)
        if not any(name.startswith('backbone.') for name in fitting):
            raise SetupError(f'nothing of the backbone in {run.source.name} fits {run.name}')
        print(f'{run.name}: starts from {len(fitting)} of {len(weights)} tensors of {run.source.name}', flush=True)
        with whole_file(folder / 'start.pth') as partial:
            torch.save(dict(state_dict=fitting), partial)


def _fitting(weights: Dict[str, torch.Tensor], prepared: Prepared) -> Dict[str, torch.Tensor]:
    """Weights whose names and shapes a network has, but for those that tell classes apart."""
    there = build_model(prepared.config, 'meta').state_dict()
    return {name: value for name, value in weights.items()
            if name in there and there[name].shape == value.shape and not name.rsplit('.', 1)[0].endswith(('conv_seg', 'fc_cls'))}


def _keep_weights(checkpoint: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
    with whole_file(path) as partial:
        torch.save(weights, partial)


def _metrics(folder: Path) -> Dict[str, float]:
    """What tools/test.py has written into its work folder."""
    found = sorted(folder.glob('*/*.json'))
    if not found:
        raise Failed(f'{folder} has no metrics of the evaluation')
    return json.loads(found[-1].read_text())


def _record(run: Run, settings: Settings, prepared: Prepared, measured: Dict[str, Any], metrics: Dict[str, float],
            facts: Dict[str, Any]) -> Record:
    task, network = ALL_TASKS[run.task], NETWORKS[run.network]
    with _one_at_a_time:
        cost = cost_of(run)
    backbone, seconds, val = cost.part('backbone'), measured.pop('seconds'), measured.pop('val', None)
    source = run.source and prepare(run.source, settings.options).fingerprint
    return dict(
        _known_by(run, prepared), **facts, **_plain(measured), family=network.family, group=network.group,
        type=prepared.config.model.backbone.type, fingerprint=prepared.fingerprint, source=source, part=task.part,
        parameters=cost.total.parameters, macs=cost.total.column(), backbone_parameters=backbone.parameters,
        backbone_macs=backbone.column(), size=list(task.size), metrics=_plain(metrics), val=val and _plain(val),
        training_seconds=round(seconds, 1), seconds_a_step=round(seconds / prepared.steps, 4),
        options=list(settings.options), threads=settings.threads, jobs=settings.jobs, date=str(date.today()))


def _plain(values: Dict[str, Any]) -> Dict[str, Any]:
    """Without the times of an evaluation, and with as many digits as mean something."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()
            if name not in ('time', 'data_time')}
