"""Released names to ours and back, for any arch; and files that do not fit are told apart, whatever is wrong with them."""
import itertools
import re

import pytest
import torch
from hypothesis import strategies as st
from properties.drawn import drawn
from reference.released_weights import NETWORKS, empty_weights
from torch import nn

from hybrid_mm.checkpoints import convert
from hybrid_mm.checkpoints.conversion import drop_repeats, rename_keys
from hybrid_mm.checkpoints.fit import Mismatch, fitting, shapes_of
from hybrid_mm.checkpoints.key_maps import KEY_MAPS
from hybrid_mm.errors import SetupError
from hybrid_mm.registry import MODELS

# ---- there and back ----


def released_names(name, rules):
    """Every released name that one of the rules turns into ours, where numbers that ours leaves out are 0."""
    for pattern, template in rules:
        ours = re.sub(r'\\\\(?:g<(\w+)>|1)', lambda wildcard: rf'(?P<{wildcard[1] or "first"}>\w+)', re.escape(template))
        found = re.fullmatch(ours, name)
        if found:
            groups = found.groupdict()
            text = re.sub(r'\(\?P<(\w+)>[^)]*\)', lambda wildcard: groups.get(wildcard[1], '0'), pattern)
            text = re.sub(r'\((?!\?)[^)]*\)', groups.get('first', ''), text)
            parts = re.split(r'\(\?:([^)]*)\)', text)  # what is between, and the alternatives in every other place
            for choice in itertools.product(*(part.split('|') if i % 2 else [part] for i, part in enumerate(parts))):
                yield re.sub(r'\\(.)', r'\1', ''.join(choice))


def of(**arguments):
    return st.fixed_dictionaries(arguments)


def stages(least, most, number=4):
    return st.lists(st.integers(least, most), min_size=number, max_size=number)


WIDTHS = st.sampled_from([(8, 8, 16, 16), (8, 16, 16, 24)])
PYRAMID = dict(channels=WIDTHS, depths=stages(1, 3), expansions=stages(1, 2), kernel_sizes=st.just((3, 3, 3, 3)),
               grid_sizes=st.sampled_from([(8, 1, 4, 1), (2, 2, 2, 1), (1, 1, 1, 1)]), pool_ratios=st.just((8, 1, 2, 1)))
ROW = st.sampled_from([(1, 2, 15, 1, 1, 1), (2, 1, 9, 2, 2, 2), (3, 0, None, None, 0.5, 2), (0, 3, 9, 1, None, 2)])
ARCHS = {  # family -> arguments of any small network of it
    'TransCNN': of(head_dim=st.just(8), arch=of(grid_lists=st.just(((8, 4), (4, 2), (2, 2), (2, ))), **PYRAMID)),
    'HATNet': of(arch=of(head_dim=st.just(8), **PYRAMID)),
    'GLiT': of(mode=st.just('image'), global_blocks=st.just(()), arch=of(  # the release has twelve blocks
        embed_dims=st.just(12), num_heads=st.just(3), blocks=st.lists(ROW, min_size=12, max_size=12))),
    'ParCResNet': of(depth=of(depths=stages(1, 3)), insert_locations=stages(1, 3)),
    'ParCMobileNetV2': of(widen_factor=st.sampled_from([0.1, 0.3]), insert_locations=stages(1, 4, 7)),
    'ParCConvNeXt': of(
        out_norm=st.just(False), insert_locations=stages(0, 3), arch=of(channels=WIDTHS, depths=stages(1, 3))),
    'ParCNet': st.builds(
        lambda depth, parc_depths, width: dict(insert_locations=(depth, 0, 0, 0), arch=dict(
            stem_channels=4, stem_kernel_size=3, stem_out_channels=8, expansion=2, concat=True, depths=(depth, 1, 1, 1, 1),
            channels=(8, 8, 12, 12, 16), base_sizes=(0, 8, 4, 2, 0), parc_channels=(0, width, width, width, 0),
            parc_depths=(0, *parc_depths, 0), transformer_channels=(0, 8, 12, 12, 0), transformer_depths=(0, 1, 1, 1, 0),
            baseline_channels=(8, 8, 8, 8, 12))),
        st.integers(1, 2), stages(1, 3, 3), st.sampled_from([8, 16])),  # the release has two blocks in front
}


@pytest.mark.parametrize('family', ARCHS)
def test_a_network_of_any_arch_goes_to_released_names_and_back(family):
    rules = KEY_MAPS[family].backbone

    @drawn(4, arguments=ARCHS[family])
    def there_and_back(arguments):
        with torch.device('meta'):
            ours = MODELS.get(family)(**arguments).state_dict()
        released = {}
        for key in ours:
            found = [name for name in released_names(key, rules) if rename_keys([name], family)[0] == {name: key}]
            assert found, f'no released name becomes {key}'
            released[found[0]] = ours[key]
        assert len(released) == len(ours)
        back = convert(released, family)
        assert list(back) == list(ours) and all(back[key] is ours[key] for key in ours)

    there_and_back()


@pytest.mark.parametrize('name', NETWORKS)
def test_released_names_come_back_from_ours(name):
    family = NETWORKS[name]['family']
    names, unknown = rename_keys(drop_repeats(empty_weights(name), family), family)
    rules = KEY_MAPS[family].backbone
    assert not unknown
    for key, ours in names.items():
        back = list(released_names(ours, rules))
        # a number that ours leaves out is not to be had from ours
        assert key in back or any(re.sub(r'\d+', '#', key) == re.sub(r'\d+', '#', other) for other in back), (key, ours, back)


@drawn(60, family=st.sampled_from(sorted(KEY_MAPS)), number=st.integers(0, 10**6), data=st.data())
def test_a_key_of_no_release_is_told(family, number, data):
    name = data.draw(st.sampled_from([name for name in NETWORKS if NETWORKS[name]['family'] == family]))
    released = empty_weights(name)
    key = list(released)[number % len(released)]
    wrong = data.draw(st.sampled_from([f'{key}s', f'x{key}', key.replace('.', '_'), f'module.{key}', key.upper()]))
    released[wrong] = released.pop(key)
    with pytest.raises(ValueError, match=rf'^1 of \d+ keys are not of a released {family}: {re.escape(wrong)}$'):
        convert(drop_repeats(released, family) if 'repeats' not in NETWORKS[name] else {wrong: released[wrong]}, family)


# ---- does a file fit? ----

SHAPE = st.lists(st.integers(1, 3), max_size=3).map(tuple)
TENSORS = st.dictionaries(st.sampled_from([f'{part}.{entry}' for part in ('backbone.stem', 'backbone.stages.0', 'neck', 'head.fc')
                                           for entry in ('weight', 'bias', 'gamma')]), SHAPE, min_size=1, max_size=8)


@drawn(60, file=TENSORS, model=TENSORS)
def test_mismatch_is_the_difference_of_two_lists(file, model):
    mismatch = Mismatch.between(file, model)
    assert set(mismatch.missing) == set(model) - set(file) and set(mismatch.unexpected) == set(file) - set(model)
    assert set(mismatch.reshaped) == {key for key in set(file) & set(model) if file[key] != model[key]}
    assert bool(mismatch) == (file != model) and (str(mismatch) != '') == bool(mismatch)
    for key in [*mismatch.missing[:5], *mismatch.unexpected[:5], *list(mismatch.reshaped)[:5]]:
        assert key in str(mismatch)


class Network(nn.Module):
    """Tensors of these names and shapes."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes = shapes

    def state_dict(self):
        return {key: torch.zeros(shape) for key, shape in self.shapes.items()}


@drawn(80, shapes=TENSORS, fault=st.sampled_from(['lacks', 'has no', 'has the shapes', None]), number=st.integers(0, 99),
       part=st.sampled_from(['model', 'backbone']), counted=st.booleans())
def test_one_wrong_tensor_is_always_told(shapes, fault, number, part, counted):
    model = Network({**shapes, 'backbone.norm.num_batches_tracked': ()} if counted else shapes)
    file = {key: torch.zeros(shape) for key, shape in shapes.items()}
    key = sorted(shapes)[number % len(shapes)]
    compared = part == 'model' or key.startswith('backbone.')
    if fault == 'lacks':
        del file[key]
    elif fault == 'has no':
        key = f'{key}_2'
        file[key], compared = torch.zeros(1), part == 'model'
    elif fault is not None:
        file[key] = torch.zeros((*shapes[key], 2))
    if fault is None or not compared:
        taken = fitting(file, model, 'a.pth', part)
        assert shapes_of(taken) == {key: shape for key, shape in shapes.items() if part == 'model' or key.startswith('backbone.')}
    else:
        with pytest.raises(SetupError, match=rf'^the checkpoint a\.pth is of another network: .*{fault} {re.escape(key)}\b'):
            fitting(file, model, 'a.pth', part)
