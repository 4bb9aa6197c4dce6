"""A network over pictures or the frames of a video."""
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Iterable, Iterator, Tuple, TypeVar, Union

import numpy as np

from hybrid_mm.errors import SetupError, shorten

from .predictors import Predictor

Source = TypeVar('Source', bound=Union[Path, int])  # file, or number of a frame


def predictions(predictor: Predictor, items: Iterable[Tuple[Source, np.ndarray]],
                batch_size: int) -> Iterator[Tuple[Source, np.ndarray, Any]]:
    """Run a network over pictures (H, W, 3), in their order; yields each with its source and its data sample.

    At most ``batch_size`` go in at a time. Where a network takes pictures of one size only, another size begins another batch.

    Raises:
        SetupError: the network refuses a picture, such as one of a few pixels; the message names it, or the batch that it is in.
    """
    prepared: Iterator[Tuple[Source, np.ndarray, Any]] = (
        (source, image, predictor.prepare(image, source if isinstance(source, Path) else None)) for source, image in items)
    run: Iterator[Tuple[Source, np.ndarray, Any]]
    for _, run in groupby(prepared, key=lambda item: None if predictor.mixes_sizes else item[2]['inputs'].shape):
        for first in run:
            batch = [first, *islice(run, batch_size - 1)]  # noqa: B031  # `run` goes on behind these
            try:
                samples = predictor.predict([data for *_, data in batch])
            except SetupError as error:
                names = (source.name if isinstance(source, Path) else f'frame {source}' for source, *_ in batch)
                raise SetupError(f'{error} (seen with {shorten(names)})') from None
            for (source, image, _), sample in zip(batch, samples):
                yield source, image, sample
