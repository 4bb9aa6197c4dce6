"""The synthetic data set: its layouts, its annotations, and what makes it a fair first test of a detector."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hybrid_mm.commands import main
from hybrid_mm.data import drawing, shapes

SCRIPT = Path(__file__).resolve().parents[2] / 'tools' / 'datasets' / 'make_shapes.py'
TRAIN, VAL = 60, 25
ADE_SPLITS = dict(train='training', val='validation')
SMALL = dict(train=3, val=2, size=(64, 80))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'shapes'
    assert shapes.make_shapes(out, train=TRAIN, val=VAL) is True
    return out


@pytest.fixture(scope='module')
def coco(root):
    return {split: COCO(str(root / f'coco/annotations/instances_{split}2017.json')) for split in ADE_SPLITS}


def objects(coco):
    return [annotation for annotation in coco.anns.values() if not annotation['iscrowd']]


def read_map(root, split, image_id, coco):
    index = sorted(coco.imgs).index(image_id) + 1
    folder = root / 'ade/ADEChallengeData2016/annotations' / ADE_SPLITS[split]
    return cv2.imread(str(folder / f'ADE_{split}_{index:08d}.png'), cv2.IMREAD_UNCHANGED)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def test_files_lie_where_coco_and_ade20k_have_them(root):
    ade = 'ade/ADEChallengeData2016'
    expected = {'make_shapes.json', *(f'coco/annotations/instances_{split}2017.json' for split in ADE_SPLITS)}
    for split, count, first in (('train', TRAIN, 1), ('val', VAL, 500_001)):
        expected |= {f'coco/{split}2017/{first + i:012d}.jpg' for i in range(count)}
        for index in range(1, count + 1):
            expected.add(f'{ade}/images/{ADE_SPLITS[split]}/ADE_{split}_{index:08d}.jpg')
            expected.add(f'{ade}/annotations/{ADE_SPLITS[split]}/ADE_{split}_{index:08d}.png')
    files = contents(root)
    assert set(files) == expected
    assert files['coco/train2017/000000000007.jpg'] == files[f'{ade}/images/training/ADE_train_00000007.jpg']
    assert not list(root.parent.glob('shapes.*'))


@pytest.mark.parametrize('split', ADE_SPLITS)
def test_annotation_file_has_the_fields_of_coco(root, split):
    data = json.loads((root / f'coco/annotations/instances_{split}2017.json').read_text())
    assert list(data) == ['info', 'licenses', 'images', 'annotations', 'categories']
    assert [category['id'] for category in data['categories']] == [1, 2, 3, 4]
    assert tuple(category['name'] for category in data['categories']) == drawing.CLASSES
    assert all(set(category) == {'id', 'name', 'supercategory'} for category in data['categories'])
    image_fields = {'id', 'file_name', 'height', 'width', 'license', 'coco_url', 'flickr_url', 'date_captured'}
    assert all(set(image) == image_fields for image in data['images'])
    fields = {'id', 'image_id', 'category_id', 'segmentation', 'area', 'bbox', 'iscrowd'}
    assert all(set(annotation) == fields for annotation in data['annotations'])


def test_ids_are_unique_across_splits(coco):
    for kind in ('imgs', 'anns'):
        assert not set(getattr(coco['train'], kind)) & set(getattr(coco['val'], kind))
    assert len(coco['train'].imgs) == TRAIN and len(coco['val'].imgs) == VAL
    assert len(coco['train'].anns) == len(coco['train'].dataset['annotations'])


@pytest.mark.parametrize('split', ADE_SPLITS)
def test_pictures_and_maps_have_the_stated_size(root, coco, split):
    for image_id, image in coco[split].imgs.items():
        assert cv2.imread(str(root / 'coco' / f'{split}2017' / image['file_name'])).shape == (192, 256, 3)
        seg_map = read_map(root, split, image_id, coco[split])
        assert seg_map.shape == (192, 256) == (image['height'], image['width'])
        assert seg_map.dtype == np.uint8 and seg_map.max() <= 7


@pytest.mark.parametrize('split', ADE_SPLITS)
def test_area_and_box_are_those_of_the_mask(coco, split):
    for annotation in coco[split].anns.values():
        rle = coco[split].annToRLE(annotation)
        assert annotation['area'] == coco_mask.area(rle) > 0
        assert annotation['bbox'] == coco_mask.toBbox(rle).tolist()


@pytest.mark.parametrize('split', ADE_SPLITS)
def test_segmentation_is_the_union_of_the_instances(root, coco, split):
    for image_id in coco[split].imgs:
        seg_map = read_map(root, split, image_id, coco[split])
        expected = np.zeros_like(seg_map)
        covered = np.zeros_like(seg_map)
        for annotation in coco[split].imgToAnns[image_id]:
            mask = coco[split].annToMask(annotation)
            covered += mask
            if annotation['iscrowd']:
                assert (seg_map[mask == 1] == 0).all()
            else:
                expected[mask == 1] = annotation['category_id'] + 1
        # visible parts do not overlap
        assert covered.max() <= 1
        assert np.array_equal(np.where(seg_map >= 2, seg_map, 0), expected)


def test_polygons_follow_any_mask_exactly():
    rng = np.random.default_rng(0)
    with_polygons = 0
    for density in np.linspace(0.02, 0.98, 60):
        mask = rng.random((13, 17)) < density
        polygons = shapes._outlines(mask)
        if polygons is not None:
            with_polygons += 1
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))
            assert np.array_equal(coco_mask.decode(rle), mask)
    assert with_polygons > 10


def test_mask_with_a_hole_is_run_length_coded():
    mask = np.zeros((9, 11), bool)
    mask[:6, 2:9] = True
    mask[2:4, 4:6] = False
    annotation = shapes._annotation(1, 1, drawing.Instance(label=0, mask=mask, area=38))
    assert annotation['segmentation']['size'] == [9, 11]
    rle = coco_mask.frPyObjects(annotation['segmentation'], 9, 11)
    assert np.array_equal(coco_mask.decode(rle), mask)


def test_run_lengths_begin_with_the_zeros():
    assert shapes._run_lengths(np.array([[1, 0], [1, 1]], bool)) == dict(size=[2, 2], counts=[0, 2, 1, 1])
    assert shapes._run_lengths(np.array([[0, 0], [1, 1]], bool)) == dict(size=[2, 2], counts=[1, 1, 1, 1])


@pytest.mark.parametrize('split', ADE_SPLITS)
def test_every_split_has_empty_pictures_crowds_and_all_classes(coco, split):
    empty = [image_id for image_id in coco[split].imgs if not coco[split].imgToAnns[image_id]]
    crowds = [annotation for annotation in coco[split].anns.values() if annotation['iscrowd']]
    assert 0 < len(empty) <= 0.06 * len(coco[split].imgs)
    assert crowds and all(isinstance(crowd['segmentation']['counts'], list) for crowd in crowds)
    assert {annotation['category_id'] for annotation in objects(coco[split])} == {1, 2, 3, 4}


def test_unlabelled_pixels_lie_outside_of_crowds_too(root, coco):
    without_crowd = [
        read_map(root, 'train', image_id, coco['train']) for image_id in coco['train'].imgs
        if not any(annotation['iscrowd'] for annotation in coco['train'].imgToAnns[image_id])
    ]
    with_unlabelled = sum((seg_map == 0).any() for seg_map in without_crowd)
    assert 0.2 * len(without_crowd) < with_unlabelled < 0.8 * len(without_crowd)


def test_small_and_large_objects_and_up_to_six_in_a_picture(coco):
    areas = np.array([annotation['area'] for annotation in objects(coco['train'])])
    assert areas.min() < 20**2 and areas.max() > 90**2
    medium = (areas > 22**2) & (areas < 80**2)
    assert medium.mean() > 0.6
    counts = [sum(not annotation['iscrowd'] for annotation in coco['train'].imgToAnns[image_id])
              for image_id in coco['train'].imgs]
    assert max(counts) == drawing.MAX_OBJECTS


def test_no_object_is_hidden_beyond_recognition_and_some_are_covered():
    shares = []
    for index in range(1, 31):
        for instance in drawing.draw_scene(0, 'train', index, (192, 256)).instances:
            shares.append(instance.mask.sum() / instance.area)
    assert min(shares) >= drawing.MIN_VISIBLE
    assert np.mean(np.array(shares) < 0.95) > 0.1


def test_mean_colour_does_not_tell_the_class(root, coco):
    colours, labels = [], []
    for split in ADE_SPLITS:
        for annotation in objects(coco[split]):
            name = coco[split].imgs[annotation['image_id']]['file_name']
            image = cv2.imread(str(root / 'coco' / f'{split}2017' / name))
            colours.append(image[coco[split].annToMask(annotation) == 1].mean(axis=0))
            labels.append(annotation['category_id'])
    colours, labels = np.array(colours), np.array(labels)
    # every second object is held out; chance is 1/4
    class_means = np.stack([colours[::2][labels[::2] == label].mean(axis=0) for label in range(1, 5)])
    nearest = np.linalg.norm(colours[1::2, None] - class_means, axis=2).argmin(axis=1) + 1
    assert np.mean(nearest == labels[1::2]) < 0.35


def test_textured_classes_have_two_tones_in_bars_of_four_pixels_or_more():
    tones = [np.zeros(3), np.full(3, 200.)]
    for label, name in enumerate(drawing.CLASSES):
        textured = name not in ('disc', 'triangle')
        for size in (drawing.MIN_TEXTURED_SIZE, 110):
            rng = np.random.default_rng(1)
            patch, coverage = drawing._draw_object(rng, label, size, tones if textured else tones[1:])
            bright = patch.mean(axis=2) > 100
            share = bright[coverage == 1].mean()
            assert share == pytest.approx(0.5, abs=0.1) if textured else share == 1
            half_width = cv2.distanceTransform((bright & (coverage == 1)).view(np.uint8), cv2.DIST_L2, 5).max()
            assert half_width >= 2


def test_two_runs_give_the_same_bytes(tmp_path):
    for name in 'ab':
        shapes.make_shapes(tmp_path / name, train=13, val=2)
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')


def test_pictures_do_not_depend_on_how_many_are_made(root, tmp_path):
    shapes.make_shapes(tmp_path / 'few', train=2, val=3)
    few, many = contents(tmp_path / 'few'), contents(root)
    pictures = [name for name in few if not name.endswith('.json')]
    assert len(pictures) == 3 * 5
    assert all(few[name] == many[name] for name in pictures)
    for split, count in (('train', 2), ('val', 3)):
        name = f'coco/annotations/instances_{split}2017.json'
        few_data, many_data = json.loads(few[name]), json.loads(many[name])
        assert few_data['images'] == many_data['images'][:count]
        assert few_data['annotations'] == many_data['annotations'][:len(few_data['annotations'])]


def test_seed_and_split_change_the_pictures():
    sources = ((0, 'train'), (1, 'train'), (0, 'val'))
    assert len({drawing.draw_scene(seed, split, 1, (64, 80)).image.tobytes() for seed, split in sources}) == 3


def test_second_run_does_nothing(tmp_path):
    out = tmp_path / 'shapes'
    assert shapes.make_shapes(out, **SMALL) is True
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    assert shapes.make_shapes(out, **SMALL) is False
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before


@pytest.mark.parametrize('change', [dict(seed=1), dict(train=2), dict(size=(80, 64))])
def test_data_of_other_parameters_are_replaced(tmp_path, change):
    shapes.make_shapes(tmp_path / 'shapes', **SMALL)
    assert shapes.make_shapes(tmp_path / 'shapes', **{**SMALL, **change}) is True
    shapes.make_shapes(tmp_path / 'expected', **{**SMALL, **change})
    assert contents(tmp_path / 'shapes') == contents(tmp_path / 'expected')


@pytest.mark.parametrize('damage', ['coco/train2017/000000000002.jpg', 'coco/annotations/instances_val2017.json',
                                    'ade/ADEChallengeData2016/annotations'])
def test_damaged_data_are_made_again(tmp_path, damage):
    out = tmp_path / 'shapes'
    shapes.make_shapes(out, **SMALL)
    expected = contents(out)
    path = out / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert shapes.make_shapes(out, **SMALL) is True
    assert contents(out) == expected


def test_interrupted_run_leaves_no_data_set_and_is_made_up_for(tmp_path, monkeypatch):
    out = tmp_path / 'shapes'

    def interrupt(seed, split, index, size):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shapes, 'draw_scene', interrupt)
        with pytest.raises(KeyboardInterrupt):
            shapes.make_shapes(out, **SMALL)
    assert not out.exists()
    assert shapes.make_shapes(out, **SMALL) is True
    assert os.listdir(tmp_path) == ['shapes']


def test_empty_folder_is_used(tmp_path):
    out = tmp_path / 'shapes'
    out.mkdir()
    assert shapes.make_shapes(out, **SMALL) is True


@pytest.mark.parametrize('name', ['shapes', 'shapes.unfinished'])
def test_foreign_folder_is_left_alone(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / 'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=f'{name} holds files that make_shapes.py did not make'):
        shapes.make_shapes(tmp_path / 'shapes', **SMALL)
    assert contents(tmp_path) == {f'{name}/thesis.txt': b'mine'}


def test_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / 'shapes').write_text('mine')
    with pytest.raises(FileExistsError, match='is a file; choose a folder'):
        shapes.make_shapes(tmp_path / 'shapes', **SMALL)
    assert contents(tmp_path) == {'shapes': b'mine'}


@pytest.mark.parametrize('options, message', [
    (['--size', '63', '256'], r'size=\(63, 256\) is not allowed; give height and width, both 64 or more'),
    (['--train', '0'], 'train=0 pictures is not allowed; choose from 1 to 500000'),
    (['--val', '500001'], 'val=500001 pictures is not allowed'),
    (['--seed', '-1'], 'seed=-1 is not allowed; choose 0 or more'),
])
def test_bad_options_end_with_one_sentence_before_anything_is_written(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as error:
        main('make_shapes', ['--out', str(tmp_path / 'shapes'), *options])
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_command_says_where_the_data_are_and_needs_neither_torch_nor_openmmlab(tmp_path, capsys):
    options = ['--out', str(tmp_path / 'shapes'), '--train', '2', '--val', '1', '--size', '64', '64']
    code = (f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}, run_name='__main__'); "
            "print({name.split('.')[0] for name in sys.modules} & {'torch', 'mmengine', 'mmcv'})")
    made = subprocess.run([sys.executable, '-c', code, *options], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    main('make_shapes', options)
    lines = [f'2 + 1 pictures of 64x64 with 4 classes {verb} {tmp_path}/shapes\n' for verb in ('made in', 'already in')]
    assert (made, capsys.readouterr().out) == (f'{lines[0]}set()\n', lines[1])
