"""What every backbone can do: the cases of test_features.py, and the table of the README made of them.

This file needs the standard library alone.
"""
from typing import Dict, List, Tuple

_PYRAMID = dict(
    channels=(16, 16, 32, 32), depths=(1, 1, 2, 1), expansions=(2, 2, 2, 2), kernel_sizes=(3, 3, 3, 3), grid_sizes=(8, 1, 4, 1),
    pool_ratios=(8, 1, 2, 1))
_GLIT = dict(  # attention to the whole map and convolution, both in windows, each of them alone
    embed_dims=12, num_heads=3,
    blocks=((1, 2, 15, 1, 1, 1), (2, 1, 9, 2, 2, 2), (3, 0, None, None, 0.5, 2), (0, 3, 9, 1, None, 2)))

# row of the table -> config: few and narrow blocks
BACKBONES: Dict[str, dict] = {
    'TransCNN': dict(
        type='hybrid_mm.TransCNN', head_dim=8, arch=dict(_PYRAMID, grid_lists=((8, 4), (4, 2), (2, 2), (2, )))),
    'TransCNN, iterative': dict(
        type='hybrid_mm.TransCNN', h_mhsa='iterative', head_dim=8,
        arch=dict(_PYRAMID, grid_lists=((8, 4), (3, ), (2, 2), (2, )))),
    'HATNet': dict(type='hybrid_mm.HATNet', arch=dict(_PYRAMID, head_dim=8)),
    'ParCResNet': dict(type='hybrid_mm.ParCResNet', depth=dict(depths=(2, 1, 2, 1)), insert_locations=(1, 1, 1, 1)),
    'ParCMobileNetV2': dict(type='hybrid_mm.ParCMobileNetV2', widen_factor=0.1, insert_locations=(1, 1, 2, 3, 2, 2, 0)),
    'ParCConvNeXt': dict(
        type='hybrid_mm.ParCConvNeXt', arch=dict(channels=(8, 8, 16, 16), depths=(2, 1, 2, 1)), insert_locations=(1, 1, 1, 0),
        layer_scale_init_value=0.5),
    'ParCNet': dict(  # a frame of the baseline, then ParC frames
        type='hybrid_mm.ParCNet', insert_locations=(1, 1, 0, 0),
        arch=dict(
            stem_channels=4, stem_kernel_size=3, stem_out_channels=8, expansion=2, concat=True, depths=(1, 1, 1, 1, 1),
            channels=(8, 8, 12, 12, 16), base_sizes=(0, 8, 4, 2, 0), parc_channels=(0, 16, 16, 16, 0),
            parc_depths=(0, 1, 1, 1, 0), transformer_channels=(0, 8, 12, 12, 0), transformer_depths=(0, 1, 1, 1, 0),
            baseline_channels=(8, 8, 8, 8, 12))),
    'WithParC, on ConvNeXt': dict(
        type='hybrid_mm.WithParC', select=r'^stages\.[02]\.1', resolution=64,
        backbone=dict(
            type='mmpretrain.ConvNeXt', arch=dict(depths=[2, 1, 2, 1], channels=[8, 8, 16, 16]), out_indices=(0, 1, 2, 3),
            layer_scale_init_value=0.5, gap_before_final_norm=False)),
    'SeTformer': dict(
        type='hybrid_mm.SeTformer', num_references=9, iterations=3, eps=0.1,
        arch=dict(channels=(16, 16, 32, 32), depths=(1, 1, 2, 1), mlp_ratio=2, head_dim=8)),
    'GLiT, dense': dict(type='hybrid_mm.GLiT', arch=_GLIT, window_size=3, global_blocks=(0, )),
    'GLiT, image': dict(type='hybrid_mm.GLiT', arch=_GLIT, mode='image', global_blocks=()),
}

# column -> what its test shows
FEATURES: Dict[str, str] = {
    'ONNX, any size': 'one file for any batch and any size from 64 pixels a side computes in onnxruntime what torch computes, '
                      'within 1e-4 of the largest value of each output',
    'torch.compile': 'inference is traced into one graph without a break, with the same outputs; the code that a compiler makes '
                     'of the graph is not tested',
    'bfloat16': 'autocast: outputs near those of float32, finite gradients',
    'with_cp': 'blocks are recomputed in each of two backward passes: the same outputs, gradients and statistics, fewer '
               'activations kept',
    'frozen_stages': 'stem and first stages take no gradient and stay in evaluation mode',
    'odd sizes': 'maps of images whose sides no stride divides',
    'layer decay': 'every parameter has a learning rate of its depth',
}

_TWO_STAGES = dict(
    channels=(16, 32), depths=(1, 1), expansions=(2, 2), kernel_sizes=(3, 3), grid_sizes=(8, 1), pool_ratios=(8, 1))
_HOST = BACKBONES['WithParC, on ConvNeXt']
# what an exported or compiled backbone has in the place of its settings above, as this takes time by the block: as few blocks
# as it needs to have all kinds of them
SHORT: Dict[str, dict] = {
    'TransCNN': dict(arch=dict(_TWO_STAGES, grid_lists=((8, 4), (2, ))), out_indices=(0, 1)),
    'TransCNN, iterative': dict(arch=dict(_TWO_STAGES, grid_lists=((8, 4), (3, ))), out_indices=(0, 1)),
    'HATNet': dict(arch=dict(_TWO_STAGES, head_dim=8), out_indices=(0, 1)),
    'ParCResNet': dict(depth=dict(depths=(2, 1)), insert_locations=(1, 1), out_indices=(0, 1)),
    'ParCMobileNetV2': dict(insert_locations=(1, 1, 3, 3, 3, 3, 0)),
    'ParCConvNeXt': dict(arch=dict(channels=(8, 16), depths=(2, 1)), insert_locations=(1, 1), out_indices=(0, 1)),
    'WithParC, on ConvNeXt': dict(
        select=r'^stages\.0\.1',
        backbone=dict(_HOST['backbone'], arch=dict(depths=[2, 1], channels=[8, 16]), out_indices=(0, 1))),
    'SeTformer': dict(arch=dict(channels=(16, 32), depths=(1, 1), mlp_ratio=2, head_dim=8), out_indices=(0, 1)),
}

_OF_THE_HOST = 'An option of the host, which WithParC leaves as it is.'
# cells without a test -> why
REASONS: Dict[Tuple[str, str], str] = {
    ('WithParC, on ConvNeXt', 'with_cp'): _OF_THE_HOST,
    ('WithParC, on ConvNeXt', 'frozen_stages'): _OF_THE_HOST,
}


def cases(feature: str) -> List[str]:
    """Rows of which a test shows a feature."""
    return [name for name in BACKBONES if (name, feature) not in REASONS]


def feature_table() -> str:
    """The table in Markdown, with what each column means, and a footnote for each cell that is not 'yes'."""
    notes = list(dict.fromkeys(REASONS.values()))

    def cell(name: str, feature: str) -> str:
        reason = REASONS.get((name, feature))
        return 'yes' if reason is None else f'[{notes.index(reason) + 1}]'

    rows = [['', *FEATURES], ['---'] * (len(FEATURES) + 1)]
    rows += [[name, *(cell(name, feature) for feature in FEATURES)] for name in BACKBONES]
    table = '\n'.join(f'| {" | ".join(row)} |' for row in rows)
    meanings = ' '.join(f'*{feature}*: {meaning}.' for feature, meaning in FEATURES.items())
    footnotes = ''.join(f'\n\n[{i}] {note}' for i, note in enumerate(notes, 1))
    return f'{table}\n\n{meanings}{footnotes}'
