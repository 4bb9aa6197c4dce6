"""Packaging. Configs and tools travel inside the wheel as `hybrid_mm/.mim`, where mim and `config_path` look for them."""
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

DET = ['mmengine>=0.10.7', 'mmcv>=2.1.0,<2.2.0', 'mmdet>=3.3.0', 'pycocotools']
SEG = ['mmengine>=0.10.7', 'mmcv>=2.1.0,<2.2.0', 'mmsegmentation>=1.2.2', 'ftfy', 'regex']  # mmseg needs, but omits, the last
CLS = ['mmengine>=0.10.7', 'mmcv>=2.1.0,<2.2.0', 'mmpretrain>=1.2.0', 'torchvision']
# the maintained forks of all three: the same modules, so an environment has one set or the other
ONEDL = ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3.6', 'onedl-mmdetection>=3.5.1', 'onedl-mmsegmentation>=1.4.2',
         'onedl-mmpretrain>=1.3.6', 'pycocotools', 'torchvision']


class BuildWithConfigs(build_py):
    """Copies what mim reads into the built package; an editable install finds it in the clone."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / 'hybrid_mm' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        for folder in ('configs', 'tools', 'requirements'):
            shutil.copytree(ROOT / folder, mim / folder, ignore=shutil.ignore_patterns('__pycache__'))
        for old in (mim / 'configs').glob('*.py'):  # mim finds a config by its file name and takes two for an error
            old.unlink()
        shutil.copy(ROOT / 'model-index.yml', mim)


def version() -> str:
    scope = {}
    exec((ROOT / 'hybrid_mm' / 'version.py').read_text(), scope)
    return scope['__version__']


setup(
    name='hybrid_mm',
    version=version(),
    description='Backbones that join convolution and global token mixing, for MMDetection, MMSegmentation and MMPreTrain',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['hybrid_mm', 'hybrid_mm.*']),
    python_requires='>=3.8',
    # mmengine and mmcv come with the extras: the maintained forks install the same modules under other names
    install_requires=['torch>=2.0', 'numpy'],
    extras_require={
        'det': DET,
        'seg': SEG,
        'cls': CLS,
        'all': sorted({*DET, *SEG, *CLS}),
        'onedl': ONEDL,
    },
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
)
