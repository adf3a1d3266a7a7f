#!/usr/bin/python3
"""The first aipod's server, as its author has published it, with the function sha256.

The receiving and the answering, the channel options and the zstd coding are
those of the published code: what comes is written to a file as it is, then
decompressed into another one, which the function reads; beats go out each
second until there is a result. What is left out is what this call does not
use: health, reflection, shutdown, the pool of instances, the lock of a
directory that nobody else knows.
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
from concurrent import futures

import grpc
import zstandard
from grpc._cython.cygrpc import CompressionAlgorithm, CompressionLevel

PONG = "PONG"
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
DEFAULT_SERVER_OPTIONS = COMMON_OPTIONS + (("grpc.http2.max_ping_strikes", 0),)


def decode_data(data, dctx):
    return json.loads(dctx.decompress(data))


def encode_data(data):
    return zstandard.ZstdCompressor().compress(json.dumps(data).encode())


class Model:
    async def sha256(self, context, path, **kwargs):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return {"sha256": digest.hexdigest(), "size": os.path.getsize(path)}


def servicer(pb2, pb2_grpc, model):
    class AIServicer(pb2_grpc.AIServicer):
        async def chaos(self, request_iter, context):
            raw = pb2.Raw(data=b"")
            with tempfile.TemporaryDirectory() as tmp_dir:
                await asyncio.gather(
                    self._receive_stream(context, request_iter, raw, tmp_dir),
                    self._send_stream(context, raw),
                )

        @staticmethod
        async def _send_stream(context, var):
            while not var.data:
                await context.write(pb2.Raw(data=PONG.encode()))
                await asyncio.sleep(1)
            await context.write(var)

        async def _receive_stream(self, context, request_iter, var, work_dir):
            meta = dict(context.invocation_metadata())
            kwargs = None
            dctx = zstandard.ZstdDecompressor()
            compressed_path = os.path.join(work_dir, "compressed")
            decompressed_path = os.path.join(work_dir, "decompressed")
            with open(compressed_path, "wb") as file_obj:
                async for raw in request_iter:
                    if kwargs is not None:
                        file_obj.write(raw.data)
                        continue
                    kwargs = decode_data(raw.data, dctx=dctx)
                    if not hasattr(model, meta.get("x-func-name", "chaos")):
                        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
                        var.data = PONG.encode()
                        return
            with open(compressed_path, "rb") as file_in, open(decompressed_path, "wb") as file_out:
                for chunk in dctx.read_to_iter(file_in):
                    file_out.write(chunk)
            result = await getattr(model, meta["x-func-name"])(context, decompressed_path, **kwargs)
            var.data = encode_data(result.decode() if isinstance(result, bytes) else result)

    return AIServicer()


async def serve(args):
    from ai import ai_pb2, ai_pb2_grpc

    options = DEFAULT_SERVER_OPTIONS
    if args.no_gzip:
        options = tuple(o for o in options if "compression" not in o[0])
    server = grpc.aio.server(futures.ThreadPoolExecutor(max_workers=None), options=options)
    ai_pb2_grpc.add_AIServicer_to_server(servicer(ai_pb2, ai_pb2_grpc, Model()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main():
    p = argparse.ArgumentParser(description="the server of the first aipod")
    p.add_argument("--stubs", required=True, help="directory with the modules that protoc made of ai/ai.proto")
    p.add_argument("--dir", required=True, help="directory for temporary files")
    p.add_argument("--no-gzip", action="store_true", help="leave out the compression that gRPC does")
    args = p.parse_args()
    sys.path.insert(0, args.stubs)
    tempfile.tempdir = args.dir
    asyncio.run(serve(args))


if __name__ == "__main__":
    main()
