"""mmcv's RoIAlign reads a channels_last map as if it were contiguous, without an error: no map of ours may reach it so."""
import pytest
import torch
from mmcv.ops import RoIAlign
from mmdet.models.necks import FPN

from hybrid_mm.backbones import GLiT, HATNet, ParCConvNeXt, ParCMobileNetV2, ParCNet, ParCResNet, SeTformer, TransCNN
from hybrid_mm.necks import TokenPyramid


class GLiTPyramid(GLiT):
    """GLiT with strides 4, 8, 16, 32, as its detectors have it."""

    def __init__(self):
        super().__init__()
        self.pyramid = TokenPyramid(self.out_channels)

    def forward(self, x):
        return self.pyramid(super().forward(x))


@pytest.mark.parametrize('build', [
    lambda: TransCNN('small'), lambda: TransCNN('small', h_mhsa='iterative', out_norm=True), lambda: HATNet('tiny'),
    ParCResNet, ParCMobileNetV2, ParCConvNeXt, ParCNet, SeTformer, lambda: SeTformer(attention='softmax'),
    GLiTPyramid
], ids=['transcnn', 'iterative', 'hatnet', 'parc_resnet', 'parc_mobilenet_v2', 'parc_convnext', 'parc_net',
        'setformer', 'setformer_softmax', 'glit'])
def test_pooled_regions_equal_those_of_an_all_contiguous_run(build):
    torch.manual_seed(0)
    backbone = build().eval()
    backbone.init_weights()
    neck = FPN(in_channels=list(backbone.out_channels), out_channels=16, num_outs=5).eval()
    align = RoIAlign(output_size=7, spatial_scale=1 / 4, sampling_ratio=0)
    x = torch.randn(2, 3, 96, 160)
    rois = torch.tensor([[0, 3.5, 8., 90., 70.], [1, 40., 10., 150., 90.]])

    fast = align(neck(backbone(x))[0], rois)
    backbone.memory_format = 'contiguous'
    plain = align(neck(backbone(x))[0], rois)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-3 * plain.abs().max().item())

    # the trap is real: the same map in channels_last gives something else
    level = neck(backbone(x))[0]
    garbage = align(level.contiguous(memory_format=torch.channels_last), rois)
    assert (garbage - plain).abs().max() > 0.1 * plain.abs().max()
