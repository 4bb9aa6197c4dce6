"""Data sets: the drawn shapes. Needs numpy and OpenCV."""
