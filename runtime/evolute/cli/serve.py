"""`evolute dev` and `evolute serve`: one process that opens the backend, listens, and ends in good order.

SIGINT or SIGTERM ► stop accepting ► finish and answer what runs, at most `shutdown_ms_max` ► close the sockets, so
that clients reconnect ► close the backend ► exit 0.        A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evolute import garbage_collector
from evolute.config import Config
from evolute.execution.process_starter import ProcessStarter
from evolute.registry.source_folder import package_fault

if TYPE_CHECKING:
    import uvicorn

    from evolute.backend import Backend
    from evolute.server.websocket import SyncEndpoint

EXIT_INTERRUPTED = 130


def serve_forever(config: Config) -> None:
    """Returns when the server has ended in good order. Mistakes of the user raise ClickException with one line."""
    _check_folder(config)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # what a save led to is shown, not that there was one
    with (
        _listen(config.host, config.port) as listener,
        closing(ProcessStarter()) as processes,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(_serve(config, listener, processes))


async def _serve(config: Config, listener: socket.socket, processes: ProcessStarter) -> None:
    stopping = _on_signals()
    processes.start_ahead(config.workers)
    # Half of the imports come while the workers import theirs, the half that the backend does not need while they load.
    from evolute.backend import Backend
    from evolute.cli.terminal import show_banner, show_call, show_progress, show_reload

    backend = Backend(config, processes=processes, on_progress=show_progress)
    loop = asyncio.get_running_loop()
    starting = loop.create_task(backend.start())
    importing = loop.run_in_executor(None, importlib.import_module, "evolute.server.app")
    stopping.add_done_callback(lambda _: starting.cancel())
    try:
        fault = await starting
    except asyncio.CancelledError:
        return
    try:
        await importing
        from evolute.server.app import build_server, create_app
        from evolute.server.auth import read_or_create_admin_key

        admin_key = read_or_create_admin_key(backend.data_folder.admin_key_path)
        app = create_app(backend, admin_key)
        server = build_server(app, config)
        url = f"http://{config.host}:{listener.getsockname()[1]}"
        if config.development:
            backend.call_log.listen(show_call)
        garbage_collector.search_seldom()
        listener.listen()  # before the banner: who reads the address may connect at once
        show_banner(config, url, str(backend.data_folder.admin_key_path), backend.report)
        if fault is not None:
            show_reload(fault)
        serving = loop.create_task(server.serve(sockets=[listener]))
        watching = _watch(backend) if config.development else None
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if watching is not None:
            watching.cancel()
        await _end(server, serving, backend, app.state.sync)
    finally:
        await backend.stop()


async def _end(server: uvicorn.Server, serving: asyncio.Task[None], backend: Backend, sync: SyncEndpoint) -> None:
    for asyncio_server in getattr(server, "servers", ()):  # there are none if it had no time to begin
        asyncio_server.close()
    timeout_ms = backend.config.limits.shutdown_ms_max
    await asyncio.gather(sync.finish(timeout_ms), backend.executor.drain(timeout_ms))
    server.should_exit = True
    await serving


def _watch(backend: Backend) -> asyncio.Task[None]:
    from evolute.cli.terminal import show_reload

    return asyncio.get_running_loop().create_task(backend.watch(show_reload))


def _on_signals() -> asyncio.Future[None]:
    """A future that the first signal resolves; the second one ends the process."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def on_signal() -> None:
        if stopping.done():
            os._exit(EXIT_INTERRUPTED)
        stopping.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stopping


def _check_folder(config: Config) -> None:
    folder = config.functions_folder
    if not folder.is_dir():
        raise click.ClickException(f"there is no functions folder at {folder}; name one with --functions")
    fault = package_fault(folder.absolute().name)
    if fault is not None:
        raise click.ClickException(f"the functions folder {folder.absolute()} is imported as a package, but {fault}")
    if config.static_folder is not None:
        _check_static(config.static_folder, private=[folder, config.data_folder])


def _check_static(folder: Path, private: list[Path]) -> None:
    if not folder.is_dir():
        raise click.ClickException(f"there is no folder {folder} to serve; name one with --static, or build the page")
    if not (folder / "index.html").is_file():
        raise click.ClickException(f"there is no index.html in {folder}; build the page, or name another with --static")
    for each in private:
        if each.resolve().is_relative_to(folder.resolve()):
            raise click.ClickException(
                f"{each} is inside {folder}, which everybody may read; serve a folder without it"
            )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # Now, because two servers may bind one port until one of them listens.
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise click.ClickException(f"port {port} is in use on {host}; choose another with --port") from None
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
