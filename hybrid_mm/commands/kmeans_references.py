"""Make references of SeTformer by K-means over the tokens of training images.

With random references a plan can be nearly uniform; centres of clusters tell tokens apart from the first step. The backbone
starts as the config says, from its checkpoint or from random weights, and runs once over the images. OUT gets its weights with
the new references, which fit these weights and no others. For each block the entropy of its plan is printed, before and after,
as a share of the largest possible. A training starts from OUT with

    python tools/train.py CONFIG --cfg-options load_from=OUT

or, where the config starts from a checkpoint of ImageNet (model.backbone.init_cfg), with

    python tools/train.py CONFIG --cfg-options model.backbone.init_cfg.checkpoint=OUT

or in a config with model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=OUT, prefix='backbone.'))).
"""
import argparse
from pathlib import Path

import torch

import hybrid_mm
from hybrid_mm.analysis import kmeans_references as kmeans
from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file
from hybrid_mm.progress import Progress

from .preflight import check_data, check_starting_weights
from .shared import add_config, add_force, check_least, check_out_file, check_seed, parser_of, read_config


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser, of='a detector, segmentor or classifier with hybrid_mm.SeTformer', data=True)
    parser.add_argument('out', metavar='OUT', type=Path, help='checkpoint to write')
    parser.add_argument('--images', type=int, default=256, help='how many training images to use (default: %(default)s)')
    parser.add_argument('--tokens', type=int, default=64,
                        help='how many random positions of each map to use (default: %(default)s). Memory grows with images '
                        'times tokens: 4 bytes for each channel of each block, 0.8 GB for SeTformer base with the defaults')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of weights, images, positions and K-means (default: %(default)s)')
    add_force(parser, 'overwrite OUT')
    return parser


def run(args: argparse.Namespace) -> None:
    check_least(args, images=1, tokens=1)
    check_seed(args.seed)
    check_out_file(args.out, force=args.force, option='')
    cfg = read_config(args.config, args.cfg_options, data_root=args.data_root)
    if cfg.get('train_dataloader') is None:
        raise SetupError('the config has no train_dataloader, whose images K-means needs; give another config')
    check_starting_weights(cfg)
    check_data(cfg, ('train', ), keep=False)
    model = kmeans.build_backbone(cfg, args.seed)
    blocks = kmeans.find_blocks(model.backbone)
    kmeans.require_libraries(blocks)
    references = max(layer.num_references for layer in blocks.values())
    if args.images * args.tokens < references:
        raise SetupError(f'--images {args.images} with --tokens {args.tokens} gives {args.images * args.tokens} tokens a '
                         f'block, fewer than its {references} references; choose more images, or more tokens')
    images, number = kmeans.training_images(cfg, model, args.images, args.seed)
    if number < args.images:
        print(f'the training data have {number} images, less than --images {args.images}; all are used', flush=True)
    entropies = []
    with Progress('images', number) as progress:
        for block in kmeans.kmeans_references(model.backbone, progress.over(images), args.tokens, args.seed):
            print(f'{block.name:<24} row entropy {block.before:.3f} -> {block.after:.3f}', flush=True)
            entropies.append(block)
    before, after = (sum(column) / len(entropies) for column in list(zip(*entropies))[1:])
    print(f'{f"mean of {len(entropies)} blocks":<24} row entropy {before:.3f} -> {after:.3f}')
    state_dict = {f'backbone.{key}': tensor.cpu() for key, tensor in model.backbone.state_dict().items()}
    meta = dict(config=Path(args.config).name, references='K-means', images=number, tokens=args.tokens, seed=args.seed,
                hybrid_mm_version=hybrid_mm.__version__)
    with whole_file(args.out) as partial:
        torch.save(dict(state_dict=state_dict, meta=meta), partial)
    print(f'{args.out}: {len(state_dict)} tensors, the references of {len(entropies)} blocks from {number} images')
