#!/usr/bin/python3
"""The client of the first aipod, as its users still run it, as a command.

It speaks ai.AI with the asyncio API of grpcio: kwargs compressed with zstd go
first, then the payload as one zstd stream in pieces of 32 KiB; "PONG" means
that the call is alive, any other message is the result, compressed like the
kwargs. Channel options and the retry policy are those that were deployed,
down to the misspelt one.

Output: one JSON object a line. {"event": "first"} when the first message has
come, and at the end {"event": "end", ...}:

  code, details  the status, e.g. "OK", "UNAVAILABLE"
  result         the decoded result, null without one
  beats          how many PONGs came
  max_gap        longest silence of the server, in seconds: before the first
                 message, between two, and before the end
  seconds        how long the call took
  bytes_sent     bytes of all Raw.data and kwargs that went to grpcio
  size, sha256   of the payload as far as it was read, uncompressed
  headers        the response's initial metadata

The exit code is 0 when the call was made, however it ended.
"""

import argparse
import asyncio
import hashlib
import io
import json
import sys
import time

import grpc
import zstandard
from grpc._cython.cygrpc import CompressionAlgorithm, CompressionLevel

PONG = "PONG"
BIN_SIZE_KEY = "_aipod_bin_size"
BUFFER_SIZE = io.DEFAULT_BUFFER_SIZE * 4  # 8 KiB * 4

json_config = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "ai.AI"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "1s",
                    "maxBackoff": "30s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": [
                        grpc.StatusCode.INTERNAL.name,
                        grpc.StatusCode.UNAVAILABLE.name,
                        grpc.StatusCode.UNKNOWN.name,
                    ],
                },
            }
        ]
    }
)
COMMON_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.default_compression_algorithm", CompressionAlgorithm.gzip),
    ("grpc.grpc.default_compression_level", CompressionLevel.high),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 120000),
    ("grpc.keepalive_permit_without_calls", True),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_time_between_pings_ms", 5000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
)
DEFAULT_CLIENT_OPTIONS = COMMON_OPTIONS + (
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json_config),
)


def encode_data(data, cctx):
    return cctx.compress(json.dumps(data).encode())


def decode_data(data, dctx):
    return json.loads(dctx.decompress(data))


def emit(**fields):
    print(json.dumps(fields), flush=True)


class HashingFile:
    """A file that hashes and counts what is read from it."""

    def __init__(self, file):
        self.file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def read(self, n=-1):
        data = self.file.read(n)
        self.hash.update(data)
        self.size += len(data)
        return data


class Client:
    def __init__(self, args, ai_pb2, ai_pb2_grpc):
        self.args = args
        self.pb = ai_pb2
        self.grpc = ai_pb2_grpc
        self.bytes_sent = 0
        self.payload = HashingFile(open(args.payload, "rb") if args.payload else io.BytesIO())

    def stream_data(self):
        """Yields the messages of the request."""
        args = self.args
        size = 0
        if args.payload:
            size = self.payload.file.seek(0, io.SEEK_END)
            self.payload.file.seek(0)
        kwargs = json.loads(args.kwargs)
        assert all(not k.startswith("_aipod") for k in kwargs), 'The key argument must not start with "_aipod"'
        cctx = zstandard.ZstdCompressor()
        kwargs_json = encode_data({**kwargs, BIN_SIZE_KEY: size}, cctx=cctx)
        self.bytes_sent += len(kwargs_json)
        chunks = cctx.read_to_iter(self.payload, write_size=BUFFER_SIZE)
        if args.method == "chaos":
            yield self.pb.Raw(data=kwargs_json)
            for chunk in chunks:
                self.bytes_sent += len(chunk)
                yield self.pb.Raw(data=chunk)
        else:
            yield self.pb.StreamInput(kwargs_json=kwargs_json, version=args.version, raw=self.pb.Raw(data=b""))
            for chunk in chunks:
                self.bytes_sent += len(chunk)
                yield self.pb.StreamInput(kwargs_json=b"{}", version="", raw=self.pb.Raw(data=chunk))

    async def requests(self):
        """stream_data, with a pause when the caller asked for one."""
        args = self.args
        stalled = args.stall == 0
        first = True
        for message in self.stream_data():
            # The kwargs always go out; the pause is at the first message after
            # enough bytes of the payload.
            if not stalled and not first and self.payload.size >= args.stall_at:
                stalled = True
                await asyncio.sleep(args.stall)
            first = False
            yield message

    async def run(self):
        args = self.args
        metadata = [tuple(m.split("=", 1)) for m in args.metadata]
        if args.func:
            metadata.append(("x-func-name", args.func))
        out = {"result": None, "beats": 0, "max_gap": 0.0, "headers": {}}
        async with grpc.aio.insecure_channel(args.addr, options=DEFAULT_CLIENT_OPTIONS) as channel:
            method = getattr(self.grpc.AIStub(channel), args.method)
            begun = last = time.monotonic()
            call = method(self.requests(), metadata=metadata, timeout=args.timeout)

            def seen():
                nonlocal last
                now = time.monotonic()
                out["max_gap"] = max(out["max_gap"], now - last)
                last = now

            first = True
            try:
                async for raw in call:
                    seen()
                    if first:
                        first = False
                        emit(event="first")
                    if raw.data == PONG.encode():
                        out["beats"] += 1
                        if out["beats"] == args.cancel_after_beats:
                            call.cancel()
                    else:
                        out["result"] = decode_data(raw.data, dctx=zstandard.ZstdDecompressor())
            except (grpc.RpcError, asyncio.CancelledError):
                pass  # the status says it
            out["code"] = (await call.code()).name
            out["details"] = await call.details()
            seen()
            out["seconds"] = last - begun
            if not first:
                out["headers"] = {k: v for k, v in await call.initial_metadata() if isinstance(v, str)}
        out["bytes_sent"] = self.bytes_sent
        out["size"] = self.payload.size
        out["sha256"] = self.payload.hash.hexdigest()
        emit(event="end", **out)


def parse_args():
    p = argparse.ArgumentParser(description="the client of the first aipod")
    p.add_argument("--addr", required=True, help="HOST:PORT")
    p.add_argument("--stubs", required=True, help="directory with the modules that protoc made of ai/ai.proto")
    p.add_argument("--method", default="chaos", choices=["chaos", "train", "predict", "log"])
    p.add_argument("--func", default="", help="x-func-name")
    p.add_argument("--kwargs", default="{}", help="JSON object")
    p.add_argument("--version", default="", help="version of StreamInput")
    p.add_argument("--payload", default="", help="file to send")
    p.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE")
    p.add_argument("--timeout", type=float, default=None, help="deadline of the call in seconds")
    p.add_argument("--stall-at", type=int, default=0, help="bytes of payload to read before the pause")
    p.add_argument("--stall", type=float, default=0, help="pause in the upload, in seconds")
    p.add_argument("--cancel-after-beats", type=int, default=0, help="cancel the call at this PONG")
    return p.parse_args()


def main():
    args = parse_args()
    sys.path.insert(0, args.stubs)
    from ai import ai_pb2, ai_pb2_grpc

    asyncio.run(Client(args, ai_pb2, ai_pb2_grpc).run())


if __name__ == "__main__":
    main()
