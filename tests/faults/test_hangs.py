"""A process that stands still, in a training of two processes by `tools/dist_train.sh`."""
import os
import re
import signal
import time
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
NAMED = re.compile(r'rank (\d) \(pid (\d+) on .*?\) (has [^,]*), for (\d+) s(.*)\. The run ends; (\S+) has the stacks')

CONFIG = '''
_base_ = '{base}'
custom_imports = dict(imports=['training_probes', 'hang_probes'], allow_failed_imports=False)
default_hooks = dict(stand_still=dict(type='StandStill'))
train_dataloader = dict(batch_size=1)
'''


def train(run_tool, tiny, root, work_dir, stand_still, timeout, release=False):
    """Train until the run ends; what was printed, and what `hang.txt` holds. `release` kills the named process, for which
    torchrun waits half a minute if it is stopped."""
    config = work_dir / 'stands_still.py'
    config.write_text(CONFIG.format(base=tiny('classifier')))
    if release:
        killer = os.fork()
        if not killer:
            kill_named(work_dir)
    result = run_tool('dist_train.sh', config, 2, '--work-dir', work_dir, '--hang-timeout', timeout, check=False,
                      STAND_STILL=stand_still, PYTHONPATH=f'{root / "tests" / "tools"}:{FAULTS}')
    if release:
        os.kill(killer, signal.SIGKILL)
        os.waitpid(killer, 0)
    assert result.returncode != 0
    named = NAMED.findall(result.stdout)
    assert len(named) == 1, result.stdout[-3000:] + result.stderr[-3000:]
    return result, named[0], next(work_dir.glob('*/hang.txt')).read_text()


def kill_named(work_dir):
    while True:
        time.sleep(0.1)
        for path in work_dir.glob('*/hang.txt'):
            pid = re.match(r'rank \d \(pid (\d+) ', path.read_text())
            if pid:
                os.kill(int(pid[1]), signal.SIGKILL)
                os._exit(0)


def test_a_stopped_process_is_named_and_the_run_ends(run_tool, tiny, root, tmp_path):
    _, (rank, _, _, seconds, rest, _), stacks = train(run_tool, tiny, root, tmp_path, '0 3 stop', 5, release=True)
    assert rank == '0' and int(seconds) <= 5 and 'it is stopped' in rest
    assert '_engine_run_backward' in stacks  # where the other one waits for it


@pytest.mark.exhaustive
def test_a_process_without_data_is_named_and_the_run_ends(run_tool, tiny, root, tmp_path):
    _, (rank, _, what, seconds, rest, _), stacks = train(run_tool, tiny, root, tmp_path, '1 3 data', 5)
    assert (rank, what) == ('1', 'has not moved since step 3') and int(seconds) <= 5
    assert 'while it waits for data' in rest and 'hang_probes.py' in rest
    assert '_engine_run_backward' in stacks and 'hang_probes.py' in stacks


@pytest.mark.exhaustive
@pytest.mark.parametrize('stand_still', ['0 2 stop', '1 3 stop', '1 7 stop', '0 4 data', '1 5 data'])
def test_whoever_stands_still_is_named_within_thirty_seconds(run_tool, tiny, root, tmp_path, stand_still):
    result, (rank, pid, *_), _ = train(run_tool, tiny, root, tmp_path, stand_still, 30)
    assert rank == stand_still[0]
    assert not os.path.exists(f'/proc/{pid}')
    if 'stop' in stand_still:
        stopped = float(re.search(r'stops at (\S+)', result.stdout)[1])
        named = next(tmp_path.glob('*/hang.txt')).stat().st_mtime
        print(f'{stand_still}: named after {named - stopped:.1f} s, ended after {time.time() - stopped:.1f} s')
        assert named - stopped < 30
