"""Curves of trainings from mmengine's logs, `<work folder>/<time of the start>/vis_data/scalars.json`.

A training that was resumed has a log a start. They are joined in their order, and what a later one did again replaces what an
earlier one had from there on.
"""
import json
import math
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from hybrid_mm.errors import SetupError
from hybrid_mm.output import save_figure

_COUNTERS = ('epoch', 'iter', 'step')
_OF_VALIDATION = (*_COUNTERS, 'time', 'data_time')  # times of a validation would mix with those of the training
_USUAL = ('coco/bbox_mAP', 'coco/segm_mAP', 'mIoU', 'accuracy/top1')
SUFFIXES = ('.png', '.pdf', '.svg')  # of a picture
_COLUMNS = 3


class Curve(NamedTuple):
    """Values of one key."""
    unit: str  # of the steps: ``'iteration'`` or ``'epoch'``
    steps: List[int]  # increasing, from 1
    values: List[float]  # one a step


class Run(NamedTuple):
    """A training."""
    name: str  # of its work folder
    logs: List[Path]  # files that it was read from, in their order
    curves: Dict[str, Curve]  # by key


class _Line(NamedTuple):
    is_training: bool
    step: int
    values: Dict[str, float]
    iteration: int = 0  # of the training; of a validation the last one that the logs have before it


def read_run(path: Path) -> Run:
    """Read the curves of a training.

    Args:
        path: its work folder, one of the folders with a time in it, or a ``scalars.json``.

    Raises:
        SetupError: there is no log, it holds nothing of a training, or is damaged.
    """
    logs = [path]
    if not path.is_file():
        if not path.is_dir():
            raise SetupError(f'the work folder {path} does not exist; give that of a training')
        logs = sorted(path.glob('*/vis_data/scalars.json')) or sorted(path.glob('vis_data/scalars.json'))
        if not logs:
            raise SetupError(f'{path} has no logs, <time>/vis_data/scalars.json; give the work folder of a training')
    joined: List[_Line] = []
    for log in logs:
        lines = list(_read_log(log))
        # what this one did again, from its first iteration and its first validation on
        iteration, validation = (next((line.step for line in lines if line.is_training == is_training), math.inf)
                                 for is_training in (True, False))
        joined = [line for line in joined if line.iteration < iteration and (line.is_training or line.step < validation)]
        for line in lines:
            # a validation after iterations counts them too; one after epochs has a smaller step
            trained = line.step if line.is_training else max(joined[-1].iteration if joined else 0, line.step)
            joined.append(line._replace(iteration=trained))
    if not joined:
        raise SetupError(f'{path} has no lines of a training in {logs[-1]}; give the work folder of a training')
    return Run((path.resolve().parents[1] if path.is_file() else path.resolve()).name, logs, _curves(joined))


def choose_keys(runs: Sequence[Run], keys: Optional[Sequence[str]]) -> List[str]:
    """Full names of keys.

    Args:
        runs: trainings.
        keys: names, or what is behind their last slash, such as ``'bbox_mAP'`` for ``'coco/bbox_mAP'``; None for the loss and
            the usual metrics that there are.

    Raises:
        SetupError: no run has a key; the message names those that exist.
    """
    known = list(dict.fromkeys(key for run in runs for key in run.curves))
    if not known:
        raise SetupError(f'the logs of {", ".join(run.name for run in runs)} hold no numbers; give the work folder of a training')
    if keys is None:
        keys = [key for key in ('loss', *_USUAL) if key in known]
    chosen = []
    for key in keys:
        found = [key] if key in known else [name for name in known if name.rsplit('/', 1)[-1] == key]
        if not found:
            raise SetupError(f'--keys {key} is in no log; choose from {", ".join(sorted(known))}')
        chosen += found
    if not chosen:
        raise SetupError(f'the logs have neither loss nor {", ".join(_USUAL)}; choose --keys from {", ".join(sorted(known))}')
    return list(dict.fromkeys(chosen))


def plot_runs(path: Path, runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Draw a panel for each full name of a key, with a line for each run that has it; the ending of the file says the format."""
    from matplotlib.figure import Figure

    # the same metric after epochs and after iterations has no common axis
    panels = list(dict.fromkeys((key, run.curves[key].unit) for key in keys for run in runs if key in run.curves))
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6 * columns, 4 * rows), layout='constrained')
    for i, (key, unit) in enumerate(panels, 1):
        ax = figure.add_subplot(rows, columns, i)
        for number, (run, label) in enumerate(zip(runs, labels(runs))):
            curve = run.curves.get(key)
            if curve is not None and curve.unit == unit:
                few = len(curve.steps) <= 30
                ax.plot(curve.steps, curve.values, 'o-' if few else '-', ms=3, lw=1, color=f'C{number}', label=label)
        ax.set(xlabel=unit, ylabel=key)
        ax.locator_params('x', integer=True)
        ax.legend(fontsize='small')
    save_figure(figure, path)


def labels(runs: Sequence[Run]) -> Tuple[str, ...]:
    """Names of the runs; numbered where two are the same."""
    names = [run.name for run in runs]
    return tuple(f'{name} ({names[:i].count(name) + 1})' if names.count(name) > 1 else name for i, name in enumerate(names))


def _read_log(path: Path) -> Iterator[_Line]:
    texts = path.read_text(errors='replace').splitlines()
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
        except json.JSONDecodeError:
            if number == len(texts):
                return  # the training was killed while it wrote
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get('step'), int):
            raise SetupError(f'line {number} of {path} is no line of a training log; give the work folder of another training')
        is_training, step = 'iter' in entry, entry['step']
        if step == 0:
            continue  # an evaluation without a training
        without = _COUNTERS if is_training else _OF_VALIDATION
        numbers = {key: value for key, value in entry.items() if key not in without and type(value) in (int, float)}
        yield _Line(is_training, step, numbers)


def _curves(lines: Sequence[_Line]) -> Dict[str, Curve]:
    by_epoch = any(not line.is_training and line.step < line.iteration for line in lines)
    trained = {key for line in lines if line.is_training for key in line.values}
    curves: Dict[str, Curve] = {}
    for line in lines:
        for key, value in line.values.items():
            if not line.is_training and key in trained:
                key = f'val/{key}'
            unit = 'epoch' if by_epoch and not line.is_training else 'iteration'
            curve = curves.setdefault(key, Curve(unit, [], []))
            curve.steps.append(line.step)
            curve.values.append(value)
    return curves
