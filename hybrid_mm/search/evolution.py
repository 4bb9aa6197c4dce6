"""Which candidates to evaluate next: evolution, in two stages or at once, and random search.

A strategy is a function of the seed and of the results so far: `propose` gives the next generation, whole, from the history of
generations. It keeps nothing between calls. The order in which evaluations finish, the number of processes and an interruption
hence make no difference.

The procedure and its numbers follow the code of single-path one-shot search (SPOS, arXiv 1904.00420).
"""
import itertools
from functools import cached_property, partial
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Set

import numpy as np

from .cost import CostModel
from .space import Candidate, SearchSpace, distribution_of
from .store import Evaluation

_RANDOM_TRIES = 1000  # for a random candidate within the limit that is new; each costs microseconds


class Generation(NamedTuple):
    """What to evaluate next.

    Attributes:
        stage: part of the search, a name.
        number: of the generation in its stage, from 0.
        candidates: all different, none of them in an earlier generation of the stage; none at all when the search is over.
    """
    stage: str
    number: int
    candidates: List[Candidate]


class RandomSearch:
    """Random candidates within the limit.

    Args:
        space: what to choose from.
        cost: of candidates.
        limit: of their true MACs; None for none.
        seed: of everything random.
        population: candidates a generation.
        generations: number of generations.
        stage: name of this part of a search.

    Raises:
        ValueError: an argument is outside of what is allowed, or no candidate keeps within the limit; the message then says
            the smallest cost possible.
    """

    def __init__(self, space: SearchSpace, cost: CostModel, limit: Optional[int] = None, seed: int = 0, population: int = 50,
                 generations: int = 20, stage: str = 'random') -> None:
        for name, value, least in (('seed', seed, 0), ('population', population, 1), ('generations', generations, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f'{name}={value} is not allowed; choose a whole number, {least} or more')
        cost.check_limit(limit, space, f'the space of stage {stage!r}')
        smallest, largest = cost.range(space)
        self._spare = (largest if limit is None else limit) - smallest
        self.space, self.cost, self.limit, self.seed = space, cost, limit, seed
        self.population, self.generations, self.stage = population, generations, stage

    def propose(self, history: Sequence[Sequence[Evaluation]]) -> Generation:
        """The generation that follows a history.

        Args:
            history: evaluations of each generation so far, in the order of the proposed candidates.
        """
        number = len(history)
        candidates: List[Candidate] = []
        if number < self.generations:
            # the name of the stage keeps the two of a hierarchical search apart
            rng = np.random.default_rng([self.seed, number, *self.stage.encode()])
            seen = {evaluation.candidate for generation in history for evaluation in generation}
            candidates = self._generation(rng, seen, [e for generation in history for e in generation])
        return Generation(self.stage, number, candidates)

    def _generation(self, rng: np.random.Generator, seen: Set[Candidate], past: List[Evaluation]) -> List[Candidate]:
        return self._fill([], rng, seen)

    def _fill(self, candidates: List[Candidate], rng: np.random.Generator, seen: Set[Candidate]) -> List[Candidate]:
        """Random ones behind the candidates, up to the population; fewer if the space has no more."""
        makers = (self.space.draw, self._draw_within_limit)  # the second where few keep within the limit, or are left
        while len(candidates) < self.population:
            new = next((c for make in makers for c in self._tries(partial(make, rng), _RANDOM_TRIES, seen)), None)
            if new is None:
                break
            candidates.append(new)
        return candidates

    def _tries(self, make: Callable[[], Candidate], tries: int, seen: Set[Candidate]) -> Iterator[Candidate]:
        """Those of some tries that are within the limit and new, put among the seen ones."""
        for _ in range(tries):
            candidate = make()
            if candidate not in seen and (self.limit is None or self.cost.macs(candidate) <= self.limit):
                seen.add(candidate)
                yield candidate

    def _draw_within_limit(self, rng: np.random.Generator) -> Candidate:
        """A random candidate within the limit, drawn block by block in a random order: from the options that leave enough to
        the cheapest ones of the other blocks. Its chance is not that of all others."""
        choices, spare, rows = self.space.choices, self._spare, {}
        for i in rng.permutation(len(choices)).tolist():
            allowed = [k for k, extra in enumerate(self._extras[i]) if extra <= spare]
            k = allowed[int(rng.integers(len(allowed)))]
            spare -= self._extras[i][k]
            rows[i] = choices[i][k]
        return tuple(rows[i] for i in range(len(choices)))

    @cached_property
    def _extras(self) -> List[List[int]]:
        """MACs of each option of each block above those of the cheapest one."""
        macs = [self.cost.macs_of_options(i, rows) for i, rows in enumerate(self.space.choices)]
        return [[value - min(values) for value in values] for values in macs]


class Evolution(RandomSearch):
    """Evolution of candidates within the limit.

    The first generation is random. A later one has mutations of random parents, crossovers of two random parents, and random
    candidates for the rest. The parents are the best of all generations so far.

    Args:
        parents: number of parents.
        mutations: mutated children a generation.
        crossovers: crossed children a generation.
        mutation_rate: chance of each block of a mutated child to be drawn anew.
        tries: for each child that is wanted; a try fails at a candidate that is above the limit or was there before.
        others: see `RandomSearch`.
    """

    def __init__(self, space: SearchSpace, cost: CostModel, limit: Optional[int] = None, seed: int = 0, population: int = 50,
                 generations: int = 20, parents: int = 10, mutations: int = 25, crossovers: int = 25,
                 mutation_rate: float = 0.1, tries: int = 10, stage: str = 'flat') -> None:
        super().__init__(space, cost, limit, seed, population, generations, stage)
        for name, value, least in (('parents', parents, 1), ('mutations', mutations, 0), ('crossovers', crossovers, 0),
                                   ('tries', tries, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f'{name}={value} is not allowed; choose a whole number, {least} or more')
        if mutations + crossovers > population:
            raise ValueError(f'mutations={mutations} and crossovers={crossovers} are more than population={population}; choose '
                             'fewer')
        if not 0 < mutation_rate <= 1:
            raise ValueError(f'mutation_rate={mutation_rate} is not allowed; choose above 0, up to 1')
        self.parents, self.mutations, self.crossovers = parents, mutations, crossovers
        self.mutation_rate, self.tries = mutation_rate, tries

    def _generation(self, rng: np.random.Generator, seen: Set[Candidate], past: List[Evaluation]) -> List[Candidate]:
        candidates: List[Candidate] = []
        if past:
            best = [e.candidate for e in sorted(past, key=lambda e: e.rank_key)[:self.parents]]

            def parent() -> Candidate:
                return best[int(rng.integers(len(best)))]

            for make, wanted in ((lambda: self.space.mutate(parent(), rng, self.mutation_rate), self.mutations),
                                 (lambda: self.space.cross(parent(), parent(), rng), self.crossovers)):
                # the tries are shared by the children, as in SPOS
                candidates += itertools.islice(self._tries(make, self.tries * wanted, seen), wanted)
        return self._fill(candidates, rng, seen)


class Hierarchical:
    """GLiT's search: first the distribution of attention and convolution over the blocks, then, for the best one, the details.

    Args:
        space: of both, such as the paper's.
        details: K, E, d_k and d_z of all blocks in the first stage.
        cost, limit, seed: see `RandomSearch`.
        generations: of both stages together; the first has half of them, rounded up.
        kwargs: see `Evolution`.

    Raises:
        ValueError: as `Evolution`; or ``generations`` is below 2.
    """

    def __init__(self, space: SearchSpace, details: dict, cost: CostModel, limit: Optional[int] = None, seed: int = 0,
                 generations: int = 20, **kwargs) -> None:
        if not isinstance(generations, int) or generations < 2:
            raise ValueError(f'generations={generations} is not allowed; choose 2 or more, for two stages')
        self.first = Evolution(space.with_details(details), cost, limit, seed, generations=generations - generations // 2,
                               stage='distribution', **kwargs)
        self._second = lambda distribution: Evolution(
            space.with_distribution(distribution), cost, limit, seed, generations=generations // 2, stage='details', **kwargs)

    def propose(self, history: Sequence[Sequence[Evaluation]]) -> Generation:
        """The generation that follows a history, see `RandomSearch.propose`."""
        first = [generation for generation in history if generation[0].stage == self.first.stage]
        second = [generation for generation in history if generation[0].stage != self.first.stage]
        if not second:
            generation = self.first.propose(first)
            if generation.candidates:
                return generation
        best = min((e for generation in first for e in generation), key=lambda e: e.rank_key)
        return self._second(distribution_of(best.candidate)).propose(second)
