"""Backbones of the libraries, built by config with ParC inside."""
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from hybrid_mm.layers import ParCHW

CONVNEXT = dict(type='mmpretrain.ConvNeXt', arch=dict(depths=[1, 1, 2, 1], channels=[8, 12, 16, 24]),
                out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
MOBILENET = dict(type='mmpretrain.MobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 7))
VIT = dict(type='mmpretrain.VisionTransformer', arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
           img_size=64, out_type='featmap')


def with_parc(backbone, select=r'^stages\.[23]', resolution=64, **kwargs):
    return dict(type='hybrid_mm.WithParC', backbone=backbone, select=select, resolution=resolution, **kwargs)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
@pytest.mark.parametrize('cfg, strides', [
    (with_parc(CONVNEXT), (4, 8, 16, 32)),
    (with_parc(MOBILENET, r'^layer[46]\.[12]\.conv\.1'), (4, 8, 16, 32)),
])
def test_built_from_the_scope_of_every_library(scope, cfg, strides):
    init_default_scope(scope)
    host = MODELS.build(cfg)
    assert type(host).__name__ == cfg['backbone']['type'].split('.')[1]
    assert sum(isinstance(m, ParCHW) for m in host.modules()) >= 3
    host.init_weights()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        outs = host(torch.randn(1, 3, 64, 96).contiguous(memory_format=memory_format))
        assert [out.shape[2:] for out in outs] == [(64 // s, 96 // s) for s in strides]
        assert all(out.is_contiguous() for out in outs)  # mmcv's RoIAlign needs it


def test_vision_transformer_gives_contiguous_maps():
    init_default_scope('mmseg')
    out, = MODELS.build(with_parc(VIT, r'attn$'))(torch.randn(1, 3, 64, 64))
    assert out.shape == (1, 8, 4, 4) and out.is_contiguous()


def test_what_is_replaced_is_logged():
    init_default_scope('mmpretrain')
    logger, lines = MMLogger.get_instance('with_parc'), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    try:
        MODELS.build(with_parc(CONVNEXT))
    finally:
        logger.removeHandler(handler)
    assert 'ParC replaces 3 layers of ConvNeXt:' in '\n'.join(lines)
    assert 'stages.2.1.depthwise_conv: Conv2d 7x7 -> ParC, 16 channels, base size 4x4, init random' in '\n'.join(lines)


@pytest.mark.parametrize('init', ['from_kernel', 'random'])
def test_pretrained_file_of_the_host_loads_and_seeds(tmp_path, init):
    init_default_scope('mmdet')
    host = MODELS.build(CONVNEXT)
    for parameter in host.parameters():
        nn.init.normal_(parameter)
    path = str(tmp_path / 'convnext.pth')
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in host.state_dict().items()}), path)
    pretrained = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    model = MODELS.build(with_parc(dict(CONVNEXT, init_cfg=pretrained), init=init))
    start = model.stages[2][0].depthwise_conv.h.weight.clone()
    model.init_weights()
    expected = host.state_dict()
    replaced = [name for name, m in model.named_modules() if isinstance(m, ParCHW)]
    for key, value in model.state_dict().items():
        if not any(key.startswith(name) for name in replaced):
            assert torch.equal(value, expected[key]), key
    kernel = host.stages[2][0].depthwise_conv.weight[:8, 0, :, 3]
    # 7 taps on a ring of 4: three ahead of the centre, three behind, of which two meet
    seed = torch.stack([kernel[:, 3], kernel[:, 4] + kernel[:, 0], kernel[:, 5] + kernel[:, 1], kernel[:, 6] + kernel[:, 2]], 1)
    layer = model.stages[2][0].depthwise_conv
    torch.testing.assert_close(layer.h.weight[:, 0, :, 0], seed if init == 'from_kernel' else start[:, 0, :, 0])


def test_gradient_reaches_everything_and_layer_decay_knows_the_depths():
    init_default_scope('mmpretrain')
    model = MODELS.build(with_parc(CONVNEXT, init='from_kernel'))
    model.init_weights()
    model.train()
    sum(out.square().mean() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert (model.get_layer_depth('backbone.stages.2.0.depthwise_conv.h.weight', 'backbone.') ==
            model.get_layer_depth('backbone.stages.2.0.norm.weight', 'backbone.'))


@pytest.mark.parametrize('change, message', [
    (dict(select='nothing'), 'a module without any layer to replace'),
    (dict(init='zeros'), "init='zeros' is unknown"),
])
def test_bad_config_is_one_clear_error(change, message):
    init_default_scope('mmdet')
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(with_parc(CONVNEXT), **change))
