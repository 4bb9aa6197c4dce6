# what detection, segmentation and classification share
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='hybrid_mm.LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # the last three, for --resume and for dense tasks, which start from the last one; and the best by the metric of the task
    checkpoint=dict(type='hybrid_mm.CheckpointHook', interval=1, max_keep_ckpts=3, rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'))
custom_hooks = [dict(type='hybrid_mm.CheckSetupHook'), dict(type='hybrid_mm.NumericsGuardHook', on_fault='stop')]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
log_level = 'INFO'
load_from = None
resume = False
