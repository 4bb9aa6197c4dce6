"""TransCNN: a convolutional pyramid whose blocks attend hierarchically (arXiv 2106.03180)."""
from typing import Callable, Union

from torch import Tensor, nn

from hybrid_mm.layers import HMHSA, DropPath, InvertedResidual, IterativeHMHSA, TwoBranchDownsampling
from hybrid_mm.registry import MODELS

from .base import BaseBackbone


class TransCNNBlock(nn.Module):
    """H-MHSA, then an inverted residual in the place of a transformer's MLP, each with a residual.

    Args:
        attn: H-MHSA in either form.
        irb: the inverted residual.
        drop_path_rate: stochastic depth rate of both branches.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, attn: nn.Module, irb: nn.Module, drop_path_rate: float = 0.) -> None:
        super().__init__()
        self.attn = attn
        self.irb = irb
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop_path.add(x, self.attn(x))
        return self.drop_path.add(x, self.irb(x))


@MODELS.register_module()
class TransCNN(BaseBackbone):
    """TransCNN with H-MHSA, `Transformer in Convolutional Neural Networks <https://arxiv.org/abs/2106.03180>`_.

    Official code: https://github.com/yun-liu/TransCNN. Its networks Tiny, Small, Medium and Large are ``small``, ``base``,
    ``medium`` and ``large`` here, since the paper calls these sizes Small and Base. Beyond the release, any image size runs:
    grids at the edge of a map may be cut, pools round up.

    Args:
        arch: small, base, medium, large, or a dict with the keys of such a row: one entry a stage for ``channels``,
            ``depths``, ``expansions`` and ``kernel_sizes`` of the inverted residual, ``grid_sizes`` and ``pool_ratios`` of
            the two-step H-MHSA, ``grid_lists`` of the iterative one.
        h_mhsa: ``'two_step'``, the form of the release, or ``'iterative'``, the form of the paper's text.
        share_qkv: share the query, key and value projection among the steps of the iterative form.
        head_dim: channels of one attention head.
        norm_cfg: norm layer.
        kwargs: see `BaseBackbone`.
    """

    # Grid lists: the paper's Table 1 is not public to us; these are ascribed to its section 4.1 by third parties.
    _grids = dict(
        grid_sizes=(8, 8, 8, 1), pool_ratios=(8, 4, 2, 1), grid_lists=((8, 4, 2), (7, 4, 2), (3, 2, 2), (2, 2, 2)))
    # yapf: disable
    arch_settings = {
        'small':  dict(channels=(64, 128, 256, 512), depths=(2, 2,  4, 2), expansions=(4, 4, 4, 4), kernel_sizes=(5, 3, 5, 3), **_grids),  # noqa: E501
        'base':   dict(channels=(64, 128, 256, 512), depths=(3, 4,  8, 3), expansions=(4, 4, 6, 6), kernel_sizes=(5, 3, 5, 3), **_grids),  # noqa: E501
        'medium': dict(channels=(64, 128, 320, 640), depths=(3, 4, 12, 3), expansions=(4, 4, 6, 6), kernel_sizes=(5, 3, 5, 3), **_grids),  # noqa: E501
        'large':  dict(channels=(64, 128, 384, 768), depths=(3, 4, 16, 3), expansions=(4, 4, 6, 6), kernel_sizes=(5, 3, 5, 3), **_grids),  # noqa: E501
    }
    # yapf: enable

    def __init__(self,
                 arch: Union[str, dict] = 'base',
                 h_mhsa: str = 'two_step',
                 share_qkv: bool = False,
                 head_dim: int = 64,
                 norm_cfg: dict = dict(type='BN'),
                 **kwargs) -> None:
        super().__init__(arch, norm_cfg, **kwargs)
        if h_mhsa not in ('two_step', 'iterative'):
            raise ValueError(f'h_mhsa={h_mhsa!r} is unknown; choose from two_step, iterative')
        if share_qkv and h_mhsa == 'two_step':
            raise ValueError("share_qkv=True goes with h_mhsa='iterative' alone; the two-step form has one projection")
        s = self.settings
        channels = s['channels']

        def downsample(i: int) -> nn.Module:
            return TwoBranchDownsampling(channels[i - 1], channels[i], self.norm_layer)

        def block(i: int, j: int, drop_path_rate: float) -> nn.Module:
            if h_mhsa == 'two_step':
                attn = HMHSA(channels[i], head_dim, s['grid_sizes'][i], s['pool_ratios'][i], self.norm_layer)
            else:
                attn = IterativeHMHSA(channels[i], head_dim, s['grid_lists'][i], share_qkv, self.norm_layer)
            irb = InvertedResidual(channels[i], s['expansions'][i], s['kernel_sizes'][i], self.norm_layer)
            return TransCNNBlock(attn, irb, drop_path_rate)

        self.stem = conv_stem(self.in_channels, channels[0], self.norm_layer)
        self.build_stages(block, downsample)


def conv_stem(in_channels: int, out_channels: int, norm_layer: Callable[[int], nn.Module]) -> nn.Sequential:
    """Two strided convolutions, (B, in_channels, H, W) -> (B, out_channels, ceil(H/4), ceil(W/4)); no norm at the end."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, stride=2, padding=1), norm_layer(16), nn.SiLU(),
        nn.Conv2d(16, out_channels, 3, stride=2, padding=1))
