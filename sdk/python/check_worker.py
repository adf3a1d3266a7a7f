"""The worker that ``server check`` tests the SDK with. Its functions are those that docs/workers.md names."""

import os
import signal
import sys
import time

import aipod


class Check(aipod.Model):
    def hello(self, context, path, name="world"):
        """Says hello: kwargs name="world"."""
        return {"hello": name}

    def echo(self, context, path, **kwargs):
        """Gives back the payload as output, or without one the kwargs."""
        if os.path.getsize(path) == 0:
            return kwargs
        with open(path, "rb") as source, context.output() as output:
            while block := source.read(1 << 20):
                output.write(block)

    def progress(self, context, path, n):
        """Tells progress n times: kwargs n=INTEGER."""
        for done in range(1, n + 1):
            context.progress(done, n)
            time.sleep(0.06)  # progress is told at most 20 times a second
        return n

    def sleep(self, context, path, seconds):
        """Sleeps, unless it is canceled: kwargs seconds=NUMBER."""
        if context.wait_cancelled(seconds):
            raise aipod.Cancelled

    def crash(self, context, path):
        """Kills its process."""
        os.kill(os.getpid(), signal.SIGKILL)

    def noise(self, context, path):
        """Prints what is no text, and long lines."""
        for stream in (sys.stdout, sys.stderr):
            stream.buffer.write(bytes(range(256)) + b"\n" + b"x" * (1 << 20) + b"\n")
            stream.flush()


if __name__ == "__main__":
    aipod.run(Check)
