"""Names of modules as they stand in state dicts."""

_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")  # activation checkpointing, torch.compile


def state_name(module_name: str) -> str:
    """The name from ``named_modules`` without the wrappers that state dicts leave out."""
    for wrapper in _WRAPPERS:
        module_name = module_name.replace(wrapper, "")
    return module_name
