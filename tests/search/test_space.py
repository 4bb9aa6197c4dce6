"""The search space: its sizes, one form for each network, random candidates, and what is no space."""
import math

import numpy as np
import pytest

from hybrid_mm.backbones import GLiT
from hybrid_mm.search import OPTIONS, SearchSpace
from hybrid_mm.search.space import candidate_key, distribution_of, make_row, parse_key

RELEASED = GLiT.arch_settings['tiny']['blocks']
DETAILS = dict(K=31, E=2, d_k=1, d_z=4)
SMALL = SearchSpace([dict(G=[0, 1, 2, 3], K=[3, 9], E=[1, 2], d_k=[0.5, 1], d_z=[1, 2])], num_blocks=4)


def test_size_of_the_papers_space():
    space = SearchSpace('paper')
    assert space.num_candidates == (4 * 81)**12
    assert math.isclose(space.num_candidates, 1.34e30, rel_tol=1e-2)
    # 27 without attention, 81 twice, 9 without convolution
    assert space.num_networks == (27 + 81 + 81 + 9)**12
    assert [len(set(rows)) for rows in space.choices] == [198] * 12


def test_sizes_of_the_stages():
    paper, release = SearchSpace('paper'), SearchSpace('release')
    assert paper.with_details(DETAILS).num_candidates == release.with_details(DETAILS).num_candidates == 4**12
    distribution = distribution_of(RELEASED)
    assert paper.with_distribution(distribution).num_candidates == 81**12
    assert release.with_distribution(distribution).num_candidates == 9**12
    assert SearchSpace('attention').num_candidates == SearchSpace('attention').num_networks == 9**12


def test_released_architecture_is_in_both_spaces():
    for name in ('paper', 'release'):
        space = SearchSpace(name)
        assert space.check(RELEASED) == RELEASED
        assert space.with_distribution(distribution_of(RELEASED)).check(RELEASED) == RELEASED
    with pytest.raises(ValueError, match='block 1, .* is not in the space'):
        SearchSpace('attention').check(RELEASED)


def test_stages_given_in_the_constructor_are_those_of_the_methods():
    assert SearchSpace('paper', details=DETAILS) == SearchSpace('paper').with_details(DETAILS)
    distribution = [0, 1, 2, 3] * 3
    assert SearchSpace('release', distribution=distribution) == SearchSpace('release').with_distribution(distribution)
    assert SearchSpace('paper', details=DETAILS, distribution=distribution).num_candidates == 1
    assert len({SearchSpace(name).fingerprint() for name in OPTIONS}) == 3
    assert SearchSpace([OPTIONS['paper']] * 12).fingerprint() == SearchSpace('paper').fingerprint()


def test_what_a_block_does_not_have_makes_no_two_candidates():
    space = SearchSpace('paper', num_blocks=4)
    one = [(3, 0, 17, 1, 1, 2), (0, 3, 31, 2, 0.5, 2), (1, 2, 31, 2, 1.0, 4), (2, 1, 45, 4, 2, 6)]
    other = [(3, 0, 45, 4, 1.0, 2), (0, 3, 31, 2, None, 2.0), *one[2:]]
    assert space.check(one) == space.check(other)
    assert candidate_key(space.check(one)) == candidate_key(space.check(other))
    assert space.check(one)[:2] == ((3, 0, None, None, 1, 2), (0, 3, 31, 2, None, 2))
    assert parse_key(candidate_key(space.check(one))) == space.check(one)
    assert candidate_key(space.check(one)) != candidate_key(space.check([*one[:3], (2, 1, 45, 4, 2, 4)]))


def test_every_row_builds_a_block_of_the_backbone():
    space = SearchSpace([dict(G=[0, 1, 2, 3], K=[3, 9], E=[1], d_k=[0.5, 1], d_z=[1])], num_blocks=4)
    for i in range(0, len(space.choices[0]), 4):
        rows = (space.choices[0] * 2)[i:i + 4]
        GLiT(dict(embed_dims=12, num_heads=3, blocks=rows), global_blocks=())


def test_draws_are_of_the_space_and_of_the_seed():
    space = SearchSpace('release')
    drawn = [space.draw(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(space.check(candidate) == candidate for candidate in drawn)


def test_every_combination_of_values_has_the_same_chance():
    rng = np.random.default_rng(0)
    values = [SMALL.draw(rng)[0] for _ in range(4000)]
    assert set(values) == set(SMALL.choices[0])
    shares = [np.mean([row[0] == G for row in values]) for G in range(4)]
    np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_mutation_draws_blocks_at_its_rate():
    rng = np.random.default_rng(0)
    space = SearchSpace('paper')
    parent = space.draw(rng)
    assert space.mutate(parent, rng, 0.) == parent
    changed = [sum(a != b for a, b in zip(parent, space.mutate(parent, rng, 0.1))) for _ in range(2000)]
    # a block is drawn again as it is now and then
    assert 0.085 < np.mean(changed) / 12 <= 0.103
    assert all(space.check(space.mutate(parent, rng, 0.5)) for _ in range(20))


def test_crossover_takes_each_block_from_one_parent():
    rng = np.random.default_rng(0)
    one, other = SMALL.draw(rng), SMALL.draw(rng)
    children = {SMALL.cross(one, other, rng) for _ in range(200)}
    assert all(row in (a, b) for child in children for row, a, b in zip(child, one, other))
    assert len(children) == 2**sum(a != b for a, b in zip(one, other))


@pytest.mark.parametrize('arguments, message', [
    (dict(options='tiny'), "options='tiny' is unknown; choose from paper, release, attention or give a list"),
    (dict(options=[]), r'options=\[\] is not allowed; give a list of alternatives'),
    (dict(options=[dict(G=[3])]), 'the alternative .* is not allowed; .* of which G and d_z are always needed'),
    (dict(options=[dict(G=[3], d_k=[1], d_z=[1], D=[2])]), 'the alternative .* is not allowed'),
    (dict(options=[dict(G=[3], d_k=1, d_z=[1])]), 'd_k=1 of an alternative is not allowed; give a list'),
    (dict(options=[dict(G=[3], d_k=[1, 1], d_z=[1])]), r'd_k=\[1, 1\] of an alternative is not allowed; .* different values'),
    (dict(options=[dict(G=[4], d_k=[1], d_z=[1])]), 'G=4 is not allowed; choose from 0 to 3'),
    (dict(options=[dict(G=[0], K=[30], E=[1], d_z=[1])]), 'K=30 is not allowed; choose an odd number'),
    (dict(options=[dict(G=[1], K=[31], E=[1], d_z=[1])]), 'd_k=None is not allowed; choose a number above 0'),
    (dict(options=[dict(G=[1], K=[31], E=[-1], d_k=[1], d_z=[1])]), 'E=-1 is not allowed'),
    (dict(options=[OPTIONS['paper']] * 3), 'options has 3 lists; give one a block, num_blocks=12'),
    (dict(options='paper', num_blocks=0), 'num_blocks=0 is not allowed; choose 1 or more'),
    (dict(options='paper', details=dict(K=31)), 'details has K; give exactly K, E, d_k, d_z'),
    (dict(options='paper', details=dict(DETAILS, K=30)), 'K=30 is not allowed; choose an odd number'),
    (dict(options='paper', distribution=[3] * 11), 'distribution=.* has 11 values; give G of each of the 12 blocks'),
    (dict(options='attention', distribution=[3] * 11 + [0]), r'has G=0 for block 11; choose from \[3\]'),
])
def test_what_is_no_space_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(**arguments)


@pytest.mark.parametrize('candidate, message', [
    (RELEASED[:11], 'the candidate has 11 rows; give .* for each of the 12 blocks'),
    (((3, 0, 31, 4), *RELEASED[1:]), r'block 0 is \(3, 0, 31, 4\); give 6 values'),
    (((2, 2, 31, 4, 1, 4), *RELEASED[1:]), 'block 0 has G=2 and L=2; choose two numbers with the sum 3'),
    (((1, 2, 30, 4, 1, 4), *RELEASED[1:]), 'K=30 is not allowed; choose an odd number'),
    (((1, 2, 31, 4, 1, 5), *RELEASED[1:]), r'block 0, .* = \(1, 2, 31, 4, 1, 5\), is not in the space; choose one of its 198'),
])
def test_what_is_no_candidate_is_refused(candidate, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace('paper').check(candidate)


def test_rows_hold_whole_numbers_as_int():
    assert [type(value) for value in make_row(1, 31, 2.0, 0.5, 4.0)] == [int, int, int, int, float, int]
