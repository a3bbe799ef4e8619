"""Completion scripts; bash's in a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cvpods.tools.completion import completion_script
from cvpods.tools.flags import make_parser
from cvpods_ext.console import COMMANDS
from tests.load_script import ROOT

WITHOUT = {"pods_convert", "pods_debug", "pods_vis"}  # no shared flags, or commands of their own


@pytest.fixture
def bash(run_command, tmp_path, programs):
    """Complete a line, the last word of which is being typed; return the choices."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    script = tmp_path / "complete.bash"
    script.write_text(run_command(["pods_train", "--print-completion", "bash"], tmp_path).stdout)

    def complete(cwd: Path, *words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("pods_train", *words))
        program = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}\n"
            "function=$(complete -p pods_train | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
            '"$function"; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", program],
            cwd=cwd,
            env={"PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_flags(bash, tmp_path):
    assert bash(tmp_path, "--num") == ["--num-gpus", "--num-processes", "--num-machines"]
    assert bash(tmp_path, "--resume", "--max") == ["--max-restarts"]
    assert {"--dir", "--help", "--auto-batch"} <= set(bash(tmp_path, "--"))
    assert bash(tmp_path, "--nothing") == []


def test_experiment_folders(bash, tmp_path):
    for name in ("playground/atss.one", "playground/atss.two", "playground/fcos.one"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.py").touch()
    (tmp_path / "playground/atss.docs").mkdir()
    both = ["playground/atss.one", "playground/atss.two"]
    assert bash(tmp_path, "--dir", "") == [*both, "playground/fcos.one"]
    assert bash(tmp_path, "--dir", "playground/at") == both
    assert bash(tmp_path / "playground", "--dir", "f") == ["fcos.one"]
    assert bash(tmp_path, "--dir", "pl") == [*both, "playground/fcos.one"]
    (tmp_path / "elsewhere").mkdir()
    assert bash(tmp_path, "--dir", "el") == ["elsewhere"]


def test_keys_of_the_experiment(bash, experiment, tmp_path):
    keys = ["MODEL.ATSS.TOPK", "MODEL.ATSS.TOPK_CANDIDATES_TEST"]
    assert bash(experiment, "MODEL.ATSS.TOP") == keys
    assert bash(tmp_path, "--dir", str(experiment), "MODEL.ATSS.TOP") == keys
    assert bash(experiment, "--resume", "SEED", "3", "SOLVER.LR_SCHEDULER.STE") == [
        "SOLVER.LR_SCHEDULER.STEPS"
    ]
    outside = tmp_path / "outside"
    outside.mkdir()
    assert bash(outside, "SOLVER.IMS") == ["SOLVER.IMS_PER_BATCH", "SOLVER.IMS_PER_DEVICE"]
    assert bash(outside, "MODEL.ATSS.TOP") == []


def test_other_words_are_files(bash, tmp_path):
    (tmp_path / "weights.pth").touch()
    assert bash(tmp_path, "MODEL.WEIGHTS", "wei") == ["weights.pth"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell):
    """They name the command, its flags and its function, and nothing is left to fill in."""
    parser = make_parser("Train.")
    parser.prog = "pods_train"
    script = completion_script(parser, shell)
    assert "@" not in script.replace("${COMPREPLY[@]}", "").replace("${#COMPREPLY[@]}", "")
    assert "--print-completion keys" in script and "--num-gpus" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - WITHOUT))
def test_every_command_prints_its_script(name, run_command, tmp_path):
    printed = run_command([name, "--print-completion", "bash"], tmp_path).stdout
    assert printed.endswith(f"complete -F _{name}_completion {name}\n")


def test_another_shell(run_command, tmp_path):
    result = run_command(["pods_train", "--print-completion", "tcsh"], tmp_path, status=2)
    assert "invalid choice: 'tcsh'" in result.stderr


def test_the_installed_command_prints_keys(tmp_path):
    program = "from cvpods_ext.console import pods_test; pods_test(['--print-completion', 'keys'])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "SOLVER.OPTIMIZER.BASE_LR" in done.stdout.splitlines()
