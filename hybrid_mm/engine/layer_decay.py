"""Learning rates that fall from the head to the stem, for fine-tuning a pre-trained backbone."""
from typing import Dict, List, Optional, Tuple

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from hybrid_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

_DECAY_TYPES = ('layer_wise', 'stage_wise')
_PREFIX = 'backbone.'
_PARTS = ('stem', 'downsamples', 'stages')  # of a released backbone


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Multiply the learning rate by ``decay_rate`` once for each layer between a parameter and the heads.

    Works with every backbone of ours in any detector, segmentor or classifier that has it as ``backbone``. What the released
    backbones lack learns at the full rate: neck, heads and the norms of ``out_norm=True``. With ``num_layers=6`` the layers of
    a ConvNeXt with depths 3, 3, 9, 3 are those of its authors, which MMDetection and MMSegmentation know for ConvNeXt alone.
    ``layer_wise`` decay takes other backbones with a ``get_layer_depth`` too, at the depths that they say: those of MMPreTrain
    that have one, also inside of `hybrid_mm.WithParC`.

    Args:
        optim_wrapper_cfg: optimizer and its wrapper.
        paramwise_cfg: a dict with

            * ``decay_rate``: above 0, at most 1;
            * ``decay_type``: ``'layer_wise'`` (default) or ``'stage_wise'``;
            * ``num_layers``, if ``layer_wise``: divide the backbone's blocks into so many layers of equal length. The stem is
              one more in front, the heads one more behind, and a downsampling goes with the block behind it. By default as
              many as ``backbone.get_layer_depth`` counts, in general one a block;
            * ``num_layers``, if ``stage_wise``: stem and downsamplings are layer 0, stage s, from 1, is layer s, and the heads
              are layer ``num_layers + 1``. By default the number of stages;
            * any option of mmengine's constructor. Norms, biases and other one-dimensional parameters have no weight decay
              unless ``norm_decay_mult``, ``bias_decay_mult`` or ``flat_decay_mult`` say otherwise.

    Raises:
        ValueError: an option is missing or outside of what is allowed, or the model has no backbone that knows its depths.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None) -> None:
        if optim_wrapper_cfg.get('optimizer', {}).get('weight_decay') is None:
            raise ValueError('optimizer.weight_decay is missing; layer decay leaves norms and biases out of it, so give it, 0 '
                             'for none')
        no_decay = dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.)
        super().__init__(optim_wrapper_cfg, {**no_decay, **(paramwise_cfg or {})})
        self.decay_rate = self.paramwise_cfg.get('decay_rate')
        self.decay_type = self.paramwise_cfg.get('decay_type', 'layer_wise')
        self.num_layers = self.paramwise_cfg.get('num_layers')
        if not isinstance(self.decay_rate, (int, float)) or not 0 < self.decay_rate <= 1:
            raise ValueError(f'paramwise_cfg.decay_rate={self.decay_rate} is not allowed; choose from above 0 to 1')
        if self.decay_type not in _DECAY_TYPES:
            raise ValueError(f'paramwise_cfg.decay_type={self.decay_type!r} is unknown; choose from {", ".join(_DECAY_TYPES)}')
        if self.base_lr is None:
            raise ValueError('optimizer.lr is missing; layer decay needs the learning rate of the head')

    def add_params(self, params: List[dict], module: nn.Module, prefix: str = '', **kwargs) -> None:
        """Add the parameters of ``module`` to ``params``, as groups with one learning rate and weight decay each."""
        super().add_params(params, module, prefix, **kwargs)
        if prefix:  # a part of the model, on mmengine's way through it
            return
        backbone = self._backbone(module)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        groups: Dict[str, dict] = {}
        for group in params:
            parameter, = group['params']
            layer, last = self._layer(names[id(parameter)], backbone)
            options = {key: value for key, value in group.items() if key != 'params'}
            options['lr'] = options.get('lr', self.base_lr) * self.decay_rate**(last - layer)
            # a group each for what learns alike: optimizers work on all tensors of a group at once
            groups.setdefault(repr(sorted(options.items())), dict(options, params=[]))['params'].append(parameter)
        params[:] = groups.values()
        rates = sorted({group['lr'] for group in params})
        print_log(f'{self.decay_type} decay: learning rates {", ".join(f"{rate:.3g}" for rate in rates)}', logger='current')

    def _layer(self, name: str, backbone: nn.Module) -> Tuple[int, int]:
        """Layer of a parameter, and the last layer, that of the heads."""
        part, index, *_ = f'{name[len(_PREFIX):]}.'.split('.') if name.startswith(_PREFIX) else ('', '')
        depth, num_depths = backbone.get_layer_depth(name, _PREFIX)
        at_full_rate = part not in _PARTS if _is_ours(backbone) else depth == num_depths - 1
        if self.decay_type == 'stage_wise':
            last = self._num_layers(len(backbone.stages), fewest=len(backbone.stages)) + 1
            layer = int(index) + 1 if part == 'stages' else 0
        else:
            num_blocks = num_depths - 2
            num_layers = self._num_layers(num_blocks, most=num_blocks)
            last = num_layers + 1
            layer = 1 + (depth - 1) * num_layers // num_blocks if depth else 0
        return (last if at_full_rate else layer), last

    def _num_layers(self, default: int, fewest: int = 1, most: Optional[int] = None) -> int:
        count = default if self.num_layers is None else self.num_layers
        if count < fewest or most is not None and count > most:
            allowed = f'from {fewest} to {most}' if most is not None else f'{fewest} or more'
            raise ValueError(f'paramwise_cfg.num_layers={count} is not allowed; choose {allowed} for {self.decay_type} decay '
                             'of this backbone')
        return count

    def _backbone(self, model: nn.Module) -> nn.Module:
        backbone = getattr(model, 'backbone', None)
        if not (_is_ours(backbone) or self.decay_type == 'layer_wise' and hasattr(backbone, 'get_layer_depth')):
            raise ValueError(f'{self.decay_type} decay needs a backbone of hybrid_mm as model.backbone, not '
                             f'{type(backbone).__name__}; layer_wise decay also takes one with get_layer_depth')
        return backbone


def _is_ours(backbone: nn.Module) -> bool:
    return all(hasattr(backbone, part) for part in ('get_layer_depth', *_PARTS))
