"""SIGTERM and SIGUSR1: the training saves behind its step, leaves with status 75, and goes on as if nothing had happened."""
import os
import signal
import subprocess
import sys
import time

import pytest

from hybrid_mm.commands.train import _goes_on

from .conftest import Training, end_of, same

SAVED = 'the training ends behind step {}, whose checkpoint is in'


def check_signal(training, undisturbed, whole, work_dir, step, **variables):
    """``step``: behind which it has to end; a signal behind a step is seen in the next one, or in the validation."""
    expected, names = undisturbed
    stopped = training.run(work_dir, check=False, **variables)
    assert stopped.returncode == 75, stopped.stdout[-1000:] + stopped.stderr[-2000:]
    assert f'{variables["KILL_WITH"]}: {SAVED.format(step)}' in stopped.stdout and 'Traceback' not in stopped.stderr
    resumed = training.run(work_dir, '--resume')
    assert same(training.end(work_dir), expected)
    assert whole(work_dir) == names
    return resumed.stdout


def test_sigterm_in_the_middle_of_an_epoch(classifier_training, whole, tmp_path):
    resumed = check_signal(*classifier_training, whole, tmp_path, 6, KILL_AFTER='5', KILL_WITH='SIGTERM')
    assert 'The epoch goes on behind 2 of 4 batches.' in resumed


def test_a_signal_in_a_validation_ends_it_and_it_runs_first_afterwards(classifier_training, whole, tmp_path):
    resumed = check_signal(*classifier_training, whole, tmp_path, 8, KILL_IN_VALIDATION='7', KILL_WITH='SIGUSR1')
    assert 'The validation behind step 8 did not finish; it runs now.' in resumed
    assert 'there is nothing to train' in resumed


@pytest.fixture(scope='session')
def loaded_training(run_tool, tiny, tmp_path_factory):
    """Six steps of the segmentor with two worker processes, without validation; and how they end."""
    training = Training(run_tool, tiny('segmentor'), 'iter_6.pth', 'train_dataloader.num_workers=2', 'val_dataloader=None',
                        'val_evaluator=None', 'val_cfg=None')
    return training, end_of(training, tmp_path_factory.mktemp('loaded'))


def test_worker_processes_that_get_the_signal_too_end_the_step(loaded_training, whole, tmp_path):
    check_signal(*loaded_training, whole, tmp_path, 5, KILL_AFTER='4', KILL_WITH='SIGTERM', KILL_ANCESTOR='-1')


@pytest.mark.exhaustive
@pytest.mark.parametrize('step', range(1, 8))
def test_sigterm_behind_each_step(classifier_training, whole, tmp_path, step):
    expected_end = step if step == 4 else step + 1  # behind the fourth the validation sees it
    check_signal(*classifier_training, whole, tmp_path, expected_end, KILL_AFTER=str(step), KILL_WITH='SIGTERM')


@pytest.mark.exhaustive
@pytest.mark.parametrize('batch', [1, 4, 5])
def test_sigterm_in_each_validation(classifier_training, whole, tmp_path, batch):
    check_signal(*classifier_training, whole, tmp_path, 4 if batch < 5 else 8, KILL_IN_VALIDATION=str(batch),
                 KILL_WITH='SIGTERM')


@pytest.fixture(scope='session')
def two_processes(run_tool, tiny):
    """Two epochs of five steps of two processes, each with a validation."""
    return Training(run_tool, tiny('classifier'), 'epoch_2.pth', 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=2',
                    'train_dataloader.sampler.shuffle=True', 'model.backbone.drop_path_rate=0.2', tool='dist_train.sh')


@pytest.fixture(scope='session')
def of_two(two_processes, tmp_path_factory):
    return two_processes, end_of(two_processes, tmp_path_factory.mktemp('two'), 2)


@pytest.mark.exhaustive
def test_a_signal_to_the_script_of_several_processes_saves(of_two, whole, tmp_path):
    two_processes, (expected, names) = of_two
    stopped = two_processes.run(tmp_path, 2, check=False, KILL_AFTER='2', KILL_WITH='SIGTERM', KILL_RANK='0', KILL_ANCESTOR='2')
    assert stopped.returncode == 75, stopped.stderr[-3000:]
    saved, = tmp_path.glob('iter_*.pth')
    assert SAVED.format(saved.stem[len('iter_'):]) in stopped.stdout and 'Traceback' not in stopped.stderr
    two_processes.run(tmp_path, 2, '--resume')
    assert same(two_processes.end(tmp_path), expected) and whole(tmp_path) == names


@pytest.mark.exhaustive
@pytest.mark.parametrize('name, kill_after', [*(('SIGTERM', step) for step in range(1, 10)), ('SIGUSR1', 6), ('SIGUSR1', 7)])
def test_two_processes_leave_together_and_go_on(of_two, whole, tmp_path, name, kill_after):
    """The signal goes to one process, or to the script."""
    training, (expected, names) = of_two
    to = dict(KILL_RANK='1') if kill_after % 2 else dict(KILL_RANK='1', KILL_ANCESTOR='2')
    stopped = training.run(tmp_path, 2, check=False, KILL_AFTER=str(kill_after), KILL_WITH=name, **to)
    assert stopped.returncode == 75, stopped.stderr[-3000:]
    training.run(tmp_path, 2, '--resume')
    assert same(training.end(tmp_path), expected) and whole(tmp_path) == names


@pytest.mark.exhaustive
@pytest.mark.parametrize('kill_after', range(6, 11))
def test_two_processes_of_which_one_is_killed_start_again(of_two, whole, tmp_path, kill_after):
    training, (expected, names) = of_two
    run = training.run(tmp_path, 2, '--max-restarts', '1', KILL_AFTER=str(kill_after),
                                  KILL_RANK=str(kill_after % 2))
    assert 'The training goes on from' in run.stdout
    assert same(training.end(tmp_path), expected) and whole(tmp_path) == names


# ---- what launchers are told ----


@pytest.mark.parametrize('variable', ['TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'])
def test_a_restarted_process_goes_on_from_checkpoints_of_its_own_job(monkeypatch, tmp_path, variable):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    assert not _goes_on(tmp_path) and not (tmp_path / '.started').exists()  # no launcher
    checkpoint = tmp_path / 'epoch_1.pth'
    checkpoint.touch()
    os.utime(checkpoint, (1, 1))  # of an earlier training
    monkeypatch.setenv(variable, '0')
    assert not _goes_on(tmp_path)
    monkeypatch.setenv(variable, '1')
    assert not _goes_on(tmp_path)
    os.utime(checkpoint, (2e9, 2e9))
    assert _goes_on(tmp_path)
    checkpoint.unlink()
    (tmp_path / 'out' / tmp_path.name).mkdir(parents=True)  # of CheckpointHook(out_dir=...)
    elsewhere = tmp_path / 'out' / tmp_path.name / 'epoch_1.pth'
    elsewhere.touch()
    os.utime(elsewhere, (2e9, 2e9))
    assert not _goes_on(tmp_path) and _goes_on(tmp_path, str(tmp_path / 'out'))


def test_the_first_start_of_a_training_in_a_job_that_was_requeued_counts_as_one(monkeypatch, tmp_path):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('SLURM_RESTART_COUNT', '1')
    assert not _goes_on(tmp_path)
    (tmp_path / 'epoch_1.pth').touch()
    os.utime(tmp_path / 'epoch_1.pth', (2e9, 2e9))
    assert _goes_on(tmp_path)


TORCHRUN = '''#!/usr/bin/env bash
echo "$@" > {folder}/call
trap 'echo torchrun > {folder}/got; exit 1' TERM
{python} {folder}/process.py $PPID &
wait $! || exit 3
'''
PROCESS = '''
import os, signal, sys, time
def end(*args):
    {end}
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, end)
os.kill({to}, signal.{name})
time.sleep(10)
'''


@pytest.fixture
def launch(root, tmp_path):
    """Run `dist_train.sh` with something else than torchrun, whose only process sends a signal; returns the status."""

    def run(*args, **process):
        (tmp_path / 'process.py').write_text(PROCESS.format(**process))
        (tmp_path / 'python').write_text(TORCHRUN.format(folder=tmp_path, python=sys.executable))
        (tmp_path / 'python').chmod(0o755)
        command = ['bash', str(root / 'tools' / 'dist_train.sh'), 'net.py', '2', *args]
        environ = dict(os.environ, PYTHON=str(tmp_path / 'python'), TMPDIR=str(tmp_path))
        return subprocess.run(command, env=environ, check=False).returncode

    return run


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1'])
def test_processes_get_the_signal_of_their_script_and_torchrun_does_not(launch, tmp_path, name):
    status = launch('--max-restarts', '3', '--amp', name=name, to='int(sys.argv[1])',
                    end="open(os.environ['HYBRID_MM_INTERRUPTED'], 'w').close(); sys.exit()")
    call = (tmp_path / 'call').read_text()
    assert status == 75 and '--max-restarts=3 ' in call and call.rstrip().endswith('net.py --launcher pytorch --amp')
    assert not (tmp_path / 'got').exists() and not list(tmp_path.glob('tmp*'))


def test_a_signal_reaches_torchrun_as_long_as_it_has_no_processes(root, tmp_path):
    alone = tmp_path / 'alone'
    alone.write_text(f'#!{sys.executable}\nimport os, pathlib, signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n'
                     f'pathlib.Path("{tmp_path}/waits").touch()\nwhile True:\n    signal.pause()\n')
    alone.chmod(0o755)
    script = subprocess.Popen(['bash', str(root / 'tools' / 'dist_train.sh'), 'net.py', '2'],
                              env=dict(os.environ, PYTHON=str(alone), TMPDIR=str(tmp_path)))
    while not (tmp_path / 'waits').exists():
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    try:
        assert script.wait(timeout=20) == 7
    finally:
        subprocess.run(['pkill', '-KILL', '-f', str(alone)], check=False)


def test_the_status_of_torchrun_is_that_of_the_script_where_no_process_was_interrupted(launch, tmp_path):
    assert launch('--max-restarts=2', name='SIGUSR1', to='os.getpid()', end='sys.exit(5)') == 3
    assert '--max-restarts=2' in (tmp_path / 'call').read_text()


SRUN = '''#!/usr/bin/env bash
echo "$@" >> calls
case "$(wc -l < calls)" in {cases} esac
'''
LEAVE = 'echo {} > "$HYBRID_MM_INTERRUPTED"'


@pytest.fixture
def slurm(root, tmp_path):
    """Run `slurm_train.sh` with a slurm that does what it is told; returns the status and what it was asked for."""

    def run(*cases, requeues=False, **variables):
        for name, text in (('srun', SRUN.format(cases=' '.join(f'{i}) {case} ;;' for i, case in enumerate(cases, 1)))),
                           ('scontrol', f'#!/bin/sh\necho scontrol "$@" >> calls\nexit {int(not requeues)}\n')):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        environ = dict({name: value for name, value in os.environ.items() if not name.startswith('SLURM')},
                       PATH=f'{tmp_path}:{os.environ["PATH"]}', **variables)
        command = ['bash', str(root / 'tools' / 'slurm_train.sh'), 'gpu', 'job', 'net.py', 'work', '--amp']
        result = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        return result.returncode, (tmp_path / 'calls').read_text().splitlines()

    return run


def test_slurm_is_asked_for_a_warning_and_its_status_is_passed_on(slurm):
    status, (call, ) = slurm('exit 3')
    assert status == 3
    assert '--signal=USR1@120' in call and call.endswith('net.py --work-dir work --launcher slurm --amp')


def test_a_training_that_slurm_warned_starts_again_and_goes_on(slurm):
    status, (first, second) = slurm(LEAVE.format('SIGUSR1'), 'exit 0')
    assert status == 0 and not first.endswith('--resume') and second == f'{first} --resume'


def test_a_batch_job_that_slurm_warned_is_requeued(slurm):
    status, calls = slurm(LEAVE.format('SIGUSR1'), requeues=True, SLURM_JOB_ID='17')
    assert status == 75 and calls[1:] == ['scontrol requeue 17']


def test_a_job_that_cannot_be_requeued_starts_again_itself(slurm):
    status, calls = slurm(LEAVE.format('SIGUSR1'), 'exit 0', SLURM_JOB_ID='17')
    assert status == 0 and calls[1] == 'scontrol requeue 17' and calls[2].endswith('--resume')


def test_a_training_that_was_cancelled_does_not_start_again(slurm):
    status, calls = slurm(LEAVE.format('SIGTERM'), requeues=True, SLURM_JOB_ID='17')
    assert status == 75 and len(calls) == 1


def test_signals_to_the_script_reach_slurm(slurm):
    leave = f'trap \'{LEAVE.format("SIGUSR1")}; exit 0\' USR1; kill -s USR1 $PPID; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; done'
    status, calls = slurm(leave, 'exit 4')
    assert status == 4 and len(calls) == 2
