"""Training in bfloat16 on a CPU."""
import copy

import pytest
import torch
from torch import nn

from hybrid_mm.engine import AutocastOptimWrapper, SetupError


class BoxHead(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        inside = self.conv(x)
        return dict(scores=inside, boxes=(inside, [inside]), count=3)


class SomeRoIExtractor(nn.Module):

    def forward(self, x, rois):
        return x


class Net(nn.Module):

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)
        self.extractor = SomeRoIExtractor()
        self.bbox_head = BoxHead()
        self.conv_seg = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.backbone(x)
        return x, self.extractor(x, None), self.bbox_head(x), self.conv_seg(x)


def wrapper(net, **options):
    return AutocastOptimWrapper(optimizer=torch.optim.SGD(net.parameters(), lr=0.1), **options)


def test_what_is_inside_is_bfloat16_and_what_is_predicted_float32():
    net = copy.deepcopy(Net())
    for _ in range(2):
        with wrapper(net).optim_context(net):
            maps, regions, predicted, labels = net(torch.randn(1, 3, 8, 8))
        assert maps.dtype == torch.bfloat16
        assert regions.dtype == labels.dtype == torch.float32
        assert predicted['scores'].dtype == predicted['boxes'][0].dtype == predicted['boxes'][1][0].dtype == torch.float32
        assert predicted['count'] == 3
    assert net(torch.randn(1, 3, 8, 8))[0].dtype == torch.float32  # nothing is left behind a step


def test_weights_gradients_and_steps_are_float32():
    net = Net()
    before, optim = copy.deepcopy(net.state_dict()), wrapper(net, clip_grad=dict(max_norm=1.0))
    with optim.optim_context(net):
        maps, _, predicted, labels = net(torch.randn(1, 3, 8, 8))
    optim.update_params(labels.square().mean() + predicted['scores'].square().mean())
    for name, weight in net.named_parameters():
        assert weight.dtype == torch.float32 and not torch.equal(weight, before[name])


def test_gradients_are_close_to_those_of_float32():
    net, x = Net(), torch.randn(2, 3, 16, 16)
    gradients = []
    for dtype in ('float32', 'bfloat16'):
        optim = wrapper(net, dtype=dtype)
        with optim.optim_context(net):
            loss = net(x)[3].square().mean()
        net.zero_grad()
        optim.backward(loss)
        gradients.append(net.backbone.weight.grad.clone())
    exact, rounded = gradients
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < 0.02


def test_another_dtype_is_refused():
    with pytest.raises(SetupError, match="^dtype='float16' of AutocastOptimWrapper .* choose from bfloat16, float32$"):
        wrapper(Net(), dtype='float16')
