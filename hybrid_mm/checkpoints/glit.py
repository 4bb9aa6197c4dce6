"""What is special about the weights of GLiT: their shapes tell every block, and the dense mode has no class token."""
import re
from typing import Any, Dict, List, Optional, Tuple

from torch import Tensor

from hybrid_mm.errors import shorten
from hybrid_mm.registry import MODELS

from .conversion import rename_keys
from .fit import Shapes, shapes_of

_CLASS_TOKEN, _POSITIONS = 'stem.cls_token', 'stem.pos_embed'
_GROUPS = 3


def glit_arch(state_dict: Dict[str, Any], num_heads: Optional[int] = None) -> dict:
    """The ``arch`` of the GLiT that a state dict belongs to, from its shapes.

    Args:
        state_dict: key -> tensor or array, under the release's keys or ours, of the image or the dense mode, without a wrapping
            or the prefix of a backbone (see `unwrap` and `backbone_part`).
        num_heads: attention heads, which shapes do not tell. By default those of tiny, small or base at their widths.

    Returns:
        A dict for `GLiT`: ``embed_dims``, ``num_heads`` and ``blocks``, a row (G, L, K, E, d_k, d_z) a block. What a block does
        not have is None.

    Raises:
        ValueError: this is no complete GLiT, or ``num_heads`` is needed.
    """
    names, _ = rename_keys(state_dict, 'GLiT')
    shapes = {names.get(key, key): tuple(value.shape) for key, value in state_dict.items()}
    embed_dims, blocks = _read(shapes)
    rows = MODELS.get('GLiT').arch_settings.values()
    num_heads = num_heads or next((row['num_heads'] for row in rows if row['embed_dims'] == embed_dims), None)
    if num_heads is None:
        raise ValueError(f'num_heads cannot be told from shapes, and embed_dims={embed_dims} is of no known arch; give '
                         'num_heads')
    return dict(embed_dims=embed_dims, num_heads=num_heads, blocks=tuple(blocks))


def to_dense(tensors: Dict[str, Tensor], model: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], str, List[str]]:
    """The tensors of an image-mode GLiT that a dense-mode one takes: all but the class token and its position.

    The norm of the release is that of the last output; it goes too if there is no such output. The norms of the other outputs
    are in no image-mode file.

    Args:
        tensors: our key -> tensor, of either mode.
        model: our key -> tensor of the backbone.

    Returns:
        The tensors; what was dropped, in words for a log line; the keys of the model that keep their start. Without change if
        the modes are the same, or the other way round.
    """
    if _CLASS_TOKEN not in tensors or _CLASS_TOKEN in model:
        return tensors, '', []
    norms = [key for key in tensors if key.startswith('out_norms.') and key not in model]
    note = ', without the class token and its position, which the dense mode does not have'
    if norms:
        note += ', and without the last norm, whose output is not among those of the backbone'
    taken = {key: tensor for key, tensor in tensors.items() if key not in (_CLASS_TOKEN, *norms)}
    if _POSITIONS in taken:
        taken[_POSITIONS] = taken[_POSITIONS][:, 1:]
    keep = [key for key in model if key.startswith('out_norms.') and key not in taken]
    return taken, note, keep


def compare(file: Dict[str, Any], model: Dict[str, Any]) -> str:
    """Where the archs of two GLiT differ, in words that end in ``'; '``; nothing if they do not or one is something else."""
    try:
        (dims, blocks), (our_dims, our_blocks) = _read(shapes_of(file)), _read(shapes_of(model))
    except ValueError:
        return ''
    differences = []
    if dims != our_dims:
        differences.append(f'embed_dims is {dims} instead of {our_dims}')
    if len(blocks) != len(our_blocks):
        differences.append(f'there are {len(blocks)} blocks instead of {len(our_blocks)}')
    differences += [f'block {number} has (G, L, K, E, d_k, d_z) = {row} instead of {our_row}'
                    for number, (row, our_row) in enumerate(zip(blocks, our_blocks)) if row != our_row]
    return f'the file has another arch: {shorten(differences, 8)}; ' if differences else ''


def _read(shapes: Shapes) -> Tuple[int, List[tuple]]:
    """Width D and the row of each block; a ValueError where a tensor is missing, or the shapes are not those of a GLiT."""
    places = sorted({tuple(map(int, match.groups())) for match in map(re.compile(r'stages\.(\d+)\.(\d+)\.').match, shapes)
                     if match})
    try:
        embed_dims = shapes['stem.proj.weight'][0]
        if not places:
            raise KeyError('stages.0.0.norm1.weight')
        return embed_dims, [_read_block(shapes, f'stages.{stage}.{block}', embed_dims) for stage, block in places]
    except KeyError as error:
        raise ValueError(f'this is no GLiT; it lacks {error.args[0]}') from None


def _read_block(shapes: Shapes, place: str, embed_dims: int) -> tuple:
    global_channels = local_channels = 0
    kernel_size = expansion = qk_ratio = None
    if f'{place}.mixer.attn.qkv.weight' in shapes:
        width, global_channels = shapes[f'{place}.mixer.attn.qkv.weight']
        qk_ratio = _ratio(width, 3 * global_channels)
    if f'{place}.mixer.conv.expand.weight' in shapes:
        width, local_channels, _ = shapes[f'{place}.mixer.conv.expand.weight']
        expansion = _ratio(width, 2 * local_channels)
        kernel_size = shapes[f'{place}.mixer.conv.depthwise.weight'][2]
    mlp_ratio = _ratio(shapes[f'{place}.mlp.fc1.weight'][0], embed_dims)
    groups = [_ratio(_GROUPS * channels, embed_dims) for channels in (global_channels, local_channels)]
    if sum(groups) != _GROUPS:
        raise ValueError(f'{place} has {global_channels} channels with attention and {local_channels} with convolution, which '
                         f'are not the {embed_dims} of a GLiT')
    return (*groups, kernel_size, expansion, qk_ratio, mlp_ratio)


def _ratio(a: int, b: int) -> float:
    return a // b if a % b == 0 else a / b
