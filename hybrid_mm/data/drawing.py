"""Draws the pictures of the shapes data set, with their annotations.

A picture depends on the seed, its split and its number alone. Values of a segmentation map: 0 unlabelled (crowds, squiggles,
frames), 1 background, 2 and up the classes.
"""
from dataclasses import dataclass, field
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np

# What a class looks like: (name, outline, texture). Outline and texture tell classes apart, colours are random.
LOOKS = (
    ('disc', 'disc', None),
    ('triangle', 'triangle', None),
    ('striped square', 'square', 'stripes'),
    ('checked diamond', 'diamond', 'checks'),
)
CLASSES = tuple(name for name, _, _ in LOOKS)

# ---- How hard the data set is. Lengths are in pixels. ----
MAX_OBJECTS = 6
# (smallest, largest, share of the objects). COCO counts an area below 32² as small and one above 96² as large.
SIZE_RANGES = ((16, 28, 0.08), (28, 50, 0.27), (50, 90, 0.47), (90, 120, 0.18))
MAX_SIZE_SHARE = 0.62       # no object is larger than this share of the picture's short side
MIN_TEXTURED_SIZE = 28      # the pattern of a smaller object would not survive a stride of 4
TEXTURE_CELLS = (4, 6)      # bars or cells across a textured object, fewer where they would get too thin
MIN_CELL = 5.5              # width of a bar or cell
MAX_TILT = 15               # degrees an object is turned from upright
MIN_VISIBLE = 0.65          # no object is covered or cut off further than to this share of its area
OVERLAP_SHARE = 0.3         # of the objects may cover others; the rest are put where there is room
COLOUR_CONTRAST = 95        # least RGB distance between an object and the background (0 to 441)
NEIGHBOUR_CONTRAST = 60     # the same between objects of a picture
TONE_CONTRAST = 90          # least difference in brightness between the two tones of a texture (0 to 255)
NOISE = 5                   # standard deviation of the grain, in grey levels

# ---- What else is in the pictures. Every k-th one, so that a small set has some of each too. ----
EMPTY_EVERY = 25            # background only
CROWD_EVERY = 12            # a crowd region beside the objects
FRAME_EVERY = 9             # a thin unlabelled frame
SQUIGGLE_SHARE = 0.35       # of the pictures have unlabelled curves
CROWD_MEMBER_SIZE = (8, 11)

MAX_COUNT = 500_000
# Fixed, so that a picture of val has the same name whatever the size of train.
FIRST_ID = {'train': 1, 'val': MAX_COUNT + 1}
_UNLABELLED, _BACKGROUND, _FIRST_CLASS = 0, 1, 2

_SUPERSAMPLING = 4
_PLACEMENT_TRIES = 25


def _ring(count: int, first: float) -> np.ndarray:
    """Corners (count, 2) of a regular polygon of radius 1 around the origin, the first at an angle in degrees."""
    angles = np.radians(first) + np.arange(count) * 2 * np.pi / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# Outlines for an upright object of size 1: a disc of diameter 1 and others that look about as large.
_OUTLINES = {
    'disc': 0.5 * _ring(72, 0),
    'square': 0.62 * _ring(4, 45),
    'triangle': 0.62 * _ring(3, -90),
    'diamond': 0.62 * _ring(4, 0),
}


@dataclass
class Instance:
    """One annotated object or crowd region.

    Attributes:
        label: index into `CLASSES`.
        mask: (H, W) bool, the visible part.
        area: pixels of the whole object, with what is covered or lies outside of the picture.
        is_crowd: the mask is a region with many objects.
    """
    label: int
    mask: np.ndarray
    area: int
    is_crowd: bool = False


@dataclass
class Scene:
    """A picture in the making.

    Attributes:
        image: (H, W, 3) float32, BGR, 0 to 255.
        unlabelled: (H, W) bool, what the segmentation map leaves out where no object lies upon it.
        frame: (H, W) bool, what lies in front of all objects.
        colours: colours in use, the background's first.
        instances: from the lowest to the topmost.
    """
    image: np.ndarray
    unlabelled: np.ndarray
    frame: np.ndarray
    colours: List[np.ndarray]
    instances: List[Instance] = field(default_factory=list)

    def segmentation(self) -> np.ndarray:
        """Segmentation map (H, W) uint8."""
        seg_map = np.full(self.unlabelled.shape, _BACKGROUND, np.uint8)
        seg_map[self.unlabelled] = _UNLABELLED
        for instance in self.instances:
            seg_map[instance.mask] = _UNLABELLED if instance.is_crowd else _FIRST_CLASS + instance.label
        return seg_map


# ---- Colours and backgrounds ----

def _brightness(colours: np.ndarray) -> np.ndarray:
    """Brightness (...) of BGR colours (..., 3), weighted as in JPEG."""
    return colours @ np.array([0.114, 0.587, 0.299])


def _random_colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """Colours (count, 3), BGR from 0 to 255, of any hue and mostly vivid."""
    # OpenCV has hues from 0 to 180
    hsv = rng.uniform((0, 64, 64), (180, 255, 255), (count, 3)).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0].astype(np.float64)


def _contrasting_colour(rng: np.random.Generator, scene: Scene, first_tone: Optional[np.ndarray] = None) -> np.ndarray:
    """A random colour (3,) that stands out.

    Args:
        rng: random numbers.
        scene: its colours are the ones to stand out from.
        first_tone: the colour beside which this one makes a texture.
    """
    candidates = _random_colours(rng, 64)
    background, *neighbours = scene.colours
    # 1 and above is enough contrast
    margins = [np.linalg.norm(candidates - background, axis=1) / COLOUR_CONTRAST]
    margins += [np.linalg.norm(candidates - colour, axis=1) / NEIGHBOUR_CONTRAST for colour in neighbours]
    if first_tone is not None:
        margins.append(np.abs(_brightness(candidates) - _brightness(first_tone)) / TONE_CONTRAST)
    margin = np.min(margins, axis=0)
    # the first that has enough, or the best of all where none has
    return candidates[np.argmax(np.minimum(margin, 1))]


def _background(rng: np.random.Generator, height: int, width: int) -> Tuple[np.ndarray, np.ndarray]:
    """A gradient with clouds and grain, (H, W, 3) float32, and its mean colour (3,)."""
    mean = 0.5 * _random_colours(rng, 1)[0] + 0.5 * rng.uniform(0, 255)
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[-1:1:height * 1j, -1:1:width * 1j]
    ramp = np.cos(angle) * xs + np.sin(angle) * ys
    image = mean + ramp[..., None] * rng.normal(0, 9, 3)
    for cells, strength in ((4, 7), (14, 4)):
        clouds = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        image += cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    image += rng.normal(0, NOISE, (height, width, 1))
    return image.astype(np.float32), mean


# ---- Objects ----

def _is_textured(label: int) -> bool:
    return LOOKS[label][2] is not None


def _second_tone(texture: str, u: np.ndarray, v: np.ndarray, width: float, cells: int) -> np.ndarray:
    """Where a texture has its second tone: bool, of the shape of `u` and `v`, coordinates along the object's own axes.

    Args:
        texture: 'stripes' or 'checks'.
        u, v: distance from the object's centre in pixels.
        width: of the object in pixels.
        cells: bars or cells across that width.
    """
    columns, rows = (u / width + 0.5) * cells, (v / width + 0.5) * cells
    if texture == 'stripes':
        return np.floor(columns) % 2 == 1
    return (np.floor(columns) + np.floor(rows)) % 2 == 1


def _draw_object(rng: np.random.Generator, label: int, size: float,
                 tones: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
    """Draws an object, turned a little, on a patch of its own.

    Args:
        rng: random numbers.
        label: index into `CLASSES`.
        size: pixels across.
        tones: one colour (3,), or two for a texture.

    Returns:
        Colours (n, n, 3) and coverage (n, n) from 0 to 1, float32. The object is in the middle.
    """
    _, outline, texture = LOOKS[label]
    side = int(np.ceil(1.3 * size)) + 2
    tilt = np.radians(rng.uniform(-MAX_TILT, MAX_TILT))
    cos, sin = np.cos(tilt), np.sin(tilt)
    rotation = np.array([[cos, sin], [-sin, cos]])
    corners = size * _OUTLINES[outline] @ rotation + side / 2
    coverage = np.zeros((side * _SUPERSAMPLING,) * 2, np.float32)
    cv2.fillPoly(coverage, [np.rint(corners * _SUPERSAMPLING - 0.5).astype(np.int32)], 1.)

    colours = np.broadcast_to(tones[0], (side, side, 3)).astype(np.float32)
    if texture is not None:
        ys, xs = (np.mgrid[:len(coverage), :len(coverage)] + 0.5) / _SUPERSAMPLING - side / 2
        u, v = np.stack([xs, ys], axis=-1).dot(rotation.T).transpose(2, 0, 1)  # along a square's sides
        cells = min(rng.integers(TEXTURE_CELLS[0], TEXTURE_CELLS[1] + 1), max(int(size / MIN_CELL), 2))
        second = _second_tone(texture, u, v, size, cells).astype(np.float32)
        second = cv2.resize(second, (side, side), interpolation=cv2.INTER_AREA)[..., None]
        colours = colours + second * (tones[1] - tones[0]).astype(np.float32)
    coverage = cv2.resize(coverage, (side, side), interpolation=cv2.INTER_AREA)
    # light from the upper left
    light = np.linspace(0.1, -0.1, side, dtype=np.float32)
    return colours * (1 + (light[:, None] + light) / 2)[..., None], coverage


def _shift(patch: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Puts a patch (n, n, ...) on a canvas (H, W, ...) of zeros; what sticks out is cut off."""
    return cv2.warpAffine(patch, np.float64([[1, 0, left], [0, 1, top]]), (width, height), flags=cv2.INTER_NEAREST)


def _blend(scene: Scene, colours: np.ndarray, coverage: np.ndarray) -> None:
    """Paints `colours` (H, W, 3) or (3,) over the picture as far as `coverage` (H, W), 0 to 1, says."""
    scene.image += coverage[..., None] * (colours - scene.image)


def _fits(scene: Scene, mask: np.ndarray, area: int, may_overlap: bool) -> bool:
    """Whether an object of `area` pixels, of which `mask` is inside of the picture, leaves all objects recognisable."""
    if mask.sum() < MIN_VISIBLE * area:
        return False
    for other in scene.instances:
        hidden = np.count_nonzero(other.mask & mask)
        if hidden and (other.is_crowd or not may_overlap or other.mask.sum() - hidden < MIN_VISIBLE * other.area):
            return False
    return True


def _add_object(rng: np.random.Generator, scene: Scene) -> None:
    """Puts one more object upon the others, or none where all places that were tried are taken."""
    height, width = scene.frame.shape
    label = int(rng.integers(len(CLASSES)))
    smallest, largest, _ = SIZE_RANGES[rng.choice(len(SIZE_RANGES), p=[share for _, _, share in SIZE_RANGES])]
    size = rng.uniform(smallest, largest)
    if _is_textured(label):
        size = max(size, MIN_TEXTURED_SIZE)
    size = min(size, MAX_SIZE_SHARE * min(height, width))
    tones = [_contrasting_colour(rng, scene)]
    if _is_textured(label):
        tones.append(_contrasting_colour(rng, scene, tones[0]))
    patch, patch_coverage = _draw_object(rng, label, size, tones)
    area = np.count_nonzero(patch_coverage >= 0.5)
    may_overlap = rng.random() < OVERLAP_SHARE

    half = len(patch) // 2
    margin = size / 4
    for _ in range(_PLACEMENT_TRIES):
        top = int(rng.uniform(margin, height - margin)) - half
        left = int(rng.uniform(margin, width - margin)) - half
        coverage = _shift(patch_coverage, top, left, height, width)
        mask = (coverage >= 0.5) & ~scene.frame
        if _fits(scene, mask, area, may_overlap):
            break
    else:
        return
    _blend(scene, _shift(patch, top, left, height, width), coverage)
    for other in scene.instances:
        other.mask &= ~mask
    scene.instances.append(Instance(label, mask, area))
    scene.colours += tones


# ---- What no detector is asked to find ----

def _add_crowd(rng: np.random.Generator, scene: Scene) -> None:
    """Adds a heap of tiny objects of one class without texture, annotated as one region."""
    height, width = scene.frame.shape
    label = int(rng.choice([label for label in range(len(CLASSES)) if not _is_textured(label)]))
    radii = rng.uniform(0.13, 0.22, 2) * min(height, width)
    centre = rng.uniform(0.25, 0.75, 2) * (height, width)
    step = 1.1 * CROWD_MEMBER_SIZE[1]
    region = np.zeros((height, width), np.uint8)
    for y in np.arange(-radii[0], radii[0] + 1, step):
        for x in np.arange(-radii[1], radii[1] + 1, step):
            if (y / radii[0])**2 + (x / radii[1])**2 > 1:
                continue
            colour = _contrasting_colour(rng, scene)
            patch, coverage = _draw_object(rng, label, rng.uniform(*CROWD_MEMBER_SIZE), [colour])
            top, left = np.int64(centre + (y, x) + rng.normal(0, 1.5, 2) - len(patch) / 2)
            coverage = _shift(coverage, top, left, height, width)
            _blend(scene, _shift(patch, top, left, height, width), coverage)
            region |= (coverage > 0).view(np.uint8)
    # closes the gaps between the members, as the annotators of COCO do
    region = cv2.morphologyEx(region, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)).astype(bool) & ~scene.frame
    scene.instances.append(Instance(label, region, int(region.sum()), is_crowd=True))


def _add_squiggles(rng: np.random.Generator, scene: Scene) -> None:
    """Adds one to three thin curves."""
    height, width = scene.frame.shape
    t = np.linspace(0, 1, 48)[:, None]
    for _ in range(rng.integers(1, 4)):
        ends = rng.uniform(0, (width, height), (4, 2))
        # cubic Bézier curve
        points = (1 - t)**3 * ends[0] + 3 * t * (1 - t)**2 * ends[1] + 3 * t**2 * (1 - t) * ends[2] + t**3 * ends[3]
        coverage = np.zeros((height, width), np.uint8)
        fraction_bits = 4
        points = np.rint(points * 2**fraction_bits).astype(np.int32)
        thickness = int(rng.integers(1, 4))
        cv2.polylines(coverage, [points], False, 255, thickness, cv2.LINE_AA, fraction_bits)
        _blend(scene, _contrasting_colour(rng, scene), coverage / np.float32(255))
        scene.unlabelled |= coverage > 0


def draw_scene(seed: int, split: str, index: int, size: Sequence[int]) -> Scene:
    """Draws one picture with its annotations.

    Args:
        seed: of the data set.
        split: 'train' or 'val'.
        index: of the picture in its split, from 1.
        size: height and width in pixels.
    """
    rng = np.random.default_rng([seed, list(FIRST_ID).index(split), index])
    height, width = size
    image, mean_colour = _background(rng, height, width)
    scene = Scene(image, np.zeros((height, width), bool), np.zeros((height, width), bool), [mean_colour])
    if rng.random() < SQUIGGLE_SHARE:
        _add_squiggles(rng, scene)
    if index % FRAME_EVERY == 0:
        thickness = rng.integers(3, 7)
        scene.frame[:] = True
        scene.frame[thickness:-thickness, thickness:-thickness] = False
        scene.unlabelled |= scene.frame
    if index % EMPTY_EVERY:
        if index % CROWD_EVERY == 0:
            _add_crowd(rng, scene)
        for _ in range(rng.integers(1, MAX_OBJECTS + 1)):
            _add_object(rng, scene)
    # last, for it covers what sticks out of the objects below
    scene.image[scene.frame] = _contrasting_colour(rng, scene)
    return scene
