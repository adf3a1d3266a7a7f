#!/usr/bin/python3
"""A client of Python's grpcio as it comes, which downloads a payload and throws it away.

From aipod it takes the output of a durable job, by JobService/Run; from a peer
what its procedure Download gives. It says how long that took and stays until
its standard input ends.
"""

import argparse
import json
import sys
import time

import grpc


def from_aipod(channel, args):
    from aipod.v1 import job_pb2, job_pb2_grpc

    opened = job_pb2.Open(job_id=args.job, spec=job_pb2.Spec(func="chaos"))
    for response in job_pb2_grpc.JobServiceStub(channel).Run(iter([job_pb2.RunRequest(open=opened)])):
        event = response.event
        kind = event.WhichOneof("event")
        if kind == "output":
            yield len(event.output.data)
        elif kind == "failed":
            sys.exit(f"the job failed: {event.failed}")
        elif kind == "done":
            return
    sys.exit("the stream was cut")


def from_peer(channel, args):
    from ai import ai_pb2

    download = channel.stream_stream(
        "/bench.Peer/Download",
        request_serializer=ai_pb2.Raw.SerializeToString,
        response_deserializer=ai_pb2.Raw.FromString,
    )
    for raw in download(iter([ai_pb2.Raw(data=f"{args.size} {args.chunk}".encode())])):
        yield len(raw.data)


def main():
    p = argparse.ArgumentParser(description="downloads and throws away")
    p.add_argument("--addr", required=True, help="HOST:PORT")
    p.add_argument("--stubs", required=True, help="directory with the modules that protoc made")
    p.add_argument("--job", default="", help="name of a durable job of aipod; without it the server is a peer")
    p.add_argument("--size", type=int, required=True, help="bytes that must come")
    p.add_argument("--chunk", type=int, default=1 << 20, help="bytes in a message of a peer")
    args = p.parse_args()
    sys.path.insert(0, args.stubs)
    pieces = from_aipod if args.job else from_peer
    with grpc.insecure_channel(args.addr) as channel:
        began = time.monotonic()
        size = sum(pieces(channel, args))
        seconds = time.monotonic() - began
    if size != args.size:
        sys.exit(f"{size} bytes have come instead of {args.size}")
    print(json.dumps({"seconds": seconds, "bytes": size}, separators=(",", ":")), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
