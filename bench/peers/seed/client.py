#!/usr/bin/python3
"""The client of the first aipod, e2e/python/seed_client.py, as a program that is measured.

It is that file, unchanged but for two things: it does not hash what it sends,
which is for tests and not what the deployed client did, and it can leave out
the compression of gRPC. It says how the call went as the other programs do, and
stays until its standard input ends.
"""

import importlib.util
import json
import pathlib
import sys

path = pathlib.Path(__file__).parents[3] / "e2e" / "python" / "seed_client.py"
spec = importlib.util.spec_from_file_location("seed_client", path)
seed_client = importlib.util.module_from_spec(spec)
spec.loader.exec_module(seed_client)


class NoHash:
    def hexdigest(self):
        return ""


class CountingFile(seed_client.HashingFile):
    def __init__(self, file):
        super().__init__(file)
        self.hash = NoHash()

    def read(self, n=-1):
        data = self.file.read(n)
        self.size += len(data)
        return data


def emit(event, **fields):
    if event != "end":
        return
    if fields["code"] != "OK" or not fields["result"] or fields["result"]["size"] != fields["size"]:
        sys.exit(f"the call failed: {fields}")
    more = {"wire_bytes": fields["bytes_sent"]}
    print(json.dumps({"seconds": fields["seconds"], "bytes": fields["size"], "more": more}, separators=(",", ":")), flush=True)


def main():
    if "--no-gzip" in sys.argv:
        sys.argv.remove("--no-gzip")
        seed_client.DEFAULT_CLIENT_OPTIONS = tuple(o for o in seed_client.DEFAULT_CLIENT_OPTIONS if "compression" not in o[0])
    seed_client.HashingFile = CountingFile
    seed_client.emit = emit
    seed_client.main()
    sys.stdin.read()


if __name__ == "__main__":
    main()
