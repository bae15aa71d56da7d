"""Stand-in for isaacgymenvs: its `make` and its tasks' API with their quirks; the physics is a point in the plane."""

import isaacgym  # noqa: F401


def make(
    seed,
    task,
    num_envs,
    sim_device,
    rl_device,
    graphics_device_id=-1,
    headless=False,
    multi_gpu=False,
    virtual_screen_capture=False,
    force_render=True,
    cfg=None,
):
    """The seed is taken and not used, as in the package on a single GPU."""
    from isaacgymenvs.tasks import isaacgym_task_map

    print("num envs", num_envs, "env spacing 5")
    return isaacgym_task_map[task](num_envs, rl_device, headless, force_render)
