"""Configs for photographs: one recipe for all backbones of a task, and they train on stand-ins of the data."""
import json
import shutil
from functools import lru_cache

import pytest
import torch
from configs.shipped import REAL, build, flatten, for_each, load, registered
from mmengine.registry import MODELS

from hybrid_mm.names import parameters

OURS = ['transcnn_s', 'hatnet_t', 'setformer_m', 'glit_t', 'parc_r50', 'parc_mbv2', 'parc_convnext_xt', 'parcnet_xs']
STOCK = {'r50': 'mmdet.ResNet', 'swin_t': 'mmdet.SwinTransformer', 'convnext_t': 'mmpretrain.ConvNeXt',
         'mbv2': 'mmpretrain.MobileNetV2'}
TASKS = [f'{task}{recipe}' for task in ('upernet_{}_camvid', 'maskrcnn_{}_dsb2018', 'fasterrcnn_{}_bccd')
         for recipe in ('.py', '_full.py')]
NETWORKS = [*OURS, *STOCK]
OF_BACKBONE = ('backbone', 'channels', 'pooled_channels', 'pixels', 'pretrained', 'pyramid', 'released')  # of their bases


def name_of(task, network):
    return task.format(network)


def backbone_of(name):
    """Options of a backbone, and all else that a config says."""
    cfg = load(name).to_dict()
    rest = {key: value for key, value in cfg.items() if key not in OF_BACKBONE}
    return rest['model'].pop('backbone'), rest


def test_every_network_has_every_task_short_and_full():
    assert sorted(REAL) == sorted(name_of(task, network) for task in TASKS for network in NETWORKS)


# ---- one recipe ----


@for_each(task=TASKS, network=NETWORKS)
def test_all_but_the_backbone_is_the_same_for_all_networks_of_a_task(task, network):
    cfg = load(name_of(task, network))
    (_, ours), (_, reference) = (backbone_of(name_of(task, other)) for other in (network, 'r50'))
    for rest, channels in ((ours, cfg.channels), (reference, load(name_of(task, 'r50')).channels)):
        model = rest['model']
        if cfg.default_scope == 'mmseg':
            assert model['decode_head'].pop('in_channels') == channels
            assert model['auxiliary_head'].pop('in_channels') == channels[2]
            assert model.pop('neck', None) == (cfg.pyramid if rest is ours and network == 'glit_t' else None)
        else:
            if rest is ours and network == 'glit_t':
                pyramid, model['neck'] = model['neck']
                assert pyramid == cfg.pyramid
            assert model['neck'].pop('in_channels') == channels
    assert flatten(ours) == flatten(reference)


@lru_cache(maxsize=None)
def takes(kind):
    """Names of what a backbone takes."""
    return parameters(registered(MODELS, 'mmengine', kind))[0]


@for_each(task=TASKS, network=NETWORKS)
def test_no_backbone_has_a_setting_of_its_own(task, network):
    cfg = load(name_of(task, network))
    given = dict(cfg.model.backbone)
    own = {key: value for key, value in cfg.backbone.items() if key != 'drop_path_rate'}
    if 'drop_path_rate' in takes(given['type']):
        assert given.pop('drop_path_rate') == cfg.drop_path_rate
    else:
        assert network in ('r50', 'mbv2')
    if network == 'glit_t' and cfg.default_scope == 'mmseg':  # as in all its segmentors
        assert given.pop('global_blocks') == 'all'
    assert given == own and not given.get('norm_eval')
    assert given['type'] == STOCK.get(network, given['type']) and (network in STOCK or given['type'].startswith('hybrid_mm.'))


@for_each(task=TASKS, network=NETWORKS)
def test_every_part_learns_from_random_weights(task, network):
    name = name_of(task, network)
    assert 'checkpoint' not in str(load(name).model) and 'pretrained' not in load(name).model.backbone
    model = build(name).train()
    still = [key for key, module in model.named_modules() if not module.training]
    assert not still
    frozen = [key for key, parameter in model.backbone.named_parameters() if not parameter.requires_grad]
    # what nothing reads: the norm of a residual that is none, and the stage behind the last output
    assert not frozen or network in ('transcnn_s', 'hatnet_t', 'parcnet_xs')


@for_each(network=NETWORKS)
@torch.no_grad()
def test_maps_have_the_strides_of_a_pyramid(network):
    model = build(name_of(TASKS[0], network)).eval()
    maps = model.extract_feat(torch.empty(1, 3, 64, 64, device='meta'))
    assert [tuple(found.shape[1:]) for found in maps] == [
        (channels, side, side) for channels, side in zip(load(name_of(TASKS[0], network)).channels, (16, 8, 4, 2))]


def test_mobilenet_with_and_without_parc_has_the_same_outputs():
    assert load('upernet_mbv2_camvid.py').channels == load('upernet_parc_mbv2_camvid.py').channels


@for_each(task=TASKS)
def test_trainings_count_iterations_and_keep_their_last_weights(task):
    cfg = load(name_of(task, 'r50'))
    assert cfg.train_cfg.type == 'IterBasedTrainLoop' and cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end
    assert cfg.default_hooks.checkpoint.by_epoch is cfg.log_processor.by_epoch is False
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.max_keep_ckpts >= 2 and (checkpoint.save_best is None) is (not task.endswith('_full.py'))
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'


# ---- they train ----

CLASSES = dict(dsb2018=('nucleus', ), bccd=('RBC', 'WBC', 'Platelets'))
FEWER = ['train_dataloader.batch_size=2', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.logger.interval=1',
         'default_hooks.checkpoint.save_optimizer=False']
SMALLER = dict(
    camvid=['model.data_preprocessor.size=(64,64)', 'train_dataloader.dataset.pipeline.3.crop_size=(64,64)'],
    dsb2018=['train_dataloader.dataset.pipeline.3.scale=(64,64)', 'model.train_cfg.rcnn.sampler.num=8',
             'model.test_cfg.rpn.max_per_img=20'],
    bccd=['train_dataloader.dataset.pipeline.2.scale=(64,64)', 'val_dataloader.dataset.pipeline.1.scale=(64,64)',
          'test_dataloader.dataset.pipeline.1.scale=(64,64)', 'model.test_cfg.rpn.max_per_img=20'])


@pytest.fixture(scope='module')
def data(shapes, tmp_path_factory):
    """Stand-ins of the three data sets, laid out as they are: the pictures of shapes, with other classes."""
    folder = tmp_path_factory.mktemp('real')
    ade, parts = shapes / 'ade' / 'ADEChallengeData2016', dict(train='training', val='validation', test='validation')
    for split, part in parts.items():
        for kind in ('images', 'annotations'):
            shutil.copytree(ade / kind / part, folder / 'camvid' / kind / split)
    for name, classes in CLASSES.items():
        (folder / name / 'annotations').mkdir(parents=True)
        for split in ('train', 'val', 'test'):
            part = 'train2017' if split == 'train' else 'val2017'
            shutil.copytree(shapes / 'coco' / part, folder / name / split)
            content = json.loads((shapes / 'coco' / 'annotations' / f'instances_{part}.json').read_text())
            content['categories'] = [dict(id=i, name=text) for i, text in enumerate(classes)]
            for annotation in content['annotations']:
                annotation['category_id'] %= len(classes)
            (folder / name / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize('network, task, metric', [
    ('hatnet_t', 'upernet_{}_camvid', 'mIoU'), ('swin_t', 'upernet_{}_camvid', 'mIoU'),
    ('parcnet_xs', 'maskrcnn_{}_dsb2018', 'coco/segm_mAP'), ('convnext_t', 'maskrcnn_{}_dsb2018', 'coco/segm_mAP'),
    ('glit_t', 'fasterrcnn_{}_bccd', 'coco/bbox_mAP'), ('mbv2', 'fasterrcnn_{}_bccd', 'coco/bbox_mAP'),
    ('r50', 'fasterrcnn_{}_bccd', 'coco/bbox_mAP'),
])
def test_it_trains_and_is_evaluated_on_data_that_one_option_gives(network, task, metric, data, root, run_tool, tmp_path):
    config, part = root / 'configs' / 'real' / f'{task.format(network)}.py', task.rpartition('_')[2]
    options = ['--data-root', data / part, '--cfg-options', *FEWER, *SMALLER[part]]
    trained = run_tool('train.py', config, '--work-dir', tmp_path / 'train', *options, cwd=tmp_path)
    scalars = [json.loads(line) for line in next(tmp_path.glob('train/*/vis_data/scalars.json')).read_text().splitlines()]
    assert all(entry['loss'] > 0 for entry in scalars[:2]) and metric in scalars[-1], trained.stdout
    if network == 'glit_t':
        run_tool('test.py', config, tmp_path / 'train' / 'iter_2.pth', '--work-dir', tmp_path / 'test', *options, cwd=tmp_path)
        assert metric in json.loads(next(tmp_path.glob('test/*/*.json')).read_text())
