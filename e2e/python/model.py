"""A model whose functions do what tests ask for, on the SDK."""

import asyncio
import hashlib
import itertools
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sdk" / "python"))

import aipod  # noqa: E402


class Chaos(aipod.Model):
    def load(self, version):
        if version == "missing":
            raise aipod.VersionNotFound(version, have=["a", "b"])
        if version == "stuck":
            time.sleep(3600)
        if version == "broken":
            raise ValueError("the weights are not there")

    def which(self, context, path, **kwargs):
        """Says which version and process it is, and which attempt."""
        return {"version": self.version, "pid": os.getpid(), "attempt": context.attempt}

    def sha256(self, context, path, **kwargs):
        """Computes the digest of the payload."""
        digest = hashlib.sha256()
        with open(path, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def echo(self, context, path, **kwargs):
        """Streams the payload back."""
        with open(path, "rb") as f, context.output() as out:
            while block := f.read(1 << 20):
                out.write(block)

    def trickle(self, context, path, gate):
        """Writes a first byte, waits for the file gate, and writes the last one."""
        with context.output() as out:
            out.write(b"a")
            out.flush()
            while not os.path.exists(gate):
                time.sleep(0.02)
            out.write(b"b")

    def wait(self, context, path, gate: str):
        """Waits for the file gate, and counts the seconds meanwhile."""
        seconds = 0
        while not os.path.exists(gate):
            context.progress(seconds, 100, "seconds")
            time.sleep(1)
            seconds += 1
        return "through"

    def die(self, context, path, signo=9, attempts=1000):
        """Dies in its first attempts."""
        if context.attempt <= attempts:
            print("about to die", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signo)
        return context.attempt

    def exhaust(self, context, path):
        """Takes all memory."""
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1 << 20)))

    def nap(self, context, path, seconds=3600):
        """Sleeps in time.sleep."""
        context.log("napping")
        time.sleep(seconds)

    async def doze(self, context, path, seconds=3600):
        """Sleeps in asyncio."""
        context.log("napping")
        await asyncio.sleep(seconds)

    def spin(self, context, path):
        """Loops."""
        context.log("napping")
        while True:
            pass

    def hold(self, context, path):
        """Is in a call of C that holds the interpreter's lock and looks for no signals: a sum without an end."""
        context.log("napping")
        sum(itertools.repeat(1))

    def defy(self, context, path):
        """Ignores what it can, and has a child that does so, too."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(3600)
        context.log("napping")
        while True:
            time.sleep(3600)

    def chatter(self, context, path):
        """Prints what is no text, and a line of 100 MB."""
        print("a stray print")
        sys.stdout.flush()
        sys.stdout.buffer.write(bytes(range(256)) * 4 + b"\n")
        for _ in range(100):
            sys.stdout.buffer.write(b"x" * 1_000_000)
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        time.sleep(0.5)  # what is printed just before an answer may come too late
        return "done"

    def forge(self, context, path):
        """Writes an answer to a request that nobody has made to the socket."""
        os.write(3, b'{"jsonrpc":"2.0","id":424242,"result":{"value":"forged"}}\n')
        return "genuine"

    def babble(self, context, path):
        """Writes what is not of the protocol to the socket."""
        os.write(3, b"\x00\xff not JSON\n")
        time.sleep(3600)

    def unspeakable(self, context, path):
        """Returns what JSON has no word for."""
        return {"x": object()}


if __name__ == "__main__":
    aipod.run(Chaos)
