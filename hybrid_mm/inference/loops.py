"""A network over pictures or the frames of a video."""
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Tuple, Union

import numpy as np

from .predictors import Predictor


def predictions(predictor: Predictor, items: Iterable[Tuple[Union[Path, int], np.ndarray]],
                batch_size: int) -> Iterator[Tuple[Union[Path, int], np.ndarray, Any]]:
    """Run a network over pictures, in their order.

    Args:
        predictor: the network.
        items: file, or number of a frame, and picture (H, W, 3).
        batch_size: most pictures at a time. Where a network takes pictures of one size only, another size begins another batch.

    Yields:
        The item and its data sample.
    """
    waiting: List[tuple] = []

    def run() -> Iterator[tuple]:
        samples = predictor.predict([data for *_, data in waiting])
        for (source, image, _), sample in zip(waiting, samples):
            yield source, image, sample
        waiting.clear()

    for source, image in items:
        data = predictor.prepare(image, source if isinstance(source, Path) else None)
        if waiting and not predictor.mixes_sizes and data['inputs'].shape != waiting[0][2]['inputs'].shape:
            yield from run()
        waiting.append((source, image, data))
        if len(waiting) == batch_size:
            yield from run()
    if waiting:
        yield from run()
