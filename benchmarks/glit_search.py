"""GLiT's hierarchical search against random search on the synthetic shapes: one supernet, as many evaluations, several seeds.

    python tools/datasets/make_shapes.py
    python benchmarks/glit_search.py [--seeds 0 1 2] [--strategies hierarchical flat random] [--processes 2]
        [--kills 5] [--work-dir work_dirs/glit_search]

Trains the supernet of configs/search/upernet_glit_shapes_search.py once, then searches it with each strategy and seed, through
the tools that a user calls. What has ended is kept, so the command can be interrupted and repeated. The table gives the best
mIoU that each search has seen, in percent on the images that the config sets apart for it, and the seconds that it took.
With `--kills` the first search is done once more, killed with SIGKILL that many times at random moments and continued: all
that was finished before a kill must be there after it, and the ranking in the end must be the one of the whole search.
"""
import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'search' / 'upernet_glit_shapes_search.py'


def call(log, tool, *arguments, threads):
    """Run a tool, with its output in a file; returns seconds."""
    start = time.monotonic()
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    with open(log, 'w') as output:
        subprocess.run([sys.executable, str(ROOT / 'tools' / 'search' / tool), *map(str, arguments)], cwd=ROOT,
                       env=environment, stdout=output, stderr=subprocess.STDOUT, check=True)
    return time.monotonic() - start


def once(result, run):
    """What `run` gives, kept in a file."""
    if not result.exists():
        result.write_text(json.dumps(run()))
    return json.loads(result.read_text())


def search(strategy, seed, supernet, folder, processes):
    took = call(f'{folder}.txt', 'search.py', CONFIG, '--checkpoint', supernet, '--work-dir', folder, '--strategy', strategy,
                '--seed', seed, '--processes', processes, threads=1)
    found = json.loads((folder / 'result.json').read_text())
    best = found['ranking'][0]
    return dict(seconds=took, evaluations=found['evaluations'], mIoU=best['metric'], gmacs=best['gmacs'])


def killed(kills, strategy, seed, supernet, whole, folder, seconds):
    """Kill a search again and again, let it end, and compare it with the whole one."""
    command = [sys.executable, str(ROOT / 'tools' / 'search' / 'search.py'), str(CONFIG), '--checkpoint', str(supernet),
               '--work-dir', str(folder), '--strategy', strategy, '--seed', str(seed), '--processes', '2']
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    finished = []
    for kill in range(kills + 1):
        with open(f'{folder}.txt', 'a') as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if kill < kills:
            try:
                process.wait(random.uniform(0.3, 1) * seconds / kills + 10)  # a process takes some seconds to begin
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        process.wait()
        before, finished = finished, evaluated(folder)
        lost = [row for row in before if row not in finished]
        print(f'{"killed" if process.returncode else "ended"} with {len(finished)} evaluations, {len(lost)} lost')
        if lost:
            raise SystemExit('finished evaluations were lost')
    same = (folder / 'result.json').read_bytes() == (whole / 'result.json').read_bytes()
    print(f'the result is {"byte for byte that" if same else "NOT that"} of the search that was not killed')


def evaluated(folder):
    if not (folder / 'search.sqlite').exists():
        return []
    with closing(sqlite3.connect(folder / 'search.sqlite')) as store:
        return store.execute('SELECT stage, candidate, metrics FROM evaluations').fetchall()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=(0, 1, 2))
    parser.add_argument('--strategies', nargs='+', default=('hierarchical', 'flat', 'random'),
                        choices=('hierarchical', 'flat', 'random'))
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--kills', type=int, default=0)
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'glit_search')
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)

    supernet = work_dir / 'supernet'
    took = once(work_dir / 'supernet.json', lambda: call(
        work_dir / 'supernet.txt', 'supernet_train.py', CONFIG, '--work-dir', supernet, threads=args.processes))
    print(f'supernet trained in {took:.0f} s')
    results = {}
    for seed in args.seeds:
        for strategy in args.strategies:
            folder = work_dir / f'{strategy}_{seed}'
            results[strategy, seed] = found = once(
                work_dir / f'{strategy}_{seed}.json', lambda: search(strategy, seed, supernet, folder, args.processes))
            print(f'{strategy}, seed {seed}: mIoU {found["mIoU"]:.2f} at {found["gmacs"]:.3f} G MACs, best of '
                  f'{found["evaluations"]} in {found["seconds"]:.0f} s', flush=True)
    print(f'\n| strategy | {" | ".join(f"seed {seed}" for seed in args.seeds)} | mean |')
    print('|---' * (len(args.seeds) + 2) + '|')
    for strategy in args.strategies:
        values = [results[strategy, seed]['mIoU'] for seed in args.seeds]
        print(f'| {strategy} | {" | ".join(f"{value:.2f}" for value in values)} | {sum(values) / len(values):.2f} |')
    if args.kills:
        strategy, seed = args.strategies[0], args.seeds[0]
        folder = work_dir / 'killed'
        shutil.rmtree(folder, ignore_errors=True)
        killed(args.kills, strategy, seed, supernet, work_dir / f'{strategy}_{seed}', folder,
               results[strategy, seed]['seconds'])


if __name__ == '__main__':
    main()
