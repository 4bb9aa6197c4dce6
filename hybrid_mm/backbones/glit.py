"""GLiT: a plain vision transformer whose blocks split their channels between attention and convolution (arXiv 2107.02960)."""
from functools import partial
from typing import Callable, Hashable, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_mm.layers import DropPath, GlobalLocal, GlobalLocalBlock, LayerNorm2d
from hybrid_mm.layers.tracing import is_symbolic
from hybrid_mm.registry import MODELS

from .base import BaseBackbone, is_whole
from .norms import build_norm

_PATCH_SIZE = 16
_GRID = 14  # patches a side at 224 x 224 pixels
_GROUPS = 3
_NUM_STAGES = 4
_ROW = '(G, L, K, E, d_k, d_z)'

# The architecture that the authors' search found. What a block does not have is None.
_SEARCHED = (
    # G, L, K, E, d_k, d_z
    (3, 0, None, None, 0.5, 4),
    (0, 3, 31, 2, None, 4),
    (1, 2, 31, 4, 1, 6),
    (3, 0, None, None, 1, 4),
    (0, 3, 45, 4, None, 4),
    (1, 2, 31, 4, 1, 6),
    (3, 0, None, None, 1, 2),
    (1, 2, 31, 4, 1, 2),
    (0, 3, 45, 4, None, 4),
    (3, 0, None, None, 1, 4),
    (0, 3, 31, 4, None, 4),
    (3, 0, None, None, 2, 6),
)


class PatchEmbedding(nn.Module):
    """Patches of 16 x 16 pixels as vectors, with an embedding of their position, and a class token in front of them or not.

    An image whose sides are no multiples of 16 is padded with zeros at the right and bottom. The embedding is kept for 14 x 14
    patches and resized to other grids (bicubic, align_corners=False).

    Args:
        in_channels: channels of the image.
        embed_dims: D.
        class_token: return tokens with the class token first, instead of a map.

    Shape:
        (B, in_channels, H, W) -> (B, D, h, w), or (B, 1 + h*w, D) with a class token; h = ceil(H/16), w = ceil(W/16).
    """

    def __init__(self, in_channels: int, embed_dims: int, class_token: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, _PATCH_SIZE, stride=_PATCH_SIZE)
        self.pos_embed = nn.Parameter(torch.zeros(1, class_token + _GRID**2, embed_dims))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims)) if class_token else None
        for parameter in (self.pos_embed, self.cls_token):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        rows, cols = (H + _PATCH_SIZE - 1) // _PATCH_SIZE, (W + _PATCH_SIZE - 1) // _PATCH_SIZE
        if is_symbolic(H, W) or (rows * _PATCH_SIZE, cols * _PATCH_SIZE) != (H, W):
            x = F.pad(x, (0, cols * _PATCH_SIZE - W, 0, rows * _PATCH_SIZE - H))
        x = self.proj(x)
        x = x + self._patch_embed(rows, cols)
        if self.cls_token is None:
            return x
        first = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([first.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], dim=1)

    def _patch_embed(self, h: int, w: int) -> Tensor:
        """(1, D, h, w), channels_last."""
        embed = self.pos_embed[:, -_GRID**2:].unflatten(1, (_GRID, _GRID)).permute(0, 3, 1, 2)
        if not is_symbolic(h, w) and (h, w) == (_GRID, _GRID):
            return embed
        return F.interpolate(embed, (h, w), mode='bicubic', align_corners=False)


@MODELS.register_module()
class GLiT(BaseBackbone):
    """GLiT, `Neural Architecture Search for Global and Local Image Transformer <https://arxiv.org/abs/2107.02960>`_.

    Official code: https://github.com/bychen515/GLiT, which has Tiny alone. Small and Base are reconstructed from the published
    numbers of parameters.

    There is one scale, patches of 16 x 16 pixels, and two modes:

    * ``'image'``, the release, for classification: a class token, every block on the whole sequence of tokens. The output is
      the normed class token, (B, D): mmpretrain's LinearClsHead follows with no neck. Beyond the release, images of other
      sizes than 224 x 224 run, with the position embedding resized; the convolutions keep to the raw sequence of tokens,
      whose rows are then longer or shorter than in training.
    * ``'dense'``, for detection and segmentation, this project's: no class token. The convolutions run in windows of the
      14 x 14 patches of pre-training, attention too but in the global blocks. The blocks make four stages of equal length, and
      the output of each is a map of stride 16 with a LayerNorm of its own, (B, D, ceil(H/16), ceil(W/16));
      `hybrid_mm.necks.TokenPyramid` makes strides 4, 8, 16, 32 of them.

    In both modes an image whose sides are no multiples of 16 is padded with zeros at the right and bottom.

    Args:
        arch: tiny, small, base, or a dict with ``embed_dims`` (D), ``num_heads`` and ``blocks``: a row (G, L, K, E, d_k, d_z)
            for each block, as many as a multiple of 4. G and L are groups of channels with attention and with convolution,
            G + L = 3; K is the kernel size of the convolution and E its expansion; d_k, over the channels with attention, is
            the width of queries, keys and values, and d_z, over D, that of the MLP. What a block does not have is not read.
        mode: ``'dense'`` or ``'image'``.
        window_size: side of the windows, in patches; dense mode alone.
        global_blocks: blocks whose attention reaches the whole map, counted from 0, or ``'all'``; a block without attention may
            be among them. None: of 12 blocks 3, 6, 9 and 11; of another number the last of each stage. Read in dense mode alone.
        out_indices: stages whose outputs are returned; by default all in dense mode, the last in image mode.
        norm_cfg: norm layer inside the convolutions; its statistics are over all tokens of the batch.
        out_norm: a LayerNorm on each output.
        init_cfg: initialiser; None: as the release, truncated normal linear weights, position embeddings and class token, std
            0.02, and PyTorch's start for convolutions.
        kwargs: see `BaseBackbone`.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """

    # yapf: disable
    arch_settings = {
        'tiny':  dict(embed_dims=192, num_heads=3,  blocks=_SEARCHED),
        'small': dict(embed_dims=360, num_heads=6,  blocks=_SEARCHED),
        'base':  dict(embed_dims=720, num_heads=12, blocks=_SEARCHED),
    }
    # yapf: enable
    default_init_cfg = dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.)

    def __init__(self,
                 arch: Union[str, dict] = 'tiny',
                 mode: str = 'dense',
                 window_size: int = _GRID,
                 global_blocks: Union[Sequence[int], str, None] = None,
                 out_indices: Optional[Sequence[int]] = None,
                 norm_cfg: dict = dict(type='BN'),
                 out_norm: bool = True,
                 **kwargs) -> None:
        if mode not in ('dense', 'image'):
            raise ValueError(f"mode={mode!r} is unknown; choose from 'dense', 'image'")
        if out_indices is None:
            out_indices = range(_NUM_STAGES) if mode == 'dense' else (_NUM_STAGES - 1, )
        super().__init__(arch, norm_cfg, out_indices=out_indices, out_norm=out_norm, **kwargs)
        self.mode = mode
        self.window_size = window_size
        self.global_blocks = _parse_global_blocks(global_blocks, sum(self.depths)) if mode == 'dense' else ()
        embed_dims = self.settings['embed_dims']
        self.stage_channels = [embed_dims] * _NUM_STAGES

        self.stem = PatchEmbedding(self.in_channels, embed_dims, class_token=mode == 'image')
        self.build_stages(self._block)  # without downsamplings: one scale

    def norm_layer(self, channels: int) -> nn.Module:
        """A LayerNorm on an output; ``norm_cfg`` is for the convolutions."""
        return LayerNorm2d(channels) if self.mode == 'dense' else nn.LayerNorm(channels, eps=1e-6)

    def stage_stride(self, index: int) -> int:
        return _PATCH_SIZE

    def collect_outputs(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        if self.mode == 'dense':
            return super().collect_outputs(maps)
        return tuple(self.out_norms[i](maps[i])[:, 0].contiguous() for i in self.out_indices)  # (B, 1 + h*w, D) -> (B, D)

    def _block(self, stage: int, place: int, drop_path_rate: float) -> nn.Module:
        number = sum(self.depths[:stage]) + place
        return self._block_maker(number, drop_path_rate)(self.settings['blocks'][number])

    def _block_maker(self, number: int, drop_path_rate: float) -> Callable[[Sequence], GlobalLocalBlock]:
        """What makes block ``number`` from its row."""
        return partial(
            build_block, number=number, embed_dims=self.settings['embed_dims'], num_heads=self.settings['num_heads'],
            window_size=self.window_size, attend_globally=number in self.global_blocks, norm_cfg=self.norm_cfg,
            drop_path_rate=drop_path_rate)

    def _parse_arch(self, arch: Union[Hashable, dict]) -> dict:
        settings = super()._parse_arch(arch)
        embed_dims, num_heads, blocks = (settings[key] for key in ('embed_dims', 'num_heads', 'blocks'))
        if num_heads < 1 or embed_dims < 1 or embed_dims % _GROUPS or embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} is not allowed; choose a multiple of {_GROUPS} and of '
                             f'num_heads={num_heads}')
        if not blocks or len(blocks) % _NUM_STAGES:
            raise ValueError(f'blocks has {len(blocks)} rows; give one a block, {_NUM_STAGES} or a multiple of it')
        for number, row in enumerate(blocks):
            if len(row) != 6:
                raise ValueError(f'block {number} is {tuple(row)}; give 6 values, {_ROW}')
            if row[0] not in range(_GROUPS + 1) or row[1] != _GROUPS - row[0]:
                raise ValueError(f'block {number} has G={row[0]} and L={row[1]}; choose two numbers, 0 to {_GROUPS}, with the '
                                 f'sum {_GROUPS}')
        return dict(settings, depths=(len(blocks) // _NUM_STAGES, ) * _NUM_STAGES)


def build_block(row: Sequence, number: int, embed_dims: int, num_heads: int, window_size: int, attend_globally: bool,
                norm_cfg: dict, drop_path_rate: float) -> GlobalLocalBlock:
    """A block from its row (G, L, K, E, d_k, d_z).

    Args:
        number: of the block, for errors.
        norm_cfg: norm inside the convolution.
        embed_dims, num_heads, window_size, attend_globally: see `GlobalLocal`.

    Raises:
        ValueError: the row is outside of what is allowed.
    """
    global_groups, local_groups, kernel_size, expansion, qk_ratio, mlp_ratio = row
    try:
        mixer = GlobalLocal(embed_dims, num_heads, global_groups, local_groups, kernel_size, expansion, qk_ratio, window_size,
                            attend_globally, norm_layer=partial(build_norm, norm_cfg))
        return GlobalLocalBlock(mixer, embed_dims, mlp_ratio, DropPath(drop_path_rate))
    except ValueError as error:
        raise ValueError(f'block {number}, {_ROW} = {tuple(row)}: {error}') from None


def default_global_blocks(num_blocks: int) -> Tuple[int, ...]:
    """Those of a network of so many blocks, a multiple of 4, whose ``global_blocks`` nobody gave."""
    length = num_blocks // _NUM_STAGES
    return (3, 6, 9, 11) if num_blocks == 12 else tuple(range(length - 1, num_blocks, length))


def _parse_global_blocks(global_blocks: Union[Sequence[int], str, None], num_blocks: int) -> Tuple[int, ...]:
    if global_blocks is None:
        return default_global_blocks(num_blocks)
    if global_blocks == 'all':
        return tuple(range(num_blocks))
    if isinstance(global_blocks, str) or not all(is_whole(number) and 0 <= number < num_blocks for number in global_blocks):
        raise ValueError(f"global_blocks={global_blocks!r} is not allowed; choose from 0 to {num_blocks - 1}, or 'all'")
    return tuple(global_blocks)
