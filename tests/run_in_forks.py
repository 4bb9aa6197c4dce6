"""Runs commands of the kind ``python FILE ...`` and ``python -m MODULE ...``, each in a fork of one process.

    cd CLONE; python run_in_forks.py mmdet,mmseg < commands.json

That process has loaded the named libraries, which takes each tool longer than its work on a few pictures. On stdin is a list
of commands, lists of words. The first that fails ends the run with its exit status.
"""
import importlib
import json
import os
import runpy
import sys
import traceback
from typing import List


def main() -> None:
    sys.path[:0] = [os.getcwd()]
    from hybrid_mm.compat import flush_denormals, mend_torchvision
    flush_denormals()
    mend_torchvision()
    for library in sys.argv[1].split(','):
        for part in ('models', 'datasets'):
            importlib.import_module(f'{library}.{part}')
    for words in json.load(sys.stdin):
        print('$', *words, flush=True)
        child = os.fork()
        if not child:
            _run(words)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            sys.exit(status)


def _run(words: List[str]) -> None:
    """What the interpreter does with these words; this process ends here."""
    status, (python, *words) = 1, words
    try:
        if python != 'python':
            raise ValueError(f'{python} is no command for this script; it runs python alone')
        if words[0] == '-m':
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name='__main__', alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, os.path.dirname(words[0]))
            runpy.run_path(words[0], run_name='__main__')
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == '__main__':
    main()
