"""The builds of llama.cpp on this machine: where each lies, and what is known of it.

Shared by the parent, which chooses and examines one, and the worker, which loads it. Nothing here
loads a library: paths, bytes of headers, and permissions.
"""
