"""Weights and checkpoints: reading, matching to a model, writing."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.checkpoint.checkpointer import (
        Checkpointer,
        DefaultCheckpointer,
    )
    from cvpods.checkpoint.files import (
        load_file,
        read_file,
        write_weights,
    )
    from cvpods.checkpoint.matching import (
        LoadReport,
        load_weights,
    )
    from cvpods.checkpoint.newest import (
        LAST_CHECKPOINT,
        iteration_of,
        list_checkpoints,
        newest_checkpoint,
    )

__all__ = lazy_names(
    __name__,
    {
        "checkpointer": ["Checkpointer", "DefaultCheckpointer"],
        "files": ["load_file", "read_file", "write_weights"],
        "matching": ["LoadReport", "load_weights"],
        "newest": ["LAST_CHECKPOINT", "iteration_of", "list_checkpoints", "newest_checkpoint"],
    },
)
