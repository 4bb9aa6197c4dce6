"""Ranking, fronts, configs and the picture of a search."""
import json
import math

import cv2
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

import hybrid_mm
from hybrid_mm.search import CostModel, SearchSpace
from hybrid_mm.search.plot import pareto_front, plot_search
from hybrid_mm.search.results import found_config, rank, write_results
from hybrid_mm.search.settings import build_strategy, identity, read_cost, read_settings, read_space
from hybrid_mm.search.store import Evaluation

SPACE = SearchSpace('paper', num_blocks=4)


def evaluations(*triples, stage='flat', generation=0):
    """From (number of a candidate, metric, MACs)."""
    import numpy as np
    return [Evaluation(stage, SPACE.draw(np.random.default_rng(i)), generation, metric, macs, 10)
            for i, metric, macs in triples]


@pytest.fixture
def cfg():
    return Config.fromfile(hybrid_mm.config_path('upernet_glit_shapes_search.py'))


def test_ranking_has_each_candidate_once():
    first = evaluations((0, 50., 10), (1, 60., 20), (2, 60., 10), (3, math.nan, 1))
    again = evaluations((1, 60., 20), stage='details')
    assert [(e.metric, e.macs) for e in rank(first + again)[:3]] == [(60., 10), (60., 20), (50., 10)]
    assert len(rank(first + again)) == 4 and math.isnan(rank(first)[-1].metric)


def test_front_has_what_no_cheaper_one_reaches():
    points = evaluations((0, 50., 10), (1, 40., 20), (2, 60., 20), (3, 60., 30), (4, math.nan, 1), (5, 61., 40))
    assert pareto_front(points) == [(10, 50.), (20, 60.), (40, 61.)]


def test_picture_is_drawn_for_any_history(tmp_path):
    first, second = evaluations((0, 50., 10), (1, 60., 20)), evaluations((2, math.nan, 5), stage='details')
    for number, history in enumerate(([first, second, first], [second], [])):
        path = tmp_path / f'{number}.png'
        plot_search(path, history, 'mIoU', 15)
        assert cv2.imread(str(path)).std() > 10
    assert [p.suffix for p in tmp_path.iterdir()] == ['.png'] * 3


def test_config_of_a_candidate_is_that_of_the_search_with_its_network(cfg, tmp_path):
    settings = read_settings(cfg, seed=3)
    candidate = read_space(cfg).first()
    text = found_config(cfg, settings, Evaluation('flat', candidate, 0, 12.5, 10**8, 999))
    assert text.startswith('# Number 1 of a hierarchical search with seed 3: mIoU 12.5 ')
    (tmp_path / 'found.py').write_text(text)
    found = Config.fromfile(str(tmp_path / 'found.py'))
    backbone = MODELS.build(found.model.backbone)
    assert type(backbone).__name__ == 'GLiT' and backbone.mode == 'dense'
    assert tuple(map(tuple, backbone.settings['blocks'])) == candidate
    assert 'search' not in found and 'find_unused_parameters' not in found
    for name in ('decode_head', 'neck', 'data_preprocessor'):
        assert found.model[name] == cfg.model[name]
    assert (found.optim_wrapper, found.train_dataloader) == (cfg.optim_wrapper, cfg.train_dataloader)


def test_retrain_replaces_settings_as_a_whole(cfg):
    cfg.search.retrain = dict(train_cfg=dict(by_epoch=True, max_epochs=300), custom_hooks=[])
    text = found_config(cfg, read_settings(cfg), Evaluation('flat', read_space(cfg).first(), 0, 1., 1, 1))
    found = Config.fromstring(text, '.py')
    assert found.train_cfg == dict(by_epoch=True, max_epochs=300) and found.custom_hooks == []


def test_results_are_a_function_of_the_history(cfg, tmp_path):
    settings, space, cost = read_settings(cfg), read_space(cfg), CostModel(48)
    history = [[Evaluation('flat', space.first(), 0, 50., 10**9, 10, dict(mIoU=50.))]]
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        assert write_results(tmp_path / name, cfg, settings, cost, history) == [tmp_path / name / 'found_1.py']
    for path in (tmp_path / 'a').iterdir():
        assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()
    best, = json.loads((tmp_path / 'a' / 'result.json').read_text())['ranking']
    assert best['metric'] == 50. and tuple(map(tuple, best['blocks'])) == space.first()


# ---- settings ----


@pytest.mark.parametrize('change, message', [
    (dict(strategie='flat'), 'search.strategie of the config is unknown; choose from metric, limit_gmacs'),
    (dict(strategy='fast'), "strategy='fast' is unknown; choose from hierarchical, flat, random"),
    (dict(stage='third'), "stage='third' is unknown; choose from all, distribution, details"),
    (dict(stage='details', strategy='flat'), "stage='details' is not allowed with strategy='flat', which has no stages"),
    (dict(limit_gmacs=0), 'limit_gmacs=0 is not allowed; choose a number above 0, or None'),
    (dict(bn_batches=0), 'bn_batches=0 is not allowed; choose 1 or more'),
    (dict(val_images=0), 'val_images=0 is not allowed; choose 1 or more'),
])
def test_bad_settings_are_refused(cfg, change, message):
    cfg.search.update(change)
    with pytest.raises(ValueError, match=message):
        read_settings(cfg)


def test_config_without_a_supernet_is_refused():
    cfg = Config.fromfile(hybrid_mm.config_path('upernet_transcnn_s_shapes.py'))
    with pytest.raises(ValueError, match="model.backbone.type='hybrid_mm.TransCNN' .* needs a hybrid_mm.GLiTSupernet"):
        read_settings(cfg)


def test_stage_follows_from_what_the_space_leaves_open(cfg):
    arch = cfg.model.backbone.arch
    stages = {}
    for name, part in dict(all={}, distribution=dict(details=dict(K=31, E=2, d_k=1, d_z=4)),
                           details=dict(distribution=[0, 1, 2, 3] * 2)).items():
        arch.space = dict(options='paper', num_blocks=8, **part)
        settings, space = read_settings(cfg, limit_gmacs=1.), read_space(cfg)
        stages[name] = build_strategy(settings, space, read_cost(cfg, settings)).propose([]).stage
    assert stages == dict(all='distribution', distribution='distribution', details='details')
    arch.space = dict(options='paper', num_blocks=8)
    settings = read_settings(cfg, stage='details')
    with pytest.raises(ValueError, match="stage='details' needs a supernet with one G for each block; give model.backbone"):
        build_strategy(settings, read_space(cfg), read_cost(cfg, settings))


def test_identity_tells_what_changes_results(cfg):
    def of(checkpoint='abc', **options):
        settings = read_settings(cfg, **options)
        return identity(cfg, settings, read_space(cfg), checkpoint)

    assert of() == of()
    for options in (dict(seed=5), dict(limit_gmacs=2.), dict(strategy='flat'), dict(checkpoint='abd'), dict(metric='mAcc')):
        assert of(**options) != of()
    before = of()
    cfg.model.backbone.window_size = 7
    assert of()['network'] != before['network'] and dict(of(), network=before['network']) == before
    before = of()
    cfg.val_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(64, 64))]))
    assert of()['data'] != before['data'] and dict(of(), data=before['data']) == before
    # a longer search goes on with a shorter one's results
    assert of(strategy='flat', generations=7) == of(strategy='flat', generations=9)


def test_cost_counts_what_the_config_builds(cfg):
    import torch
    settings, candidate = read_settings(cfg), read_space(cfg).first()
    found = Config.fromstring(found_config(cfg, settings, Evaluation('flat', candidate, 0, 1., 1, 1)), '.py')
    with torch.device('meta'):
        backbone = MODELS.build(found.model.backbone)
    assert read_cost(cfg, settings).parameters(candidate) == sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize('num_blocks, expected', [(12, (3, 6, 9, 11)), (8, (1, 3, 5, 7))])
def test_cost_knows_the_global_blocks_that_nobody_gave(cfg, num_blocks, expected):
    cfg.model.backbone.mode = 'dense'
    cfg.model.backbone.global_blocks = None
    cfg.model.backbone.arch.space = dict(options='paper', num_blocks=num_blocks)
    assert read_cost(cfg, read_settings(cfg)).global_blocks == expected
