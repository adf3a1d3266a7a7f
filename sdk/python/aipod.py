#!/usr/bin/env python3
"""aipod's SDK for workers in Python: a class whose methods are functions of a pod.

    import aipod

    class Digits(aipod.Model):
        def load(self, version):
            self.weights = open(self.data_dir / (version or "default"), "rb").read()

        def predict(self, context, path, threshold=0.5):
            "Predicts labels: payload CSV, kwargs threshold=0.5."
            context.progress(1, 2, "steps")
            return {"labels": [...]}

    if __name__ == "__main__":
        aipod.run(Digits)

``server -- python3 digits.py`` serves it, ``python3 digits.py --try predict rows.csv threshold=0.7`` runs one function by hand. A class of the first aipod, which
knows nothing of this module, is served by ``server -- python3 aipod.py model.py``.

One file, standard library only, Python 3.9 or newer. It speaks protocol version 1 of docs/workers.md.

Threads: with one slot, which is the default, all of a model's methods run in the main thread, one after the other. With more (``server --slots``), coroutine functions share one
event loop and other functions run in threads, so that the model has to be safe for concurrent use.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import ctypes
import datetime
import errno
import importlib.util
import inspect
import io
import json
import logging
import os
import pathlib
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

__all__ = ["Cancelled", "Context", "InputError", "LogHandler", "Model", "Output", "VersionNotFound", "current", "makes_version", "run"]
__version__ = "1.0.0"

_PROTOCOL = 1
_NO_FUNCTION, _INVALID, _FAILED, _NO_VERSION, _NO_RESOURCES, _CANCELED = -32601, -32602, -32000, -32001, -32002, -32800
_MAX_VALUE = 1 << 20  # bytes of JSON that go through the socket; more goes into a file
_TELL_BYTES = 8 << 20  # an output is told of at least this often,
_TELL_SECONDS = 0.1  # and at most this often if it grows slowly
_PROGRESS_SECONDS = 0.05
_BEAT_SECONDS = 1.0
_WATCH_SECONDS = 0.05  # between two looks at the socket while a call runs
_THREAD_GRACE = 0.5  # a canceled thread may take so long to notice by itself


class InputError(Exception):
    """The payload or the kwargs are wrong. The text goes to the caller: what is wrong and what to do."""


class VersionNotFound(Exception):
    """There is no such version.

    version: as it was asked for; have: those that are there.
    """

    def __init__(self, version: str, have: Sequence[str] = ()):
        super().__init__(f"version {version!r} does not exist")
        self.have = list(have)


class Cancelled(KeyboardInterrupt):
    """Raised in a function that goes on though nobody wants its result. Let it pass."""


class Model:
    """The base of models; see the module. Override what is needed.

    Public methods that a subclass defines are functions: ``def predict(self, context, path, **kwargs)`` or ``async def``. ``path`` is the payload's file, os.devnull if
    there is none; it is only to be read. The first line of the docstring describes the function to people.

    A function returns a JSON value, bytes (the output), a pathlib.Path (that file is the output), or None if it has written to ``context.output()``.
    """

    version: str = ""  # that this process serves; "" is the default
    slots: int = 1  # calls that run at once, at most
    config: Dict[str, Any] = {}  # of the pod's --worker-config
    data_dir: pathlib.Path = pathlib.Path(".")  # for versions: shared by all processes of the pod, and kept
    work_dir: pathlib.Path = pathlib.Path(".")  # of this process, empty at its start

    def load(self, version: str) -> None:
        """Loads a version before the first call; may be a coroutine function. Raises VersionNotFound."""

    def close(self) -> None:
        """Is called before the process ends in good order."""

    def versions(self) -> Optional[List[str]]:
        """Lists the versions that calls can name, for people; None if the model has none."""
        return None


def makes_version(function: Callable) -> Callable:
    """Marks a method whose calls make the version that they name, such as ``train``, which needs no mark.

    It runs in a process of the default version; processes of the version that it made are started anew.
    """
    function.aipod_makes_version = True
    return function


class _Flag:
    """A truth value that can also be called, as grpc's context.cancelled() is."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = threading.Event()

    def __bool__(self) -> bool:
        return self.event.is_set()

    __call__ = __bool__


_flag_lock = threading.Lock()  # held while a context gets its flag


class Context:
    """What a function knows of its call. Safe for use by all threads of a call.

    job_id: of the job; func: the function; version: as the caller named it; attempt: how often the job was begun, from 1; metadata: the caller's, keys in lower case.
    """

    __slots__ = ("_link", "_params", "_flag", "_out", "_progress", "_told", "_task", "_thread", "_lock", "job_id")

    def __init__(self, link: "_Link", params: Dict[str, Any]) -> None:
        self._link = link
        self._params = params
        self._flag: Optional[_Flag] = None
        self._out: Optional[Output] = None
        self._progress: Optional[Dict[str, Any]] = None  # the last that was not told
        self._told = 0.0
        self._task: Optional[asyncio.Task] = None
        self._thread: Optional[int] = None  # that runs the call
        self._lock: Optional[threading.Lock] = None
        self.job_id: str = params["job_id"]

    func = property(lambda self: self._params["func"])
    version = property(lambda self: self._params.get("version", ""))
    attempt = property(lambda self: self._params.get("attempt", 1))
    metadata = property(lambda self: self._params.get("metadata") or {})

    @property
    def work_dir(self) -> pathlib.Path:
        """A directory for this call: empty at its start, and emptied at its end."""
        return pathlib.Path(self._params["work_dir"])

    @property
    def deadline(self) -> Optional[datetime.datetime]:
        """When the caller gives up, with a time zone; None if nobody has said."""
        text = self._params.get("deadline")
        if not text:
            return None
        head, zone = (text[:-1], "+00:00") if text.endswith("Z") else (text[:-6], text[-6:])
        head, _, fraction = head.partition(".")
        return datetime.datetime.fromisoformat(f"{head}.{(fraction + '000000')[:6]}{zone}")

    def time_remaining(self) -> Optional[float]:
        """Seconds until the deadline, at least 0; None if there is none."""
        deadline = self.deadline
        if deadline is None:
            return None
        return max(0.0, (deadline - datetime.datetime.now(datetime.timezone.utc)).total_seconds())

    def invocation_metadata(self) -> Tuple[Tuple[str, str], ...]:
        """The metadata as grpc's contexts have it: pairs of key and value."""
        return tuple(self.metadata.items())

    @property
    def cancelled(self) -> _Flag:
        """Whether nobody wants the result any more: true in conditions, and callable as grpc's is."""
        if self._flag is None:
            with _flag_lock:
                if self._flag is None:
                    self._flag = _Flag()
        return self._flag

    def wait_cancelled(self, timeout: Optional[float] = None) -> bool:
        """Waits for a cancellation, for some seconds, and says whether it has come."""
        return self.cancelled.event.wait(timeout)

    def progress(self, done: int, total: int = 0, unit: str = "", note: str = "") -> None:
        """Says that done of total units are done; total 0 is unknown. Call it as often as you like."""
        said = {"job_id": self.job_id, "done": int(done), "total": int(total), "unit": str(unit), "note": str(note)}
        now = time.monotonic()
        if now - self._told < _PROGRESS_SECONDS:
            self._progress = said
            return
        self._told, self._progress = now, None
        self._link.notify("progress", said)

    def log(self, line: Any, level: str = "info") -> None:
        """Adds a line to the job's log. level: debug, info, warn or error."""
        self._link.notify("log", {"job_id": self.job_id, "level": level, "line": str(line)})

    def output(self) -> "Output":
        """The job's output: a file to be written from its start, which the caller reads while it grows."""
        if self._out is None:
            self._out = Output(self)
        return self._out

    def _cancel(self) -> None:
        self.cancelled.event.set()

    def _finish(self) -> None:
        """Tells what has been held back."""
        if self._progress is not None:
            self._link.notify("progress", self._progress)
        if self._out is not None:
            self._out.close()


class Output(io.RawIOBase):
    """A job's output. What is written goes to the caller within a moment, flush() sends it now. It can't seek."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._file = open(context._params["output_path"], "wb", buffering=1 << 20)
        self._size = 0  # bytes written
        self._told = 0  # of these
        self._when = time.monotonic()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        """Writes bytes; returns how many, which is all of them."""
        if self.closed:
            raise ValueError("the output is closed")
        n = memoryview(data).nbytes
        self._file.write(data)
        self._size += n
        if self._size - self._told >= _TELL_BYTES or time.monotonic() - self._when >= _TELL_SECONDS:
            self.flush()
        return n

    def flush(self) -> None:
        if self.closed or self._told == self._size:
            return
        self._file.flush()
        self._told, self._when = self._size, time.monotonic()
        self._context._link.notify("output", {"job_id": self._context.job_id, "size": self._size})

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._told = self._size  # the answer tells it
            super().close()


_context: "contextvars.ContextVar[Optional[Context]]" = contextvars.ContextVar("aipod_context", default=None)


def current() -> Optional[Context]:
    """The context of the call that runs here; None outside of calls."""
    return _context.get()


class LogHandler(logging.Handler):
    """A handler of the module logging that writes to the log of the job that runs."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            level = "debug" if record.levelno < 20 else "info" if record.levelno < 30 else "warn" if record.levelno < 40 else "error"
            context = current()
            if context is not None:
                context.log(line, level)
            elif _link is not None:
                _link.notify("log", {"level": level, "line": line})
            else:
                print(line, file=sys.stderr)
        except Exception:
            self.handleError(record)


_link: Optional["_Link"] = None  # to the pod, of the process


def _default(value: Any) -> Any:
    """JSON of what numpy and others have instead of numbers and lists."""
    for name in ("tolist", "item"):
        convert = getattr(value, name, None)
        if callable(convert):
            return convert()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a {type(value).__name__} can't be in a result: JSON has no word for it")


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_default).encode


class _Link:
    """The socket to the pod. Whole lines are written under a lock."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.writing = threading.Lock()
        self.buffer = b""

    def write(self, line: bytes) -> None:
        with self.writing:
            self.sock.sendall(line)

    def notify(self, method: str, params: Dict[str, Any]) -> None:
        self.write(f'{{"jsonrpc":"2.0","method":"{method}","params":{_encode(params)}}}\n'.encode())

    def result(self, id: Any, text: str) -> None:
        self.write(f'{{"jsonrpc":"2.0","id":{id if type(id) is int else _encode(id)},"result":{text}}}\n'.encode())

    def error(self, id: Any, code: int, message: str, data: Any = None) -> None:
        error = {"code": code, "message": message[:64_000]}
        if data is not None:
            error["data"] = data
        self.write(f'{{"jsonrpc":"2.0","id":{_encode(id)},"error":{_encode(error)}}}\n'.encode())

    def feed(self, data: bytes) -> List[bytes]:
        """Makes lines of what was received."""
        if not self.buffer and data.endswith(b"\n") and data.count(b"\n") == 1:
            return [data]
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return lines


class _TryLink(_Link):
    """A link that shows people what a pod would get."""

    def __init__(self) -> None:
        pass

    def notify(self, method: str, params: Dict[str, Any]) -> None:
        if method == "progress":
            total = f" of {params['total']}" if params["total"] else ""
            print(f"progress: {params['done']}{total} {params['unit']} {params['note']}".rstrip(), file=sys.stderr)
        elif method == "log":
            print(f"log: {params['level']}: {params['line']}", file=sys.stderr)


class _Refusal(Exception):
    """An error as the protocol has it."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


def _functions(model: type) -> Dict[str, Callable]:
    """The functions of a class, by name: its public methods."""
    own = {name for name in dir(Model)}
    return {
        name: f
        for name, f in inspect.getmembers(model, inspect.isfunction)
        if not name.startswith("_") and name not in own and name not in ("load", "close", "versions")
    }


def _describe(functions: Dict[str, Callable]) -> List[Dict[str, Any]]:
    return [
        {
            "name": name,
            "doc": (inspect.getdoc(f) or "").partition("\n")[0],
            "makes_version": getattr(f, "aipod_makes_version", name == "train"),
        }
        for name, f in sorted(functions.items())
    ]


def _traceback(error: BaseException) -> str:
    """The traceback of an error, from the first frame on that is not of this module."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb))


def _refusal(error: BaseException, context: Optional[Context] = None) -> _Refusal:
    """What the pod is told of an exception."""
    if isinstance(error, _Refusal):
        return error
    text = str(error)
    if isinstance(error, InputError):
        return _Refusal(_INVALID, text)
    if isinstance(error, VersionNotFound):
        return _Refusal(_NO_VERSION, text, {"versions": error.have})
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)) and (isinstance(error, Cancelled) or context is not None and context.cancelled):
        return _Refusal(_CANCELED, "canceled")
    data = {"traceback": _traceback(error)}
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
        return _Refusal(_NO_RESOURCES, named, data)
    return _Refusal(_FAILED, named, data)


def _check_arguments(error: TypeError, function: Callable) -> None:
    """Raises InputError if kwargs didn't fit a function, which its frame then never saw."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    if tb is None:
        signature = ", ".join(str(p) for p in list(inspect.signature(function).parameters.values())[3:])
        raise InputError(f"{error}; its kwargs are ({signature})") from None


class _Worker:
    """A model and its calls."""

    def __init__(self, model: type) -> None:
        self.model = model
        self.functions = _functions(model)
        if not self.functions:
            raise SystemExit(f"{model.__name__} has no functions: public methods (self, context, path, **kwargs)")
        self.coroutines = {name for name, f in self.functions.items() if inspect.iscoroutinefunction(f)}
        self.makers = {f["name"] for f in _describe(self.functions) if f["makes_version"]}
        self.instance: Any = None
        self.methods: Dict[str, Callable] = {}
        self.told_versions: Optional[List[str]] = None
        self.loop: Optional[asyncio.AbstractEventLoop] = None

    def event_loop(self) -> asyncio.AbstractEventLoop:
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        return self.loop

    def load(self, params: Dict[str, Any]) -> None:
        try:
            inspect.signature(self.model).bind()
        except TypeError as e:
            raise _Refusal(_FAILED, f"{self.model.__name__} can't be made without arguments: {e}") from None
        except ValueError:
            pass  # a class of C
        self.instance = instance = self.model.__new__(self.model)
        if isinstance(instance, Model):
            # Before __init__, which may need them.
            instance.version, instance.slots, instance.config = params["version"], params["slots"], params.get("config") or {}
            instance.data_dir, instance.work_dir = pathlib.Path(params["data_dir"]), pathlib.Path(params["work_dir"])
        instance.__init__()
        self.methods = {name: getattr(instance, name) for name in self.functions}
        load = getattr(instance, "load", None)
        if isinstance(instance, Model) or callable(load) and len(inspect.signature(load).parameters) == 1:
            result = load(params["version"])
            if inspect.iscoroutine(result):
                self.event_loop().run_until_complete(result)

    def versions(self) -> Optional[List[str]]:
        if not isinstance(self.instance, Model):
            return None
        versions = self.instance.versions()
        return None if versions is None else [str(v) for v in versions]

    def initialize(self, link: _Link, id: Any, params: Dict[str, Any]) -> bool:
        """Answers initialize; says whether the model is loaded."""
        try:
            if params.get("protocol") != _PROTOCOL:
                raise _Refusal(_FAILED, f"this SDK speaks protocol {_PROTOCOL}, not {params.get('protocol')}")
            self.load(params)
            answer: Dict[str, Any] = {"model": self.model.__name__, "functions": _describe(self.functions)}
            self.told_versions = self.versions()
            if self.told_versions is not None:
                answer["versions"] = self.told_versions
        except BaseException as e:
            refusal = _refusal(e)
            link.error(id, refusal.code, refusal.message, refusal.data)
            return False
        link.result(id, _encode(answer))
        return True

    def begin(self, context: Context, params: Dict[str, Any]) -> Any:
        """Calls the function: its result, or a coroutine."""
        method = self.methods.get(params["func"])
        if method is None:
            raise _Refusal(_NO_FUNCTION, f"there is no function {params['func']!r}")
        source = params.get("input")
        try:
            return method(context, source["path"] if source else os.devnull, **params["kwargs"])
        except TypeError as e:
            _check_arguments(e, self.functions[params["func"]])
            raise

    def answer(self, context: Context, value: Any) -> str:
        """The result of a call as JSON of the protocol."""
        context._finish()
        path = context._params["output_path"]
        if context._out is not None:
            if value is not None:
                raise TypeError(f"the function has written an output, and returned a {type(value).__name__} as well")
            return f'{{"output_size":{context._out._size}}}'
        if isinstance(value, (bytes, bytearray, memoryview)):
            with open(path, "wb") as f:
                f.write(value)
            return f'{{"output_size":{memoryview(value).nbytes}}}'
        if isinstance(value, pathlib.Path):
            if value.resolve().parent == context.work_dir.resolve():
                os.replace(value, path)
            else:
                shutil.copyfile(value, path)
            return f'{{"output_size":{os.path.getsize(path)}}}'
        try:
            text = _encode(value)
        except ValueError as e:
            raise ValueError(f"the result can't be JSON: {e}") from None
        if len(text) <= _MAX_VALUE:
            return f'{{"value":{text}}}'
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        return f'{{"output_size":{len(text)},"output_json":true}}'

    def made(self, link: _Link, func: str) -> None:
        """Tells of versions that a function has made."""
        if func not in self.makers:
            return
        versions = self.versions()
        if versions != self.told_versions and versions is not None:
            self.told_versions = versions
            link.notify("versions", {"versions": versions})

    def reply(self, link: _Link, id: Any, context: Context, outcome: Callable[[], Any]) -> None:
        """Answers a call with what outcome returns or raises."""
        try:
            value = outcome()
            text = self.answer(context, value)
            self.made(link, context.func)
        except BaseException as e:
            try:
                context._finish()
            except OSError:
                pass  # the error that there is says more
            refusal = _refusal(e, context)
            link.error(id, refusal.code, refusal.message, refusal.data)
            return
        link.result(id, text)

    def close(self) -> None:
        close = getattr(self.instance, "close", None)
        if isinstance(self.instance, Model) and callable(close):
            close()


class _Single:
    """Calls one after the other, in the main thread.

    The main thread reads the socket itself, so that a small call takes no hand-over between threads. While a call runs, another thread looks at the socket now and then.
    """

    def __init__(self, worker: _Worker, link: _Link) -> None:
        self.worker, self.link = worker, link
        self.reading = threading.Lock()  # held by who reads the socket
        self.lines: "collections.deque[bytes]" = collections.deque()  # read, not handled
        self.context: Optional[Context] = None  # of the call that runs
        self.interruptible = False  # the function runs, and nothing else

    def run(self) -> None:
        signal.signal(signal.SIGINT, self.interrupt)
        threading.Thread(target=self.watch, name="aipod", daemon=True).start()
        recv, feed, lines, loads = self.link.sock.recv, self.link.feed, self.lines, json.loads
        while True:
            with self.reading:
                while not lines:
                    data = recv(65536)
                    if not data:
                        return
                    lines.extend(feed(data))
                request = loads(lines.popleft().decode())
            method = request["method"]
            if method == "call":
                self.call(request["id"], request["params"])
            elif method == "shutdown":
                self.worker.close()
                return

    def call(self, id: Any, params: Dict[str, Any]) -> None:
        context = Context(self.link, params)
        token = _context.set(context)
        self.context = context
        try:
            self.worker.reply(self.link, id, context, lambda: self.function(context, params))
        finally:
            self.context = None
            _context.reset(token)

    def function(self, context: Context, params: Dict[str, Any]) -> Any:
        try:
            self.interruptible = True
            value = self.worker.begin(context, params)
            if inspect.iscoroutine(value):
                return self.coroutine(context, value)
            return value
        finally:
            self.interruptible = False

    def coroutine(self, context: Context, coroutine: Any) -> Any:
        loop = self.worker.event_loop()
        context._task = task = loop.create_task(coroutine)
        if context._flag is not None and context.cancelled:
            task.cancel()  # it came before there was a task
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            self.interruptible = False
            task.cancel()
            try:
                loop.run_until_complete(task)
            except BaseException:
                pass  # of a task that is to end
            raise

    def interrupt(self, signum: int, frame: Any) -> None:
        if self.interruptible:
            raise Cancelled()
        if self.context is None:
            os._exit(0)

    def watch(self) -> None:
        """Looks for cancellations while a call runs, and tells the pod that the interpreter lives."""
        sock, beaten, watched = self.link.sock, 0.0, None
        while True:
            time.sleep(_WATCH_SECONDS)
            context = self.context
            if context is None or context is not watched:
                watched, beaten = context, time.monotonic()
                continue
            if self.reading.acquire(blocking=False):
                try:
                    while select.select([sock], [], [], 0)[0]:
                        data = sock.recv(65536, socket.MSG_DONTWAIT)
                        if not data:
                            os._exit(1)  # the pod is gone
                        for line in self.link.feed(data):
                            self.look(line)
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError:
                    os._exit(1)
                finally:
                    self.reading.release()
            if time.monotonic() - beaten >= _BEAT_SECONDS:
                beaten = time.monotonic()
                self.link.notify("beat", {})

    def look(self, line: bytes) -> None:
        request = json.loads(line.decode())
        context = self.context
        if request["method"] != "cancel":
            self.lines.append(line)
        elif context is not None and request["params"]["job_id"] == context.job_id:
            context._cancel()
            task, loop = context._task, self.worker.loop
            if task is not None and loop is not None:
                loop.call_soon_threadsafe(task.cancel)


class _Concurrent:
    """Calls at the same time: coroutines on the main thread's loop, other functions in threads."""

    def __init__(self, worker: _Worker, link: _Link, slots: int) -> None:
        self.worker, self.link = worker, link
        self.pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="aipod")
        self.calls: Dict[str, Context] = {}
        self.loop = worker.event_loop()
        self.ended = self.loop.create_future()

    def run(self) -> None:
        signal.signal(signal.SIGINT, lambda signum, frame: None if self.calls else os._exit(0))
        self.link.sock.setblocking(True)  # for those who write
        self.loop.add_reader(self.link.sock.fileno(), self.read)
        self.loop.call_later(_BEAT_SECONDS, self.beat)
        self.loop.run_until_complete(self.ended)

    def read(self) -> None:
        try:
            data = self.link.sock.recv(65536, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            os._exit(1 if self.calls else 0)  # the pod is gone
        for line in self.link.feed(data):
            request = json.loads(line.decode())
            method, params = request["method"], request.get("params") or {}
            if method == "call":
                self.call(request["id"], params)
            elif method == "cancel":
                self.cancel(params["job_id"])
            elif method == "shutdown" and not self.ended.done():
                self.worker.close()
                self.ended.set_result(None)

    def beat(self) -> None:
        if self.calls:
            self.link.notify("beat", {})
        self.loop.call_later(_BEAT_SECONDS, self.beat)

    def call(self, id: Any, params: Dict[str, Any]) -> None:
        context = Context(self.link, params)
        context._lock = threading.Lock()
        self.calls[context.job_id] = context
        if params["func"] in self.worker.coroutines:
            context._task = self.loop.create_task(self.coroutine(id, context, params))
        else:
            self.pool.submit(self.thread, id, context, params)

    def end(self, context: Context) -> None:
        if self.calls.get(context.job_id) is context:
            del self.calls[context.job_id]

    async def coroutine(self, id: Any, context: Context, params: Dict[str, Any]) -> None:
        _context.set(context)
        try:
            value, error = await self.worker.begin(context, params), None
        except BaseException as e:
            value, error = None, e

        def outcome() -> Any:
            if error is not None:
                raise error
            return value

        self.end(context)  # before the pod knows, which may send the next one then
        self.worker.reply(self.link, id, context, outcome)

    def thread(self, id: Any, context: Context, params: Dict[str, Any]) -> None:
        _context.set(context)

        def outcome() -> Any:
            try:
                context._thread = threading.get_ident()
                value = self.worker.begin(context, params)
                if inspect.iscoroutine(value):
                    return asyncio.run_coroutine_threadsafe(value, self.loop).result()
                return value
            finally:
                with context._lock:  # from here on nothing is raised in this thread
                    context._thread = None
                self.end(context)

        try:
            self.worker.reply(self.link, id, context, outcome)
        except Cancelled:
            self.link.error(id, _CANCELED, "canceled")  # it came a moment too late
        finally:
            _context.set(None)

    def cancel(self, job_id: str) -> None:
        context = self.calls.get(job_id)
        if context is None:
            return
        context._cancel()
        if context._task is not None:
            context._task.cancel()
        else:
            self.loop.call_later(_THREAD_GRACE, self.raise_in, context)

    def raise_in(self, context: Context) -> None:
        """Raises Cancelled in a thread that has not noticed by itself."""
        with context._lock:
            if context._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(context._thread), ctypes.py_object(Cancelled))


def _serve(worker: _Worker, fd: int) -> int:
    global _link
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    _link = link = _Link(socket.socket(fileno=fd))
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, handlers=[LogHandler()], format="%(name)s: %(message)s")
    lines: List[bytes] = []
    while not lines:
        data = link.sock.recv(65536)
        if not data:
            return 1
        lines = link.feed(data)
    request = json.loads(lines[0].decode())
    if request.get("method") != "initialize":
        print(f"aipod: the pod begins with {request.get('method')}, not with initialize", file=sys.stderr)
        return 1
    if not worker.initialize(link, request["id"], request["params"]):
        return 1
    slots = int(request["params"].get("slots", 1))
    if slots > 1:
        _Concurrent(worker, link, slots).run()
    else:
        _Single(worker, link).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that run on, of canceled calls for instance, don't hold it up


def _try(worker: _Worker, arguments: List[str]) -> int:
    """Runs one function by hand."""
    import argparse

    parser = argparse.ArgumentParser(prog=f"{sys.argv[0]} --try", description="Runs one function of the model, without a pod.")
    parser.add_argument("func")
    parser.add_argument("file", nargs="?", help="the payload; - is standard input")
    parser.add_argument("kwargs", nargs="*", metavar="key=value", help="the value is JSON, or else a string")
    parser.add_argument("--version", default="")
    parser.add_argument("--data-dir", default=".", help="where the versions are")
    args = parser.parse_args(arguments)
    if args.file is not None and "=" in args.file and not os.path.exists(args.file):
        args.file, args.kwargs = None, [args.file, *args.kwargs]
    kwargs = {}
    for pair in args.kwargs:
        key, equals, text = pair.partition("=")
        if not equals:
            parser.error(f"{pair!r} is not key=value")
        try:
            kwargs[key] = json.loads(text)
        except ValueError:
            kwargs[key] = text
    with tempfile.TemporaryDirectory() as work:
        path = args.file
        if path == "-":
            path = os.path.join(work, "input")
            with open(path, "wb") as f:
                shutil.copyfileobj(sys.stdin.buffer, f)
        elif path is not None and not os.path.exists(path):
            parser.error(f"there is no file {path!r}")
        params = {
            "job_id": "try", "func": args.func, "version": args.version, "kwargs": kwargs, "attempt": 1, "metadata": {},
            "input": {"path": path, "size": os.path.getsize(path)} if path and os.path.getsize(path) else None,
            "output_path": os.path.join(work, "output"), "work_dir": work,
        }
        context = Context(_TryLink(), params)
        token = _context.set(context)
        try:
            version = "" if args.func in worker.makers else args.version
            worker.load({"version": version, "slots": 1, "config": {}, "data_dir": args.data_dir, "work_dir": work})
            value = worker.begin(context, params)
            if inspect.iscoroutine(value):
                value = worker.event_loop().run_until_complete(value)
            answer = json.loads(worker.answer(context, value))
        except BaseException as e:
            refusal = _refusal(e, context)
            if refusal.data and "traceback" in refusal.data:
                print(refusal.data["traceback"], end="", file=sys.stderr)
            print(f"{sys.argv[0]}: {refusal.message}", file=sys.stderr)
            return 1
        finally:
            _context.reset(token)
        if "output_size" not in answer:
            print(json.dumps(answer["value"], indent=2, ensure_ascii=False))
            return 0
        with open(params["output_path"], "rb") as f:
            shutil.copyfileobj(f, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return 0


def run(model: type) -> None:
    """Serves a class as a pod's worker, and ends the process then.

    model: a subclass of Model, or any class that can be made without arguments. Started by hand, it says how to serve the model; ``--list`` lists its functions, and
    ``--try FUNC [FILE|-] [key=value …]`` runs one.
    """
    worker = _Worker(model)
    fd = os.environ.get("AIPOD_FD")
    if fd is not None:
        sys.exit(_serve(worker, int(fd)))
    if sys.argv[1:2] == ["--try"]:
        sys.exit(_try(worker, sys.argv[2:]))
    if sys.argv[1:2] == ["--list"]:
        for f in _describe(worker.functions):
            print(f"{f['name']:16} {f['doc']}".rstrip())
        sys.exit(0)
    command = " ".join(["python3", *sys.argv[:1]])
    print(
        f"{model.__name__} is a model of an aipod pod, which starts this program by itself:\n"
        f"    server -- {command}\n"
        f"To try a function by hand:\n"
        f"    {command} --list\n"
        f"    {command} --try FUNC [FILE|-] [key=value ...]",
        file=sys.stderr,
    )
    sys.exit(2)


def _find(name: str) -> type:
    """The class that FILE[:CLASS] names."""
    path, _, wanted = name.partition(":")
    file = pathlib.Path(path).resolve()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.exists():
        raise SystemExit(f"aipod: {path!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.parent))
    spec.loader.exec_module(module)
    classes = {n: c for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__}
    if wanted:
        if wanted not in classes:
            raise SystemExit(f"aipod: {path} has no class {wanted!r}, it has: {', '.join(classes) or 'none'}")
        return classes[wanted]
    found = [c for c in classes.values() if issubclass(c, Model)] or [c for n, c in classes.items() if n == "Model"]
    found = found or [c for c in classes.values() if _functions(c)]
    if len(found) != 1:
        raise SystemExit(f"aipod: which class of {path} is the model? Say {path}:CLASS, one of: {', '.join(classes) or 'none'}")
    return found[0]


if __name__ == "__main__":
    sys.modules["aipod"] = sys.modules["__main__"]  # for models that import it
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print("usage: aipod.py FILE[:CLASS] [--list | --try FUNC [FILE|-] [key=value ...]]", file=sys.stderr)
        sys.exit(2)
    sys.argv[:2] = [" ".join(sys.argv[:2])]
    run(_find(sys.argv[0].split(" ", 1)[1]))
