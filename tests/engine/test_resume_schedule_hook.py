import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper

from hybrid_mm.engine import ResumeScheduleHook
from hybrid_mm.errors import SetupError

BY_EPOCH = dict(checkpoint=dict(type='CheckpointHook', interval=1))
BY_ITER = dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False))
SEVERAL_GROUPS = dict(
    optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1), paramwise_cfg=dict(bias_lr_mult=0.5, norm_decay_mult=0.))


class Record(Hook):
    """Hyperparameters of the groups in front of each step."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, **kwargs):
        self.seen.append([{key: value for key, value in group.items() if key in ('lr', 'momentum', 'betas', 'weight_decay')}
                          for group in runner.optim_wrapper.param_groups])


def optimizer(kind='AdamW', **options):
    return dict(optimizer=dict(type=kind, **dict(dict(lr=0.01), **options)))


def epochs(count):
    return dict(by_epoch=True, max_epochs=count, val_interval=1)


def iterations(count):
    return dict(by_epoch=False, max_iters=count, val_interval=1000)


@pytest.fixture
def train(make_runner, tmp_path, capsys):
    """Train, and return hyperparameters of each step and what the log says."""

    def train(train_cfg, folder='work', schedule='new', hooks=(), **options):
        record = Record()
        hook = ResumeScheduleHook(schedule)
        options.setdefault('default_hooks', BY_EPOCH if train_cfg['by_epoch'] else BY_ITER)
        runner = make_runner(train_cfg, [hook, record, *hooks], work_dir=str(tmp_path / folder), **copy.deepcopy(options))
        capsys.readouterr()
        runner.train()
        return record.seen, capsys.readouterr().out

    return train


WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10)


@pytest.mark.parametrize('old, new', [
    ([dict(type='CosineAnnealingLR')], [dict(type='CosineAnnealingLR')]),
    ([dict(type='MultiStepLR', milestones=[1])], [dict(type='MultiStepLR', milestones=[3])]),
    ([WARM_UP], [dict(WARM_UP, end=14)]),
    ([WARM_UP, dict(type='CosineAnnealingLR', convert_to_iter_based=True)],
     [WARM_UP, dict(type='CosineAnnealingLR', convert_to_iter_based=True)]),
    ([WARM_UP, dict(type='MultiStepLR', milestones=[1])], [dict(type='PolyLR', power=0.9)]),
    ([dict(type='StepLR', step_size=1)], [WARM_UP, dict(type='ExponentialLR', gamma=0.9)]),
    ([dict(type='OneCycleLR', eta_max=0.1, total_steps=8, by_epoch=False)],
     [dict(type='OneCycleLR', eta_max=0.1, total_steps=16, by_epoch=False)]),
    ([dict(type='CosineAnnealingMomentum')], [dict(type='CosineAnnealingMomentum', eta_min=0.5)]),
    ([dict(type='CosineRestartLR', periods=[1, 1], restart_weights=[1, 0.5], eta_min=0.)], []),
    ([], [dict(type='CosineAnnealingLR')]),
])
@pytest.mark.parametrize('wrapper', [SEVERAL_GROUPS, optimizer('SGD', momentum=0.9)])
def test_a_new_schedule_goes_on_as_if_it_had_been_there_from_the_start(train, old, new, wrapper):
    expected, _ = train(epochs(4), 'whole', param_scheduler=new, optim_wrapper=wrapper)
    train(epochs(2), param_scheduler=old, optim_wrapper=wrapper)
    seen, said = train(epochs(4), param_scheduler=new, optim_wrapper=wrapper, resume=True)
    assert seen == expected[8:]
    assert said.count('The config is not that of the checkpoint') == 1
    rate = f'{seen[0][-1]["lr"]:.6g}'
    assert f'At epoch 2, iteration 8 the schedule of the config is entered with the learning rate {rate}.' in said
    # and the next resumption, with the same config, finds nothing to say
    assert not train(epochs(4), param_scheduler=new, optim_wrapper=wrapper, resume=True)[0]


def test_what_has_changed_is_named(train):
    train(epochs(2), param_scheduler=[dict(type='MultiStepLR', milestones=[1])], optim_wrapper=optimizer(weight_decay=0.1))
    _, said = train(epochs(4), param_scheduler=[dict(type='MultiStepLR', milestones=[1, 3])], resume=True,
                    optim_wrapper=optimizer(lr=0.02, weight_decay=0.2, betas=(0.9, 0.99)))
    for text in ('optimizer.lr 0.01 -> 0.02', 'optimizer.weight_decay 0.1 -> 0.2', 'optimizer.betas (0.9, 0.999) -> (0.9, 0.99)',
                 'MultiStepLR.milestones [1] -> [1, 3]', 'MultiStepLR.end 2 -> 4'):
        assert text in said


def test_a_rate_that_is_scaled_with_the_batch_holds(train):
    train(epochs(1))
    seen, said = train(epochs(2), resume=True, auto_scale_lr=dict(enable=True, base_batch_size=1))  # of batches of two
    assert 'optimizer.lr 0.01 -> 0.02' in said and seen[0][0]['lr'] == 0.02


@pytest.mark.parametrize('train_cfg, scheduler', [
    (epochs(4), [WARM_UP, dict(type='CosineAnnealingLR', T_max=4)]), (iterations(9), [dict(type='PolyLR', by_epoch=False)]),
    (epochs(4), [dict(type='CosineAnnealingMomentum', T_max=4)]), (epochs(4), None)])
@pytest.mark.parametrize('wrapper', [
    SEVERAL_GROUPS, dict(SEVERAL_GROUPS, optimizer=dict(type='SGD', lr=0.1, momentum=0.5, weight_decay=0.1))])
def test_the_same_config_resumes_in_silence_and_keeps_what_was_restored(train, tmp_path, train_cfg, scheduler, wrapper):
    options = dict(param_scheduler=scheduler, optim_wrapper=wrapper)
    expected, _ = train(train_cfg, 'whole', **options)
    checkpoint = str(tmp_path / 'whole' / ('epoch_2.pth' if train_cfg['by_epoch'] else 'iter_8.pth'))
    seen, said = train(train_cfg, resume=True, load_from=checkpoint, **options)
    assert seen == expected[8:] and seen
    assert 'not that of the checkpoint' not in said


def test_the_old_schedule_is_kept_if_asked_for(train):
    scheduler = [dict(type='MultiStepLR', milestones=[1])]
    train(epochs(2), param_scheduler=scheduler)
    seen, said = train(epochs(4), schedule='old', param_scheduler=[dict(type='MultiStepLR', milestones=[3])], resume=True)
    assert all(group['lr'] == 0.001 for groups in seen for group in groups)
    assert "the schedule of the checkpoint goes on, by schedule='old', with the learning rate 0.001" in said
    with pytest.raises(SetupError, match='other schedulers than the checkpoint: 1 schedulers -> LinearLR, MultiStepLR'):
        train(epochs(8), schedule='old', param_scheduler=[WARM_UP, *scheduler], resume=True)


def test_an_iteration_based_training_enters_the_new_schedule(train):
    new = [dict(type='PolyLR', by_epoch=False, eta_min=0.)]
    expected, _ = train(iterations(12), 'whole', param_scheduler=new)
    train(iterations(6), param_scheduler=new)
    seen, said = train(iterations(12), param_scheduler=new, resume=True)
    assert seen == expected[6:]
    assert 'PolyLR.end 6 -> 12' in said and 'At iteration 6 the schedule' in said


def test_rates_that_metrics_have_brought_about_are_kept_in_proportion(train):
    class Worse(Hook):
        def before_train(self, runner):
            runner.val_evaluator.metrics[0].compute_metrics = lambda results: dict(score=0)

    def plateau(**options):
        return [dict(type='ReduceOnPlateauLR', monitor='score', rule='greater', patience=0, factor=0.1, **options)]

    train(epochs(3), param_scheduler=plateau(), validate=True, hooks=[Worse()])  # the second validation is not better
    seen, said = train(epochs(4), param_scheduler=plateau(), validate=True, hooks=[Worse()], resume=True,
                       optim_wrapper=optimizer(lr=0.05))
    assert seen[0][0]['lr'] == pytest.approx(0.01 * 0.1**1 * 5)
    assert 'What a scheduler has done by a metric is kept' in said
    assert 'ReduceOnPlateauLR.end 3 -> 4' in said


def test_iterations_go_by_the_epochs_where_the_length_of_an_epoch_has_changed(train, toy):
    scheduler = [WARM_UP, dict(type='CosineAnnealingLR', convert_to_iter_based=True)]
    train(epochs(2), param_scheduler=scheduler)  # of four iterations
    expected, _ = train(epochs(4), 'whole', param_scheduler=scheduler, dataset=toy.Dataset(length=12))
    counts = []

    class Count(Hook):
        def before_train_iter(self, runner, **kwargs):
            counts.append((runner.iter, runner.optim_wrapper._inner_count, runner.max_iters))

    seen, said = train(epochs(4), param_scheduler=scheduler, dataset=toy.Dataset(length=12), resume=True, hooks=[Count()])
    assert seen == expected[12:]
    assert counts == [(i, i, 24) for i in range(12, 24)]
    assert 'iterations in an epoch 4 -> 6, so that iteration 8 is now iteration 12' in said


def test_a_checkpoint_without_schedule_or_optimizer_enters_the_schedule_too(train):
    scheduler = [dict(type='MultiStepLR', milestones=[1], gamma=0.5)]
    bare = dict(checkpoint=dict(type='CheckpointHook', interval=1, save_optimizer=False, save_param_scheduler=False))
    train(epochs(2), param_scheduler=scheduler, default_hooks=bare)
    seen, said = train(epochs(4), param_scheduler=scheduler, resume=True)
    assert {group['lr'] for groups in seen for group in groups} == {0.005}
    assert 'The checkpoint has no state of the optimizer, which begins anew.' in said


def test_options_for_which_the_state_is_made_are_kept_with_a_word(train):
    train(epochs(1), optim_wrapper=optimizer(amsgrad=False))
    _, said = train(epochs(2), optim_wrapper=optimizer(amsgrad=True), resume=True)
    assert 'The optimizer keeps amsgrad=False of the checkpoint' in said


@pytest.mark.parametrize('options, message', [
    (dict(optim_wrapper=optimizer('SGD', momentum=0.9)), 'has no momentum, dampening, which SGD of the config needs'),
    (dict(optim_wrapper=SEVERAL_GROUPS),
     'has 4 parameters in one group, and that of the config 4 groups of 1, 1, 1, 1 parameters'),
    (dict(train_cfg=epochs(1)), 'train_cfg.max_epochs=1, and the checkpoint to resume from has 2 behind it; set')])
def test_what_cannot_be_resumed_is_said_in_one_sentence(train, options, message):
    train(epochs(2))
    with pytest.raises(SetupError, match=message):
        train(**dict(dict(train_cfg=epochs(4)), **options), resume=True)


def test_a_training_at_its_end_says_so(train):
    train(epochs(2))
    seen, said = train(epochs(2), resume=True)
    assert not seen and 'The training has reached its end, epoch 2, iteration 8; there is nothing to train' in said


def test_several_optimizers_each_have_their_schedule(make_runner, tmp_path, toy):
    class Two(toy.Model):
        def train_step(self, data, optim_wrapper):
            loss = self(**self.data_preprocessor(data, True), mode='loss')['loss']
            loss.backward()
            for wrapper in optim_wrapper.values():
                wrapper.step()
                wrapper.zero_grad()
            return dict(loss=loss)

    from mmengine.optim import OptimWrapperDict

    schedulers = dict(backbone=[dict(type='CosineAnnealingLR')], head=[dict(type='StepLR', step_size=3)])

    def run(count, folder, resume=False, **options):
        torch.manual_seed(0)
        model, record = Two(), []

        class See(Hook):
            def before_train_iter(self, runner, **kwargs):
                record.append([wrapper.param_groups[0]['lr'] for wrapper in runner.optim_wrapper.values()])

        wrappers = OptimWrapperDict(**{
            name: build_optim_wrapper(getattr(model, name), optimizer()) for name in ('backbone', 'head')})
        runner = make_runner(epochs(count), [ResumeScheduleHook(), See()], model=model, work_dir=str(tmp_path / folder),
                             optim_wrapper=wrappers, resume=resume, default_hooks=BY_EPOCH,
                             param_scheduler=schedulers)
        runner.train()
        return record

    expected = run(4, 'whole')
    run(2, 'work')
    assert run(4, 'work', resume=True) == expected[8:]


def test_an_unknown_option_is_refused():
    with pytest.raises(SetupError, match="schedule='newer' of .* is not allowed; choose from 'new', 'old'"):
        ResumeScheduleHook('newer')
