"""TokenPyramid: strides, sizes, channels, and its place in front of the necks of MMDetection and MMSegmentation."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.functional import conv_transpose2d, gelu, layer_norm

from hybrid_mm.necks import TokenPyramid


def maps(*channels, size=(3, 5)):
    torch.manual_seed(0)
    return tuple(torch.randn(2, c, *size) for c in channels)


@pytest.mark.parametrize('size', [(4, 6), (3, 5), (1, 1)], ids=str)
@pytest.mark.parametrize('in_channels', [6, (6, 6, 6, 6), [2, 4, 6, 8]], ids=str)
def test_sizes_and_channels_of_the_pyramid(size, in_channels):
    neck = TokenPyramid(in_channels)
    channels = (6, ) * 4 if in_channels == 6 else tuple(in_channels)
    outs = neck(maps(*channels, size=size))
    H, W = size
    assert neck.out_channels == channels
    assert [tuple(out.shape[1:]) for out in outs] == [
        (channels[0], 4 * H, 4 * W), (channels[1], 2 * H, 2 * W), (channels[2], H, W),
        (channels[3], -(-H // 2), -(-W // 2))]


def test_outputs_are_contiguous_for_maps_of_any_format():
    neck = TokenPyramid(6)
    inputs = maps(6, 6, 6, 6)
    for x in (inputs, tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)):
        outs = neck(x)
        assert all(out.is_contiguous() for out in outs)
        for out, expected in zip(outs, neck(inputs)):
            torch.testing.assert_close(out, expected)


def test_each_level_is_what_it_is_said_to_be():
    neck = TokenPyramid(6).double()
    for parameter in neck.parameters():
        nn.init.normal_(parameter)
    x = tuple(x.double() for x in maps(6, 6, 6, 6))
    first, norm, _, second = neck.up4
    y = conv_transpose2d(x[0], first.weight, first.bias, stride=2).permute(0, 2, 3, 1)
    y = gelu(layer_norm(y, (6, ), norm.weight, norm.bias, 1e-6)).permute(0, 3, 1, 2)
    y = conv_transpose2d(y, second.weight, second.bias, stride=2)
    outs = neck(x)
    torch.testing.assert_close(outs[0], y)
    torch.testing.assert_close(outs[1], conv_transpose2d(x[1], neck.up2.weight, neck.up2.bias, stride=2))
    assert torch.equal(outs[2], x[2])
    assert torch.equal(outs[3][:, :, 0, 1], x[3][:, :, :2, 2:4].amax((2, 3)))
    assert torch.equal(outs[3][:, :, 1, 2], x[3][:, :, 2, 4])  # at the edge of an odd map: what is there


@pytest.mark.parametrize('norm_cfg, norm', [
    (dict(type='SyncBN'), nn.SyncBatchNorm), (dict(type='BN'), nn.BatchNorm2d), (dict(type='GN', num_groups=3), nn.GroupNorm)
], ids=lambda value: getattr(value, '__name__', ''))
def test_norm_is_a_choice(norm_cfg, norm):
    neck = TokenPyramid(6, norm_cfg=norm_cfg)
    assert isinstance(neck.up4[1], norm)
    assert [name for name, _ in neck.named_parameters() if 'up4.1' in name] == ['up4.1.weight', 'up4.1.bias']


def test_every_parameter_gets_a_gradient():
    neck = TokenPyramid(6)
    sum(out.square().sum() for out in neck(maps(6, 6, 6, 6))).backward()
    assert all(p.grad is not None and p.grad.any() for p in neck.parameters())


def test_stands_in_front_of_fpn_in_a_detector(tmp_path):
    """A config says so with a list of necks, which replaces the one neck of its base."""
    (tmp_path / 'base.py').write_text("model = dict(type='TwoStageDetector', neck=dict(type='FPN', out_channels=8))")
    (tmp_path / 'child.py').write_text('''
_base_ = './base.py'
model = dict(
    backbone=dict(type='mmdet.ResNet', depth=18),
    neck=[
        dict(type='hybrid_mm.TokenPyramid', in_channels=6),
        dict(type='FPN', in_channels=[6, 6, 6, 6], out_channels=8, num_outs=5)
    ])
''')
    import mmdet.models  # noqa: F401
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(Config.fromfile(tmp_path / 'child.py').model)
    outs = detector.neck(maps(6, 6, 6, 6, size=(4, 6)))
    assert [tuple(out.shape) for out in outs] == [(2, 8, 16, 24), (2, 8, 8, 12), (2, 8, 4, 6), (2, 8, 2, 3), (2, 8, 1, 2)]
    assert all(out.is_contiguous() for out in outs)


def test_is_the_neck_of_a_segmentor():
    import mmseg.models  # noqa: F401
    with DefaultScope.overwrite_default_scope('mmseg'):
        segmentor = MODELS.build(
            dict(
                type='EncoderDecoder',
                backbone=dict(type='ResNet', depth=18),
                neck=dict(type='hybrid_mm.TokenPyramid', in_channels=6),
                decode_head=dict(
                    type='UPerHead', in_channels=[6, 6, 6, 6], in_index=[0, 1, 2, 3], channels=8, num_classes=3,
                    norm_cfg=dict(type='GN', num_groups=1))))
    assert isinstance(segmentor.neck, TokenPyramid)
    assert segmentor.decode_head(segmentor.neck(maps(6, 6, 6, 6, size=(4, 4)))).shape == (2, 3, 16, 16)


@pytest.mark.parametrize('in_channels', [0, (6, 6, 6), (6, 6, 6, 6, 6), (6, 6, 6, 0)], ids=str)
def test_bad_channels_are_named(in_channels):
    with pytest.raises(ValueError, match='in_channels=.* is not allowed; give one number of channels, or one for each of'):
        TokenPyramid(in_channels)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError, match='TokenPyramid got 3 maps; give it 4'):
        TokenPyramid(6)(maps(6, 6, 6))
