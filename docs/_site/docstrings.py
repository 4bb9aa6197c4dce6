"""An extension of griffe, which reads the docstrings for the site: drawings in them become blocks of code.

They begin with ``.. code-block:: text``, which is no Markdown; what follows it is indented, which is enough for a block.
"""
import re
from typing import Any

from griffe import Extension, Object


class CodeBlocks(Extension):

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r'^ *\.\. code-block:: \w+\n', '', obj.docstring.value, flags=re.MULTILINE)
