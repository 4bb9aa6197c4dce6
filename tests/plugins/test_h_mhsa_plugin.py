"""mmdet's and mmseg's own ResNet with H-MHSA in its bottlenecks."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from hybrid_mm.layers import HMHSA, IterativeHMHSA


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('cfg, layer', [
    (dict(type='hybrid_mm.HMHSA', grid_size=4, pool_ratio=2), HMHSA),
    (dict(type='hybrid_mm.IterativeHMHSA', grid_sizes=(4, 2)), IterativeHMHSA),
])
def test_stock_resnet_takes_the_plugin(scope, cfg, layer):
    init_default_scope(scope)
    plugins = [dict(cfg=cfg, stages=(False, True, False, True), position='after_conv2')]
    resnet = MODELS.build(dict(type=f'{scope}.ResNet', depth=50, plugins=plugins))
    resnet.init_weights()
    found = [name for name, m in resnet.named_modules() if isinstance(m, layer)]
    assert {name.split('.')[0] for name in found} == {'layer2', 'layer4'}
    assert len(found) == 4 + 3
    assert resnet.layer2[0].after_conv2_plugin_names

    outs = resnet(torch.randn(2, 3, 72, 100))
    assert [out.shape[1:] for out in outs] == [(256, 18, 25), (512, 9, 13), (1024, 5, 7), (2048, 3, 4)]
    assert all(out.is_contiguous() for out in outs)
    sum(out.square().mean() for out in outs).backward()
    plugin = getattr(resnet.layer2[0], resnet.layer2[0].after_conv2_plugin_names[0])
    assert all(p.grad is not None for p in plugin.parameters())


def test_plugin_keeps_its_residual():
    init_default_scope('mmdet')
    plugin = MODELS.build(dict(type='hybrid_mm.HMHSA', in_channels=64))
    plugin.init_weights()
    x = torch.randn(2, 64, 9, 9)
    torch.testing.assert_close(plugin(x), x + plugin.layer(x))
    assert plugin.layer.proj.weight.std() < 0.03


def test_channels_of_the_host_must_fit_the_heads():
    init_default_scope('mmdet')
    with pytest.raises(ValueError, match='head_dim=48 does not divide channels=64'):
        MODELS.build(dict(type='hybrid_mm.HMHSA', in_channels=64, head_dim=48))
