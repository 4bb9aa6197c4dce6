"""A batch of one picture at the smallest size trains, or a sentence names the layer that has one value a channel."""
import pytest
import torch

from hybrid_mm import backbones
from hybrid_mm.errors import SetupError

GROUPS = dict(type='GN', num_groups=1)
SMALLEST = dict(TransCNN=32, HATNet=32, SeTformer=32, GLiT=32, ParCNet=32, ParCConvNeXt=32, ParCResNet=32, ParCMobileNetV2=32)
NAMED = {  # the layer, and the side of a picture with which it trains; None where there is none
    'TransCNN': ('stages.0.0.attn.pool_norm', 64),
    'ParCNet': ('stages.1.0.blocks.0.ca.fc.1', None),
    'ParCResNet': ('stages.3.0.norm2', 64),
    'ParCMobileNetV2': ('stages.3.0.depthwise.1', 64),
}


def build(name, **options):
    torch.manual_seed(0)
    return getattr(backbones, name)(**options).train()


def step(backbone, side, pictures=1):
    sum(x.square().mean() for x in backbone(torch.rand(pictures, 3, side, side))).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.grad is not None)


@pytest.mark.parametrize('name', sorted(set(SMALLEST) - set(NAMED)))
def test_one_small_picture_trains(name):
    step(build(name), SMALLEST[name])


@pytest.mark.parametrize('name', NAMED)
def test_a_layer_with_one_value_a_channel_is_named_and_each_advice_helps(name):
    layer, side = NAMED[name]
    backbone = build(name)
    with pytest.raises(SetupError) as raised:
        step(backbone, SMALLEST[name])
    message = str(raised.value)
    assert message.startswith(f'{layer} (BatchNorm2d) has one value a channel, 1x') and '\n' not in message
    assert dict(backbone.named_modules())[layer].num_features == int(message.partition(', 1x')[2].partition('x')[0])
    assert raised.value.__suppress_context__
    if side is None:  # whatever the size
        with pytest.raises(SetupError, match=f'^{layer} '):
            step(backbone, 64)
    step(backbone, SMALLEST[name], pictures=2)
    if side is not None:
        step(backbone, side)
    step(build(name, norm_eval=True), SMALLEST[name])
    step(build(name, norm_cfg=GROUPS), SMALLEST[name])


def test_recomputing_names_the_layer_too():
    with pytest.raises(SetupError, match='^stages.3.0.norm2 '):
        build('ParCResNet', with_cp=True)(torch.rand(1, 3, 32, 32, requires_grad=True))


def test_an_error_of_another_kind_stays_as_it_is():
    backbone = build('TransCNN')
    backbone.stem.register_forward_hook(lambda *args: int('other'))
    with pytest.raises(ValueError, match='^invalid literal') as raised:
        step(backbone, 32)
    assert not isinstance(raised.value, SetupError)
