"""Which element type each tensor gets in each quant mix.

A label such as "Q4_K_M" is a recipe, not a type: some layers of some matrices get more bits.
The recipes here are those of `llama_tensor_get_type_impl`, `tensor_type_fallback` and
`tensor_allows_quantization` in llama.cpp's `src/llama-quant.cpp` (the build that
llama-cpp-python 0.3.36 carries); tests compare them with what that build writes. They let a
model be sized for every quant before any of its files was seen. Publishers who override single
tensors ("UD-" and "_XL" files) follow recipes of their own, which are not known here.
"""

from localllm.core.quant_mix.categories import Category, category, kept
from localllm.core.quant_mix.choice import Choice, Where
from localllm.core.quant_mix.recipes import Recipe, Traits, choose, recipe

__all__ = [
    "Category",
    "Choice",
    "Recipe",
    "Traits",
    "Where",
    "category",
    "choose",
    "kept",
    "recipe",
]
