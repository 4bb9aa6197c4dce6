"""What a folder of the user's own is taken for: all layouts, what is assumed is told, and what is none is one sentence."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_mm.data.folders import look_at
from hybrid_mm.data.own_folder import BOXES, MAPS, MASKS, fingerprint, hold_out, split_of
from hybrid_mm.data.own_maps import write_new_values
from hybrid_mm.errors import SetupError

TRIANGLE = [[2, 2, 12, 2, 12, 12]]


def picture(path, size=(16, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path)


def coco(path, names, segmentation=TRIANGLE, categories=('dog', 'cat'), pictures=None, **more):
    """A COCO file with an object in each picture; the pictures are made in a folder."""
    for name in names if pictures else ():
        picture(pictures / name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(
        images=[dict(id=i, file_name=name, width=16, height=12) for i, name in enumerate(names, 1)],
        annotations=[dict(id=i, image_id=i, category_id=2, bbox=[2, 2, 10, 10], area=50, iscrowd=0, segmentation=segmentation)
                     for i in range(1, len(names) + 1)],
        categories=[dict(id=i, name=name, supercategory='animal') for i, name in enumerate(categories, 1)], **more)))


def maps(folder, names, values=(0, 1, 255), mode='L', suffix='.png'):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        labels = np.resize(np.array(values, np.uint8), (12, 16))
        image = Image.fromarray(labels)
        if mode == 'P':
            image = Image.fromarray(labels, 'P')
            image.putpalette([i % 7 for i in range(768)])
        elif mode == '1':
            image = Image.fromarray(labels > 0)
        elif mode == 'RGB':
            image = Image.fromarray(np.dstack([labels] * 3))
        image.save(folder / f'{name}{suffix}')


def pictures(folder, names, ending='.jpg'):
    for name in names:
        picture(folder / f'{name}{ending}')


def counts(found):
    return {split: part.number for split, part in found.parts.items()}


def places(found):
    return {split: (str(part.pictures.relative_to(found.root)), str(part.annotations.relative_to(found.root)))
            for split, part in found.parts.items()}


# ---- COCO's layout ----


def test_coco_itself(tmp_path):
    for split in ('train2017', 'val2017'):
        coco(tmp_path / 'annotations' / f'instances_{split}.json', ['1.jpg', '2.jpg'], pictures=tmp_path / split)
    (tmp_path / 'annotations' / 'captions_train2017.json').write_text('{"images": [], "annotations": []}')
    coco(tmp_path / 'annotations' / 'person_keypoints_train2017.json', ['1.jpg'])
    found = look_at(tmp_path)
    assert (found.task, found.classes, found.notes) == (MASKS, ('dog', 'cat'), [])
    assert places(found) == {'train': ('train2017', 'annotations/instances_train2017.json'),
                             'val': ('val2017', 'annotations/instances_val2017.json')}


def test_roboflow_with_boxes_and_its_category_for_all(tmp_path):
    for split in ('train', 'valid', 'test'):
        coco(tmp_path / split / '_annotations.coco.json', ['a.jpg', 'b.jpg'], [], ('animal', 'dog'), tmp_path / split)
    found = look_at(tmp_path)
    assert (found.task, found.classes) == (BOXES, ('dog', ))
    assert places(found) == {split: (folder, f'{folder}/_annotations.coco.json')
                             for split, folder in (('train', 'train'), ('val', 'valid'), ('test', 'test'))}


def test_files_in_the_folder_itself_with_all_pictures_in_one(tmp_path):
    for split, names in (('train', ['a.jpg', 'b.jpg']), ('val', ['c.jpg'])):
        coco(tmp_path / f'{split}.json', names, pictures=tmp_path / 'images')
    assert places(look_at(tmp_path)) == {'train': ('images', 'train.json'), 'val': ('images', 'val.json')}


def test_names_with_a_folder(tmp_path):
    coco(tmp_path / 'annotations' / 'train.json', ['images/a.jpg', 'images/b.jpg'], pictures=tmp_path)
    coco(tmp_path / 'annotations' / 'val.json', ['images/c.jpg'], pictures=tmp_path)
    assert places(look_at(tmp_path))['train'] == ('.', 'annotations/train.json')


def test_one_file_is_split_and_all_annotations_go_with_their_pictures(tmp_path):
    names = [f'{i}.jpg' for i in range(10)]
    coco(tmp_path / 'result.json', names, pictures=tmp_path / 'images', info=dict(year=2026))
    content = json.loads((tmp_path / 'result.json').read_text())
    content['annotations'].append(dict(id=99, image_id=77, category_id=1))  # of no picture: to be found later
    (tmp_path / 'result.json').write_text(json.dumps(content))
    found = look_at(tmp_path)
    train, val = (found.parts[split].content for split in ('train', 'val'))
    assert counts(found) == {'train': 8, 'val': 2} and 'seed 0' in found.notes[0] and 'same scene' in found.notes[0]
    assert not {image['id'] for image in train['images']} & {image['id'] for image in val['images']}
    assert len(train['annotations']) == 9 and val['info'] == dict(year=2026)
    assert {annotation['image_id'] for annotation in val['annotations']} == {image['id'] for image in val['images']}
    assert look_at(tmp_path).parts == found.parts


def test_masks_that_are_drawn_boxes_are_none(tmp_path):
    box = [[2, 2, 12, 2, 12, 12, 2, 12]]
    for split in ('train', 'val'):
        coco(tmp_path / f'{split}.json', ['a.jpg'], box, pictures=tmp_path / split)
    found = look_at(tmp_path)
    assert found.task == BOXES and 'no masks to learn' in found.notes[0]


def test_part_for_testing_without_annotations_is_left_out(tmp_path):
    for split in ('train', 'val', 'test'):
        coco(tmp_path / f'{split}.json', ['a.jpg'], pictures=tmp_path / split)
    content = json.loads((tmp_path / 'test.json').read_text())
    (tmp_path / 'test.json').write_text(json.dumps(dict(content, annotations=[])))
    found = look_at(tmp_path)
    assert list(found.parts) == ['train', 'val'] and 'test.json has no annotations' in found.notes[0]


def test_faulty_coco_folders_are_one_sentence(tmp_path):
    def message(name, **files):
        root = tmp_path / name
        for file, options in files.items():
            coco(root / f'{file}.json', **{**dict(names=['a.jpg'], pictures=root / 'images'), **options})
        with pytest.raises(SetupError) as error:
            look_at(root)
        return str(error.value)

    assert 'names 1 pictures, such as a.jpg, and none of them is in' in message('away', train=dict(pictures=None))
    assert 'train_a.json, train_b.json; leave one' in message('two', train_a={}, train_b={})
    assert 'no COCO file for training among test.json, val.json; name' in message('none', test={}, val={})
    assert 'no COCO file for training among a.json, b.json; name' in message('unclear', a={}, b={})
    assert 'val.json has the categories dog, and' in message('classes', train={}, val=dict(categories=['dog']))
    assert 'are too few' in message('one', all={})
    assert 'has 0 pictures and 0 annotations' in message('empty', train=dict(names=[]))
    for text in ('', '{"images": [], "annotations": [], "categories": ['):
        (tmp_path / 'one' / 'val.json').write_text(text)
        assert 'mend it, or take it away' in message('one')


# ---- pictures and label maps ----


@pytest.mark.parametrize('image_folder, map_folder', [
    ('images/{}', 'annotations/{}'), ('{}/images', '{}/masks'), ('{}', '{}annot'), ('{}_images', '{}_labels'),
    ('images', 'labels/{}')])
@pytest.mark.parametrize('train, val', [('train', 'val'), ('training', 'validation')])
def test_folders_with_parts(tmp_path, image_folder, map_folder, train, val):
    for i, split in enumerate((train, val)):
        pictures(tmp_path / image_folder.format(split), [f'{i}_a', f'{i}_b'])
        maps(tmp_path / map_folder.format(split), [f'{i}_a', f'{i}_b'])
    found = look_at(tmp_path)
    assert places(found) == {'train': (image_folder.format(train), map_folder.format(train)),
                             'val': (image_folder.format(val), map_folder.format(val))}
    assert (found.task, found.classes, found.picture_ending, found.map_ending, found.reduce_zero_label, found.new_values) == (
        MAPS, ('class 0', 'class 1'), '.jpg', '.png', False, None)
    assert 'no classes.txt' in found.notes[-1]
    assert found.listed == (['train', 'val'] if image_folder == 'images' else [])


def test_folder_without_parts_is_split_with_names_from_a_file(tmp_path):
    names = [f'{i:02d}' for i in range(10)]
    pictures(tmp_path / 'images', names, '.png')
    maps(tmp_path / 'masks', names, (0, 1, 2), 'P', '_mask.png')
    (tmp_path / 'classes.txt').write_text('0 sky\n1 road\n\n2 street lamp\n')
    found = look_at(tmp_path)
    assert counts(found) == {'train': 8, 'val': 2}
    assert (found.classes, found.map_ending) == (('sky', 'road', 'street lamp'), '_mask.png')
    assert found.listed == ['train', 'val'] and not set(found.parts['train'].names) & set(found.parts['val'].names)


def test_lists_of_pascal_voc(tmp_path):
    pictures(tmp_path / 'JPEGImages', 'abcde')
    maps(tmp_path / 'SegmentationClass', 'abcd', mode='P')
    for folder, split, text in (('Segmentation', 'train', 'a\nb\n'), ('Segmentation', 'val', 'c\nd\n'), ('Main', 'train', 'e\n')):
        (tmp_path / 'ImageSets' / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / 'ImageSets' / folder / f'{split}.txt').write_text(text)
    found = look_at(tmp_path)
    assert {split: part.names for split, part in found.parts.items()} == {'train': ['a', 'b'], 'val': ['c', 'd']}
    assert any('1 pictures' in note and 'e' in note for note in found.notes) and found.listed == ['train', 'val']


@pytest.mark.parametrize('names, values, classes, pixels, reduce_zero_label', [
    (None, (1, 2, 2, 255), ('class 1', 'class 2'), [48, 96], True),
    (['a', 'b'], (0, 1, 1, 2), ('a', 'b'), [96, 48], True),
    (['a', 'b', 'c'], (0, 1), ('a', 'b', 'c'), [96, 96, 0], False),
    (dict(b=1, a=0), (0, 1, 1), ('a', 'b'), [64, 128], False),
    ({'0': 'a', '1': 'b'}, (0, 1), ('a', 'b'), [96, 96], False),
    (dict(classes=[dict(name='a'), dict(name='b')]), (0, 1), ('a', 'b'), [96, 96], False),
])
def test_classes_are_those_of_the_values_and_the_file(tmp_path, names, values, classes, pixels, reduce_zero_label):
    pictures(tmp_path / 'images', 'ab')
    maps(tmp_path / 'labels', 'ab', values)
    if names is not None:
        (tmp_path / 'classes.json').write_text(json.dumps(names))
    found = look_at(tmp_path)
    assert (found.classes, found.reduce_zero_label) == (classes, reduce_zero_label)
    assert list(found.pixels) == pixels  # of the one picture for training
    assert not reduce_zero_label or '0 is taken for unlabelled' in found.notes[-1]


@pytest.mark.parametrize('values, mode, written', [
    ((0, 255), 'L', {0, 1}), ((0, 128), 'L', {0, 1}), ((0, 1, 2, 255), 'RGB', {0, 1, 2, 255}), ((0, 255), '1', None)])
def test_masks_of_two_values_and_grey_ones_in_colour_are_written_anew(tmp_path, values, mode, written):
    pictures(tmp_path / 'images', 'abc')
    maps(tmp_path / 'masks', 'abc', values, mode)
    found = look_at(tmp_path)
    assert bool(found.new_values) == bool(written)
    assert sum(found.pixels) == 2 * 192 * (.75 if 255 in values and len(values) > 2 else 1)  # of the two pictures for training
    assert mode != 'L' or (found.classes == ('background', 'object') and 'taken for the background' in found.notes[-1])
    if written:
        write_new_values(found, tmp_path / 'new')
        paths = list((tmp_path / 'new').rglob('*.png'))
        assert len(paths) == 3 and all(set(np.unique(np.asarray(Image.open(path)))) == written for path in paths)
        assert {part.annotations for part in found.parts.values()} == {tmp_path / 'new' / 'train', tmp_path / 'new' / 'val'}


def test_faulty_folders_of_label_maps_are_one_sentence(tmp_path):
    def message(name, values=(0, 1), endings=('.jpg', ), names=None, folder='', colours=False):
        root = tmp_path / name
        for i, ending in enumerate(endings):
            pictures(root / 'images' / folder, [f'{i}a', f'{i}b'], ending)
            maps(root / 'labels' / folder, [f'{i}a', f'{i}b'], values)
        if names:
            (root / 'classes.txt').write_text('\n'.join(names))
        if colours:
            Image.new('RGB', (16, 12), (1, 2, 3)).save(root / 'labels' / '0a.png')
        with pytest.raises(SetupError) as error:
            look_at(root)
        return str(error.value)

    assert 'end in .jpg, .png and' in message('endings', endings=('.jpg', '.png'))
    assert 'is in colours; a label map has one channel' in message('colours', colours=True)
    assert 'hold 0, 1, 2, 3, and' in message('names', (0, 1, 2, 3), names='ab')
    assert 'hold 3: that is 1 class' in message('one', (3, ))
    assert 'hold 0, 90, 180; numbers of classes go from 0 without gaps' in message('sparse', (0, 90, 180))
    assert 'for val and none for training' in message('val', folder='val')


def test_folder_that_is_neither_tells_what_is_there(tmp_path):
    for name in 'ab':
        picture(tmp_path / 'images' / f'{name}.jpg')
        (tmp_path / 'images' / f'{name}.xml').write_text('')
    with pytest.raises(SetupError, match=r'holds neither COCO.*; it has 2 × .jpg, 2 × .xml in images; convert'):
        look_at(tmp_path)
    for path, text in ((tmp_path / 'no', 'no does not exist; give'), (tmp_path / 'images' / 'a.jpg', 'is a file; give')):
        with pytest.raises(SetupError, match=text):
            look_at(path)


# ---- parts ----


def test_words_of_names_tell_the_part():
    of_train = ('instances_train2017', 'training', 'trainval', 'train_images', 'trainannot')
    of_val = ('_val', 'valid', 'validation', 'instances_minival2014', 'val-set')
    assert {split_of(name) for name in of_train} == {'train'} and {split_of(name) for name in of_val} == {'val'}
    assert split_of('test-dev2017') == 'test' and split_of('_annotations.coco', 'valid') == 'val'
    assert {split_of(name) for name in ('valves', 'latest', 'trainers', 'images')} == {None}


def test_a_fifth_is_held_out_the_same_each_time_and_at_most_a_thousand():
    train, val = hold_out(str(i) for i in range(50))
    assert (len(train), len(val)) == (40, 10) and (train, val) == hold_out(str(i) for i in reversed(range(50)))
    assert [len(part) for part in hold_out(['a', 'b'])] == [1, 1] and len(hold_out(range(9000))[1]) == 1000


def test_fingerprint_changes_with_the_files(tmp_path):
    picture(tmp_path / 'a.png')
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    picture(tmp_path / 'b' / 'c.png')
    after = fingerprint(tmp_path)
    Path(tmp_path / 'b' / 'c.png').unlink()
    assert before != after and fingerprint(tmp_path) != after
