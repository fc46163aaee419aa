import os
import subprocess
import sys

import pydantic

from tools.remote import web


def test_what_is_shipped_needs_nothing_else_of_the_repo(tmp_path):
    (tmp_path / "code/tools/old.py").parent.mkdir(parents=True)
    (tmp_path / "code/tools/old.py").touch()
    web.ship(tmp_path / "code")
    assert not (tmp_path / "code/tools/old.py").exists()

    # (in the cluster, pydantic is in the engine's Python environment)
    wheels = [path for path in sys.path if "site-packages" in path]
    assert any(os.path.exists(os.path.join(path, pydantic.__name__)) for path in wheels)
    result = subprocess.run(
        [sys.executable, "-c", "from tools.remote import web; print(web.__file__, web.status_page.TEMPLATE.exists())"],
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path / "code"), *wheels])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout.split(), result.stderr) == ([str(tmp_path / "code/tools/remote/web.py"), "True"], "")
