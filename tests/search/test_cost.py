"""MACs and parameters by formulae: published figures, a counter on the network itself, and the ends of a space."""
import itertools

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hybrid_mm.backbones import GLiT
from hybrid_mm.search import CostModel, SearchSpace

SMALL = SearchSpace([dict(G=[0, 1, 2, 3], K=[3, 9], E=[1, 2], d_k=[0.5, 1], d_z=[1, 2])], num_blocks=4)


@pytest.mark.parametrize('arch, parameters, macs, authors', [
    ('tiny', 7_264_456, 1.473, 1.332), ('small', 24_587_020, 4.922, 4.429), ('base', 96_174_640, 19.104, 17.129)])
def test_published_sizes(arch, parameters, macs, authors):
    settings = GLiT.arch_settings[arch]
    cost, blocks = CostModel(settings['embed_dims'], num_classes=1000), settings['blocks']
    assert cost.parameters(blocks) == parameters
    assert round(cost.macs(blocks) / 1e9, 3) == macs
    assert round(cost.macs(blocks, 'authors') / 1e9, 3) == authors


def test_macs_of_each_block_of_tiny():
    cost = CostModel()
    macs = [cost.block_macs(row, True, 'true') / 1e6 for row in GLiT.arch_settings['tiny']['blocks']]
    assert [round(value, 1) for value in macs] == [
        80.1, 104.0, 137.2, 102.0, 152.1, 137.2, 73.0, 79.1, 152.1, 102.0, 149.9, 175.0]


@pytest.mark.parametrize('mode, size, settings', [
    ('image', (224, 224), {}),
    ('image', (100, 260), {}),
    ('dense', (224, 224), dict(global_blocks=())),
    ('dense', (250, 330), dict(global_blocks=(0, 2))),
    ('dense', (64, 500), dict(window_size=5, global_blocks=(1, ))),
    ('dense', (192, 256), dict(global_blocks='all')),
], ids=str)
def test_formulae_agree_with_a_counter(mode, size, settings):
    space = SearchSpace('paper', num_blocks=4)
    rng = np.random.default_rng(0)
    cost = CostModel(48, mode, size, **settings)
    for _ in range(4):
        candidate = space.draw(rng)
        with torch.device('meta'):
            model = GLiT(dict(embed_dims=48, num_heads=3, blocks=candidate), mode, **{'global_blocks': (), **settings}).eval()
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                model(torch.empty(1, 3, *size))
        assert cost.macs(candidate) == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)
        assert cost.parameters(candidate) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('global_blocks, expected', [('all', 72.7), ((3, 6, 9, 11), 63.1), ((2, 5, 7, 11), 50.3)])
def test_dense_cost_of_tiny_at_coco_size(global_blocks, expected):
    """The specification's figures leave out what padding of windows adds: at most a quarter of the windowed parts."""
    cost = CostModel(192, 'dense', (800, 1344), global_blocks=global_blocks)
    macs = cost.macs(GLiT.arch_settings['tiny']['blocks']) / 1e9
    assert expected <= macs < 1.02 * expected


def test_ends_of_a_space_are_those_of_all_its_candidates():
    for cost in (CostModel(12), CostModel(12, 'dense', (40, 300), window_size=4, global_blocks=(1, ))):
        macs = [cost.macs(candidate) for candidate in itertools.islice(itertools.product(*SMALL.choices), 0, None, 101)]
        smallest, largest = cost.range(SMALL)
        cheapest = tuple(min(rows, key=lambda row: cost.block_macs(row, cost.mode == 'image' or i == 1, 'true'))
                         for i, rows in enumerate(SMALL.choices))
        assert smallest == cost.macs(cheapest) <= min(macs) and max(macs) <= largest


def test_limit_that_no_candidate_meets_names_the_smallest_possible():
    cost, space = CostModel(num_classes=1000), SearchSpace('paper')
    smallest, _ = cost.range(space)
    with pytest.raises(ValueError, match=r'^the limit of 0.5 G MACs is below every candidate of the space; the smallest '
                       r'possible is 0.546375 G$'):
        cost.check_limit(500_000_000, space)
    cost.check_limit(smallest, space)
    cost.check_limit(546_375_000, space)
    cost.check_limit(None, space)
    with pytest.raises(ValueError):
        cost.check_limit(smallest - 1, space)


@pytest.mark.parametrize('settings, message', [
    (dict(embed_dims=64), 'embed_dims=64 is not allowed; choose a multiple of 3'),
    (dict(mode='maps'), "mode='maps' is unknown; choose from 'dense', 'image'"),
    (dict(image_size=8), 'image_size=8 is not allowed; give height and width'),
    (dict(image_size=(224, )), r'image_size=\(224,\) is not allowed'),
    (dict(window_size=0), 'window_size=0 is not allowed; choose 1 or more'),
    (dict(global_blocks='some'), "global_blocks='some' is not allowed; .* or 'all'"),
])
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CostModel(**settings)


def test_unknown_counter_is_refused():
    with pytest.raises(ValueError, match="counter='half' is unknown; choose from true, authors"):
        CostModel().macs(GLiT.arch_settings['tiny']['blocks'], 'half')
