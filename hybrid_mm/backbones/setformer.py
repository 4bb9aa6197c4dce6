"""SeTformer: a pyramid of transformer blocks with self-optimal transport in place of softmax attention (arXiv 2401.03540)."""
from typing import Any, Callable, Dict, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from hybrid_mm.layers import DropPath, SelfOptimalTransport2d
from hybrid_mm.layers.h_mhsa import global_attention
from hybrid_mm.registry import MODELS

from .base import BaseBackbone


class SoftmaxAttention2d(nn.Module):
    """Multi-head softmax attention of all positions of a map to all others, what self-optimal transport is compared with.

    Args:
        channels: C, a multiple of ``head_dim``.
        head_dim: channels of one head.

    Shape:
        (B, C, H, W) -> (B, C, H, W).

    Raises:
        ValueError: ``channels`` is no multiple of ``head_dim``.
    """

    def __init__(self, channels: int, head_dim: int = 32) -> None:
        super().__init__()
        if head_dim < 1 or channels % head_dim:
            raise ValueError(f'head_dim={head_dim} does not divide channels={channels}; choose a divisor of the channels')
        self.num_heads = channels // head_dim
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=1)
        return self.proj(global_attention(q, k, v, self.num_heads))


class SeTformerBlock(nn.Module):
    """Token mixing over the map, then an MLP at each position, both on normed input and added to it.

    Args:
        channels: C.
        attn: the token mixer, (B, C, H, W) to the same.
        mlp_ratio: hidden channels of the MLP over C.
        norm_layer: makes a norm from a channel count.
        drop_path_rate: stochastic depth rate.
        layer_scale_init_value: start of the factors of both branches; at 0 there are none.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self,
                 channels: int,
                 attn: nn.Module,
                 mlp_ratio: float,
                 norm_layer: Callable[[int], nn.Module],
                 drop_path_rate: float = 0.,
                 layer_scale_init_value: float = 0.) -> None:
        super().__init__()
        hidden = int(mlp_ratio * channels)
        self.norm1 = norm_layer(channels)
        self.attn = attn
        self.norm2 = norm_layer(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.drop_path = DropPath(drop_path_rate)
        if layer_scale_init_value:
            self.gamma1 = nn.Parameter(torch.full((channels, ), layer_scale_init_value))
            self.gamma2 = nn.Parameter(torch.full((channels, ), layer_scale_init_value))
        else:
            self.gamma1 = self.gamma2 = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop_path.add(x, _scale(self.attn(self.norm1(x)), self.gamma1))
        out = self.mlp(self.norm2(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # on (B, H, W, C)
        return self.drop_path.add(x, _scale(out, self.gamma2))

    def _load_from_state_dict(self, state_dict: Dict[str, Tensor], prefix: str, *args: Any) -> None:
        for key in (f'{prefix}gamma1', f'{prefix}gamma2'):
            if key in state_dict:  # (C, 1, 1) in checkpoints of version 0.1
                state_dict[key] = state_dict[key].flatten()
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class SeTformer(BaseBackbone):
    """SeTformer, `SeTformer is What You Need for Vision and Language <https://arxiv.org/abs/2401.03540>`_.

    There is no official code, and not all of the paper is public to us. The paper's: self-optimal transport in every block, a
    stem of two strided convolutions, a strided convolution between stages, no windows and no bias of the attention. This
    project's decisions: channels, depths and ratios of the MLP, chosen to meet the published sizes and costs; the order inside
    a block, the norms (LayerNorm, one on each output), and the settings of the transport (see
    `hybrid_mm.layers.SelfOptimalTransport`). The published accuracies are not promised.

    Nothing depends on the size of the image: any runs, and weights fit at all sizes.

    Args:
        arch: mini, tiny, small, base, or a dict with the keys of such a row: one entry a stage for ``channels`` and ``depths``;
            ``mlp_ratio``; ``head_dim``, the channels of one head.
        attention: 'transport', or 'softmax' for the same network with softmax attention over the whole map.
        num_references: references of each block, one number or one a stage. The published cost of the classifiers fits
            (196, 196, 196, 49), that of the detectors 49.
        similarity, sigma, eps, iterations, prior, tau, references, nystrom: see `hybrid_mm.layers.SelfOptimalTransport`.
        layer_scale_init_value: start of the factors of the residual branches; at 0 there are none.
        norm_cfg: norm layer.
        kwargs: see `BaseBackbone`.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """

    # yapf: disable
    arch_settings = {
        'mini':  dict(channels=(64,  128, 256,  512), depths=(3, 4,  6, 5), mlp_ratio=3, head_dim=32),
        'tiny':  dict(channels=(64,  128, 256,  512), depths=(3, 4, 18, 5), mlp_ratio=3, head_dim=32),
        'small': dict(channels=(96,  192, 384,  768), depths=(2, 2, 18, 2), mlp_ratio=2, head_dim=32),
        'base':  dict(channels=(128, 256, 512, 1024), depths=(2, 2, 18, 2), mlp_ratio=2, head_dim=32),
    }
    # yapf: enable

    def __init__(self,
                 arch: Union[str, dict] = 'mini',
                 attention: str = 'transport',
                 num_references: Union[int, Sequence[int]] = 49,
                 similarity: str = 'gaussian',
                 sigma: float = 1.,
                 eps: float = 0.03,
                 iterations: int = 10,
                 prior: Optional[str] = '2d',
                 tau: float = 0.5,
                 references: str = 'learnable',
                 nystrom: bool = False,
                 layer_scale_init_value: float = 0.,
                 norm_cfg: dict = dict(type='hybrid_mm.LN2d', eps=1e-6),
                 out_norm: bool = True,
                 **kwargs) -> None:
        super().__init__(arch, norm_cfg, out_norm=out_norm, **kwargs)
        channels, head_dim = self.settings['channels'], self.settings['head_dim']
        if attention not in ('transport', 'softmax'):
            raise ValueError(f"attention={attention!r} is unknown; choose from 'transport', 'softmax'")
        if not isinstance(num_references, Sequence):
            num_references = (num_references, ) * len(channels)
        if len(num_references) != len(channels):
            raise ValueError(f'num_references={num_references} is not allowed; give one number, or {len(channels)}, one a stage')

        def downsample(i: int) -> nn.Module:
            conv = nn.Conv2d(channels[i - 1], channels[i], 3, stride=2, padding=1, bias=False)
            return nn.Sequential(conv, self.norm_layer(channels[i]))

        def block(i: int, j: int, drop_path_rate: float) -> nn.Module:
            if attention == 'softmax':
                mixer = SoftmaxAttention2d(channels[i], head_dim)
            else:
                mixer = SelfOptimalTransport2d(
                    channels[i], num_references[i], head_dim, similarity=similarity, sigma=sigma, eps=eps,
                    iterations=iterations, prior=prior, tau=tau, references=references, nystrom=nystrom)
            return SeTformerBlock(
                channels[i], mixer, self.settings['mlp_ratio'], self.norm_layer, drop_path_rate, layer_scale_init_value)

        self.stem = nn.Sequential(
            nn.Conv2d(self.in_channels, channels[0] // 2, 3, stride=2, padding=1),
            nn.Conv2d(channels[0] // 2, channels[0], 3, stride=2, padding=1), self.norm_layer(channels[0]))
        self.build_stages(block, downsample)


def _scale(x: Tensor, gamma: Optional[Tensor]) -> Tensor:
    return x if gamma is None else gamma[:, None, None] * x
