"""Tests of aipod.py: real processes that are spoken to over a real socket, as a pod does.

/usr/bin/python3 -m unittest discover -s sdk/python
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent

MODEL = """
import asyncio, errno, os, pathlib, sys, threading, time
import aipod

class Number:
    def tolist(self):
        return [1, 2]

class Test(aipod.Model):
    made = []

    async def load(self, version):
        if version == "none":
            raise aipod.VersionNotFound(version, have=["a"])
        if version == "broken":
            raise RuntimeError("no weights")
        self.loaded = version

    def versions(self):
        return self.made

    def close(self):
        print("closed", flush=True)

    def hello(self, context, path, name="world"):
        "Says hello.\\n\\nAnd more."
        return {"hello": name, "loaded": self.loaded, "current": aipod.current() is context}

    async def ahello(self, context, path, **kwargs):
        await asyncio.sleep(0)
        return kwargs

    def read(self, context, path):
        with open(path, "rb") as f:
            return len(f.read())

    def about(self, context, path):
        return [context.job_id, context.func, context.version, context.attempt, context.metadata, context.invocation_metadata(),
                str(context.work_dir), context.deadline.isoformat(), context.time_remaining() > 0, self.slots, self.config,
                str(self.data_dir), str(self.work_dir), bool(context.cancelled), context.cancelled()]

    def result(self, context, path, kind):
        file = pathlib.Path(context.work_dir)
        (file / "mine").write_bytes(b"inside")
        return {
            "bytes": lambda: b"\\x00\\xff", "view": lambda: memoryview(b"abc"), "inside": lambda: file / "mine",
            "outside": lambda: pathlib.Path(__file__), "large": lambda: "x" * 2_000_000, "none": lambda: None,
            "numbers": lambda: {"n": Number()}, "nan": lambda: float("nan"), "object": lambda: object(), "unicode": lambda: "\\u00e4\\U0001f680",
        }[kind]()

    def stream(self, context, path, gate=None):
        out = context.output()
        out.write(b"first")
        out.flush()
        while gate and not os.path.exists(gate):
            time.sleep(0.01)
        out.write(b" last")

    def both(self, context, path):
        context.output().write(b"x")
        return 1

    def tell(self, context, path):
        import logging
        for n in range(1000):
            context.progress(n + 1, 1000, "steps")
        context.log("a line", "warn")
        logging.getLogger("lib").error("from logging")
        print("printed")

    def fail(self, context, path, kind):
        if kind == "input":
            raise aipod.InputError("wrong, do better")
        if kind == "exit":
            sys.exit(3)
        if kind == "memory":
            raise MemoryError
        if kind == "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        if kind == "inner":
            return int("x", bad=1)
        raise ValueError("of its own")

    def sleep(self, context, path, seconds=60):
        context.log("asleep")
        time.sleep(seconds)
        return "slept"

    def spin(self, context, path):
        context.log("asleep")
        while True:
            pass

    def polite(self, context, path):
        context.log("asleep")
        return "canceled" if context.wait_cancelled(60) else "late"

    async def doze(self, context, path):
        context.log("asleep")
        await asyncio.sleep(60)

    def train(self, context, path):
        self.made = self.made + [context.version]
        return "made"

    @aipod.makes_version
    def fit(self, context, path):
        pass

    def meet(self, context, path, n):
        "Returns when n calls are here at once."
        with lock:
            here.append(context.job_id)
        while len(here) < n:
            time.sleep(0.01)
        return threading.current_thread() is threading.main_thread()

    def _private(self, context, path):
        pass

lock, here = threading.Lock(), []

if __name__ == "__main__":
    aipod.run(Test)
"""

HARD = """
import asyncio, os, sys, time
import aipod

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Hard(aipod.Model):
    def load(self, version):
        if version == "slow":
            time.sleep(60)

    def hello(self, context, path, name="world"):
        return {"hello": name}

    async def ahello(self, context, path, name="world"):
        return {"hello": name}

    def promise(self, context, path, **kwargs):
        return self.ahello(context, path, **kwargs)

    @staticmethod
    def fixed(context, path):
        return "fixed"

    @classmethod
    def named(cls, context, path):
        return cls.__name__

    def text(self, context, path, text="one\\ntwo", times=1):
        context.log(text * times, "warning")

    def fail(self, context, path, times=None):
        raise ValueError("\\u00e4" * times) if times else Mute()

    async def leave(self, context, path):
        async def leave():
            sys.exit(5)
        await asyncio.gather(leave())

    def hold(self, context, path, gate):
        for n in range(1, 101):
            context.progress(n, 100)
        open(gate, "rb").read()

    def wait(self, context, path):
        context.log("asleep")
        if context.wait_cancelled(60):
            raise aipod.Cancelled

    def spin(self, context, path):
        context.log("asleep")
        while True:
            pass

    async def aspin(self, context, path):
        context.log("asleep")
        while True:
            pass

    def chatter(self, context, path):
        while True:
            context.log("x" * 60_000)

    def fork(self, context, path):
        pid = os.fork()
        return "of the child" if pid == 0 else os.waitpid(pid, 0)[1]

    def sockets(self, context, path):
        import stat
        mine = [fd for fd in range(3, 64) if os.path.exists(f"/dev/fd/{fd}") and stat.S_ISSOCK(os.fstat(fd).st_mode)]
        return [any(map(os.get_inheritable, mine)), "AIPOD_FD" in os.environ]

    def deeper(self, context, path):
        (context.work_dir / "sub").mkdir()
        (context.work_dir / "sub" / "file").write_bytes(b"deep")
        return context.work_dir / "sub" / "file"

    def output(self, context, path):
        out = context.output()
        out.write(b"x")
        return out

    def scores(self, context, path):
        return {"scores": [1.0, float("nan")]}

if __name__ == "__main__":
    aipod.run(Hard)
"""

SEED = """
class Old:
    async def chaos(self, context, path, **kwargs):
        with open(path, "rb") as f:
            return {"size": len(f.read()), "user": dict(context.invocation_metadata())["x-user"], "cancelled": context.cancelled(), **kwargs}
"""


class Pod:
    """A pod's side of one worker."""

    def __init__(self, args, slots=1, version="", directory=None, wait=True):
        self.directory = directory
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        env = {**os.environ, "AIPOD_FD": str(theirs.fileno()), "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *map(str, args)], env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        theirs.close()
        ours.settimeout(20)
        self.socket, self.file = ours, ours.makefile("rb")
        self.id = 0
        self.told = []  # notifications that nobody has asked for yet
        self.send("initialize", {
            "protocol": 1, "version": version, "slots": slots, "work_dir": str(directory / "process"),
            "data_dir": str(directory / "data"), "config": {"a": 1},
        })
        self.start = self.answer(self.id) if wait else None

    def send(self, method, params, request=True):
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        if request:
            self.id += 1
            message["id"] = self.id
        self.socket.sendall(json.dumps(message).encode() + b"\n")
        return self.id

    def read(self):
        line = self.file.readline()
        if not line:
            raise EOFError(self.process.communicate(timeout=20)[0].decode(errors="replace"))
        return json.loads(line)

    def answer(self, id):
        while True:
            message = self.read()
            if message.get("id") == id:
                return message
            if "id" in message:
                raise AssertionError(f"an answer that is not {id}: {message}")
            self.told.append(message)

    def begin(self, func, kwargs=None, job="job", payload=None, **more):
        work = Path(tempfile.mkdtemp(dir=self.directory))
        source = None
        if payload is not None:
            (self.directory / "input").write_bytes(payload)
            source = {"path": str(self.directory / "input"), "size": len(payload)}
        self.output = work / "output"
        return self.send("call", {
            "job_id": job, "func": func, "version": "", "kwargs": kwargs or {}, "input": source, "output_path": str(self.output),
            "work_dir": str(work), "metadata": {"x-user": "ada"}, "attempt": 2, **more,
        })

    def call(self, func, kwargs=None, **more):
        message = self.answer(self.begin(func, kwargs, **more))
        return message["result"] if "result" in message else message["error"]

    def value(self, func, kwargs=None, **more):
        return self.call(func, kwargs, **more)["value"]

    def await_told(self, method, **fields):
        """Waits for a notification."""
        while True:
            for message in self.told:
                if message["method"] == method and all(message["params"].get(k) == v for k, v in fields.items()):
                    return message["params"]
            self.told.append(self.read())

    def cancel(self, job="job"):
        self.send("cancel", {"job_id": job}, request=False)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.file.close()
        self.socket.close()


class Case(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.model = self.write("model.py", MODEL)

    def write(self, name, text):
        file = self.directory / name
        file.write_text(textwrap.dedent(text))
        return file

    def pod(self, args=None, **more):
        pod = Pod(args or [self.model], directory=self.directory, **more)
        self.addCleanup(pod.close)
        return pod


class TestCalls(Case):
    def test_initialize(self):
        pod = self.pod()
        result = pod.start["result"]
        self.assertEqual(result["model"], "Test")
        self.assertEqual(result["versions"], [])
        functions = {f["name"]: f for f in result["functions"]}
        self.assertEqual(functions["hello"]["doc"], "Says hello.")
        self.assertEqual([n for n, f in functions.items() if f["makes_version"]], ["fit", "train"])
        self.assertFalse({"load", "close", "versions", "_private", "run"} & set(functions))

    def test_kwargs_schema(self):
        file = self.write(
            "schema.py",
            """
            import typing
            import aipod
            class Schema:
                @aipod.payload("text/csv")
                def all(self, context, path, name, n: int = 3, rate=0.5, on: bool = False, tags: typing.List[str] = None,
                        kind: typing.Literal["a", "b"] = "a", maybe: typing.Optional[float] = None, what=None, version="v", far=float("inf")):
                    pass
                def any(self, context, path, **kwargs):
                    pass
                def bare(self, context, path):
                    pass
            aipod.run(Schema)
            """,
        )
        functions = {f["name"]: f for f in self.pod([file]).start["result"]["functions"]}
        self.assertEqual(functions["all"]["payload"], "text/csv")
        self.assertEqual(
            functions["all"]["kwargs"],
            {
                "type": "object",
                "properties": {
                    "name": {},
                    "n": {"type": "integer", "default": 3},
                    "rate": {"type": "number", "default": 0.5},
                    "on": {"type": "boolean", "default": False},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "kind": {"enum": ["a", "b"], "default": "a"},
                    "maybe": {"type": "number"},
                    "what": {},
                    "far": {"type": "number"},
                },
                "required": ["name"],
            },
        )
        self.assertNotIn("kwargs", functions["any"])
        self.assertEqual(functions["bare"]["kwargs"], {"type": "object", "properties": {}, "required": []})

    def test_versions_that_do_not_load(self):
        error = self.pod(version="none").start["error"]
        self.assertEqual((error["code"], error["data"]), (-32001, {"versions": ["a"]}))
        pod = self.pod(version="broken")
        self.assertEqual(pod.start["error"]["message"], "RuntimeError: no weights")
        self.assertIn("raise RuntimeError", pod.start["error"]["data"]["traceback"])
        self.assertEqual(pod.process.wait(20), 1)

    def test_values(self):
        pod = self.pod(version="v")
        self.assertEqual(pod.value("hello", {"name": "Ada"}), {"hello": "Ada", "loaded": "v", "current": True})
        self.assertEqual(pod.value("ahello", {"k": [1, None, "\u00e4"]}), {"k": [1, None, "\u00e4"]})
        self.assertEqual(pod.value("read"), 0)
        self.assertEqual(pod.value("read", payload=b"12345"), 5)

    def test_context(self):
        pod = self.pod()
        about = pod.value("about", version="v", deadline="2999-01-02T03:04:05.123456789Z")
        self.assertEqual(about[:6], ["job", "about", "v", 2, {"x-user": "ada"}, [["x-user", "ada"]]])
        self.assertEqual(about[7:11], ["2999-01-02T03:04:05.123456+00:00", True, 1, {"a": 1}])
        self.assertEqual(about[11:], [str(self.directory / "data"), str(self.directory / "process"), False, False])

    def test_results(self):
        pod = self.pod()
        for kind, output in {"bytes": b"\x00\xff", "view": b"abc", "inside": b"inside", "outside": self.model.read_bytes()}.items():
            self.assertEqual(pod.call("result", {"kind": kind}, job=kind), {"output_size": len(output)}, kind)
            self.assertEqual(pod.output.read_bytes(), output, kind)
        self.assertTrue(self.model.exists())
        self.assertEqual(pod.call("result", {"kind": "large"}), {"output_size": 2_000_002, "output_json": True})
        self.assertEqual(json.loads(pod.output.read_text()), "x" * 2_000_000)
        self.assertEqual(pod.value("result", {"kind": "none"}, job="none"), None)
        self.assertEqual(pod.value("result", {"kind": "numbers"}, job="numbers"), {"n": [1, 2]})
        self.assertEqual(pod.value("result", {"kind": "unicode"}, job="unicode"), "\u00e4\U0001f680")
        for kind, text in {"nan": "can't be JSON", "object": "a object can't be in a result"}.items():
            self.assertIn(text, pod.call("result", {"kind": kind}, job=kind)["message"])

    def test_output_streams(self):
        pod = self.pod()
        gate = self.directory / "gate"
        id = pod.begin("stream", {"gate": str(gate)})
        self.assertEqual(pod.await_told("output"), {"job_id": "job", "size": 5})
        self.assertEqual(pod.output.read_bytes(), b"first")
        gate.touch()
        self.assertEqual(pod.answer(id)["result"], {"output_size": 10})
        self.assertEqual(pod.output.read_bytes(), b"first last")
        self.assertIn("as well", pod.call("both")["message"])

    def test_tells(self):
        pod = self.pod()
        pod.value("tell")
        progress = [m["params"]["done"] for m in pod.told if m["method"] == "progress"]
        self.assertEqual((progress[0], progress[-1]), (1, 1000))
        self.assertLess(len(progress), 100)
        pod.await_told("log", line="a line", level="warn", job_id="job")
        pod.await_told("log", line="lib: from logging", level="error", job_id="job")

    def test_errors(self):
        pod = self.pod()
        for kind, (code, text) in {
            "input": (-32602, "wrong, do better"), "exit": (-32000, "SystemExit: 3"), "memory": (-32002, "MemoryError"),
            "disk": (-32002, "No space left"), "inner": (-32000, "TypeError"), "own": (-32000, "ValueError: of its own"),
        }.items():
            error = pod.call("fail", {"kind": kind}, job=kind)
            self.assertEqual(error["code"], code, error)
            self.assertIn(text, error["message"])
        self.assertIn('raise ValueError("of its own")', error["data"]["traceback"])
        self.assertNotIn("aipod.py", error["data"]["traceback"])
        error = pod.call("hello", {"nam": 1})
        self.assertEqual(error["code"], -32602)
        self.assertIn("'nam'", error["message"])
        self.assertIn("name='world'", error["message"])
        self.assertEqual(pod.call("ahello", {"path": 1})["code"], -32602)
        self.assertEqual(pod.call("nothing")["code"], -32601)
        self.assertEqual(pod.call("_private")["code"], -32601)
        self.assertEqual(pod.value("read"), 0)

    def test_versions_notification(self):
        pod = self.pod()
        self.assertEqual(pod.value("train", version="new"), "made")
        self.assertEqual(pod.await_told("versions"), {"versions": ["new"]})


class TestCancel(Case):
    def cancel(self, func, slots=1, interrupt=False):
        pod = self.pod(slots=slots)
        id = pod.begin(func)
        pod.await_told("log", line="asleep")
        begun = time.monotonic()
        pod.cancel()
        if interrupt:
            time.sleep(0.1)
            pod.process.send_signal(signal.SIGINT)
        message = pod.answer(id)
        self.assertLess(time.monotonic() - begun, 3)
        self.assertEqual(pod.value("read", job="next"), 0)  # it lives on
        return message

    def test_polite(self):
        for slots in 1, 3:
            self.assertEqual(self.cancel("polite", slots)["result"], {"value": "canceled"})

    def test_coroutine(self):
        for slots in 1, 3:
            self.assertEqual(self.cancel("doze", slots)["error"]["code"], -32800)

    def test_interrupted(self):
        for func in "sleep", "spin", "doze":
            self.assertEqual(self.cancel(func, interrupt=True)["error"]["code"], -32800)

    def test_thread(self):
        self.assertEqual(self.cancel("spin", slots=3)["error"]["code"], -32800)

    def test_interrupted_while_idle(self):
        pod = self.pod()
        pod.value("read")
        for _ in range(100):  # one that comes while the call ends is not taken
            pod.process.send_signal(signal.SIGINT)
            try:
                pod.process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                pass
        self.assertEqual(pod.process.returncode, 0)

    def test_cancel_of_nobody(self):
        pod = self.pod()
        pod.cancel("nobody")
        self.assertEqual(pod.value("read"), 0)


class TestProcess(Case):
    def test_calls_at_once(self):
        pod = self.pod(slots=3)
        ids = [pod.begin("meet", {"n": 3}, job=f"job-{n}") for n in range(3)]
        answers = {}
        while len(answers) < 3:
            message = pod.read()
            if "id" in message:
                answers[message["id"]] = message["result"]
        self.assertEqual(answers, {id: {"value": False} for id in ids})
        self.assertTrue(self.pod().value("meet", {"n": 1}))

    def test_beats(self):
        for slots in 1, 2:
            pod = self.pod(slots=slots)
            id = pod.begin("sleep", {"seconds": 2.5})
            pod.await_told("beat")
            self.assertEqual(pod.answer(id)["result"], {"value": "slept"})

    def test_shutdown(self):
        for slots in 1, 3:
            pod = self.pod(slots=slots)
            pod.value("read")
            pod.send("shutdown", {}, request=False)
            self.assertIn(b"closed", pod.process.communicate(timeout=20)[0])
            self.assertEqual(pod.process.returncode, 0)

    def test_pod_gone(self):
        for slots in 1, 3:
            for func in None, "spin", "sleep":
                pod = self.pod(slots=slots)
                if func:
                    pod.begin(func)
                    pod.await_told("log", line="asleep")
                pod.socket.shutdown(socket.SHUT_WR)
                pod.process.wait(5)

    def test_seed_class(self):
        model = self.write("old.py", SEED)
        for name in model, f"{model}:Old":
            pod = self.pod([HERE / "aipod.py", name])
            self.assertEqual(pod.value("chaos", {"k": 1}, payload=b"123"), {"size": 3, "user": "ada", "cancelled": False, "k": 1})


class TestByHand(Case):
    def run_model(self, *args, file=None, code=0, stdin=b""):
        env = {k: v for k, v in os.environ.items() if k != "AIPOD_FD"}
        env.update(PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1")
        done = subprocess.run([sys.executable, *(file or [self.model]), *args], env=env, input=stdin, capture_output=True, timeout=30)
        self.assertEqual(done.returncode, code, done.stderr.decode())
        return done.stdout.decode(), done.stderr.decode()

    def test_hint(self):
        self.assertIn("server -- python3", self.run_model(code=2)[1])

    def test_list(self):
        self.assertIn("hello            Says hello.\n", self.run_model("--list")[0])

    def test_try(self):
        self.assertEqual(json.loads(self.run_model("--try", "hello", "name=Ada", "--version", "v")[0])["hello"], "Ada")
        self.assertEqual(self.run_model("--try", "read", "-", stdin=b"1234")[0], "4\n")
        self.assertEqual(self.run_model("--try", "read", str(self.model))[0], f"{len(self.model.read_bytes())}\n")
        self.assertEqual(self.run_model("--try", "stream")[0], "first last")
        out, err = self.run_model("--try", "tell")
        self.assertEqual(out, "printed\nnull\n")
        self.assertIn("progress: 1000 of 1000 steps", err)
        self.assertIn("log: warn: a line", err)
        self.assertIn("wrong, do better", self.run_model("--try", "fail", "kind=input", code=1)[1])
        self.assertIn("there is no file", self.run_model("--try", "read", "/no/such/file", code=2)[1])

    def test_choice_of_class(self):
        two = self.write("two.py", SEED + SEED.replace("Old", "Older"))
        aipod = str(HERE / "aipod.py")
        self.assertIn("which class", self.run_model(file=[aipod, str(two)], code=1)[1])
        self.assertEqual(self.run_model("--list", file=[aipod, f"{two}:Older"])[0], "chaos\n")
        self.assertIn("no class 'Oldest'", self.run_model(file=[aipod, f"{two}:Oldest"], code=1)[1])
        needs = self.write("needs.py", SEED + "    def __init__(self, weights): pass\n")
        pod = self.pod([aipod, needs])
        self.assertIn("can't be made without arguments", pod.start["error"]["message"])


class TestHardCases(Case):
    """What a function, a signal or a lost pod must not do to the process."""

    def hard(self, **more):
        return self.pod([self.write("hard.py", HARD)], **more)

    def alive(self, pod):
        self.assertEqual(pod.value("hello"), {"hello": "world"})
        self.assertEqual(pod.value("ahello"), {"hello": "world"})

    def line(self, pod, method, params, **more):
        return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **more}).encode() + b"\n"

    def test_version_in_kwargs(self):
        pod = self.hard()
        self.assertEqual(pod.value("hello", {"version": "v1"}), {"hello": "world"})

    def test_kinds_of_methods(self):
        pod = self.hard()
        self.assertEqual([pod.value("fixed"), pod.value("named"), pod.value("promise")], ["fixed", "Hard", {"hello": "world"}])

    def test_texts(self):
        pod = self.hard()
        pod.call("text")
        self.assertEqual([m["params"]["line"] for m in pod.told], ["one", "two"])
        pod.call("text", {"text": "x", "times": 20 << 20})
        self.assertLess(len(pod.told[-1]["params"]["line"]), 1 << 20)
        self.assertLess(len(pod.call("fail", {"times": 20 << 20})["message"]), 1 << 20)
        self.assertEqual(pod.call("fail")["code"], -32000)
        self.assertEqual(pod.call("leave")["message"], "SystemExit: 5")
        self.alive(pod)

    def test_results(self):
        pod = self.hard()
        self.assertEqual(pod.call("deeper", job="a"), {"output_size": 4})
        self.assertFalse((pod.output.parent / "sub" / "file").exists())
        self.assertEqual(pod.call("output", job="b"), {"output_size": 1})
        self.assertIn("the result['scores'][1] is nan", pod.call("scores", job="c")["message"])

    def test_last_progress_comes(self):
        pod = self.hard()
        gate = str(self.directory / "gate")
        os.mkfifo(gate)
        id = pod.begin("hold", {"gate": gate})
        pod.await_told("progress", done=100)
        open(gate, "wb").close()
        self.assertIn("result", pod.answer(id))

    def test_cancel_with_the_call(self):
        for slots in (1, 3):
            pod = self.hard(slots=slots)
            params = {"job_id": "job", "func": "wait", "version": "", "kwargs": {}, "input": None, "output_path": "", "work_dir": "", "metadata": {}, "attempt": 1}
            pod.socket.sendall(self.line(pod, "call", params, id=100) + self.line(pod, "cancel", {"job_id": "job"}))
            self.assertEqual(pod.answer(100)["error"]["code"], -32800)

    def test_signal_after_the_call(self):
        for slots in (1, 3):
            pod = self.hard(slots=slots)
            id = pod.begin("wait")
            pod.await_told("log", line="asleep")
            pod.cancel()
            self.assertEqual(pod.answer(id)["error"]["code"], -32800)
            pod.process.send_signal(signal.SIGINT)
            self.alive(pod)

    def test_signal_in_a_line(self):
        """SIGINT comes while the function waits for the pod to read: what it writes is whole."""
        pod = self.hard()
        id = pod.begin("chatter")
        pod.socket.recv(1)  # it has begun; now its socket fills
        pod.told.append(json.loads(b"{" + pod.file.readline()))
        stat = Path(f"/proc/{pod.process.pid}/stat")
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":  # it sleeps in send
            time.sleep(0.01)
        pod.cancel()
        pod.process.send_signal(signal.SIGINT)
        self.assertEqual(pod.answer(id)["error"]["code"], -32800)
        self.alive(pod)

    def test_signal_without_a_cancellation(self):
        pod = self.hard()
        id = pod.begin("spin")
        pod.await_told("log", line="asleep")
        pod.process.send_signal(signal.SIGINT)
        self.assertEqual(pod.answer(id)["error"]["code"], -32000)
        self.alive(pod)

    def test_loop_that_is_held_up(self):
        pod = self.hard(slots=3)
        id = pod.begin("aspin")
        pod.await_told("log", line="asleep")
        pod.cancel()
        pod.await_told("beat")  # so that it was read
        pod.process.send_signal(signal.SIGINT)
        self.assertEqual(pod.answer(id)["error"]["code"], -32800)
        self.alive(pod)
        pod.begin("aspin")
        pod.told.clear()
        pod.await_told("log", line="asleep")
        pod.socket.shutdown(socket.SHUT_WR)
        pod.process.wait(5)

    def test_threads_many_times(self):
        pod = self.hard(slots=3)
        for _ in range(3):
            ids = []
            for n in range(3):
                pod.told.clear()
                ids.append(pod.begin("spin", job=f"j{n}"))
                pod.await_told("log", line="asleep")
            for n in range(3):
                pod.cancel(f"j{n}")
            answers = {}
            while len(answers) < 3:
                message = pod.read()
                if "id" in message:
                    answers[message["id"]] = message["error"]["code"]
            self.assertEqual(answers, dict.fromkeys(ids, -32800))
        self.alive(pod)

    def test_pod_gone_while_loading(self):
        pod = self.hard(version="slow", wait=False)
        pod.socket.shutdown(socket.SHUT_WR)
        self.assertIsNotNone(pod.process.wait(5))

    def test_fork(self):
        pod = self.hard()
        self.assertEqual(pod.value("fork"), 0)
        self.alive(pod)

    def test_children_get_no_socket(self):
        self.assertEqual(self.hard().value("sockets"), [False, False])

    def test_unknown_request(self):
        pod = self.hard()
        self.assertEqual(pod.answer(pod.send("what", {}))["error"]["code"], -32601)


if __name__ == "__main__":
    unittest.main()
