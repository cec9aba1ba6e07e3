"""The binding of llama.cpp, ggml and mtmd: ctypes, and only what this program uses.

Modules keep the C names, so that llama.h is their documentation. Importing `llama` loads the chosen
build (`engine/builds`) and finds its struct layout; without one that fits it raises
EngineUnavailable.
"""
