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
import math
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import typing
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

__all__ = ["Cancelled", "Context", "InputError", "LogHandler", "Model", "Output", "VersionNotFound", "current", "makes_version", "payload", "run"]
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
_LATE_SECONDS = 1.0  # after a canceled call the signal that was meant for it may still come
_MAX_LINE = 64 << 10  # characters of a log line and of a traceback
_MAX_TEXT = 8 << 10  # characters of an error's message and of a progress's texts
_PLAIN = frozenset((dict, list, tuple, str, int, float, bool, type(None)))


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


def payload(media_type: str) -> Callable[[Callable], Callable]:
    """Says of what media type a method's payload is: "text/csv", "image/*", "none" for no payload at all. Forms go by it; nothing checks it."""

    def mark(function: Callable) -> Callable:
        function.aipod_payload = media_type
        return function

    return mark


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
        said = {"job_id": self.job_id, "done": int(done), "total": int(total), "unit": str(unit)[:_MAX_TEXT], "note": str(note)[:_MAX_TEXT]}
        with self._link.shield, self._link.telling:
            self._progress = said
            self._tell(_PROGRESS_SECONDS)

    def log(self, line: Any, level: str = "info") -> None:
        """Adds a line to the job's log. level: debug, info, warn or error."""
        self._link.log({"job_id": self.job_id}, line, level)

    def output(self) -> "Output":
        """The job's output: a file to be written from its start, which the caller reads while it grows."""
        if self._out is None:
            self._out = Output(self)
        return self._out

    def _cancel(self) -> None:
        self.cancelled.event.set()

    def _tell(self, seconds: float) -> None:
        """Tells the last progress if none was told for some seconds. The caller holds link.telling."""
        now = time.monotonic()
        if self._progress is not None and now - self._told >= seconds:
            self._link.notify("progress", self._progress)
            self._told, self._progress = now, None

    def _tick(self) -> None:
        """Is called now and then while the call runs: tells what has been held back."""
        if self._progress is not None:
            with self._link.telling:
                self._tell(_PROGRESS_SECONDS)

    def _finish(self) -> None:
        """Tells what has been held back."""
        if self._progress is not None:
            with self._link.telling:
                self._tell(0)
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
                _link.log({}, line, level)
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


def _fault(value: Any, at: str = "the result", above: Tuple[int, ...] = ()) -> str:
    """Says which part of a value JSON has no word for; "" if it finds none."""
    if value is None or isinstance(value, (str, int)):
        return ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{at} is {value}, and JSON has no such number"
    if id(value) in above:
        return f"{at} contains itself"
    if len(above) > 300:
        return "the result is nested too deeply"
    above += (id(value),)
    if isinstance(value, dict):
        for key, item in value.items():
            if key is not None and not isinstance(key, (str, int, float)):
                return f"{at} has a key of type {type(key).__name__}, and keys of JSON are text"
            fault = _fault(item, f"{at}[{key!r}]", above)
            if fault:
                return fault
        return ""
    if isinstance(value, (list, tuple)):
        return next(filter(None, (_fault(item, f"{at}[{n}]", above) for n, item in enumerate(value))), "")
    try:
        plain = _default(value)
    except Exception:
        return f"{at}: a {type(value).__name__} can't be in a result: JSON has no word for it"
    return _fault(plain, at, above)


class _Shield:
    """Holds SIGINT back in the main thread while it writes: half a line would be the end of the process."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.depth = 0
        self.late: Optional[Callable[[], None]] = None  # what the signal would have done

    def __enter__(self) -> None:
        if threading.get_ident() == self.thread:
            self.depth += 1

    def __exit__(self, *_: Any) -> None:
        if threading.get_ident() == self.thread:
            self.depth -= 1
            if self.depth == 0 and self.late is not None:
                late, self.late = self.late, None
                late()


class _Link:
    """The socket to the pod. Whole lines are written under a lock."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.writing = threading.Lock()
        self.telling = threading.Lock()  # keeps progress in order
        self.shield = _Shield()
        self.parts: List[bytes] = []  # of a line that has not ended
        self.forked = False
        os.set_inheritable(sock.fileno(), False)
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Takes the socket from a process that the model has forked: the pod speaks with one."""
        self.forked = True
        self.writing, self.telling = threading.Lock(), threading.Lock()
        self.sock.close()

    def write(self, line: bytes) -> None:
        try:
            with self.writing:
                self.sock.sendall(line)
        except OSError:
            if not self.forked:
                _exit(1)  # the pod is gone

    def receive(self, flags: int = 0) -> List[Dict[str, Any]]:
        """The messages that one read completes. BlockingIOError with MSG_DONTWAIT if there is nothing; the end of the socket is that of the process."""
        try:
            data = self.sock.recv(65536, flags)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        if not data:
            _exit(0)
        return [_decode(line.decode())[0] for line in self.feed(data)]

    def log(self, job: Dict[str, str], text: Any, level: str) -> None:
        """A log notification for each line of a text."""
        level = _LEVELS.get(str(level).lower(), "info")
        lines = str(text).splitlines() or [""]
        notes = [{**job, "level": level, "line": line[:_MAX_LINE]} for line in lines]
        with self.shield:
            self.write("".join(f'{{"jsonrpc":"2.0","method":"log","params":{_encode(note)}}}\n' for note in notes).encode())

    def notify(self, method: str, params: Dict[str, Any]) -> None:
        with self.shield:
            self.write(f'{{"jsonrpc":"2.0","method":"{method}","params":{_encode(params)}}}\n'.encode())

    def result(self, id: Any, text: str) -> None:
        self.write(f'{{"jsonrpc":"2.0","id":{id if type(id) is int else _encode(id)},"result":{text}}}\n'.encode())

    def error(self, id: Any, code: int, message: str, data: Any = None) -> None:
        error = {"code": code, "message": message}
        if data is not None:
            error["data"] = data
        self.write(f'{{"jsonrpc":"2.0","id":{_encode(id)},"error":{_encode(error)}}}\n'.encode())

    def feed(self, data: bytes) -> List[bytes]:
        """Makes lines of what was received."""
        if not self.parts and data.endswith(b"\n") and data.count(b"\n") == 1:
            return [data]
        head, newline, rest = data.rpartition(b"\n")
        if not newline:
            self.parts.append(rest)
            return []
        lines = b"".join([*self.parts, head]).split(b"\n")
        self.parts = [rest] if rest else []
        return lines


def _exit(status: int) -> None:
    """Ends the process at once, whatever its threads do."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    os._exit(status)


_decode = json.JSONDecoder().raw_decode
_LEVELS = {"debug": "debug", "info": "info", "warn": "warn", "warning": "warn", "error": "error", "critical": "error", "fatal": "error"}


class _TryLink(_Link):
    """A link that shows people what a pod would get."""

    def __init__(self) -> None:
        self.telling, self.shield = threading.Lock(), _Shield()

    def log(self, job: Dict[str, str], text: Any, level: str) -> None:
        for line in str(text).splitlines() or [""]:
            print(f"log: {_LEVELS.get(str(level).lower(), 'info')}: {line}", file=sys.stderr)

    def notify(self, method: str, params: Dict[str, Any]) -> None:
        if method == "progress":
            total = f" of {params['total']}" if params["total"] else ""
            print(f"progress: {params['done']}{total} {params['unit']} {params['note']}".rstrip(), file=sys.stderr)


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
        for name, f in inspect.getmembers(model, inspect.isroutine)
        if not name.startswith("_") and name not in own and name not in ("load", "close", "versions")
    }


def _drops_version(function: Callable) -> bool:
    """Whether a version in the kwargs, which has picked the process already, is none of the function's."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return not any(p.name == "version" or p.kind is p.VAR_KEYWORD for p in parameters)


_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


def _schema_of(hint: Any) -> Dict[str, Any]:
    """The JSON Schema of a type hint; of what it doesn't know, that of anything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is typing.Union and len(arguments) == 2 and type(None) in arguments:  # Optional
        return _schema_of(next(a for a in arguments if a is not type(None)))
    if origin is list and arguments:
        return {"type": "array", "items": _schema_of(arguments[0])}
    kind = _JSON_TYPES.get(origin or hint)
    return {"type": kind} if kind else {}


def _kwargs_schema(function: Callable) -> Optional[Dict[str, Any]]:
    """The JSON Schema of a function's kwargs, by its signature; None if that names none, but takes any."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[3:]  # self, context, path
    except (TypeError, ValueError):
        return None
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # hints are for people, and may be anything
        hints = {}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "version"]
    if not named and any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    properties, required = {}, []
    for p in named:
        default = None if p.default is p.empty else p.default
        properties[p.name] = _schema_of(hints[p.name] if p.name in hints else type(default))
        if p.default is p.empty:
            required.append(p.name)
        elif isinstance(default, (str, int)) or isinstance(default, float) and math.isfinite(default):
            properties[p.name]["default"] = default
    return {"type": "object", "properties": properties, "required": required}


def _describe(functions: Dict[str, Callable]) -> List[Dict[str, Any]]:
    described = []
    for name, f in sorted(functions.items()):
        one = {
            "name": name,
            "doc": (inspect.getdoc(f) or "").partition("\n")[0],
            "makes_version": getattr(f, "aipod_makes_version", name == "train"),
            "payload": getattr(f, "aipod_payload", ""),
        }
        schema = _kwargs_schema(f)
        if schema is not None:
            one["kwargs"] = schema
        described.append(one)
    return described


def _traceback(error: BaseException) -> str:
    """The traceback of an error, from the first frame on that is not of this module."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, tb))[-_MAX_LINE:]
    except Exception as e:
        return f"the traceback can't be shown: {type(e).__name__}"


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        return "its text can't be shown"
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def _refusal(error: BaseException, context: Optional[Context] = None) -> _Refusal:
    """What the pod is told of an exception."""
    if isinstance(error, _Refusal):
        return error
    text = _text(error)
    if isinstance(error, InputError):
        return _Refusal(_INVALID, text)
    if isinstance(error, VersionNotFound):
        return _Refusal(_NO_VERSION, text, {"versions": error.have})
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)) and context is not None and context.cancelled:
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
        self.drops = {name for name, f in self.functions.items() if _drops_version(f)}
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
        source, kwargs = params.get("input"), params["kwargs"]
        if "version" in kwargs and params["func"] in self.drops:
            del kwargs["version"]
        try:
            return method(context, source["path"] if source else os.devnull, **kwargs)
        except TypeError as e:
            _check_arguments(e, self.functions[params["func"]])
            raise

    def answer(self, context: Context, value: Any) -> str:
        """The result of a call as JSON of the protocol."""
        context._finish()
        path = context._params["output_path"]
        if context._out is not None:
            if value is not None and value is not context._out:
                raise TypeError(f"the function has written an output, and returned a {type(value).__name__} as well")
            return f'{{"output_size":{context._out._size}}}'
        if type(value) in _PLAIN:
            return self.json(path, value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            with open(path, "wb") as f:
                f.write(value)
            return f'{{"output_size":{memoryview(value).nbytes}}}'
        if isinstance(value, pathlib.Path):
            source, given = value.resolve(), context._params.get("input")
            if context.work_dir.resolve() in source.parents and not (given and os.path.samefile(given["path"], source)):
                os.replace(source, path)
            else:
                shutil.copyfile(source, path)
            return f'{{"output_size":{os.path.getsize(path)}}}'
        return self.json(path, value)

    def json(self, path: str, value: Any) -> str:
        try:
            text = _encode(value)
        except (TypeError, ValueError, RecursionError) as e:
            raise type(e)(f"the result can't be JSON: {_fault(value) or e}") from None
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
            except (OSError, ValueError):
                pass  # the error that there is says more
            refusal = _refusal(e, context)
            link.error(id, refusal.code, refusal.message, refusal.data)
            return
        link.result(id, text)

    def close(self) -> None:
        close = getattr(self.instance, "close", None)
        if isinstance(self.instance, Model) and callable(close):
            close()


class _Server:
    """What has the socket. The main thread runs the calls; another one, watch, looks at the socket while it is busy."""

    def __init__(self, worker: _Worker, link: _Link) -> None:
        self.worker, self.link = worker, link
        self.reading = threading.Lock()  # held by who reads the socket
        self.queue: "collections.deque[Dict[str, Any]]" = collections.deque()  # messages that were read, and not handled
        self.loading = True
        self.quiet = 0.0  # until then a SIGINT may have been for a call that has ended
        signal.signal(signal.SIGINT, self.signaled)
        threading.Thread(target=self.watch, name="aipod-watch", daemon=True).start()

    def running(self) -> List[Context]:
        raise NotImplementedError

    def interrupt(self) -> None:
        """SIGINT, in the main thread."""
        raise NotImplementedError

    def signaled(self, signum: int, frame: Any) -> None:
        if self.link.shield.depth:
            self.link.shield.late = self.interrupt
        else:
            self.interrupt()

    def quit(self) -> None:
        if time.monotonic() >= self.quiet:
            _exit(0)

    def take(self, messages: List[Dict[str, Any]]) -> None:
        """The caller holds reading."""
        for message in messages:
            if message.get("method") == "cancel":
                self.cancel(message["params"]["job_id"])
            else:
                self.queue.append(message)

    def cancel(self, job_id: str) -> None:
        for context in self.running():
            if context.job_id == job_id:
                self.cancel_call(context)
                return
        for message in self.queue:  # which has not begun
            if message.get("method") == "call" and message["params"]["job_id"] == job_id:
                message["canceled"] = True

    def cancel_call(self, context: Context) -> None:
        context._cancel()
        if context._task is not None:
            self.worker.event_loop().call_soon_threadsafe(self.cancel_task, context)

    def cancel_task(self, context: Context) -> None:
        if context._task is not None:
            context._task.cancel()

    def ended(self, context: Context) -> None:
        if context._flag is not None and context.cancelled:
            self.quiet = time.monotonic() + _LATE_SECONDS

    def refuse(self, message: Dict[str, Any]) -> None:
        if message.get("id") is not None:
            self.link.error(message["id"], _NO_FUNCTION, f"the worker knows no method {message.get('method')!r}")

    def peek(self) -> None:
        """Takes what has come, unless somebody else reads."""
        if self.reading.acquire(blocking=False):
            try:
                while True:
                    self.take(self.link.receive(socket.MSG_DONTWAIT))
            except BlockingIOError:
                pass
            finally:
                self.reading.release()

    def watch(self) -> None:
        """Looks for cancellations and the end of the pod, and tells that the interpreter lives."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it is to interrupt the main thread's system calls
        beaten = time.monotonic()
        while True:
            time.sleep(_WATCH_SECONDS)
            contexts = self.running()
            if not contexts and not self.loading:
                continue
            self.peek()
            for context in contexts:
                context._tick()
            if contexts and time.monotonic() - beaten >= _BEAT_SECONDS:
                beaten = time.monotonic()
                self.link.notify("beat", {})


class _Single(_Server):
    """Calls one after the other, in the main thread.

    The main thread reads the socket itself, so that a small call takes no hand-over between threads.
    """

    def __init__(self, worker: _Worker, link: _Link) -> None:
        self.context: Optional[Context] = None  # of the call that runs
        self.interruptible = False  # the function runs, and nothing else
        self.late = False  # SIGINT has come while a call was being answered
        super().__init__(worker, link)

    def running(self) -> List[Context]:
        context = self.context
        return [] if context is None else [context]

    def interrupt(self) -> None:
        if self.interruptible:
            context = self.context
            if context is not None and context._task is not None and asyncio.current_task(self.worker.loop) is None:
                self.worker.event_loop().call_soon_threadsafe(self.cancel_task, context)  # it awaits something
                return
            self.interruptible = False  # once a call
            raise Cancelled()
        if self.context is None:
            self.quit()
        self.late = True

    def next(self) -> Dict[str, Any]:
        """The next message. The caller holds reading."""
        while not self.queue:
            self.take(self.link.receive())
        return self.queue.popleft()

    def run(self) -> None:
        self.reading.acquire()
        self.loading = False
        request = self.next()
        while True:
            method = request.get("method")
            if method == "call" and request["params"]["func"] in self.worker.coroutines:
                request = self.loop(self.serve(request))
                continue
            if method == "call":
                self.call(request)
            elif method == "shutdown":
                self.worker.close()
                return
            else:
                self.refuse(request)
            request = self.next()

    def call(self, request: Dict[str, Any]) -> None:
        context = self.begin(request)
        value, error = None, None
        try:
            try:
                self.interruptible = True
                self.check(context)
                value = self.worker.begin(context, context._params)
                if type(value) not in _PLAIN and inspect.isawaitable(value):
                    value = self.loop(self.wait(context, value))
                self.interruptible = False
            except BaseException as e:
                self.interruptible = False
                error = e
        except KeyboardInterrupt as e:  # between the two lines above
            error = e
        self.end(request, context, value, error)

    async def serve(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Runs calls of coroutine functions; returns the first message that is none.

        One task awaits them all, so that a call that waits for nothing costs what one of a plain function costs.
        """
        task = asyncio.current_task()
        while True:
            context = self.begin(request)
            context._task = task
            value, error = None, None
            try:
                try:
                    self.interruptible = True
                    self.check(context)
                    value = await self.worker.begin(context, context._params)
                    self.interruptible = False
                except BaseException as e:
                    self.interruptible = False
                    error = e
            except KeyboardInterrupt as e:
                error = e
            context._task = None
            while hasattr(task, "uncancel") and task.cancelling():
                task.uncancel()
            self.end(request, context, value, error)
            request = self.next()
            if request.get("method") != "call" or request["params"]["func"] not in self.worker.coroutines:
                return request

    def begin(self, request: Dict[str, Any]) -> Context:
        context = Context(self.link, request["params"])
        if "canceled" in request:
            context._cancel()
        _context.set(context)
        self.context = context
        self.reading.release()
        return context

    def check(self, context: Context) -> None:
        if context._flag is not None and context.cancelled:
            raise Cancelled()

    def end(self, request: Dict[str, Any], context: Context, value: Any, error: Optional[BaseException]) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.peek()  # the signal may have been faster than the notification

        def outcome() -> Any:
            if error is not None:
                raise error
            return value

        self.worker.reply(self.link, request["id"], context, outcome)
        self.ended(context)
        _context.set(None)
        self.context = None
        if self.late:
            self.late = False
            self.quit()
        self.reading.acquire()

    async def wait(self, context: Context, value: Any) -> Any:
        context._task = asyncio.current_task()
        try:
            return await value
        finally:
            context._task = None

    def loop(self, coroutine: Any) -> Any:
        """Runs a coroutine to its end, whatever else stops the loop: a task of the model's that exits, for instance."""
        loop = self.worker.event_loop()
        task = loop.create_task(coroutine)
        while True:
            try:
                return loop.run_until_complete(task)
            except (KeyboardInterrupt, SystemExit, RuntimeError):
                if task.done():
                    raise


class _Concurrent(_Server):
    """Calls at the same time: coroutines on the main thread's loop, other functions in threads."""

    def __init__(self, worker: _Worker, link: _Link, slots: int) -> None:
        self.calls: Dict[str, Context] = {}
        quiet = signal.SIG_BLOCK, {signal.SIGINT}  # signals are for the main thread
        self.pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="aipod", initializer=signal.pthread_sigmask, initargs=quiet)
        self.event_loop = worker.event_loop()
        self.tasks: set = set()  # the loop's own references are weak
        self.stop: Optional[asyncio.Future] = None
        super().__init__(worker, link)

    def running(self) -> List[Context]:
        return list(self.calls.values())

    def run(self) -> None:
        self.stop = self.event_loop.create_future()
        with self.reading:
            self.handle()
        self.loading = False
        self.event_loop.add_reader(self.link.sock.fileno(), self.read)
        while True:
            try:
                self.event_loop.run_until_complete(self.stop)
                break
            except (KeyboardInterrupt, SystemExit, RuntimeError):
                if self.stop.done():
                    raise
        self.worker.close()

    def read(self) -> None:
        with self.reading:
            try:
                self.take(self.link.receive(socket.MSG_DONTWAIT))
            except BlockingIOError:
                pass  # watch was faster

    def take(self, messages: List[Dict[str, Any]]) -> None:
        super().take(messages)
        if self.stop is not None:
            self.handle()

    def handle(self) -> None:
        """Begins what is in the queue, from whichever thread has read it."""
        while self.queue:
            message = self.queue.popleft()
            if message.get("method") == "call":
                self.call(message)
            elif message.get("method") == "shutdown":
                self.event_loop.call_soon_threadsafe(self.shut)
            else:
                self.refuse(message)

    def shut(self) -> None:
        if self.calls:
            self.event_loop.call_later(_WATCH_SECONDS, self.shut)
        elif not self.stop.done():
            self.stop.set_result(None)

    def call(self, message: Dict[str, Any]) -> None:
        id, params = message["id"], message["params"]
        context = Context(self.link, params)
        context._lock = threading.Lock()
        if "canceled" in message:
            context._cancel()
        self.calls[context.job_id] = context
        if params["func"] in self.worker.coroutines:
            self.event_loop.call_soon_threadsafe(self.spawn, id, context)
        else:
            self.pool.submit(self.thread, id, context)

    def spawn(self, id: Any, context: Context) -> None:
        task = self.event_loop.create_task(self.coroutine(id, context))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def coroutine(self, id: Any, context: Context) -> None:
        _context.set(context)
        value, error = None, None
        try:
            try:
                context._task = asyncio.current_task()
                value = await self.begin(context)
                context._task = None
            except BaseException as e:
                context._task = None
                error = e
        except KeyboardInterrupt as e:
            context._task, error = None, e
        self.end(id, context, value, error)

    def thread(self, id: Any, context: Context) -> None:
        _context.set(context)
        value, error = None, None
        try:
            try:
                context._thread = threading.get_ident()
                value = self.begin(context)
                if type(value) not in _PLAIN and inspect.isawaitable(value):
                    value = asyncio.run_coroutine_threadsafe(self.wait(context, value), self.event_loop).result()
            except BaseException as e:
                error = e
            self.release(context)
        except Cancelled as e:  # it came late; it comes once
            self.release(context)
            error = error or e
        self.end(id, context, value, error)
        _context.set(None)

    def release(self, context: Context) -> None:
        """From here on nothing is raised in this thread."""
        with context._lock:
            context._thread = None
        if context._flag is not None and context.cancelled:
            _raise_in(threading.get_ident(), None)

    def begin(self, context: Context) -> Any:
        if context._flag is not None and context.cancelled:
            raise Cancelled()
        return self.worker.begin(context, context._params)

    async def wait(self, context: Context, value: Any) -> Any:
        context._task = asyncio.current_task()
        try:
            return await value
        finally:
            context._task = None

    def end(self, id: Any, context: Context, value: Any, error: Optional[BaseException]) -> None:
        def outcome() -> Any:
            if error is not None:
                raise error
            return value

        self.ended(context)
        self.calls.pop(context.job_id, None)  # before the pod knows, which may send the next one then
        self.worker.reply(self.link, id, context, outcome)

    def cancel_call(self, context: Context) -> None:
        again = context._flag is not None and context.cancelled
        super().cancel_call(context)
        if not again and self.worker.loop is not None and context._params["func"] not in self.worker.coroutines:
            self.event_loop.call_soon_threadsafe(self.event_loop.call_later, _THREAD_GRACE, self.raise_in, context)

    def raise_in(self, context: Context) -> None:
        """Raises Cancelled in a thread that has not noticed by itself."""
        with context._lock:
            if context._thread is not None:
                _raise_in(context._thread, Cancelled)

    def interrupt(self) -> None:
        """The pod signals only when all calls that run are canceled."""
        contexts = self.running()
        if not contexts:
            self.quit()
        task = asyncio.current_task(self.event_loop) if self.event_loop.is_running() else None
        for context in contexts:
            if context.cancelled and context._task is not None:
                if context._task is task:
                    raise Cancelled()  # it doesn't come to its await
                self.event_loop.call_soon_threadsafe(self.cancel_task, context)


def _raise_in(thread: int, error: Optional[type]) -> None:
    """Raises an error in a thread as soon as that runs Python code; None takes one back that was not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))


def _serve(worker: _Worker, fd: int) -> int:
    global _link
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    _link = link = _Link(socket.socket(fileno=fd))
    link.sock.setblocking(True)
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, handlers=[LogHandler()], format="%(name)s: %(message)s")
    messages: List[Dict[str, Any]] = []
    while not messages:
        messages = link.receive()
    request = messages[0]
    if request.get("method") != "initialize":
        print(f"aipod: the pod begins with {request.get('method')}, not with initialize", file=sys.stderr)
        return 1
    slots = int(request["params"].get("slots", 1))
    server = _Concurrent(worker, link, slots) if slots > 1 else _Single(worker, link)
    server.queue.extend(messages[1:])
    if not worker.initialize(link, request["id"], request["params"]):
        return 1
    server.run()
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
    fd = os.environ.pop("AIPOD_FD", None)
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
