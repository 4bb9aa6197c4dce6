"""What a name stands for, and what classes and functions take."""
import functools
import random

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook
from torch import nn

from hybrid_mm.backbones import GLiT, ParCResNet, TransCNN
from hybrid_mm.engine import CheckpointHook, WeightAverageHook
from hybrid_mm.errors import SetupError
from hybrid_mm.names import check_keys, config_keys, is_near, nearest, parameters
from hybrid_mm.plugins import HMHSAPlugin


@pytest.mark.parametrize('name, other', [
    ('drop_path_rat', 'drop_path_rate'), ('defualt_hooks', 'default_hooks'), ('modell', 'model'), ('modle', 'model'),
    ('Model', 'model'), ('out_indeces', 'out_indices'), ('_base', '_base_'), ('work_dri', 'work_dir'), ('resme', 'resume'),
])
def test_a_misspelt_name_is_near(name, other):
    assert is_near(name, other)


@pytest.mark.parametrize('name, other', [
    ('val_dataloader', 'test_dataloader'), ('train_cfg', 'test_cfg'), ('train_pipeline', 'tta_pipeline'), ('conv_cfg', 'env_cfg'),
    ('train_pipeline1', 'train_pipeline'), ('stage1', 'stage2'), ('_data_root', 'data_root'), ('data_root_07', 'data_root'),
    ('base_train_pipeline', 'train_pipeline'), ('pad_h', 'pad_w'), ('q_bias', 'v_bias'), ('rpn', 'rcnn'), ('model', 'model'),
    ('min_bbox_size', 'max_bbox_size'), ('encoder_cfg', 'decoder_cfg'), ('nms_pre', 'nms_post'), ('lr', 'lrs'),
])
def test_names_that_are_alike_are_two(name, other):
    assert not is_near(name, other) and not is_near(other, name)


def test_the_nearest_name():
    assert nearest('batchsize', ['batch_sampler', 'batch_size', 'sampler']) == 'batch_size'
    assert nearest('zzz', ['batch_size']) is None and nearest('a', []) is None


def test_keywords_are_followed_to_what_takes_them():
    names, is_open = parameters(TransCNN)
    assert {'head_dim', 'drop_path_rate', 'with_cp', 'init_cfg'} < names and not is_open and 'kwargs' not in names
    # what the constructor gives its base class itself is not the user's to give
    assert 'arch' not in parameters(ParCResNet)[0] and 'depth' in parameters(ParCResNet)[0] and 'arch' in parameters(GLiT)[0]
    # on to a layer
    assert {'grid_size', 'head_dim', 'pool_ratio'} < parameters(HMHSAPlugin)[0] and 'norm_layer' not in parameters(HMHSAPlugin)[0]
    # kept for later
    assert 'momentum' in parameters(WeightAverageHook)[0] == parameters(EMAHook)[0]
    assert {'save_best', 'save_optimizer'} < parameters(CheckpointHook)[0] and not parameters(CheckpointHook)[1]


def test_a_class_of_the_same_name_takes_what_its_base_class_takes():
    names = parameters(CheckpointHook)[0]

    class Kept(CheckpointHook):

        def __init__(self, *args, kept=1, **kwargs):
            super().__init__(*args, **kwargs)

    class Skips(Kept):

        def __init__(self, **kwargs):
            super(Kept, self).__init__(**kwargs)

    Kept.__init__.__qualname__ = 'CheckpointHook.__init__'
    assert parameters(Kept) == (names | {'kept'}, False) and parameters(Skips) == (names, False)


def test_keywords_that_go_elsewhere_leave_a_class_open():

    class Pops(TransCNN):

        def __init__(self, width=1, **kwargs):
            kwargs.pop('other', None)
            super().__init__(**kwargs)

    class Layer(nn.Module):

        def __init__(self, width, **kwargs):
            super().__init__()
            self.options = dict(kwargs)

    class Refuses(nn.Module):

        def __init__(self, width, **kwargs):
            super().__init__(**kwargs)

    assert parameters(Pops) == ({'width'}, True) and parameters(Layer) == ({'width'}, True)
    assert parameters(Refuses) == ({'width'}, False)
    assert parameters(functools.partial(print, end='')) == ({'sep', 'end', 'file', 'flush'}, False)
    assert parameters(type('Empty', (), {})) == (set(), False) and parameters(dict)[1]


SETTINGS = dict(model=dict(type='A'),
                train_dataloader=dict(batch_size=2, dataset=dict(data_root='data/', ann_file='data/a.json')),
                optim_wrapper=dict(optimizer=dict(type='SGD')), train_pipeline=[dict(type='Load')], data_root='data/')


@pytest.mark.parametrize('key, value, right', [
    ('train_dataloder', dict(batch_size=4), 'train_dataloader'),
    ('train_data_loader', dict(batch_size=4), 'train_dataloader'),
    ('defualt_hooks', dict(logger=None), 'default_hooks'),
    ('default_hook', dict(logger=None), 'default_hooks'),
    ('optim_wraper', dict(clip_grad=None), 'optim_wrapper'),
    ('param_schedulers', [dict(type='LinearLR')], 'param_scheduler'),
    ('custom_hook', [dict(type='EMAHook')], 'custom_hooks'),
    ('modle', dict(backbone=None), 'model'),
    ('load_form', 'a.pth', 'load_from'),
    ('work_dri', 'out', 'work_dir'),
    ('resum', True, 'resume'),
    ('val_evalutor', dict(type='CocoMetric'), 'val_evaluator'),
    ('auto_scale_Ir', dict(base_batch_size=16), 'auto_scale_lr'),
    ('train_pipline', [dict(type='Resize')], 'train_pipeline'),
    ('data_rot', 'elsewhere/', 'data_root'),
    ('_base', ['a.py'], '_base_'),
    ('randomnes', dict(seed=1), 'randomness'),
    ('find_unused_paramters', True, 'find_unused_parameters'),
])
def test_a_misspelt_key_of_a_config_is_named(key, value, right):
    with pytest.raises(SetupError, match=f'^{key} in a.py is a key that nothing reads; the nearest is {right}: '):
        check_keys(Config(dict(SETTINGS, **{key: value})), 'a.py')


@pytest.mark.parametrize('key, value', [
    ('my_names', ('a', 'b')), ('models', ['a.pth']), ('model_cfg', dict(a=1)), ('train_dataset', dict(type='B')),
    ('train_pipeline1', [dict(type='Flip')]), ('old_train_dataloader', dict(a=1)), ('data_root_07', 'data7/'),
    ('data_rot', 'data/'), ('optimizer', dict(type='SGD')), ('max_epochs', 3), ('test_pipeline', []),
    ('img_norm_cfg', dict(mean=1)),
    ('lr_config', dict(policy='step')), ('checkpoint_config', dict(interval=1)), ('conv_cfg', dict(type='DCN')),
    ('train_pipline', [dict(type='Resize')]), ('modell', 'a name'),
])
def test_a_variable_of_a_config_is_none(key, value):
    used = dict(test_dataloader=dict(dataset=dict(pipeline=[dict(type='Resize')])))
    check_keys(Config(dict(SETTINGS, **{key: value}, **used)))


def misspell(name, rng):
    """A letter dropped, doubled, or swapped with the next one."""
    i = rng.randrange(len(name) - 1)
    kind = rng.choice(['drop', 'double', 'swap'])
    if kind == 'drop':
        return name[:i] + name[i + 1:]
    return name[:i + 1] + name[i:] if kind == 'double' else name[:i] + name[i + 1] + name[i] + name[i + 2:]


def test_nearly_every_slip_in_a_known_key_is_found():
    rng, slips, missed = random.Random(0), 0, []
    for key in sorted(config_keys()):
        for _ in range(10):
            slip = misspell(key, rng)
            if slip.strip('_') == key.strip('_'):
                continue
            slips += 1
            try:
                check_keys(Config({**SETTINGS, slip: dict(a=1)}))
                missed.append(slip)
            except SetupError as error:
                assert slip == str(error).split(' in ')[0] and f'nearest is {key}:' in str(error)
    assert slips > 380 and len(missed) <= slips // 100, missed
