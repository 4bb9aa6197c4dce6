"""Which checkpoints a training leaves in its work folder: the last ones, and the best one by the metric of its task; and what
it leaves when one cannot be written."""
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine import Config
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook

import hybrid_mm
from hybrid_mm.checkpoints.contents import fault_in
from hybrid_mm.engine import CheckpointHook, SetupError
from hybrid_mm.engine.hooks import checkpoint as checkpoint_module

CONFIGS = {'coco/bbox_mAP': 'maskrcnn_transcnn_s.py', 'mIoU': 'upernet_transcnn_s.py', 'accuracy/top1': 'imagenet_transcnn_s.py'}
VALUES = [1, 5, 2, 4, 3, 2, 1]  # the second validation is the best


class Rising(BaseMetric):
    """Gives the values one after the other, behind another metric."""
    default_prefix = None

    def __init__(self, name):
        super().__init__()
        self.name, self.values = name, iter(VALUES)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'aAcc': 1., self.name: next(self.values)}


@pytest.fixture
def train(make_runner, tmp_path):
    """Train as a config says, but for the length; names of the checkpoints that are left."""

    def run(config, metric, length=7, **options):
        hook = dict(Config.fromfile(hybrid_mm.config_path(config)).default_hooks.checkpoint)
        train_cfg = (dict(by_epoch=True, max_epochs=length, val_interval=1) if hook.get('by_epoch', True) else
                     dict(by_epoch=False, max_iters=4 * length, val_interval=4))
        hook['interval'] = train_cfg['val_interval']
        hooks = dict(checkpoint=hook)
        make_runner(train_cfg, validate=True, default_hooks=hooks, val_evaluator=[Rising(metric)], **options).train()
        return {path.name for path in (tmp_path / 'work').glob('*.pth')}

    return run


@pytest.mark.parametrize('metric', CONFIGS)
def test_last_three_checkpoints_and_the_best_one_are_left(train, metric):
    last = {f'iter_{4 * i}.pth' for i in (5, 6, 7)} if metric == 'mIoU' else {f'epoch_{i}.pth' for i in (5, 6, 7)}
    best = f'best_{metric.replace("/", "_")}_{"iter_8" if metric == "mIoU" else "epoch_2"}.pth'

    assert train(CONFIGS[metric], metric) == {*last, best}


def test_an_interrupted_training_goes_on_from_the_last_one_and_removes_what_is_too_old(train, tmp_path):
    assert train('imagenet_transcnn_s.py', 'accuracy/top1', length=4) == {
        'epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth', 'best_accuracy_top1_epoch_2.pth'}
    assert (tmp_path / 'work' / 'last_checkpoint').read_text() == 'epoch_4.pth'
    left = train('imagenet_transcnn_s.py', 'accuracy/top1', length=6, resume=True)  # its validations give 1 and 5: no better

    assert left == {'epoch_4.pth', 'epoch_5.pth', 'epoch_6.pth', 'best_accuracy_top1_epoch_2.pth'}
    assert torch.load(tmp_path / 'work' / 'epoch_6.pth', weights_only=False)['meta']['epoch'] == 6


def test_an_evaluation_without_the_metric_of_the_config_is_told_and_goes_on(train, capsys):
    assert train('upernet_transcnn_s.py', 'mDice') == {f'iter_{4 * i}.pth' for i in (5, 6, 7)}
    assert 'save_best names mIoU, and the evaluation gives aAcc, mDice; choose from these' in capsys.readouterr().out


# ---- Written whole, or not at all ----

EPOCHS = dict(by_epoch=True, max_epochs=3)


class Call(Hook):
    """Calls a function with the runner before each epoch; epochs count from 1."""

    def __init__(self, **functions):
        self.functions = functions

    def before_train_epoch(self, runner):
        self.functions.get(f'before_{runner.epoch + 1}', lambda runner: None)(runner)


@pytest.fixture
def start(make_runner, tmp_path):
    """A runner of three epochs with our hook, and what it leaves in its folder."""

    def start(train_cfg=EPOCHS, hooks=(), **options):
        settings = dict(type='hybrid_mm.CheckpointHook', interval=1, by_epoch=train_cfg['by_epoch'])
        settings.update(options.pop('checkpoint', {}))
        return make_runner(train_cfg, hooks, default_hooks=dict(checkpoint=settings), **options)

    return start


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix not in ('.py', '.json', '.log'))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_others_are_removed_when_the_new_one_is_whole(start, tmp_path, monkeypatch, by_epoch):
    folder, seen = tmp_path / 'work', []
    put = LocalBackend.put

    def observed(self, obj, filepath):
        assert filepath.endswith('.partial') and not Path(filepath).exists()
        put(self, obj, filepath)
        seen.append([name for name in left(folder) if name.endswith('.pth')])

    monkeypatch.setattr(LocalBackend, 'put', observed)
    start(EPOCHS if by_epoch else dict(by_epoch=False, max_iters=3), checkpoint=dict(max_keep_ckpts=1)).train()
    first, second, third = (f'{"epoch" if by_epoch else "iter"}_{i}.pth' for i in (1, 2, 3))
    assert seen == [[], [first], [second]] and left(folder) == [third, 'last_checkpoint']


def test_best_checkpoint_is_replaced_by_a_whole_one(train, tmp_path, monkeypatch):
    put, seen = LocalBackend.put, []

    def observed(self, obj, filepath):
        seen.append((Path(filepath).name.partition('.pth')[0], len(list((tmp_path / 'work').glob('best_*.pth')))))
        put(self, obj, filepath)

    monkeypatch.setattr(LocalBackend, 'put', observed)
    train('imagenet_transcnn_s.py', 'accuracy/top1', length=2)
    assert seen == [('epoch_1', 0), ('best_accuracy_top1_epoch_1', 0), ('epoch_1', 1), ('epoch_2', 1),
                    ('best_accuracy_top1_epoch_2', 1), ('epoch_2', 2)]
    assert [path.name for path in (tmp_path / 'work').glob('best_*')] == ['best_accuracy_top1_epoch_2.pth']


def full_disk(runner):
    """The device on which there is no room, under the name that is written to."""
    os.symlink('/dev/full', Path(runner.work_dir, f'epoch_2.pth.{os.getpid()}.partial'))


def no_space(monkeypatch):
    monkeypatch.setattr(checkpoint_module.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=1 << 20))


@pytest.mark.parametrize('fault, message', [
    (lambda monkeypatch: full_disk, 'No space left on device'),
    (lambda monkeypatch: lambda runner: no_space(monkeypatch), r'\d+ MiB are needed and 1 MiB are free'),
])
def test_a_full_disk_ends_the_run_and_leaves_the_others(start, tmp_path, monkeypatch, fault, message):
    runner = start(hooks=[Call(before_2=fault(monkeypatch))], checkpoint=dict(max_keep_ckpts=1))
    with pytest.raises(SetupError, match=f'work/epoch_2.pth cannot be written: {message}; the checkpoints before it are there; '
                       'make room, and go on with --resume$'):
        runner.train()
    assert left(tmp_path / 'work') == ['epoch_1.pth', 'last_checkpoint']
    assert fault_in(str(tmp_path / 'work' / 'epoch_1.pth')) is None


def test_weights_that_are_not_finite_are_not_written(start, tmp_path):
    def poison(runner):
        runner.model.head.weight.data[0, 0] = float('nan')

    with pytest.raises(SetupError, match='no longer finite after 8 iterations: backbone.0.weight has NaN .* 3 more tensors; '
                       'epoch_2.pth is not written, the last good checkpoint is .*work/epoch_1.pth; lower the learning rate'):
        start(hooks=[Call(before_2=poison)], checkpoint=dict(max_keep_ckpts=1)).train()
    assert left(tmp_path / 'work') == ['epoch_1.pth', 'last_checkpoint']


def test_checkpoints_that_others_ask_for_are_whole_too(start, tmp_path, monkeypatch):
    runner, names, replace = start(), [], os.replace
    monkeypatch.setattr(os, 'replace', lambda source, target: names.append(Path(target).name) or replace(source, target))
    runner.register_hook(Call(before_2=lambda runner: runner.save_checkpoint(runner.work_dir, 'iter_4.pth', by_epoch=False)))
    runner.train()
    assert names == ['epoch_1.pth', 'last_checkpoint', 'iter_4.pth', 'epoch_2.pth', 'last_checkpoint', 'epoch_3.pth',
                     'last_checkpoint']


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(start, tmp_path, monkeypatch):
    done, flush, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda file: done.append(Path(os.readlink(f'/proc/self/fd/{file}')).name) or flush(file))
    monkeypatch.setattr(os, 'replace', lambda old, new: done.append(f'renamed to {Path(new).name}') or replace(old, new))
    start().train()
    name = done.index('renamed to epoch_1.pth')
    assert done[name - 1].startswith('epoch_1.pth.') and done[name - 1].endswith('.partial') and done[name + 1] == 'work'


def test_half_files_of_killed_runs_are_removed(start, tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'epoch_7.pth.123.partial').write_bytes(b'half')
    start().train()
    assert left(tmp_path / 'work') == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth', 'last_checkpoint']


def test_a_published_checkpoint_is_whole_too(start, tmp_path):
    start(checkpoint=dict(published_keys=['meta', 'state_dict'])).train()
    published, = (tmp_path / 'work').glob('epoch_3-*.pth')
    assert torch.load(published, weights_only=False).keys() == {'meta', 'state_dict'}
    assert len(left(tmp_path / 'work')) == 5 and not list((tmp_path / 'work').glob('published.*'))


# ---- Resumed ----

def test_the_newest_whole_one_is_resumed_and_the_others_are_named(start, tmp_path, capsys):
    start(dict(by_epoch=True, max_epochs=2)).train()
    folder = tmp_path / 'work'
    os.truncate(folder / 'epoch_2.pth', 1000)
    (folder / 'last_checkpoint').unlink()
    runner, epochs = start(resume=True), []
    runner.register_hook(Call(**{f'before_{i}': lambda runner: epochs.append(runner.epoch + 1) for i in (1, 2, 3)}))
    runner.train()
    printed = capsys.readouterr().out
    assert f'Passed over: {folder}/epoch_2.pth is no checkpoint of PyTorch, or incomplete.' in printed
    assert f'The training goes on from {folder}/epoch_1.pth.' in printed
    assert epochs == [2, 3]


def test_without_a_checkpoint_the_training_starts_and_says_so(start, tmp_path, capsys):
    runner = start(resume=True)
    runner.train()
    assert f'There is no checkpoint to go on from in {tmp_path}/work; the training starts from' in capsys.readouterr().out
    assert runner.iter == 12


def test_a_copied_folder_and_another_work_folder_leave_the_best_one_of_the_first(train, tmp_path):
    train('imagenet_transcnn_s.py', 'accuracy/top1', length=1)
    shutil.copytree(tmp_path / 'work', tmp_path / 'copy')
    before = {path: path.read_bytes() for path in (tmp_path / 'work').glob('*.pth')}
    options = dict(resume=True, work_dir=str(tmp_path / 'copy'))
    train('imagenet_transcnn_s.py', 'accuracy/top1', length=3, **options)
    assert {path: path.read_bytes() for path in (tmp_path / 'work').glob('*.pth')} == before
    assert [path.name for path in (tmp_path / 'copy').glob('best_*')] == ['best_accuracy_top1_epoch_3.pth']

    options = dict(resume=True, load_from=str(tmp_path / 'work' / 'epoch_1.pth'), work_dir=str(tmp_path / 'other'))
    train('imagenet_transcnn_s.py', 'accuracy/top1', length=3, **options)
    assert {path: path.read_bytes() for path in (tmp_path / 'work').glob('*.pth')} == before


def test_all_processes_take_the_checkpoint_of_the_first(start, tmp_path, monkeypatch):
    start(dict(by_epoch=True, max_epochs=2)).train()
    first = str(tmp_path / 'work' / 'epoch_1.pth')

    def from_the_first(data):
        data[:] = [True, first]

    monkeypatch.setattr(checkpoint_module, 'is_main_process', lambda: False)
    monkeypatch.setattr(checkpoint_module, 'broadcast_object_list', from_the_first)
    runner = start(resume=True)
    CheckpointHook().before_run(SimpleNamespace())  # a runner of another kind is left alone
    hook, = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook.before_run(runner)
    assert (runner._resume, runner._load_from) == (True, first)


@pytest.mark.parametrize('resume', [True, False])
def test_what_cannot_be_used_is_told_before_training(start, tmp_path, resume):
    start(dict(by_epoch=True, max_epochs=2)).train()
    path = tmp_path / 'work' / 'epoch_2.pth'
    os.truncate(path, 1000)
    advice = f'the newest whole checkpoint of its folder is {tmp_path}/work/epoch_1.pth' if resume else 'give another file'
    with pytest.raises(SetupError, match=f'^the checkpoint {path} is no checkpoint of PyTorch, or incomplete; {advice}$'):
        start(resume=resume, load_from=str(path)).train()
