"""The consensus between real processes over torch.distributed's gloo: what is counted is what is sent.

`distributed` starts one process per block of data on this machine. `take_part` is one worker's side, for programs that
made the process group themselves (torchrun, several machines). Rank 0 is worker and server.
"""

import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import SciopsError, UsageError
from sciops.numerics.slim_kl.components import Components
from sciops.numerics.slim_kl.protocol import Consensus, Round, Server, Settings, Worker, record


class WorkersLost(SciopsError):
    """A worker process died or stopped answering."""


def take_part(
    components: Components, y: Float[Tensor, "N R"], noise: float, theta: Float[Tensor, " A"], settings: Settings
) -> Consensus:
    """One worker's rounds in the default process group. Rank 0 returns the whole account, others that of their own
    messages. A peer that dies or exceeds the group's timeout raises WorkersLost.
    """
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    worker = Worker(components, y, noise, theta, settings, rank)
    server = Server(world, theta, settings) if rank == 0 else None
    account: list[Round] = []
    going = True
    while going:
        rho, message = worker.rho, worker.send()
        try:
            if server is not None:
                messages = [message, *(_receive(j) for j in range(1, world))]
                reply = server.combine(messages)
                for j in range(1, world):
                    _send(reply, j)
                account.append(record(messages, reply, server, rho))
            else:
                _send(message, 0)
                reply = _receive(0)
                account.append(Round([4 + len(message)], [4 + len(reply)], float("nan"), float("nan"), rho))
        except (RuntimeError, ValueError) as error:
            told = "did not answer in time" if "imed out" in str(error) else "closed its connection"
            raise WorkersLost(f"Worker {rank} of {world} left in round {len(account) + 1}: a peer {told}.") from error
        going = worker.receive(reply)
    return Consensus(worker.down.value.clamp_min(0.0), account, worker.converged)


def distributed(
    components: list[Components],
    y: list[Float[Tensor, "_ R"]],
    noise: float,
    theta: Float[Tensor, " A"],
    settings: Settings,
    timeout: float = 600.0,
) -> Consensus:
    """One process per block, each on one thread of the CPU: the same bits as `simulate`.

    Processes meet through a file, so no port is chosen; they end with the caller, whatever ends it. A script needs the
    usual `if __name__ == "__main__":` around the call, because new processes import it.
    timeout  seconds that one message may take, the local descent of the sender included
    """
    import multiprocessing
    from multiprocessing.connection import wait

    world = len(y)
    context = multiprocessing.get_context("spawn")
    children: list[BaseProcess] = []
    pipes: list[Connection] = []
    with tempfile.TemporaryDirectory(prefix="sciops-slim-kl-") as folder:
        try:
            for rank, (c, values) in enumerate(zip(components, y, strict=True)):
                ours, theirs = context.Pipe(duplex=False)
                work = pickle.dumps((c, values.clone(), noise, theta, settings))
                where = str(Path(folder) / "store")
                child: BaseProcess = context.Process(
                    target=_child, args=(theirs, work, where, rank, world, timeout), daemon=True
                )
                child.start()
                theirs.close()
                children.append(child)
                pipes.append(ours)
            results: dict[int, tuple[str, Any]] = {}
            while len(results) < world:
                ready = wait([pipe for j, pipe in enumerate(pipes) if j not in results])
                for rank, pipe in enumerate(pipes):
                    if pipe in ready:
                        results[rank] = _report(pipe, children[rank])
                if any(kind != "done" for kind, _ in results.values()):
                    raise _failure(results, pipes, children)
            answer = results[0][1]
            assert isinstance(answer, Consensus)
            return answer
        finally:
            for child in children:
                child.kill()  # harmless for those that have ended; the others have no state worth an orderly end
            for child in children:
                child.join()
            for pipe in pipes:
                pipe.close()


def _child(pipe: Connection, work: bytes, store: str, rank: int, world: int, timeout: float) -> None:
    """One worker's process: result or error go through the pipe, nothing is printed."""
    import multiprocessing

    import torch.distributed as dist

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_after, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        _loopback()
        with _silent():
            dist.init_process_group(
                "gloo",
                store=dist.FileStore(store, world),
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=timeout),
            )
        pipe.send_bytes(pickle.dumps(("done", take_part(*pickle.loads(work)))))
    except WorkersLost as error:
        pipe.send_bytes(pickle.dumps(("lost", str(error))))
    except SciopsError as error:
        pipe.send_bytes(pickle.dumps(("refused", str(error))))
    except Exception as error:
        pipe.send_bytes(pickle.dumps(("failed", f"{type(error).__name__}: {error}")))
    pipe.close()
    os._exit(0)  # an orderly end of the group would wait for peers that may be gone


def _report(pipe: Connection, child: BaseProcess) -> tuple[str, Any]:
    """(done | refused | failed | lost | died, what)."""
    try:
        kind, what = pickle.loads(pipe.recv_bytes())
        return kind, what
    except EOFError:
        child.join()
        return "died", child.exitcode


def _failure(results: dict[int, tuple[str, Any]], pipes: list[Connection], children: list[BaseProcess]) -> SciopsError:
    """The cause, not its echo: peers of a dead worker report lost connections, often before its death is seen."""
    for rank, pipe in enumerate(pipes):
        if rank not in results and pipe.poll(1.0):
            results[rank] = _report(pipe, children[rank])
    world = len(pipes)
    for wanted in ("died", "refused", "failed", "lost"):
        for rank, (kind, what) in sorted(results.items()):
            if kind != wanted:
                continue
            if kind == "died":
                how = f"was killed by signal {-what}" if what < 0 else f"ended with exit code {what}"
                return WorkersLost(
                    f"Worker {rank} of {world} {how} (no memory, or a script without `if __name__ == '__main__':`); "
                    "use fewer points per worker, or processes=False."
                )
            if kind == "refused":
                return UsageError(what)
            if kind == "failed":
                return WorkersLost(f"Worker {rank} of {world} failed with {what}; try processes=False to see where.")
    silent = [str(rank) for rank in range(world) if rank not in results]
    who = f"Worker {', '.join(silent)} of {world} stopped answering" if silent else results[min(results)][1].rstrip(".")
    return WorkersLost(f"{who}; use a longer timeout, or fewer workers than cores.")


def _leave_after(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)


def _loopback() -> None:
    """Let gloo use the loopback interface: machines whose own name does not resolve, or without a network, work too."""
    import socket

    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])


@contextmanager
def _silent() -> Iterator[None]:
    """Gloo reports its connections on stdout and stderr from C++."""
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, before in enumerate(kept, start=1):
            os.dup2(before, number)
            os.close(before)
        os.close(nowhere)


def _send(message: bytes, to: int) -> None:
    import torch.distributed as dist

    dist.send(torch.tensor([len(message)], dtype=torch.int32), to)
    dist.send(torch.frombuffer(bytearray(message), dtype=torch.uint8), to)


def _receive(source: int) -> bytes:
    import torch.distributed as dist

    size = torch.zeros(1, dtype=torch.int32)
    dist.recv(size, source)
    message = torch.zeros(int(size), dtype=torch.uint8)
    dist.recv(message, source)
    return message.numpy().tobytes()
