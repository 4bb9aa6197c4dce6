"""Over pictures or the frames of a video: predict, draw, write."""
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Tuple, Union

import numpy as np

from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.engine.progress import Progress

from .inputs import Video, read_frames, read_picture
from .outputs import PredictionsFile, open_writer, output_names, write_image
from .predictors import Predictor, Segmentor


def run_on_pictures(predictor: Predictor, files: List[Path], out: Path, head: Dict[str, Any], batch_size: int) -> None:
    """Predict, draw and write pictures.

    Args:
        predictor: the network.
        files: the pictures.
        out: folder for what is described in `outputs`; it is there.
        head: what stands in front of the entries of the JSON file.
        batch_size: most pictures at a time.

    Raises:
        SetupError: some pictures cannot be read; the others are written all the same.
    """
    unreadable: List[str] = []
    names = output_names(files)

    def read() -> Iterator[Tuple[Path, np.ndarray]]:
        for file in files:
            image = read_picture(file)
            if image is not None:
                yield file, image
            else:
                unreadable.append(file.name)
                progress.advance()

    (out / 'pictures').mkdir(exist_ok=True)
    with PredictionsFile(out, head, 'images') as json_file, Progress('pictures', len(files)) as progress:
        for file, image, sample in predictions(predictor, read(), batch_size):
            ending = file.suffix if file.suffix.lower() in ('.jpg', '.jpeg') else '.png'
            picture = f'pictures/{names[file]}{ending}'
            write_image(out / picture, predictor.draw(image, sample))
            entry = dict(file=file.name, width=image.shape[1], height=image.shape[0], picture=picture)
            json_file.add({**entry, **_label_map(predictor, sample, out, names[file]), **predictor.describe(sample)})
            progress.advance()
    if unreadable:
        raise SetupError(f'{len(unreadable)} of {len(files)} pictures cannot be read: {shorten(unreadable)}; what was found in '
                         f'the others is in {out}')
    print(f'{out}: {len(files)} {"picture" if len(files) == 1 else "pictures"} and predictions.json')


def run_on_video(predictor: Predictor, video: Video, out: Path, head: Dict[str, Any], batch_size: int) -> None:
    """Predict, draw and write the frames of a video. Arguments as of `run_on_pictures`."""
    head = dict(head, video=video.path.name, fps=video.fps)
    (out / 'pictures').mkdir(exist_ok=True)
    count, writer = 0, None
    try:
        with PredictionsFile(out, head, 'frames') as json_file, Progress('frames', video.total) as progress:
            for number, image, sample in predictions(predictor, read_frames(video.path), batch_size):
                height, width = image.shape[:2]
                if writer is None:
                    path, writer = open_writer(out / 'pictures' / video.path.stem, video.fps, (width, height))
                writer.write(predictor.draw(image, sample))
                entry = dict(frame=number, time=number / video.fps, width=width, height=height)
                json_file.add({**entry, **_label_map(predictor, sample, out, f'{number:06d}'), **predictor.describe(sample)})
                progress.advance()
                count += 1
    finally:
        if writer is not None:
            writer.release()
    if video.total is not None and count < video.total:
        print(f'{video.path} says that it has {video.total} frames; {count} could be read')
    print(f'{path}: {count} frames; {out / "predictions.json"}')


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


def _label_map(predictor: Predictor, sample: Any, out: Path, name: str) -> Dict[str, str]:
    """Write the label map of a segmentor; the entry that names it."""
    if not isinstance(predictor, Segmentor):
        return {}
    (out / 'label_maps').mkdir(exist_ok=True)
    write_image(out / 'label_maps' / f'{name}.png', predictor.label_map(sample))
    return dict(label_map=f'label_maps/{name}.png')
