"""mmdet's and mmseg's own ResNet with ParC in its bottlenecks."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from hybrid_mm.layers import ParCHW


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_stock_resnet_takes_one_entry_for_each_base_size(scope):
    init_default_scope(scope)
    plugins = [
        dict(cfg=dict(type='hybrid_mm.ParC', base_size=(4, 6), postfix='_a'), stages=(False, False, True, False),
             position='after_conv2'),
        dict(cfg=dict(type='hybrid_mm.ParC', base_size=3, depthwise=False, postfix='_b'), stages=(False, False, False, True),
             position='after_conv2'),
    ]
    resnet = MODELS.build(dict(type=f'{scope}.ResNet', depth=50, plugins=plugins))
    resnet.init_weights()
    found = {name: m for name, m in resnet.named_modules() if isinstance(m, ParCHW)}
    assert sorted(name.split('.')[0] for name in found) == ['layer3'] * 6 + ['layer4'] * 3
    assert {(m.h.base_size, m.w.base_size, m.h.depthwise) for m in found.values()} == {(4, 6, True), (3, 3, False)}
    assert (resnet.layer3[0].after_conv2_plugin_names, resnet.layer4[0].after_conv2_plugin_names) == (['parc_a'], ['parc_b'])

    outs = resnet(torch.randn(2, 3, 72, 100))
    assert [out.shape[1:] for out in outs] == [(256, 18, 25), (512, 9, 13), (1024, 5, 7), (2048, 3, 4)]
    assert all(out.is_contiguous() for out in outs)
    sum(out.square().mean() for out in outs).backward()
    assert all(p.grad is not None for m in found.values() for p in m.parameters())


def test_plugin_keeps_its_residual():
    init_default_scope('mmdet')
    plugin = MODELS.build(dict(type='hybrid_mm.ParC', in_channels=6, base_size=5, bias=False, pos_embed=False))
    before = plugin.layer.h.weight.clone()
    plugin.init_weights()
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(plugin(x), x + plugin.layer(x))
    assert torch.equal(plugin.layer.h.weight, before) and plugin.layer.h.bias is None and plugin.layer.h.pos_embed is None


def test_bad_input_is_one_clear_error():
    init_default_scope('mmdet')
    with pytest.raises(ValueError, match='7'):
        MODELS.build(dict(type='hybrid_mm.ParC', in_channels=7, base_size=5))
    with pytest.raises(ValueError, match='magic'):
        MODELS.build(dict(type='hybrid_mm.ParC', in_channels=6, base_size=5, backend='magic'))
