"""`tools/infer.py` as a user runs it: it finds what `tools/test.py` finds, and pictures and JSON agree."""
import json
import pickle
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as rle

from hybrid_mm import commands

infer, evaluate = (partial(commands.main, name) for name in ('infer', 'test'))

SHAPES = ('disc', 'triangle', 'striped square', 'checked diamond')
PALETTE = [[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]]  # RGB
META = dict(
    detector=dict(classes=('round', 'pointed', 'striped', 'checked')),  # other names than the config's
    segmentor=dict(classes=('background', *SHAPES), palette=PALETTE),
    classifier=dict(classes=('bright', 'dark')))


@pytest.fixture(scope='module')
def checkpoints(shapes, pictures, tiny, tmp_path_factory):
    """Networks with random weights, as a training saves them."""
    folder = tmp_path_factory.mktemp('checkpoints')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))  # for the probes of the tiny configs
        patch.setenv('SHAPES', str(shapes))
        patch.setenv('PICTURES', str(pictures))
        for name, meta in META.items():
            cfg = Config.fromfile(tiny(name))
            init_default_scope(cfg.default_scope)
            cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
            torch.manual_seed(0)
            torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=dict(dataset_meta=meta)),
                       folder / f'{name}.pth')
    return folder


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path, shapes, pictures):
    """An empty folder to work in."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # for the probes of the tiny configs
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.setenv('PICTURES', str(pictures))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(tiny, checkpoints):
    """Run the tool with a network by its name; the content of predictions.json."""

    def run(name, source, *args, out='out'):
        infer([tiny(name), str(checkpoints / f'{name}.pth'), str(source), '--out', out, *map(str, args)])
        return json.loads(Path(out, 'predictions.json').read_text())

    return run


def save_pngs(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f'{i}.png'), image)


def test_instances_are_those_of_an_evaluation(run, tiny, checkpoints, shapes, capsys):
    evaluate([tiny('detector'), str(checkpoints / 'detector.pth'), '--out', 'found.pkl'])
    capsys.readouterr()
    found = run('detector', shapes / 'coco/val2017', '--score-thr', '0', '--no-optimise')

    assert found.items() >= dict(task='detection', config='detector.py', checkpoint='detector.pth', score_thr=0.,
                                 classes=list(META['detector']['classes'])).items()
    expected = {Path(sample['img_path']).name: sample['pred_instances'] for sample in pickle.loads(
        Path('found.pkl').read_bytes())}
    assert [entry['file'] for entry in found['images']] == sorted(expected)
    for entry in found['images']:
        instances, truth = entry['instances'], expected[entry['file']]
        assert (entry['width'], entry['height']) == (64, 64) and len(instances) == len(truth['labels']) > 0
        for key, values in (('bbox', 'bboxes'), ('score', 'scores'), ('label', 'labels')):
            np.testing.assert_array_equal([instance[key] for instance in instances], truth[values].numpy())
        masks = [rle.decode(instance['mask']) for instance in instances]
        np.testing.assert_array_equal(masks, [rle.decode(mask) for mask in truth['masks']])
        assert {instance['class'] for instance in instances} <= set(META['detector']['classes'])
        assert all(instance['class'] == found['classes'][instance['label']] for instance in instances)
    assert capsys.readouterr().out.endswith('pictures 4/4 (100 %), 0:00:00 left\nout: 4 pictures and predictions.json\n')


def test_a_network_made_ready_finds_the_same_but_for_rounding(run, shapes):
    image = sorted((shapes / 'coco/val2017').iterdir())[0]
    for name, key, tolerance in (('detector', 'instances', 1e-2), ('classifier', 'top', 1e-4)):
        plain, ready = (run(name, image, *args, out=f'{name}{len(args)}')['images'][0][key] for args in (['--no-optimise'], []))
        assert len(plain) == len(ready) and [x['label'] for x in plain] == [x['label'] for x in ready]
        np.testing.assert_allclose([x['score'] for x in ready], [x['score'] for x in plain], rtol=0, atol=1e-4)
        if name == 'detector':
            np.testing.assert_allclose([x['bbox'] for x in ready], [x['bbox'] for x in plain], rtol=0, atol=tolerance)
    half = run('classifier', image, '--half', out='half')['images'][0]['top']
    np.testing.assert_allclose(max(x['score'] for x in half), max(x['score'] for x in plain), atol=0.05)


def test_half_without_what_makes_it(run, shapes):
    with pytest.raises(SystemExit, match='^Error: --half and --no-optimise are not allowed together; leave one of them out$'):
        run('classifier', next((shapes / 'coco/val2017').iterdir()), '--half', '--no-optimise')


def test_the_threshold_holds_for_picture_and_json(run, shapes, folder):
    files = sorted((shapes / 'coco/val2017').iterdir())
    save_pngs(folder / 'pictures', [cv2.imread(str(file)) for file in files])
    few = ['--cfg-options', 'model.test_cfg.rcnn.max_per_img=5']
    everything = run('detector', 'pictures', '--score-thr', '0', *few, out='all')['images']
    best = max((entry for entry in everything), key=lambda entry: max(x['score'] for x in entry['instances']))
    instance = max(best['instances'], key=lambda x: x['score'])
    found = run('detector', 'pictures', '--score-thr', instance['score'], *few, out='best')['images']

    assert [len(entry['instances']) for entry in found] == [int(entry['file'] == best['file']) for entry in found]
    assert next(entry for entry in found if entry['instances'])['instances'] == [instance]
    for entry in found:
        image, drawn = (cv2.imread(str(path)).astype(int) for path in (
            folder / 'pictures' / entry['file'], folder / 'best' / entry['picture']))
        difference = np.abs(image - drawn).max(axis=-1) > 3
        if entry['file'] != best['file']:
            assert not difference.any()
            continue
        x1, y1, x2, y2 = (round(value) for value in instance['bbox'])
        assert difference[max(0, y1 - 1):y1 + 2, x1:x2].mean() > 0.3  # the upper side of the box
        assert difference[rle.decode(instance['mask']) > 0].all()
        assert not difference[max(y2, y1 + 20) + 4:].any() and not difference[:max(0, y1 - 4)].any()


def test_neither_the_data_nor_the_weights_before_training_are_needed(run, shapes):
    image = next((shapes / 'coco/val2017').iterdir())
    options = ['--cfg-options', 'model.backbone.init_cfg.type=hybrid_mm.Released',
               'model.backbone.init_cfg.checkpoint=https://nowhere.invalid/net.pth',
               'test_dataloader.dataset.data_root=nowhere', 'visualizer=None']
    entry, = run('detector', image, '--score-thr', '0', *options)['images']
    assert entry['file'] == image.name and entry['instances']


def test_label_maps_are_those_of_an_evaluation(run, tiny, checkpoints, shapes, folder):
    root = shapes / 'ade/ADEChallengeData2016/images/validation'
    evaluate([tiny('segmentor'), str(checkpoints / 'segmentor.pth'), '--out', 'maps'])
    save_pngs(folder / 'pictures', [cv2.imread(str(path)) for path in sorted(root.iterdir())])
    found = run('segmentor', 'pictures', '--batch-size', '3')

    assert found['task'] == 'segmentation' and found['classes'] == list(META['segmentor']['classes'])
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / 'maps').glob('*.png'))]
    assert len(found['images']) == len(maps) == 4
    for i, (entry, expected) in enumerate(zip(found['images'], maps)):
        assert entry['file'] == f'{i}.png' and entry['label_map'] == f'label_maps/{i}.png'
        labels = cv2.imread(f'out/{entry["label_map"]}', cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8 and np.array_equal(labels, expected - 1)  # the evaluation counts from 1, as ADE20K
        assert {share['label']: share['share'] for share in entry['shares']} == {
            label: np.mean(labels == label) for label in np.unique(labels)}
        assert [share['share'] for share in entry['shares']] == sorted((s['share'] for s in entry['shares']), reverse=True)
        assert all(share['class'] == found['classes'][share['label']] for share in entry['shares'])
        # half the picture, half the colour of the class; the rest are the names
        drawn, image = cv2.imread(f'out/{entry["picture"]}'), cv2.imread(f'pictures/{entry["file"]}')
        blended = image / 2 + np.array(PALETTE)[labels][..., ::-1] / 2
        assert (np.abs(blended - drawn).max(axis=-1) <= 2).mean() > 0.8


def test_a_folder_of_all_sorts_of_files(run, tiny, checkpoints, shapes, folder):
    """Pictures of two sizes, of one name, in capital letters; no pictures; and one that is cut off."""
    image = cv2.imread(str(next((shapes / 'coco/val2017').iterdir())))
    wide = np.tile(image, (1, 2, 1))
    mixed = folder / 'mixed'
    mixed.mkdir()
    for name, content in (('a.png', image), ('b.jpg', image), ('b.png', wide), ('c.bmp', wide)):
        cv2.imwrite(str(mixed / name), content)
    shutil.copy(mixed / 'b.jpg', mixed / 'D.JPG')
    (mixed / 'cut.jpg').write_bytes(b'')
    (mixed / 'notes.txt').write_text('mine')
    (mixed / 'more.png').mkdir()
    with pytest.raises(SystemExit) as raised:
        run('segmentor', mixed, '--batch-size', '4')

    assert raised.value.code == 'Error: 1 of 6 pictures cannot be read: cut.jpg; what was found in the others is in out'
    found = json.loads(Path('out/predictions.json').read_text())['images']
    assert [(entry['file'], entry['width'], entry['picture'], entry['label_map']) for entry in found] == [
        ('D.JPG', 64, 'pictures/D.JPG', 'label_maps/D.png'),
        ('a.png', 64, 'pictures/a.png', 'label_maps/a.png'),
        ('b.jpg', 64, 'pictures/b.jpg.jpg', 'label_maps/b.jpg.png'),
        ('b.png', 128, 'pictures/b.png.png', 'label_maps/b.png.png'),
        ('c.bmp', 128, 'pictures/c.png', 'label_maps/c.png'),
    ]
    for entry in found:
        for name in ('picture', 'label_map'):
            assert cv2.imread(f'out/{entry[name]}').shape == (64, entry['width'], 3)
    single, = run('segmentor', mixed / 'b.png', out='single')['images']
    assert single['shares'] == found[3]['shares']


def test_classes_are_those_of_an_evaluation(run, tiny, checkpoints, pictures):
    evaluate([tiny('classifier'), str(checkpoints / 'classifier.pth'), '--out', 'found.pkl'])
    found = run('classifier', pictures / 'bright', '--batch-size', '4')

    expected = pickle.loads(Path('found.pkl').read_bytes())[:10]  # the folder comes first
    assert found['task'] == 'classification' and len(found['images']) == 10
    for entry, truth in zip(found['images'], expected):
        scores = [truth['pred_score'][best['label']].item() for best in entry['top']]
        assert [best['score'] for best in entry['top']] == pytest.approx(scores, abs=1e-6)
        assert entry['top'][0]['label'] == int(truth['pred_label']) and scores == sorted(scores, reverse=True)
        assert [best['class'] for best in entry['top']] == [('bright', 'dark')[best['label']] for best in entry['top']]
        drawn, image = cv2.imread(f'out/{entry["picture"]}'), cv2.imread(str(pictures / 'bright' / entry['file']))
        assert np.array_equal(drawn[10:], image[10:]) and not np.array_equal(drawn[:8], image[:8])  # the class is at the top


def test_frames_of_a_video_are_treated_as_pictures(run, shapes, folder, capsys):
    source = [cv2.imread(str(path)) // (8, 1, 1) for path in sorted((shapes / 'coco/train2017').iterdir())[:5]]  # little blue
    writer = cv2.VideoWriter('film.avi', cv2.VideoWriter_fourcc(*'MJPG'), 10., (64, 64))
    for frame in source:
        writer.write(frame.astype(np.uint8))
    writer.release()
    capture = cv2.VideoCapture('film.avi')
    save_pngs(folder / 'frames', [capture.read()[1] for _ in range(5)])
    few = ['--score-thr', '0', '--cfg-options', 'model.test_cfg.rcnn.max_per_img=2']
    pictures = run('detector', 'frames', *few, out='pictures')['images']
    capsys.readouterr()
    found = run('detector', 'film.avi', '--batch-size', '2', *few, out='video')

    assert 'frames 5/5 (100 %), ' in capsys.readouterr().out
    assert (found['video'], found['fps']) == ('film.avi', 10)
    assert [(entry['frame'], entry['time']) for entry in found['frames']] == [(i, i / 10) for i in range(5)]
    for entry, picture in zip(found['frames'], pictures):
        assert len(entry['instances']) == 2
        assert [x['label'] for x in entry['instances']] == [x['label'] for x in picture['instances']]
        boxes = [[x['bbox'] for x in side['instances']] for side in (entry, picture)]
        np.testing.assert_allclose(*boxes, atol=1e-3)
    path, = (folder / 'video' / 'pictures').iterdir()
    capture = cv2.VideoCapture(str(path))
    assert path.stem == 'film' and capture.get(cv2.CAP_PROP_FPS) == 10
    for picture in pictures:
        there, frame = capture.read()
        drawn = cv2.imread(f'pictures/{picture["picture"]}').astype(int)
        assert there and frame.shape == drawn.shape
        # a codec, but no other colours
        assert np.abs(frame - drawn).mean() < 20 and np.abs(frame - drawn).mean() < np.abs(frame[..., ::-1] - drawn).mean() / 2
    assert not capture.read()[0]


def test_names_come_from_the_config_where_the_checkpoint_has_none(run, tiny, checkpoints, shapes, folder):
    image = next((shapes / 'coco/val2017').iterdir())
    for name, classes in (('detector', SHAPES), ('segmentor', ('background', *SHAPES))):
        bare = folder / f'{name}.pth'
        torch.save(torch.load(checkpoints / f'{name}.pth')['state_dict'], bare)
        infer([tiny(name), str(bare), str(image)])
        out = Path('work_dirs', name, f'infer_{image.stem}')  # the default folder
        assert json.loads((out / 'predictions.json').read_text())['classes'] == list(classes)
        assert cv2.imread(str(out / 'pictures' / image.name)).shape == (64, 64, 3)


def test_what_was_found_before_an_error_stays(tiny, run, shapes, folder):
    image = cv2.imread(str(next((shapes / 'coco/val2017').iterdir())))
    save_pngs(folder / 'pictures', [image, image[:16, :16]])
    with pytest.raises(SystemExit, match='^Error: the image has 16x16 pixels, less than the stride of 32 of TransCNN'):
        run('segmentor', 'pictures')
    assert not (folder / 'out' / 'predictions.json').exists()
    entry, = json.loads((folder / 'out' / 'predictions.json.partial').read_text())['images']
    assert entry['file'] == '0.png' and cv2.imread(f'out/{entry["picture"]}').shape == (64, 64, 3)


def test_a_folder_that_holds_something_is_used_by_force_alone(run, pictures, folder):
    (folder / 'out').mkdir()
    (folder / 'out' / 'predictions.json').write_text('old')
    with pytest.raises(SystemExit, match='^Error: --out out is not empty; give another folder, or pass --force'):
        run('classifier', pictures / 'dark')
    assert [(path.name, path.read_text()) for path in (folder / 'out').iterdir()] == [('predictions.json', 'old')]
    assert len(run('classifier', pictures / 'dark', '--force')['images']) == 10


@pytest.mark.parametrize('args, message', [
    (['no.py', '{detector}.pth', '{image}'], 'Error: the config no.py does not exist; give the path of a file'),
    (['{tiny}/detector.py', 'no.pth', '{image}'], 'Error: checkpoint no.pth does not exist; give the path of a file'),
    (['{tiny}/detector.py', 'text', '{image}'], 'Error: checkpoint text is no checkpoint of PyTorch, or incomplete; give'),
    (['{tiny}/detector.py', '{segmentor}.pth', '{image}'],
     'Error: the checkpoint {segmentor}.pth is of another network: the file '),
    (['{tiny}/classifier.py', '{segmentor}.pth', '{image}'], 'Error: the checkpoint {segmentor}.pth is of another network: '),
    (['{tiny}/detector.py', 'names.pth', '{image}'],
     'Error: num_classes=4 of model.roi_head.bbox_head disagrees with the training data, which have 2 classes: a, b; '),
    (['{tiny}/classifier.py', 'bare.pth', '{image}'], 'Error: neither bare.pth nor the config names the classes; give them '),
    (['{tiny}/setformer.py', '{detector}.pth', '{image}', '--cfg-options', 'test_dataloader=None'],
     'Error: the config has no test_dataloader with a data set and its pipeline'),
    (['{tiny}/detector.py', '{detector}.pth', 'nothing'], 'Error: nothing does not exist; give a picture, a folder of '),
    (['{tiny}/detector.py', '{detector}.pth', 'empty'], 'Error: the folder empty has no pictures; give one with files that '),
    (['{tiny}/detector.py', '{detector}.pth', 'text'], 'Error: text is neither a picture nor a video that OpenCV opens; give'),
    (['{tiny}/detector.py', '{detector}.pth', 'text.jpg'], 'Error: text.jpg is no picture that OpenCV reads; give another'),
    (['{tiny}/detector.py', '{detector}.pth', '{image}', '--device', 'tpu'],
     'Error: --device tpu is not there; choose from cpu'),
    (['{tiny}/detector.py', '{detector}.pth', '{image}', '--batch-size', '0'],
     'Error: --batch-size 0 is not allowed; choose 1 or more'),
    (['{tiny}/detector.py', '{detector}.pth', '{image}', '--score-thr', '2'],
     'Error: --score-thr 2.0 is not allowed; choose 0 to 1'),
    (['{tiny}/segmentor.py', '{segmentor}.pth', '{image}', '--score-thr', '0.5'],
     "Error: --score-thr 0.5 is for detectors, but default_scope of the config is 'mmseg'; leave it out"),
])
def test_what_cannot_work_ends_with_a_sentence_and_no_output(tiny, checkpoints, shapes, folder, args, message):
    names = dict(tiny=Path(tiny('base')).parent, detector=checkpoints / 'detector', segmentor=checkpoints / 'segmentor',
                 image=next((shapes / 'coco/val2017').iterdir()))
    for name in ('text', 'text.jpg'):
        (folder / name).write_text('no picture')
    (folder / 'empty').mkdir()
    weights = torch.load(checkpoints / 'detector.pth')['state_dict']
    torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=('a', 'b')))), 'names.pth')
    torch.save(torch.load(checkpoints / 'classifier.pth')['state_dict'], 'bare.pth')
    before = sorted(folder.rglob('*'))
    with pytest.raises(SystemExit) as raised:
        infer([*(arg.format(**names) for arg in args[:3]), *args[3:]])
    assert raised.value.code.startswith(message.format(**names)) and '\n' not in raised.value.code
    assert sorted(folder.rglob('*')) == before
