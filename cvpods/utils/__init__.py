from cvpods.utils import comm, env
from cvpods.utils.env import collect_env_info, seed_all_rng
from cvpods.utils.events import EventStorage, get_event_storage
from cvpods.utils.logger import log_first_n, setup_logger
from cvpods.utils.registry import Registry

__all__ = [
    "EventStorage",
    "Registry",
    "collect_env_info",
    "comm",
    "env",
    "get_event_storage",
    "log_first_n",
    "seed_all_rng",
    "setup_logger",
]
