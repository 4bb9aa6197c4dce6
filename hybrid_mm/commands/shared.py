"""What commands share: reading a config, the device, and what they may write over."""
import argparse
import os
import tempfile
from pathlib import Path
from traceback import extract_tb
from typing import Any, List, Optional, Sequence

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device

import hybrid_mm.registry  # noqa: F401  before configs and checkpoints are read, see `hybrid_mm.compat`
from hybrid_mm.environment.libraries import require
from hybrid_mm.errors import SetupError, first_line
from hybrid_mm.names import check_keys

from .config_names import STOCK_HOOKS, check_arguments, merge_options
from .data_root import replace_data_root
from .preflight import check_file


class _Settings(DictAction):
    """mmengine's ``KEY=VALUE``, which fails on a word without ``=``."""

    def __call__(self, parser, namespace, values, option_string=None):
        for word in values:
            if not word.partition('=')[0] or '=' not in word:
                raise argparse.ArgumentError(self, f'{word!r} is not KEY=VALUE, such as train_dataloader.batch_size=4')
        super().__call__(parser, namespace, values, option_string)


def parser_of(doc: str) -> argparse.ArgumentParser:
    """A parser that describes a command by its module's docstring, line by line."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_config(parser: argparse.ArgumentParser, of: str = 'a detector, segmentor or classifier', several: bool = False,
               data: bool = False) -> None:
    """The config, or ``several``, and the options that replace its settings, of its ``data``, too; see `read_config`."""
    if several:
        parser.add_argument('configs', nargs='+', metavar='CONFIG', help=f'file of the config of {of}')
    else:
        parser.add_argument('config', metavar='CONFIG', help=f'file of the config of {of}')
    parser.add_argument('--cfg-options', nargs='+', action=_Settings, metavar='KEY=VALUE',
                        help='settings that replace those of the config, such as train_dataloader.batch_size=4; lists '
                        'as "key=[a,b]" or key=a,b, nested ones as "key=[(a,b),(c,d)]", quoted and without blanks')
    if data:
        parser.add_argument('--data-root', metavar='FOLDER',
                            help='folder with the data, in the place of data_root of the config, wherever a path begins with it')


def add_shape(parser: argparse.ArgumentParser, **options: Any) -> None:
    """``--shape``, see `both_sides`."""
    parser.add_argument('--shape', nargs='+', type=int, metavar='PIXELS',
                        **{'help': 'height and width of the image, or one number for both', **options})


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--device', help='such as cpu or cuda:1; by default a GPU if there is one')


def add_force(parser: argparse.ArgumentParser, what: str = 'write into a folder that is not empty') -> None:
    parser.add_argument('--force', action='store_true', help=what)


def load_config(path: str, options: Optional[dict] = None, data_root: Optional[str] = None) -> Config:
    """A config with ``--data-root`` and ``--cfg-options``, in this order; a SetupError where there is no such file or folder, its
    library is not installed, or a name in config or options is one that nothing takes."""
    check_file(path, 'the config')
    cfg = _load(path)
    check_keys(cfg, path)
    if data_root is not None:
        replace_data_root(cfg, data_root)
    if options is not None:
        merge_options(cfg, options)
    require(cfg.get('default_scope'))
    if not isinstance(cfg.get('model'), dict) or 'type' not in cfg.model:
        raise SetupError('the config has no model; give the config of a detector, segmentor or classifier')
    if 'backbone' in cfg.model and not (isinstance(cfg.model.backbone, dict) and 'type' in cfg.model.backbone):
        raise SetupError(f'{path} has no model.backbone; give the config of a detector, segmentor or classifier')
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None and not (isinstance(loader, dict) and isinstance(loader.get('dataset'), dict)):
            raise SetupError(f'{split}_dataloader of the config has no dataset; give one, or set {split}_dataloader=None')
    check_arguments(cfg, path)
    return cfg


def _load(path: str) -> Config:
    """What a config file says; a SetupError that names the file where it is no config, or breaks off."""
    try:
        return Config.fromfile(path)
    except SetupError:
        raise
    except Exception as error:  # a config is a program, which may fail in any way
        last = extract_tb(error.__traceback__)[-1]
        line = last.lineno if last.name == '<module>' else getattr(error, 'lineno', None)
        raise SetupError(f'the config {path} cannot be read: {type(error).__name__}{f" in line {line}" if line else ""}: '
                         f'{first_line(error)}; mend the file, or one that it imports or has in _base_') from error


def read_config(path: str, options: Optional[dict] = None, work_dir: Optional[str] = None, launcher: str = 'none',
                data_root: Optional[str] = None) -> Config:
    """`load_config` with what a runner needs: the work folder, by default ./work_dirs/<name of the config>, and the launcher."""
    cfg = load_config(path, options, data_root)
    cfg.launcher = launcher
    for name, hook in list((cfg.get('default_hooks') or {}).items()):
        if hook is None and name not in STOCK_HOOKS:  # switched off; mmengine bears None for its own alone
            del cfg.default_hooks[name]
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('./work_dirs', Path(path).stem)
    if cfg.get('default_scope') == 'mmpretrain':
        _complete_loaders(cfg)
    return cfg


def both_sides(shape: Optional[List[int]]) -> Optional[List[int]]:
    """``--shape`` as height and width."""
    return shape * 2 if shape is not None and len(shape) == 1 else shape


def find_device(name: Optional[str]) -> str:
    """The device of this name, by default a GPU if there is one; a SetupError names those that are there."""
    if name is None:
        return get_device()
    there = ['cpu', *(f'cuda:{i}' for i in range(torch.cuda.device_count()))]
    there += [get_device()] if get_device() not in ('cpu', 'cuda') else []
    if name not in there and not (name == 'cuda' and torch.cuda.is_available()):
        raise SetupError(f'--device {name} is not there; choose from {", ".join(there)}')
    return name


def check_least(args: argparse.Namespace, **least: int) -> None:
    """Raise a SetupError where an option of a whole number is given and below its least value, such as ``batch_size=1``."""
    for name, value in least.items():
        if getattr(args, name) is not None and getattr(args, name) < value:
            raise SetupError(f'--{name.replace("_", "-")} {getattr(args, name)} is not allowed; choose {value} or more')


def check_seed(seed: int) -> None:
    """Raise a SetupError where a seed is none for torch, numpy and Python alike."""
    if not 0 <= seed < 2**32:
        raise SetupError(f'--seed {seed} is not allowed; choose 0 to {2**32 - 1}')


def check_out_folder(path: Path, force: bool = False, option: str = '--out ') -> None:
    """Raise a SetupError where a folder cannot take the output: it is a file, lies below one, or holds something.

    With ``force`` it may hold something, whose files of the same names are then overwritten.
    """
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise SetupError(f'{option}{path} is not allowed, since {folder} is a file; give a folder')
    check_writable(next(folder for folder in (path, *path.resolve().parents) if folder.is_dir()), f'{option}{path}')
    if not force and path.is_dir() and any(path.iterdir()):
        raise SetupError(f'{option}{path} is not empty; give another folder, or pass --force to overwrite what has the same name')


def check_out_file(path: Path, suffixes: Sequence[str] = (), force: bool = False, option: str = '--out ') -> None:
    """Raise a SetupError where a file cannot be written: by its ending, its folder, or because it is there.

    ``suffixes`` are the allowed endings, any if there are none; with ``force`` it may exist.
    """
    if suffixes and path.suffix not in suffixes:
        raise SetupError(f'{option}{path} is not allowed; give a file that ends in {", ".join(suffixes)}')
    if not path.parent.is_dir():
        raise SetupError(f'the folder {path.parent} of {option}{path} does not exist; make it, or give another file')
    if path.is_dir():
        raise SetupError(f'{option}{path} is a folder; give a file')
    if path.exists() and not force:
        raise SetupError(f'{option}{path} exists; give another file, or pass --force to overwrite it')
    check_writable(path.parent, f'{option}{path}')


def check_writable(folder: Path, what: str) -> None:
    """Raise a SetupError where a folder takes no files: only trying it tells, as permissions mean nothing to root."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SetupError(f'{what} cannot be written: {folder}: {error.strerror}; give another place') from None


def _complete_loaders(cfg: Config) -> None:
    """What MMPretrain's own tools add to the loaders of a config."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            loader.setdefault('pin_memory', True)
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.setdefault('collate_fn', dict(type='default_collate'))


def count(number: int, what: str) -> str:
    """Such as 1 picture, 2 pictures."""
    return f'{number} {what}{"" if number == 1 else "s"}'
