"""The four families with ParC. Names from https://github.com/hkzhang91/ParC-Net, from the first author's code for detection
and segmentation (https://github.com/yangtao2019yt, edgeformer_v2_*), and those of the networks that they improve on, as
torchvision and ConvNeXt's own code have them.
"""
from typing import Dict

from .rules import KeyMap, Rules, rules

_NO_PARC = dict(insert_locations=())


def _parc(ours: str) -> Dict[str, str]:
    """Both axes of a ParC that splits the channels; the authors' files spell it in three ways.

    Args:
        ours: our name of the pair.
    """
    table = {}
    for axis, number in dict(H=1, W=2).items():
        name = f'{ours}.{axis.lower()}'
        table[f'{{parc,gcc}}_{axis}.pe'] = f'{name}.pos_embed'
        table[f'{{parc,gcc}}_{axis}.gcc_conv.*'] = f'{name}.*'
        table[f'gcc_conv_{number}{axis}.meta_pe'] = f'{name}.pos_embed'
        table[f'gcc_conv_{number}{axis}.*'] = f'{name}.*'
    return table


def _resnet_stages() -> Rules:
    block = {
        'conv1.*': 'conv1.*',
        'bn1.*': 'norm1.*',
        'conv2.*': 'conv2.*',
        **_parc('conv2'),
        'bn2.*': 'norm2.*',
        'conv3.*': 'conv3.*',
        'bn3.*': 'norm3.*',
        'downsample.#.*': 'shortcut.#.*',
    }
    return sum((rules(block, f'layer{stage + 1}.#.', f'stages.{stage}.#.') for stage in range(4)), ())


PARC_RESNET = KeyMap(
    backbone=rules({
        'conv1.*': 'stem.0.*',
        'bn1.*': 'stem.1.*',
    }) + _resnet_stages(),
    classifier=rules({'fc.*': 'head.fc.*'}),
    baseline=_NO_PARC)

# Number in the release and torchvision, name in the code for detection and segmentation, our name.
_MOBILENET_PARTS = (
    (0, 'conv1', 'stem.0'),
    (1, 'layer1.0', 'stem.1'),
    (2, 'layer2.0', 'stages.0.0'),
    (3, 'layer2.1', 'stages.0.1'),
    (4, 'layer3.0', 'stages.1.0'),
    (5, 'layer3.1', 'stages.1.1'),
    (6, 'layer3.2', 'stages.1.2'),
    (7, 'layer4.0', 'stages.2.0'),
    (8, 'layer4.1', 'stages.2.1'),
    (9, 'layer4.2', 'stages.2.2'),
    (10, 'layer4.3', 'stages.2.3'),
    (11, 'layer5.0', 'stages.2.4'),
    (12, 'layer5.1', 'stages.2.5'),
    (13, 'layer5.2', 'stages.2.6'),
    (14, 'layer6.0', 'stages.3.0'),
    (15, 'layer6.1', 'stages.3.1'),
    (16, 'layer6.2', 'stages.3.2'),
    (17, 'layer7.0', 'stages.3.3'),
    (18, 'conv2', 'stages.3.4'),
)


def _mobilenet_parts() -> Rules:
    convolution = {'#.*': '#.*'}
    first_block = {  # as narrow inside as its input: no convolution that widens
        'conv.0.#.*': 'depthwise.#.*',
        'conv.1.*': 'project.0.*',
        'conv.2.*': 'project.1.*',
    }
    block = {
        'conv.0.#.*': 'expand.#.*',
        'conv.1.#.*': 'depthwise.#.*',
        'conv.2.*': 'project.0.*',
        'conv.3.*': 'project.1.*',
        # blocks with ParC
        'pw_expand.#.*': 'expand.#.*',
        **_parc('depthwise.0'),
        'bn.*': 'depthwise.1.*',
        'pw_linear.#.*': 'project.#.*',
    }
    tables = {0: convolution, 1: first_block, 18: convolution}
    return sum((rules(tables.get(number, block), f'{{features.{number},{dense}}}.', f'{ours}.')
                for number, dense, ours in _MOBILENET_PARTS), ())


PARC_MOBILENET_V2 = KeyMap(
    backbone=_mobilenet_parts(), classifier=rules({'classifier.1.*': 'head.fc.*'}), baseline=_NO_PARC)

PARC_CONVNEXT = KeyMap(
    backbone=rules({
        'downsample_layers.0.#.*': 'stem.#.*',
        'downsample_layers.#.#.*': 'downsamples.#.#.*',
        **{f'norm{stage}.*': f'out_norms.{stage}.*' for stage in range(4)},
    }) + rules(
        released='stages.#.#.',
        ours='stages.#.#.',
        table={
            'gamma': 'gamma',
            'dwconv.*': 'dwconv.*',
            **_parc('dwconv'),
            'norm.*': 'norm.*',
            'pwconv1.*': 'pwconv1.*',
            'pwconv2.*': 'pwconv2.*',
        }),
    classifier=rules({  # the norm is that of the pooled map
        'norm.*': 'neck.norm.*',
        'head.*': 'head.fc.*',
    }),
    baseline=_NO_PARC)


def _conv_norm(table: Dict[str, str]) -> Dict[str, str]:
    """Convolutions with the norm behind them, numbers 0 and 1 of ours."""
    return {f'{released}.block.{part}.*': f'{ours}.{i}.*' for released, ours in table.items()
            for i, part in enumerate(('conv', 'norm'))}


def _inverted_residuals(table: Dict[str, str]) -> Rules:
    block = _conv_norm({
        'exp_1x1': 'expand',
        'conv_3x3': 'depthwise',
        'red_1x1': 'project',
    })
    return sum((rules(block, f'{released}.block.', f'{ours}.') for released, ours in table.items()), ())


def _parcnet_frames() -> Rules:
    frame = {
        **_conv_norm({
            'dim_adaptive.0': 'local.0',
            'channel_adaptive': 'project',
            'local_global_fusion': 'fuse',
        }),
        'dim_adaptive.1.block.conv.*': 'local.1.*',
        'spatial_global_rep.#.*': 'norm.*',  # behind the last block
    }
    block = {
        'meta_kernel_1_H': 'h1.weight',
        'meta_kernel_1_W': 'w1.weight',
        'meta_kernel_2_H': 'h2.weight',
        'meta_kernel_2_W': 'w2.weight',
        'meta_pe_1_H': 'embed_h.pos_embed',
        'meta_pe_1_W': 'embed_w.pos_embed',
        'meta_pe_2_H': 'h2.pos_embed',
        'meta_pe_2_W': 'w2.pos_embed',
        'pre_Norm_1.*': 'norm_h.*',
        'pre_Norm_2.*': 'norm_w.*',
        'ffn.#.*': 'ffn.#.*',
        'ca.fc.#.*': 'ca.fc.#.*',
    }
    return sum((rules(frame, f'layer_{stage + 2}.1.', f'stages.{stage}.0.') +
                rules(block, f'layer_{stage + 2}.1.spatial_global_rep.#.', f'stages.{stage}.0.blocks.#.')
                for stage in (1, 2, 3)), ())


PARC_NET = KeyMap(
    backbone=rules(_conv_norm({
        'conv_1': 'stem.0',
        'conv_1x1_exp': 'stages.4.0',
    })) + _inverted_residuals({
        'layer_1.0': 'stem.1',
        'layer_2.0': 'downsamples.0',
        'layer_2.1': 'stages.0.0',
        'layer_2.2': 'stages.0.1',
        'layer_3.0': 'downsamples.1',
        'layer_4.0': 'downsamples.2',
        'layer_5.0': 'downsamples.3',
    }) + _parcnet_frames(),
    classifier=rules({'classifier.fc.*': 'head.fc.*'}),
    repeats=((r'residual\.(.+)', r'layer_5.0.\1'), ),
    baseline=_NO_PARC)
