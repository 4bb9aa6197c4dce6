"""Failures in the comparisons of `shipped` name the values that differ, as those in a test do."""
import pytest

pytest.register_assert_rewrite('configs.shipped')
