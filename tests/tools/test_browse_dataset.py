"""`tools/analysis/browse_dataset.py` as a user runs it: pictures are those of the pipeline, what is drawn lies on them."""
from functools import partial
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from pycocotools.coco import COCO

from hybrid_mm import commands
from hybrid_mm.analysis.browse import browse

main = partial(commands.main, 'browse_dataset')

# evaluation takes label maps in the size of the file, so its pipeline loads them behind the resize
RESIZED = '''
_base_ = [{segmentor!r}]
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
val_dataloader = dict(dataset=dict(pipeline=pipeline))
'''


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path, shapes, pictures):
    """An empty folder to work in."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # for the probes of the tiny configs
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.setenv('PICTURES', str(pictures))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder):
    return {path.name: cv2.imread(str(path)) for path in sorted(Path(folder).iterdir())}


def changed(image, drawn):
    """Where two pictures differ, (H, W)."""
    return np.abs(image.astype(int) - drawn.astype(int)).max(axis=-1) > 3


def read(config):
    return Config.fromfile(config)


def test_boxes_and_masks_lie_on_the_resized_picture(tiny, shapes):
    main([tiny('detector'), '--split', 'val', '--out', 'out'])

    coco = COCO(shapes / 'coco/annotations/instances_val2017.json')
    pictures = written('out')
    assert list(pictures) == [f'{i:06d}_{Path(coco.imgs[number]["file_name"]).stem}.png' for i, number in enumerate(coco.imgs)]
    for number, drawn in zip(coco.imgs, pictures.values()):
        # the tiny config's pipeline gives 192x192 pixels, the files have 64x64
        image = cv2.resize(cv2.imread(str(shapes / 'coco/val2017' / coco.imgs[number]['file_name'])), (192, 192))
        difference = changed(image, drawn)
        near = np.zeros_like(difference)
        for annotation in coco.imgToAnns[number]:
            mask = cv2.resize(coco.annToMask(annotation), (192, 192), interpolation=cv2.INTER_NEAREST) > 0
            x, y, w, h = (3 * value for value in annotation['bbox'])
            assert difference[mask].mean() > 0.9
            assert difference[round(y + h / 2), max(0, round(x) - 1):round(x) + 2].any()  # the left side of its box
            # with the line of the box, and its name, which may be longer than the box
            near[max(0, round(y) - 4):round(max(y + h, y + 20)) + 4, max(0, round(x) - 4):round(max(x + w, x + 130)) + 4] = True
        assert not difference[~near].any()


def test_the_augmentation_is_seen_in_picture_and_annotations(tiny):
    ways = []
    for prob in (0., 1.):
        cfg = read(tiny('detector'))
        cfg.train_dataloader.dataset.pipeline[3].prob = prob
        ways.append(list(browse(cfg, 'train', 3)))
    for plain, flipped in zip(*ways):
        assert np.array_equal(plain.image, flipped.image[:, ::-1])
        masks = changed(plain.image, plain.drawn), changed(flipped.image, flipped.drawn)[:, ::-1]
        assert np.mean(masks[0] == masks[1]) > 0.9  # the names are not flipped


def test_the_same_seed_gives_the_same_pictures(tiny):
    for name, seed in (('a', 1), ('b', 1), ('c', 4)):
        main([tiny('segmentor'), '--out', name, '--seed', str(seed), '--number', '8'])
    a, b, c = (np.stack(list(written(name).values())) for name in 'abc')
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_label_maps_are_resized_with_the_picture_in_their_colours(tiny, shapes, folder):
    (folder / 'net.py').write_text(RESIZED.format(segmentor=tiny('segmentor')))
    main(['net.py', '--split', 'val', '--out', 'out'])

    cfg = read('net.py')
    init_default_scope('mmseg')
    palette = np.array(DATASETS.build(dict(cfg.val_dataloader.dataset, lazy_init=True)).metainfo['palette'])
    root = shapes / 'ade/ADEChallengeData2016'
    for name, drawn in written('out').items():
        stem = name[len('000000_'):-len('.png')]
        image = mmcv.imresize(cv2.imread(str(root / 'images/validation' / f'{stem}.jpg')), (96, 96))
        labels = cv2.imread(str(root / 'annotations/validation' / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
        labels = cv2.resize(labels, (96, 96), interpolation=cv2.INTER_NEAREST).astype(int)
        expected = image / 2 + palette[labels - 1][..., ::-1] / 2  # the file counts from 1, and OpenCV's colours are BGR
        is_near = np.abs(expected - drawn)[labels > 0].max(axis=-1) <= 2
        assert is_near.mean() > 0.8  # the rest are the names


def test_pictures_of_a_classifier_are_spread_over_the_classes(tiny, pictures, capsys):
    main([tiny('classifier'), '--number', '5'])

    found = written('work_dirs/classifier/browse_train')  # the default folder
    assert list(found) == ['000000_0.png', '000004_4.png', '000008_8.png', '000012_2.png', '000016_6.png']
    for (name, drawn), brightness in zip(found.items(), ('bright', 'bright', 'bright', 'dark', 'dark')):
        image = cv2.imread(str(pictures / brightness / name[len('000000_'):]))
        assert changed(image, drawn)[:8].mean() > 0.5  # the class stands at the top
        assert np.array_equal(image[10:], drawn[10:])
    printed = capsys.readouterr().out
    assert 'pictures 5/5 (100 %)' in printed and 'work_dirs/classifier/browse_train: 5 pictures\n' in printed


def test_data_without_annotations_and_fewer_pictures_than_asked_for(tiny, shapes, capsys):
    cfg = read(tiny('segmentor'))
    cfg.val_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    cfg.dump('plain.py')
    main(['plain.py', '--split', 'val', '--out', 'out'])
    assert 'out: 4 pictures, all that the val data have\n' in capsys.readouterr().out
    for name, drawn in written('out').items():
        file = shapes / 'ade/ADEChallengeData2016/images/validation' / f'{name[len("000000_"):-len(".png")]}.jpg'
        assert np.array_equal(drawn, cv2.imread(str(file)))


def test_a_folder_that_holds_something_is_used_by_force_alone(tiny, folder):
    (folder / 'out').mkdir()
    (folder / 'out' / 'notes.txt').write_text('mine')
    with pytest.raises(SystemExit, match='^Error: --out out is not empty; give another folder, or pass --force'):
        main([tiny('classifier'), '--out', 'out'])
    main([tiny('classifier'), '--out', 'out', '--force', '--number', '1'])
    assert sorted(path.name for path in (folder / 'out').iterdir()) == ['000000_0.png', 'notes.txt']


@pytest.mark.parametrize('args, message', [
    (['no.py'], 'Error: the config no.py does not exist; give the path of a file'),
    (['{classifier}', '--number', '0'], 'Error: --number 0 is not allowed; choose 1 or more'),
    (['{classifier}', '--seed', '-1'], 'Error: --seed -1 is not allowed; choose 0 to 4294967295'),
    (['{classifier}', '--out', 'file/out'], 'Error: --out file/out is not allowed, since file is a file; give a folder'),
    (['{setformer}', '--split', 'val'], 'Error: the config has no val_dataloader; choose the other --split, or another'),
    (['{detector}', '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'],
     'Error: nowhere, the train_dataloader.dataset.data_root of the config, does not exist; '),
    (['{detector}', '--cfg-options', 'train_dataloader.dataset.filter_cfg.min_size=1000'],
     'Error: CocoDataset has no images: '),
])
def test_what_cannot_work_ends_with_a_sentence_and_no_picture(tiny, folder, args, message):
    (folder / 'file').write_text('')
    names = {name: tiny(name) for name in ('detector', 'classifier', 'setformer')}
    with pytest.raises(SystemExit) as raised:
        main([arg.format(**names) for arg in args])
    assert raised.value.code.startswith(message) and '\n' not in raised.value.code
    assert [path.name for path in folder.rglob('*')] == ['file']
