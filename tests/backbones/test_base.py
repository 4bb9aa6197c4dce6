"""What every backbone promises, on a tiny TransCNN and a tiny HATNet."""
import copy
from types import SimpleNamespace

import pytest
import torch
from backbones.features import BACKBONES
from mmengine.model import PretrainedInit
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from torch import nn

from hybrid_mm.backbones import HATNet, ParCResNet, TransCNN, base

TINY = dict(
    channels=(16, 16, 32, 32), depths=(1, 2, 2, 1), expansions=(2, 2, 2, 2), kernel_sizes=(3, 3, 3, 3),
    grid_sizes=(8, 4, 2, 1), pool_ratios=(8, 4, 2, 1))
ARCHS = {
    TransCNN: dict(TINY, grid_lists=((8, 4), (4, 2), (2, 2), (2, ))),
    HATNet: dict(TINY, head_dim=16),
}


def build(backbone=TransCNN, **kwargs):
    torch.manual_seed(0)
    if backbone is TransCNN:
        kwargs.setdefault('head_dim', 16)
    model = backbone(arch=copy.deepcopy(ARCHS[backbone]), **kwargs)
    model.init_weights()
    return model


@pytest.fixture(params=[TransCNN, HATNet], ids=lambda b: b.__name__)
def backbone(request):
    return request.param


def test_image_below_the_stride_is_refused(backbone):
    with pytest.raises(ValueError, match='31x64 pixels, less than the stride of 32'):
        build(backbone)(torch.zeros(1, 3, 31, 64))
    assert len(build(backbone, out_indices=(0, 1))(torch.zeros(2, 3, 31, 64))) == 2


@pytest.mark.parametrize('kwargs, message', [
    (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\) is not allowed; choose one or more from -4 to 3'),
    (dict(out_indices=(-5, )), r'out_indices=\(-5,\) is not allowed'),
    (dict(out_indices=()), r'out_indices=\(\) is not allowed'),
    (dict(out_indices=(True, )), r'out_indices=\(True,\) is not allowed; choose one or more from -4 to 3'),
    (dict(out_indices=True), r'out_indices=\(True,\) is not allowed'),
    (dict(out_indices=(0, 1.)), r'out_indices=\(0, 1.0\) is not allowed'),
    (dict(frozen_stages=5), 'frozen_stages=5 is not allowed; choose from -1'),
    (dict(frozen_stages=1.5), 'frozen_stages=1.5 is not allowed; choose from -1'),
    (dict(frozen_stages=True), 'frozen_stages=True is not allowed'),
    (dict(frozen_stages='1'), 'frozen_stages=1 is not allowed'),
    (dict(memory_format='nhwc'), "memory_format='nhwc' is unknown; choose from auto, channels_last, contiguous"),
    (dict(drop_path_rate=1.), 'drop_path_rate=1.0 is not allowed'),
])
def test_arguments_out_of_range_are_named(backbone, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(backbone, **kwargs)


def test_unknown_arch_lists_the_known_ones(backbone):
    with pytest.raises(ValueError, match="arch='huge' is unknown; choose from .*small, .*medium, large or pass a dict"):
        backbone(arch='huge')
    with pytest.raises(ValueError, match='arch has the keys depths; it needs exactly channels, depths'):
        backbone(arch=dict(depths=(1, 1, 1, 1)))
    with pytest.raises(ValueError, match='lists of different lengths'):
        backbone(arch=dict(ARCHS[backbone], depths=(1, 1)))


def test_out_indices_select_and_order_maps(backbone):
    x = torch.randn(1, 3, 64, 64)
    full = build(backbone).eval()(x)
    some = build(backbone, out_indices=(2, 0, -1)).eval()
    assert some.out_channels == (32, 16, 32)
    for out, index in zip(some(x), (2, 0, 3)):
        assert torch.equal(out, full[index])


def test_stages_behind_the_last_output_take_no_gradient(backbone):
    model = build(backbone, out_indices=(0, 1))
    sum(out.sum() for out in model(torch.randn(2, 3, 32, 32))).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(p.requires_grad for p in model.stages[2].parameters())


def test_every_trained_parameter_gets_a_gradient(backbone):
    model = build(backbone, out_norm=True)
    sum(out.square().sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_frozen_stages_do_not_move_in_a_training_step():
    model = build(frozen_stages=2)
    before = copy.deepcopy(model.state_dict())
    optim = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.))
    optim.update_params(sum(out.square().mean() for out in model(torch.randn(2, 3, 64, 64))))
    moved = {name.split('.')[0] + name.split('.')[1] for name, v in model.state_dict().items() if not v.equal(before[name])}
    assert moved == {'downsamples2', 'downsamples3', 'stages2', 'stages3'}


def test_norm_eval_keeps_batchnorm_in_evaluation_mode():
    model = build(norm_eval=True).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    assert model.stages[0].training and all(p.requires_grad for m in norms for p in m.parameters())
    assert all(m.training for m in build().train().modules())


def test_train_and_eval_return_the_model(backbone):
    model = build(backbone)
    assert model.train() is model and model.eval() is model


def test_drop_path_rises_linearly_over_the_blocks(backbone):
    model = build(backbone, drop_path_rate=0.5)
    rates = [getattr(block.drop_path, 'drop_prob', 0.) for blocks in model.stages for block in blocks]
    assert rates == pytest.approx([0., 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize('norm_cfg, norm', [
    (dict(type='BN'), nn.BatchNorm2d), (dict(type='SyncBN'), nn.SyncBatchNorm), (dict(type='GN', num_groups=4), nn.GroupNorm)
])
def test_norm_cfg_reaches_every_norm(backbone, norm_cfg, norm):
    model = build(backbone, norm_cfg=norm_cfg, out_norm=True)
    kinds = {type(m) for m in model.modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm))}
    assert kinds and all(issubclass(kind, norm) for kind in kinds)


def test_out_norm_norms_the_returned_maps_alone(backbone):
    x = torch.randn(2, 3, 64, 64)
    kwargs = dict(norm_cfg=dict(type='GN', num_groups=1), out_indices=(1, 3))
    plain, normed = build(backbone, **kwargs), build(backbone, out_norm=True, **kwargs)
    extra = normed.state_dict().keys() - plain.state_dict().keys()
    assert extra == {f'out_norms.{i}.{name}' for i in (1, 3) for name in ('weight', 'bias')}
    normed.load_state_dict(plain.state_dict(), strict=False)
    for raw, out in zip(plain(x), normed(x)):
        torch.testing.assert_close(out, nn.functional.group_norm(raw, 1), rtol=1e-5, atol=1e-5)


def test_layer_depth_rises_from_stem_to_head(backbone):
    model = build(backbone, out_norm=True)
    depth = {name: model.get_layer_depth('backbone.' + name, 'backbone.') for name, _ in model.named_parameters()}
    assert {count for _, count in depth.values()} == {8}
    assert {d for name, (d, _) in depth.items() if name.startswith('stem.')} == {0}
    for name, (d, _) in depth.items():
        part, *rest = name.split('.')
        starts = (0, 1, 3, 5)  # blocks in front of each stage
        if part == 'stages':
            assert d == starts[int(rest[0])] + int(rest[1]) + 1
        elif part == 'downsamples':
            assert d == starts[int(rest[0])] + 1
        elif part == 'out_norms':
            assert d == (1, 3, 5, 6)[int(rest[0])]
    assert model.get_layer_depth('neck.conv.weight', 'backbone.') == (7, 8)


def test_default_initialisation_is_small_and_unbiased(backbone):
    model = build(backbone)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert 0.01 < module.weight.std() < 0.03
            assert module.bias is None or not module.bias.any()


def test_float16_trains_with_finite_gradients(backbone):
    model = build(backbone)
    with torch.autocast('cpu', dtype=torch.float16):
        outs = model(torch.randn(2, 3, 48, 64))
        loss = sum(out.float().square().mean() for out in outs)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_inference_does_not_depend_on_the_batch_around_an_image(backbone):
    model = build(backbone).double().eval()
    x = torch.randn(3, 3, 40, 56, dtype=torch.float64)
    for whole, alone in zip(model(x), model(x[1:2])):
        torch.testing.assert_close(whole[1:2], alone, rtol=1e-10, atol=1e-12)


# ---- what a subclass leaves to the base ----


class Plain(base.BaseBackbone):
    """As docs/adding_a_backbone.md writes one."""

    arch_settings = {'tiny': dict(channels=(4, 8), depths=(1, 2))}

    def __init__(self, arch='tiny', **kwargs):
        super().__init__(arch, dict(type='BN'), out_indices=(0, 1), **kwargs)
        channels = self.settings['channels']

        def downsample(i):
            return nn.Conv2d(channels[i - 1], channels[i], 3, stride=2, padding=1)

        def block(i, j, drop_path_rate):
            return nn.Sequential(nn.Conv2d(channels[i], channels[i], 1), self.norm_layer(channels[i]))

        self.stem = nn.Conv2d(self.in_channels, channels[0], 4, stride=4)
        self.build_stages(block, downsample)


class ByHand(base.BaseBackbone):
    """As the page had it before, parts one by one and a last call."""

    arch_settings = {'tiny': dict(depths=(1, 1))}

    def __init__(self, **kwargs):
        super().__init__('tiny', dict(type='BN'), out_indices=(0, 1), **kwargs)
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.downsamples = nn.ModuleList([nn.Identity(), nn.Conv2d(4, 8, 2, stride=2)])
        self.stages = nn.ModuleList(nn.ModuleList([nn.BatchNorm2d(c)]) for c in (4, 8))
        self.finish((4, 8))


class WithoutLastCall(ByHand):
    """The same with the channels, and without the call."""

    def finish(self, channels):
        self.stage_channels = channels


class OtherStem(Plain):
    """A subclass of a subclass, which changes a part and uses what is there."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = nn.Conv2d(3, self.out_channels[0], 4, stride=4)


@pytest.mark.parametrize('kind', [Plain, ByHand, WithoutLastCall, OtherStem], ids=lambda kind: kind.__name__)
def test_output_norms_and_freezing_cannot_be_left_out(kind):
    model = kind(out_norm=True, frozen_stages=1)
    maps = model(torch.randn(2, 3, 16, 16))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 4, 4), (2, 8, 2, 2)] and model.out_channels == (4, 8)
    assert [type(norm) for norm in model.out_norms] == [nn.BatchNorm2d] * 2
    assert not any(p.requires_grad for part in (model.stem, model.stages[0]) for p in part.parameters())
    assert all(p.requires_grad for part in (*model.stages[1], *model.out_norms) for p in part.parameters())
    assert not any(m.training for part in (model.stem, *model.stages[0]) for m in part.modules())
    assert model.get_layer_depth('stages.1.0.weight')[0] == 2


def test_part_that_a_subclass_forgets_is_named():

    class Empty(Plain):
        def __init__(self):
            super(Plain, self).__init__('tiny', dict(type='BN'), out_indices=(0, ))
            self.stem = nn.Identity()

    class NoChannels(ByHand):
        def finish(self, channels):
            pass

    with pytest.raises(TypeError, match='the constructor of Empty leaves out downsamples, stages'):
        Empty()
    with pytest.raises(TypeError, match='the constructor of NoChannels leaves out stage_channels'):
        NoChannels()


def ours():
    """Rows of the table of features that are of our own classes."""
    return pytest.mark.parametrize('name', [name for name in BACKBONES if not name.startswith('WithParC')])


@ours()
def test_empty_batch_gives_empty_maps_and_no_gradient(name):
    model = MODELS.build(copy.deepcopy(BACKBONES[name])).eval()
    full, empty = (model(torch.zeros(number, 3, 64, 64)) for number in (1, 0))
    assert [output.shape for output in empty] == [(0, *output.shape[1:]) for output in full]
    sum(output.sum() for output in empty).backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


# ---- the start of the weights ----


@ours()
def test_no_initialiser_means_the_start_of_the_family(name):
    states = []
    for kwargs in ({}, dict(init_cfg=None)):
        torch.manual_seed(0)
        model = MODELS.build(dict(copy.deepcopy(BACKBONES[name]), **kwargs))
        model.init_weights()
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_signal_passes_through_a_convnet_at_the_start():
    """With BatchNorm in evaluation mode, which does not scale at the start, weights of std 0.02 would let it vanish."""
    torch.manual_seed(0)
    model = ParCResNet(init_cfg=None).eval()
    model.init_weights()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64))[-1].std() > 1


RELEASED = dict(type='hybrid_mm.Released', checkpoint='a.pth')
KAIMING = dict(type='Kaiming', layer='Conv2d')


@pytest.mark.parametrize('given, expected', [
    (dict(type='Pretrained', checkpoint='a.pth'), RELEASED),
    (dict(type='mmengine.Pretrained', checkpoint='a.pth', prefix=None, map_location='cpu'), RELEASED),
    (dict(type=PretrainedInit, checkpoint='a.pth', prefix='backbone.'), dict(RELEASED, prefix='backbone.')),
    ([dict(type='Pretrained', checkpoint='a.pth'), KAIMING], [KAIMING, RELEASED]),  # files last, as mmengine runs them
    (KAIMING, KAIMING), ([RELEASED, KAIMING], [RELEASED, KAIMING]),
], ids=str)
@ours()
def test_file_of_weights_goes_through_the_strict_loader(name, given, expected):
    with torch.device('meta'):
        assert MODELS.build(dict(copy.deepcopy(BACKBONES[name]), init_cfg=given)).init_cfg == expected


# ---- memory formats ----


@ours()
def test_memory_formats_differ_inside_alone(name):
    image, outputs = torch.randn(1, 3, 64, 96, dtype=torch.float64), {}
    for memory_format in ('auto', 'channels_last', 'contiguous'):
        torch.manual_seed(0)
        model = MODELS.build(dict(copy.deepcopy(BACKBONES[name]), memory_format=memory_format)).double().eval()
        seen = []
        model.stem.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            outputs[memory_format] = model(image)
        assert seen[0].is_contiguous() == (memory_format == 'contiguous')
        assert seen[0].is_contiguous(memory_format=torch.channels_last) == (memory_format != 'contiguous')
        assert all(output.is_contiguous() for output in outputs[memory_format])
    for a, b, c in zip(*outputs.values()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('device, dtype, expected', [
    ('cpu', torch.float32, 'channels_last'), ('cpu', torch.bfloat16, 'channels_last'), ('cuda', torch.float32, 'contiguous'),
    ('cuda', torch.float16, 'channels_last'), ('cuda', torch.bfloat16, 'channels_last'), ('xpu', torch.float16, 'contiguous')
])
def test_format_is_chosen_by_device_and_dtype(device, dtype, expected):
    assert base._choose_format(SimpleNamespace(device=torch.device(device), dtype=dtype, is_cuda=False)) == expected


# ---- recomputation under a compiler ----


@pytest.mark.parametrize('name', ['HATNet', 'ParCMobileNetV2'])
def test_checkpointing_compiles(name):
    """Outputs, gradients and running statistics of the first stage, compiled with recomputed blocks and without either."""
    image, results = torch.randn(2, 3, 64, 64, dtype=torch.float64), []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = MODELS.build(dict(copy.deepcopy(BACKBONES[name]), out_indices=(0, ), with_cp=with_cp)).double().train()
        torch.compiler.reset()
        network = torch.compile(model, backend='aot_eager', fullgraph=True) if with_cp else model
        output, = network(image)
        output.square().mean().backward()
        results.append((output, {key: p.grad for key, p in model.named_parameters()}, dict(model.named_buffers())))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
