"""Train and evaluate networks on CamVid, Data Science Bowl 2018 and BCCD, one after the other.

What is in the results with the same settings is not run again. After a kill the same command goes on where it was, and on Ctrl+C
or SIGTERM what runs saves its state first. A run that fails is reported, and the others go on; the exit status is then 1.
docs/real_pictures.md says where the pictures are from, and how they are laid out.
"""
import argparse
import statistics
from pathlib import Path
from typing import List, Optional, Sequence, Set, Tuple

from hybrid_mm.commands import one_sentence
from hybrid_mm.compat import flush_denormals, mend_torchvision
from hybrid_mm.errors import SetupError

flush_denormals()
mend_torchvision()

import hybrid_mm.registry  # noqa: E402, F401  before configs are read
from benchmarks.shared.results import ROOT  # noqa: E402
from hybrid_mm.commands.shared import check_least  # noqa: E402

from . import noise, records  # noqa: E402
from .catalogue import EXPERIMENTS, MAIN, NETWORKS, TASKS  # noqa: E402
from .page import write_page  # noqa: E402
from .runs import Run, prepare, runs_of_experiments, runs_of_pairs, with_sources  # noqa: E402
from .training import Settings, Stopped, run_all, state_of  # noqa: E402

_AGAIN = {'ours': 4, 'stock': 2}  # so many of each get seeds 1 and 2 with --seeds auto


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='real_pictures.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('data'), help='folder that holds camvid, dsb2018 and bccd '
                        '(default: %(default)s)')
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS), metavar='TASK', help=', '.join(TASKS))
    parser.add_argument('--networks', nargs='+', choices=MAIN, metavar='NETWORK', help=', '.join(MAIN))
    parser.add_argument('--seeds', nargs='+', default=['0'], help='whole numbers; or auto: 0 for all, then 1 and 2 for the four '
                        'best of ours and the two best others of each task; pairs and experiments get 0, 1 and 2')
    parser.add_argument('--pairs', action='store_true', help='run each network of ours beside the baseline that it claims to '
                        'improve on, at equal multiply-adds, instead')
    parser.add_argument('--experiments', nargs='+', choices=list(EXPERIMENTS), metavar='NAME',
                        help=f'run these instead: {", ".join(EXPERIMENTS)}')
    parser.add_argument('--recipe', choices=['short', 'full'], default='short', help='for two CPU cores, or for one GPU')
    parser.add_argument('--steps', type=int, help='of each training; by default what the config says')
    parser.add_argument('--threads', type=int, default=1, help='of each process (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=1, help='trainings side by side (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='settings for all trainings')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/real_pictures'), help='work folder (default: %(default)s)')
    parser.add_argument('--results', type=Path, default=ROOT / 'benchmarks' / 'real_pictures.json', metavar='FILE.json',
                        help='where the results go (default: benchmarks/real_pictures.json)')
    parser.add_argument('--keep', action='store_true', help='keep the checkpoints')
    parser.add_argument('--plan', action='store_true', help='only list what would run, and estimate the time')
    parser.add_argument('--write', action='store_true', help='only write the tables and plots of docs/real_pictures.md')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command; exits with 1 where something failed, with 130 where it was stopped."""
    args = parser().parse_args(argv)
    with one_sentence():
        status = run(args)
    if status:
        raise SystemExit(status)


def run(args: argparse.Namespace) -> int:
    if args.write:
        for path in write_page(ROOT, records.read(args.results)):
            print(f'{path} written')
        return 0
    check_least(args, threads=1, jobs=1, steps=1)
    settings = Settings(
        args.data, args.out.resolve(), args.results.resolve(), args.threads, args.jobs, args.cfg_options, args.keep)
    runs = _chosen(args)
    if args.plan:
        return _plan(runs, settings)
    try:
        failed = run_all(*_ordered(runs), settings)
        if args.seeds == ['auto'] and not (args.pairs or args.experiments):
            more = _again(args, records.read(settings.results), runs)
            failed.update(run_all(*_ordered(more), settings))
    except Stopped:
        print('stopped; the same command goes on from here', flush=True)
        return 130
    for each, reason in failed.items():
        print(f'{each.name} failed: {reason}; see {settings.out / each.name}')
    return 1 if failed else 0


def _chosen(args: argparse.Namespace) -> List[Run]:
    """The runs that the options ask for."""
    auto = args.seeds == ['auto']
    if not auto and not all(seed.isdigit() for seed in args.seeds):
        raise SetupError(f'--seeds {" ".join(args.seeds)} is not allowed; give whole numbers, or auto')
    seeds = [0, 1, 2] if auto else [int(seed) for seed in args.seeds]
    if args.pairs and args.experiments:
        raise SetupError('--pairs and --experiments are runs of two kinds; give one of them')
    if args.pairs:
        return runs_of_pairs(args.tasks, args.networks or MAIN, args.recipe, seeds, args.steps)
    if args.experiments:
        return runs_of_experiments(args.experiments, args.tasks, args.networks, args.recipe, seeds, args.steps)
    return [Run(task, network, args.recipe, seed, steps=args.steps)
            for seed in (seeds[:1] if auto else seeds) for task in args.tasks for network in args.networks or MAIN]


def _ordered(runs: Sequence[Run]) -> Tuple[List[Run], Set[Run]]:
    """Those that others start from first, and which these are."""
    return with_sources(runs), {run.source for run in runs if run.source is not None}


def _again(args: argparse.Namespace, found: List[records.Record], runs: Sequence[Run]) -> List[Run]:
    """Seeds 1 and 2 for the best of each group of each task, by seed 0."""
    more = []
    for task in args.tasks:
        metric = next(iter(TASKS[task].metrics.values()))
        scores = {network: values[0] for network, values in noise.by_network(
            (record for record in found for run in runs if run.task == task and run.is_like(record)
             and record['steps'] == prepare(run, args.cfg_options).steps), metric).items() if 0 in values}
        for group, number in _AGAIN.items():
            own = sorted((name for name in scores if NETWORKS[name].group == group), key=lambda name: -scores[name])
            more += [Run(task, network, args.recipe, seed, steps=args.steps) for seed in (1, 2) for network in own[:number]]
    return more


def _plan(runs: Sequence[Run], settings: Settings) -> int:
    """List the runs, with the minutes that training takes, where runs are there to tell."""
    ordered, needed = _ordered(runs)
    found, total, unknown = records.read(settings.results), 0., 0
    for run in ordered:
        state, text = state_of(run, settings, run in needed), ''
        if state != 'done':
            minutes = _minutes(run, found, settings)
            text = ', time not known' if minutes is None else f', about {minutes:.0f} minutes'
            total, unknown = total + (minutes or 0), unknown + (minutes is None)
        print(f'{run.name}: {state}{text}')
    print(f'{total / 60 / settings.jobs:.1f} hours of training, {settings.jobs} at once'
          + (f', and {unknown} runs whose time is not known' if unknown else ''))
    return 0


def _minutes(run: Run, found: List[records.Record], settings: Settings) -> Optional[float]:
    """From runs of the same network, or else from all of the task, with as many threads."""
    like = [each for each in found if (each['task'], each['recipe'], each['threads']) == (run.task, run.recipe, settings.threads)]
    like = [each for each in like if each['network'] == run.network] or like
    if not like:
        return None
    return statistics.mean(each['seconds_a_step'] for each in like) * prepare(run, settings.options).steps / 60
