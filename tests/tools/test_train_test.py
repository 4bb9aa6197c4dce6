"""`tools/train.py` and `tools/test.py` as a user runs them: train, evaluate, continue, on one process and on two."""
import json
import pickle
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hybrid_mm.compat import allow_training_checkpoints

allow_training_checkpoints()


def weights(checkpoint):
    return torch.load(checkpoint, map_location='cpu')['state_dict']


def metrics(work_dir):
    """What `tools/test.py` wrote down."""
    return json.loads(next(Path(work_dir).glob('*/*.json')).read_text())


def losses(work_dir):
    return [float(line) for line in (work_dir / 'losses.txt').read_text().split()]


@pytest.fixture(scope='session')
def detector(run_tool, tiny, tmp_path_factory):
    """Work folder of a detector trained for two epochs of two iterations."""
    work_dir = tmp_path_factory.mktemp('detector')
    run_tool('train.py', tiny('detector'), '--work-dir', work_dir)
    return work_dir


@pytest.fixture(scope='session')
def segmentor(run_tool, tiny, tmp_path_factory):
    """Work folder of a segmentor trained for six iterations."""
    work_dir = tmp_path_factory.mktemp('segmentor')
    run_tool('train.py', tiny('segmentor'), '--work-dir', work_dir)
    return work_dir


@pytest.fixture(scope='session')
def classifier(run_tool, tiny, tmp_path_factory):
    """Work folder of a classifier trained for five iterations, and what the tool printed."""
    work_dir = tmp_path_factory.mktemp('classifier')
    return work_dir, run_tool('train.py', tiny('classifier'), '--work-dir', work_dir).stdout


def test_a_trained_detector_is_evaluated_with_predictions_and_pictures(run_tool, tiny, detector, tmp_path):
    out, work_dir = tmp_path / 'predictions.pkl', tmp_path / 'work'
    run_tool('test.py', tiny('detector'), detector / 'epoch_2.pth', '--work-dir', work_dir, '--out', out,
             '--show-dir', 'found', '--show-at-most', '3')

    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= metrics(work_dir).keys()
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 4
    assert {'bboxes', 'scores', 'labels', 'masks'} <= predictions[0]['pred_instances'].keys()
    assert len(list(work_dir.rglob('found/*.jpg'))) == 2  # of 4: every second one


def test_boxes_of_a_detector_are_evaluated_with_flips(run_tool, tiny, detector, tmp_path):
    run_tool('test.py', tiny('detector'), detector / 'epoch_2.pth', '--work-dir', tmp_path, '--tta',
             '--cfg-options', 'model.roi_head.mask_head=None', 'test_evaluator.metric=bbox')
    assert 'coco/bbox_mAP' in metrics(tmp_path) and 'coco/segm_mAP' not in metrics(tmp_path)


def test_a_trained_segmentor_is_evaluated_with_flips_label_maps_and_pictures(run_tool, tiny, segmentor, tmp_path):
    out, pictures, work_dir = tmp_path / 'maps', tmp_path / 'pictures', tmp_path / 'work'
    run_tool('test.py', tiny('segmentor'), segmentor / 'iter_6.pth', '--work-dir', work_dir, '--out', out,
             '--show-dir', pictures, '--show-at-most', '2', '--tta')

    assert 'mIoU' in metrics(work_dir)
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in out.glob('*.png')]
    assert [labels.shape for labels in maps] == [(64, 64)] * 4
    assert set(np.unique(maps)) <= set(range(1, 8))  # as in the annotations, 0 is unlabelled
    assert len(list(pictures.rglob('*.png'))) == 2  # of 4


def test_a_trained_classifier_is_evaluated_with_predictions_and_pictures(run_tool, tiny, classifier, tmp_path):
    out, pictures, work_dir = tmp_path / 'predictions.pkl', tmp_path / 'pictures', tmp_path / 'work'
    run_tool('test.py', tiny('classifier'), classifier[0] / 'epoch_1.pth', '--work-dir', work_dir, '--out', out,
             '--show-dir', pictures)

    predictions = pickle.loads(out.read_bytes())
    right = [int(p['pred_label']) == int(p['gt_label']) for p in predictions]
    assert len(right) == 20
    assert metrics(work_dir)['accuracy/top1'] == pytest.approx(100 * np.mean(right))
    assert len(list(pictures.glob('*.png'))) == 10  # the folders' pictures share their names


@pytest.mark.parametrize('kind', ['detector', 'segmentor', 'classifier'])
def test_amp_trains_in_bfloat16_on_a_cpu(run_tool, tiny, kind, tmp_path):
    printed = run_tool('train.py', tiny(kind), '--amp', '--work-dir', tmp_path).stdout
    assert "type='hybrid_mm.AutocastOptimWrapper'" in printed and 'in mixed precision' not in printed
    values = [value for value in weights(next(tmp_path.glob('*_*.pth'))).values() if value.is_floating_point()]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in values)


def test_mixed_precision_of_a_config_becomes_float32_without_a_gpu(classifier):
    assert classifier[1].count('Without a GPU this trains in float32, not in mixed precision; --amp trains in bfloat16.') == 1


def test_two_processes_train_as_one_with_the_same_total_batch(run_tool, tiny, classifier, tmp_path):
    run_tool('dist_train.sh', tiny('classifier'), 2, '--work-dir', tmp_path,
             '--cfg-options', 'train_dataloader.batch_size=2', 'model.backbone.with_cp=True')

    assert len(losses(tmp_path)) == 5
    assert losses(tmp_path) == pytest.approx(losses(classifier[0]), abs=1e-4)
    of_one, of_two = weights(classifier[0] / 'epoch_1.pth'), weights(tmp_path / 'epoch_1.pth')
    for name, weight in of_one.items():
        torch.testing.assert_close(of_two[name], weight, rtol=1e-4, atol=1e-5, msg=name)


def test_two_processes_train_compiled_as_one_without(run_tool, tiny, classifier, tmp_path):
    run_tool('dist_train.sh', tiny('classifier'), 2, '--work-dir', tmp_path, '--compile', '--cfg-options',
             'train_dataloader.batch_size=2', 'default_hooks.compile.backend=aot_eager', 'default_hooks.compile.rounds=1')
    assert losses(tmp_path) == pytest.approx(losses(classifier[0]), abs=1e-4)
    assert weights(tmp_path / 'epoch_1.pth').keys() == weights(classifier[0] / 'epoch_1.pth').keys()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'The backbone is compiled after a few steps' in log and 'torch.compile fails' not in log


def test_two_processes_evaluate_as_one(run_tool, tiny, classifier, tmp_path):
    run_tool('dist_test.sh', tiny('classifier'), classifier[0] / 'epoch_1.pth', 2, '--work-dir', tmp_path, cwd=tmp_path)
    # the training ended with a validation, in one process and on the same data
    log = next(classifier[0].glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert metrics(tmp_path)['accuracy/top1'] == json.loads(log[-1])['accuracy/top1']


@pytest.mark.parametrize('name, kill_after, last, final', [
    ('detector', 3, 'epoch_1.pth', 'epoch_2.pth'),
    ('segmentor', 5, 'iter_4.pth', 'iter_6.pth'),
])
def test_a_killed_training_resumes_to_the_same_weights(
        request, run_tool, tiny, tmp_path, name, kill_after, last, final):
    uninterrupted = request.getfixturevalue(name) / final
    command = ('train.py', tiny(name), '--work-dir', tmp_path)
    killed = run_tool(*command, check=False, KILL_AFTER=str(kill_after))
    assert killed.returncode == -signal.SIGKILL
    assert Path((tmp_path / 'last_checkpoint').read_text()).name == last
    run_tool(*command, '--resume')

    resumed = torch.load(tmp_path / final)
    expected = torch.load(uninterrupted)
    for key, weight in expected['state_dict'].items():
        assert torch.equal(resumed['state_dict'][key], weight), key
    for i, state in expected['optimizer']['state'].items():
        assert all(torch.equal(resumed['optimizer']['state'][i][key], value) for key, value in state.items())
    assert resumed['optimizer']['param_groups'] == expected['optimizer']['param_groups']


def test_a_compiled_backbone_trains_as_without(run_tool, tiny, segmentor, tmp_path):
    hook = ['--compile', '--cfg-options', 'default_hooks.compile.backend=eager', 'default_hooks.compile.rounds=1',
            'default_hooks.compile.max_ratio=1e9']
    printed = run_tool('train.py', tiny('segmentor'), '--work-dir', tmp_path, *hook).stdout
    assert 'The backbone is compiled after a few steps' in printed and 'torch.compile fails' not in printed
    assert losses(tmp_path) == pytest.approx(losses(segmentor), abs=1e-4)
    of_plain, compiled = weights(segmentor / 'iter_6.pth'), weights(tmp_path / 'iter_6.pth')
    assert of_plain.keys() == compiled.keys()


PROJECT = '''
_base_ = [__import__('hybrid_mm').config_path('maskrcnn_transcnn_b.py')]

classes = ('triangle', 'striped square')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs')
]
data_root = '{shapes}/coco/'
channels = [16, 32, 32, 64]
model = dict(
    backbone=dict(
        init_cfg=None,
        head_dim=16,
        arch=dict(
            _delete_=True, channels=channels, depths=[1] * 4, expansions=[2] * 4, kernel_sizes=[3] * 4,
            grid_sizes=[8, 8, 8, 1], pool_ratios=[8, 4, 2, 1], grid_lists=[[2, 2]] * 4)),
    neck=dict(in_channels=channels),
    roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2)))
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=dict(classes=classes), pipeline=train_pipeline))
val_dataloader = val_evaluator = val_cfg = test_dataloader = test_evaluator = test_cfg = None
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1)
'''


@pytest.mark.parametrize('tool', ['ours', 'stock'])
def test_a_project_of_its_own_inherits_a_config_and_trains(run_tool, root, shapes, tmp_path, tool):
    """The stock tool of MMDetection finds our package on the path, and a torchvision that imports, as users have it."""
    trained = weights(of_project(run_tool, root, shapes, tmp_path, tool)[0])
    assert trained['backbone.stem.0.weight'].shape == (16, 3, 3, 3)
    assert trained['roi_head.bbox_head.fc_cls.weight'].shape[0] == 2 + 1  # and the background


PLAIN = '''
compile = dict(backend='eager')
channels = [16, 32, 64, 128]
model['backbone'] = dict(_delete_=True, type='mmdet.ResNet', depth=18, base_channels=16)
model['neck']['in_channels'] = channels
'''


def test_compile_of_a_config_is_of_the_backbone_alone(run_tool, root, shapes, tmp_path):
    """mmengine would compile the whole step, which ends a detector's training."""
    _, printed = of_project(run_tool, root, shapes, tmp_path, 'stock', PLAIN)
    assert 'compile of the config is for the backbone alone here' in printed and 'Model has been "compiled"' not in printed
    assert 'torch.compile fails on the backbone' not in printed


def of_project(run_tool, root, shapes, tmp_path, tool, more=''):
    """Checkpoint of a training in the project, and what it printed."""
    (tmp_path / 'squares.py').write_text(PROJECT.format(shapes=shapes) + more)
    if tool == 'ours':
        printed = run_tool('train.py', 'squares.py', cwd=tmp_path).stdout
    else:
        import mmdet
        (tmp_path / 'sitecustomize.py').write_text(
            'from hybrid_mm.compat import mend_torchvision\nmend_torchvision()\n')
        printed = run_tool(Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py', 'squares.py', cwd=tmp_path, fresh=True,
                           PYTHONPATH=f'{root}:{tmp_path}').stdout
    return tmp_path / 'work_dirs' / 'squares' / 'epoch_1.pth', printed
