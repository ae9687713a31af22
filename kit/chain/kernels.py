"""Kernels that start at once: forks of one process that has imported what the stages need.

Torch, transformers and TRL take five seconds of a core to import, and a chain has a dozen stages. None of the kit's own modules
is imported before the fork: a stage runs the code that is there when it begins. A forked kernel, as 00_run_all's is in `make
reproduce`, can ask the same process for others. Where there is a GPU, kernels start on their own as ever, for a process that has
touched it must not be forked.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn

MODULES = ("ipykernel.kernelapp", "IPython.display", "matplotlib.pyplot", "pandas", "scipy.stats", "pydantic.dataclasses",
           "ruamel.yaml", "transformers.models.auto.modeling_auto", "transformers.models.qwen2.modeling_qwen2")
LATER = ("datasets", "trl.trainer.grpo_trainer", "torch._dynamo", "seaborn.objects")  # not needed by notebook 01's
# Idle threads sleep instead of spinning, and freed memory is kept for the next step: with two small models side by side that
# halved the time of a step. Bars would be left over in the executed copies. Nothing is sent anywhere.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456",
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TQDM_DISABLE": "1",
}
LINE = "KIT_KERNELS"  # of a forked kernel: its process id, and the file descriptor at which it asks for others
GPUS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA; in Windows' Linux; AMD
ONE = threading.Lock()  # threads ask at the same time
STARTED: list[subprocess.Popen[bytes]] = []  # the process that is forked, where this one has started it


class Forked:
    """A forked kernel, handled as jupyter_client handles a `Popen`. It is no child of ours: how it exited is not known."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid, self.descriptor = pid, os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def wait(self, timeout: float | None = None) -> int | None:
        return 0 if select.select([self.descriptor], [], [], timeout)[0] else None

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self.descriptor, number)

    poll = functools.partialmethod(wait, 0)
    terminate = functools.partialmethod(send_signal, signal.SIGTERM)
    kill = functools.partialmethod(send_signal, signal.SIGKILL)


@functools.cache
def parent() -> Connection:
    """The line to the process that is forked: asked for a kernel, it answers its process id. It ends when this process does, and
    its kernels with it (ipykernel looks for its parent)."""
    process, _, number = os.environ.get(LINE, "").partition(":")
    if process == str(os.getpid()):
        return Connection(int(number))
    ours, its = Pipe()
    with its:
        STARTED.append(subprocess.Popen([sys.executable, "-P", "-m", __name__], stdin=its.fileno()))
    return ours


def fork_kernels() -> None:
    """From now on jupyter_client's kernels in this process have ENVIRONMENT, and are forked where that can be done."""
    os.environ.update(ENVIRONMENT | os.environ)
    if hasattr(os, "pidfd_open") and not any(map(os.path.exists, GPUS)):
        parent()  # imports while this process does other things
        from jupyter_client.provisioning import local_provisioner

        local_provisioner.launch_kernel = launch


def launch(cmd: list[str], *, env: dict[str, str], cwd: str | None = None, **given: Any) -> Any:
    """What jupyter_client's `launch_kernel` does. Where the parent has died, the kernel starts on its own."""
    from jupyter_client import launcher

    asked = {"argv": cmd[cmd.index("ipykernel_launcher"):], "env": env, "cwd": cwd or os.getcwd()}
    with ONE, contextlib.suppress(OSError, EOFError):
        parent().send(asked)
        return Forked(parent().recv())
    return launcher.launch_kernel(cmd, env=env, cwd=cwd, **given)


def main() -> None:
    """The parent: imports, then forks a kernel for each line that it reads, from who started it or from a kernel."""
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel reads it when it is imported, and ends when this process does
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the kernels, each by itself
    load(MODULES)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that have ended leave nothing behind
    lines = [Connection(0)]
    while True:
        for line in wait(lines):
            try:
                asked = line.recv()
            except (EOFError, OSError):  # who asked has ended
                if line is lines[0]:
                    return
                lines.remove(line)
                continue
            ours, its = Pipe()
            if os.fork() == 0:
                os.setsid()
                line.send(os.getpid())
                for other in (*lines, ours):
                    other.close()
                become(its, **asked)
            its.close()
            lines.append(ours)
            load(LATER)


def load(names: Sequence[str]) -> None:
    """Import, and keep what is imported out of the garbage collector's rounds: IPython ends with one, of half a second."""
    for name in names:
        importlib.import_module(name)
    gc.freeze()


def become(line: Connection, argv: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    """Be the kernel that was asked for, with a `line` to ask for others."""
    from ipykernel import kernelbase

    nothing = os.open(os.devnull, os.O_RDWR)  # what a notebook prints goes to its messages; at its end libraries only grumble
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env | {LINE: f"{os.getpid()}:{line.fileno()}"})
    os.chdir(cwd)
    sys.argv = argv
    # Ours end by themselves, when a pipe closes or atexit; ipykernel would wait seconds for those that ignore its signals.
    kernelbase.Kernel._process_children = lambda self: []
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        os._exit(0)  # to take all modules apart one by one would take another second


if __name__ == "__main__":
    main()
