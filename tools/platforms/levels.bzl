"""Which accelerators a machine may have, in steps: the one table behind platforms, constraints and --config names."""

# A machine of one level also satisfies all lower levels of the same hardware.
# GPUs of one host; NeuronCores of one host (trn1.2xlarge has 2, trn1.32xlarge 32).
LEVELS = {
    "gpu": [1, 2, 4, 8],
    "trainium": [2, 8, 32, 64],
}

# The resource that `resources:NAME:N` tags count; `--local_resources=NAME=N` provides it.
RESOURCES = {
    "gpu": "gpu",
    "trainium": "neuroncore",
}

# The accelerator whose wheels a machine needs: select() on //tools/platforms:<value>.
ACCELERATORS = {
    "gpu": "cuda13",
    "trainium": "neuron",
}

# What the fleet's workers have. Trainium joins it with a lock of its wheels (docs/python_packages.md): until then its
# tests would not only fail there, they would keep all others from being analysed.
FLEET = ["gpu"]

def config_name(hardware, level):
    """The --config and the platform that provide a level.

    Args:
      hardware: a key of LEVELS.
      level: one of LEVELS[hardware].

    Returns:
      "gpu" for the lowest level, "gpu_x4" for others.
    """
    return hardware if level == LEVELS[hardware][0] else "{}_x{}".format(hardware, level)

def constraint_name(hardware, level):
    """The constraint value that a machine with at least `level` devices has.

    Bazel's message about an incompatible target ends with the label of the missing
    constraint, so the label is the flag that provides it.

    Args:
      hardware: a key of LEVELS.
      level: one of LEVELS[hardware].

    Returns:
      the target name in //tools/platforms, "--config=gpu_x2".
    """
    return "--config=" + config_name(hardware, level)

def constraints_up_to(hardware, level):
    """The constraint values of a machine with `level` devices.

    Args:
      hardware: a key of LEVELS.
      level: one of LEVELS[hardware].

    Returns:
      labels, lowest level first.
    """
    return ["//tools/platforms:" + constraint_name(hardware, n) for n in LEVELS[hardware] if n <= level]

def fleet_name(hardware):
    """The platform of those of the fleet's workers that have an accelerator.

    Args:
      hardware: a key of ACCELERATORS.

    Returns:
      the target name in //tools/platforms, "fleet_gpu".
    """
    return "fleet_" + hardware
