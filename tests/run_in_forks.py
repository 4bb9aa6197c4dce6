"""Runs commands of the kind ``python FILE ...`` and ``python -m MODULE ...``, each in a fork of one process.

That process has loaded the libraries of OpenMMLab, which takes longer than what a tool does with a few pictures. Each line on
stdin is a task in JSON: the ``folder`` to run in, with a copy of the package, and ``commands``, lists of words. When they have
run, or the first has failed, stdout gets a line with the exit status; what they print is in the file ``log`` of the folder.
"""
import importlib
import json
import os
import runpy
import sys
import traceback
from typing import List


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from hybrid_mm.compat import flush_denormals, mend_torchvision
    flush_denormals()
    mend_torchvision()
    for library in ('mmdet', 'mmseg', 'mmpretrain'):
        for part in ('models', 'datasets'):
            importlib.import_module(f'{library}.{part}')
    for line in sys.stdin:
        task, status = json.loads(line), 0
        with open(os.path.join(task['folder'], 'log'), 'w') as log:
            for words in task['commands']:
                print('$', *words, file=log, flush=True)
                child = os.fork()
                if not child:
                    _run(words, task['folder'], log.fileno())
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if status:
                    break
        print(status, flush=True)
    os._exit(0)  # to take the libraries down takes seconds


def _run(words: List[str], folder: str, log: int) -> None:
    """What the interpreter does with these words in a folder; this process ends here."""
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    sys.path[0] = folder
    here = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split('.')[0] == 'hybrid_mm'}  # lives on: it
    # holds what mend_torchvision has defined; the tools take the package of the folder
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
        del here
        os._exit(status)


if __name__ == '__main__':
    main()
