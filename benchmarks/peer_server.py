"""Run llama.cpp's own C++ server (the `xllamacpp` wheel) on a loopback port until stdin ends.

Usage: python benchmarks/peer_server.py MODEL.gguf CONTEXT_PER_SLOT SLOTS THREADS [--kv-unified]
"""

import sys

import xllamacpp


def main() -> None:
    path, context, slots, threads = sys.argv[1], *map(int, sys.argv[2:5])
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.kv_unified = "--kv-unified" in sys.argv
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
