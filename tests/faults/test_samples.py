"""Pictures, label maps and annotations that cannot be used, in the tools as a user runs them."""
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

IN_WORKERS = ('train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True')
NAMED = r'Error: /.*/{} \(image id \d+\) {}; mend it or take it out of the data, or train without such samples by samples=.skip. '
long = pytest.mark.exhaustive  # tests/data/test_guarded_pipeline.py has these faults without a tool around


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the shapes, to break."""
    return shutil.copytree(shapes, tmp_path / 'shapes')


@pytest.fixture
def fails(run_tool, tiny, data, tmp_path):
    """The one sentence with which a tool ends, and its output before."""

    def fails(tool, config, options=()):
        result = run_tool(tool, tiny(config), '--cfg-options', f'work_dir={tmp_path / "work"}', *options, check=False,
                          SHAPES=str(data))
        assert result.returncode == 1 and 'Traceback' not in result.stdout + result.stderr, result.stderr[-3000:]
        return result.stderr.splitlines()[-1], result.stdout

    return fails


@pytest.fixture
def guard():
    """Options of the command line that change settings of the guard."""
    return lambda **options: [f'default_hooks.data_guard.{key}={value}' for key, value in options.items()]


def pictures(data, split='train'):
    return sorted((data / f'coco/{split}2017').iterdir())


def label_maps(data):
    return sorted((data / 'ade/ADEChallengeData2016/annotations/training').iterdir())


@pytest.mark.parametrize('spoil, fault, options', [
    pytest.param(lambda path: path.write_bytes(b''), 'is empty', (), marks=long),
    (lambda path: path.write_bytes(path.read_bytes()[:-100]), 'is truncated', IN_WORKERS),
    pytest.param(lambda path: path.unlink(), 'does not exist', (), marks=long),
])
def test_a_picture_that_cannot_be_read_is_named(fails, data, spoil, fault, options):
    path = pictures(data)[3]
    spoil(path)
    assert re.match(NAMED.format(path.name, fault), fails('train.py', 'detector', options=options)[0])


@long
def test_swapped_sides_in_the_annotation_file_are_named(fails, data):
    path = data / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['images'][2].update(width=48, height=64)
    path.write_text(json.dumps(content))
    name = content['images'][2]['file_name']
    picture = data / 'coco/train2017' / name
    cv2.imwrite(str(picture), cv2.imread(str(picture))[:48])
    fault = (r'has 64x48 \(width x height\) pixels, and the annotation file says 48x64 \(width x height\); width and height are '
             'swapped there')
    assert re.match(NAMED.format(name, fault), fails('train.py', 'detector')[0])


@pytest.mark.parametrize('labels, fault, options', [
    (np.full((64, 64), 8), r'holds 8, in 4096 pixels; allowed with 5 classes and reduce_zero_label=True are 0 to 5, and 255', ()),
    pytest.param(np.ones((48, 64)), r'has 64x48 \(width x height\) pixels, and its picture has 64x64', IN_WORKERS, marks=long),
    pytest.param(np.ones((64, 64, 3)), 'has 3 channels, as pictures in colour have; a label map has one', (), marks=long),
    pytest.param(None, 'does not exist', (), marks=long),
])
def test_a_label_map_that_cannot_be_used_is_named(fails, data, labels, fault, options):
    path = label_maps(data)[5]
    path.unlink()
    if labels is not None:
        cv2.imwrite(str(path), labels.astype(np.uint8))
    message = fails('train.py', 'segmentor', options=options)[0]
    assert re.match(rf'Error: /.*/{path.name}, the label map of /.*/{path.stem}.jpg, {fault}', message)


def test_training_goes_on_without_the_samples_and_the_log_counts_them(run_tool, tiny, guard, data, tmp_path):
    """One picture is empty; another lies turned in its file, and its boxes are those of the file."""
    path, turned = pictures(data)[:2]
    path.write_bytes(b'')
    exif = Image.Exif()
    exif[0x0112] = 6
    annotations = data / 'coco/annotations/instances_train2017.json'
    content = json.loads(annotations.read_text())
    next(image for image in content['images'] if image['file_name'] == turned.name).update(height=60)
    annotations.write_text(json.dumps(content))
    Image.open(turned).crop((0, 0, 64, 60)).save(turned, exif=exif)
    result = run_tool('train.py', tiny('detector'), '--work-dir', tmp_path / 'work', '--cfg-options', *IN_WORKERS,
                      *guard(samples='skip', max_share=0.5), SHAPES=str(data))
    lines = [line for line in result.stdout.splitlines() if ' samples in epoch ' in line]
    skipped = [re.search(r'- (\d+) of (\d+) samples in epoch (\d) skipped(.*)', line) for line in lines if 'skipped' in line]
    assert [match[3] for match in skipped] == ['1', '2'] and all(int(match[1]) >= 1 for match in skipped)
    assert [int(match[2]) - int(match[1]) for match in skipped] == [8, 8]
    assert re.match(rf': /.*/{path.name} \(image id \d+\) is empty$', skipped[0][4]) and skipped[1][4] == ''
    assert sum('pictures loaded as they lie in the file, without the turn of their EXIF' in line for line in lines) == 2
    assert (tmp_path / 'work' / 'epoch_2.pth').exists()


@long
def test_a_share_above_the_limit_ends_the_training_behind_the_checkpoint(fails, guard, data, tmp_path):
    for path in pictures(data)[:2]:
        path.unlink()
    message, out = fails('train.py', 'detector', options=guard(samples='skip'))
    assert re.match(r'Error: \d+ of \d+ samples had to be skipped, more than max_share=0.01 of hybrid_mm.DataGuardHook allows, '
                    r'such as this one: /.* does not exist; `python tools/datasets/check.py CONFIG` lists', message)
    assert (tmp_path / 'work' / 'epoch_1.pth').exists() and not (tmp_path / 'work' / 'epoch_2.pth').exists()


@long
def test_evaluation_stops_also_where_training_skips(fails, guard, data):
    path = pictures(data, 'val')[1]
    path.write_bytes(path.read_bytes()[:1000])
    message, _ = fails('train.py', 'detector', options=guard(samples='skip'))
    assert re.match(rf'Error: /.*/{path.name} \(image id \d+\) is truncated; mend it or take it out of the data$', message)


def test_browsing_names_the_picture(fails, data):
    path = pictures(data)[0]
    path.write_bytes(b'')
    message, _ = fails('analysis/browse_dataset.py', 'detector')
    assert re.match(rf'Error: /.*/{path.name} \(image id \d+\) is empty; mend it or take it out of the data$', message)
