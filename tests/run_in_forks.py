"""Runs commands of the kind ``python FILE ...`` and ``python -m MODULE ...``, each in a fork of one process.

That process has loaded the libraries of OpenMMLab, which takes longer than what a tool does with a few pictures. Each line on
stdin is a task in JSON: the ``folder`` to run in, ``commands``, lists of words, variables of the environment, ``environ``, and
files for stdout and stderr, ``out`` and ``err``. When the commands have run, or the first has failed, stdout gets a line with
the exit status, that of a signal being below 0. The commands take the package of the folder or of the clone that they are in.
"""
import importlib
import json
import os
import runpy
import sys
import traceback
from typing import List


def main() -> None:
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # some libraries print when they are imported
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from hybrid_mm.compat import flush_denormals, mend_torchvision
    flush_denormals()
    mend_torchvision()
    for library in ('mmdet', 'mmseg', 'mmpretrain'):
        for part in ('models', 'datasets'):
            importlib.import_module(f'{library}.{part}')
    for line in sys.stdin:
        task, status = json.loads(line), 0
        with open(task['out'], 'w') as out, open(task['err'], 'a') as err:
            for words in task['commands']:
                print('$', *words, file=err, flush=True)
                child = os.fork()
                if not child:
                    _run(words, task, out.fileno(), err.fileno())
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if status:
                    break
        print(status, file=answers, flush=True)
    os._exit(0)  # to take the libraries down takes seconds


def _run(words: List[str], task: dict, out: int, err: int) -> None:
    """What the interpreter does with these words; this process ends here."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(task['folder'])
    os.environ.update(task['environ'])
    sys.path[0] = task['folder']
    sys.path[1:1] = filter(None, task['environ'].get('PYTHONPATH', '').split(os.pathsep))
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
