"""Train the supernet of a config for a search. The options are those of tools/train.py."""
import argparse

from hybrid_mm.search.settings import read_settings

from . import train
from .shared import load_config


def parser() -> argparse.ArgumentParser:
    parser = train.parser()
    parser.description = __doc__
    return parser


def run(args: argparse.Namespace) -> None:
    read_settings(load_config(args.config, args.cfg_options))
    train.run(args)
