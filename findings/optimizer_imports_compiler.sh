#!/usr/bin/env bash
# One would expect that torch's compiler is imported by programs that compile, and that making an
# optimizer costs nothing worth measuring.
# In torch 2.14.1, torch.optim.SGD([parameter]) imports torch._dynamo and sympy, hundreds of modules, on
# the first optimizer of a process, because methods of optimizers are wrapped for torch.compile and the
# wrapper imports the compiler when it is first called. `import torchvision` 0.29.1 does the same, because
# some of its functions are marked for the compiler; for the operators alone (torchvision.ops) too. Each takes
# about as much CPU time as `import torch`. Seen on 2026-11-27, where `import torch` took 1.2 s, the optimizer
# 1.0 s and torchvision 1.1 s.
# It matters to everybody whose detector starts as a process: command-line tools, workers that are spawned,
# and services that scale to zero wait for a compiler that they do not use.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1

cat > check.py <<'PYTHON'
import sys

import torch


def report(event: str, before: int) -> None:
    added = "hundreds of" if len(sys.modules) - before > 500 else "few"
    compiler = "torch._dynamo" in sys.modules and "sympy" in sys.modules
    print(f"{event}: {added} more modules, compiler imported: {compiler}")


parameter = torch.zeros(3, requires_grad=True)
before = len(sys.modules)
parameter.sum().backward()
report("a backward pass", before)
if sys.argv[1] == "optimizer":
    torch.optim.SGD([parameter], lr=0.1)
    report("torch.optim.SGD", before)
else:
    import torchvision.ops

    report("import torchvision.ops", before)
PYTHON

for part in optimizer torchvision; do
    env/bin/python check.py "$part"
done > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
a backward pass: few more modules, compiler imported: False
torch.optim.SGD: hundreds of more modules, compiler imported: True
a backward pass: few more modules, compiler imported: False
import torchvision.ops: hundreds of more modules, compiler imported: True
SEEN
