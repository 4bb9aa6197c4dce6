"""ParC-Net: MobileViT with position-aware circular convolutions in the place of attention (arXiv 2203.03952)."""
import math
from typing import Callable, List, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from hybrid_mm.layers import DropPath, MobileInvertedResidual, MobileViTBlock, ParC2d
from hybrid_mm.layers.parc import resize
from hybrid_mm.registry import MODELS

from .base import BaseBackbone, parse_insert_locations
from .parc_mobilenet_v2 import conv_norm_act


class AxisEmbedding(nn.Module):
    """Adds a learned embedding of the position along one axis, in front of a norm.

    Args:
        channels: C.
        axis: ``'H'`` or ``'W'``.
        base_size: K, the length at which the embedding is kept; another length resizes it (bilinear, align_corners=True).

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, axis: str, base_size: int) -> None:
        super().__init__()
        self.axis = axis
        self.pos_embed = nn.Parameter(torch.randn(1, channels, *((base_size, 1) if axis == 'H' else (1, base_size))))

    def forward(self, x: Tensor) -> Tensor:
        embed = resize(self.pos_embed, self.axis, x.shape[2 if self.axis == 'H' else 3])
        return x + embed.to(x.dtype)  # under autocast a float32 sum would send the norm to float32 too


class ChannelAttention(nn.Module):
    """Scales each channel by a gate computed from the means of all channels.

    Args:
        channels: C.
        norm_layer: makes a norm from a channel count.
        reduction: C over the channels in the middle, of which there is at least one.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, norm_layer: Callable[[int], nn.Module], reduction: int = 16) -> None:
        super().__init__()
        middle = max(channels // reduction, 1)
        self.fc = nn.Sequential(
            nn.Conv2d(channels, middle, 1, bias=False), norm_layer(middle), nn.Hardswish(),
            nn.Conv2d(middle, channels, 1, bias=False), norm_layer(channels), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True))


class ParCNetBlock(nn.Module):
    """Two crossed pairs of circular convolutions, then a gated feed-forward network, each with a residual.

    .. code-block:: text

        x1, x2 = halves of x's channels
        z   = x + concat(W2(H1(norm(x1 + embedding))), H2(W1(norm(x2 + embedding))))
        out = z + attention over channels(FFN(z))

    Args:
        channels: C, even.
        base_size: K, length of the kernels and embeddings.
        pos_embed: have position embeddings, in front of both norms and of both second convolutions.
        dropout: rate at the end of the feed-forward network.
        norm_layer: makes a norm from a channel count.
        drop_path: what drops both branches in training.
        backend: how `ParC2d` computes.

    Shape:
        (B, C, H, W) -> (B, C, H, W).

    Raises:
        ValueError: ``channels`` is odd.
    """

    def __init__(self,
                 channels: int,
                 base_size: int,
                 pos_embed: bool,
                 dropout: float,
                 norm_layer: Callable[[int], nn.Module],
                 drop_path: Optional[nn.Module] = None,
                 backend: str = 'auto') -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f'channels={channels} is odd; a ParC-Net block splits its channels in two, choose an even '
                             'number')
        half = channels // 2

        def parc(axis: str, embed: bool) -> ParC2d:
            layer = ParC2d(half, axis, base_size, bias=False, pos_embed=embed, backend=backend)
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))  # the release leaves kernels at nn.Conv2d's start
            if embed:
                nn.init.normal_(layer.pos_embed)
            return layer

        self.embed_h = AxisEmbedding(half, 'H', base_size) if pos_embed else nn.Identity()
        self.embed_w = AxisEmbedding(half, 'W', base_size) if pos_embed else nn.Identity()
        self.norm_h = norm_layer(half)
        self.norm_w = norm_layer(half)
        self.h1 = parc('H', False)  # its embedding stands in front of the norm
        self.w1 = parc('W', False)
        self.w2 = parc('W', pos_embed)
        self.h2 = parc('H', pos_embed)
        self.ffn = nn.Sequential(
            norm_layer(channels), nn.Conv2d(channels, 2 * channels, 1), nn.Hardswish(),
            nn.Identity(),  # the release has a dropout of rate 0 here; its numbering stays
            nn.Conv2d(2 * channels, channels, 1), nn.Dropout(dropout))
        self.ca = ChannelAttention(channels, norm_layer)
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=1)
        a = self.w2(self.h1(self.norm_h(self.embed_h(x1))))
        b = self.h2(self.w1(self.norm_w(self.embed_w(x2))))
        z = x + self.drop_path(torch.cat([a, b], dim=1))
        return z + self.drop_path(self.ca(self.ffn(z)))


class ParCFrame(nn.Module):
    """ParC-Net's counterpart of a MobileViT block: `ParCNetBlock` between convolutions, and a fusion with the input.

    Args:
        channels: C.
        width: channels of the blocks, even.
        depth: number of blocks; the first alone has position embeddings.
        base_size: K, length of the kernels and embeddings.
        concat: fuse the result with the input by concatenation; by a sum if False.
        dropout, norm_layer, drop_path, backend: as for `ParCNetBlock`.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self,
                 channels: int,
                 width: int,
                 depth: int,
                 base_size: int,
                 concat: bool,
                 dropout: float,
                 norm_layer: Callable[[int], nn.Module],
                 drop_path: Optional[nn.Module] = None,
                 backend: str = 'auto') -> None:
        super().__init__()
        groups = math.gcd(channels, width)
        self.concat = concat
        self.local = nn.Sequential(
            conv_norm_act(channels, width, 3, norm_layer, nn.SiLU, groups=groups), nn.Conv2d(width, width, 1, bias=False))
        self.blocks = nn.Sequential(
            *(ParCNetBlock(width, base_size, n == 0, dropout, norm_layer, drop_path, backend) for n in range(depth)))
        self.norm = norm_layer(width)
        self.project = conv_norm_act(width, channels, 1, norm_layer, nn.SiLU, groups=groups)
        self.fuse = conv_norm_act(2 * channels if concat else channels, channels, 3, norm_layer, nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.norm(self.blocks(self.local(x))))
        return self.fuse(torch.cat([out, x], dim=1) if self.concat else out + x)


@MODELS.register_module()
class ParCNet(BaseBackbone):
    """ParC-Net, `Position Aware Circular Convolution with Merits from ConvNets and Transformer
    <https://arxiv.org/abs/2203.03952>`_.

    Official code: https://github.com/hkzhang91/ParC-Net. Beyond the release, kernels and embeddings are resized to the map's
    height and width independently, so that any image size runs; the release takes one size from the height. At square maps
    this is the release's arithmetic.

    The outputs are those of layer_2 to layer_5, at strides 4, 8, 16, 32; a fifth stage, index 4, is the 1x1 convolution in
    front of the classifier, at stride 32. Its parameters get no gradient unless it is among ``out_indices``.

    The gates take the norm of one value a channel and image: training with BN needs two images a GPU at least, or SyncBN, or
    ``norm_eval=True``.

    Args:
        arch: xs, s, h, or a dict with the keys of such a row: ``stem_channels``, ``stem_kernel_size`` and
            ``stem_out_channels``; ``expansion`` of the inverted residuals; ``concat``, how ParC frames are fused with their
            input (False: by a sum); and lists with one entry for each of the five stages: ``depths`` and ``channels``;
            ``parc_channels``, ``parc_depths`` and ``base_sizes`` (kernel lengths) of the ParC frames; ``transformer_channels``
            and ``transformer_depths`` of the baseline's frames, all 0 where a stage has no frame; ``baseline_channels``,
            taken as ``channels`` if no frame is ParC.
        insert_locations: one entry for each of the stages 0 to 3: blocks from this index on are ParC frames, the ones before
            it the baseline's. Stages 1 to 3 have one block, a frame; in stage 0 stand inverted residuals, where nothing can
            be inserted. ``()`` makes the baseline, `MobileViT <https://arxiv.org/abs/2110.02178>`_: MobileViT-S for arch s,
            MobileViT-XS for xs with its own, smaller channels, and for h, which has no published baseline, transformers
            of the ParC blocks' width and number.
        dropout: rate at the end of each feed-forward network, and behind attention in the baseline.
        backend: how the circular convolutions are computed, see `ParC2d`.
        norm_cfg: norm layer.
        init_cfg: initialiser; by default as the release: Kaiming normal convolutions by fan-out, ParC kernels as
            ``nn.Conv2d``'s, embeddings standard normal. Linear layers of the baseline: truncated normal, std 0.02.
        kwargs: see `BaseBackbone`.

    Raises:
        ValueError: an argument is outside of what is allowed; the message names both.
    """

    _shared = dict(depths=(2, 1, 1, 1, 1), base_sizes=(0, 32, 16, 8, 0), expansion=4)  # sizes of the maps at 256 x 256
    arch_settings = {
        'xs': dict(
            stem_channels=16, stem_kernel_size=3, stem_out_channels=32, channels=(64, 96, 128, 160, 640), concat=False,
            parc_channels=(0, 96, 128, 160, 0), parc_depths=(0, 2, 3, 2, 0),
            transformer_channels=(0, 96, 120, 144, 0), transformer_depths=(0, 2, 4, 3, 0),
            baseline_channels=(48, 64, 80, 96, 384), **_shared),
        's': dict(
            stem_channels=16, stem_kernel_size=3, stem_out_channels=32, channels=(64, 96, 128, 160, 640), concat=True,
            parc_channels=(0, 192, 256, 320, 0), parc_depths=(0, 2, 4, 3, 0),
            transformer_channels=(0, 144, 192, 240, 0), transformer_depths=(0, 2, 4, 3, 0),
            baseline_channels=(64, 96, 128, 160, 640), **_shared),
        'h': dict(
            stem_channels=48, stem_kernel_size=5, stem_out_channels=96, channels=(144, 216, 288, 432, 960), concat=True,
            parc_channels=(0, 324, 432, 432, 0), parc_depths=(0, 3, 9, 3, 0),
            transformer_channels=(0, 324, 432, 432, 0), transformer_depths=(0, 3, 9, 3, 0),
            baseline_channels=(144, 216, 288, 432, 960), **_shared),
    }

    default_init_cfg = [
        dict(type='Kaiming', layer='Conv2d', mode='fan_out', distribution='normal'),
        dict(type='TruncNormal', layer='Linear', std=0.02)
    ]

    def __init__(self,
                 arch: Union[str, dict] = 's',
                 insert_locations: Sequence[int] = (2, 0, 0, 0),
                 dropout: float = 0.1,
                 backend: str = 'auto',
                 norm_cfg: dict = dict(type='BN'),
                 **kwargs) -> None:
        super().__init__(arch, norm_cfg, **kwargs)
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout={dropout} is not allowed; choose from 0 to below 1')
        s = self.settings
        if len(self.depths) != 5 or self.depths[1:] != (1, 1, 1, 1):
            raise ValueError(f'depths={self.depths} is not allowed; choose (n, 1, 1, 1, 1): n inverted residuals, three '
                             'frames, one convolution')
        locations = parse_insert_locations(insert_locations, self.depths[:4])
        if locations[0] < self.depths[0]:
            raise ValueError(f'insert_locations={tuple(insert_locations)} is not allowed: the {self.depths[0]} blocks of stage '
                             f'0 are inverted residuals, which have no ParC form; start with {self.depths[0]}')
        is_baseline = all(locations[1:])  # 0 makes the one block of stages 1 to 3 a ParC frame
        channels = s['baseline_channels' if is_baseline else 'channels']

        self.stem = nn.Sequential(
            conv_norm_act(self.in_channels, s['stem_channels'], s['stem_kernel_size'], self.norm_layer, nn.SiLU, stride=2),
            self._inverted_residual(s['stem_channels'], s['stem_out_channels']))
        self.downsamples = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i, rates in enumerate(self.drop_path_rates()[:4]):
            previous = channels[i - 1] if i else s['stem_out_channels']
            self.downsamples.append(self._inverted_residual(previous, channels[i], stride=2))
            if i == 0:
                blocks = [self._inverted_residual(channels[i], channels[i], rate=rate) for rate in rates]
            elif locations[i] == 0:
                blocks = [ParCFrame(channels[i], s['parc_channels'][i], s['parc_depths'][i], s['base_sizes'][i], s['concat'],
                                    dropout, self.norm_layer, DropPath(rates[0]), backend)]
            else:
                blocks = [MobileViTBlock(channels[i], s['transformer_channels'][i], s['transformer_depths'][i],
                                         dropout=dropout, norm_layer=self.norm_layer, drop_path=DropPath(rates[0]))]
            self.stages.append(nn.ModuleList(blocks))
        self.downsamples.append(nn.Identity())
        self.stages.append(nn.ModuleList([conv_norm_act(channels[3], channels[4], 1, self.norm_layer, nn.SiLU)]))
        self.stage_channels = channels

    def drop_path_rates(self) -> List[List[float]]:
        """Stochastic depth rate of each block, by stage; the last is a frame's: the convolution behind has no residual."""
        *stages, last = self.depths
        step = self.drop_path_rate / max(sum(stages) - 1, 1)
        starts = [sum(stages[:i]) for i in range(len(stages))]
        return [[step * (start + j) for j in range(depth)] for start, depth in zip(starts, stages)] + [[0.] * last]

    def stage_stride(self, index: int) -> int:
        return min(super().stage_stride(index), 32)

    def _inverted_residual(self, in_channels: int, out_channels: int, stride: int = 1,
                           rate: float = 0.) -> MobileInvertedResidual:
        return MobileInvertedResidual(
            in_channels, out_channels, self.settings['expansion'], stride, self.norm_layer, nn.SiLU,
            drop_path=DropPath(rate))
