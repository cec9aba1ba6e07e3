"""Architectures of GGUF files that llama.cpp does not run: what they are, and what would help.

llama.cpp's own library is asked which architectures it knows (`engine/worker/llama/`); this table
only makes the answer useful. A name that is in neither is taken for one that is newer than the
installed library.
"""

from localllm.core.text import single_line

_PICTURES = """
    aura cosmos flux hidream hyvid ideogram ideogram4 krea2 ltxv lumina2 pig qwen_image sd1 sd2 sd3
    sdxl wan
"""
"""Image and video models: names that ComfyUI-GGUF's loader and the forks of it write (2026-11)."""

_OLLAMA = {
    "deepseekocr": "deepseek2-ocr",
    "glmocr": "glm4",
    "gptoss": "gpt-oss",
    "mllama": None,
    "nomicbert": "nomic-bert",
    "qwen25vl": "qwen2vl",
}
"""Names that Ollama's own engine writes (its `model/models`, `model.Register`, 2026-11), and
llama.cpp's name of the same architecture."""

_SPEECH = "dia kokoro outetts-vocoder parakeet parler-tts whisper"

UPGRADE = "pip install --upgrade localllm"
"""Not llama.cpp alone: another commit may have another interface."""

_MAX_SHOWN = 40


def is_image_model(architecture: str) -> bool:
    """Tell whether an architecture draws pictures or videos."""
    return architecture in _PICTURES.split()


def remedy_for(architecture: str) -> str:
    """Say what helps with an architecture that the installed llama.cpp does not know."""
    if is_image_model(architecture):
        return (
            "It is an image or video model (diffusion), which llama.cpp does not run. Use a program"
            " made for it, such as stable-diffusion.cpp or ComfyUI."
        )
    if architecture in _SPEECH.split():
        return "It is a model of speech or sound, which llama.cpp does not run."
    if architecture in _OLLAMA:
        name = _OLLAMA[architecture]
        called = f" (where the architecture is called {name})" if name is not None else ""
        return (
            "The file was written for Ollama's own engine. Take one of the same model that was"
            f" converted for llama.cpp{called}; `localllm search NAME` finds some."
        )
    return (
        f"A newer llama.cpp may know it: {UPGRADE}. Otherwise take another model; "
        "`localllm suggest` lists some."
    )


def unknown_architecture(architecture: str, library: str) -> str:
    """Say that the installed llama.cpp cannot run an architecture, and what would help.

    `library` names what is installed ("llama-cpp-python 0.3.36").
    """
    shown = single_line(architecture)[:_MAX_SHOWN]
    return (
        f"the installed llama.cpp ({library}) does not know the architecture {shown!r}. "
        f"{remedy_for(architecture)}"
    )
