# ruff: noqa: RUF001  # letters of formulas are what they look like
r"""LaTeX formulas in characters that a terminal has: `\frac{a}{b}` as a/b, `x^2` as x².

This is no typesetting. What is not known stays as it was written.
"""

import re


def _table(text: str) -> dict[str, str]:
    """Read names, each with what it stands for behind it."""
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


_SUPERSCRIPTS = dict(
    zip("0123456789+-=()nixyabcdefghjklmoprstuvwz",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷᶻ", strict=True)
)  # fmt: skip
_SUBSCRIPTS = dict(
    zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True)
)
_SYMBOLS = _table("""
    alpha α beta β gamma γ delta δ epsilon ε varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι
    kappa κ lambda λ mu μ nu ν xi ξ pi π varpi ϖ rho ρ sigma σ varsigma ς tau τ upsilon υ phi φ
    varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ
    Phi Φ Psi Ψ Omega Ω times × div ÷ cdot · pm ± mp ∓ ast ∗ star ⋆ circ ∘ bullet • oplus ⊕
    otimes ⊗ leq ≤ le ≤ geq ≥ ge ≥ neq ≠ ne ≠ approx ≈ equiv ≡ sim ∼ simeq ≃ cong ≅ propto ∝
    ll ≪ gg ≫ infty ∞ partial ∂ nabla ∇ sum ∑ prod ∏ int ∫ iint ∬ oint ∮ forall ∀ exists ∃
    nexists ∄ in ∈ notin ∉ ni ∋ subset ⊂ subseteq ⊆ supset ⊃ supseteq ⊇ cup ∪ cap ∩ setminus ∖
    emptyset ∅ varnothing ∅ land ∧ wedge ∧ lor ∨ vee ∨ neg ¬ lnot ¬ to → rightarrow →
    leftarrow ← leftrightarrow ↔ Rightarrow ⇒ implies ⇒ Leftarrow ⇐ Leftrightarrow ⇔ iff ⇔
    mapsto ↦ uparrow ↑ downarrow ↓ ldots … cdots ⋯ vdots ⋮ dots … hbar ℏ ell ℓ Re ℜ Im ℑ
    angle ∠ degree ° prime ′ perp ⊥ parallel ∥ mid | langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋
    lceil ⌈ rceil ⌉ lVert ‖ rVert ‖ Vert ‖ lvert | rvert | therefore ∴ because ∵ dagger †
    aleph ℵ
    sin sin cos cos tan tan cot cot sec sec csc csc arcsin arcsin arccos arccos arctan arctan
    sinh sinh cosh cosh tanh tanh log log ln ln lg lg exp exp lim lim max max min min sup sup
    inf inf det det dim dim ker ker gcd gcd deg deg arg arg mod mod Pr Pr
""") | dict.fromkeys(
    ("left", "right", "big", "Big", "bigg", "Bigg", "displaystyle", "limits", "nolimits"), ""
) | {"quad": "  ", "qquad": "    "}  # fmt: skip
_ESCAPED = {",": " ", ";": " ", ":": " ", "!": "", " ": " ", "\\": "\n", "|": "‖"}
_BLACKBOARD = _table("C ℂ H ℍ N ℕ P ℙ Q ℚ R ℝ Z ℤ E 𝔼")
_TRANSPARENT = frozenset(
    ("text", "textbf", "textit", "textrm", "mathrm", "mathbf", "mathit", "mathsf", "mathtt",
     "mathcal", "mathfrak", "operatorname", "boldsymbol", "bm", "mbox", "boxed", "underline",
     "overline", "tag", "substack")
)  # fmt: skip
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "vec": "\u20d7", "dot": "\u0307", "ddot": "\u0308",
            "tilde": "\u0303"}  # fmt: skip
_TOKEN = re.compile(r"\\([a-zA-Z]+)|\\(.)|([{}^_&])|\n|\s+|[^\\{}^_&\s]", re.DOTALL)
_MAX_DEPTH = 20


def readable(formula: str) -> str:
    """Write a formula in Unicode characters, without blanks at the ends."""
    lines = (" ".join(line.split()) for line in _Parser(formula).text(0).split("\n"))
    return "\n".join(line for line in lines if line) or formula


class _Parser:
    """Reads a formula token by token. `_at` is where the next one begins."""

    def __init__(self, formula: str) -> None:
        self._tokens = list(_TOKEN.finditer(formula.strip()))
        self._at = 0

    def text(self, depth: int, *, until_brace: bool = False) -> str:
        """Read up to the end, or to the brace that closes this group."""
        parts: list[str] = []
        while self._at < len(self._tokens):
            if until_brace and self._tokens[self._at][0] == "}":
                self._at += 1
                break
            parts.append(self._one(depth))
        return "".join(parts)

    def _one(self, depth: int) -> str:
        token = self._tokens[self._at]
        self._at += 1
        name, escaped, structure = token[1], token[2], token[3]
        if name is not None:
            return self._command(name, depth)
        if escaped is not None:
            return _ESCAPED.get(escaped, escaped)
        match structure:
            case "{":
                return self.text(depth + 1, until_brace=True) if depth < _MAX_DEPTH else "{"
            case "}":
                return ""
            case "^":
                return _raised(self._argument(depth), _SUPERSCRIPTS, "^")
            case "_":
                return _raised(self._argument(depth), _SUBSCRIPTS, "_")
            case "&":
                return "  "
        return " " if token[0].isspace() else token[0]

    def _argument(self, depth: int) -> str:
        while self._at < len(self._tokens) and self._tokens[self._at][0].isspace():
            self._at += 1
        return self._one(depth + 1).strip() if self._at < len(self._tokens) else ""

    def _command(self, name: str, depth: int) -> str:
        if name in {"frac", "dfrac", "tfrac"}:
            above, below = self._argument(depth), self._argument(depth)
            return f"{_grouped(above)}/{_grouped(below)}"
        if name == "binom":
            return f"C({self._argument(depth)}, {self._argument(depth)})"
        if name == "sqrt":
            index = self._optional_argument()
            root = _raised(index, _SUPERSCRIPTS, "^") if index else ""
            return f"{root}√{_grouped(self._argument(depth))}"
        if name == "mathbb":
            return "".join(_BLACKBOARD.get(each, each) for each in self._argument(depth))
        if name in _TRANSPARENT:
            return self._argument(depth)
        if name in _ACCENTS:
            base = self._argument(depth)
            return base + _ACCENTS[name] if len(base) == 1 else base
        if name in {"begin", "end"}:
            self._argument(depth)
            return ""
        symbol = _SYMBOLS.get(name)
        return f"\\{name}" if symbol is None else symbol

    def _optional_argument(self) -> str:
        if self._at >= len(self._tokens) or self._tokens[self._at][0] != "[":
            return ""
        parts: list[str] = []
        self._at += 1
        while self._at < len(self._tokens) and (part := self._tokens[self._at][0]) != "]":
            parts.append(part)
            self._at += 1
        self._at += 1
        return "".join(parts)


def _raised(text: str, table: dict[str, str], sign: str) -> str:
    if text and all(each in table for each in text):
        return "".join(table[each] for each in text)
    if text in {"′", "∘", "°", "*"} and sign == "^":
        return "°" if text == "∘" else text
    return f"{sign}{_grouped(text)}"


def _grouped(text: str) -> str:
    """Put what is more than one factor into parentheses."""
    return text if text.isalnum() or len(text) <= 1 else f"({text})"
