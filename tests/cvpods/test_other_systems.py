"""Training without the names that only Linux or POSIX has, as on macOS and Windows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import command_environment

# Names that the project must not need. torch and the standard library are imported first, because
# they have their own ports to other systems. Workers are spawned, as on Windows.
_RUN = """
import importlib, sys
import multiprocessing.queues, multiprocessing.resource_tracker, subprocess, tempfile
import torch, torch.distributed.launcher.api, torch.multiprocessing
import torch.utils.tensorboard, torchvision, matplotlib, loguru, tqdm, filelock
import faster_coco_eval, pycocotools.mask
import os, signal

MISSING = {
    "macos": {signal: ["sigwaitinfo", "sigtimedwait", "SIGPWR", "SIGSTKFLT"], os: ["memfd_create"]},
    "windows": {
        signal: [
            "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "SIGXFSZ",
            "SIGPIPE", "SIGCONT", "SIGSTOP", "sigwait", "sigwaitinfo", "sigtimedwait", "alarm",
            "pthread_sigmask", "pthread_kill", "sigpending", "setitimer", "pause", "siginterrupt",
        ],
        os: [
            "fork", "killpg", "getpgid", "setsid", "geteuid", "getuid", "uname", "sysconf",
            "mkfifo", "sched_getaffinity", "posix_fadvise", "O_DIRECTORY", "chown",
            "statvfs", "register_at_fork", "memfd_create", "pread", "sync",
        ],
    },
}
MODULES = {"macos": [], "windows": ["resource", "fcntl", "pwd", "grp", "termios", "tty", "pty"]}


def remove(system):
    for module, names in MISSING[system].items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in MODULES[system]:
        sys.modules[name] = None


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    system = sys.argv[1]
    if system == "windows":
        multiprocessing.resource_tracker._HAVE_SIGMASK = False
        def refuse(*args, **kwargs):
            raise OSError("a privilege is not held")
        os.symlink = refuse
    remove(system)
    from cvpods_ext.console import pods_test, pods_train

    pods_train(sys.argv[2:])
    pods_test(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", ["macos", "windows"])
def test_a_training_and_an_evaluation(system, experiment, shapes_root):
    """One iteration, a checkpoint, an evaluation, with a spawned worker. No traceback."""
    script = experiment / "run.py"
    script.write_text(_RUN)
    words = ["--num-gpus", "0", "SOLVER.LR_SCHEDULER.MAX_ITER", "1", "DATALOADER.NUM_WORKERS", "1"]
    done = subprocess.run(
        [sys.executable, str(script), system, *words],
        cwd=experiment,
        env=command_environment(shapes_root),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    for name in ("log.txt", "model_final.pth", "inference/results.json", "metrics.json"):
        assert (experiment / "output" / name).is_file(), name
    assert (experiment / "log").exists() == (system == "macos")
