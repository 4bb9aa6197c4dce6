"""Results of a search on disk: one SQLite file, safe from a kill at any moment.

An evaluation is written in a transaction of its own and flushed to the disk before the next one is asked for. The file also
says which search it is of, so that results of different searches never mix.
"""
import json
import math
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from hybrid_mm.output import whole_file

from .space import Candidate, candidate_key, parse_key

FILE_NAME = 'search.sqlite'
_TABLES = '''
CREATE TABLE identity (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE evaluations (
    stage TEXT NOT NULL,
    candidate TEXT NOT NULL,
    generation INTEGER NOT NULL,
    metric REAL,
    macs INTEGER NOT NULL,
    parameters INTEGER NOT NULL,
    metrics TEXT NOT NULL,
    finished REAL NOT NULL,
    PRIMARY KEY (stage, candidate)
);
'''


@dataclass(frozen=True)
class Evaluation:
    """A candidate and what came out.

    Attributes:
        stage: part of the search that asked for it.
        candidate: rows (G, L, K, E, d_k, d_z).
        generation: number of the one that proposed it, from 0 in each stage.
        metric: what the search maximises; NaN if the evaluator could not say, which ranks last.
        macs, parameters: its cost.
        metrics: everything that the evaluator returned.
    """
    stage: str
    candidate: Candidate
    generation: int
    metric: float
    macs: int
    parameters: int
    metrics: Dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def rank_key(self) -> tuple:
        """Sorts the best first: by metric, among equals the cheaper; the candidate itself makes it one order."""
        metric = -math.inf if math.isnan(self.metric) else self.metric
        return -metric, self.macs, candidate_key(self.candidate)


class Store:
    """The evaluations of a search folder.

    Args:
        folder: the search folder; it is made if it is not there. One without any evaluation serves for every search.
        identity: what the search is, in plain values: space, seed, limit, checkpoint and so on. The first that differs is named
            in the message.

    Raises:
        ValueError: the folder is of a search with another identity, or its file is no store. Nothing is written then.
    """

    def __init__(self, folder: Union[str, Path], identity: Dict[str, Any]) -> None:
        self.path = Path(folder) / FILE_NAME
        wanted = {name: json.dumps(value, sort_keys=True) for name, value in identity.items()}
        if not self.path.exists() or not self._fits(wanted):
            self._create(wanted)
        self._connection = _connect(self.path)

    def add(self, evaluation: Evaluation) -> None:
        """Write one; it is on the disk when this returns. What is there already stays as it is."""
        metric = None if math.isnan(evaluation.metric) else float(evaluation.metric)
        row = (evaluation.stage, candidate_key(evaluation.candidate), evaluation.generation, metric, evaluation.macs,
               evaluation.parameters, json.dumps(evaluation.metrics), time.time())
        with self._connection:
            self._connection.execute('INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?)', row)

    def get(self, stage: str, candidate: Candidate) -> Optional[Evaluation]:
        """What is known of a candidate, or None."""
        return next(iter(self._select('WHERE stage = ? AND candidate = ?', (stage, candidate_key(candidate)))), None)

    def all(self) -> List[Evaluation]:
        """All evaluations, in the order in which they finished."""
        return self._select('ORDER BY rowid', ())

    def close(self) -> None:
        self._connection.close()

    def _select(self, condition: str, values: tuple) -> List[Evaluation]:
        query = f'SELECT stage, candidate, generation, metric, macs, parameters, metrics FROM evaluations {condition}'
        return [Evaluation(stage, parse_key(key), generation, math.nan if metric is None else metric, macs, parameters,
                           json.loads(metrics))
                for stage, key, generation, metric, macs, parameters, metrics in self._connection.execute(query, values)]

    def _create(self, wanted: Dict[str, str]) -> None:
        """Make the file beside its place and move it there whole: a kill leaves a store, or none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as partial:
            partial.unlink(missing_ok=True)
            with closing(_connect(partial)) as connection, connection:
                connection.executescript(_TABLES)
                connection.executemany('INSERT INTO identity VALUES (?, ?)', sorted(wanted.items()))

    def _fits(self, wanted: Dict[str, str]) -> bool:
        """Whether the file is of this search; if it is of another one, it is False as long as there are no evaluations."""
        try:
            with closing(sqlite3.connect(f'{self.path.resolve().as_uri()}?mode=ro', uri=True)) as connection:
                found = dict(connection.execute('SELECT name, value FROM identity'))
                is_empty = connection.execute('SELECT count(*) FROM evaluations').fetchone() == (0, )
        except sqlite3.DatabaseError as error:
            raise ValueError(f'{self.path} is no store of a search ({error}); give another folder') from None
        for name in [*wanted, *sorted(found.keys() - wanted.keys())]:
            if wanted.get(name) != found.get(name) and is_empty:
                return False
            if wanted.get(name) != found.get(name):
                theirs, ours = (text if len(text) <= 100 else f'{text[:100]}...'
                                for text in (found.get(name, 'nothing'), wanted.get(name, 'nothing')))
                raise ValueError(f'{self.path.parent} holds a search with {name}={theirs}, not {ours}; give another folder, or '
                                 'the settings of that search')
        return True


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60)
    connection.execute('PRAGMA synchronous = FULL')  # with the rollback journal: committed is on the disk
    return connection
