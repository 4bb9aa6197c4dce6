"""How the releases name their tensors and how our backbones do: one row of `KEY_MAPS` a family.

Names of TransCNN from the files of https://github.com/yun-liu/TransCNN, tag v1.0; of HATNet from
https://github.com/yun-liu/HAT-Net, tag v2.0.
"""
from typing import Dict, NamedTuple, Tuple

Rules = Tuple[Tuple[str, str], ...]


class KeyMap(NamedTuple):
    """Rules of one family: a regular expression for a whole released key, and what replaces it. The first match counts.

    Attributes:
        backbone: rules to the keys of our backbone.
        classifier: rules to the keys of mmpretrain's ImageClassifier with a LinearClsHead.
    """
    backbone: Rules
    classifier: Rules


_BLOCK = r'blocks\.(\d+)\.(\d+)'
_ENTRY = r'(weight|bias|running_mean|running_var|num_batches_tracked)'

_STEM_AND_BLOCKS = (
    (rf'patch_embed\.([013])\.{_ENTRY}', r'stem.\1.\2'),
    (rf'{_BLOCK}\.attn\.(norm|qkv|proj|grid_norm|q|kv)\.{_ENTRY}', r'stages.\1.\2.attn.\3.\4'),
    (rf'{_BLOCK}\.attn\.ds_norm\.{_ENTRY}', r'stages.\1.\2.attn.pool_norm.\3'),
    (rf'{_BLOCK}\.conv\.conv1\.([01])\.{_ENTRY}', r'stages.\1.\2.irb.expand.\3.\4'),
    (rf'{_BLOCK}\.conv\.conv2\.([01])\.{_ENTRY}', r'stages.\1.\2.irb.depthwise.\3.\4'),
    (rf'{_BLOCK}\.conv\.conv3\.([01])\.{_ENTRY}', r'stages.\1.\2.irb.project.\3.\4'),
)


def _downsampling_rules(names: Dict[str, str]) -> Rules:
    """Rules for the layers in front of stages 1 to 3, which the releases number from 2.

    Args:
        names: released name of a layer -> ours.
    """
    return tuple((rf'ds{stage + 1}\.{released}\.{_ENTRY}', rf'downsamples.{stage}.{ours}.\1') for stage in (1, 2, 3)
                 for released, ours in names.items())


_CLASSIFIER = ((r'classifier\.1\.(weight|bias)', r'head.fc.\1'), )

KEY_MAPS: Dict[str, KeyMap] = {
    'TransCNN':
    KeyMap(
        backbone=_STEM_AND_BLOCKS +
        _downsampling_rules(dict(conv='conv', norm1='conv_norm', residual='pool_conv', norm2='pool_norm')),
        classifier=_CLASSIFIER),
    'HATNet':
    KeyMap(
        backbone=_STEM_AND_BLOCKS + _downsampling_rules(dict(conv='conv', norm='norm')) +
        ((rf'{_BLOCK}\.attn\.proj_norm\.{_ENTRY}', r'stages.\1.\2.attn.proj_norm.\3'), ),
        classifier=_CLASSIFIER),
}
