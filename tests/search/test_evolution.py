"""Strategies: generations from seed and history alone, legal and new, better than chance, in one or two stages."""
import itertools

import pytest

from hybrid_mm.search import CostModel, Evolution, Hierarchical, RandomSearch, SearchSpace
from hybrid_mm.search.space import distribution_of
from hybrid_mm.search.store import Evaluation

SPACE, COST = SearchSpace('paper'), CostModel(num_classes=1000)
LIMIT = 1_100_000_000
DETAILS = dict(K=31, E=2, d_k=1, d_z=4)


def metric(candidate):
    """Likes convolutions in the first blocks, attention in the last, and long kernels."""
    return sum(row[0] * i / 6 + row[1] * (1 - i / 6) + (row[2] or 17) / 20 for i, row in enumerate(candidate))


def run(strategy, history=None, generations=None, evaluate=metric):
    history = list(history or [])
    while generations is None or len(history) < generations:
        generation = strategy.propose(history)
        if not generation.candidates:
            break
        history.append([Evaluation(generation.stage, c, generation.number, evaluate(c), COST.macs(c), 1)
                        for c in generation.candidates])
    return history


def candidates(history):
    return [[e.candidate for e in generation] for generation in history]


def best(history):
    return max(e.metric for generation in history for e in generation)


STRATEGIES = {
    'flat': lambda seed=0, **kwargs: Evolution(SPACE, COST, LIMIT, seed, **kwargs),
    'random': lambda seed=0, **kwargs: RandomSearch(SPACE, COST, LIMIT, seed, **kwargs),
    'hierarchical': lambda seed=0, **kwargs: Hierarchical(SPACE, DETAILS, COST, LIMIT, seed, **kwargs),
}


@pytest.mark.parametrize('name', STRATEGIES)
def test_generations_are_full_legal_and_new(name):
    history = run(STRATEGIES[name](generations=6))
    assert [len(generation) for generation in history] == [50] * 6
    for stage in {generation[0].stage for generation in history}:
        seen = [e.candidate for generation in history for e in generation if e.stage == stage]
        assert len(set(seen)) == len(seen)
    for e in itertools.chain(*history):
        assert SPACE.check(e.candidate) == e.candidate and COST.macs(e.candidate) <= LIMIT


@pytest.mark.parametrize('name', STRATEGIES)
def test_a_search_that_goes_on_is_the_one_that_was_not_interrupted(name):
    """Nothing is kept between calls: a new strategy continues a history, and the seed alone tells searches apart."""
    make = STRATEGIES[name]
    full = run(make(generations=6))
    for cut in (1, 3, 4):
        assert candidates(run(make(generations=6), full[:cut])) == candidates(full)
    assert candidates(run(make(seed=1, generations=6)))[0] != candidates(full)[0]


def test_numbers_of_the_defaults():
    search = Evolution(SPACE, COST)
    assert (search.population, search.generations, search.parents) == (50, 20, 10)
    assert (search.mutations, search.crossovers, search.mutation_rate, search.tries) == (25, 25, 0.1, 10)
    assert len(run(search)) == 20


def test_evolution_finds_better_ones_than_chance():
    for seed in range(3):
        flat, random = (run(STRATEGIES[name](seed=seed, generations=8)) for name in ('flat', 'random'))
        assert best(flat) > best(random)


def test_children_are_of_the_best_of_all_generations():
    """Without mutation of distinct blocks: every block of a crossed child is one of the best candidates' at its place."""
    search = Evolution(SPACE, COST, None, population=10, parents=2, mutations=0, crossovers=10)
    history = run(search, generations=1)
    # the next generation is worse than all of the first
    history.append([Evaluation('flat', c, 1, -1., 1, 1) for c in search.propose(history).candidates])
    parents = [e.candidate for e in sorted(history[0], key=lambda e: -e.metric)[:2]]
    for candidate in search.propose(history).candidates:
        assert all(row in rows for row, *rows in zip(candidate, *parents))


def test_mutations_come_first_then_crossovers_then_random_ones():
    search = Evolution(SPACE, COST, None, population=12, parents=1, mutations=5, crossovers=4)
    history = run(search, generations=1)
    parent = max(history[0], key=lambda e: e.metric).candidate
    distances = [sum(a != b for a, b in zip(parent, c)) for c in search.propose(history).candidates]
    # one parent: a crossed child is the parent itself, hence never new, and random ones take its place
    assert all(1 <= d <= 5 for d in distances[:5]) and min(distances[5:]) >= 7 and len(distances) == 12


def test_a_child_is_tried_at_most_ten_times():
    calls = []

    class Counted(SearchSpace):

        def mutate(self, *args):
            calls.append(args)
            return args[0]  # never new

    search = Evolution(Counted('paper'), COST, population=8, mutations=3, crossovers=0)
    history = run(search, generations=1)
    assert len(search.propose(history).candidates) == 8 and len(calls) == 30


def test_a_space_that_is_used_up_ends_the_search():
    space = SearchSpace([dict(G=[0, 3], K=[31], E=[1], d_k=[1], d_z=[1])], num_blocks=4)
    for search in (RandomSearch(space, COST, population=6), Evolution(space, COST, population=6, mutations=2, crossovers=2)):
        history = run(search)
        assert [len(generation) for generation in history] == [6, 6, 4]
        assert {e.candidate for generation in history for e in generation} == set(itertools.product(*space.choices))


def test_candidates_are_found_under_the_tightest_limit():
    smallest, largest = COST.range(SPACE)
    found = RandomSearch(SPACE, COST, smallest, population=5).propose([]).candidates
    assert [COST.macs(c) for c in found] == [smallest]
    tight = smallest + (largest - smallest) // 20
    found = RandomSearch(SPACE, COST, tight, population=10).propose([]).candidates
    assert len(found) == 10 and all(COST.macs(c) <= tight for c in found)


def test_hierarchical_search_looks_for_the_distribution_first_and_then_for_the_details_of_the_best():
    history = run(STRATEGIES['hierarchical'](generations=5))
    assert [generation[0].stage for generation in history] == ['distribution'] * 3 + ['details'] * 2
    first, second = ([e for generation in history[part] for e in generation] for part in (slice(3), slice(3, 5)))
    for e in first:
        assert SPACE.with_details(DETAILS).check(e.candidate)
        assert {row[2] for row in e.candidate} <= {31, None} and {row[5] for row in e.candidate} == {4}
    winner = max(first, key=lambda e: (e.metric, -e.macs))
    assert {distribution_of(e.candidate) for e in second} == {distribution_of(winner.candidate)}
    assert len({e.candidate[0] for e in second}) > 1
    assert [e.generation for generation in history for e in generation[:1]] == [0, 1, 2, 0, 1]


def test_all_strategies_evaluate_equally_many():
    counts = {name: sum(map(len, run(make(generations=4, population=20, **(
        {} if name == 'random' else dict(mutations=8, crossovers=8)))))) for name, make in STRATEGIES.items()}
    assert set(counts.values()) == {80}


def test_the_stages_of_a_hierarchical_search_draw_different_random_numbers():
    one = Evolution(SPACE, COST, stage='distribution').propose([])
    other = Evolution(SPACE, COST, stage='details').propose([])
    assert one.candidates != other.candidates


@pytest.mark.parametrize('kind', [RandomSearch, Evolution])
def test_limit_below_every_candidate_is_refused(kind):
    with pytest.raises(ValueError, match='the limit of 0.5 G MACs .*; the smallest possible is 0.546375 G'):
        kind(SPACE, COST, 500_000_000)


def test_limit_below_every_distribution_is_refused():
    assert COST.range(SPACE.with_details(DETAILS))[0] == 1_067_891_712
    with pytest.raises(ValueError, match='the smallest possible is 1.067892 G'):
        Hierarchical(SPACE, DETAILS, COST, 600_000_000)


@pytest.mark.parametrize('settings, message', [
    (dict(seed=-1), 'seed=-1 is not allowed; choose a whole number, 0 or more'),
    (dict(population=0), 'population=0 is not allowed; choose a whole number, 1 or more'),
    (dict(generations=0), 'generations=0 is not allowed'),
    (dict(parents=0), 'parents=0 is not allowed'),
    (dict(mutations=-1), 'mutations=-1 is not allowed; choose a whole number, 0 or more'),
    (dict(mutations=30), 'mutations=30 and crossovers=25 are more than population=50; choose fewer'),
    (dict(mutation_rate=0), 'mutation_rate=0 is not allowed; choose above 0, up to 1'),
    (dict(tries=0), 'tries=0 is not allowed'),
])
def test_bad_numbers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Evolution(SPACE, COST, **settings)
    if settings == dict(generations=0):
        with pytest.raises(ValueError, match='generations=1 is not allowed; choose 2 or more, for two stages'):
            Hierarchical(SPACE, DETAILS, COST, generations=1)
