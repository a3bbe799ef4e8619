from cvpods.checkpoint.checkpointer import (
    LAST_CHECKPOINT,
    Checkpointer,
    DefaultCheckpointer,
    iteration_of,
    list_checkpoints,
)
from cvpods.checkpoint.files import load_file, read_file, write_weights
from cvpods.checkpoint.matching import LoadReport, load_weights

__all__ = [
    "LAST_CHECKPOINT",
    "Checkpointer",
    "DefaultCheckpointer",
    "LoadReport",
    "iteration_of",
    "list_checkpoints",
    "load_file",
    "load_weights",
    "read_file",
    "write_weights",
]
