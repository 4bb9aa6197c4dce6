"""Looks and names of points, and small files of figures."""
from pathlib import Path
from typing import Any, List, NamedTuple, Sequence, Tuple

from PIL import Image

from hybrid_mm.output import save_figure

LOOKS = {  # told apart by colour and by shape
    'ours': dict(color='#1b6ca8', marker='o', label='ours'),
    'stock': dict(color='#c8501e', marker='s', label='stock'),
    'mark': dict(color='#4d4d4d', marker='*', label='with weights of ImageNet'),
}
_LINE = 7.5  # points between two names


class Point(NamedTuple):
    x: float
    y: float
    spread: float
    group: str
    name: str


def name_points(ax: Any, points: Sequence[Point]) -> None:
    """Write the names at the right of the points, moved up where one would lie on another."""
    to_points = 72 / ax.figure.dpi
    placed: List[Tuple[float, float, float]] = []  # left, right and height of each name, in points
    for point in sorted(points, key=lambda point: point.y):
        x, at = ax.transData.transform((point.x, point.y)) * to_points
        left, right, y = x + 6, x + 6 + 3.9 * len(point.name), at
        while True:
            under = [height for start, end, height in placed if start < right and left < end and abs(height - y) < _LINE - 0.01]
            if not under:
                break
            y = max(under) + _LINE
        placed.append((left, right, y))
        ax.annotate(point.name, (point.x, point.y), (6, y - at), textcoords='offset points', fontsize=7, va='center',
                    color=LOOKS[point.group]['color'])


def save(figure: Any, path: Path) -> None:
    """Write a figure in few colours, which takes a third of the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
    with Image.open(path) as picture:
        few = picture.convert('RGB').quantize(64)
    few.save(path, optimize=True)
