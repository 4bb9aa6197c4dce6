"""Which checkpoint of a work folder a training goes on from."""
import os
from typing import List, Optional, Sequence, Tuple

from hybrid_mm.errors import SetupError

from .contents import Outline, check_usable, fault_in, outline

_ENDINGS = ('.pth', '.pt', '.ckpt')
PassedOver = List[Tuple[str, str]]


def folders_of(work_dir: str, out_dir: Optional[str] = None) -> List[str]:
    """Where the checkpoints of a training lie: its work folder, and the folder that mmengine makes in the ``out_dir`` of
    CheckpointHook, if that is a local one."""
    folders = [work_dir]
    if out_dir and '://' not in str(out_dir) and os.path.abspath(out_dir) != os.path.abspath(work_dir):
        folders.append(os.path.join(out_dir, os.path.basename(work_dir.rstrip(os.sep))))
    return folders


def find_newest(folders: Sequence[str], resume: bool = True) -> Tuple[Optional[str], PassedOver]:
    """The checkpoint of some folders that was saved last and can be used.

    The files themselves say when they were saved: `hybrid_mm.CheckpointHook` writes it into them, mmengine to a second. The file
    ``last_checkpoint`` is not needed, and copies of a folder have the same order as the folder.

    Args:
        folders: those that are not there count as empty.
        resume: a training is to go on from it: it has the state of the optimizer, which mmengine's best checkpoints lack. If
            not, it only has to be of a training.

    Returns:
        Its path or None, and what was passed over, with a reason in words that follow the name: what is newer and damaged, or
        holds weights that are not finite; what cannot be read at all; and, if there is none, what has no state of the optimizer.
    """
    files = sorted({os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)
                    if name.endswith(_ENDINGS)})
    found = [(path, outline(path)) for path in files if os.path.isfile(path)]
    passed: PassedOver = [(path, about.fault) for path, about in found if about.fault]
    found = [(path, about) for path, about in found if not about.fault]
    fit = [item for item in found if item[1].resumable or not resume and item[1].place >= (0, 0)]
    for path, _ in sorted(fit, key=_age, reverse=True):
        fault = fault_in(path)
        if fault is None:
            return path, passed
        passed.append((path, fault))
    incomplete = [path for path, about in found if resume and not about.resumable]
    return None, passed + [(path, 'holds no state of an optimizer to go on with') for path in incomplete]


def check_resumable(path: str, what: str) -> None:
    """`check_usable` for a file to resume from; it has to have what mmengine resumes, and the message names one that has.

    Raises:
        SetupError: it cannot be resumed.
    """
    if '://' in path:
        return
    local = os.path.expanduser(path)
    about = outline(local)
    resumes = about.place >= (0, 0) and 'message_hub' in about.keys and about.keys & {'optimizer', 'param_schedulers'}
    if resumes and fault_in(local) is None:
        return
    newest = find_newest([os.path.dirname(os.path.abspath(local))])[0] if os.path.isfile(local) else None
    advice = f'the newest whole checkpoint of its folder is {newest}' if newest else 'give another file'
    check_usable(path, what, advice=advice)
    raise SetupError(f'{what} {path} holds weights, but no state of a training to go on with; {advice}, or start from its '
                     f'weights with `--cfg-options load_from={path}`')


def tell(path: Optional[str], passed: PassedOver, folders: Sequence[str]) -> List[str]:
    """Sentences that say what `find_newest` found."""
    sentences = [f'Passed over: {name} {fault}.' for name, fault in passed]
    return [*sentences, f'The training goes on from {path}.' if path else
            f'There is no checkpoint to go on from in {" or ".join(folders)}; the training starts from the beginning.']


def _age(item: Tuple[str, Outline]) -> Tuple[float, Tuple[int, int]]:
    return item[1].saved, item[1].place
