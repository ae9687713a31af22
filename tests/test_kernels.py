"""Kernels that are forks: what they have, that they can be interrupted, and that none outlives its parent."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import psutil
import pytest
from jupyter_client.manager import start_new_kernel
from jupyter_client.provisioning import local_provisioner

from kit.chain import kernels
from kit.settings import ROOT

ANOTHER = """
import os, psutil; from jupyter_client.manager import start_new_kernel; from kit.chain import kernels
kernels.fork_kernels()
manager, client = start_new_kernel()
client.stop_channels()
print(psutil.Process(manager.provisioner.pid).ppid() == os.getppid(), not kernels.STARTED)
manager.shutdown_kernel()
"""


def said(client: Any, code: str) -> str:
    found: list[str] = []
    client.execute_interactive(code, output_hook=lambda message: found.append(message["content"].get("text", "")))
    return "".join(found)


def in_session(leader: int) -> list[psutil.Process]:
    """The processes of a kernel's session. (psutil's `children` compares starts by the wall clock, which may be set.)"""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            found += [process] if os.getsid(process.pid) == leader else []
    return found


def test_forked_kernels_have_torch_but_nothing_of_the_kit_and_end_with_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_provisioner, "launch_kernel", kernels.launch)
    manager, client = start_new_kernel()  # the parent has imported everything
    kernel = manager.provisioner.process
    client.stop_channels()
    manager.shutdown_kernel()
    assert kernel.poll() == 0
    with pytest.raises(ProcessLookupError):  # which jupyter_client expects of one that has just ended
        kernel.terminate()
    began = time.monotonic()
    manager, client = start_new_kernel(cwd=str(ROOT / "notebooks"))
    assert time.monotonic() - began < 6
    assert said(client, "import os, sys; print(os.getcwd(), 'trl' in sys.modules, [m for m in sys.modules if m[:4] == 'kit.'])") \
        == f"{ROOT / 'notebooks'} True ['kit.chain']\n"

    asked = r"from kit.reward import workers; print(workers.ask([(r'\sqrt{3}x', r'x\sqrt{3}', '')]))"
    assert said(client, asked) == "['correct']\n"
    workers, began = in_session(manager.provisioner.pid), time.monotonic()
    client.stop_channels()
    manager.shutdown_kernel()
    assert len(workers) > 2 and time.monotonic() - began < 2.4, "jupyter_client ends one by force after 2.5 s"
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    manager, client = start_new_kernel(cwd=str(ROOT / "notebooks"))
    assert said(client, ANOTHER) == "True True\n", "it asks the same process for another"

    client.execute("import time; time.sleep(60)")
    time.sleep(1)
    manager.interrupt_kernel()
    assert client.get_shell_msg(timeout=20)["content"]["ename"] == "KeyboardInterrupt"

    kernels.STARTED[-1].kill()
    until = time.monotonic() + 20
    while manager.is_alive() and time.monotonic() < until:
        time.sleep(0.2)
    assert not manager.is_alive(), "it ends with its parent"
    client.stop_channels()
    manager, client = start_new_kernel()  # on its own
    assert said(client, "import sys; print('trl' in sys.modules)") == "False\n"
    manager.shutdown_kernel()
    kernels.parent.cache_clear()
