import os
import signal
import socket
import threading
import time
import types

import pytest
import torch
import torchvision  # noqa: F401  every runner loads it, to say its version; here not in each fork
from mmengine.hooks import Hook

from hybrid_mm.engine import HangGuardHook
from hybrid_mm.engine.watchdog import STATUS, verdict
from hybrid_mm.errors import SetupError

TRAINING = dict(by_epoch=True, max_epochs=2, val_interval=1)


# ---- Who is named ----

def state(rank, position, doing='is in the step', counts=True, still=0., over=False, **more):
    return dict(rank=rank, pid=100 + rank, host='node', position=position, doing=doing, counts=counts, still=still, over=over,
                **more)


def test_nobody_is_named_while_all_live_and_the_last_of_them_moves():
    waits = state(0, [7, 4, 0], still=99.)
    assert verdict([waits, state(1, [6, 0, 0], 'waits for data', still=5.)], [0., 0.], 10) is None
    assert verdict([waits, state(1, [0, -1, 0], 'prepares the run', counts=False, still=99.)], [0., 5.], 10) is None
    assert verdict([state(0, [7, 4, 0], over=True)] * 2, [99., 99.], 10) is None  # both are through


def test_a_process_is_named_that_gives_no_sign_of_life():
    said = verdict([state(0, [7, 4, 0], still=99.), state(1, [6, 0, 0])], [0., 12.], 10)
    assert said.startswith('rank 1 (pid 101 on node) has given no sign of life since about step 7, for 12 s; it is stopped,')


@pytest.mark.parametrize('behind', [[6, 4, 0], [7, 0, 0], [7, 3, 0]])
def test_a_process_is_named_that_the_others_wait_for(behind):
    stuck = state(1, behind, 'waits for data', still=10., stack=['file.py:3, read'])
    said = verdict([state(0, [7, 4, 0], still=11.), stuck], [0., 0.], 10)
    assert said == (f'rank 1 (pid 101 on node) has not moved since step {behind[0]}, for 10 s, while it waits for data '
                    '(file.py:3, read)')


def test_whoever_waits_inside_of_torch_is_not_named_if_another_does_not():
    states = [state(0, [7, 4, 0], still=11., in_torch=True), state(1, [7, 4, 0], still=10., in_torch=False)]
    assert verdict(states, [0., 0.], 10).startswith('rank 1 ')
    states[1]['in_torch'] = True
    said = verdict(states, [0., 0.], 10)
    assert said.startswith('rank 0 ') and ', and rank 1 ' in said


def test_work_that_may_take_any_time_names_nobody():
    metrics = state(0, [7, 2, 0], 'computes the metrics', counts=False, still=99.)
    assert verdict([metrics, state(1, [7, 3, 0], still=50.)], [0., 0.], 10) is None
    assert verdict([metrics], [0.], 10) is None


def test_a_process_that_has_ended_is_named_beside_those_that_wait_for_it():
    said = verdict([state(0, [7, 4, 0], still=11.), state(1, [7, 4, 0], over=True)], [0., 99.], 10)
    assert said.startswith('rank 0 ') and said.endswith(', and rank 1 has ended')


# ---- Whole runs, in forks ----

class StandStill(Hook):
    """In step 3."""

    def __init__(self, act):
        self.act = act

    def before_train_iter(self, runner, **kwargs):
        if runner.iter == 3:
            self.act()


def in_forks(*trainings):
    """Statuses of processes, one a function; the first that ends takes the others along, as a launcher does."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    children = {}
    for rank, training in enumerate(trainings):
        child = os.fork()
        if not child:
            status = 1
            try:
                if len(trainings) > 1:
                    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=len(trainings))
                training()
                status = 0
            finally:
                os._exit(status)
        children[child] = rank
    statuses = {}
    while children:
        child, status = os.wait()
        statuses[children.pop(child)] = os.waitstatus_to_exitcode(status)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
    return [statuses[rank] for rank in range(len(trainings))]


def hang_file(tmp_path):
    return next((tmp_path / 'work').glob('*/hang.txt')).read_text()


def stops():
    os.kill(os.getpid(), signal.SIGSTOP)


def sleeps():
    time.sleep(100)


@pytest.mark.parametrize('rank, act, said', [
    (0, stops, 'rank 0 (pid'),  # it holds the store, too
    (1, stops, 'rank 1 (pid'),
    (1, sleeps, 'rank 1 (pid'),
])
def test_one_of_two_processes_is_named(make_runner, tmp_path, rank, act, said):

    class Sums(Hook):
        """What DDP does in each step."""

        def before_train_iter(self, runner, **kwargs):
            torch.distributed.all_reduce(torch.zeros(1))

    def train(of):
        make_runner(TRAINING, [HangGuardHook(2), StandStill(act if of == rank else int), Sums()]).train()

    statuses = in_forks(lambda: train(0), lambda: train(1))
    assert STATUS in statuses
    text = hang_file(tmp_path)
    assert text.startswith(said) and ('sleeps' in text) == (act is sleeps)


def test_a_run_of_two_processes_ends_in_peace(make_runner, tmp_path):
    assert in_forks(*[lambda: make_runner(TRAINING, [HangGuardHook(600)], validate=True).train()] * 2) == [0, 0]
    assert not list(tmp_path.glob('work/*/hang.txt'))


def test_a_process_alone_names_what_it_does(make_runner, tmp_path):
    assert in_forks(lambda: make_runner(TRAINING, [HangGuardHook(1), StandStill(sleeps)]).train()) == [STATUS]
    text = hang_file(tmp_path)
    assert text.startswith('rank 0 (pid') and 'has not moved since step 3, for 1 s, while it waits for data' in text
    assert 'test_hang_guard_hook.py' in text and ', sleeps' in text


def test_loaders_that_are_stuck_are_named_and_end(make_runner, tmp_path, toy):
    class Stuck(toy.Dataset):
        def __getitem__(self, index):
            (tmp_path / 'loader').write_text(str(os.getpid()))
            sleeps()

    def train():
        runner = make_runner(TRAINING, [HangGuardHook(1)])
        runner._train_dataloader.update(dataset=Stuck(), num_workers=1)
        runner.train()

    assert in_forks(train) == [STATUS]
    loader = (tmp_path / 'loader').read_text()
    assert 'while it waits for data' in hang_file(tmp_path) and f'its loader processes: {loader})' in hang_file(tmp_path)
    deadline = time.monotonic() + 10
    while os.path.exists(f'/proc/{loader}') and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f'/proc/{loader}') or ' Z ' in open(f'/proc/{loader}/stat').read()


def test_a_debugger_stops_the_clock(make_runner):
    debugger = types.FunctionType(compile('def wait(): time.sleep(4)', '', 'exec').co_consts[0], dict(__name__='bdb', time=time))
    assert in_forks(lambda: make_runner(TRAINING, [HangGuardHook(3), StandStill(debugger)]).train()) == [0]


def test_a_process_that_was_stopped_with_all_others_goes_on(make_runner, tmp_path):

    def suspend():
        if not os.fork():
            time.sleep(4)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        stops()

    assert in_forks(lambda: make_runner(TRAINING, [HangGuardHook(3), StandStill(suspend)]).train()) == [0]


def watches():
    return [thread for thread in threading.enumerate() if thread.name.startswith('hang guard')]


def test_the_watch_ends_with_the_run_and_with_an_exception_in_it(make_runner):
    make_runner(TRAINING, [HangGuardHook(600)], validate=True).train()
    assert not watches()

    def fail():
        assert len(watches()) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_runner(TRAINING, [HangGuardHook(0.5), StandStill(fail)]).train()
    deadline = time.monotonic() + 10
    while watches() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not watches()


def test_no_timeout_is_no_watch(make_runner):
    make_runner(TRAINING, [HangGuardHook(None), HangGuardHook(0), StandStill(lambda: watches() and 1 / 0)]).train()


@pytest.mark.parametrize('timeout', [-1, 'soon', True, float('nan')])
def test_other_timeouts_are_refused(timeout):
    with pytest.raises(SetupError, match=f'timeout={timeout!r} of hybrid_mm.HangGuardHook is not allowed; give seconds'):
        HangGuardHook(timeout)
