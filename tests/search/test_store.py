"""The store of a search: what is written stays, once, through kills; another search's folder is refused and left alone."""
import hashlib
import math
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from hybrid_mm.search import SearchSpace, Store
from hybrid_mm.search.store import FILE_NAME, Evaluation

IDENTITY = dict(space='a space', seed=0, limit_gmacs=1.475, checkpoint='abc')
A, B = SearchSpace('paper').first(), SearchSpace('release').first()


def evaluation(candidate=A, stage='flat', metric=50.):
    return Evaluation(stage, candidate, 2, metric, 10**9, 7 * 10**6, dict(mIoU=metric, aAcc=80.))


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_an_evaluation_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path / 'new' / 'folder', IDENTITY)
    assert store.get('flat', A) is None and store.all() == []
    store.add(evaluation())
    store.add(evaluation(B, metric=1 / 3))
    found = Store(tmp_path / 'new' / 'folder', IDENTITY)
    assert found.all() == [evaluation(), evaluation(B, metric=1 / 3)]
    assert found.get('flat', A).metrics == dict(mIoU=50., aAcc=80.)
    assert found.get('random', A) is None


def test_the_first_result_of_a_candidate_in_a_stage_stays(tmp_path):
    store = Store(tmp_path, IDENTITY)
    store.add(evaluation(metric=50.))
    store.add(evaluation(metric=60.))
    store.add(evaluation(metric=70., stage='random'))
    assert [e.metric for e in store.all()] == [50., 70.]


def test_an_undefined_metric_ranks_last(tmp_path):
    store = Store(tmp_path, IDENTITY)
    store.add(evaluation(metric=math.nan))
    store.add(evaluation(B, metric=-1.))
    first, second = sorted(store.all(), key=lambda e: e.rank_key)
    assert first.metric == -1. and math.isnan(second.metric)


def test_ranking_prefers_the_cheaper_among_equals():
    dear, cheap = evaluation(), Evaluation('flat', B, 5, 50., 10**8, 1)
    assert sorted([dear, cheap], key=lambda e: e.rank_key) == [cheap, dear]


@pytest.mark.parametrize('change, message', [
    (dict(space='another space'), 'with space="a space", not "another space"'),
    (dict(seed=1), 'with seed=0, not 1'),
    (dict(limit_gmacs=None), 'with limit_gmacs=1.475, not null'),
    (dict(checkpoint='abd'), 'with checkpoint="abc", not "abd"'),
    (dict(more=1), 'with more=nothing, not 1'),
])
def test_folder_of_another_search_is_refused_and_left_alone(tmp_path, change, message):
    Store(tmp_path, IDENTITY).add(evaluation())
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=f'{tmp_path} holds a search {message}; give another folder, or the settings of that'):
        Store(tmp_path, dict(IDENTITY, **change))
    assert digest(tmp_path) == before
    assert Store(tmp_path, IDENTITY).all() == [evaluation()]


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path):
    (tmp_path / FILE_NAME).write_text('no database, but a text of some length')
    before = digest(tmp_path)
    with pytest.raises(ValueError, match='is no store of a search .*; give another folder'):
        Store(tmp_path, IDENTITY)
    sqlite3.connect(tmp_path / 'other.sqlite').execute('CREATE TABLE t (x)').connection.close()
    os.replace(tmp_path / 'other.sqlite', tmp_path / FILE_NAME)
    with pytest.raises(ValueError, match='is no store of a search'):
        Store(tmp_path, IDENTITY)
    assert before.keys() == digest(tmp_path).keys()


def test_what_was_added_before_a_kill_is_there(tmp_path, root):
    code = f'''
import itertools, os, signal
from hybrid_mm.search import Store, SearchSpace
from hybrid_mm.search.store import Evaluation
store = Store({str(tmp_path)!r}, {IDENTITY!r})
candidates = itertools.product(*SearchSpace('release').choices)
for i, candidate in enumerate(itertools.islice(candidates, 5)):
    store.add(Evaluation('flat', candidate, 0, float(i), 1, 1))
    print(i, flush=True)
store._connection.execute('BEGIN')
store._connection.execute('DELETE FROM evaluations')
os.kill(os.getpid(), signal.SIGKILL)
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False,
                          env=dict(os.environ, PYTHONPATH=str(root)))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == ['0', '1', '2', '3', '4']
    assert [e.metric for e in Store(tmp_path, IDENTITY).all()] == [0., 1., 2., 3., 4.]


def test_a_folder_without_results_serves_for_another_search(tmp_path):
    Store(tmp_path, IDENTITY).close()
    store = Store(tmp_path, dict(IDENTITY, seed=1))
    store.add(evaluation())
    with pytest.raises(ValueError, match='with seed=1, not 0'):
        Store(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_kill_before_the_file_is_whole_leaves_no_store(tmp_path):
    (tmp_path / f'{FILE_NAME}.1.partial').write_bytes(b'half')
    store = Store(tmp_path, IDENTITY)
    store.add(evaluation())
    assert store.all() == [evaluation()]
