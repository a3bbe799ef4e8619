"""Errors that torch raises as a plain RuntimeError, and the file of --auto-batch."""

from __future__ import annotations

import pytest
import torch

from cvpods.engine.auto_batch import FILE_NAME, halve_images_at_once, read_images_at_once
from cvpods.engine.error_kinds import first_line, is_dead_worker, is_lost_peer, is_out_of_memory

KINDS = (is_out_of_memory, is_dead_worker, is_lost_peer)


@pytest.mark.parametrize(
    "error, kind",
    [
        (torch.OutOfMemoryError("CUDA out of memory."), is_out_of_memory),
        (MemoryError(), is_out_of_memory),
        (RuntimeError("CUDA error: out of memory"), is_out_of_memory),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"),
            is_out_of_memory,
        ),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."), is_dead_worker),
        (RuntimeError("[gloo/pair.cc:1] Connection closed by peer [::1]:9"), is_lost_peer),
        (RuntimeError("Connection reset by peer"), is_lost_peer),
        (RuntimeError("writev: Broken pipe"), is_lost_peer),
        (RuntimeError("shape mismatch"), None),
        (BrokenPipeError("Broken pipe"), None),  # of a file or a terminal
        (ValueError("CUDA error: out of memory"), None),
    ],
)
def test_kinds(error, kind):
    assert [found for found in KINDS if found(error)] == ([kind] if kind else [])


def test_first_lines():
    assert first_line(RuntimeError("  one\ntwo")) == "one"
    assert first_line(MemoryError()) == "MemoryError"


def test_images_at_once_are_halved_and_read(tmp_path):
    """7 -> 3 -> 1 -> 1."""
    assert read_images_at_once(tmp_path) is None
    images = 7
    for half in (3, 1, 1):
        images = halve_images_at_once(tmp_path, images)
        assert images == half == read_images_at_once(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"images_at_once": 0}', '{"images_at_once": ""}']
)
def test_a_damaged_file_is_ignored(text, tmp_path):
    (tmp_path / FILE_NAME).write_text(text)
    assert read_images_at_once(tmp_path) is None
