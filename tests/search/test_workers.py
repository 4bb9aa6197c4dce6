"""Evaluations in processes: what has no process, and what one says that dies."""
import os

import pytest

from hybrid_mm.search import workers


@pytest.mark.parametrize('processes', [0, -1, 1.5])
def test_number_of_processes_is_checked(processes):
    with pytest.raises(ValueError, match=f'processes={processes} is not allowed; choose 1 or more'):
        workers.Workers(None, None, '', processes)


def test_nothing_to_do_starts_nothing(monkeypatch):
    monkeypatch.setattr(workers, '_build', None)
    assert list(workers.Workers(None, None, '').evaluate([])) == []


def test_one_process_builds_its_evaluator_once(monkeypatch):
    built = []

    def build(*args):
        built.append(args)
        return lambda candidate: dict(metric=len(candidate))

    monkeypatch.setattr(workers, '_build', build)
    with workers.Workers('cfg', 'settings', 'net.pth') as pool:
        assert list(pool.evaluate(['a', 'bc'])) == [('a', dict(metric=1)), ('bc', dict(metric=2))]
        assert list(pool.evaluate(['def'])) == [('def', dict(metric=3))]
    assert built == [(0, 'cfg', 'settings', 'net.pth')]


def test_a_process_that_dies_ends_the_search_with_a_sentence():
    pool = workers.Workers(None, None, '', 2)
    pool._pool._initializer, pool._pool._initargs = os._exit, (1, )
    with pool, pytest.raises(ChildProcessError, match='a process of the search died, .* run the same command again'):
        list(pool.evaluate([()]))
