"""References from K-means: clusters are found, lie where their tokens are, and sharpen the plan."""
import copy
import sys

import pytest
import torch
import torch.nn.functional as F

from hybrid_mm.analysis.kmeans_references import (
    Sample,
    find_references,
    kmeans_references,
    mean_positions,
    order_of_centres,
    sample_tokens,
    spherical_kmeans,
)
from hybrid_mm.backbones import SeTformer
from hybrid_mm.errors import SetupError
from hybrid_mm.layers import SelfOptimalTransport2d

ARCH = dict(channels=(16, 16, 32, 32), depths=(1, 1, 2, 1), mlp_ratio=1, head_dim=8)


def tiny(**kwargs):
    torch.manual_seed(0)
    return SeTformer(ARCH, **dict(dict(num_references=9), **kwargs))


def identity(num_references, prior='2d'):
    """A token mixer of two heads whose values are its tokens."""
    torch.manual_seed(0)  # of its references
    layer = SelfOptimalTransport2d(16, num_references, head_dim=8, prior=prior)
    torch.nn.init.eye_(layer.value.weight)
    torch.nn.init.zeros_(layer.value.bias)
    return layer


def unit_vectors(*shape):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def clusters(number, size, d=8):
    """Orthogonal directions (number, d), and unit vectors close to them, (number * size, d)."""
    directions = torch.linalg.qr(unit_vectors(d, d))[0][:number]
    return directions, F.normalize(directions.repeat(size, 1) + 0.05 * unit_vectors(number * size, d), dim=-1)


def test_clusters_are_found():
    directions, vectors = clusters(4, 40)
    # with three centres a cluster, for with one K-means can end with two centres in a cluster and none in another
    centres, labels = spherical_kmeans(vectors, 12)

    torch.testing.assert_close(centres.norm(dim=1), torch.ones(12))
    likeness, owner = (centres @ directions.T).max(1)
    assert likeness.min() > 0.99
    assert set(owner.tolist()) == set(range(4))
    assert torch.equal(owner[labels], torch.arange(4).repeat(40))
    assert torch.equal(labels, (vectors @ centres.T).argmax(1))


def test_kmeans_depends_on_the_seed_alone():
    vectors = unit_vectors(500, 8)
    (first, _), (same, _), (other, _) = (spherical_kmeans(vectors, 9, seed) for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_centres_go_to_the_cells_that_their_tokens_are_in():
    middles = torch.tensor([1 / 6, 1 / 2, 5 / 6])
    cells = torch.cartesian_prod(middles, middles)
    places = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    jitter = 0.05 * unit_vectors(9, 2)
    # reference places[j] lies where centre j is
    assert torch.equal(order_of_centres(cells[places] + jitter, '2d')[places], torch.arange(9))


def test_assignment_to_cells_is_one_to_one_with_the_least_total_distance():
    # both centres of the lower half are nearest to the lower left cell; taking it away from the second costs least
    places = torch.tensor([[0.7, 0.2], [0.75, 0.3], [0.2, 0.2], [0.2, 0.8]])
    assert order_of_centres(places, '2d').tolist() == [2, 3, 0, 1]


def test_centres_of_a_sequence_are_sorted_and_without_prior_they_stay():
    places = torch.tensor([[0.7, 0], [0.1, 0], [0.4, 0]])
    assert order_of_centres(places, '1d').tolist() == [1, 2, 0]
    assert order_of_centres(places, None).tolist() == [0, 1, 2]


def test_mean_position_of_a_centre_without_tokens_is_the_middle():
    positions = torch.tensor([[0.2, 0.4], [0.4, 0.8], [0.9, 0.1]])
    torch.testing.assert_close(mean_positions(torch.tensor([0, 0, 2]), positions, 3),
                               torch.tensor([[0.3, 0.6], [0.5, 0.5], [0.9, 0.1]]))


@pytest.mark.parametrize('prior', ['2d', '1d'])
def test_references_of_each_head_lie_where_the_position_prior_looks(prior):
    """Quarters of a map, or of a sequence, have a direction each; the heads have them in another order."""
    directions = clusters(4, 1)[0]
    heads = torch.stack([directions, directions.flip(0)], 1)  # (4, 2, 8)
    if prior == '2d':
        image = heads.flatten(1).T.unflatten(1, (2, 2)).repeat_interleave(4, 1).repeat_interleave(6, 2)[None]  # (1, 16, 8, 12)
    else:
        image = heads.flatten(1).repeat_interleave(24, 0).T.unflatten(1, (8, 12))[None]
    layer = identity(4, prior)
    sample = sample_tokens(layer, [image], 80, 0)['']
    # from some first centres K-means ends with two centres in a cluster and none in another
    candidates = [find_references(layer, sample, seed) for seed in range(20)]
    found = [references for references in candidates if (references @ directions.T).amax(1).min() > 0.99]

    assert found
    for references in found:
        torch.testing.assert_close(references, heads.transpose(0, 1), atol=1e-5, rtol=0)


def test_sample_has_the_tokens_of_the_positions_that_it_names():
    x = torch.stack(torch.meshgrid((torch.arange(5) + 0.5) / 5, (torch.arange(7) + 0.5) / 7, indexing='ij'))
    x = torch.cat([x, torch.zeros(14, 5, 7)])[None].repeat(2, 1, 1, 1)
    sample = sample_tokens(identity(4), [x, x[:1]], 20, 0)['']

    assert [tokens.shape for tokens in sample.tokens] == [(20, 16)] * 3
    torch.testing.assert_close(torch.cat(sample.tokens)[:, :2], sample.positions)
    assert len(sample.positions[:20].unique(dim=0)) == 20
    assert not torch.equal(sample.positions[:20], sample.positions[20:40])


def test_centres_sharpen_the_plan_of_clustered_tokens():
    _, vectors = clusters(7, 30)
    layer = identity(49)
    image = torch.cat([vectors, vectors.flip(0)], 1).T.unflatten(1, (14, 15))[None]
    block, = kmeans_references(layer, [image], tokens=210)
    assert block.after < block.before - 0.1


def test_all_blocks_get_unit_references_and_the_rest_of_the_network_stays_as_it_was():
    backbone = tiny(drop_path_rate=0.5).train()
    backbone.stages[1].eval()
    before = copy.deepcopy(backbone)
    images = [torch.randn(1, 3, 64, 96) for _ in range(4)]
    blocks = list(kmeans_references(backbone, images, tokens=50))

    assert [block.name for block in blocks] == ['stages.0.0.attn', 'stages.1.0.attn', 'stages.2.0.attn', 'stages.2.1.attn',
                                                'stages.3.0.attn']
    assert all(0 < block.after < block.before <= 1 for block in blocks)
    for (key, old), new in zip(before.state_dict().items(), backbone.state_dict().values()):
        assert torch.equal(old, new) != key.endswith('references'), key
        if key.endswith('references'):
            torch.testing.assert_close(new.norm(dim=-1), torch.ones(new.shape[:2]))
    assert [module.training for module in backbone.modules()] == [module.training for module in before.modules()]
    assert not any(module._forward_pre_hooks for module in backbone.modules())


def test_frozen_references_and_bfloat16_weights_are_replaced_too():
    backbone = tiny(references='frozen').bfloat16()
    old = backbone.stages[0][0].attn.references.clone()
    list(kmeans_references(backbone, [torch.randn(1, 3, 64, 64, dtype=torch.bfloat16) for _ in range(3)]))
    new = backbone.stages[0][0].attn.references
    assert new.dtype == torch.bfloat16 and not new.requires_grad and not torch.equal(old, new)


def test_blocks_behind_the_last_output_keep_their_references():
    backbone = tiny(out_indices=(1, ))
    names = [block.name for block in kmeans_references(backbone, [torch.randn(1, 3, 64, 64)])]
    assert names == ['stages.0.0.attn', 'stages.1.0.attn']


def test_too_few_tokens_are_named():
    sample = Sample([torch.randn(5, 16)], torch.rand(5, 2))
    with pytest.raises(ValueError, match=r'^stages\.0\.0 has 9 references and has seen 5 tokens in 1 images; choose more'):
        find_references(identity(9), sample, name='stages.0.0')


def test_network_without_transport_is_named():
    with pytest.raises(ValueError, match="^the backbone SeTformer has no self-optimal transport.*attention='transport'"):
        next(kmeans_references(tiny(attention='softmax'), []))


@pytest.mark.parametrize('module, prior, package', [('faiss', None, 'faiss-cpu'), ('scipy', '2d', 'scipy')])
def test_missing_library_is_named_before_the_pass(monkeypatch, module, prior, package):
    monkeypatch.setitem(sys.modules, module, None)

    def images():
        raise AssertionError('the images were read')
        yield

    with pytest.raises(SetupError, match=f'needs {module}, not installed here; run `pip install {package}`'):
        next(kmeans_references(tiny(prior=prior), images()))
