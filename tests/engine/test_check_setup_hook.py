import json
import random

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.dataset import ConcatDataset
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import DefaultScope
from torch import nn

from hybrid_mm.engine import CheckSetupHook, SetupError
from hybrid_mm.engine.trial import check_shapes

EPOCH = dict(by_epoch=True, max_epochs=1)


def train(make_runner, *hooks, **options):
    runner = make_runner(EPOCH, [CheckSetupHook(), *hooks], **options)
    runner.train()
    return runner


def test_a_setup_that_fits_trains(make_runner):
    assert train(make_runner, validate=True).iter == 4


def test_empty_data_set_is_refused(make_runner, toy):
    with pytest.raises(SetupError, match='^val_dataloader.dataset is empty'):
        train(make_runner, validate=True, val_dataset=toy.Dataset(length=0))


@pytest.mark.parametrize('num_classes', [2, 4])
def test_num_classes_that_disagrees_with_the_data_is_refused(make_runner, toy, num_classes):
    message = f'num_classes={num_classes} of model.head disagrees with the train data, which have 3 classes: a, b, c;'
    with pytest.raises(SetupError, match=message):
        train(make_runner, model=toy.Model(num_classes))


def test_classes_of_validation_have_to_be_those_of_training(make_runner, toy):
    with pytest.raises(SetupError, match='the val data, a, c, b, are not those of the training data, a, b, c'):
        train(make_runner, validate=True, val_dataset=toy.Dataset(classes=('a', 'c', 'b')))


def test_a_string_in_the_place_of_classes_is_refused(make_runner, toy):
    with pytest.raises(SetupError, match=r"metainfo.classes='cat' .* write the tuple \('cat', \)"):
        train(make_runner, dataset=toy.Dataset(classes='cat'))


@pytest.mark.parametrize('scope, part, num_classes', [
    ('mmdet', 'roi_head.bbox_head.2', 7),
    ('mmdet', 'roi_head.mask_head', 7),
    ('mmdet', 'bbox_head', 7),
    ('mmseg', 'decode_head', 7),
    ('mmseg', 'auxiliary_head.0', 7),
    ('mmpretrain', 'data_preprocessor', 7),
])
def test_heads_of_all_libraries_are_found_by_name(make_runner, toy, scope, part, num_classes):
    model = toy.Model()
    parent = model
    for name in part.split('.'):
        parent.add_module(name, nn.Module())
        parent = getattr(parent, name)
    parent.num_classes = num_classes
    with pytest.raises(SetupError, match=f'num_classes=7 of model.{part} disagrees'):
        train(make_runner, model=model)


def test_region_proposals_have_a_class_of_their_own(make_runner, toy):
    model = toy.Model()
    model.rpn_head = nn.Module()
    model.rpn_head.num_classes = 1
    assert train(make_runner, model=model).iter == 4


@pytest.fixture
def coco(tmp_path):
    """A COCO data set with one picture, in a wrapper."""
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps(dict(
        images=[dict(id=1, file_name='1.jpg', height=8, width=8)],
        annotations=[dict(id=1, image_id=1, category_id=5, bbox=[0, 0, 4, 4], area=16, iscrowd=0)],
        categories=[dict(id=5, name='a'), dict(id=2, name='b'), dict(id=9, name='c')])))

    def make(*classes):
        with DefaultScope.overwrite_default_scope('mmdet'):
            dataset = CocoDataset(ann_file=str(path), metainfo=dict(classes=classes), data_prefix=dict(img=''))
        return ConcatDataset([dataset])

    return make


@pytest.mark.parametrize('classes, message', [
    (('a', 'b', 'dog'), 'instances.json has no category dog; its categories are a, b, c'),
    (('a', 'c', 'b'), "is not in the order of the categories of .*instances.json; write .'a', 'b', 'c'"),
])
def test_classes_that_the_coco_file_has_otherwise_are_refused_inside_of_a_wrapper(make_runner, coco, classes, message):
    with pytest.raises(SetupError, match=message):
        train(make_runner, dataset=coco(*classes))


ONE_BATCH = dict(num_batch_per_epoch=1)


def test_classes_of_a_loader_that_takes_a_part_of_its_data_are_compared(make_runner, coco):
    with pytest.raises(SetupError, match='instances.json has no category dog'):
        train(make_runner, dataset=coco('a', 'b', 'dog').datasets[0], loading=ONE_BATCH)


# ---- Shapes ----

class Pictures(torch.utils.data.Dataset):
    """Noise, which numpy and torch draw; the first ``unreadable`` cannot be read."""

    def __init__(self, channels=3, side=8, unreadable=0, length=8):
        self.channels, self.side, self.unreadable, self.length = channels, side, unreadable, length
        self.metainfo = dict(classes=('a', 'b'))

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index < self.unreadable:
            raise OSError('unreadable')
        return dict(inputs=torch.rand(self.channels, self.side, self.side) + np.random.rand() + random.random())


class Network(BaseModel):

    def __init__(self, channels=3, pooled=False, **preprocessing):
        super().__init__(data_preprocessor=dict(type='ImgDataPreprocessor', **preprocessing))
        pool = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
        self.backbone = nn.Sequential(nn.Conv2d(channels, 4, 3), pool, nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Conv2d(4, 2, 1)
        self.modes = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.modes.append(mode)
        out = self.head(self.backbone(inputs))
        return dict(loss=out.square().mean()) if mode == 'loss' else [out]


def test_a_training_with_the_trial_is_the_same_bit_for_bit(make_runner):
    trained = []
    for hooks in ([], [CheckSetupHook()]):
        torch.manual_seed(0)
        runner = make_runner(EPOCH, hooks, model=Network(), dataset=Pictures())
        runner.train()
        trained.append(runner.model)
    assert trained[0].modes == ['loss'] * 4 and trained[1].modes == ['tensor', *trained[0].modes]
    for name, weight in trained[0].state_dict().items():
        assert torch.equal(weight, trained[1].state_dict()[name]), name


def test_flags_of_training_stay_and_hooks_are_gone(make_runner):
    model = Network()
    model.backbone[2].eval()
    flags = [module.training for module in model.modules()]
    runner = make_runner(EPOCH, model=model, dataset=Pictures())
    runner.train_loop  # noqa: B018  builds the loader
    check_shapes(runner, model)
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize('unreadable', [0, 2])
def test_pictures_of_other_channels_are_refused_where_one_can_be_read(make_runner, unreadable):
    message = r'^model.backbone.0 \(Conv2d\) expects 4 channels and gets 3; .* \(seen with pictures of the train data, 3x8x8\)$'
    with pytest.raises(SetupError, match=message):
        train(make_runner, model=Network(4), dataset=Pictures(unreadable=unreadable))


def test_pictures_of_a_loader_that_takes_a_part_of_its_data_are_tried(make_runner):
    assert train(make_runner, model=Network(), dataset=Pictures(), loading=ONE_BATCH).iter == 1
    with pytest.raises(SetupError, match='expects 4 channels and gets 3; .* .seen with pictures of the train data, 3x8x8.$'):
        train(make_runner, model=Network(4), dataset=Pictures(), loading=ONE_BATCH)


def test_pictures_of_the_validation_are_tried_if_they_have_other_channels(make_runner):
    with pytest.raises(SetupError, match=r'expects 3 channels and gets 1; .* \(seen with pictures of the val data, 1x8x8\)$'):
        train(make_runner, validate=True, model=Network(), dataset=Pictures(), val_dataset=Pictures(1))
    model = Network()
    train(make_runner, validate=True, model=model, dataset=Pictures(), val_dataset=Pictures(), val_cfg=None, val_dataloader=None,
          val_evaluator=None)
    assert model.modes.count('tensor') == 1


def test_a_mean_for_other_channels_and_channels_that_get_lost_are_named(make_runner):
    with pytest.raises(SetupError, match='^model.data_preprocessor .* has mean and std of 3 values, and the pictures have 4'):
        train(make_runner, model=Network(mean=[0.] * 3, std=[1.] * 3), dataset=Pictures(4))
    with pytest.raises(SetupError, match='expects 4 .* gets 3; .*4x8x8, of which model.data_preprocessor makes 3 channels'):
        train(make_runner, model=Network(4, bgr_to_rgb=True), dataset=Pictures(4))


@pytest.mark.parametrize('size, reason', [
    (1, 'with train_dataloader.batch_size=1 each batch has one picture'),
    (7, 'of 8 pictures in batches of 7 the last batch of an epoch has one'),
    (3, None),
])
def test_a_batch_of_one_picture_is_foreseen(make_runner, size, reason):
    loader = dict(dataset=Pictures(), batch_size=size, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True))

    def run(pooled, **changes):
        runner = make_runner(EPOCH, [CheckSetupHook()], model=Network(pooled=pooled))
        runner._train_dataloader = dict(loader, **changes)
        runner.train()

    run(pooled=False)
    if reason is None:
        run(pooled=True)
        return
    with pytest.raises(SetupError, match=f'^{reason}, and then model.backbone.2 .* has one value a channel, 1x4x1x1, '):
        run(pooled=True)
    if size > 1:
        run(pooled=True, drop_last=True)
    with pytest.raises(SetupError, match='^the train data have 8 pictures, less than one batch of '):
        run(pooled=False, batch_size=9, drop_last=True)


# ---- Checkpoints ----

@pytest.fixture
def checkpoint(toy, tmp_path):
    """Save the toy model's weights after a change to them."""

    def save(change=lambda weights: None):
        weights = toy.Model().state_dict()
        change(weights)
        path = str(tmp_path / 'checkpoint.pth')
        torch.save(dict(state_dict=weights, meta=dict(epoch=0, iter=0), message_hub=dict(
            log_scalars={}, runtime_info={}, resumed_keys={})), path)
        return path

    return save


def drop(key):
    return lambda weights: weights.pop(key)


def put(key, *shape):
    return lambda weights: weights.update({key: torch.zeros(shape)})


def under_module(weights):
    for key in list(weights):
        weights[f'module.{key}'] = weights.pop(key)


FAULTS = [
    (drop('backbone.0.weight'), r'the file lacks backbone.0.weight; give'),
    (put('backbone.0.weight', 5, 2), r'the file has the shapes backbone.0.weight \(5, 2\) instead of \(4, 2\); give'),
]


@pytest.mark.parametrize('change, message', [
    *FAULTS,
    (drop('head.bias'), 'the file lacks head.bias; give'),
    (put('neck.weight', 1), 'the model has no neck.weight; give'),
])
def test_resuming_needs_every_tensor(make_runner, checkpoint, change, message):
    with pytest.raises(SetupError, match=f'checkpoint.pth is of another network: {message}'):
        train(make_runner, load_from=checkpoint(change), resume=True)


@pytest.mark.parametrize('change, message', FAULTS)
def test_fine_tuning_needs_the_tensors_of_the_backbone(make_runner, checkpoint, change, message):
    with pytest.raises(SetupError, match=message):
        train(make_runner, load_from=checkpoint(change))


@pytest.mark.parametrize('change', [drop('head.bias'), put('head.weight', 80, 4), put('neck.weight', 1), under_module])
def test_fine_tuning_may_start_with_other_heads(make_runner, checkpoint, change):
    assert train(make_runner, load_from=checkpoint(change)).iter == 4


def test_weights_under_an_unknown_key_are_refused(make_runner, toy, tmp_path):
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(dict(model=toy.Model().state_dict()), path)
    with pytest.raises(SetupError, match='the file lacks backbone.0.weight, backbone.0.bias; give'):
        train(make_runner, load_from=path)


class TTAModel(BaseTTAModel):

    def merge_preds(self, data_samples_list):
        return data_samples_list


@pytest.mark.parametrize('wrapped', [False, True])
def test_testing_needs_every_tensor_also_with_augmentation(make_runner, toy, checkpoint, wrapped):

    def load(change=lambda weights: None):
        model = TTAModel(module=toy.Model()) if wrapped else toy.Model()
        make_runner(EPOCH, [CheckSetupHook()], model=model).load_checkpoint(checkpoint(change))

    load()
    with pytest.raises(SetupError, match='the file lacks head.bias; give'):
        load(drop('head.bias'))
    with pytest.raises(SetupError, match='the model has no head.scale; give'):
        load(put('head.scale', 1))
    load(put('auxiliary_head.weight', 1))  # a model that is tested without it


def test_averaged_weights_are_checked_and_resumed(make_runner, tmp_path):
    saving = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    train(make_runner, EMAHook(), default_hooks=saving)
    longer = dict(by_epoch=True, max_epochs=2)
    runner = make_runner(longer, [CheckSetupHook(), EMAHook()], default_hooks=saving, resume=True)
    runner.train()
    assert runner.iter == 8
