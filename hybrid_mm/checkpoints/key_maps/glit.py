"""GLiT. Names from the files of https://github.com/bychen515/GLiT, where a block is the only one in a list of candidates.

The blocks are numbered through there; ours stand in four stages of three.
"""
from .rules import KeyMap, Rules, rules

_DEPTHS = (3, 3, 3, 3)
_BLOCK = {
    'norm1.*': 'norm1.*',
    'attn.qkv.*': 'mixer.attn.qkv.*',
    'attn.proj.*': 'mixer.attn.proj.*',
    'attn.net.1.*': 'mixer.conv.expand.*',
    'attn.net.3.conv.*': 'mixer.conv.depthwise.*',
    'attn.net.4.*': 'mixer.conv.norm.*',
    'attn.net.6.*': 'mixer.conv.project.*',
    'norm2.*': 'norm2.*',
    'mlp.fc1.*': 'mlp.fc1.*',
    'mlp.fc2.*': 'mlp.fc2.*',
}


def _blocks() -> Rules:
    places = [f'stages.{stage}.{block}.' for stage, depth in enumerate(_DEPTHS) for block in range(depth)]
    return sum((rules(_BLOCK, f'blocks.{number}.0.', place) for number, place in enumerate(places)), ())


GLIT = KeyMap(
    backbone=rules({
        'patch_embed.proj.*': 'stem.proj.*',
        'norm.*': 'out_norms.3.*',
    }) + ((r'(cls_token|pos_embed)', r'stem.\1'), ) + _blocks(),
    classifier=rules({'head.*': 'head.fc.*'}),
    averaged=False,
    forms=(dict(mode='image'), dict(mode='dense')))
