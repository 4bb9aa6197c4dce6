"""`tools/analysis/grad_cam.py` as a user runs it: the heat lies where it is known to belong, on every kind of network."""
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn
from torch.nn import functional as F

from hybrid_mm import commands
from hybrid_mm.analysis.cam_layers import as_map, find_place
from hybrid_mm.analysis.class_activation import METHODS, Explainer, first_principal
from hybrid_mm.inference import PREDICTORS

main, infer = (partial(commands.main, name) for name in ('grad_cam', 'infer'))

COLOURS = dict(blue=(255, 0, 0), green=(0, 255, 0), red=(0, 0, 255))  # BGR
SHAPES = ('disc', 'triangle', 'striped square', 'checked diamond')
CLASSES = dict(detector=SHAPES, segmentor=('background', *SHAPES), classifier=('bright', 'dark'))

CLASSIFIER = '''
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier', backbone=dict(type='Colours'), neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=3))
data_preprocessor = dict(mean=[0., 0., 0.], std=[255., 255., 255.], to_rgb=True)
test_dataloader = dict(dataset=dict(type='CustomDataset', data_root='nothing', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=48, edge='short'), dict(type='CenterCrop', crop_size=48),
    dict(type='PackInputs')]))
'''


@MODELS.register_module(force=True)
class Colours(nn.Module):
    """How red, green and blue each patch of 8 x 8 pixels is."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return F.avg_pool2d(x, 8) * self.scale,


@pytest.fixture(scope='module')
def checkpoints(shapes, pictures, tiny, tmp_path_factory):
    """Networks with random weights, as a training saves them."""
    folder = tmp_path_factory.mktemp('checkpoints')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))  # for the probes of the tiny configs
        patch.setenv('SHAPES', str(shapes))
        patch.setenv('PICTURES', str(pictures))
        for name, classes in CLASSES.items():
            cfg = Config.fromfile(tiny(name))
            init_default_scope(cfg.default_scope)
            cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
            torch.manual_seed(0)
            torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=dict(dataset_meta=dict(classes=classes))),
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
    """Run the tool with a network by its name; the content of activation_maps.json."""

    def run(name, source, *args, out='out'):
        main([tiny(name), str(checkpoints / f'{name}.pth'), str(source), '--out', out, '--force', *map(str, args)])
        return json.loads(Path(out, 'activation_maps.json').read_text())

    return run


@pytest.fixture
def colours(folder):
    """A classifier that sees nothing but colours, and a picture with a patch of each; where they are, (x, y)."""
    (folder / 'colours.py').write_text(CLASSIFIER)
    weights = {'backbone.scale': torch.ones(()), 'head.fc.weight': torch.eye(3), 'head.fc.bias': torch.zeros(3)}
    torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=('red', 'green', 'blue')))), 'colours.pth')
    image = np.zeros((48, 64, 3), np.uint8)
    places = dict(red=(16, 8), green=(40, 8), blue=(24, 32))  # multiples of 8 in what the crop leaves, which begins at 8
    for name, (x, y) in places.items():
        image[y:y + 8, x:x + 8] = COLOURS[name]
    image[40:48, 48:56] = (0, 60, 0)  # so that green is the best class
    cv2.imwrite('picture.png', image)
    return places


def test_the_patch_that_makes_the_class_is_lit(colours, capsys):
    everything = {}
    for name in ('red', 'blue', 'green', None):
        main(['colours.py', 'colours.pth', 'picture.png', '--out', 'out', '--force', *(['--class', name] if name else [])])
        numbers = json.loads(Path('out/activation_maps.json').read_text())
        assert numbers.items() >= dict(task='classification', config='colours.py', checkpoint='colours.pth', method='gradcam',
                                       layer='last output of the backbone').items()
        entry, = numbers['images']
        x, y = colours[name or 'green']
        assert (entry['file'], entry['picture'], entry['class']) == ('picture.png', 'picture.png', name or 'green')
        assert x - 8 <= entry['hottest'][0] < x and y <= entry['hottest'][1] < y + 8  # 8 pixels go at the left
        assert entry['target'] == pytest.approx({'green': (255 + 60) / 255 / 36}.get(name or 'green', 1 / 36))
        everything[name] = cv2.imread('out/picture.png').astype(int)
        assert everything[name].shape == (48, 48, 3)
    assert np.array_equal(everything.pop(None), everything['green'])
    for name, (x, y) in colours.items():  # red is hot, blue is cold
        hot = {shown: np.subtract(*drawn[y + 4, x - 4, [2, 0]]) for shown, drawn in everything.items()}
        assert all(hot[name] > hot[other] + 60 for other in colours if other != name)
    assert capsys.readouterr().out.endswith('pictures 1/1 (100 %), 0:00:00 left\nout: 1 picture and activation_maps.json\n')


def test_every_method_lights_the_patch_but_eigencam_knows_no_class(colours):
    for method in METHODS:
        args = ['colours.py', 'colours.pth', 'picture.png', '--out', method, '--method', method]
        if method == 'eigencam':
            with pytest.raises(SystemExit, match='^Error: --class red means nothing to --method eigencam, which looks at'):
                main([*args, '--class', 'red'])
            main(args)
        else:
            main([*args, '--class', 'red'])
        numbers = json.loads(Path(method, 'activation_maps.json').read_text())
        entry, = numbers['images']
        assert numbers['method'] == method
        if method == 'eigencam':
            assert (entry['class'], entry['target']) == (None, None) and entry['hottest'] is not None
        else:
            assert 8 <= entry['hottest'][0] < 16 and 8 <= entry['hottest'][1] < 16


def test_principal_component_is_the_librarys_with_its_largest_value_above_zero():
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction as reference
    features = np.random.default_rng(0).normal(size=(6, 5, 7)) * np.arange(1, 7)[:, None, None]
    for sign in (1, -1):
        found = first_principal(sign * features)
        np.testing.assert_allclose(found, reference(sign * features[None])[0], atol=1e-4)
        assert found.max() >= -found.min()


def families():
    """Type -> scope and small settings."""
    ours = dict(TransCNN=dict(arch='small'), HATNet=dict(arch='tiny'), SeTformer=dict(arch='mini'), ParCResNet=dict(depth=50),
                ParCMobileNetV2={}, ParCConvNeXt=dict(arch='xtiny'), ParCNet=dict(arch='xs'), GLiT=dict(arch='tiny'))
    cases = [pytest.param(f'hybrid_mm.{name}', settings, id=name) for name, settings in ours.items()]
    return [*cases, pytest.param('hybrid_mm.GLiT', dict(arch='tiny', mode='image'), id='GLiT-image'),
            pytest.param('mmpretrain.ResNet', dict(depth=18, out_indices=(2, 3)), id='ResNet'),
            pytest.param('mmpretrain.SwinTransformer', dict(arch='tiny', out_indices=(3, ), pad_small_map=True), id='Swin')]


@pytest.mark.parametrize('kind, settings', families())
def test_heat_of_every_backbone_is_its_features_weighed_by_their_gradient(kind, settings):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.build(dict(settings, type=kind))
        backbone.eval()
        maps = backbone(torch.zeros(1, 3, 96, 64))
        model = MODELS.build(dict(
            type='ImageClassifier', backbone=dict(type='ResNet', depth=18),
            neck=dict(type='GlobalAveragePooling') if maps[-1].dim() == 4 else None,
            head=dict(type='LinearClsHead', num_classes=4, in_channels=maps[-1].shape[1])))
    model.backbone = backbone
    image = np.random.default_rng(0).integers(0, 256, (96, 64, 3)).astype(np.uint8)
    sample = dict(inputs=torch.from_numpy(image).permute(2, 0, 1), data_samples=SimpleNamespace(to=lambda *args: None))
    predictor = SimpleNamespace(task='classification', inferencer=SimpleNamespace(model=model), prepare=lambda *args: sample)
    explainer = Explainer(predictor)
    # random weights may give a class a heat of 0
    found = next(found for found in (explainer.explain(image, label=label) for label in range(4)) if found.heat.any())
    explainer.close()

    place, caught = find_place(model), []
    assert explainer.place == place.name
    handle = place.module.register_forward_hook(lambda layer, args, out: caught.append(out))
    model.requires_grad_()
    inputs = model.data_preprocessor(pseudo_collate([dict(inputs=sample['inputs'])]), False)['inputs']
    logit = model(inputs, mode='tensor')[0, found.label]
    handle.remove()
    features = caught[0] if place.output is None else caught[0][place.output]
    gradient, = torch.autograd.grad(logit, features)
    features, gradient = as_map(features, (96, 64)), as_map(gradient, (96, 64))
    heat = (features * gradient.mean((2, 3), keepdim=True)).sum(1)[0].relu().detach().numpy()
    heat = cv2.resize(heat / heat.max(), (64, 96))
    assert features.shape[2:].numel() >= 6 and heat.std() > 0.05 and found.target == pytest.approx(logit.item(), rel=1e-4)
    np.testing.assert_allclose(found.heat, (heat - heat.min()) / (heat.max() - heat.min()), atol=2e-3)
    assert np.array_equal(found.picture, image)


def test_boxes_of_the_class_are_explained_and_nothing_outside_counts(run, tiny, checkpoints, shapes):
    image = next((shapes / 'coco/val2017').iterdir())
    few = ['--score-thr', '0', '--cfg-options', 'model.test_cfg.rcnn.max_per_img=4']
    infer([tiny('detector'), str(checkpoints / 'detector.pth'), str(image), '--out', 'found', *few])
    instances = json.loads(Path('found/predictions.json').read_text())['images'][0]['instances']
    numbers = run('detector', image, *few)
    assert (numbers['task'], numbers['method'], numbers['layer']) == ('detection', 'hirescam', 'backbone.stages.3.0')
    entry, = numbers['images']
    assert (entry['class'], entry['boxes']) == (None, 4)
    assert entry['target'] == pytest.approx(sum(instance['score'] for instance in instances))
    for name in {instance['class'] for instance in instances}:
        entry, = run('detector', image, '--class', name, *few)['images']
        scores = [instance['score'] for instance in instances if instance['class'] == name]
        assert (entry['class'], entry['boxes']) == (name, len(scores)) and entry['target'] == pytest.approx(sum(scores))


def explain(tiny, checkpoints, name, image, label=None, score_thr=0., **options):
    cfg = Config.fromfile(tiny(name))
    if name == 'detector':
        cfg.model.test_cfg.rcnn.max_per_img = 1
    predictor = PREDICTORS[cfg.default_scope](cfg, str(checkpoints / f'{name}.pth'), 'cpu')
    return predictor, Explainer(predictor, score_thr=score_thr, **options).explain(cv2.imread(str(image)), image, label)


def test_features_of_the_neck_count_inside_of_the_box_alone(tiny, checkpoints, shapes):
    image = next((shapes / 'coco/val2017').iterdir())
    found = explain(tiny, checkpoints, 'detector', image, layer='neck.fpn_convs.0.conv')[1]
    assert found.heat.shape == found.picture.shape[:2] == (192, 192) and found.boxes.shape == (1, 4)
    x1, y1, x2, y2 = found.boxes[0]
    rows, columns = np.mgrid[:192, :192]
    margin = 16  # the box moves by what the head regresses, and a position of the map has 4 pixels
    outside = (columns < x1 - margin) | (columns > x2 + margin) | (rows < y1 - margin) | (rows > y2 + margin)
    assert outside.any() and found.heat.max() == 1 and not found.heat[outside].any()
    drawn = found.draw()
    assert drawn.shape == (192, 192, 3) and (drawn[min(round(y1), 191), min(round(x1), 191)] > 250).all()


def test_target_of_a_segmentor_is_the_mean_logit_where_the_class_wins(run, tiny, checkpoints, shapes):
    image = next((shapes / 'ade/ADEChallengeData2016/images/validation').iterdir())
    predictor, found = explain(tiny, checkpoints, 'segmentor', image)
    sample, = predictor.predict([predictor.prepare(cv2.imread(str(image)), image)])
    labels, logits = sample.pred_sem_seg.data[0].numpy(), sample.seg_logits.data.numpy()
    counts = np.bincount(labels.ravel(), minlength=5)
    assert found.label == counts.argmax() and np.array_equal(found.region, labels == found.label)
    assert found.target == pytest.approx(logits[found.label][found.region].mean(), rel=1e-4)
    rarest = min(np.flatnonzero(counts), key=lambda label: counts[label])
    absent = np.flatnonzero(counts == 0)
    entry, = run('segmentor', image, '--class', CLASSES['segmentor'][rarest])['images']
    assert entry['class'] == CLASSES['segmentor'][rarest]
    assert entry['target'] == pytest.approx(logits[rarest][labels == rarest].mean(), rel=1e-4)
    if absent.size:
        with pytest.raises(SystemExit, match='^Error: none of 1 pictures has a map, see out/activation_maps.json'):
            run('segmentor', image, '--class', CLASSES['segmentor'][absent[0]])


def test_scores_of_dense_heads_have_a_gradient(folder, shapes):
    (folder / 'retinanet.py').write_text('''
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py']
default_scope = 'mmdet'
model = dict(
    backbone=dict(depth=18, init_cfg=None), neck=dict(in_channels=[64, 128, 256, 512], out_channels=16),
    bbox_head=dict(num_classes=4, in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0., max_per_img=5))
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64), keep_ratio=False),
    dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
''')
    cfg = Config.fromfile('retinanet.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=dict(dataset_meta=dict(classes=SHAPES))), 'net.pth')
    image = next((shapes / 'coco/val2017').iterdir())
    for stage in ('2', '4'):
        main(['retinanet.py', 'net.pth', str(image), '--stage', stage, '--score-thr', '0', '--out', 'out', '--force'])
        numbers = json.loads(Path('out/activation_maps.json').read_text())
        assert numbers['layer'] == f'output {stage} of the backbone' and numbers['images'][0]['boxes'] == 5
        assert cv2.imread(f'out/{image.stem}.png').shape == (64, 96, 3)
    with pytest.raises(SystemExit, match='^Error: bbox_head.cls_convs.0 runs 5 times a picture; give a layer that runs once'):
        main(['retinanet.py', 'net.pth', str(image), '--layer', 'bbox_head.cls_convs.0', '--score-thr', '0', '--out', 'no'])


def test_tokens_have_their_places():
    grid = torch.arange(2 * 3 * 4.).reshape(1, 2, 3, 4)
    tokens = grid.flatten(2).transpose(1, 2)
    for size in [(48, 64), (33, 50)]:  # 33 / 16 rounded up is 3
        assert torch.equal(as_map(tokens, size), grid)
        assert torch.equal(as_map(torch.cat([torch.ones(1, 1, 2), tokens], 1), size), grid)
    with pytest.raises(ValueError, match=r'features of shape \(1, 12, 2\) for an image of 48x48 pixels, no map and no tokens'):
        as_map(tokens, (48, 48))


def test_pictures_that_cannot_be_read_are_named_and_the_others_drawn(run, shapes, folder, capsys):
    (folder / 'pictures').mkdir()
    image = next((shapes / 'coco/val2017').iterdir())
    (folder / 'pictures' / 'b.jpg').write_bytes(image.read_bytes())
    (folder / 'pictures' / 'a.jpg').write_text('no picture')
    entries = run('segmentor', 'pictures')['images']
    assert entries[0] == dict(file='a.jpg', problem='cannot be read') and entries[1]['picture'] == 'b.png'
    assert '1 of 2 pictures cannot be read: a.jpg\n' in capsys.readouterr().out
    assert sorted(path.name for path in Path('out').iterdir()) == ['activation_maps.json', 'b.png']


@pytest.mark.parametrize('name, args, message', [
    ('detector', ['--class', 'square'], '--class square is no class of this network; choose from disc, triangle, striped'),
    ('detector', ['--layer', 'backbone.stages.3.9'], '--layer backbone.stages.3.9 is no layer of MaskRCNN; choose one'),
    ('detector', ['--stage', '5'], '--stage 5 is not among those that TransCNN gives here; choose from 1, 2, 3, 4, or a layer'),
    ('detector', ['--score-thr', '2'], '--score-thr 2.0 is not allowed; choose 0 to 1'),
    ('segmentor', ['--score-thr', '0.5'], "--score-thr 0.5 is for detectors, but default_scope of the config is 'mmseg'"),
    ('detector', ['--device', 'tpu'], '--device tpu is not there; choose from cpu'),
    ('detector', ['--cfg-options', 'test_dataloader=None'], 'the config has no test_dataloader with a data set and its '),
    ('detector', ['--out', 'full'], '--out full is not empty; give another folder, or pass --force'),
])
def test_what_cannot_work_ends_with_a_sentence_and_no_output(tiny, checkpoints, shapes, folder, name, args, message):
    (folder / 'full').mkdir()
    (folder / 'full' / 'old.png').write_text('old')
    before = sorted(folder.rglob('*'))
    with pytest.raises(SystemExit) as raised:
        main([tiny(name), str(checkpoints / f'{name}.pth'), str(next((shapes / 'coco/val2017').iterdir())), *args])
    assert raised.value.code.startswith(f'Error: {message}') and '\n' not in raised.value.code
    assert sorted(folder.rglob('*')) == before


def test_no_box_is_said_and_a_layer_without_a_map_too(run, shapes):
    image = next((shapes / 'coco/val2017').iterdir())
    with pytest.raises(SystemExit, match='^Error: none of 1 pictures has a map, .*; give a lower --score-thr'):
        run('detector', image, '--score-thr', '1')
    with pytest.raises(SystemExit, match='^Error: the output of backbone is a tuple, no map of features; give another layer'):
        run('detector', image, '--layer', 'backbone', '--score-thr', '0')
    with pytest.raises(SystemExit, match='^Error: what MaskRCNN finds does not depend on roi_head.mask_head.convs.0 in a way'):
        run('detector', image, '--layer', 'roi_head.mask_head.convs.0', '--score-thr', '0')
