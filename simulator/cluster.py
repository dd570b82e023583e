"""The same work on many machines: tasks over the workers of a Dask cluster.

Needs the extra `simulator[cluster]`.  A worker that is lost loses only what it was doing: its tasks are given to
others.  A task that takes four workers down with it is reported as an error of that task, and the others go on.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

LOCAL = "local:"
"""Address of a cluster that is started for the run: `local:4` has four worker processes on this machine."""


class ClusterError(Exception):
    """A cluster that cannot be used, in one sentence."""


def _distributed():
    try:
        import distributed
    except ImportError as error:
        raise ClusterError("a cluster needs the extra: pip install 'simulator[cluster]'") from error
    return distributed


def check_address(address: str) -> None:
    """Raise `ClusterError` unless an address is `local:N`, or names a host and a port."""
    count = address.removeprefix(LOCAL)
    if address.startswith(LOCAL) and not (count.isdecimal() and int(count) > 0):
        raise ClusterError(f"the cluster is {address!r}, but a local one is local:N with N >= 1, such as local:2")
    if not address.rpartition(":")[2].isdecimal():
        raise ClusterError(f"the cluster is {address!r}: give local:N, or the scheduler's address as host:port")


def devices_per_worker(address: str, cores: int) -> int:
    """Processor cores of each worker of a local cluster; 0 for another one, which has its own."""
    return max(1, cores // int(address.removeprefix(LOCAL))) if address.startswith(LOCAL) else 0


LOCAL_SETTINGS = {
    # Processes that are spawned, not forked: JAX does not survive a fork.
    "distributed.worker.multiprocessing-method": "spawn",
    # A worker is started again by its nanny.  The cluster would give it up if it is not there a few seconds after it
    # died: also one that was back in between, and has died a second time.
    "distributed.deploy.lost-worker-timeout": "365 days",
}
"""Settings of Dask for workers on this machine."""


@contextmanager
def connect(address: str, cores: int) -> Iterator[Any]:
    """A client of the cluster at `address`; a local one shares this machine's cores among its workers.

    Raises `ClusterError` if there is none.
    """
    check_address(address)
    distributed = _distributed()
    if not address.startswith(LOCAL):
        try:
            client = distributed.Client(address, timeout="10s")
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"no scheduler answers at {address}: start one, or give local:N") from error
        with client:
            yield client
        return
    with (
        _dask_settings(LOCAL_SETTINGS),
        distributed.LocalCluster(
            n_workers=int(address.removeprefix(LOCAL)),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            env={"JAX_NUM_CPU_DEVICES": str(devices_per_worker(address, cores))},
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _dask_settings(settings: dict[str, Any]):
    import dask

    return dask.config.set(settings)


def _outcome(future) -> Any:
    """What a task returned, or the exception it ended in: also that of a worker lost before it could tell.

    Raises `ClusterError` if nobody knows of the task any more.
    """
    try:
        return future.result()
    except (Exception, asyncio.CancelledError) as error:
        if future.status == "error":
            return error
        raise ClusterError("the scheduler of the cluster was lost; finished chunks are saved") from error


PATIENCE = 60.0
"""Seconds after which a run that has heard nothing asks whether there is a worker left to wait for."""


def spread(client, work: Callable[..., Any], tasks: Sequence[tuple]) -> Iterator[tuple[tuple, Any]]:
    """Yield (task, what `work(*task)` returned, or the exception it ended in) as tasks end, in any order.

    Closing the iterator cancels what has not ended.  Raises `ClusterError` if the scheduler is lost, or all workers of
    a local cluster are; those of another one may still be waiting for their turn in a queue.
    """
    distributed = _distributed()
    futures = {client.submit(work, *task, pure=False): task for task in tasks}
    left, deserted = set(futures), False
    try:
        while left:
            try:
                for future in distributed.as_completed(list(left), timeout=PATIENCE):
                    left.discard(future)
                    yield futures[future], _outcome(future)
                    future.release()
            except TimeoutError:
                # Twice in a row: the cluster itself may be about to start one.
                before, deserted = deserted, _is_deserted(client)
                if before and deserted:
                    raise ClusterError(
                        "no worker of the local cluster is left; finished chunks are saved, and the same command "
                        "continues from there"
                    ) from None
    finally:
        if client.status == "running":
            client.cancel(list(futures))


def _is_deserted(client) -> bool:
    """No worker of a local cluster is there, and none is being started."""
    if client.cluster is None or client.scheduler_info(n_workers=-1)["workers"]:
        return False
    return not any(nanny.status.name in ("init", "starting", "running") for nanny in client.cluster.workers.values())
