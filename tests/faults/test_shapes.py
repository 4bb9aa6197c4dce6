"""Pictures, network and heads that do not meet are found before training, and told in one sentence."""
import copy
import re
from functools import partial

import pytest
import torch
from mmengine.config import Config

from hybrid_mm import commands
from hybrid_mm.engine import trial
from hybrid_mm.errors import SetupError
from hybrid_mm.networks import build_model

train, evaluate = (partial(commands.main, name) for name in ('train', 'test'))

BEFORE_TRAINING = [
    ('detector', ['model.backbone.in_channels=4'],
     r'^Error: model.backbone.stem.0 \(Conv2d\) expects 4 channels and gets 3; model.backbone \(TransCNN\) has in_channels=4, '
     r'and gets 1x3x192x192; set model.backbone.in_channels=3, or let the pipeline of the data deliver pictures of 4 channels '
     r'\(seen with pictures of the train data, 3x192x192\)$'),
    ('classifier', ['model.backbone.in_channels=1'], '^Error: model.backbone.stem.0 .* expects 1 channel and gets 3; '),
    ('detector', ['train_dataloader.dataset.pipeline.0.color_type=grayscale'],
     r'^Error: model.data_preprocessor \(DetDataPreprocessor\) has mean and std of 3 values and a swap of red and blue, .* and '
     'the pictures have 1 channel; give it what is for 1 channel, or '),
    ('detector', ['model.data_preprocessor.mean=[1,2,3,4]', 'model.data_preprocessor.std=[1,2,3,4]'],
     '^Error: DetDataPreprocessor of the config refuses its settings: `mean` should have 1 or 3 values'),
    ('segmentor', ['model.auxiliary_head.in_index=4'],
     r'^Error: model.auxiliary_head \(FCNHead\) has in_index=4, and gets 1x16x16x16, .*; choose its in_index from 0 to 3 '),
    ('segmentor', ['train_dataloader.batch_size=1'],
     r'^Error: with train_dataloader.batch_size=1 each batch has one picture, and then model.decode_head.psp_modules.0.1.bn '
     r"\(_BatchNormXd\) has one value a channel, 1x16x1x1, .*norm_cfg=dict\(type='GN', num_groups=1\) of model.decode_head$"),
]

# of the detector: what is wrong, and what the sentence says behind the name of the layer
PARTS = [
    (dict(neck=dict(in_channels=[16, 32, 32, 32])),
     r'^model.neck.lateral_convs.3.conv \(Conv2d\) expects 32 channels and gets 64; model.neck \(FPN\) has in_channels=\[16, 32, '
     r'32, 32\], and gets 1x16.*; set model.neck.in_channels=\[16, 32, 32, 64\] '),
    (dict(neck=dict(in_channels=[16, 32, 32])), r'^model.neck \(FPN\) has in_channels=\[16, 32, 32\], and gets .*32, 32, 64\]'),
    (dict(neck=dict(num_outs=4)),
     r'^model.rpn_head has strides \[4, 8, 16, 32, 64\] of its AnchorGenerator, and model.neck gives 4 maps; '),
    (dict(backbone=dict(out_indices=(1, 2, 3)), neck=dict(in_channels=[32, 32, 64])),
     r'^strides \[4, 8, .*\] of the AnchorGenerator of model.rpn_head are not those of the maps of model.neck, \[8, 16, 32, '),
    (dict(roi_head=dict(bbox_roi_extractor=dict(featmap_strides=[8, 16, 32, 64]))),
     r'^featmap_strides=\[8, 16, 32, 64\] of model.roi_head.bbox_roi_extractor are not those of the maps of model.neck, \[4, 8'),
    (dict(rpn_head=dict(in_channels=32)), r'^model.rpn_head.rpn_conv .* expects 32 .*; set model.rpn_head.in_channels=64 '),
    (dict(roi_head=dict(bbox_head=dict(in_channels=32))),
     r'^model.roi_head.bbox_head.shared_fcs.0 \(Linear\) expects 1568 .* gets 3136; .*; set model.roi_head.bbox_head.in_cha'),
    (dict(roi_head=dict(mask_head=dict(in_channels=32))), '^model.roi_head.mask_head.convs.0.conv .*; set model.roi_head.mask'),
    (dict(roi_head=dict(bbox_head=dict(roi_feat_size=14))),
     '^model.roi_head.bbox_head.shared_fcs.0 .* expects 12544 channels and gets 3136; make model.roi_head.bbox_head fit '),
]
SEGMENTOR = [
    (dict(decode_head=dict(in_channels=[16, 32, 32, 32])),
     r'^model.decode_head.psp_modules.0.1.conv .* expects 32 channels and gets 64; model.decode_head \(UPerHead\) has .*; '
     r'set model.decode_head.in_channels=\[16, 32, 32, 64\] '),
    (dict(decode_head=dict(in_index=[0, 1, 2, 4])), r'has in_index=\[0, 1, 2, 4\], and gets .*; choose its in_index from 0 to 3'),
    (dict(auxiliary_head=dict(in_channels=64)), '^model.auxiliary_head.convs.0.conv .*; set model.auxiliary_head.in_channels=3'),
]


@pytest.fixture
def fail(in_process):
    """The message that a tool ends with, in an empty folder."""

    def fail(tool, args):
        with pytest.raises(SystemExit) as raised:
            tool(args)
        assert '\n' not in raised.value.code and not list(in_process.rglob('*.pth'))
        return raised.value.code

    return fail


@pytest.mark.parametrize('name, options, message', BEFORE_TRAINING)
def test_what_does_not_meet_ends_a_training_before_it_begins(fail, tiny, name, options, message):
    assert re.search(message, fail(train, [tiny(name), '--cfg-options', *options]))


def test_a_last_batch_of_one_picture_is_found_before_training(fail, tiny):
    """Eight pictures in batches of seven; where the sampler never ends, there is no last one."""
    options = ['train_dataloader.batch_size=7', 'train_cfg.max_iters=2', 'train_dataloader.sampler.type=DefaultSampler']
    assert re.search('^Error: of 8 pictures in batches of 7 the last batch of an epoch has one, and then model.decode_head.psp',
                     fail(train, [tiny('segmentor'), '--cfg-options', *options]))


def test_pictures_of_other_channels_are_found_before_a_test(fail, tiny, in_process):
    path = in_process / 'weights.ckpt'
    torch.save(dict(state_dict=build_model(Config.fromfile(tiny('detector'))).state_dict(), meta={}), path)
    message = r'^Error: model.data_preprocessor .* and the pictures have 1 channel; .*\(seen with pictures of the test data'
    grey = 'test_dataloader.dataset.pipeline.0.color_type=grayscale'
    assert re.search(message, fail(evaluate, [tiny('detector'), str(path), '--cfg-options', grey]))


@pytest.fixture(scope='module')
def cfgs(shapes, tiny):
    """The configs of the small networks."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPES', str(shapes))
        patch.syspath_prepend(str(shapes.parent))
        for name in ('detector', 'segmentor'):
            found[name] = Config.fromfile(tiny(name), import_custom_modules=False)
    return found


def try_out(cfg, changes, size=(64, 64)):
    """The pass over a picture of noise, with changes to the model of a config."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(dict(model=changes))
    model = build_model(cfg, init='none')
    samples = None
    if cfg.default_scope == 'mmdet':
        from mmdet.structures import DetDataSample
        samples = [DetDataSample()]
    trial._try_out(model, trial._Batch(torch.rand(1, 3, *size), samples, 'noise'), [], None)


@pytest.mark.parametrize('name, changes, message', [
    *(('detector', *case) for case in PARTS), *(('segmentor', *case) for case in SEGMENTOR)])
def test_parts_of_a_network_that_do_not_meet_are_named(cfgs, name, changes, message):
    with pytest.raises(SetupError, match=message):
        try_out(cfgs[name], changes, size=(192, 160))


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
@pytest.mark.parametrize('size', [(32, 32), (192, 160), (333, 221)])
def test_networks_that_meet_pass(cfgs, name, size):
    try_out(cfgs[name], {}, size)
