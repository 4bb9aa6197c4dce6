"""`tools/deploy/export_onnx.py` as a user runs it: a file that agrees with torch, or one sentence and no file."""
import json
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from hybrid_mm import commands
from hybrid_mm.deploy import build_network, networks, onnx_file, write_onnx
from hybrid_mm.deploy.any_size import CellMeans
from hybrid_mm.engine import SetupError
from hybrid_mm.networks import build_model

THIN = dict(  # no ParC in it: few operators
    arch=dict(_delete_=True, channels=[8, 8, 8, 16], depths=[1, 1, 1, 1]), insert_locations=[], layer_scale_init_value=1.)
CHILDREN = {
    'imagenet_parc_convnext_xt.py': dict(
        backbone=dict(THIN, out_indices=[1]), neck=dict(in_channels=8), head=dict(in_channels=8, num_classes=5)),
    'maskrcnn_parc_convnext_t.py': dict(backbone=THIN, neck=dict(in_channels=[8, 8, 8, 16])),
    'upernet_parc_convnext_xt.py': dict(
        backbone=THIN, decode_head=dict(in_channels=[8, 8, 8, 16], channels=8), auxiliary_head=dict(in_channels=8)),
}
CLASSIFIER, DETECTOR, SEGMENTOR = CHILDREN


export_onnx = partial(commands.main, 'export_onnx')


@pytest.fixture
def config(root, monkeypatch, tmp_path):
    """Writes a config with few and narrow blocks, and gives its path; the working folder holds nothing else."""
    monkeypatch.chdir(tmp_path)

    def write(parent):
        folder = tmp_path.parent / f'{tmp_path.name}_configs'
        folder.mkdir(exist_ok=True)
        path = folder / f'thin_{parent}'
        path.write_text(f'_base_ = [{str(root / "configs" / parent)!r}]\nmodel = {CHILDREN[parent]!r}\n')
        return str(path)

    return write


def network(path, **kwargs):
    return build_network(Config.fromfile(path), **kwargs)


def test_classifier_with_the_weights_of_a_checkpoint(config, tmp_path, capsys):
    path = config(CLASSIFIER)
    cfg = Config.fromfile(path)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(cfg, 'cpu')
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'trained.pth')

    export_onnx([path, 'trained.pth', '--out', 'net.onnx', '--shape', '64', '32'])
    printed = capsys.readouterr().out
    assert 'exporting the network up to its logits of thin_imagenet_parc_convnext_xt.py' in printed and 'random' not in printed
    assert 'MB, opset 18, 64x32, one image' in printed and 'of the largest value of an output' in printed
    assert {file.name for file in tmp_path.iterdir()} == {'net.onnx', 'trained.pth'}

    image = torch.randn(1, 3, 64, 32)
    session = onnxruntime.InferenceSession('net.onnx')
    logits, = session.run(['logits'], dict(image=image.numpy()))
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(image, mode='tensor'), rtol=0, atol=1e-5)
    preprocessor = json.loads(session.get_modelmeta().custom_metadata_map['data_preprocessor'])
    assert preprocessor == dict(mean=cfg.data_preprocessor.mean, std=cfg.data_preprocessor.std, to_rgb=True)


def test_detector_without_boxes_at_any_size(config, tmp_path, capsys):
    export_onnx([config(DETECTOR), '--out', 'net.onnx', '--shape', '96', '--dynamic', '--part', 'backbone',
                 '--cfg-options', 'model.backbone.out_indices=[0,1]', 'model.neck.in_channels=[8,8]', '--opset', '20'])
    printed = capsys.readouterr().out
    assert 'no checkpoint is given: the weights are random' in printed
    assert 'opset 20, any batch and size from 64x64' in printed
    assert printed.endswith(f'The boxes are not in it: {networks.NO_BOXES}.\n')
    model = onnx.load('net.onnx')
    assert [output.name for output in model.graph.output] == ['map0', 'map1'] and model.opset_import[0].version == 20


# ---- which part of a model ----


def test_detector_goes_out_with_its_neck(config):
    whole = network(config(DETECTOR))
    image = torch.randn(1, 3, 64, 64)
    assert whole.part == 'neck'
    with torch.no_grad():
        assert [tuple(x.shape) for x in whole(image)] == [(1, 256, side, side) for side in (16, 8, 4, 2, 1)]
        assert [x.shape[1] for x in network(config(DETECTOR), part='backbone')(image)] == [8, 8, 8, 16]


def test_logits_of_a_segmentor_have_the_size_of_the_image(config):
    whole = network(config(SEGMENTOR))
    image = torch.randn(2, 3, 70, 50)
    assert whole.part == 'logits' and not any(p.requires_grad for p in whole.parameters())
    with torch.no_grad():
        logits, = whole(image)
        expected = nn.functional.interpolate(whole.model(image, mode='tensor'), (70, 50), mode='bilinear', align_corners=False)
    assert logits.shape == (2, 150, 70, 50) and torch.equal(logits, expected)


def test_adaptive_pooling_of_upernet_is_exported_for_any_size(tmp_path):
    pools = nn.Sequential(nn.AdaptiveAvgPool2d((5, 7)), nn.AdaptiveAvgPool2d(3))
    before = list(pools)
    assert write_onnx(pools, (1, 2, 64, 65), tmp_path / 'net.onnx', dynamic=True) < 1e-5
    assert list(pools) == before
    image = torch.randn(2, 3, 4, 5)  # fewer than cells, and no multiples
    for cells in ((1, 6), (3, 2), (6, 6)):
        torch.testing.assert_close(CellMeans(cells)(image), nn.functional.adaptive_avg_pool2d(image, cells))


# ---- what cannot be exported ----


class Noise(nn.Module):
    """Every run gives something else."""

    def forward(self, x):
        return x + torch.rand_like(x)


class NotANumber(nn.Module):

    def forward(self, x):
        return (x - x) / (x - x)


class Eigenvalues(nn.Module):

    def forward(self, x):
        return torch.linalg.eigh(x @ x.transpose(2, 3))[0]


class OneSize(nn.Module):

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(683, 4)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.parametrize('net, dynamic, message', [
    (Noise, False, r'Noise computes something else in onnxruntime than in torch, .* of the largest value and at most 1e-04 is'),
    (NotANumber, False, 'NotANumber computes something else in onnxruntime than in torch, inf of the largest value'),
    (Eigenvalues, False, "Eigenvalues cannot be exported: ONNX has no counterpart of torch's operator aten._linalg_eigh"),
    (OneSize, True, 'OneSize cannot be exported: what it computes depends on the size of the image in a way that one graph'),
])
def test_what_fails_says_why_and_leaves_the_folder_as_it_was(tmp_path, net, dynamic, message):
    path = tmp_path / 'net.onnx'
    before = 'of yesterday' if net is NotANumber else None  # which fails where the file is compared, as Noise does
    if before:
        path.write_text(before)
    with pytest.raises(SetupError, match=message) as raised:
        write_onnx(net().eval(), (1, 3, 64, 64), path, dynamic)
    assert '\n' not in str(raised.value) and [file.read_text() for file in tmp_path.iterdir()] == [before] * bool(before)


@pytest.mark.parametrize('parent, args, message', [
    (CLASSIFIER, ['--out', 'net.pt'], '--out net.pt is not allowed; give a file that ends in .onnx'),
    (CLASSIFIER, ['--out', 'no/net.onnx'], 'the folder no of --out no/net.onnx does not exist'),
    (CLASSIFIER, ['no.pth', '--out', 'net.onnx'], 'the checkpoint no.pth does not exist'),
    (CLASSIFIER, ['--out', 'net.onnx', '--shape', '16'], 'shape 16 16 is not allowed'),
    (CLASSIFIER, ['--out', 'net.onnx', '--shape', '32', '--dynamic'], '--shape 32 32 is not allowed with --dynamic; '
     'choose 64 or more'),
    (CLASSIFIER, ['--out', 'net.onnx', '--opset', '17'], '--opset 17 is not allowed; choose from 18 to 23'),
    (CLASSIFIER, ['--out', 'net.onnx', '--cfg-options', 'model.backbone.arch=huge'], "arch='huge' is unknown"),
    (DETECTOR, ['--out', 'net.onnx', '--part', 'logits'], f'--part logits is not allowed: {networks.NO_BOXES}, so '
     'that the boxes of a detector cannot be exported; choose from backbone, neck'),
    (SEGMENTOR, ['--out', 'net.onnx', '--part', 'neck'], '--part neck is not allowed: EncoderDecoder has none; choose '
     'from backbone, logits'),
])
def test_a_fault_ends_with_a_sentence_before_work_starts(config, monkeypatch, tmp_path, parent, args, message):
    monkeypatch.setattr(torch.onnx, 'export', None)
    with pytest.raises(SystemExit) as raised:
        export_onnx([config(parent), *args])
    assert raised.value.code.startswith(f'Error: {message}') and '\n' not in raised.value.code
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_overwritten_on_demand_alone(config, tmp_path):
    (tmp_path / 'net.onnx').write_text('of yesterday')
    with pytest.raises(SystemExit, match='Error: --out net.onnx exists; give another file, or pass --force'):
        export_onnx([config(CLASSIFIER), '--out', 'net.onnx'])


def test_checkpoint_of_another_network_is_refused(config):
    path = config(CLASSIFIER)
    torch.save(dict(state_dict={'backbone.stem.0.weight': torch.zeros(1)}), 'other.pth')
    with pytest.raises(SetupError, match='the checkpoint other.pth is of another network: the file lacks'):
        network(path, checkpoint='other.pth')


def test_missing_library_is_named_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_file, 'find_spec', lambda name: None if name == 'onnxscript' else True)
    with pytest.raises(SetupError, match='ONNX needs onnxscript, not installed here; run `pip install onnxscript`'):
        write_onnx(nn.Identity(), (1, 3, 64, 64), tmp_path / 'net.onnx')
