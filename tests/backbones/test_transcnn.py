import pytest
import torch

from hybrid_mm.backbones import HATNet, TransCNN


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('arch, without_head', [
    ('small', 12_802_976), ('base', 26_025_824), ('medium', 47_681_504), ('large', 79_264_352)
])
def test_transcnn_has_the_released_number_of_parameters(arch, without_head):
    with torch.device('meta'):
        assert count(TransCNN(arch)) == without_head


@pytest.mark.parametrize('arch, separate, shared', [
    ('small', 17_385_480, 12_406_536), ('base', 33_087_368, 24_730_376), ('medium', 59_648_008, 44_396_680),
    ('large', 98_005_128, 72_710_664)
])
def test_iterative_form_has_the_derived_number_of_parameters(arch, separate, shared):
    with torch.device('meta'):
        for share_qkv, with_head in ((False, separate), (True, shared)):
            model = TransCNN(arch, h_mhsa='iterative', share_qkv=share_qkv)
            assert count(model) + 1000 * (model.out_channels[-1] + 1) == with_head


@pytest.mark.parametrize('arch, without_head', [
    ('tiny', 12_270_912), ('small', 25_234_784), ('medium', 42_429_472), ('large', 62_491_488)
])
def test_hatnet_has_the_released_number_of_parameters(arch, without_head):
    with torch.device('meta'):
        assert count(HATNet(arch)) == without_head


def test_parts_have_the_parameters_of_the_release():
    with torch.device('meta'):
        model = TransCNN('base')
    assert count(model.stem) == 9_760
    assert [count(d) for d in model.downsamples] == [0, 82_688, 329_216, 1_313_792]
    assert [(count(s[0].attn), count(s[0].irb)) for s in model.stages] == [
        (29_504, 40_320), (116_352, 137_984), (462_080, 831_488), (1_051_648, 3_186_688)]


@pytest.mark.parametrize('build', [
    lambda: TransCNN('small'), lambda: TransCNN('small', h_mhsa='iterative'), lambda: HATNet('tiny')
], ids=['two_step', 'iterative', 'hatnet'])
@pytest.mark.parametrize('size', [(33, 47), (799, 1333), (2000, 3000)], ids=str)
def test_any_size_gives_ceil_sized_maps(build, size):
    """Shapes alone: the values at odd sizes are compared with the plain definition in tests/layers."""
    with torch.device('meta'):
        outs = build().eval()(torch.zeros(1, 3, *size))
    assert [tuple(o.shape[2:]) for o in outs] == [tuple(-(-n // s) for n in size) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize('h_mhsa', ['two_step', 'iterative'])
def test_long_and_odd_images_run(h_mhsa):
    thin = dict(
        channels=(8, 8, 8, 8), depths=(1, 1, 1, 1), expansions=(1, 1, 1, 1), kernel_sizes=(3, 3, 3, 3),
        **TransCNN._grids)
    model = TransCNN(thin, h_mhsa=h_mhsa, head_dim=8).eval()
    with torch.no_grad():
        for size in ((799, 1333), (3000, 701)):
            outs = model(torch.randn(1, 3, *size))
            assert all(torch.isfinite(out).all() for out in outs)
            assert outs[0].shape[2:] == (-(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize('kwargs, message', [
    (dict(h_mhsa='windowed'), "h_mhsa='windowed' is unknown; choose from two_step, iterative"),
    (dict(share_qkv=True), "share_qkv=True goes with h_mhsa='iterative' alone"),
    (dict(head_dim=48), 'head_dim=48 does not divide channels=64'),
    (dict(arch=dict(TransCNN.arch_settings['small'], grid_sizes=(0, 8, 8, 1))), 'grid_size=0 is not allowed'),
])
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TransCNN(**{'arch': 'small', **kwargs})


def test_two_sizes_cost_what_the_paper_claims():
    """MACs of one H-MHSA in stage 1 by the formulae of its docstring, counted on the products that the layer runs."""
    counted = {side: attention_macs(TransCNN('small').stages[0][0].attn, side) for side in (64, 128)}
    assert counted[64] == dict(projections=84_410_368, local=33_554_432, pooled=33_554_432)
    ratios = {part: counted[128][part] / counted[64][part] for part in counted[64]}
    assert ratios == dict(projections=4., local=4., pooled=16.)


def test_iterative_form_is_linear_in_the_number_of_positions():
    layer = TransCNN('small', h_mhsa='iterative').stages[0][0].attn
    small, large = attention_macs(layer, 64), attention_macs(layer, 128)
    assert sum(large.values()) == 4 * sum(small.values())


def attention_macs(layer, side):
    """MACs of the 1x1 convolutions, of attention among equally many queries and keys, and of attention to fewer keys."""
    macs = dict(projections=0, local=0, pooled=0)
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def count_attention(q, k, v, **kwargs):
        part = 'local' if q.shape[-2] == k.shape[-2] else 'pooled'
        macs[part] += 2 * q.shape[:-1].numel() * q.shape[-1] * k.shape[-2]
        return sdpa(q, k, v, **kwargs)

    def count_conv(module, args, out):
        macs['projections'] += module.weight.numel() * out.shape[2] * out.shape[3] * out.shape[0]

    hooks = [m.register_forward_hook(count_conv) for m in layer.modules() if isinstance(m, torch.nn.Conv2d)]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, 'scaled_dot_product_attention', count_attention)
        layer.eval()(torch.zeros(1, 64, side, side))
    for hook in hooks:
        hook.remove()
    return macs
