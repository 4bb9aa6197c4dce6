"""What tests of the shipped configs share: their names, tables of the networks, and ways to loop, load, build and compare."""
import copy
import itertools
from functools import lru_cache, partial
from pathlib import Path
from unittest import mock

import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope

import hybrid_mm

CLONE = Path(__file__).resolve().parents[2]
CONFIGS = CLONE / 'configs'
OLD = sorted(CONFIGS.glob('*.py'))  # names from before configs had folders
FILES = sorted(set(CONFIGS.rglob('*.py')) - {*OLD})
LEAVES = [path.name for path in FILES if '_base_' not in path.parts]
PUBLISHED = [path.name for path in FILES if (path.parent / 'metafile.yml').is_file()]

TRANSCNN = 'https://github.com/yun-liu/TransCNN/releases/download/v1.0/TransCNN-{}.pth'
HATNET = 'https://github.com/yun-liu/HAT-Net/releases/download/v2.0/HAT-Net_{}.pth'
RELEASES = {  # arch, and the authors' file of that size: the paper's names in TransCNN differ from the release's
    'transcnn_s': ('small', TRANSCNN.format('Tiny')),
    'transcnn_b': ('base', TRANSCNN.format('Small')),
    'transcnn_m': ('medium', TRANSCNN.format('Medium')),
    'transcnn_l': ('large', TRANSCNN.format('Large')),
    'hatnet_t': ('tiny', HATNET.format('Tiny')),
    'hatnet_s': ('small', HATNET.format('Small')),
    'hatnet_m': ('medium', HATNET.format('Medium')),
    'hatnet_l': ('large', HATNET.format('Large')),
}
PARC = {  # type, the option of the variant, and the checkpoint that dense tasks start from
    'parc_r50': ('ParCResNet', dict(depth=50), 'work_dirs/imagenet_parc_r50/epoch_300.pth'),
    'parc_mbv2': ('ParCMobileNetV2', dict(widen_factor=1.0), 'work_dirs/imagenet_parc_mbv2/epoch_300.pth'),
    'parc_convnext_xt': ('ParCConvNeXt', dict(arch='xtiny'), 'work_dirs/imagenet_parc_convnext_xt/epoch_300.pth'),
    'parc_convnext_t': ('ParCConvNeXt', dict(arch='tiny'), 'work_dirs/imagenet_parc_convnext_t/epoch_300.pth'),
    'parcnet_xs': ('ParCNet', dict(arch='xs'), 'work_dirs/imagenet_parcnet_xs/epoch_300.pth'),
    'parcnet_s': ('ParCNet', dict(arch='s'), 'checkpoints/parcnet_s/checkpoint_ema_avg.pt'),
    'parcnet_h': ('ParCNet', dict(arch='h'), 'work_dirs/imagenet_parcnet_h/epoch_300.pth'),
}
CONVNETS = [network for network in PARC if network.startswith('parc_')]
CONVNEXTS = [network for network in PARC if network.startswith('parc_convnext')]
PARCNETS = [network for network in PARC if network.startswith('parcnet')]
SETFORMERS = {  # arch, and the drop path rates on ImageNet, COCO and ADE20K
    'setformer_m': ('mini', 0.2, 0.2, 0.2),
    'setformer_t': ('tiny', 0.2, 0.2, 0.3),
    'setformer_s': ('small', 0.3, 0.35, 0.5),
    'setformer_b': ('base', 0.5, 0.5, 0.5),
}
GLITS = {  # arch, channels, the checkpoint that dense tasks start from, and parameters of the classifier
    'glit_t': ('tiny', 192, 'checkpoints/glit_tiny.pth.tar', 7264456),
    'glit_s': ('small', 360, 'work_dirs/imagenet_glit_s/epoch_310.pth', 24587020),
    'glit_b': ('base', 720, 'work_dirs/imagenet_glit_b/epoch_310.pth', 96174640),
}
BASELINES = ['parc_r50', 'parc_mbv2', 'parc_convnext_xt']  # networks that have one

DENSE = ['maskrcnn_{}.py', 'maskrcnn_{}_3x.py', 'upernet_{}.py']
SETTINGS = [*DENSE, 'imagenet_{}.py']
PARC_DENSE = ['maskrcnn_{}.py', 'cascade_maskrcnn_{}_3x.py', 'upernet_{}.py']
PARC_SETTINGS = [*PARC_DENSE, 'imagenet_{}.py']
SETFORMER_DENSE = ['maskrcnn_{}.py', 'maskrcnn_{}_3x.py', 'cascade_maskrcnn_{}_3x.py', 'upernet_{}.py']
SETFORMER_SETTINGS = [*SETFORMER_DENSE, 'imagenet_{}.py']
REAL = [path.name for path in FILES if path.parent.name == 'real']  # photographs
SHAPES = [name for name in LEAVES if name not in PUBLISHED and name not in REAL]

# what a recipe has in common with that of MMDetection or MMSegmentation
STOCK_PARTS = [
    'train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator', 'param_scheduler',
    'train_cfg', 'val_cfg', 'test_cfg', 'default_hooks', 'env_cfg', 'visualizer', 'log_processor'
]

# of our checkpoints beside theirs
GUARDS = tuple(f'default_hooks.{name}.' for name in (
    'random_state', 'preemption', 'resume_schedule', 'data_guard', 'numerics_guard', 'hang_guard', 'compile'))
KEPT = [f'default_hooks.checkpoint.{setting}' for setting in ('max_keep_ckpts', 'save_best', 'rule')]
_BUILT, _FILES = {}, {}  # model by its config, content of a file by its path
_file_to_dict = Config._file2dict


def for_each(**values):
    """Run a test on each of some values, or on all combinations of several, and name all on which it fails.

    A test of its own for each would cost more than what it tests.
    """

    def decorate(test):

        def loop():
            faults = {}
            for chosen in itertools.product(*values.values()):
                try:
                    test(**dict(zip(values, chosen)))
                except Exception as error:
                    faults[f'{", ".join(map(str, chosen))}: {type(error).__name__}: {error}'] = error
            if faults:
                raise AssertionError('\n'.join(faults)) from next(iter(faults.values()))

        loop.__name__, loop.__doc__ = test.__name__, test.__doc__  # not __wrapped__, whose arguments pytest takes for fixtures
        return loop

    return decorate


def read(path):
    """A shipped config as mmengine reads it, but each file is read once, and not anew for each config that stands on it."""

    def file_to_dict(filename, *args, **kwargs):
        path = Path(filename).resolve()
        if path not in _FILES:
            _FILES[path] = _file_to_dict(filename, *args, **kwargs)
        return copy.deepcopy(_FILES[path])

    with mock.patch.object(Config, '_file2dict', staticmethod(file_to_dict)):
        return Config.fromfile(path)


@lru_cache(maxsize=None)
def load(name):
    """A config, read once; copy it before a change."""
    return read(hybrid_mm.config_path(name))


def build(name):
    """The model of a config that was read by `load`, see `build_model`."""
    return build_model(load(name))


def build_model(cfg):
    """A model, its data preprocessor included as the Runner does, without memory for its weights.

    Schedules share models, and each is built once: set its mode, and change nothing else.
    """
    model = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    key = f'{cfg.default_scope} {model}'
    if key not in _BUILT:
        names = ('kaiming_uniform_', 'kaiming_normal_', 'uniform_', 'normal_')  # a start takes time, even without memory
        as_they_are = dict.fromkeys(names, lambda tensor, *args, **kwargs: tensor)
        linspace = partial(torch.linspace, device='cpu')  # from which Swin and ConvNeXt read their drop path rates
        with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'), \
                mock.patch.multiple(torch.nn.init, **as_they_are), mock.patch('torch.linspace', linspace):
            _BUILT[key] = MODELS.build(model)
    return _BUILT[key]


def stages(part):
    """Parts of a RoI head by stage: of a cascade as they are, of a single stage in a list."""
    return part if isinstance(part, torch.nn.ModuleList) else [part]


def registered(registry, scope, name):
    """The class of that name as the library of a scope finds it, or None."""
    with registry.switch_scope_and_registry(scope) as scoped:
        return scoped.get(name)


def class_names(name):
    """Names of the classes of a config's training data."""
    cfg = load(name)
    dataset = cfg.train_dataloader.dataset
    if 'metainfo' in dataset:
        return dataset.metainfo.classes
    return registered(DATASETS, cfg.default_scope, dataset.type).METAINFO['classes']


def weight_decays(name):
    """Weight decay of each parameter of a config's model by name."""
    model = build(name)
    optim_wrapper = build_optim_wrapper(model, dict(load(name).optim_wrapper, type='OptimWrapper'))
    groups = {id(parameter): group for group in optim_wrapper.param_groups for parameter in group['params']}
    return {key: (parameter, groups[id(parameter)]['weight_decay']) for key, parameter in model.named_parameters()
            if parameter.requires_grad}


def flatten(value, prefix=''):
    """Values of a nested config by dotted name, tuples as lists; None says the same as a missing key."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        parts = [flatten(item, f'{prefix}.{key}') for key, item in value.items()]
        return dict(item for part in parts for item in part.items())
    return {} if value is None else {prefix: list(value) if isinstance(value, tuple) else value}


def assert_same(ours, stock, keys):
    """The named parts of two configs are equal, but for what our pipelines leave to the data set, and our own hooks."""
    for key in keys:
        expected = {name: value for name, value in flatten(stock[key], key).items() if not name.endswith('.reduce_zero_label')}
        for hook in ('LoggerHook', 'CheckpointHook'):
            expected.update({name: f'hybrid_mm.{hook}' for name, value in expected.items() if value == hook})
        found = {name: value for name, value in flatten(ours[key], key).items()
                 if name not in KEPT and not name.startswith(GUARDS)}
        assert found == expected
