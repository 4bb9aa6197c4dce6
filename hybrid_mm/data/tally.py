"""The exception of a sample that cannot be used, and the count of those that were skipped."""
from typing import List

import torch
from torch.utils.data import get_worker_info

from hybrid_mm.errors import SetupError

_TEXT = 8192  # bytes a process for the sentences about skipped samples
_EARLY = 20  # skipped samples of a process, before it may stop inside of an epoch


class SampleError(SetupError):
    """A sample that cannot be used.

    torch lets an exception out of a worker process as a new one of its type, with the whole traceback for a message; this one
    then takes the sentence alone.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


class Tally:
    """How many samples went through a pipeline, and which were skipped, in all worker processes of a loader.

    Each process writes into a row of its own, in shared memory, so that none waits.

    Args:
        num_workers: of the loader.
        max_share: a process stops where more than twice this share of its samples, and 20 or more, are skipped: it need not
            go through the whole epoch when the pictures are not there.
    """

    def __init__(self, num_workers: int, max_share: float) -> None:
        self.max_share = max_share
        self._counts = torch.zeros(num_workers + 1, 4, dtype=torch.int64).share_memory_()
        self._texts = torch.zeros(num_workers + 1, _TEXT, dtype=torch.uint8).share_memory_()

    def counts(self) -> torch.Tensor:
        """Samples seen, skipped, and loaded without EXIF's turn, since the start."""
        return self._counts[:, :3].sum(0)

    def texts(self) -> List[str]:
        """What is wrong with the skipped samples, each once, as far as there is room."""
        return list(dict.fromkeys(text for row in range(len(self._counts)) for text in self._texts_in(row)))

    def see(self) -> None:
        self._counts[_row(), 0] += 1

    def load_as_stored(self) -> None:
        self._counts[_row(), 2] += 1

    def skip(self, text: str) -> None:
        """Count a skipped sample; a `SampleError` where there are too many."""
        row = _row()
        self._counts[row, 1] += 1
        seen, skipped, _, used = self._counts[row].tolist()
        data = f'{text}\n'.encode()
        if used + len(data) <= _TEXT and text not in self._texts_in(row):
            self._texts[row, used:used + len(data)] = torch.tensor(list(data), dtype=torch.uint8)
            self._counts[row, 3] += len(data)  # after the text, for whoever reads meanwhile
        if skipped >= _EARLY and skipped > 2 * self.max_share * seen:
            raise SampleError(too_many(skipped, seen, self.max_share, text))

    def _texts_in(self, row: int) -> List[str]:
        return bytes(self._texts[row, :int(self._counts[row, 3])].tolist()).decode().splitlines()


def too_many(skipped: int, seen: int, max_share: float, text: str) -> str:
    """The sentence that ends a training."""
    return (f'{skipped} of {seen} samples had to be skipped, more than max_share={max_share} of hybrid_mm.DataGuardHook allows, '
            f'such as this one: {text}; `python tools/datasets/check.py CONFIG` lists what is wrong with the data')


def _row() -> int:
    info = get_worker_info()
    return 0 if info is None else info.id + 1
