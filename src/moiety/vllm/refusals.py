"""What vLLM could only answer for wrongly is refused, with the reason and with what to do."""

from __future__ import annotations

from moiety.recipe.recipe import MoESettings


def refuse_what_is_not_served(settings: MoESettings, pipeline_parallel_size: int = 1) -> None:
    """Refuse settings of a folder, or of the engine, under which answers would be wrong.

    Args:
        settings: Section ``moe`` of the config.
        pipeline_parallel_size: Number of stages that vLLM splits the decoder into.

    Raises:
        ValueError: with the reason and what to do.
    """
    if settings.scheme == "asymoe":
        raise ValueError(
            "scheme 'asymoe' cannot be served by vLLM: its evidence cache has no place in vLLM's blocks of keys and "
            "values; use `moiety serve`"
        )
    if settings.kinds and set(settings.kinds.values()) != {"ffn"}:
        raise ValueError(
            f"experts of the kinds {sorted(set(settings.kinds.values()))} cannot be served by vLLM, whose kernels know "
            "plain feed-forward networks; use `moiety serve`"
        )
    if settings.mask_rule != "exact":
        raise ValueError(
            f"mask_rule {settings.mask_rule!r} cannot be served by vLLM: it may split a picture between two steps, and "
            "then a wrong token would count as the last of the picture; use `moiety serve`"
        )
    if settings.balance != "loss":
        raise ValueError(
            f"moe.balance {settings.balance!r} cannot be served by vLLM: its kernels choose by the scores alone and "
            "would leave the selection bias out; use `moiety serve`"
        )
    if pipeline_parallel_size > 1:
        raise ValueError(
            f"pipeline parallelism ({pipeline_parallel_size} stages) is not supported: later stages get no token ids; "
            "use tensor parallelism (--tensor-parallel-size)"
        )
