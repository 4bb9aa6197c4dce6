# The tiny classifier for three epochs, with what checkpoint_probes.py does to it
_base_ = ['../tools/tiny/classifier.py']
custom_imports = dict(imports=['training_probes', 'checkpoint_probes'], allow_failed_imports=False)
default_hooks = dict(disturb=dict(type='DisturbWriting'))
train_cfg = dict(max_epochs=3, val_interval=9)
