"""The networks, their forms and the goals of the benchmark."""
from typing import NamedTuple, Optional


class Network(NamedTuple):
    """A backbone."""
    title: str
    group: str  # 'ours', or 'stock', which people would take instead
    config: str  # of the backbone, a file in configs/_base_/backbones
    instead: Optional[dict] = None  # where MMDetection cannot be imported, as with mmcv-lite


NETWORKS = {
    'transcnn_b': Network('TransCNN base', 'ours', 'transcnn_b'),
    'hatnet_s': Network('HAT-Net small', 'ours', 'hatnet_s'),
    'setformer_t': Network('SeTformer tiny', 'ours', 'setformer_t'),
    'glit_s': Network('GLiT small, dense', 'ours', 'glit_s'),
    'parc_convnext_t': Network('ParC-ConvNeXt tiny', 'ours', 'parc_convnext_t'),
    'parc_r50': Network('ParC-ResNet50', 'ours', 'parc_r50'),
    'parc_mbv2': Network('ParC-MobileNetV2', 'ours', 'parc_mbv2'),
    'parcnet_s': Network('ParC-Net-S', 'ours', 'parcnet_s'),
    'swin_t': Network('Swin-T', 'stock', 'swin_t', dict(
        type='mmpretrain.SwinTransformer', arch='tiny', out_indices=(0, 1, 2, 3), pad_small_map=True, drop_path_rate=0.1)),
    'convnext_t': Network('ConvNeXt-T', 'stock', 'convnext_t'),
    'r50': Network('ResNet-50', 'stock', 'r50', dict(
        type='mmpretrain.ResNet', depth=50, out_indices=(0, 1, 2, 3), norm_eval=False)),
    'mbv2': Network('MobileNetV2', 'stock', 'mbv2'),
}
BASE = 'swin_t'  # what the ratios are to; it is in every run

FORMS = {
    'eager': '',
    'plain': 'plain',  # each layer by its definition, see `forms.plain`
    'compiled': 'compiled',
    'optimised': 'optimised',  # by hybrid_mm.deploy.optimise, for inference
}
MODES = {'inference': 1, 'training': 3}  # a backward pass has twice the multiply-adds of the forward pass
DTYPES = {'fp32': None, 'bf16': 'bfloat16', 'fp16': 'float16'}  # of automatic mixed precision


class Entry(NamedTuple):
    """What is timed: a network in a form, on images of one of the sizes of a run."""
    network: str
    form: str = 'eager'
    size: int = 0

    @property
    def key(self) -> str:
        return self.network + (f':{self.form}' if self.form != 'eager' else '') + (f'@{self.size}' if self.size else '')


GOAL_SIZE = '768x1280'


class Goal(NamedTuple):
    """A figure to reach, of `figures.FIGURES`, at `GOAL_SIZE` on a CPU."""
    what: str
    figure: str
    network: str  # or 'median', of all of ours
    mode: str
    dtype: str
    before: str  # what it was when the goal was set
    limit: float
    at_most: bool = False

    @property
    def text(self) -> str:
        return f'{"≤" if self.at_most else "≥"} {self.limit}'

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def _half(title: str, network: str, inference: str, training: str) -> tuple:
    what = f"{title} in bf16, MACs a second over Swin-T's in bf16"
    return (Goal(f'{what}, inference', 'rate', network, 'inference', 'bf16', inference, 1.0),
            Goal(f'{what}, training', 'rate', network, 'training', 'bf16', training, 0.85))


GOALS = (
    Goal("TransCNN base, training, MACs a second over Swin-T's", 'rate', 'transcnn_b', 'training', 'fp32', '0.72 and 0.85', 1.05),
    Goal("TransCNN base, training, memory over Swin-T's", 'memory', 'transcnn_b', 'training', 'fp32', '2.11', 1.3, True),
    Goal("HAT-Net small, training, MACs a second over Swin-T's", 'rate', 'hatnet_s', 'training', 'fp32', '0.90 and 1.19', 1.2),
    Goal("HAT-Net small, training, memory over Swin-T's", 'memory', 'hatnet_s', 'training', 'fp32', '1.75', 1.2, True),
    *_half('TransCNN base', 'transcnn_b', '0.76', '0.44'),
    *_half('HAT-Net small', 'hatnet_s', '0.79', '0.60'),
    Goal("SeTformer tiny, a training step over Swin-T's", 'time', 'setformer_t', 'training', 'fp32', '1.12', 0.9, True),
    Goal('SeTformer tiny, inference, share of the matrix peak', 'share', 'setformer_t', 'inference', 'fp32', '0.60', 0.75),
    Goal("GLiT small, dense, training, MACs a second over Swin-T's", 'rate', 'glit_s', 'training', 'fp32', '0.94', 1.05),
    Goal('TransCNN base, `optimise` over plain eager, fp32', 'optimised', 'transcnn_b', 'inference', 'fp32', '', 0.95, True),
    Goal('TransCNN base, `optimise` over plain eager, bf16', 'optimised', 'transcnn_b', 'inference', 'bf16', '', 0.75, True),
    *(Goal(f'{NETWORKS[name].title}, compiled over eager, inference', 'compiled', name, 'inference', 'fp32', '', 1.03, True)
      for name, network in NETWORKS.items() if network.group == 'ours'),
    Goal('the median of these', 'compiled', 'median', 'inference', 'fp32', '0.88 to 1.27', 0.93, True),
)
GROWTH_SIZES = '512x512', '1024x1024'
GROWTH_LIMIT = 1.1  # of the growth of time over that of the multiply-adds
