"""``tools/converters/convert_released.py``, as a user runs it."""
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from reference.released_weights import dense_names, fill, weights

import hybrid_mm
from hybrid_mm.checkpoints import convert

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'converters' / 'convert_released.py'


@pytest.fixture(scope='module')
def released():
    return weights('hatnet_tiny')


@pytest.fixture
def src(released, tmp_path):
    torch.save({'model': released}, tmp_path / 'HAT-Net_Tiny.pth')
    return tmp_path / 'HAT-Net_Tiny.pth'


@pytest.fixture
def run(monkeypatch):
    """The tool inside this process, which spares the imports."""

    def _run(*args):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
        monkeypatch.setattr(sys, 'path', list(sys.path))
        runpy.run_path(str(TOOL), run_name='__main__')

    return _run


def assert_state_dict(path, expected):
    state_dict = torch.load(path, weights_only=True)['state_dict']
    assert list(state_dict) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(state_dict[key], value, rtol=0, atol=0)


def test_writes_a_backbone_from_any_folder(src, released, tmp_path):
    dst = tmp_path / 'new' / 'hatnet_t.pth'
    done = subprocess.run([sys.executable, TOOL, src, dst], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f'{dst}: 293 of 295 tensors of HATNet tiny, without the classifier' in done.stdout
    assert_state_dict(dst, {f'backbone.{key}': value for key, value in convert(released, 'HATNet').items()})
    assert torch.load(dst, weights_only=True)['meta'] == dict(
        family='HATNet', arch='tiny', source='HAT-Net_Tiny.pth', hybrid_mm_version=hybrid_mm.__version__)
    assert [path.name for path in dst.parent.iterdir()] == ['hatnet_t.pth']


def test_head_makes_it_an_image_classifier(run, src, released, tmp_path, capsys):
    run(src, tmp_path / 'dst.pth', '--family', 'HATNet', '--arch', 'tiny', '--head')
    assert capsys.readouterr().out.endswith('dst.pth: 295 of 295 tensors of HATNet tiny\n')
    assert_state_dict(tmp_path / 'dst.pth', convert(released, 'HATNet', head=True))


def test_what_is_not_written_is_counted(run, tmp_path, capsys):
    released = weights('parcnet_xs')
    torch.save(released, tmp_path / 'checkpoint_ema_avg.pt')
    run(tmp_path / 'checkpoint_ema_avg.pt', tmp_path / 'dst.pth')
    assert capsys.readouterr().out.endswith(
        'dst.pth: 467 of 487 tensors of ParCNet xs, without 18 that the release lists twice, '
        'without the classifier, which --head keeps\n')
    run(tmp_path / 'checkpoint_ema_avg.pt', tmp_path / 'classifier.pth', '--head')
    assert capsys.readouterr().out.endswith(
        'classifier.pth: 469 of 487 tensors of ParCNet xs, without 18 that the release lists twice\n')
    assert_state_dict(tmp_path / 'classifier.pth', convert(released, 'ParCNet', head=True))


def test_backbone_of_an_authors_detector_is_converted(run, tmp_path, capsys):
    released, names = weights('parc_convnext_xt'), dense_names('parc_convnext_xt')
    file = {f'backbone.{names[key]}': released[key] for key in names}
    file.update({f'backbone.norm{i}.{part}': torch.full((48 * 2**i, ), 2.) for i in range(4) for part in ('weight', 'bias')})
    torch.save({'state_dict': {**file, 'neck.conv.weight': torch.zeros(1)}}, tmp_path / 'cascade_rcnn.pth')
    run(tmp_path / 'cascade_rcnn.pth', tmp_path / 'dst.pth')
    assert capsys.readouterr().out.endswith(
        'dst.pth: 202 of 203 tensors of ParCConvNeXt xtiny, without 1 outside of the backbone\n')
    state_dict = torch.load(tmp_path / 'dst.pth', weights_only=True)['state_dict']
    assert (state_dict['backbone.out_norms.3.weight'] == 2).all()


def test_public_weights_of_a_baseline_become_a_backbone_without_parc(run, tmp_path, capsys):
    with torch.device('meta'):
        shapes = {key: tuple(value.shape) for key, value in torchvision.models.mobilenet_v2().state_dict().items()}
    torch.save(fill(shapes), tmp_path / 'mobilenet_v2.pth')
    run(tmp_path / 'mobilenet_v2.pth', tmp_path / 'dst.pth', '--family', 'ParCMobileNetV2', '--arch', '1.0')
    assert capsys.readouterr().out.endswith('312 of 314 tensors of ParCMobileNetV2 1.0 with insert_locations=(), '
                                            'without the classifier, which --head keeps\n')
    meta = torch.load(tmp_path / 'dst.pth', weights_only=True)['meta']
    assert (meta['family'], meta['arch'], meta['insert_locations']) == ('ParCMobileNetV2', 1.0, ())


@pytest.mark.parametrize('options, message', [
    (['--arch', 'small'], 'HAT-Net_Tiny.pth holds HATNet tiny, not HATNet small'),
    (['--family', 'TransCNN'], 'HAT-Net_Tiny.pth holds HATNet tiny, not TransCNN tiny'),
])
def test_another_network_than_expected_is_an_error(options, message, run, src, tmp_path):
    with pytest.raises(SystemExit, match=message):
        run(src, tmp_path / 'dst.pth', *options)
    assert not (tmp_path / 'dst.pth').exists()


def test_existing_file_is_kept_unless_forced(run, src, tmp_path):
    dst = tmp_path / 'dst.pth'
    dst.write_text('precious')
    with pytest.raises(SystemExit, match='dst.pth exists; pass --force to overwrite it'):
        run(src, dst)
    assert dst.read_text() == 'precious'
    run(src, dst, '--force')
    assert torch.load(dst, weights_only=True)['meta']['arch'] == 'tiny'


def test_file_of_something_else_is_an_error(run, tmp_path):
    torch.save({'layer1.weight': torch.zeros(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(SystemExit, match='no key is of a known release'):
        run(tmp_path / 'resnet.pth', tmp_path / 'dst.pth')


def test_failed_write_leaves_nothing_behind(run, src, tmp_path, monkeypatch):

    def full_disk(checkpoint, path):
        Path(path).write_bytes(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(SystemExit, match='No space left'):
        run(src, tmp_path / 'dst.pth')
    assert [path.name for path in tmp_path.iterdir()] == [src.name]
