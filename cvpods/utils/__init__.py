"""Helpers without a place of their own: logging, processes, events, registries."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.utils import (
        comm,
        env,
    )
    from cvpods.utils.env import (
        collect_env_info,
        seed_all_rng,
    )
    from cvpods.utils.events import (
        EventStorage,
        get_event_storage,
    )
    from cvpods.utils.logger import (
        log_first_n,
        setup_logger,
    )
    from cvpods.utils.registry import Registry

__all__ = lazy_names(
    __name__,
    {
        "env": ["collect_env_info", "seed_all_rng"],
        "events": ["EventStorage", "get_event_storage"],
        "logger": ["log_first_n", "setup_logger"],
        "registry": ["Registry"],
    },
    submodules=["comm", "env"],
)
