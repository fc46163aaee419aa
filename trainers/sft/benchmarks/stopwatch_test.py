import json
import os
import subprocess
import sys

LOOP = """
import sys, time
from pathlib import Path
import torch
assert sys.argv[1:] == ["--folder", "."] and __name__ == "__main__"
parameter = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([parameter], lr=0.1)
for step in range(5):
    parameter.grad = torch.ones(1)
    time.sleep(0.05)  # between steps: it counts
    optimizer.step()
    Path(f"after-{step + 1}").touch()
"""


def test_a_module_is_timed_until_its_third_step(tmp_path):
    (tmp_path / "looping.py").write_text(LOOP)
    process = subprocess.run(
        [sys.executable, "-m", "trainers.sft.benchmarks.stopwatch", "result.json", "3", "looping", "--folder", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd(), *filter(None, sys.path)])},
        check=False,
    )
    assert process.returncode == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["seconds"]) == 2
    assert all(seconds >= 0.05 for seconds in result["seconds"])
    assert result["start_up"] >= 0.05
    assert len(result["peak_gb"]) == 3
    assert sorted(path.name for path in tmp_path.glob("after-*")) == ["after-1", "after-2"]
