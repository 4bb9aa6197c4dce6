"""SIGKILL at any moment: the training goes on with `--resume` and ends as if nothing had happened."""
import random
import signal

import pytest

from .conftest import same


def check_kill(training, undisturbed, whole, work_dir, **moment):
    expected, names = undisturbed
    killed = training.run(work_dir, check=False, **moment)
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-1000:] + killed.stderr[-2000:]
    before = whole(work_dir)
    training.run(work_dir, '--resume')
    assert same(training.end(work_dir), expected)
    assert whole(work_dir) == names  # the best one too, whose validation was repeated where it was cut off
    assert not list(work_dir.glob('*.partial'))
    return before


def test_a_training_that_was_killed_while_it_wrote_ends_as_one_that_was_not(classifier_training, whole, tmp_path):
    before = check_kill(*classifier_training, whole, tmp_path, KILL_WRITING='3')
    assert before == ['best_accuracy_top1_epoch_1.pth', 'epoch_1.pth']


@pytest.mark.exhaustive
@pytest.mark.parametrize('seed', range(20))
def test_twenty_moments(detector_training, whole, tmp_path, seed):
    draw = random.Random(seed)
    moment = [
        dict(KILL_AFTER=str(draw.randint(1, 8))),
        dict(KILL_IN_VALIDATION=str(draw.randint(1, 8))),
        dict(KILL_WRITING=str(draw.randint(1, 3))),
        dict(KILL_SECONDS=str(draw.uniform(0, 1.5)))][seed % 4]
    print(moment, check_kill(*detector_training, whole, tmp_path, **moment))


@pytest.mark.exhaustive
def test_a_training_that_is_killed_again_and_again(detector_training, whole, tmp_path):
    training, (expected, names) = detector_training
    draw = random.Random(0)
    for _ in range(6):
        training.run(tmp_path, '--resume', check=False, KILL_SECONDS=str(draw.uniform(0.5, 4)))
        whole(tmp_path)
    training.run(tmp_path, '--resume')
    assert same(training.end(tmp_path), expected) and whole(tmp_path) == names
