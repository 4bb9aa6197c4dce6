"""Search for the best candidate of a trained supernet.

If a search is killed, the same command goes on where it was, and ends with the same result.
"""
import argparse
import hashlib
import os
import time
from pathlib import Path
from typing import Any, List

from hybrid_mm.checkpoints.resumable import find_newest
from hybrid_mm.errors import SetupError
from hybrid_mm.search import CostModel
from hybrid_mm.search import settings as search_settings
from hybrid_mm.search.evaluate import load_supernet
from hybrid_mm.search.results import rank, write_results
from hybrid_mm.search.space import distribution_of
from hybrid_mm.search.store import Evaluation, Store
from hybrid_mm.search.workers import Workers

from .preflight import check_checkpoint, check_data
from .shared import add_config, load_config, parser_of


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser, of='a supernet; `--cfg-options search.KEY=VALUE` replaces a setting of the search', data=True)
    parser.add_argument('--checkpoint', required=True,
                        help='file with the weights of the supernet, or the folder of its training, for the last weights in it')
    parser.add_argument('--work-dir', help='folder of the search; by default ./work_dirs/<name of the config>_<strategy>')
    parser.add_argument('--strategy', choices=search_settings.STRATEGIES,
                        help='hierarchical looks for the distribution of attention and convolution first, then for the details; '
                        'flat looks for both at once; random draws candidates without an evolution')
    parser.add_argument('--stage', choices=search_settings.STAGES,
                        help='the part of a hierarchical search that runs; by default what the space of the supernet leaves open')
    parser.add_argument('--limit-gmacs', type=float, help='no candidate has more multiply-adds than this, in 10^9')
    parser.add_argument('--metric', help='what the search maximises: a name that the evaluator of the config returns, such as '
                        'accuracy/top1, mIoU or coco/bbox_mAP')
    parser.add_argument('--seed', type=int, help='the same seed gives the same search')
    parser.add_argument('--generations', type=int, help='number of generations, counted over all stages')
    parser.add_argument('--processes', type=int, default=1,
                        help='how many candidates are evaluated at the same time, each in its own process, which has one thread '
                        'of a CPU, or one GPU (default: %(default)s). The result does not depend on this number')
    return parser


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    settings = search_settings.read_settings(cfg, **{name: getattr(args, name) for name in (
        'strategy', 'stage', 'limit_gmacs', 'metric', 'seed', 'generations')})
    space, cost = search_settings.read_space(cfg), search_settings.read_cost(cfg, settings)
    strategy = search_settings.build_strategy(settings, space, cost)
    checkpoint = find_checkpoint(args.checkpoint)
    folder = Path(args.work_dir or Path('work_dirs') / f'{Path(args.config).stem}_{settings.strategy}')
    check_data(cfg, ('train', 'val'), keep=False)
    workers = Workers(cfg, settings, checkpoint, args.processes)
    store = Store(folder, search_settings.identity(cfg, settings, space, fingerprint(checkpoint)))
    load_supernet(cfg, checkpoint)  # a wrong file is an error here, not one of each process
    print(f'{space!r}; smallest and largest: {", ".join(f"{macs / 1e9:.6f} G MACs" for macs in cost.range(space))}', flush=True)
    with workers:
        history = run_strategy(strategy, store, workers, settings, cost)
    configs = write_results(folder, cfg, settings, cost, history)
    print(f'{configs[0]}: the best of {sum(map(len, history))}; train it with `python tools/train.py {configs[0]}`')
    if {generation[0].stage for generation in history} == {'distribution'}:
        best = rank([e for generation in history for e in generation])[0]
        distribution = ','.join(map(str, distribution_of(best.candidate)))
        print('the second supernet, of the details, trains and is searched with '
              f'`--cfg-options model.backbone.arch.space.distribution={distribution}`')


def run_strategy(strategy: Any, store: Store, workers: Workers, settings: search_settings.SearchSettings,
                 cost: CostModel) -> List[List[Evaluation]]:
    """Evaluate generation after generation; what the store knows is not evaluated again.

    Raises:
        SetupError: the evaluator has no metric of the name in the settings; the message says which it has.
    """
    history: List[List[Evaluation]] = []
    while True:
        generation = strategy.propose(history)
        if not generation.candidates:
            return history
        found = {c: store.get(generation.stage, c) for c in generation.candidates}
        known = {c: evaluation for c, evaluation in found.items() if evaluation is not None}
        start, missing = time.monotonic(), [c for c in found if c not in known]
        for candidate, metrics in workers.evaluate(missing):
            if settings.metric not in metrics:
                raise SetupError(f'--metric {settings.metric} is not among what val_evaluator of the config returns; choose '
                                 f'from {", ".join(metrics)}')
            known[candidate] = evaluation = Evaluation(
                generation.stage, candidate, generation.number, metrics[settings.metric], cost.macs(candidate),
                cost.parameters(candidate), metrics)
            store.add(evaluation)
            print(f'{generation.stage} {generation.number + 1}, {len(known)}/{len(found)}: {settings.metric} '
                  f'{evaluation.metric:.4f}, {evaluation.macs / 1e9:.6f} G MACs', flush=True)
        history.append([known[candidate] for candidate in generation.candidates])
        best = min((e for past in history for e in past), key=lambda e: e.rank_key)
        seconds = f', {time.monotonic() - start:.0f} s' if missing else ' from the store'
        print(f'{generation.stage} {generation.number + 1}: {len(known)} candidates{seconds}; best so far {best.metric:.4f} at '
              f'{best.macs / 1e9:.6f} G MACs', flush=True)


def find_checkpoint(path: str) -> str:
    """The checkpoint itself, or the last one of a work folder."""
    if os.path.isdir(path):
        latest, passed = find_newest([path])
        if latest is None:  # without the state of the optimizer, which a search does not need
            latest, passed = find_newest([path], resume=False)
        for name, fault in passed:
            print(f'Passed over: {name} {fault}.', flush=True)
        if latest is None:
            raise SetupError(f'--checkpoint {path} is a folder without a checkpoint; train the supernet with '
                             f'`python tools/search/supernet_train.py CONFIG --work-dir {path}`, or give a file')
        path = latest
    check_checkpoint(path, '--checkpoint')
    return path


def fingerprint(path: str) -> str:
    """A short name of the content of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
