from cvpods.checkpoint.checkpointer import Checkpointer, DefaultCheckpointer
from cvpods.checkpoint.files import load_file, read_file, write_weights
from cvpods.checkpoint.matching import LoadReport, load_weights
from cvpods.checkpoint.newest import (
    LAST_CHECKPOINT,
    iteration_of,
    list_checkpoints,
    newest_checkpoint,
)

__all__ = [
    "LAST_CHECKPOINT",
    "Checkpointer",
    "DefaultCheckpointer",
    "LoadReport",
    "iteration_of",
    "list_checkpoints",
    "load_file",
    "load_weights",
    "newest_checkpoint",
    "read_file",
    "write_weights",
]
