"""Norms from a norm_cfg: what mmcv's builder makes of it, and SyncBatchNorm as the Runner and mmengine convert it."""
import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import nn

from hybrid_mm.backbones import HATNet, TransCNN
from hybrid_mm.backbones.norms import build_norm
from hybrid_mm.layers import LayerNorm2d

TINY = dict(
    channels=(8, 8, 8, 8), depths=(1, 1, 1, 1), expansions=(1, 1, 1, 1), kernel_sizes=(3, 3, 3, 3), grid_sizes=(4, 4, 2, 1),
    pool_ratios=(4, 2, 2, 1))
TRANSCNN = dict(TINY, grid_lists=((4, ), (4, ), (2, ), (2, )))


@pytest.mark.parametrize('cfg', [
    *(dict(type=kind) for kind in 'BN BN1d BN2d BN3d SyncBN LN IN IN1d IN2d IN3d'.split()),
    dict(type='BN', momentum=0.03, eps=1e-3), dict(type='BN', requires_grad=False), dict(type='GN', num_groups=4),
    dict(type='GN', num_groups=2, eps=1e-6, requires_grad=False), dict(type='IN', affine=True),
    dict(type='hybrid_mm.LN2d'), dict(type='hybrid_mm.LN2d', eps=1e-6), dict(type='mmpretrain.LN2d'),
    dict(type=nn.BatchNorm2d, momentum=None), dict(type=nn.GroupNorm, num_groups=1)
], ids=str)
@pytest.mark.parametrize('scope', [None, 'mmdet'])
def test_norm_is_that_of_mmcv(cfg, scope):
    given = dict(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        ours, theirs = build_norm(cfg, 8), build_norm_layer(cfg, 8)[1]
    assert type(ours) is type(theirs) and repr(ours) == repr(theirs)
    assert ours.eps == theirs.eps == cfg.get('eps', 1e-5)
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]
    assert cfg == given


def test_norm_of_this_project_has_its_layer():
    assert type(build_norm(dict(type='hybrid_mm.LN2d'), 8)) is LayerNorm2d


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_synchronised_norm_of_mmcv_can_be_asked_for_and_converted_to(group):
    from mmcv.ops import SyncBatchNorm
    model = HATNet(dict(TINY, head_dim=8), norm_cfg=dict(type='MMSyncBN'))
    assert isinstance(model.downsamples[1].norm, SyncBatchNorm)
    converted = convert_sync_batchnorm(TransCNN(TRANSCNN, head_dim=8), 'mmcv')
    assert isinstance(converted.downsamples[1].conv_norm, SyncBatchNorm)


@pytest.mark.parametrize('cfg, message', [
    (dict(type='BatchNorm'), "norm_cfg={'type': 'BatchNorm'} is not allowed: no registry knows the type; choose from BN, BN1d"),
    (dict(eps=1e-6), "norm_cfg={'eps': 1e-06} is not allowed; give a dict with type"),
    ('BN', "norm_cfg='BN' is not allowed; give a dict with type"),
])
def test_bad_norm_is_one_error_that_names_it(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_norm(cfg, 8)


def kinds(model):
    return {type(m).__name__ for m in model.modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm))}


def test_syncbn_runs_without_a_group_and_converts_to_and_fro():
    model = TransCNN(TRANSCNN, head_dim=8, norm_cfg=dict(type='SyncBN'), out_norm=True).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = model.train()(x)
    assert kinds(model) == {'SyncBatchNorm'}

    reverted = revert_sync_batchnorm(model)
    assert 'SyncBatchNorm' not in kinds(reverted)
    torch.testing.assert_close(reverted.train()(x), expected)

    plain = TransCNN(TRANSCNN, head_dim=8, out_norm=True).double()
    plain.load_state_dict(model.state_dict())
    converted = convert_sync_batchnorm(plain)
    assert kinds(converted) == {'SyncBatchNorm'}
    torch.testing.assert_close(converted.train()(x), expected)


def test_groups_of_another_norm_are_those_of_the_config():
    model = HATNet(dict(TINY, head_dim=8), norm_cfg=dict(type='GN', num_groups=2))
    assert {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)} == {2}
