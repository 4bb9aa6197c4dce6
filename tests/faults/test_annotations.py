"""Faults of annotation files, injected: training stops before it begins, with file and ids, or warns, or mends."""
import json
import os
import re
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from hybrid_mm import commands
from hybrid_mm.data import coco_faults, preflight
from hybrid_mm.errors import SetupError

train = partial(commands.main, 'train')
FILE = 'coco/annotations/instances_{}2017.json'


def put(**values):
    return lambda content, annotation: annotation.update(values)


def drop(*keys):
    return lambda content, annotation: [annotation.pop(key) for key in keys]


def swap(content, annotation):
    image = content['images'][0]
    image.update(width=image['height'], height=image['width'])


# what is wrong with the first annotation or image of the file, and what the sentence says of it
STOPS = {
    'negative': (put(bbox=[9, 9, -3, 5]), '1 × box of negative width or height (image 1; annotation 100)'),
    'not a number': (put(bbox=[9, 9, float('nan'), 5]), '1 × box that is not four numbers (image 1; annotation 100)'),
    'unknown category': (put(category_id=99), '1 × category id that categories lacks (image 1; annotation 100)'),
    'image twice': (lambda content, annotation: content['images'].append(content['images'][0]), '1 × image id twice (image 1)'),
    'picture twice': (lambda content, annotation: content['images'].append(dict(content['images'][0], id=77)),
                      '1 × file name twice (image 77)'),
    'no such image': (put(image_id=99), '1 × annotation of an image that is not there (image 99; annotation 100)'),
    'swapped': (swap, '1 × width and height swapped (image 1)'),
    'segmentation []': (put(segmentation=[]), '1 × annotation without segmentation (image 1; annotation 100)'),
    'RLE of another size': (put(segmentation=dict(size=[64, 65], counts=[64 * 65])),
                            '1 × RLE of another size than its image (image 1; annotation 100)'),
    'no area': (drop('area'), '1 × annotation without area (image 1; annotation 100)'),
    'annotation id twice': (lambda content, annotation: content['annotations'][1].update(id=100),
                            '1 × annotation id twice (image '),
    # these are mild: one in a few annotations is more than one in a hundred
    'no width': (put(bbox=[9, 9, 0, 5]), '1 × box without width or height (image 1; annotation 100)'),
    'outside': (put(bbox=[900, 9, 5, 5]), '1 × box outside of the picture (image 1; annotation 100)'),
    'beyond': (put(bbox=[9, 9, 500, 5]), '1 × box beyond the picture (image 1; annotation 100)'),
    'two points': (put(segmentation=[[9, 9, 12, 12]]), '1 × polygon of fewer than three points (image 1; annotation 100)'),
}


@pytest.fixture
def data(monkeypatch, tmp_path, shapes, in_process):
    """A copy of the shapes, the first picture wider than high, and a folder to work in."""
    folder = tmp_path / 'shapes'
    shutil.copytree(shapes / 'coco', folder / 'coco')
    picture = folder / 'coco' / 'train2017' / '000000000001.jpg'
    cv2.imwrite(str(picture), np.pad(cv2.imread(str(picture)), ((0, 0), (0, 32), (0, 0))))
    edit(folder, 'train', lambda content, _: (content['images'][0].update(width=96), content['annotations'].__setitem__(
        slice(None), [dict(annotation, segmentation=box_mask(annotation['bbox'])) for annotation in content['annotations']])))
    monkeypatch.setenv('SHAPES', str(folder))
    (tmp_path / 'run').mkdir()
    monkeypatch.chdir(tmp_path / 'run')
    return folder


def box_mask(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def edit(folder, split, change):
    path = folder / FILE.format(split)
    content = json.loads(path.read_text())
    change(content, content['annotations'][0])
    path.write_text(json.dumps(content))


def fails(*args):
    with pytest.raises(SystemExit) as end:
        train([str(arg) for arg in args])
    assert '\n' not in end.value.code
    return end.value.code


def kept():
    return sorted(path.name for path in Path.cwd().rglob('*') if path.is_file())


@pytest.mark.parametrize('fault', STOPS)
def test_a_fault_stops_before_anything_is_built(data, tiny, fault):
    change, text = STOPS[fault]
    edit(data, 'train', change)
    message = fails(tiny('detector'))
    assert message.startswith(f'Error: {data / FILE.format("train")} has faults')
    assert text in message and 'python tools/datasets/check.py CONFIG' in message and "annotations='mend'" in message
    assert all(name.endswith('.verdict') for name in kept())
    assert fails(tiny('detector')) == message  # from the verdict


@pytest.mark.parametrize('missing', ['area', 'iscrowd'])
def test_what_evaluation_needs_is_asked_of_its_file(data, tiny, missing):
    edit(data, 'val', drop(missing))
    message = fails(tiny('detector'))
    assert 'instances_val2017.json' in message and f'1 × annotation without {missing}' in message


def test_training_alone_needs_no_iscrowd(data, tiny, logged):
    edit(data, 'train', drop('iscrowd'))
    files = preflight.annotation_files(Config.fromfile(tiny('detector')), ['train'])
    assert preflight.check_annotations(files, 'work') == {} and not logged


def test_boxes_alone_need_no_masks(data, tiny):
    def no_masks(content, _):
        for annotation in content['annotations']:
            annotation.pop('segmentation')

    edit(data, 'train', no_masks)
    edit(data, 'val', no_masks)
    assert 'annotation without segmentation' in fails(tiny('detector'))
    cfg = Config.fromfile(tiny('detector'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        for step in loader.dataset.pipeline:
            step.update(with_mask=False) if 'with_mask' in step else None
    cfg.val_evaluator.metric = 'bbox'
    assert preflight.check_annotations(preflight.annotation_files(cfg, ['train', 'val']), 'work') == {}


@pytest.fixture
def logged(monkeypatch):
    """Warnings of the check."""
    found = []
    monkeypatch.setattr(preflight, 'print_log', lambda text, **options: found.append(text))
    return found


def test_a_few_mild_faults_are_one_warning(data, tiny, logged):
    cfg = Config.fromfile(tiny('detector'))
    edit(data, 'train', lambda content, annotation: (annotation.update(bbox=[9, 9, 0, 5]),
                                                     content['annotations'][1].update(bbox=[-300, 9, 5, 5])))
    files = preflight.annotation_files(cfg, ['train', 'val'])
    assert preflight.check_annotations(files, 'work', max_share=0.5) == {}
    text, = logged
    assert '1 × box without width or height (image 1; annotation 100); 1 × box outside of the picture' in text
    with pytest.raises(SetupError, match='has faults, more than the share of 0.01 of its .* annotations that max_share of'):
        preflight.check_annotations(files, 'work')


def test_mending_trains_and_evaluates_with_copies_and_tells_each_kind(data, tiny, run_tool, tmp_path):
    def damage(content, annotation):
        second, third = content['annotations'][1:3]
        annotation.update(bbox=[9, 9, 0, 5])
        second.pop('area')
        third.update(segmentation=[])
        swap(content, annotation)

    edit(data, 'train', damage)
    edit(data, 'val', lambda content, annotation: (annotation.pop('iscrowd'),
                                                   annotation.update(id=content['annotations'][1]['id'])))
    result = run_tool('train.py', tiny('detector'), '--work-dir', tmp_path / 'work', '--cfg-options',
                      'custom_hooks.0.annotations=mend', 'train_cfg.max_epochs=1', cwd=tmp_path, SHAPES=str(data))
    for text in ('1 × width and height swapped (image 1), given the size of the picture', '1 × box without width or height',
                 '1 × annotation without area', '1 × annotation without segmentation', '1 × annotation without iscrowd',
                 '1 × annotation id twice'):
        assert text in result.stdout + result.stderr, text
    copies = {path.name.split('_')[1]: path for path in (tmp_path / 'work' / 'annotations').glob('*.json')
              if 'verdict' not in path.name}
    assert set(copies) == {'train2017', 'val2017'}
    image = json.loads(copies['train2017'].read_text())['images'][0]
    assert (image['width'], image['height']) == (96, 64)
    areas = [annotation['area'] for copy in copies.values() for annotation in json.loads(copy.read_text())['annotations']]
    assert min(areas) > 0
    name, width, height = next((annotation['id'], *annotation['bbox'][2:]) for annotation in json.loads(
        (data / FILE.format('train')).read_text())['annotations'] if 'area' not in annotation)
    area, = [annotation['area'] for annotation in json.loads(copies['train2017'].read_text())['annotations']
             if annotation['id'] == name]
    assert area == width * height
    before = {split: len(json.loads((data / FILE.format(split)).read_text())['annotations']) for split in ('train', 'val')}
    assert len(json.loads(copies['train2017'].read_text())['annotations']) == before['train'] - 2
    assert len(json.loads(copies['val2017'].read_text())['annotations']) == before['val']
    cfg = Config.fromfile(tmp_path / 'work' / 'detector.py')
    assert cfg.train_dataloader.dataset.ann_file == str(copies['train2017'].resolve())
    assert cfg.val_dataloader.dataset.ann_file == cfg.val_evaluator.ann_file == str(copies['val2017'].resolve())
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()


def test_a_user_of_the_stock_runner_is_told_by_the_hook(data, tiny):
    edit(data, 'train', put(bbox=[9, 9, -3, 5]))
    cfg = Config.fromfile(tiny('detector'))
    cfg.work_dir = 'work'
    cfg.custom_hooks[0].annotations = 'mend'
    with pytest.raises(SetupError, match="negative width or height .image 1; annotation 100.*; annotations='mend' needs "
                       'tools/train.py of hybrid_mm'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('options, message', [
    (['custom_hooks.0.annotations=repair'],
     "annotations='repair' of hybrid_mm.CheckSetupHook is not allowed; choose 'stop' or 'mend'"),
    (['custom_hooks.0.max_share=3'], 'max_share=3 of hybrid_mm.CheckSetupHook is not allowed; choose 0 to 1')])
def test_settings_that_do_not_exist_are_refused(data, tiny, options, message):
    assert fails(tiny('detector'), '--cfg-options', *options) == f'Error: {message}'


def test_a_file_that_is_no_json_stops(data, tiny):
    path = data / FILE.format('train')
    path.write_text(path.read_text().replace('"area":', '"area"', 1))
    assert re.search('instances_train2017.json is not a COCO annotation file: it is no JSON', fails(tiny('detector')))


def test_a_file_that_cannot_be_read_at_the_moment_is_read_again(data, tiny, monkeypatch):
    files = preflight.annotation_files(Config.fromfile(tiny('detector')), ['train'])

    def fail(*args, **options):
        raise OSError(5, 'Input/output error')

    with monkeypatch.context() as patch:
        patch.setattr(coco_faults, 'open', fail, raising=False)
        with pytest.raises(SetupError, match='instances_train2017.json cannot be read: Input/output error'):
            preflight.check_annotations(files, 'work')
    assert preflight.check_annotations(files, 'work') == {}


# ---- several processes ----


@pytest.fixture
def file(data, tiny):
    return preflight.annotation_files(Config.fromfile(tiny('detector')), ['train'])


def test_the_other_processes_of_a_machine_wait_for_the_first(file, monkeypatch, logged):
    read = []
    original = preflight.read_coco
    monkeypatch.setattr(preflight, 'read_coco', lambda *args: read.append(os.environ.get('LOCAL_RANK')) or original(*args))
    monkeypatch.setenv('LOCAL_RANK', '1')
    found = []
    other = threading.Thread(target=lambda: found.append(preflight.check_annotations(file, 'work')))
    other.start()
    time.sleep(0.3)
    assert not found and not read
    monkeypatch.setenv('LOCAL_RANK', '0')
    preflight.check_annotations(file, 'work')
    other.join(20)
    assert found == [{}] and read == ['0']


def test_a_process_does_not_wait_for_ever(file, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(SetupError, match='the first process of this machine has not looked through .* within 0 s, or process 1'):
        preflight.check_annotations(file, 'work', patience=0)


def test_a_file_that_changes_is_read_again(data, file, monkeypatch):
    preflight.check_annotations(file, 'work')
    original = preflight.read_coco
    monkeypatch.setattr(preflight, 'read_coco', lambda *args: pytest.fail('read again'))
    preflight.check_annotations(file, 'work')
    monkeypatch.setattr(preflight, 'read_coco', original)
    edit(data, 'train', put(bbox=[9, 9, -3, 5]))
    with pytest.raises(SetupError, match='negative'):
        preflight.check_annotations(file, 'work')
