"""`tools/analysis/erf.py` as a user runs it: the fields of several backbones in one picture, one table, one file of numbers."""
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from hybrid_mm import commands
from hybrid_mm.analysis import area, square_side
from hybrid_mm.analysis import effective_receptive_field as field_of
from hybrid_mm.analysis.erf_report import prepare_picture
from hybrid_mm.layers.layer_norm import LayerNorm2d

main = partial(commands.main, 'erf')

FRACTIONS = [0.2, 0.5, 0.95, 0.99]
FEW = ['--size', '64', '--number', '2']


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path, shapes, pictures):
    """An empty folder to work in."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # for the probes of the tiny configs
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.setenv('PICTURES', str(pictures))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stock(folder):
    """A config with a ResNet of MMPreTrain, which would start from weights on the network."""
    path = folder / 'resnet.py'
    path.write_text("default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18, "
                    "out_indices=(2, 3), init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')))\n")
    return str(path)


def areas_of(field):
    """As the JSON file has them."""
    return [dict(gradient=f, share=area(field.gradient, f), side=square_side(field.gradient, f, field.centre))
            for f in FRACTIONS]


def network_of(config):
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def test_several_fields_in_one_picture_one_table_and_one_file(tiny, folder, capsys):
    main([tiny('segmentor'), '--stage', '3', *FEW, '--out', 'one.png'])
    alone = capsys.readouterr().out
    main([tiny('segmentor'), tiny('setformer'), '--stage', '3', *FEW])
    printed, numbers = capsys.readouterr().out, json.loads(Path('erf.json').read_text())
    assert numbers.items() >= dict(size=64, number=2, images='normal noise', seed=0).items()
    assert [(x['config'], x['backbone'], x['stage'], x['checkpoint']) for x in numbers['backbones']] == [
        ('segmentor.py', 'TransCNN', 3, None), ('setformer.py', 'SeTformer', 3, None)]
    # a network's numbers do not depend on those beside it
    assert json.loads(Path('one.json').read_text())['backbones'] == numbers['backbones'][:1]
    for entry in numbers['backbones']:
        assert [x['gradient'] for x in entry['areas']] == FRACTIONS
        cells = '  '.join(f'{x["share"]:.2%} / {x["side"]} px' for x in entry['areas'])
        line, = (line for line in printed.splitlines() if line.startswith(entry['config'][:-3]))
        assert ' '.join(line.split()) == f'{entry["config"][:-3]}, stage 3, random weights ' + cells.replace('  ', ' ')
    assert 'images 4/4 (100 %)' in printed and 'at 64x64 pixels, 2 images, normal noise\n' in printed
    assert 'Random weights' in printed and 'Random weights' in alone and alone.endswith('one.png, one.json: 1 field\n')
    assert printed.endswith('erf.png, erf.json: 2 fields\n')
    one, two = cv2.imread('one.png'), cv2.imread('erf.png')
    assert two.shape[0] == one.shape[0] and two.shape[1] > 1.5 * one.shape[1]
    assert sorted(path.name for path in folder.iterdir()) == ['erf.json', 'erf.png', 'one.json', 'one.png']


def test_field_is_that_of_the_weights_in_the_checkpoint(tiny, stock, folder, capsys):
    networks = [network_of(tiny('classifier')), MODELS.build(dict(type='mmpretrain.ResNet', depth=18))]
    torch.save(dict(state_dict=networks[0].state_dict()), 'network.pth')
    torch.save(networks[1].state_dict(), 'backbone.pth')
    main([tiny('classifier'), stock, '--checkpoints', 'network.pth', 'backbone.pth', *FEW])
    numbers = json.loads(Path('erf.json').read_text())['backbones']
    assert [(x['checkpoint'], x['stage']) for x in numbers] == [('network.pth', 4), ('backbone.pth', 4)]
    for entry, backbone in zip(numbers, (networks[0].backbone, networks[1])):
        field = field_of(backbone, 64, -1, num_images=2, positive=True)
        assert entry['areas'] == areas_of(field) and entry['centre'] == list(field.centre)
    printed = capsys.readouterr().out
    assert 'classifier, stage 4, network ' in printed and 'Random weights' not in printed
    main([tiny('classifier'), stock, '--checkpoints', 'none', 'backbone.pth', *FEW, '--force'])
    mixed = json.loads(Path('erf.json').read_text())['backbones']
    assert mixed[0]['checkpoint'] is None and mixed[0]['areas'] != numbers[0]['areas'] and mixed[1] == numbers[1]
    assert 'Random weights' in capsys.readouterr().out


def test_stages_that_the_config_does_not_return_are_there_too(tiny, stock):
    torch.save(MODELS.build(dict(type='mmpretrain.ResNet', depth=18)).state_dict(), 'backbone.pth')
    sides = []
    for stage in ('1', '2', '3'):
        main([stock, '--checkpoints', 'backbone.pth', '--stage', stage, *FEW, '--force'])
        entry, = json.loads(Path('erf.json').read_text())['backbones']
        sides.append(entry['areas'][1]['side'])
    assert sides == sorted(set(sides))
    main([tiny('classifier'), '--stage', '2', *FEW, '--force'])  # which returns the last alone


def test_own_pictures_are_cut_normalised_and_used(tiny, folder):
    (folder / 'pictures').mkdir()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 80, 3)).astype(np.uint8) for _ in range(3)]
    for i, image in enumerate(images):
        cv2.imwrite(f'pictures/{i}.png', image)
    network = network_of(tiny('classifier'))
    torch.save(network.state_dict(), 'network.pth')
    main([tiny('classifier'), '--checkpoints', 'network.pth', '--images', 'pictures', '--size', '64'])
    numbers = json.loads(Path('erf.json').read_text())
    assert (numbers['images'], numbers['number']) == ('pictures of pictures', 3)
    cfg = Config.fromfile(tiny('classifier')).data_preprocessor
    assert cfg.to_rgb
    cut = [torch.from_numpy((image[:, 8:72, ::-1] - np.float32(cfg.mean)) / np.float32(cfg.std)).permute(2, 0, 1)
           for image in images]
    field = field_of(network.backbone, 64, 0, images=[image.float() for image in cut], positive=True)
    np.testing.assert_allclose([x['share'] for x in numbers['backbones'][0]['areas']], [x['share'] for x in areas_of(field)],
                               atol=1e-3)
    assert areas_of(field) != areas_of(field_of(network.backbone, 64, 0, num_images=3, positive=True))


@pytest.mark.parametrize('shape', [(40, 90), (200, 70), (33, 34)])
def test_pictures_of_any_shape_give_a_square(folder, shape):
    cv2.imwrite('picture.png', np.full((*shape, 3), (10, 20, 30), np.uint8))
    image = prepare_picture(folder / 'picture.png', 64, dict(mean=[1, 2, 3], std=[1, 2, 4], bgr_to_rgb=True))
    assert torch.equal(image, torch.tensor([29., 9., 1.75])[:, None, None].expand(3, 64, 64))


def test_images_of_another_size_are_an_error():
    with pytest.raises(ValueError, match=r'an image has the shape \(3, 8, 9\); give \(C, 8, 8\)'):
        field_of(torch.nn.Conv2d(3, 2, 3), 8, images=[torch.zeros(3, 8, 9)])


def test_field_behind_a_layer_norm_is_that_of_what_is_in_front():
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 16, 5, padding=2)
    field = field_of(torch.nn.Sequential(convolution, LayerNorm2d(16)), 21, num_images=2, positive=True)
    assert field.gradient[8:13, 8:13].min() > 0.005 and field.gradient.count_nonzero() == 25


@pytest.mark.parametrize('args, message', [
    (['no.py'], 'the config no.py does not exist; give the path of a file'),
    (['{tiny}/classifier.py', '--out', 'erf.jpg'], '--out erf.jpg is not allowed; give a file that ends in .png'),
    (['{tiny}/classifier.py', '--out', 'there.png'], '--out there.json exists; give another file, or pass --force'),
    (['{tiny}/classifier.py', '--size', '16'], '--size 16 is not allowed; choose 32 or more'),
    (['{tiny}/classifier.py', '--number', '0'], '--number 0 is not allowed; choose 1 or more'),
    (['{tiny}/classifier.py', '--stage', '0'], '--stage 0 is not allowed; stages count from 1'),
    (['{tiny}/classifier.py', '--stage', '5'], '--stage 5 is not allowed for TransCNN of {tiny}/classifier.py: out_indices='),
    (['resnet.py', '--stage', '5'], '--stage 5 is not allowed for ResNet of resnet.py'),
    (['{tiny}/classifier.py', '--cfg-options', 'model.backbone=None'], '{tiny}/classifier.py has no model.backbone; give'),
    (['{tiny}/classifier.py', 'resnet.py', '--checkpoints', 'none'], '--checkpoints has 1 files for 2 configs; give one for'),
    (['{tiny}/classifier.py', '--checkpoints', 'no.pth'], '--checkpoints no.pth does not exist; give the path of a file'),
    (['{tiny}/classifier.py', '--checkpoints', 'other.pth'], 'other.pth does not fit the backbone: '),
    (['resnet.py', '--checkpoints', 'other.pth'], 'the checkpoint other.pth is of another network: the file lacks'),
    (['{tiny}/classifier.py', '--images', 'nothing'], 'nothing does not exist; give a picture, a folder of pictures'),
    (['{tiny}/classifier.py', '--images', 'text'], 'text/text.png is no picture that OpenCV reads; remove it from the folder'),
    (['{tiny}/classifier.py', '--images', 'text', '--cfg-options', 'model.backbone.in_channels=4'], 'in_channels=4 of '),
    (['{tiny}/classifier.py', '--device', 'tpu'], '--device tpu is not there; choose from cpu'),
])
def test_a_fault_ends_with_a_sentence_and_no_output(tiny, stock, folder, args, message):
    (folder / 'text').mkdir()
    (folder / 'text' / 'text.png').write_text('no picture')
    (folder / 'there.json').write_text('numbers')
    torch.save(dict(weight=torch.zeros(3)), 'other.pth')
    names = dict(tiny=Path(tiny('base')).parent)
    before = sorted(folder.rglob('*'))
    with pytest.raises(SystemExit) as raised:
        main([arg.format(**names) for arg in args])
    assert raised.value.code.startswith(f'Error: {message.format(**names)}') and '\n' not in raised.value.code
    assert sorted(folder.rglob('*')) == before and (folder / 'there.json').read_text() == 'numbers'
