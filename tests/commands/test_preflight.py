import pickle

import pytest
import torch
from mmengine.config import Config

from hybrid_mm.commands import preflight
from hybrid_mm.commands.preflight import check_checkpoint, check_data, check_file, check_launcher
from hybrid_mm.errors import SetupError

LAUNCHED = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT='29500')


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize('name, value', [('LOCAL_RANK', '0'), ('WORLD_SIZE', '2')])
def test_a_launched_process_needs_the_option(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=f'{name}={value} is set, .*; add --launcher pytorch, or unset {name}'):
        check_launcher('none')


@pytest.mark.parametrize('launcher, variable', [('pytorch', 'MASTER_PORT'), ('slurm', 'SLURM_PROCID'),
                                                ('mpi', 'OMPI_COMM_WORLD_RANK')])
def test_the_option_needs_a_launched_process(launcher, variable):
    message = f'--launcher {launcher} needs the environment variables .*{variable}.* not set; start with'
    with pytest.raises(SetupError, match=message):
        check_launcher(launcher)


def test_option_and_launched_process_together_pass(monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    check_launcher('pytorch')
    monkeypatch.setenv('WORLD_SIZE', '1')
    monkeypatch.delenv('LOCAL_RANK')
    check_launcher('none')


@pytest.mark.parametrize('device, passes', [('cuda', True), ('cpu', False)])
def test_slurm_needs_gpus(monkeypatch, device, passes):
    for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'):
        monkeypatch.setenv(name, '0')
    monkeypatch.setattr(preflight, 'get_device', lambda: device)
    if passes:
        check_launcher('slurm')
    else:
        with pytest.raises(SetupError, match='--launcher slurm needs GPUs and there is none'):
            check_launcher('slurm')


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SetupError, match='^the config no.py does not exist'):
        check_file('no.py', 'the config')
    with pytest.raises(SetupError, match='does not exist'):
        check_file(str(tmp_path), 'the config')


def test_checkpoints_of_both_formats_and_at_urls_pass(tmp_path):
    for zipped in (True, False):
        path = str(tmp_path / f'{zipped}.pth')
        torch.save(dict(state_dict={}), path, _use_new_zipfile_serialization=zipped)
        check_checkpoint(path, 'checkpoint')
    check_checkpoint('https://example.org/a.pth', 'checkpoint')
    check_checkpoint(None, 'checkpoint')


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(weight=torch.rand(1000)), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SetupError, match='checkpoint .*a.pth is no checkpoint of PyTorch, or incomplete'):
        check_checkpoint(str(path), 'checkpoint')
    path.write_bytes(pickle.dumps([1], protocol=4))
    with pytest.raises(SetupError, match='is no checkpoint'):
        check_checkpoint(str(path), 'checkpoint')


# ---- Data ----

COCO = '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'coco.json').write_text(COCO)
    (tmp_path / 'bad.json').write_text('{"images": []}')
    return tmp_path


def config(scope='mmdet', wrap=lambda dataset: dataset, evaluator=None, **dataset):
    return Config(dict(
        default_scope=scope, train_dataloader=dict(dataset=wrap(dataset)), train_evaluator=evaluator))


def detection(folder, **changes):
    return config(**{**dict(type='CocoDataset', data_root=str(folder), ann_file='coco.json',
                            data_prefix=dict(img='train/'), metainfo=dict(classes=('cat', ))), **changes})


def test_data_that_are_there_pass(folder):
    check_data(detection(folder), ('train', 'val'))
    check_data(detection(folder, evaluator=dict(type='CocoMetric', ann_file=str(folder / 'coco.json'))), ('train', ))


@pytest.mark.parametrize('changes, message', [
    (dict(data_root='data/coco/'),
     'data/coco/, the train_dataloader.dataset.data_root of the config, does not exist; .*'
     '`--cfg-options train_dataloader.dataset.data_root=PATH`'),
    (dict(data_root='data/shapes/coco/'), 'make the data with `python tools/datasets/make_shapes.py`'),
    (dict(ann_file='no.json'), 'no.json, the train_dataloader.dataset.ann_file .*dataset.data_root=PATH'),
    (dict(data_root=None, ann_file='no.json'), 'no.json, .*--cfg-options train_dataloader.dataset.ann_file=PATH'),
    (dict(data_prefix=dict(img='val/')), 'val/, the train_dataloader.dataset.data_prefix.img'),
    (dict(evaluator=dict(type='CocoMetric', ann_file='no.json')), 'no.json, the train_evaluator.ann_file'),
    (dict(evaluator=[dict(type='CocoMetric', ann_file='no.json')]), 'no.json, the train_evaluator.ann_file'),
    (dict(ann_file='bad.json'), 'bad.json is not a COCO annotation file: it lacks annotations, categories'),
    (dict(metainfo=dict(classes=('cat', 'dog'))), 'coco.json has no category dog; its categories are cat'),
    (dict(metainfo=dict()), 'coco.json has no category person, bicycle, car, motorcycle, airplane and 74 more'),
    (dict(ann_file='no.json', wrap=lambda leaf: dict(type='RepeatDataset', times=2, dataset=leaf)),
     'the train_dataloader.dataset.dataset.ann_file .*train_dataloader.dataset.dataset.data_root=PATH'),
    (dict(ann_file='no.json', wrap=lambda leaf: dict(type='ConcatDataset', datasets=[leaf])),
     'the train_dataloader.dataset.datasets.0.ann_file'),
])
def test_missing_or_other_detection_data_are_named_with_the_remedy(folder, changes, message):
    with pytest.raises(SetupError, match=message):
        check_data(detection(folder, **changes), ('train', ))


@pytest.mark.parametrize('kind', ['CocoMetric', 'mmdet.CocoMetric'])
def test_evaluation_needs_annotations_and_testing_alone_does_not(folder, kind):
    path = folder / 'test-dev.json'
    path.write_text('{"images": [], "categories": [{"id": 1, "name": "cat"}]}')
    metric = dict(type=kind, ann_file=str(path))
    images = dict(ann_file='test-dev.json', test_mode=True)
    check_data(detection(folder, evaluator=dict(metric, format_only=True), **images), ('train', ))
    for look_through in (True, False):
        with pytest.raises(SetupError, match='test-dev.json is not a COCO annotation file: it lacks annotations'):
            check_data(detection(folder, evaluator=metric, **images), ('train', ), look_through)


@pytest.mark.parametrize('scope, dataset, message', [
    ('mmseg', dict(type='ADE20KDataset', data_root='no'), 'no, the train_dataloader.dataset.data_root'),
    ('mmseg', dict(type='BaseSegDataset', data_prefix=dict(img_path='no', seg_map_path='no')), 'data_prefix.img_path'),
    ('mmpretrain', dict(type='ImageNet', data_root='no', split='train'), 'no, the train_dataloader.dataset.data_root'),
    ('mmpretrain', dict(type='CustomDataset', data_prefix='no'), 'no, the train_dataloader.dataset.data_prefix'),
])
def test_missing_data_of_other_libraries_are_named(scope, dataset, message):
    with pytest.raises(SetupError, match=message):
        check_data(config(scope, **dataset), ('train', ))


@pytest.mark.parametrize('scope, dataset', [
    ('mmpretrain', dict(type='CIFAR10', data_root='no', split='train')),  # downloads itself
    ('mmdet', dict(type='CocoDataset', data_root='s3://no', ann_file='a.json')),
    ('mmdet', dict(type='CocoDataset', data_root='no', backend_args=dict(backend='petrel'))),
    ('mmdet', dict(type='NoSuchDataset', data_root='no')),  # the runner names it
])
def test_data_elsewhere_are_left_to_the_data_set(scope, dataset):
    check_data(config(scope, **dataset), ('train', ))
