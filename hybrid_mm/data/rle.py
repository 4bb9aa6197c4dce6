"""Whether run-length encoded masks can be decoded: pycocotools reads and writes beyond its memory where they cannot."""
from typing import List, Sequence, Tuple, Union

import numpy as np

_MOST_CHARACTERS = 7  # of a number: 5 bits each, and pycocotools takes 32


def run_lengths(masks: Sequence[Union[str, List[int]]]) -> Tuple[np.ndarray, np.ndarray]:
    """Pixels and foreground pixels of COCO's RLE masks.

    Args:
        masks: ``counts`` of each: a string, or a list of numbers where it is not compressed.

    Returns:
        Both (N,) int64, -1 where a mask is damaged. A mask is whole if its pixels are height times width.
    """
    pixels, foreground = np.full(len(masks), -1, np.int64), np.full(len(masks), -1, np.int64)
    strings = []
    for i, counts in enumerate(masks):
        if isinstance(counts, list):
            if counts and all(type(count) is int and 0 <= count < 2**32 for count in counts):
                pixels[i], foreground[i] = sum(counts), sum(counts[1::2])
        elif counts and counts.isascii():
            strings.append(i)
    if strings:
        for i, runs in zip(strings, _decode([masks[i].encode() for i in strings])):  # type: ignore[union-attr]  # they are strings
            if runs is not None:
                pixels[i], foreground[i] = runs
    return pixels, foreground


def _decode(strings: List[bytes]) -> List[Union[Tuple[int, int], None]]:
    """Sum of all runs, and of those of the foreground, of each compressed mask; None where it is damaged.

    A character holds five bits, the lowest first, and a sixth that says whether more follow; the fifth bit of the last one is the
    sign. From the fourth number on, a number is the difference to that two places before.
    """
    data = np.frombuffer(b''.join(strings), np.uint8).astype(np.int64) - 48
    ends_of_strings = np.cumsum([len(string) for string in strings])
    is_last = (data & 32) == 0
    is_last[ends_of_strings - 1] = True  # a number that is cut off is found below
    last = np.flatnonzero(is_last)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(data)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((data & 31) << 5 * np.minimum(place, _MOST_CHARACTERS), first)
    length = last - first + 1
    numbers -= np.where(data[last] & 16, np.int64(1) << 5 * np.minimum(length, _MOST_CHARACTERS), 0)
    wrong = (data < 0) | (data >= 64)
    wrong[ends_of_strings - 1] |= (data[ends_of_strings - 1] & 32) != 0
    wrong[last] |= length > _MOST_CHARACTERS
    wrong_before = np.concatenate([[0], np.cumsum(wrong)])
    numbers_before = np.concatenate([[0], np.cumsum(is_last)])

    found: List[Union[Tuple[int, int], None]] = []
    start = 0
    for end in ends_of_strings.tolist():
        runs = numbers[numbers_before[start]:numbers_before[end]]
        background, foreground = runs[2::2].cumsum(), runs[1::2].cumsum()
        if wrong_before[end] > wrong_before[start] or runs[0] < 0 or (background < 0).any() or (foreground < 0).any():
            found.append(None)
        else:
            area = int(foreground.sum())
            found.append((int(runs[0] + background.sum()) + area, area))
        start = end
    return found
