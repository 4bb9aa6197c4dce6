# what detection, segmentation and classification share
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='hybrid_mm.LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # the last three, for --resume and for dense tasks, which start from the last one; and the best by the metric of the task
    checkpoint=dict(type='hybrid_mm.CheckpointHook', interval=1, max_keep_ckpts=3, rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # an interrupted training saves, and goes on as if nothing had been
    random_state=dict(type='hybrid_mm.RandomStateHook'),
    preemption=dict(type='hybrid_mm.PreemptionHook'),
    resume_schedule=dict(type='hybrid_mm.ResumeScheduleHook'),
    # what cannot be right stops a training, see docs/reliability.md
    data_guard=dict(type='hybrid_mm.DataGuardHook'),
    numerics_guard=dict(type='hybrid_mm.NumericsGuardHook'),
    hang_guard=dict(type='hybrid_mm.HangGuardHook'),
    # leads compile=True to the backbone alone; --compile enables it
    compile=dict(type='hybrid_mm.CompileHook', enabled=False))
custom_hooks = [dict(type='hybrid_mm.CheckSetupHook')]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
log_level = 'INFO'
load_from = None
resume = False
