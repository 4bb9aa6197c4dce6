"""TransCNN, names from the files of https://github.com/yun-liu/TransCNN, tag v1.0; HATNet, from
https://github.com/yun-liu/HAT-Net, tag v2.0.
"""
from typing import Dict

from .rules import KeyMap, Rules, rules

_STEM = rules({f'patch_embed.{i}.*': f'stem.{i}.*' for i in (0, 1, 3)})
_BLOCKS = rules(
    released='blocks.#.#.',
    ours='stages.#.#.',
    table={
        'attn.norm.*': 'attn.norm.*',
        'attn.qkv.*': 'attn.qkv.*',
        'attn.proj.*': 'attn.proj.*',
        'attn.grid_norm.*': 'attn.grid_norm.*',
        'attn.ds_norm.*': 'attn.pool_norm.*',
        'attn.q.*': 'attn.q.*',
        'attn.kv.*': 'attn.kv.*',
        'conv.conv1.#.*': 'irb.expand.#.*',
        'conv.conv2.#.*': 'irb.depthwise.#.*',
        'conv.conv3.#.*': 'irb.project.#.*',
    })
_CLASSIFIER = rules({'classifier.1.*': 'head.fc.*'})


def _downsamplings(table: Dict[str, str]) -> Rules:
    """The layers in front of stages 1 to 3, which the releases number from 2."""
    return sum((rules(table, f'ds{stage + 1}.', f'downsamples.{stage}.') for stage in (1, 2, 3)), ())


TRANSCNN = KeyMap(
    backbone=_STEM + _BLOCKS + _downsamplings({
        'conv.*': 'conv.*',
        'norm1.*': 'conv_norm.*',
        'residual.*': 'pool_conv.*',
        'norm2.*': 'pool_norm.*',
    }),
    classifier=_CLASSIFIER)

HATNET = KeyMap(
    backbone=_STEM + _BLOCKS + rules({'blocks.#.#.attn.proj_norm.*': 'stages.#.#.attn.proj_norm.*'}) +
    _downsamplings({
        'conv.*': 'conv.*',
        'norm.*': 'norm.*',
    }),
    classifier=_CLASSIFIER)
