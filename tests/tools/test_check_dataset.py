"""`tools/datasets/check.py` as a user runs it: faults are listed with file and ids, advice names the line, copies are clean."""
import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from hybrid_mm import commands

main = partial(commands.main, 'check')
COCO = 'coco/annotations/instances_{}2017.json'


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path, shapes, pictures, in_process):
    """Copies of the data, to be damaged, in an empty folder to work in."""
    shutil.copytree(shapes, tmp_path / 'shapes')
    shutil.copytree(pictures, tmp_path / 'pictures')
    monkeypatch.setenv('SHAPES', str(tmp_path / 'shapes'))
    monkeypatch.setenv('PICTURES', str(tmp_path / 'pictures'))
    return tmp_path / 'shapes'


def check(*args):
    """Exit status and report."""
    status = 0
    try:
        main([*map(str, args), '--json', 'report.json', '--workers', '0'])
    except SystemExit as end:
        status = end.code
    return status, json.loads(Path('report.json').read_text())


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def found(report, *severities):
    return {(fault['kind'], fault['image_id'], fault['annotation_id']) for fault in report['faults']
            if fault['severity'] in (severities or ('fault', 'mild'))}


def message(report, kind):
    fault, = [fault for fault in report['faults'] if fault['kind'] == kind]
    return f'{Path(fault["file"]).name}: {fault["message"]}'


@pytest.mark.parametrize('config, counts', [('detector', '8 pictures, '), ('segmentor', '8 pictures, 8 label maps'),
                                            ('classifier', '20 pictures')])
def test_whole_data_have_no_faults(tiny, capsys, config, counts):
    status, report = check(tiny(config))
    out = capsys.readouterr().out
    assert status == 0 and not found(report) and '0 faults, ' in out and counts in out
    assert [part['splits'] for part in report['data']] == (
        [['train', 'val', 'test']] if config == 'classifier' else [['train'], ['val', 'test']])
    assert not report['not_looked_at'] and all(part['pictures_read'] for part in report['data'])


def test_pictures_of_all_kinds_of_faults_are_listed_in_parallel(tiny, data, capsys):
    folder = data / 'coco' / 'train2017'
    zero, cut, missing, turned, *_ = sorted(folder.iterdir())
    zero.write_bytes(b'')
    cut.write_bytes(cut.read_bytes()[:400])
    missing.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(turned).save(turned, exif=exif)
    with pytest.raises(SystemExit) as end:
        main([tiny('detector'), '--json', 'report.json', '--workers', '2'])
    report = json.loads(Path('report.json').read_text())
    assert end.value.code == 1
    assert {(fault['image_id'], Path(fault['file']).name, fault['message']) for fault in report['faults']
            if fault['severity'] == 'fault'} == {
        (1, zero.name, 'is empty'), (2, cut.name, 'is truncated'), (3, missing.name, 'does not exist')}
    assert 'has orientation 6; OpenCV turns it, and whether' in message(report, 'picture with an EXIF orientation')
    out = capsys.readouterr().out
    assert 'fault: picture that cannot be read: 3' in out and f'{zero}: image 1: is empty' in out


@pytest.mark.parametrize('size, orientation, text', [
    ((64, 64), 6, 'cannot be told'), ((40, 64), 6, 'for the picture as it is stored'), ((64, 40), 6, 'for the turned picture'),
    ((40, 64), 3, 'cannot be told')])
def test_sizes_of_the_file_tell_whether_boxes_are_for_the_turned_picture(tiny, data, size, orientation, text):
    path = sorted((data / 'coco' / 'train2017').iterdir())[0]
    stored = (64, 64) if size == (64, 64) else (40, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((*stored[::-1], 3), np.uint8)).save(path, exif=exif)
    edit(data / COCO.format('train'), lambda content: (
        content['images'][0].update(width=size[0], height=size[1]), content.update(
            annotations=[annotation for annotation in content['annotations'] if annotation['image_id'] != 1])))
    status, report = check(tiny('detector'), '--split', 'train')
    assert status == 0 and text in message(report, 'picture with an EXIF orientation')


def test_a_swapped_size_is_named_and_mended(tiny, data):
    path = sorted((data / 'coco' / 'train2017').iterdir())[0]
    cv2.imwrite(str(path), np.zeros((64, 90, 3), np.uint8))
    edit(data / COCO.format('train'), lambda content: content['images'][0].update(width=64, height=90))
    status, report = check(tiny('detector'), '--split', 'train', '--fix', 'fixed.json')
    assert ('width and height swapped', 1, None) in found(report)
    assert '90x64 pixels (width x height), the file says width=64, height=90' in message(report, 'width and height swapped')
    image = json.loads(Path('fixed.json').read_text())['images'][0]
    assert (image['width'], image['height']) == (90, 64)


def test_fix_writes_a_clean_copy_and_tells_each_change(tiny, data, capsys):
    file = data / COCO.format('val')

    def damage(content):
        first, second, third, *_ = content['annotations']
        first.update(bbox=[5, 5, 0, 9])
        del second['area'], second['iscrowd']
        third['category_id'] = 77

    edit(file, damage)
    before = file.read_bytes()
    ids = [(annotation['image_id'], annotation['id']) for annotation in json.loads(before)['annotations']]
    status, report = check(tiny('detector'), '--split', 'val', '--fix', 'fixed.json')
    assert status == 0  # of the copy
    assert found(report) == {('box without width or height', *ids[0]), ('annotation without area', *ids[1]),
                             ('annotation without iscrowd', *ids[1]), ('category id that categories lacks', *ids[2])}
    assert file.read_bytes() == before
    fixed = json.loads(Path('fixed.json').read_text())
    assert [annotation['id'] for annotation in fixed['annotations']] == [name for _, name in ids[1:] if name != ids[2][1]]
    assert fixed['annotations'][0]['iscrowd'] == 0 and fixed['annotations'][0]['area'] > 0
    out = capsys.readouterr().out
    assert f'annotation {ids[0][1]}: bbox=[5, 5, 0, 9]; left out' in out
    assert f'annotation {ids[1][1]}: annotations[1] has no area; given the area of its mask or box' in out
    assert f'val_dataloader.dataset.ann_file={Path("fixed.json").resolve()}' in out
    options = [f'val_dataloader.dataset.ann_file={Path("fixed.json").resolve()}']
    assert check(tiny('detector'), '--split', 'val', '--cfg-options', *options)[0] == 0


@pytest.mark.parametrize('args, text', [
    (['--fix', 'fixed.json'], '--fix writes a copy of one annotation file; say which by --split train, val or test'),
    (['--split', 'val', '--fix', '{file}'], '--fix {file} exists; give another file'),
    (['--split', 'val', '--fix', 'fixed.txt'], '--fix fixed.txt is not allowed; give a file that ends in .json'),
    (['--workers', '-1'], '--workers -1 is not allowed; choose 0 or more'),
    (['--cfg-options', 'val_dataloader=None', 'val_evaluator=None', 'val_cfg=None', '--split', 'val'],
     'the config has no val_dataloader; choose another --split'),
])
def test_options_that_cannot_work_are_refused(tiny, data, args, text):
    file = data / COCO.format('val')
    with pytest.raises(SystemExit, match='^Error: ') as end:
        main([tiny('detector'), *[arg.format(file=file) for arg in args]])
    assert text.format(file=file) in end.value.code


def test_fix_of_label_maps_is_refused(tiny):
    with pytest.raises(SystemExit, match='^Error: --fix needs one COCO file in the val data, and there are 0$'):
        main([tiny('segmentor'), '--split', 'val', '--fix', 'fixed.json', '--no-pictures'])


# ---- Semantic segmentation ----

ADE = 'ade/ADEChallengeData2016/annotations/training'


def test_label_maps_of_all_kinds_of_faults_are_listed(tiny, data):
    above, other, missing, colour, cut, *_ = sorted((data / ADE).iterdir())
    labels = cv2.imread(str(above), cv2.IMREAD_UNCHANGED)
    labels[:2] = 8
    cv2.imwrite(str(above), labels)
    cv2.imwrite(str(other), labels[:-4].clip(0, 5))
    missing.unlink()
    cv2.imwrite(str(colour), np.zeros((64, 64, 3), np.uint8))
    cut.write_bytes(cut.read_bytes()[:60])
    status, report = check(tiny('segmentor'), '--split', 'train')
    texts = {Path(fault['file']).name: fault['message'] for fault in report['faults'] if fault['severity'] == 'fault'}
    assert status == 1
    assert 'holds 8, in 128 pixels; allowed with 5 classes' in texts[above.name]
    assert 'has 64x60 (width x height) pixels, and its picture has 64x64' in texts[other.name]
    assert texts[missing.name] == 'does not exist'
    assert 'has 3 channels' in texts[colour.name]
    assert texts[cut.name] == 'is truncated'
    assert len(texts) == 5
    assert ', 8; 5 classes are 1 to 5: ' in message(report, 'values above num_classes')
    assert ('write num_classes=8 into the heads of the model and 8 names into train_dataloader.dataset.metainfo.classes' in
            message(report, 'values above num_classes'))


@pytest.mark.parametrize('size, text', [((40, 64), 'as it is stored'), ((64, 40), 'the turned picture')])
def test_a_label_map_may_be_for_the_turned_picture_or_for_the_stored_one(tiny, data, size, text):
    labels = sorted((data / ADE).iterdir())[0]
    picture = data / ADE.replace('annotations', 'images') / f'{labels.stem}.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.unlink()  # another name of the file in COCO's layout
    Image.fromarray(np.zeros((64, 40, 3), np.uint8)).save(picture, exif=exif)
    cv2.imwrite(str(labels), np.ones(size[::-1], np.uint8))
    status, report = check(tiny('segmentor'), '--split', 'train')
    assert status == 0 and text in message(report, 'picture with an EXIF orientation')


def rewrite(data, change):
    for path in (data / ADE).iterdir():
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


@pytest.mark.parametrize('change, options, kind, text', [
    (lambda labels: labels.clip(1) - 1, [], 'reduce_zero_label and the label maps',
     'if 0 is a class, write train_dataloader.dataset.reduce_zero_label=False'),
    (lambda labels: labels.clip(1), ['reduce_zero_label=False'], 'reduce_zero_label and the label maps',
     '5 is above the last class, 4, and 0 has no pixel: write train_dataloader.dataset.reduce_zero_label=True'),
    (lambda labels: np.where(labels > 1, 255, 0), ['reduce_zero_label=False'], 'value for no class',
     '255 is no class in training; if it marks objects, save them as 1'),
    (lambda labels: labels * 51, [], 'values above num_classes', 'save the values above as 255, for none'),
])
def test_a_setting_that_does_not_fit_the_label_maps_is_named(tiny, data, change, options, kind, text):
    rewrite(data, change)
    _, report = check(tiny('segmentor'), '--split', 'train', '--cfg-options',
                      *[f'train_dataloader.dataset.{option}' for option in options], 'work_dir=work')
    assert text in message(report, kind)


def test_a_head_that_ignores_another_value_is_named(tiny, data):
    rewrite(data, lambda labels: np.where(labels == 0, 255, labels))
    _, report = check(tiny('segmentor'), '--split', 'train', '--cfg-options', 'model.decode_head.ignore_index=0')
    assert 'write model.decode_head.ignore_index=255' in message(report, 'value for no class')


def test_a_class_that_no_label_map_shows_is_named(tiny, data):
    before = without_example(tiny('segmentor'))
    rewrite(data, lambda labels: np.where(labels == 2, 1, labels))
    assert without_example(tiny('segmentor')) - before == {names(tiny('segmentor'))[1]}


def test_pictures_with_label_maps_that_are_in_training_and_in_validation_are_found(tiny, data):
    train, val = (sorted((data / ADE.replace('annotations/training', f'images/{split}')).iterdir())
                  for split in ('training', 'validation'))
    val[0].unlink()  # another name of the file in COCO's layout
    shutil.copy(train[0], val[0])
    status, report = check(tiny('segmentor'))
    assert status == 0
    assert message(report, 'picture in train and in val or test').startswith(f'{val[0].name}: is the same picture as {train[0]}')


# ---- Classification ----

def test_lists_of_a_classifier_are_read_line_by_line(tiny):
    Path('list.txt').write_text('bright/0.png 0\nbright/1.png\nbright/2.png 5\n')
    options = ['--cfg-options', f'train_dataloader.dataset.ann_file={Path("list.txt").resolve()}',
               "train_dataloader.dataset.metainfo.classes=('bright','dark')"]
    status, report = check(tiny('classifier'), '--split', 'train', *options)
    assert status == 1 and "line 2 is 'bright/1.png'" in message(report, 'label outside of the classes')
    Path('list.txt').write_text('bright/0.png 0\nbright/2.png 5\n')
    status, report = check(tiny('classifier'), '--split', 'train', *options)
    assert status == 1
    assert '2.png has class 5; allowed with 2 classes are 0 to 1' in message(report, 'label outside of the classes')
    Path('list.txt').write_text('bright/0.png 0\nbright/none.png 0\n')
    status, report = check(tiny('classifier'), '--split', 'train', *options)
    assert status == 1 and message(report, 'picture that cannot be read') == 'none.png: does not exist'
    assert '1 of 2 classes have no example in train: dark' in message(report, 'class without an example')


def test_folders_without_pictures_are_a_fault(tiny, tmp_path):
    for path in (tmp_path / 'pictures').rglob('*.png'):
        path.unlink()
    status, report = check(tiny('classifier'), '--split', 'train')
    assert status == 1 and 'Found 0 files' in message(report, 'data set that cannot be built')


# ---- Several data sets ----

def test_pictures_of_training_that_are_in_validation_are_found_by_content_and_by_name(tiny, data):
    train, val = (sorted((data / 'coco' / f'{split}2017').iterdir()) for split in ('train', 'val'))
    shutil.copy(train[0], val[0])
    shutil.copy(train[1], train[2])
    status, report = check(tiny('detector'))
    assert status == 0
    assert f'{val[0].name}: is the same picture as {train[0]}' in message(report, 'picture in train and in val or test')
    assert message(report, 'the same picture under two names') == f'{train[2].name}: is the same picture as {train[1]}'

    shutil.copy(train[3], val[1].with_name(train[3].name))
    edit(data / COCO.format('val'), lambda content: content['images'][1].update(file_name=train[3].name))
    status, report = check(tiny('detector'), '--no-pictures')
    assert message(report, 'file name in train and in val or test').startswith(f'{train[3].name}: has the name of {train[3]}')


def names(config):
    return Config.fromfile(config).train_dataloader.dataset.metainfo.classes


def without_example(config):
    status, report = check(config, '--split', 'train')
    told = [fault['message'] for fault in report['faults'] if fault['kind'] == 'class without an example']
    missing = {name for text in told for name in text.rpartition(' have no example in train: ')[2].split(', ')}
    assert status == 0 and all(text.startswith(f'{len(missing)} of {len(names(config))} classes have') for text in told)
    return missing


def test_a_class_without_a_box_is_named(tiny, data):
    before = without_example(tiny('detector'))
    edit(data / COCO.format('train'), lambda content: content.update(
        annotations=[annotation for annotation in content['annotations'] if annotation['category_id'] != 1]))
    assert without_example(tiny('detector')) - before == {names(tiny('detector'))[0]}


def test_data_sets_inside_of_wrappers_are_read(tiny, data):
    Path('config.py').write_text(f'''
_base_ = [{tiny('detector')!r}]
train = _base_.train_dataloader.dataset
more = dict(train, ann_file='annotations/instances_val2017.json', data_prefix=dict(img='val2017/'))
train_dataloader = dict(dataset=dict(
    _delete_=True, type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[train, more])))
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
''')
    edit(data / COCO.format('val'), lambda content: content['annotations'][0].update(bbox=[1, 1, -4, 5]))
    status, report = check('config.py')
    assert status == 1 and [part['pictures'] for part in report['data']] == [8, 4]
    assert [kind for kind, *_ in found(report)] == ['box of negative width or height']


def test_a_file_of_two_splits_is_looked_at_for_what_each_of_them_needs(tiny, data):
    edit(data / COCO.format('val'), lambda content: content['annotations'][0].update(segmentation=[]))
    Path('config.py').write_text(f'''
_base_ = [{tiny('detector')!r}]
val_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]))
test_dataloader = val_dataloader
val_evaluator = dict(metric='bbox')
test_evaluator = dict(metric='segm')
''')
    assert not found(check('config.py', '--split', 'val', '--no-pictures')[1])
    for split in ('test', 'all'):
        status, report = check('config.py', '--split', split, '--no-pictures')
        assert status == 1 and [kind for kind, *_ in found(report)] == ['annotation without segmentation']


def test_boxes_below_the_stride_are_counted_after_the_resize(tiny, data):
    def shrink(content):
        for annotation in content['annotations'][:2]:
            annotation.update(bbox=[1, 1, 2, 2], segmentation=[[1, 1, 3, 1, 3, 3]], area=2)

    edit(data / COCO.format('train'), shrink)
    _, report = check(tiny('detector'), '--split', 'train', '--no-pictures', '--cfg-options',
                      'train_dataloader.dataset.pipeline.2.scale=(64,64)')
    total = len(json.loads((data / COCO.format('train')).read_text())['annotations'])
    assert f'2 of {total} boxes' in message(report, 'boxes below a stride')


def test_the_tool_prints_the_report(run_tool, tiny, data, tmp_path):
    edit(data / COCO.format('train'), lambda content: content['annotations'][0].update(segmentation=[]))
    result = run_tool('datasets/check.py', tiny('detector'), '--no-pictures', check=False, cwd=tmp_path, SHAPES=str(data))
    assert result.returncode == 1
    assert 'fault: annotation without segmentation: 1' in result.stdout and '1 fault, ' in result.stdout
